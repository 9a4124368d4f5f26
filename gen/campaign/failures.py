"""failures.jsonl: a line for each galaxy that could not be mapped, and why."""

import contextlib
import json
import traceback
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from kinmass.gen.storage import lock
from kinmass.gen.storage.files import append_lines, write_atomically

#: Stands in place of the galaxy's name for a snapshot whose galaxies could not be listed.
UNLISTED = "?"


class Reason(str):
    """Why a galaxy could not be mapped, in a sentence; `traceback` is set only for errors that nobody has foreseen."""

    traceback: str = ""


def unforeseen(path: Path, error: Exception) -> Reason:
    """Make the reason for an error that is not known to come from a file or a setting; with its traceback."""
    error_words = " ".join(f"{type(error).__name__}: {error}".split())
    reason = Reason(
        f"{path}: stopped by {error_words[:300]}, which nothing here foresees: a fault of this program or of a library "
        "rather than of the file; report it with its traceback, which is in failures.jsonl"
    )
    reason.traceback = "".join(traceback.format_exception(error))
    return reason


def line(suite: str, galaxy: str, reason: str) -> dict[str, str]:
    """Make the entry of failures.jsonl for one galaxy; a `Reason` with a traceback brings it along."""
    trace = getattr(reason, "traceback", "")
    return {"suite": suite, "galaxy": galaxy, "reason": str(reason), **({"traceback": trace} if trace else {})}


def noted(out: Path) -> list[dict[str, Any]]:
    """Read the entries that earlier runs have written; a line that a kill cut short is left out."""
    entries = []
    with contextlib.suppress(FileNotFoundError):
        for json_line in (out / "failures.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entries.append(json.loads(json_line))
    return [entry for entry in entries if isinstance(entry, dict) and {"suite", "galaxy"} <= entry.keys()]


def _lock_failures(out: Path) -> AbstractContextManager[lock.Lock]:
    """Lock failures.jsonl: other jobs may map other suites into the same store at the same time. Raises Busy."""
    return lock.hold(out / ".locks" / "failures.jsonl", f"{out / 'failures.jsonl'}", patience_s=120)


def add(out: Path, lines: list[dict[str, str]]) -> None:
    """Append these entries to failures.jsonl. Raises Busy where another job holds it for two minutes."""
    with _lock_failures(out):
        append_lines(out / "failures.jsonl", map(json.dumps, lines))


def replace_all(out: Path, suites: set[str], lines: list[dict[str, str]]) -> None:
    """Replace all entries of some suites by these; entries of other suites stay. Raises Busy as `add` does."""
    with _lock_failures(out):
        lines = lines + [entry for entry in noted(out) if entry["suite"] not in suites]
        ordered = sorted(lines, key=lambda entry: (entry["suite"], entry["galaxy"]))
        write_atomically(out / "failures.jsonl", "".join(json.dumps(entry) + "\n" for entry in ordered))
