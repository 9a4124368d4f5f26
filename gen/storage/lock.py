"""A lock for one writer at a time; it names its owner, and a killed process does not hold it for ever.

On many network file systems `flock` does not reach beyond a node, so a lock is a file that only one process can create
(a hard link, or O_EXCL), with its owner's host, process and Slurm job in it. A thread of the owner touches the file:
its age, by the file system's own clock, tells whether an owner on another machine lives. On this machine the table of
processes tells.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from kinmass.gen.code import command_line
from kinmass.gen.storage.store import StoreError

#: How often an owner touches its lock, and after how long without that one on another machine counts as dead [s]:
#: long calls into libraries, a file system that hangs and an index being made may delay the thread that touches it.
BEAT_S, STALE_S = 15.0, 300.0
#: How long to wait for an owner that lives [s]: enough for a plan or an entry of failures.jsonl, not for a campaign.
PATIENCE_S = 5.0
_POLL_S = 0.1
#: How long to try to make the lock's folder, which others remove as they end [s].
MAKING_S = 2.0


class Busy(StoreError):
    """Another process holds the lock; the message names it."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, as JSON in its file.

    machine: this boot of the host and its process namespace; began: start of the process in ticks since boot.
    """

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
        if not self.token:
            return "a process whose name in the lock cannot be read"
        job = f" of Slurm's job {self.job}" if self.job else ""
        return f"process {self.pid}{job} on {self.host}, since {self.since} (`{self.command[:300]}`)"


class Lock:
    """A lock that is held. `check` raises Busy when another process has taken it over."""

    def __init__(self, path: Path, owner: Owner):
        self.path, self.owner = path, owner
        self._end = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._keep_touching, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise Busy when another process has taken the lock over, because it took this one for dead."""
        if self._lost:
            raise Busy(
                f"{self.path}: taken over by {_read(self.path) or 'somebody who removed it'}; this run ends, "
                "give its command again when that has ended"
            )

    def release(self) -> None:
        """Stop touching the lock, and remove it if it is still this process's."""
        self._end.set()
        self._thread.join()
        if (current := _read(self.path)) and current.token == self.owner.token:
            self.path.unlink(missing_ok=True)

    def _keep_touching(self) -> None:
        while not self._end.wait(BEAT_S):
            with contextlib.suppress(OSError):  # the file system does not answer now: try at the next beat
                current = _read(self.path)
                if current is None or current.token != self.owner.token:
                    self._lost = True
                    return
                os.utime(self.path)


@contextlib.contextmanager
def hold(path: Path, subject: str, patience_s: float = PATIENCE_S) -> Iterator[Lock]:
    """Hold the lock file `path` while the block runs; it is removed afterwards, with the folders made for it if empty.

    subject: what is locked, for messages. Waits for an owner that may be about to release the lock,
    or that may be dead; takes over from one that is dead. Raises Busy, naming the owner, when it
    lives and holds the lock for longer than patience_s.
    """
    missing_folders = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
    lock = Lock(path, _take(path, subject, patience_s))
    try:
        for leftover in path.parent.glob(f".{path.name}.*.partial"):  # left by killed processes
            leftover.unlink(missing_ok=True)
        yield lock
    finally:
        lock.release()
        for folder in dict.fromkeys((path.parent, *missing_folders)):
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _take(path: Path, subject: str, patience_s: float) -> Owner:
    me, start_s, is_announced, watch = _myself(), time.monotonic(), False, _Watch()
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError):  # another process has just removed the empty folder
            # Or it can never be made: in place of one above it there is a link to nothing.
            if (path.parent.exists() and not path.parent.is_dir()) or time.monotonic() - start_s > MAKING_S:
                raise
            continue
        if (now_s := _create(path, me)) is None:
            return me
        owner, silent_s = _read(path), watch.silent_s(path, now_s)
        if owner is None:
            continue
        if _is_dead(owner, me, silent_s):
            if _take_over(path, owner, me):
                return me
            continue
        may_be_dead = owner.machine != me.machine and (silent_s > 3 * BEAT_S or watch.is_ahead)
        if time.monotonic() - start_s > patience_s and not may_be_dead:
            raise Busy(
                f"{subject} is being written by {owner}; wait until that has ended, or end it, and give the same "
                "command again"
            )
        if may_be_dead and not is_announced:
            silence = f"silent for {silent_s:.0f} s; after {STALE_S:.0f} s it counts as dead"
            print(f"{subject} is being written by {owner}, {silence}", file=sys.stderr, flush=True)
            is_announced = True
        time.sleep(_POLL_S)


class _Watch:
    """How long an owner is silent, also where the time of its lock lies in the future, as after a clock was set back.

    Such a lock does not grow old until its owner touches it again. So what counts is for how long it was not touched
    while this process looked on.
    """

    def __init__(self) -> None:
        self.is_ahead = False
        self._written_s, self._since_s = float("nan"), 0.0

    def silent_s(self, path: Path, now_s: float) -> float:
        """Return for how long the owner of a lock was not heard of [s]; now_s is the file system's time [s]."""
        silent_s = _silent_s(path, now_s)
        self.is_ahead = silent_s < -BEAT_S
        if not self.is_ahead:
            return silent_s
        if round(now_s - silent_s, 3) != self._written_s:
            self._written_s, self._since_s = round(now_s - silent_s, 3), time.monotonic()
        return time.monotonic() - self._since_s


def _create(path: Path, owner: Owner) -> float | None:
    """Create a lock with its owner in it. Returns None, or where the lock exists already the file system's time [s].

    NaN stands for a time that is not known.
    """
    aside = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    content = json.dumps(asdict(owner))
    try:
        aside.write_text(content)
        now_s = aside.stat().st_mtime
        try:
            os.link(aside, path)
            return None
        except FileExistsError:
            # Over NFS an answer may be lost and the call repeated: the number of links tells whether it worked.
            return None if aside.stat().st_nlink == 2 else now_s
        except FileNotFoundError:
            raise
        except OSError:  # no hard links here
            with open(path, "x") as file:
                file.write(content)
            return None
    except FileExistsError:
        return now_s
    except FileNotFoundError:  # whoever got or released the lock has removed the partial file
        return float("nan")
    finally:
        aside.unlink(missing_ok=True)


def _take_over(path: Path, dead: Owner, me: Owner) -> bool:
    """Try to take a dead owner's place, as the only one of all that wait; returns whether that worked."""
    claim = path.with_name(f"{path.name}.{dead.token}.claim")
    if (now_s := _create(claim, me)) is not None:
        rival = _read(claim)
        if rival and _is_dead(rival, me, _silent_s(claim, now_s)):
            claim.unlink(missing_ok=True)
        time.sleep(_POLL_S)
        return False
    try:
        # While this process holds the claim nobody else replaces the dead owner's lock; one may have done so before.
        if _read(path) != dead:
            return False
        aside = path.with_name(f".{path.name}.{uuid4().hex}.partial")
        aside.write_text(json.dumps(asdict(me)))
        os.replace(aside, path)
        return True
    finally:
        claim.unlink(missing_ok=True)


def _read(path: Path) -> Owner | None:
    """Read a lock's owner: None when there is no lock, Owner() where it cannot be read (it is just being written)."""
    try:
        return Owner(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Owner()


def _silent_s(path: Path, now_s: float) -> float:
    with contextlib.suppress(FileNotFoundError):
        return now_s - path.stat().st_mtime
    return 0.0


def _is_dead(owner: Owner, me: Owner, silent_s: float) -> bool:
    """Whether an owner is dead: its process here is gone, its job was restarted, or it is silent on another machine."""
    if owner.machine and owner.machine == me.machine:
        return began(owner.pid) != owner.began
    if owner.job and owner.job == me.job and owner.restarts < me.restarts:
        return True
    return silent_s > STALE_S


def _myself() -> Owner:
    machine = [socket.gethostname()]
    with contextlib.suppress(OSError):  # two nodes may have the same name, and two containers the same node
        machine += [boot_id(), os.readlink("/proc/self/ns/pid")]
    job = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return Owner(
        machine[0], " ".join(machine), os.getpid(), began(os.getpid()) or "",
        "_".join(job) if all(job) else os.environ.get("SLURM_JOB_ID", ""), int(restarts) if restarts.isdecimal() else 0,
        command_line(), datetime.now(UTC).isoformat(timespec="seconds"), uuid4().hex,
    )  # fmt: skip


def boot_id() -> str:
    """Return the number that the kernel drew when this machine was last started, "" where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def began(pid: int) -> str | None:
    """Return the start of a process of this machine, in ticks since boot; None when it does not run.

    "" for a process that runs on a system that does not tell its start (without /proc). A killed process that its
    parent has not yet waited for (a zombie) does not count as running.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if words[0] in "ZX" else words[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    try:  # a system without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
