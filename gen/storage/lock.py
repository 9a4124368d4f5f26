"""One writer at a time: a lock that tells who holds it, and that a killed process does not hold for ever.

`flock` reaches no further than a node on many network file systems, so a lock is a file that only one process can
create (a hard link, or O_EXCL), with its owner's host, process and Slurm job in it. A thread touches it: its age, by
the file system's own clock, says whether an owner on another machine lives; on this machine the process itself says.
"""

import contextlib
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from kinmass.gen.storage.store import StoreError

#: How often an owner shows that it lives, and how long one of another machine is silent before it counts as dead [s].
#: Long calls into libraries, a file system that hangs and an index being made may keep the thread from its beat.
BEAT_S, STALE_S = 15.0, 300.0
#: How long to wait for an owner that lives [s]: what is planned or noted is done by then, a campaign is not.
PATIENCE_S = 5.0
_POLL_S = 0.1


class Busy(StoreError):
    """What is asked for is being written by another process; the message says by which."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. machine: this boot of this host, as processes see it; began: of the process, in its clock."""

    host: str = "?"
    machine: str = ""
    pid: int = 0
    began: str = ""
    job: str = ""
    restarts: int = 0
    command: str = "?"
    since: str = "?"
    token: str = ""

    def __str__(self) -> str:
        job = f" of Slurm's job {self.job}" if self.job else ""
        return f"process {self.pid}{job} on {self.host}, since {self.since} (`{self.command[:300]}`)"


class Lock:
    """A lock that is held. `check` raises Busy when another process has taken it over."""

    def __init__(self, path: Path, owner: Owner):
        self.path, self.owner = path, owner
        self._end = threading.Event()
        self._lost = False
        self._beat = threading.Thread(target=self._show, daemon=True)
        self._beat.start()

    def check(self) -> None:
        """Raises Busy when another process has taken this one for dead and has taken the lock over."""
        if self._lost:
            raise Busy(f"{self.path}: taken over by {_read(self.path) or 'somebody who removed it'}; this run ends")

    def release(self) -> None:
        """Let go of it."""
        self._end.set()
        self._beat.join()
        if (now := _read(self.path)) and now.token == self.owner.token:
            self.path.unlink(missing_ok=True)

    def _show(self) -> None:
        while not self._end.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a file system that does not answer: next time
                now = _read(self.path)
                if now is None or now.token != self.owner.token:
                    self._lost = True
                    return
                os.utime(self.path)


@contextlib.contextmanager
def hold(path: Path, what: str, patience_s: float = PATIENCE_S) -> Iterator[Lock]:
    """Hold the lock `path` on `what` while the block runs; nothing is left of it, nor of empty folders made for it.

    Waits for an owner that is about to let go, or that may be dead; takes over from one that is.
    Raises Busy, naming the owner, when it lives and goes on for longer than patience_s.
    """
    made = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
    lock = Lock(path, _take(path, what, patience_s))
    try:
        for left in path.parent.glob(f".{path.name}.*.partial"):  # of killed processes
            left.unlink(missing_ok=True)
        yield lock
    finally:
        lock.release()
        for folder in dict.fromkeys((path.parent, *made)):
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()


def _take(path: Path, what: str, patience_s: float) -> Owner:
    me, began, told = _myself(), time.monotonic(), False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError):  # another process has just removed it, empty
            if path.parent.exists() and not path.parent.is_dir():
                raise
            continue
        if (now := _create(path, me)) is None:
            return me
        owner, silent_s = _read(path), _silent_s(path, now)
        if owner is None:
            continue
        if _is_dead(owner, me, silent_s):
            if _take_over(path, owner, me):
                return me
            continue
        perhaps = owner.machine != me.machine and silent_s > 3 * BEAT_S
        if time.monotonic() - began > patience_s and not perhaps:
            raise Busy(
                f"{what} is being written by {owner}; wait until that has ended, or end it, and give the same command "
                "again"
            )
        if perhaps and not told:
            said = f"silent for {silent_s:.0f} s; after {STALE_S:.0f} s it counts as dead"
            print(f"{what} is being written by {owner}, {said}", file=sys.stderr, flush=True)
            told = True
        time.sleep(_POLL_S)


def _create(path: Path, owner: Owner) -> float | None:
    """Create a lock with its owner in it: None; or the file system's time [s] when that failed (NaN: not known)."""
    aside = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    content = json.dumps(asdict(owner))
    try:
        aside.write_text(content)
        now = aside.stat().st_mtime
        try:
            os.link(aside, path)
            return None
        except FileExistsError:
            # Over NFS an answer may be lost and the call repeated: the number of names tells.
            return None if aside.stat().st_nlink == 2 else now
        except FileNotFoundError:
            raise
        except OSError:  # no hard links here
            with open(path, "x") as file:
                file.write(content)
            return None
    except FileExistsError:
        return now
    except FileNotFoundError:  # who got the lock, or let go of it, has cleared up
        return float("nan")
    finally:
        aside.unlink(missing_ok=True)


def _take_over(path: Path, dead: Owner, me: Owner) -> bool:
    """Put this process in a dead owner's place, as the only one of those that wait; whether that worked."""
    claim = path.with_name(f"{path.name}.{dead.token}.claim")
    if (now := _create(claim, me)) is not None:
        rival = _read(claim)
        if rival and _is_dead(rival, me, _silent_s(claim, now)):
            claim.unlink(missing_ok=True)
        time.sleep(_POLL_S)
        return False
    try:
        # As long as the claim is held nobody else replaces the dead owner's lock; it may have been before.
        if _read(path) != dead:
            return False
        aside = path.with_name(f".{path.name}.{uuid4().hex}.partial")
        aside.write_text(json.dumps(asdict(me)))
        os.replace(aside, path)
        return True
    finally:
        claim.unlink(missing_ok=True)


def _read(path: Path) -> Owner | None:
    """A lock's owner, None when there is no lock; nobody known where it cannot be read (one is just being written)."""
    try:
        return Owner(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Owner()


def _silent_s(path: Path, now: float) -> float:
    with contextlib.suppress(FileNotFoundError):
        return now - path.stat().st_mtime
    return 0.0


def _is_dead(owner: Owner, me: Owner, silent_s: float) -> bool:
    """Whether an owner is known to be gone: its process, when it ran here; else its job's last start, or by silence."""
    if owner.machine and owner.machine == me.machine:
        return _began(owner.pid) != owner.began
    if owner.job and owner.job == me.job and owner.restarts < me.restarts:
        return True
    return silent_s > STALE_S


def _myself() -> Owner:
    machine = [socket.gethostname()]
    with contextlib.suppress(OSError):  # two nodes may share a name, and two containers a node
        machine += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    job = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return Owner(
        machine[0], " ".join(machine), os.getpid(), _began(os.getpid()) or "",
        "_".join(job) if all(job) else os.environ.get("SLURM_JOB_ID", ""), int(restarts) if restarts.isdigit() else 0,
        shlex.join(sys.orig_argv), datetime.now(UTC).isoformat(timespec="seconds"), uuid4().hex,
    )  # fmt: skip


def _began(pid: int) -> str | None:
    """When a process of this machine was started, in ticks since boot; None when it does not run.

    Numbers of processes are given out again, hence the time. A killed process whose parent has not
    looked is one no more.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if words[0] in "ZX" else words[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    try:  # a system without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
