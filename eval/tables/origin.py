"""What tables were made from: the store, the part of its split, the runs with their weights, and the code."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kinmass.eval.tables.tasks import digest_of_files
from kinmass.gen.code import provenance, version_of
from kinmass.gen.storage.store import StoreError
from kinmass.train.run.checkpoint import RunError, weights_of
from kinmass.train.run.trained_on import maps_changed


def origin_of(store: Path, runs: Sequence[Path], part: str | None, maps: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tables of these runs on a part of a store (None: on all of it) are made from now. Raises RunError.

    maps: what `store_identity` said of the store before its galaxies were read.
    """
    made_by = provenance()
    made_by["versions"] |= {name: version_of(name) for name in ("torch", "zuko", "dask")}
    paths = {str(run.absolute()): run for run in runs}
    return {
        "store": str(store.absolute()), "runs": list(paths), "part": part or "all", **made_by,
        "weights": {path: weights_of(run) for path, run in paths.items()},
        "files": {path: digest_of_files(run) for path, run in paths.items()},
        "maps": dict(maps),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }  # fmt: skip


def digest_of_file(path: Path) -> str:
    """Return a digest of a file's content."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def read_origin(path: Path, table: Path) -> dict[str, Any]:
    """Return the content of the JSON file that says what a table was made from; {} where it does not tell of it."""
    try:
        content = json.loads(path.read_text())
        is_of_table = content["digests"][table.stem] == digest_of_file(table)
        return content if is_of_table and {"store", "runs", "part", "weights", "date"} <= content.keys() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def changed_since(origin: Mapping[str, Any]) -> list[str]:
    """Return sentences where runs or maps are no longer what tables with this origin were made of.

    Nothing is said of a store or of runs that are not there any more.
    """
    changed, lines = [], []
    for path, files in origin.get("files", {}).items():
        with contextlib.suppress(RunError, OSError):  # moved or removed: nothing is known of it
            changed += [path] if digest_of_files(Path(path)) != files else []
    made = f"These tables, of {origin.get('date', 'before')}, are of"
    if changed:
        lines.append(
            f"{made} runs that were trained or calibrated anew since: {', '.join(changed)}; give the `kinmass tables` "
            "command again."
        )
    with contextlib.suppress(StoreError, OSError):
        if words := maps_changed(Path(origin["store"]), origin.get("maps", {})):
            lines.append(
                f"{made} other maps than {origin['store']} has now: {', '.join(words)}; give the `kinmass tables` "
                "command again."
            )
    return lines


def differences(of_table: Mapping[str, Any], of_others: Mapping[str, Any]) -> list[str]:
    """Return in words in what a table was made from something else than others that it is shown with.

    It may be of some of their runs only. Runs are told by their weights, wherever they lie; those of the same weights
    may have been calibrated anew, or widened, in between.
    """
    known = list(of_others.get("weights", {}).values())
    others = [path for path, weights in of_table["weights"].items() if weights not in known]
    words = [f"the {key} {of_table[key]}" for key in ("store", "part") if of_table[key] != of_others[key]]
    words += [f"{', '.join(others)}, with other weights"] if others else []
    files = of_others.get("files", {}).values()
    calibrated = [path for path, own in of_table.get("files", {}).items() if path not in others and own not in files]
    words += [f"{', '.join(calibrated)}, as calibrated at another time"] if calibrated and files else []
    one, other = of_table.get("maps", {}), of_others.get("maps", {})
    # What an earlier version did not keep yet cannot be compared.
    pairs = {suite: (one[suite], other[suite]) for suite in one if suite in other}
    changed = [suite for suite, (a, b) in pairs.items() if any(a[key] != b[key] for key in a.keys() & b.keys())]
    return words + ([f"other maps, or more or fewer, of {', '.join(changed)}"] if changed else [])
