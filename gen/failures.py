"""failures.jsonl: a line for each galaxy that could not be mapped, and why."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

from gen.files import append_lines, write_atomically


def noted(out: Path) -> list[dict[str, str]]:
    """What earlier runs have noted, line by line; a line cut short by a kill is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (out / "failures.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


@contextlib.contextmanager
def to_oneself(out: Path) -> Iterator[None]:
    """No other job that maps other suites into the same store writes failures.jsonl meanwhile."""
    with open(out / ".failures.lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: nothing better to be had
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def add(out: Path, lines: list[dict[str, str]]) -> None:
    """Note these lines behind the others."""
    with to_oneself(out):
        append_lines(out / "failures.jsonl", map(json.dumps, lines))


def replace_all(out: Path, suites: set[str], lines: list[dict[str, str]]) -> None:
    """Put these lines in the place of those that there were of some suites."""
    with to_oneself(out):
        lines = lines + [line for line in noted(out) if line["suite"] not in suites]
        ordered = sorted(lines, key=lambda line: (line["suite"], line["galaxy"]))
        write_atomically(out / "failures.jsonl", "".join(json.dumps(line) + "\n" for line in ordered))
