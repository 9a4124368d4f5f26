"""Which galaxies a run was trained on, by what its run.json keeps of the store, so that no others take their place.

Stores of one name may hold other galaxies, and galaxies of one name may be others: snapshots of most simulations are
numbered alike. So a few sizes are kept beside the names.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kinmass.gen.storage import store
from kinmass.train.run.checkpoint import RunError, read_config
from kinmass.train.run.records import RunRecord, SuiteIdentity

#: Galaxies of each suite whose R_e is kept, at most.
SIZES = 16
#: The share by which R_e may differ: more than the rounding of another processor or a newer version makes.
_SIZE_TOLERANCE = 0.01


def store_identity(path: Path, suites: Sequence[str]) -> dict[str, SuiteIdentity]:
    """Return what identifies a store wherever it lies: per suite its schema, settings, galaxies, and sizes of some.

    Raises StoreError for a store or suite that cannot be opened.
    """
    identity = {}
    for suite in suites:
        group = store.open_suite(path, suite)
        names = group["galaxy"][:]
        done = np.flatnonzero(store.read_status(group) == store.DONE)
        some = done[np.unique(np.linspace(0, len(done) - 1, min(len(done), SIZES)).astype(int))]
        sizes = store.read(group, "half_mass_radius", some)[:, 0] if len(some) else ()
        identity[suite] = {
            "schema_version": group.attrs["schema_version"],
            "config": group.attrs["config"],
            "galaxies": len(names),
            "names": _digest(names),
            "sizes": {str(number): float(size) for number, size in zip(some, sizes, strict=True)},
        }
    return json.loads(json.dumps(identity))  # type: ignore[no-any-return]


def _digest(names: np.ndarray) -> str:
    return hashlib.blake2b("\0".join(map(str, names)).encode(), digest_size=8).hexdigest()


def difference(name: str, earlier: object, requested: object) -> str:
    """Return in words that something is not what it was."""
    return f"{name} ({earlier} there, {requested} asked for)"


def store_differences(path: Path, earlier: Mapping[str, SuiteIdentity]) -> list[str]:
    """Describe how the store at `path` differs from the one that a run was trained on (`earlier`).

    Galaxies that were added at the end make no difference. Returns one text per difference, empty for none. Raises
    StoreError for a store that cannot be opened.
    """
    words = []
    for suite, earlier_suite in earlier.items():
        group = store.open_suite(path, suite)
        names, config = group["galaxy"][:], group.attrs["config"]
        pairs = {"schema": (earlier_suite["schema_version"], group.attrs["schema_version"])} | {
            key: (earlier_suite["config"].get(key), config.get(key))
            for key in sorted(earlier_suite["config"].keys() | config.keys())
        }
        words += [
            difference(f"{key} of {suite}", earlier_value, current_value)
            for key, (earlier_value, current_value) in pairs.items()
            if earlier_value != current_value
        ]
        if _digest(names[: earlier_suite["galaxies"]]) != earlier_suite["names"]:
            words.append(difference(f"list of galaxies of {suite}", earlier_suite["galaxies"], len(names)))
            continue
        words += _other_sizes(group, names, earlier_suite.get("sizes", {}))
    return words


def _other_sizes(group: object, names: np.ndarray, earlier_sizes: Mapping[str, float]) -> list[str]:
    """Return a text for the first galaxy that is another, by its size, than the one that had its name earlier."""
    numbers = np.array([int(number) for number in earlier_sizes], dtype=int)
    if not len(numbers):
        return []
    numbers = numbers[store.read_status(group)[numbers] == store.DONE]
    sizes = store.read(group, "half_mass_radius", numbers)[:, 0] if len(numbers) else ()
    for number, size in zip(numbers, sizes, strict=True):
        earlier_size = earlier_sizes[str(number)]
        if not _is_same_size(earlier_size, size):
            return [difference(f"R_e of {names[number]}", f"{earlier_size:.4g} kpc", f"{size:.4g} kpc")]
    return []


def _is_same_size(earlier_kpc: float, later_kpc: float) -> bool:
    return abs(later_kpc - earlier_kpc) <= _SIZE_TOLERANCE * abs(earlier_kpc)


def require_store(run: Path, path: Path) -> None:
    """Raise RunError unless the store at `path` has the galaxies that a run, or an ensemble, was trained on."""
    if different := store_differences(path, read_config(run)["store"]):
        raise RunError(
            f"{run} was trained on another store than {path}: {', '.join(different)}; give the --store that it was "
            "trained on"
        )


def same_galaxies(one: RunRecord, other: RunRecord) -> bool:
    """Whether two runs were trained on the same galaxies, as far as their run.json tells."""
    counts = [{key: run["training"].get(key) for key in ("views", "galaxies")} for run in (one, other)]
    return counts[0] == counts[1] and same_suites(one, other)


def same_suites(one: RunRecord, other: RunRecord) -> bool:
    """Whether the suites of two runs are of one store, which may have had more galaxies for the second of them."""
    if one["store"].keys() != other["store"].keys():
        return False
    for suite, a in one["store"].items():
        b = other["store"][suite]
        if (a["schema_version"], a["config"]) != (b["schema_version"], b["config"]):
            return False
        if a["galaxies"] == b["galaxies"] and a["names"] != b["names"]:
            return False
        sizes, other_sizes = a.get("sizes", {}), b.get("sizes", {})
        if not all(_is_same_size(sizes[number], other_sizes[number]) for number in sizes.keys() & other_sizes.keys()):
            return False
    return True
