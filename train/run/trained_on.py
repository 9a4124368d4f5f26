"""Which galaxies a run was trained on, by what its run.json keeps of the store, so that no others take their place.

Stores of one name may hold other galaxies, and galaxies of one name may be others: snapshots of most simulations are
numbered alike. So a few sizes are kept beside the names.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import zarr

from kinmass.gen.physics.profile import menc_at
from kinmass.gen.storage import changes, store
from kinmass.train.data.dataset import RADII_RE, Views, part_of
from kinmass.train.data.loader import lineage_key
from kinmass.train.run.checkpoint import RunError, instrument_of, members_of, read_config
from kinmass.train.run.records import RunRecord, Seen, SuiteIdentity

#: Galaxies of each suite whose R_e and mass are kept, at most.
SIZES = 16
#: Kept is the mass inside so many R_e.
_REACH_RE = RADII_RE[-1]
#: The share by which R_e or the mass may differ: more than the rounding of another processor or a newer version makes.
_TOLERANCE = 0.01


def store_identity(path: Path, suites: Sequence[str]) -> dict[str, SuiteIdentity]:
    """Return what identifies a store wherever it lies: per suite its schema, settings, galaxies, sizes, masses of some.

    Raises StoreError for a store or suite that cannot be opened.
    """
    identity = {}
    for suite in suites:
        group = store.open_suite(path, suite)
        names = store.read_labels(group, "galaxy")
        done = np.flatnonzero(store.read_status(group) == store.DONE)
        some = done[np.unique(np.linspace(0, len(done) - 1, min(len(done), SIZES)).astype(int))]
        sizes = store.read(group, "half_mass_radius", some)[:, 0].astype(float) if len(some) else np.zeros(0)
        masses = _masses(group, some, sizes)
        identity[suite] = {
            "schema_version": group.attrs["schema_version"],
            "config": group.attrs["config"],
            "galaxies": len(names),
            "names": _digest(names),
            "lineages": _digest(store.read_labels(group, "lineage")),
            "done": len(done),
            "sizes": {str(number): float(size) for number, size in zip(some, sizes, strict=True)},
            "masses": {str(n): float(mass) for n, mass in zip(some, masses, strict=True) if np.isfinite(mass)},
        }
    return json.loads(json.dumps(identity))  # type: ignore[no-any-return]


def _masses(group: zarr.Group, numbers: np.ndarray, sizes_kpc: np.ndarray) -> np.ndarray:
    """Return the total mass (N,) [Msun] of galaxies inside _REACH_RE times these sizes (N,); NaN beyond the truth's."""
    if not len(numbers):
        return np.zeros(0)
    radius, mass = store.read(group, "radius", numbers), store.read(group, "mass", numbers)
    total = mass[:, store.COMPONENTS.index("total")]
    return np.asarray(10 ** menc_at(radius, total, _REACH_RE * sizes_kpc[:, None])[:, 0])


def _digest(names: np.ndarray) -> str:
    return hashlib.blake2b("\0".join(map(str, names)).encode(), digest_size=8).hexdigest()


def difference(name: str, earlier: object, requested: object) -> str:
    """Return in words that something is not what it was."""
    return f"{name} ({earlier} there, {requested} asked for)"


def store_differences(path: Path, earlier: Mapping[str, SuiteIdentity]) -> list[str]:
    """Describe how the store at `path` differs from the one that a run was trained on (`earlier`).

    Galaxies that were added at the end, and settings that only add galaxies, make no difference. Returns one text per
    difference, empty for none. Raises StoreError for a store that cannot be opened.
    """
    words = []
    for suite, earlier_suite in earlier.items():
        group = store.open_suite(path, suite)
        settings = [("schema", earlier_suite["schema_version"], group.attrs["schema_version"])]
        settings = [pair for pair in settings if pair[1] != pair[2]]
        settings += changes.differing(earlier_suite["config"], group.attrs["config"])
        words += [difference(f"{key} of {suite}", before, now) for key, before, now in settings]
        words += _other_galaxies(group, suite, earlier_suite)
    return words


def maps_changed(path: Path, earlier: Mapping[str, SuiteIdentity]) -> list[str]:
    """Describe in what a store has other maps, or more, than when `store_identity` returned `earlier`; empty for none.

    Raises StoreError for a store or suite that cannot be opened.
    """
    return store_differences(path, earlier) or counts_changed(path, earlier)


def counts_changed(path: Path, earlier: Mapping[str, SuiteIdentity]) -> list[str]:
    """Describe of which suites a store has more galaxies, or other numbers of mapped ones, than it had; empty for none.

    earlier: of `store_identity`; one of before mapped galaxies were counted says nothing of these. Raises StoreError
    for a store or suite that cannot be opened.
    """
    words = []
    for suite, before in earlier.items():
        status = store.read_status(store.open_suite(path, suite))
        n_done = int((status == store.DONE).sum())
        counts = ("galaxies", before["galaxies"], len(status)), ("mapped galaxies", before.get("done", n_done), n_done)
        words += [f"{name} of {suite} ({then} there, {now} now)" for name, then, now in counts if then != now]
    return words


def _other_galaxies(group: zarr.Group, suite: str, earlier: SuiteIdentity, same_sides: bool = True) -> list[str]:
    """Return texts for what says that galaxies are others, or split otherwise, than those that a run was trained on.

    same_sides: whether they are seen from the same sides, so that R_e can be compared.
    """
    names, lineages = (store.read_labels(group, name) for name in ("galaxy", "lineage"))
    n_earlier = earlier["galaxies"]
    if _digest(names[:n_earlier]) != earlier["names"]:
        return [difference(f"list of galaxies of {suite}", n_earlier, len(names))]
    if earlier.get("lineages") not in (None, "", _digest(lineages[:n_earlier])):
        return [f"lineages of {suite} (by which galaxies are split)"]
    sizes, masses = earlier.get("sizes", {}), earlier.get("masses", {})
    return (_other_sizes(group, names, sizes) if same_sides else []) or _other_masses(group, names, sizes, masses)


def split_otherwise(path: Path, earlier: Mapping[str, SuiteIdentity]) -> list[str]:
    """Return the suites whose galaxies have the names of those that a run was trained on, and other lineages.

    Raises StoreError for a suite that cannot be opened.
    """
    moved = []
    for suite, before in earlier.items():
        group, n_then = store.open_suite(path, suite), before["galaxies"]
        names, lineages = (_digest(store.read_labels(group, name)[:n_then]) for name in ("galaxy", "lineage"))
        if names == before["names"] and before.get("lineages") not in (None, "", lineages):
            moved.append(suite)
    return moved


#: Settings of which galaxies do not become others: from where they are seen, and what the network sees of them.
_OF_VIEWS = ("views", "seed", "inclination_deg", "pixels", "field_of_view_re", "galaxies_per_shard", "suite.selection")


def unlike_trained_on(runs: Iterable[Path], path: Path, suites: Iterable[str]) -> list[str]:
    """Return a sentence for each suite of a store that has the name of one that runs were trained on, and is another.

    Such a suite counts as known to the run, and is split by its own lineages: galaxies of the run's training may be
    among its test galaxies. Views from other sides make no difference. Raises StoreError, RunError.
    """
    runs_of: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        earlier = read_config(run)["store"]
        for suite in [suite for suite in suites if suite in earlier]:
            group, before = store.open_suite(path, suite), earlier[suite]
            changed = changes.differing(before["config"], group.attrs["config"])
            same_sides = not any(key.startswith(("seed", "inclination_deg")) for key, _, _ in changed)
            words = [difference(*change) for change in changed if not change[0].startswith(_OF_VIEWS)]
            words += _other_galaxies(group, suite, before, same_sides)
            if words:
                runs_of.setdefault((suite, ", ".join(words)), []).append(str(run))
    return [
        f"{path}/{suite} is not the {suite} that {', '.join(named)} saw in training: {words}; by its name it counts as "
        "known, so see that it is the same simulation, and that galaxies are split by the same lineages"
        for (suite, words), named in runs_of.items()
    ]


def _other_sizes(group: zarr.Group, names: np.ndarray, earlier_sizes: Mapping[str, float]) -> list[str]:
    """Return a text for the first galaxy that is another, by its size, than the one that had its name earlier."""
    numbers = _done_among(group, earlier_sizes, len(names))
    sizes = store.read(group, "half_mass_radius", numbers)[:, 0] if len(numbers) else ()
    for number, size in zip(numbers, sizes, strict=True):
        if not _is_alike(earlier := earlier_sizes[str(number)], size):
            return [difference(f"R_e of {names[number]}", f"{earlier:.4g} kpc", f"{size:.4g} kpc")]
    return []


def _other_masses(
    group: zarr.Group, names: np.ndarray, earlier_sizes: Mapping[str, float], earlier_masses: Mapping[str, float]
) -> list[str]:
    """Return a text for the first galaxy whose mass, inside the same radius [kpc], is not what it was earlier.

    So it is where a suite was mapped anew, as after its snapshots or the code were mended: sizes stay as they were.
    """
    numbers = _done_among(group, earlier_masses.keys() & earlier_sizes.keys(), len(names))
    sizes = np.array([earlier_sizes[str(number)] for number in numbers], dtype=float)
    for number, size, mass in zip(numbers, sizes, _masses(group, numbers, sizes), strict=True):
        if np.isfinite(mass) and not _is_alike(earlier := earlier_masses[str(number)], mass):
            inside = f"mass of {names[number]} inside {_REACH_RE * size:.3g} kpc"
            return [difference(inside, f"{earlier:.4g} Msun", f"{mass:.4g} Msun")]
    return []


def _done_among(group: zarr.Group, kept: Iterable[str], n_galaxies: int) -> np.ndarray:
    """Return those (N,) of the numbers of galaxies, which are texts, that a suite of so many has, and that are done."""
    numbers = np.array(sorted(int(number) for number in kept if int(number) < n_galaxies), dtype=int)
    return numbers[store.read_status(group)[numbers] == store.DONE] if len(numbers) else numbers


def _is_alike(earlier: float, later: float) -> bool:
    return abs(later - earlier) <= _TOLERANCE * abs(earlier)


def seen_in_training(run: Path, views: Views) -> np.ndarray:
    """Return (N,) whether a run, or a member of an ensemble, was trained on each view, or began with weights that were.

    By its suites, their split, and its --galaxies and --views. Raises RunError.
    """
    parts = np.array([part_of(str(lineage)) for lineage in views.lineage])
    seen = np.zeros(len(views), dtype=bool)
    for record in map(read_config, members_of(run)):
        of_member = seen_of(record)
        by_member = np.isin(views.suite, record["fit"]["suites"]) & (parts == "train")
        if of_member["views"]:
            by_member &= views.view < of_member["views"]
        if lineages := set(of_member["lineages"]):
            by_member &= np.array([lineage_key(str(name)) in lineages for name in views.lineages()], dtype=bool)
        seen |= by_member
    return seen


def seen_of(run: RunRecord) -> Seen:
    """Return which galaxies a run's weights have seen; of one of before that was kept all that it may have seen."""
    return run.get("seen") or Seen(views=0, lineages=[])


def seen_by_all(several: Sequence[Seen]) -> Seen:
    """Return what one or another of several has seen."""
    views, lineages = [seen["views"] for seen in several], [seen["lineages"] for seen in several]
    all_lineages = sorted(set().union(*lineages)) if all(lineages) else []
    return Seen(views=max(views) if all(views) else 0, lineages=all_lineages)


def require_store(run: Path, path: Path) -> None:
    """Raise RunError unless the store at `path` has the galaxies that a run, or an ensemble, was trained on."""
    if different := store_differences(path, read_config(run)["store"]):
        raise RunError(
            f"{run} was trained on another store than {path}: {', '.join(different)}; give the --store that it was "
            "trained on"
        )


def check_maps(run: Path, path: Path, suite: str) -> None:
    """Raise RunError if a run infers masses at other radii than RADII_RE, or was trained on maps of another size.

    The size of maps is compared as seen through the run's instrument. path, suite: map store and test suite.
    """
    run_config, map_config = read_config(run), store.open_suite(path, suite).attrs["config"]
    if list(run_config["model"]["radii_re"]) != list(RADII_RE):
        raise RunError(
            f"{run} infers masses at the radii {run_config['model']['radii_re']} R_e, this code has them at "
            f"{list(RADII_RE)}; train it again"
        )
    observed_grid = instrument_of(run).grid(map_config["pixels"], map_config["field_of_view_re"])
    for key, in_store in zip(("pixels", "field_of_view_re"), observed_grid, strict=True):
        if run_config["model"][key] != in_store:
            raise RunError(
                f"{run} was trained on maps with {key} = {run_config['model'][key]}, {path}/{suite} has {in_store} "
                "through the same instrument; map the suite with the same settings"
            )


def same_galaxies(one: RunRecord, other: RunRecord) -> bool:
    """Whether two runs were trained on the same galaxies, as far as their run.json tells."""
    counts = [{key: run["training"].get(key) for key in ("views", "galaxies")} for run in (one, other)]
    is_seen_alike = not (one.get("seen") and other.get("seen")) or seen_of(one) == seen_of(other)
    return counts[0] == counts[1] and is_seen_alike and same_suites(one, other)


def same_suites(one: RunRecord, other: RunRecord) -> bool:
    """Whether the suites of two runs are of one store, which may have had more galaxies for the second of them."""
    if one["store"].keys() != other["store"].keys():
        return False
    for suite, a in one["store"].items():
        b = other["store"][suite]
        if (a["schema_version"], a["config"]) != (b["schema_version"], b["config"]):
            return False
        if a["galaxies"] == b["galaxies"]:
            lineages = {a.get("lineages") or b.get("lineages"), b.get("lineages") or a.get("lineages")}
            if a["names"] != b["names"] or len(lineages) > 1:  # lineages say which galaxies are trained on
                return False
        for one_kept, other_kept in (
            (a.get("sizes", {}), b.get("sizes", {})),
            (a.get("masses", {}), b.get("masses", {})),
        ):
            in_both = one_kept.keys() & other_kept.keys()
            if not all(_is_alike(one_kept[number], other_kept[number]) for number in in_both):
                return False
    return True
