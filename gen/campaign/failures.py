"""failures.jsonl: a line for each galaxy that could not be mapped, and why."""

import contextlib
import json
import traceback
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from kinmass.gen.storage import lock
from kinmass.gen.storage.files import append_lines, write_atomically


class Reason(str):
    """Why a galaxy could not be mapped, in a sentence; with the traceback of what nobody has foreseen."""

    traceback: str = ""


def unforeseen(path: Path, error: Exception) -> Reason:
    """The reason for a failure with which no file and no setting is known to have to do."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    reason = Reason(
        f"{path}: stopped by {what[:300]}, which nothing here foresees: a fault of this program or of a library rather "
        "than of the file; its traceback is in failures.jsonl"
    )
    reason.traceback = "".join(traceback.format_exception(error))
    return reason


def line(suite: str, galaxy: str, reason: str) -> dict[str, str]:
    """What failures.jsonl holds of one galaxy."""
    behind = getattr(reason, "traceback", "")
    return {"suite": suite, "galaxy": galaxy, "reason": str(reason), **({"traceback": behind} if behind else {})}


def noted(out: Path) -> list[dict[str, Any]]:
    """What earlier runs have noted, line by line; a line cut short by a kill is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for text in (out / "failures.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(text))
    return [entry for entry in found if isinstance(entry, dict) and {"suite", "galaxy"} <= entry.keys()]


def to_oneself(out: Path) -> AbstractContextManager[lock.Lock]:
    """No other job that maps other suites into the same store writes failures.jsonl meanwhile."""
    return lock.hold(out / ".locks" / "failures.jsonl", f"{out / 'failures.jsonl'}", patience_s=120)


def add(out: Path, lines: list[dict[str, str]]) -> None:
    """Note these lines behind the others."""
    with to_oneself(out):
        append_lines(out / "failures.jsonl", map(json.dumps, lines))


def replace_all(out: Path, suites: set[str], lines: list[dict[str, str]]) -> None:
    """Put these lines in the place of those that there were of some suites."""
    with to_oneself(out):
        lines = lines + [entry for entry in noted(out) if entry["suite"] not in suites]
        ordered = sorted(lines, key=lambda entry: (entry["suite"], entry["galaxy"]))
        write_atomically(out / "failures.jsonl", "".join(json.dumps(entry) + "\n" for entry in ordered))
