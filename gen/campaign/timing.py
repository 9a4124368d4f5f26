"""Where the time of every rank goes: measured by a run while it maps, kept beside the store, told at its end."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kinmass.gen.code import command_line, provenance
from kinmass.gen.storage.files import make_folder, write_atomically
from kinmass.gen.words import counted

#: What a rank does while galaxies are mapped. Loading is of yt, by the rank that planned while others did so; fetching
#: is bytes from the file system, with a place among the readers; reading turns them into particles; framing finds a
#: galaxy's own stars, its motion and its R_e; writing is the wait for what is written meanwhile; "rest" is checks, and
#: what has no other name.
WORK = ("loading", "opening", "fetching", "reading", "framing", "projecting", "writing", "rest")
WAITS = ("waiting to read", "waiting for work", "waiting at the end")


class Clock:
    """Adds up the seconds of a process by stage; a stage inside another stops the outer one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*WORK, *WAITS), 0.0)
        self._stage, self._since = "", time.perf_counter()

    @contextmanager
    def __call__(self, stage: str, before: str = "") -> Iterator[None]:
        """Count the block's seconds as `stage`; those since the last change count as `before`, if it is given."""
        outer = self._stage
        self._count(before or outer)
        self._stage = stage
        try:
            yield
        finally:
            self._count(stage)
            self._stage = outer

    def _count(self, stage: str) -> None:
        now = time.perf_counter()
        if stage:
            self.seconds[stage] += now - self._since
        self._since = now


@dataclass
class RankTiming:
    """What one rank did: its host, its galaxies, the bytes it read from files, and its seconds by stage."""

    rank: int
    host: str
    galaxies: int = 0
    bytes_read: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def bytes_read() -> int:
    """Bytes that this process has read from files so far; 0 where the system does not count them."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("rchar")).split()[1])
    return 0


def process_age_s() -> float:
    """Seconds since this process was started; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return 0.0


def keep(out: Path, ranks: list[RankTiming], phases_s: dict[str, float]) -> Path:
    """Write a run's timing as `out`/.timing/TIME.json; phases_s are the seconds of its phases. Raises OSError."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    content: dict[str, Any] = {"ended": now, "command": command_line(), **provenance(), "phases_s": phases_s}
    content["ranks"] = [asdict(rank) for rank in ranks]
    path = out / ".timing" / f"{now.replace(':', '')}.json"
    make_folder(path.parent)
    write_atomically(path, json.dumps(content, indent=1))
    return path


def told(ranks: list[RankTiming], phases_s: dict[str, float]) -> str:
    """Say in a few lines what the ranks' time went to, as shares of it."""
    total_s = sum(sum(rank.seconds.values()) for rank in ranks)
    n_galaxies, n_bytes = sum(rank.galaxies for rank in ranks), sum(rank.bytes_read for rank in ranks)
    if not (n_galaxies and total_s):
        return ""
    shares = {stage: sum(rank.seconds[stage] for rank in ranks) / total_s for stage in (*WORK, *WAITS)}
    words = ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in shares.items() if share >= 0.005)
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in phases_s.items())
    return (
        f"{phases}; {counted(n_galaxies, 'galaxy', 'galaxies')} by {counted(len(ranks), 'rank')}, "
        f"{1e-9 * n_bytes:.3g} GB read, "
        f"{1e3 * total_s / n_galaxies:.0f} ms of a rank for each\n  {words}"
    )
