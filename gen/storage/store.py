"""The map store: one table says what every array is; writer, readers, tests and docs share it."""

import contextlib
import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from kinmass.gen.code import version_of
from kinmass.gen.physics.profile import N_RADII
from kinmass.gen.physics.projection import CHANNELS
from kinmass.gen.storage import changes, journal
from kinmass.gen.storage.files import make_folder, sync_folder, sync_tree, write_atomically

SCHEMA_VERSION = 3
PENDING, DONE, FAILED = 0, 1, 2
TRACERS = ("stars", "gas")
COMPONENTS = ("total", "dark", "stars", "gas")
#: What the system says when a disk, a quota or a file-size limit is reached.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: A galaxy whose place in its catalogue is further off than this from one run to the next is another one [kpc].
SAME_PLACE_KPC = 0.1


class StoreError(ValueError):
    """A store that is missing, of another schema, or not the one asked for."""


@dataclass(frozen=True)
class Array:
    """One array of a suite's group; every first dimension is the galaxy, one galaxy a chunk."""

    dims: tuple[str, ...]
    dtype: str
    units: str
    meaning: str

    @property
    def fill(self) -> float:
        """What an unwritten chunk reads as: never a value that is written, but for the pending status."""
        return float("nan") if self.dtype.startswith("float") else 0 if self.meaning.startswith("0 pending") else 255


ARRAYS = {
    "maps": Array(
        ("galaxy", "view", "channel", "y", "x"),
        "float32",
        "Msun/kpc2, km/s, km/s, 1",
        "noiseless moments per tracer, weighted by mass or as the config's tracers say: "
        "density, velocity (receding positive), dispersion, count",
    ),
    "sightline": Array(
        ("galaxy", "view", "axis", "xyz"),
        "float64",
        "1",
        "rotation; rows are the map's x, y and the line of sight away from the observer, in simulation axes",
    ),
    "inclination": Array(
        ("galaxy", "view"),
        "float32",
        "deg",
        "angle of the line of sight to the inner stars' angular momentum, 0 face on",
    ),
    "half_mass_radius": Array(
        ("galaxy", "view"), "float32", "kpc", "projected stellar half-mass radius R_e of the view"
    ),
    "pixel_scale": Array(("galaxy", "view"), "float32", "kpc", "side of a pixel"),
    "radius": Array(("galaxy", "radius"), "float64", "kpc", "spherical radii of the mass profile"),
    "mass": Array(("galaxy", "component", "radius"), "float64", "Msun", "mass inside the radius, per component"),
    "centre": Array(("galaxy", "xyz"), "float64", "kpc", "centre in the snapshot's box"),
    "centre_found": Array(
        ("galaxy",), "uint8", "1", "0 where the centre is the catalogue's, 1 where it was found on the galaxy's matter"
    ),
    "bulk_velocity": Array(("galaxy", "xyz"), "float64", "km/s", "the galaxy's own motion, taken out of the maps"),
    "stars_radius": Array(("galaxy",), "float64", "kpc", "where its own stars end; R_e and its motion are theirs"),
    "map_radius": Array(("galaxy",), "float64", "kpc", "maps show the particles within this sphere"),
    "reach": Array(
        ("galaxy",),
        "float64",
        "kpc",
        "farthest particle of any kind in the larger of map_radius and aperture; well inside: the file ends there",
    ),
    "has_gas": Array(("galaxy",), "uint8", "1", "0 for a galaxy without gas: its gas maps are empty"),
    "has_dark": Array(("galaxy",), "uint8", "1", "0 for a galaxy without dark matter: its truth is stars and gas"),
    "status": Array(("galaxy",), "uint8", "1", "0 pending, 1 done, 2 failed (see failures.jsonl)"),
}


def channels() -> list[str]:
    """Names along the channel axis."""
    return [f"{tracer}_{channel}" for tracer in TRACERS for channel in CHANNELS]


def provenance() -> dict[str, Any]:
    """Software versions and git commit, for a store's or a run's attributes."""
    names = ("numpy", "numba", "yt", "zarr", "mpi4py")
    return {"versions": {name: version_of(name) for name in names}, "commit": commit()}


def commit() -> str:
    """The commit that this code is of; unknown where git does not say so in time, or the code is in no clone."""
    here = Path(__file__).resolve().parents[2]  # of a clone, where kinmass/gen is a link to gen
    if not (here / ".git").exists():  # installed: a repository further up is another project's
        return "unknown"
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return git.stdout.strip() or "unknown"
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def create_suite(
    store: Path,
    suite: str,
    galaxies: list[str],
    lineages: list[str],
    config: dict[str, Any],
    centres_kpc: np.ndarray | None = None,
) -> zarr.Group:
    """Create a suite's group with its final shape, or open it to go on with.

    config must hold `views`, `pixels` and `galaxies_per_shard`. lineages names the history each
    galaxy belongs to; centres_kpc (N, 3) is where the catalogue puts it, NaN where it does not say.
    Made aside and renamed, so a group is whole or not there. Galaxies that come to a suite later are
    put behind the others, and settings that only bring more of them are taken over; both at once
    or not at all. What no galaxy is done of is made anew with other settings. Raises StoreError when
    galaxies that are done were made with other settings, or are not those that the suite has now.
    """
    config = json.loads(json.dumps(config))
    path = store / suite
    centres = np.full((len(galaxies), 3), np.nan) if centres_kpc is None else np.asarray(centres_kpc, dtype=float)
    labels = _labels(galaxies, lineages, centres)
    _make_root(store)
    if path.exists():
        group = _open(store, suite)
        refused = changes.refused(group.attrs["config"], config)
        if not refused:
            return _adopted(group, store, suite, labels, config)
        done = int((read_status(group) == DONE).sum())
        if done:
            raise StoreError(
                f"{path} holds {done} galaxies that were made with other settings ({'; '.join(refused)}). Repeat those "
                f"settings, or write to a new --out; to map this suite anew in this store, remove {path} first: "
                "its other suites stay as they are"
            )
        os.rename(path, store / f".{suite}.{uuid4().hex}.partial")
    for left in store.glob(f".{suite}.*.partial"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    aside = store / f".{suite}.{uuid4().hex}.partial"
    sizes = {
        "galaxy": len(galaxies), "view": config["views"], "channel": len(channels()), "axis": 3, "xyz": 3,
        "y": config["pixels"], "x": config["pixels"], "radius": N_RADII, "component": len(COMPONENTS),
    }  # fmt: skip
    attrs = {"schema_version": SCHEMA_VERSION, "suite": suite, "config": config, **provenance(), "runs": []}
    group = zarr.open_group(aside, mode="w", zarr_format=3, attributes=attrs)
    packed = config["galaxies_per_shard"]
    for name, spec in ARRAYS.items():
        shape = tuple(sizes[dim] for dim in spec.dims)
        group.create_array(
            name,
            shape=shape,
            chunks=(1, *shape[1:]),
            shards=(packed, *shape[1:]) if packed > 1 else None,
            dtype=spec.dtype,
            fill_value=spec.fill,
            compressors=(ZstdCodec(level=0), Crc32cCodec()),  # a flipped bit is an error, not a number
            dimension_names=spec.dims,
            attributes={"units": spec.units, "long_name": spec.meaning},
            config={"write_empty_chunks": True},
        )
    _write_labels(group, labels)
    sync_tree(aside)
    try:
        os.rename(aside, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        shutil.rmtree(aside)  # another process was faster: go on with what it made
        return create_suite(store, suite, galaxies, lineages, config, centres_kpc)
    sync_folder(store)
    _forget_consolidated(store)
    return open_suite(store, suite)


def _make_root(store: Path) -> None:
    """Make a store's own group; whoever else does so at the same time writes the same."""
    path = store / "zarr.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        json.loads(path.read_text())
        return
    make_folder(store)
    _write_json(path, {"attributes": {"schema_version": SCHEMA_VERSION}, "zarr_format": 3, "node_type": "group"})


def _forget_consolidated(store: Path) -> None:
    """Remove metadata that somebody has consolidated in a store's own group: they would hide what has changed below."""
    meta = json.loads((store / "zarr.json").read_text())
    if meta.pop("consolidated_metadata", None) is not None:
        _write_json(store / "zarr.json", meta)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2))


def _labels(galaxies: list[str], lineages: list[str], centres_kpc: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "galaxy": np.array(galaxies, dtype=np.dtypes.StringDType()),
        "lineage": np.array(lineages, dtype=np.dtypes.StringDType()),
        "catalogue_centre": centres_kpc,
    }


def _write_labels(group: zarr.Group, labels: dict[str, np.ndarray]) -> None:
    """What tells galaxies apart, each in one chunk: (N,) names and lineages, (N, 3) where the catalogue puts them."""
    fixed = {"channel": channels(), "component": list(COMPONENTS)}
    texts = {name: np.array(words, dtype=np.dtypes.StringDType()) for name, words in fixed.items()}
    for name, values in (labels | texts).items():
        dims = {"lineage": ("galaxy",), "catalogue_centre": ("galaxy", "xyz")}.get(name, (name,))
        about = {"units": "kpc", "long_name": "centre that the catalogue gives"} if values.ndim == 2 else {}
        array = group.create_array(
            name, shape=values.shape, chunks=values.shape, dtype=str if values.ndim == 1 else values.dtype,
            dimension_names=dims, attributes=about, config={"write_empty_chunks": True},
        )  # fmt: skip
        array[:] = values


def _adopted(
    group: zarr.Group, store: Path, suite: str, labels: dict[str, np.ndarray], config: dict[str, Any]
) -> zarr.Group:
    """The group with room for galaxies that were not known when it was made, behind the others, and what is new of all.

    What was never mapped may be missing from labels, which are of the galaxies that the suite has now.
    """
    path = store / suite
    known = _trimmed(group["galaxy"][:].tolist())
    n = len(known)
    # Stores of earlier versions have no catalogue_centre, and may have been killed while they grew.
    there = {name: group[name][:n] if name in group else np.full((n, 3), np.nan) for name in labels}
    torn = any(name not in group or group[name].shape[0] != n for name in (*ARRAYS, *labels))
    place = {name: i for i, name in enumerate(known)}
    wanted = {name: i for i, name in enumerate(labels["galaxy"].tolist())}
    new = [i for name, i in wanted.items() if name not in place]
    both = {name: np.concatenate([there[name], values[new]]) for name, values in labels.items()}
    status = None
    for name, i in place.items():
        mine = None if name not in wanted else {key: values[wanted[name]] for key, values in labels.items()}
        if mine is not None and all(_same(mine[key], there[key][i]) for key in mine):
            continue
        status = read_status(group, unreadable_is_pending=True) if status is None else status
        if status[i] == DONE:
            _refuse_another(path, name, mine, {key: values[i] for key, values in there.items()})
        elif mine is not None:
            for key in mine:
                both[key][i] = mine[key]
    if not new and not torn and all(np.array_equal(both[k], there[k], equal_nan=both[k].ndim == 2) for k in both):
        both = {}
    if both or config != group.attrs["config"]:
        _change(store, suite, both, config)
    return open_suite(store, suite)


def _trimmed(names: list[str]) -> list[str]:
    while names and not names[-1]:
        names = names[:-1]
    return names


def _same(a: Any, b: Any) -> bool:
    """Whether two labels are of one galaxy; a place that is not known on one side is no other place."""
    if isinstance(a, str):
        return bool(a == b)
    return bool(np.isnan(b).all() and np.isnan(a).all()) or bool(np.abs(a - b).max() <= SAME_PLACE_KPC)


def _refuse_another(path: Path, name: str, now: dict[str, Any] | None, was: dict[str, Any]) -> None:
    """Raises StoreError when a galaxy that is done is not the one that the suite has under its name now."""
    remedy = "bring back what was there, or write to a new --out"
    if now is None:
        raise StoreError(
            f"{path} holds other galaxies than the suite has now: {name} is done, and gone from it; {remedy}"
        )
    if now["lineage"] != was["lineage"]:
        raise StoreError(
            f"{path} holds other galaxies than the suite has now: {name} is done as one of the lineage "
            f"{was['lineage']!r}, and is of {now['lineage']!r} now; {remedy}"
        )
    if not np.isnan(now["catalogue_centre"] - was["catalogue_centre"]).any():
        old, new = (", ".join(f"{x:.6g}" for x in where["catalogue_centre"]) for where in (was, now))
        raise StoreError(
            f"{path} holds other galaxies than the suite has now: {name} is done at ({old}) kpc, and the catalogue has "
            f"it at ({new}) now (is it another catalogue, or were its rows sorted and have no ids?); {remedy}"
        )


def _change(store: Path, suite: str, labels: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Change a group's settings, labels and number of galaxies, all at once or not at all."""
    path = store / suite
    with journal.change(path) as aside:
        if labels:
            _write_labels(zarr.open_group(aside, mode="w", zarr_format=3), labels)
            for name in ARRAYS:
                array = json.loads((path / name / "zarr.json").read_text())
                array["shape"][0] = len(labels["galaxy"])
                (aside / name).mkdir()
                (aside / name / "zarr.json").write_text(json.dumps(array, indent=2))
        meta = _group_json(path)
        meta["attributes"]["config"] = config
        (aside / "zarr.json").write_text(json.dumps(meta, indent=2))
    _forget_consolidated(store)


def _group_json(path: Path) -> dict[str, Any]:
    """A group's metadata, without those of its arrays that somebody has consolidated: they would be stale."""
    meta = json.loads((path / "zarr.json").read_text())
    meta.pop("consolidated_metadata", None)
    return dict(meta)


def add_run(store: Path, suite: str) -> None:
    """Note who writes into a suite now: versions, commit, time and command, behind those of earlier runs."""
    path = store / suite
    meta = _group_json(path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    run = {"time": now, "command": shlex.join(sys.orig_argv), **provenance()}
    meta["attributes"]["runs"] = [*meta["attributes"].get("runs", []), run]
    _write_json(path / "zarr.json", meta)
    _forget_consolidated(store)


Record = dict[str, np.ndarray]


def write_galaxies(group: zarr.Group, numbers: Sequence[int] | int, records: Sequence[Record | None]) -> None:
    """Write galaxies at their numbers, one chunk or whole shard after the other, their status last.

    None is a galaxy that failed. Only one process may write a shard: each array is written once, with
    what there is already of the shard's other galaxies. Raises StoreError for numbers that the group
    does not have, or has twice here, and where one of these others cannot be read.
    """
    wanted = np.atleast_1d(numbers).tolist()
    given = dict(zip(wanted, records, strict=True))
    n, packed = group["status"].shape[0], (group["status"].shards or (1,))[0]
    if len(given) < len(records) or not all(0 <= number < n for number in given):
        raise StoreError(f"{group.store_path.store.root} has galaxies 0 to {n - 1}, not {wanted}")
    for shard in sorted({number // packed for number in given}):
        _write_shard(group, range(shard * packed, min((shard + 1) * packed, n)), given)


def _write_shard(group: zarr.Group, numbers: range, given: dict[int, Record | None]) -> None:
    records = {number: given[number] for number in numbers if number in given}
    status = np.array([DONE if records.get(number) else FAILED for number in numbers], dtype=np.uint8)
    for place, number in enumerate(numbers):
        if number not in given:
            status[place] = PENDING
            with contextlib.suppress(StoreError):  # not to be read: not done
                status[place] = read(group, "status", number)
            records[number] = read_galaxy(group, number) if status[place] == DONE else None
    here = slice(numbers.start, numbers.stop)
    if any(records.values()):
        for name in ARRAYS:
            if name != "status":
                array = group[name]
                blank = np.full(array.shape[1:], array.fill_value, dtype=array.dtype)
                own = [records[number] for number in numbers]
                _assign(array, here, np.stack([record[name] if record else blank for record in own]))
    _assign(group["status"], here, status)


def _assign(array: zarr.Array, here: slice, values: np.ndarray) -> None:
    try:
        array[here] = values
    except OSError:
        raise
    except Exception:  # zarr looks at the shard it replaces: perhaps this one cannot be read
        with contextlib.suppress(ValueError, RuntimeError):
            _ = array[here]
            raise
        _replace(array, here, values)


def _replace(array: zarr.Array, here: slice, values: np.ndarray) -> None:
    """Write a whole shard without a look at what it replaces, which stays there until the new one is written."""
    folder = Path(array.store_path.store.root) / array.path
    chunk = here.start // (array.shards or array.chunks)[0]
    aside = folder / "c" / f"{chunk}.{uuid4().hex}.partial"
    aside.mkdir()
    shutil.copyfile(folder / "zarr.json", aside / "zarr.json")
    zarr.open_array(aside, mode="r+")[here] = values
    (written,) = [path for path in (aside / "c").rglob("*") if path.is_file()]
    place = folder / written.relative_to(aside)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(written, place)
    shutil.rmtree(aside)


def clear_unfinished(store: Path, suite: str, chunk: int) -> None:
    """Remove what a killed process left of the files it was writing for one chunk or shard."""
    for name in ARRAYS:
        folder = store / suite / name / "c"
        for partial in (*folder.glob(f"{chunk}.*.partial"), *folder.glob(f"{chunk}/**/*.partial")):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def read(group: zarr.Group, name: str, select: Any = slice(None)) -> np.ndarray:
    """group[name] of a slice of galaxies, an array of their numbers, or one number.

    Raises StoreError naming the galaxy that cannot be read.
    """
    try:
        return np.asarray(group[name].oindex[select] if isinstance(select, np.ndarray) else group[name][select])
    except OSError:
        raise
    except Exception as error:  # each codec has its own errors
        for index in np.atleast_1d(np.arange(group[name].shape[0])[select]):
            try:
                _ = group[name][index]
            except Exception as why:
                raise StoreError(
                    f"{group.store_path.store.root}: {name} of galaxy {group['galaxy'][index]} cannot be read ({why}); "
                    "give the command that made the store again, with --repair"
                ) from error
        raise


def read_status(group: zarr.Group, unreadable_is_pending: bool = False) -> np.ndarray:
    """Status (N,) of every galaxy. Raises StoreError naming one that cannot be read."""
    try:
        return read(group, "status")
    except StoreError:
        if not unreadable_is_pending:
            raise
    status = np.full(group["status"].shape, PENDING, dtype=np.uint8)
    for index in range(len(status)):
        with contextlib.suppress(StoreError):
            status[index] = read(group, "status", index)
    return status


def read_galaxy(group: zarr.Group, index: int) -> Record:
    """Everything stored of one galaxy but its status. Raises StoreError when it cannot be read."""
    return {name: read(group, name, index) for name in ARRAYS if name != "status"}


def is_damaged(group: zarr.Group, index: int) -> bool:
    """Whether some array of a galaxy that is done cannot be read, or was never written."""
    try:
        record = read_galaxy(group, index)
    except (StoreError, OSError):
        return True
    return any(np.array_equal(x, np.full_like(x, ARRAYS[name].fill), equal_nan=True) for name, x in record.items())


def open_suite(store: Path, suite: str) -> zarr.Group:
    """A suite's group, read and checked. Raises StoreError with what is wrong and what there is.

    >>> group = open_suite(Path("maps.zarr"), "quiet")
    >>> group["maps"].shape  # galaxies, views, channels of stars and of gas, pixels
    (12, 2, 8, 16, 16)
    >>> bool((group["status"][:] == DONE).all())
    True
    """
    group = _open(store, suite)
    sizes = {group[name].shape[0] for name in (*ARRAYS, "galaxy", "lineage")}
    if len(sizes) > 1:
        raise StoreError(
            f"{store / suite} has arrays of {' and '.join(map(str, sorted(sizes)))} galaxies: a process was killed "
            "while it added some; give the command that made the store again"
        )
    return group


def _open(store: Path, suite: str) -> zarr.Group:
    known = suites(store)
    if suite not in known:
        raise StoreError(f"{store} has no suite {suite!r}; it has {', '.join(known) or 'none'}")
    try:
        journal.finish(store / suite)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise StoreError(
            f"{store / suite} was being changed when a process was killed, and you may not write there; "
            "its owner gives the command that made the store again"
        ) from error
    group = zarr.open_group(store / suite, mode="r+", use_consolidated=False)
    found = group.attrs.get("schema_version")
    if found != SCHEMA_VERSION:
        raise StoreError(
            f"{store / suite} has schema version {found}, this code reads {SCHEMA_VERSION}; "
            "run `kinmass maps` again, with a new --out"
        )
    missing = [name for name in (*ARRAYS, "galaxy", "lineage") if name not in group]
    if missing:
        raise StoreError(f"{store / suite} lacks {', '.join(missing)}; it is damaged or no map store")
    return group


def suites(store: Path) -> list[str]:
    """Names of a store's suites. Raises StoreError when there is no store."""
    if not (store / "zarr.json").is_file():
        raise StoreError(f"{store} is no map store; make one with `kinmass maps`")
    return sorted(p.parent.name for p in store.glob("*/zarr.json") if not p.parent.name.startswith("."))


def without_dark_matter(store: Path, suites: list[str] | tuple[str, ...]) -> list[str]:
    """A line for each of these suites in which the truth of some galaxies is that of stars and gas alone."""
    lines = []
    for suite in suites:
        group = open_suite(store, suite)
        done = read_status(group) == DONE
        if bare := int((done & (read(group, "has_dark") == 0)).sum()):
            lines.append(
                f"{suite}: {bare} of {done.sum()} galaxies have no dark matter: their true mass is stars and gas"
            )
    return lines
