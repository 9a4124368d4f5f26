"""The map store: the table ARRAYS describes every array; writer, readers, tests and docs share it."""

import asyncio
import contextlib
import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync

from kinmass.gen.code import command_line, provenance
from kinmass.gen.physics.profile import N_RADII
from kinmass.gen.physics.projection import CHANNELS
from kinmass.gen.storage import changes, journal
from kinmass.gen.storage.chunk_files import ChunkFiles
from kinmass.gen.storage.files import make_folder, sync_folder, sync_tree, write_atomically
from kinmass.gen.words import counted

SCHEMA_VERSION = 3
PENDING, DONE, FAILED = 0, 1, 2
#: What is said of a galaxy that cannot be read. It is never written.
DAMAGED = 251
TRACERS = ("stars", "gas")
COMPONENTS = ("total", "dark", "stars", "gas")
#: A galaxy whose place in its catalogue moves by more than this from one run to the next is another galaxy [kpc].
SAME_PLACE_KPC = 0.1


class StoreError(ValueError):
    """A store is missing, of another schema, damaged, or does not hold what is asked for."""


@dataclass(frozen=True)
class Array:
    """One array of a suite's group; its first dimension is the galaxy, with one galaxy per chunk."""

    dims: tuple[str, ...]
    dtype: str
    units: str
    meaning: str

    @property
    def fill(self) -> float:
        """Value of an unwritten chunk. It is never written itself, except for the status pending."""
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

#: Arrays whose chunks count for nothing before the status says that their galaxy is done.
MARKED = frozenset(ARRAYS) - {"status"}


def channels() -> list[str]:
    """Names along the channel axis."""
    return [f"{tracer}_{channel}" for tracer in TRACERS for channel in CHANNELS]


def create_suite(
    store: Path,
    suite: str,
    galaxies: list[str],
    lineages: list[str],
    config: dict[str, Any],
    centres_kpc: np.ndarray | None = None,
) -> zarr.Group:
    """Create a suite's group with its final shape, or open it to go on with.

    config must hold `views`, `pixels` and `galaxies_per_shard` (None: as the group has it, else 1).
    lineages names the history each galaxy belongs to; centres_kpc (N, 3) is its centre by the
    catalogue, NaN where there is none. A group is made aside and renamed, so it is whole or not
    there. Galaxies that come to a suite later are put behind the others, and settings that only
    bring more of them are taken over; both at once or not at all. A group without any finished
    galaxy is made anew where settings changed. Raises StoreError when finished galaxies were made
    with other settings, or are not those that the suite has now.
    """
    config = json.loads(json.dumps(config))
    config["galaxies_per_shard"] = config["galaxies_per_shard"] or galaxies_per_shard(store, suite) or 1
    path = store / suite
    centres = np.full((len(galaxies), 3), np.nan) if centres_kpc is None else np.asarray(centres_kpc, dtype=float)
    labels = _labels(galaxies, lineages, centres)
    _make_root(store)
    if path.exists():
        group = _open(store, suite)
        refused_changes = changes.refused(group.attrs["config"], config)
        if not refused_changes:
            return _adopt_galaxies(group, store, suite, labels, config)
        _set_unfinished_aside(group, path, refused_changes)
    journal.forget(path)
    for leftover in store.glob(f".{suite}.*.partial"):  # left by a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    aside = _partial_path(path)
    _build_group(aside, suite, labels, config)
    try:
        os.rename(aside, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        shutil.rmtree(aside)  # another process was faster: use the group that it made
        return create_suite(store, suite, galaxies, lineages, config, centres_kpc)
    sync_folder(store)
    _forget_consolidated(store)
    return open_suite(store, suite)


def _partial_path(path: Path) -> Path:
    """Make a new hidden name beside a suite's group, for a group that is not in use."""
    return path.with_name(f".{path.name}.{uuid4().hex}.partial")


def _set_unfinished_aside(group: zarr.Group, path: Path, refused_changes: list[str]) -> None:
    """Rename a group of other settings away, to be removed. Raises StoreError when it holds finished galaxies."""
    n_done = int((read_status(group) == DONE).sum())
    if n_done:
        raise StoreError(
            f"{path} holds {counted(n_done, 'galaxy', 'galaxies')} made with other settings "
            f"({'; '.join(refused_changes)}). Repeat those settings, or write to a new --out; to map "
            f"this suite anew in this store, remove {path} first: its other suites stay as they are"
        )
    os.rename(path, _partial_path(path))


def _build_group(folder: Path, suite: str, labels: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Write the group of a suite in which every galaxy is pending, and sync it to the disk."""
    sizes = {
        "galaxy": len(labels["galaxy"]), "view": config["views"], "channel": len(channels()), "axis": 3, "xyz": 3,
        "y": config["pixels"], "x": config["pixels"], "radius": N_RADII, "component": len(COMPONENTS),
    }  # fmt: skip
    attrs = {"schema_version": SCHEMA_VERSION, "suite": suite, "config": config, **provenance(), "runs": []}
    group = zarr.open_group(folder, mode="w", zarr_format=3, attributes=attrs)
    galaxies_per_shard = config["galaxies_per_shard"]
    for name, spec in ARRAYS.items():
        shape = tuple(sizes[dim] for dim in spec.dims)
        group.create_array(
            name,
            shape=shape,
            chunks=(1, *shape[1:]),
            shards=(galaxies_per_shard, *shape[1:]) if galaxies_per_shard > 1 else None,
            dtype=spec.dtype,
            fill_value=spec.fill,
            compressors=(ZstdCodec(level=0), Crc32cCodec()),  # a flipped bit is an error, not a number
            # Chunks of several dimensions in one folder, as `c.7.0.0.0.0`: no folders are made for each galaxy.
            chunk_key_encoding={"name": "default", "separator": "." if len(shape) > 1 else "/"},
            dimension_names=spec.dims,
            attributes={"units": spec.units, "long_name": spec.meaning},
            config={"write_empty_chunks": True},
        )
    _write_labels(group, labels)
    sync_tree(folder)


def require_place(store: Path) -> None:
    """Raise StoreError where no store can be made: a file is there, or one suite of a store."""
    if store.exists() and not store.is_dir():
        raise StoreError(f"{store} is a file, and a map store is a folder: give another --out")
    if (store / "zarr.json").is_file():
        suites(store)


def _make_root(store: Path) -> None:
    """Make a store's root group; a process that does so at the same time writes the same content."""
    path = store / "zarr.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        json.loads(path.read_text())
        return
    make_folder(store)
    _write_json(path, {"attributes": {"schema_version": SCHEMA_VERSION}, "zarr_format": 3, "node_type": "group"})


def _forget_consolidated(store: Path) -> None:
    """Remove consolidated metadata from a store's root group: they would hide what has changed in its suites."""
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
    """Write (N,) names, (N,) lineages and (N, 3) centres [kpc] of the galaxies, and the axes' names; one chunk each."""
    axis_names = {"channel": channels(), "component": list(COMPONENTS)}
    axis_labels = {name: np.array(words, dtype=np.dtypes.StringDType()) for name, words in axis_names.items()}
    for name, values in (labels | axis_labels).items():
        dims = {"lineage": ("galaxy",), "catalogue_centre": ("galaxy", "xyz")}.get(name, (name,))
        attributes = {"units": "kpc", "long_name": "centre that the catalogue gives"} if values.ndim == 2 else {}
        array = group.create_array(
            name, shape=values.shape, chunks=values.shape, dtype=str if values.ndim == 1 else values.dtype,
            dimension_names=dims, attributes=attributes, config={"write_empty_chunks": True},
        )  # fmt: skip
        array[:] = values


def _adopt_galaxies(
    group: zarr.Group, store: Path, suite: str, labels: dict[str, np.ndarray], config: dict[str, Any]
) -> zarr.Group:
    """Add new galaxies to the group behind the others, update labels and settings, and return the group.

    labels are of the galaxies that the suite has now. Galaxies of the group that are not done may be missing from them
    or have other labels; for those that are done this raises StoreError.
    """
    path = store / suite
    stored_names = _trimmed(read_labels(group, "galaxy").tolist())
    n_stored = len(stored_names)
    # Stores of earlier versions have no catalogue_centre, and their writer may have been killed while they grew.
    stored = {
        name: read_labels(group, name)[:n_stored] if name in group else np.full((n_stored, 3), np.nan)
        for name in labels
    }
    is_half_grown = any(name not in group or group[name].shape[0] != n_stored for name in (*ARRAYS, *labels))
    stored_index = {name: i for i, name in enumerate(stored_names)}
    suite_index = {name: i for i, name in enumerate(labels["galaxy"].tolist())}
    new_numbers = [i for name, i in suite_index.items() if name not in stored_index]
    merged = {name: np.concatenate([stored[name], values[new_numbers]]) for name, values in labels.items()}
    status = None
    for name, i in stored_index.items():
        current = (
            None if name not in suite_index else {key: values[suite_index[name]] for key, values in labels.items()}
        )
        if current is not None and all(_same_label(current[key], stored[key][i]) for key in current):
            continue
        status = read_status(group, unreadable_is_damaged=True) if status is None else status
        if status[i] == DONE:
            _refuse_another_galaxy(path, name, current, {key: values[i] for key, values in stored.items()})
        elif current is not None:
            for key in current:
                merged[key][i] = current[key]
    if (
        not new_numbers
        and not is_half_grown
        and all(np.array_equal(merged[k], stored[k], equal_nan=merged[k].ndim == 2) for k in merged)
    ):
        merged = {}
    if merged or config != group.attrs["config"]:
        _change(store, suite, merged, config)
    return open_suite(store, suite)


def _trimmed(names: list[str]) -> list[str]:
    while names and not names[-1]:
        names = names[:-1]
    return names


def _same_label(a: Any, b: Any) -> bool:
    """Whether two labels may be of one galaxy; places match if both are unknown, or at most SAME_PLACE_KPC apart."""
    if isinstance(a, str):
        return bool(a == b)
    return bool(np.isnan(b).all() and np.isnan(a).all()) or bool(np.abs(a - b).max() <= SAME_PLACE_KPC)


def _refuse_another_galaxy(path: Path, name: str, current: dict[str, Any] | None, stored: dict[str, Any]) -> None:
    """Raise StoreError when a finished galaxy is not the one that the suite has under its name now."""
    remedy = "bring back what was there, or write to a new --out"
    if current is None:
        raise StoreError(
            f"{path} holds other galaxies than the suite has now: {name} is done, and gone from it; {remedy}"
        )
    if current["lineage"] != stored["lineage"]:
        raise StoreError(
            f"{path} holds other galaxies than the suite has now: {name} is done as one of the lineage "
            f"{stored['lineage']!r}, and is of {current['lineage']!r} now; {remedy}"
        )
    if not np.isnan(current["catalogue_centre"] - stored["catalogue_centre"]).any():
        old_place, new_place = (
            ", ".join(f"{x:.6g}" for x in labels["catalogue_centre"]) for labels in (stored, current)
        )
        raise StoreError(
            f"{path} holds other galaxies than the suite has now: {name} is done at ({old_place}) kpc, and the "
            f"catalogue has it at ({new_place}) now (is it another catalogue, or were its rows sorted and have no "
            f"ids?); {remedy}"
        )


def _change(store: Path, suite: str, labels: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Change a group's settings, all at once or not at all; also its labels and size, unless labels is empty."""
    path = store / suite
    with journal.change(path) as aside:
        if labels:
            _write_labels(zarr.open_group(aside, mode="w", zarr_format=3), labels)
            for name in ARRAYS:
                array_json = json.loads((path / name / "zarr.json").read_text())
                array_json["shape"][0] = len(labels["galaxy"])
                (aside / name).mkdir()
                (aside / name / "zarr.json").write_text(json.dumps(array_json, indent=2))
        meta = _group_json(path)
        meta["attributes"]["config"] = config
        (aside / "zarr.json").write_text(json.dumps(meta, indent=2))
    _forget_consolidated(store)


def _group_json(path: Path) -> dict[str, Any]:
    """Read a group's metadata without consolidated metadata of its arrays, which would be stale."""
    meta = json.loads((path / "zarr.json").read_text())
    meta.pop("consolidated_metadata", None)
    return dict(meta)


def add_run(store: Path, suite: str) -> None:
    """Append the run that writes into a suite now to its list of runs: versions, commit, time and command."""
    path = store / suite
    meta = _group_json(path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    run = {"time": now, "command": command_line(), **provenance()}
    meta["attributes"]["runs"] = [*meta["attributes"].get("runs", []), run]
    _write_json(path / "zarr.json", meta)
    _forget_consolidated(store)


Record = dict[str, np.ndarray]


def write_galaxies(group: zarr.Group, numbers: Sequence[int] | int, records: Sequence[Record | None]) -> None:
    """Write galaxies at their numbers, as `Writer.write` does."""
    Writer(group).write(numbers, records)


class Writer:
    """Writes galaxies into a suite's group, whose arrays it opens once."""

    def __init__(self, group: zarr.Group):
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {name: group[name] for name in ARRAYS}  # type: ignore[misc]

    def write(self, numbers: Sequence[int] | int, records: Sequence[Record | None]) -> None:
        """Write galaxies at their numbers, one chunk or whole shard after the other, their status last.

        A record of None is a galaxy that failed. Only one process may write a shard: each array is written
        once, together with the finished galaxies that the shard holds already. Raises StoreError for
        numbers that the group does not have or that come twice, and where one of these finished galaxies
        cannot be read.
        """
        wanted_numbers = np.atleast_1d(numbers).tolist()
        record_of = dict(zip(wanted_numbers, records, strict=True))
        status = self._arrays["status"]
        n_galaxies, per_shard = status.shape[0], (status.shards or (1,))[0]
        if len(record_of) < len(records) or not all(0 <= number < n_galaxies for number in record_of):
            root = self._group.store_path.store.root  # type: ignore[attr-defined]
            raise StoreError(f"{root} has galaxies 0 to {n_galaxies - 1}, not {wanted_numbers}")
        for shard in sorted({number // per_shard for number in record_of}):
            self._write_shard(range(shard * per_shard, min((shard + 1) * per_shard, n_galaxies)), record_of)

    def _write_shard(self, numbers: range, record_of: dict[int, Record | None]) -> None:
        records = {number: record_of[number] for number in numbers if number in record_of}
        status = np.array([DONE if records.get(number) else FAILED for number in numbers], dtype=np.uint8)
        for position, number in enumerate(numbers):
            if number not in record_of:
                status[position] = PENDING
                with contextlib.suppress(StoreError):  # a status that cannot be read counts as pending
                    status[position] = read(self._group, "status", number)
                records[number] = read_galaxy(self._group, number) if status[position] == DONE else None
        if any(records.values()):
            values = {}
            for name, array in self._arrays.items():
                if name != "status":
                    blank = np.full(array.shape[1:], array.fill_value, dtype=array.dtype)
                    values[name] = np.stack([record[name] if (record := records[n]) else blank for n in numbers])
            self._assign(numbers, values)
        self._assign(numbers, {"status": status})

    def _assign(self, numbers: range, values: dict[str, np.ndarray]) -> None:
        """Write a shard of some arrays, all at the same time: each of them waits more than it works."""
        shard = slice(numbers.start, numbers.stop)

        async def assign() -> list[BaseException | None]:
            """Write all arrays at once; return the error of each, or None."""
            writes = (self._arrays[name].async_array.setitem(shard, value) for name, value in values.items())
            return await asyncio.gather(*writes, return_exceptions=True)

        failed = {name: error for name, error in zip(values, sync(assign()), strict=True) if error is not None}
        for error in failed.values():
            if isinstance(error, OSError) or not isinstance(error, Exception):
                raise error
        for name, error in failed.items():  # zarr reads the shard that it replaces, and perhaps cannot
            with contextlib.suppress(ValueError, RuntimeError):
                _ = self._arrays[name][shard]
                raise error
            _replace(self._arrays[name], shard, values[name])


def _replace(array: zarr.Array, galaxies: slice, values: np.ndarray) -> None:
    """Write a whole shard without reading the one that it replaces, which stays until the new one is written."""
    folder = Path(array.store_path.store.root) / array.path
    chunk = galaxies.start // (array.shards or array.chunks)[0]
    aside = folder / f"c.{chunk}.{uuid4().hex}.partial"
    aside.mkdir()
    shutil.copyfile(folder / "zarr.json", aside / "zarr.json")
    zarr.open_array(aside, mode="r+")[galaxies] = values
    (written,) = [path for path in aside.rglob("*") if path.is_file() and path.name != "zarr.json"]
    place = folder / written.relative_to(aside)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(written, place)
    shutil.rmtree(aside)


def clear_unfinished(store: Path, suite: str, chunk: int) -> None:
    """Remove the half-written files that a killed process left of one chunk or shard."""
    for name in ARRAYS:
        # Stores of earlier versions have a folder for each dimension of a chunk.
        patterns = f"c.{chunk}.*.partial", f"c/{chunk}.*.partial", f"c/{chunk}/**/*.partial"
        for partial in [path for pattern in patterns for path in (store / suite / name).glob(pattern)]:
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def read(group: zarr.Group, name: str, select: Any = slice(None)) -> np.ndarray:
    """Read group[name] of some galaxies; select is a slice, an array of their numbers, or one number.

    A galaxy that is not done and is just being written, or whose writer was killed, has the array's fill value. Raises
    StoreError naming the galaxy that cannot be read.
    """
    try:
        return np.asarray(group[name].oindex[select] if isinstance(select, np.ndarray) else group[name][select])
    except OSError:
        raise
    except Exception:  # each codec raises errors of its own
        numbers = np.arange(group[name].shape[0])[select]
        values = [_read_one(group, name, int(number)) for number in np.atleast_1d(numbers)]
        return np.stack(values) if np.ndim(numbers) else values[0]


def _read_one(group: zarr.Group, name: str, number: int) -> np.ndarray:
    """Read one galaxy as `read` does; its status is read first, because its writer may be done in between."""
    may_be_half = name in MARKED and read(group, "status", number) != DONE
    array: zarr.Array[Any] = group[name]  # type: ignore[assignment]
    try:
        return np.asarray(array[number])
    except OSError:
        raise
    except Exception as error:
        if may_be_half:
            return np.full(array.shape[1:], array.fill_value, dtype=array.dtype)
        raise StoreError(
            f"{group.store_path.store.root}: {name} of galaxy {group['galaxy'][number]} cannot be read ({error}); "  # type: ignore[attr-defined,index]
            "give the command that made the store again, with --repair"
        ) from error


def read_labels(group: zarr.Group, name: str) -> np.ndarray:
    """Read the names (N,) of all galaxies or of their lineages, or the (N, 3) centres of their catalogues [kpc].

    Raises StoreError where they are damaged: nothing else says which galaxy is which.
    """
    try:
        return np.asarray(group[name][:])  # type: ignore[index]
    except OSError:
        raise
    except Exception as error:  # each codec raises errors of its own
        root = group.store_path.store.root  # type: ignore[attr-defined]
        raise _damaged(root, Path(root) / name, error) from error


def _damaged(suite: Path, path: Path, error: Exception) -> StoreError:
    """Make the error of a file that a whole suite depends on."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return StoreError(
        f"{path} is damaged ({reason}): bring it back from a copy, or `rm -r {suite}` and give the command that made "
        "the store again, which maps this suite anew"
    )


def read_status(group: zarr.Group, unreadable_is_damaged: bool = False) -> np.ndarray:
    """Read the status (N,) of every galaxy.

    Raises StoreError naming one that cannot be read, unless unreadable_is_damaged: it is DAMAGED then.
    """
    try:
        return read(group, "status")
    except StoreError:
        if not unreadable_is_damaged:
            raise
    status = np.full(group["status"].shape, DAMAGED, dtype=np.uint8)
    for index in range(len(status)):
        with contextlib.suppress(StoreError):
            status[index] = read(group, "status", index)
    return status


def read_galaxy(group: zarr.Group, index: int) -> Record:
    """Read everything stored of one galaxy but its status. Raises StoreError when it cannot be read."""
    return {name: read(group, name, index) for name in ARRAYS if name != "status"}


def require_written(group: zarr.Group, name: str, values: np.ndarray, galaxies: np.ndarray) -> None:
    """Raise StoreError for the first finished galaxy of which an array (G, ...) holds nothing: its chunk is missing.

    galaxies: names (G,). The values are those of group[name], whose fill value is NaN.
    """
    each = values.reshape(len(galaxies), -1) if len(galaxies) else np.zeros((0, 1))
    suspects = np.flatnonzero(np.isnan(each[:, 0]))  # few, so that maps are not all looked through
    missing = [i for i in suspects if np.isnan(each[i]).all()]
    if missing:
        raise StoreError(
            f"{group.store_path.store.root}: {name} of galaxy {galaxies[missing[0]]} was never written, or deleted; "  # type: ignore[attr-defined]
            "give the command that made the store again, with --repair"
        )


def is_damaged(group: zarr.Group, index: int) -> bool:
    """Whether some array of a finished galaxy cannot be read, or was never written."""
    try:
        record = read_galaxy(group, index)
    except (StoreError, OSError):
        return True
    return any(np.array_equal(x, np.full_like(x, ARRAYS[name].fill), equal_nan=True) for name, x in record.items())


def open_suite(store: Path, suite: str) -> zarr.Group:
    """Open a suite's group and check it. Raises StoreError with what is wrong and which suites there are.

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
    suite_names = suites(store)
    if suite not in suite_names:
        raise StoreError(f"{store} has no suite {suite!r}; it has {', '.join(suite_names) or 'none'}")
    try:
        journal.finish(store / suite)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise StoreError(
            f"{store / suite} was being changed when a process was killed, and you may not write there; "
            "its owner gives the command that made the store again"
        ) from error
    files = ChunkFiles(store / suite, marked=MARKED)
    group, arrays = _opened(files, store / suite)
    schema_version = group.attrs.get("schema_version")
    if schema_version != SCHEMA_VERSION:
        raise StoreError(
            f"{store / suite} has schema version {schema_version}, this code reads {SCHEMA_VERSION}; "
            "run `kinmass maps` again, with a new --out"
        )
    if (own_name := group.attrs.get("suite", suite)) != suite:
        raise StoreError(
            f"{store / suite} is the suite {own_name} under another name, by which its galaxies would count as others "
            f"than those that were trained on: rename the folder to {own_name}, or move a copy out of the store; for "
            "another name change `name` in its suite file and map it anew"
        )
    missing = [name for name in (*ARRAYS, "galaxy", "lineage") if name not in arrays]
    if missing:
        raise StoreError(
            f"{store / suite} lacks {', '.join(missing)}; it is damaged or no map store: "
            "run `kinmass maps` again, with a new --out"
        )
    return group


def _opened(files: ChunkFiles, path: Path) -> tuple[zarr.Group, set[str]]:
    """Open a suite's group, and return it with the names of its arrays. Raises StoreError naming a damaged file."""
    place = path
    try:
        group = zarr.open_group(files, mode="r+", use_consolidated=False)
        arrays = set()
        for name in (*ARRAYS, "galaxy", "lineage"):
            place = path / name
            arrays |= {name} if name in group else set()
        return group, arrays
    except OSError:
        raise
    except Exception as error:  # what is no JSON, or none that zarr knows
        raise _damaged(path, place / "zarr.json", error) from error


def galaxies_per_shard(store: Path, suite: str) -> int | None:
    """Return how many galaxies of a suite lie in one file of an array; None where the suite is not there yet."""
    if not (store / suite / "zarr.json").is_file():
        return None
    try:
        shards = zarr.open_group(store / suite, mode="r", use_consolidated=False)["status"].shards
    except (ValueError, KeyError, TypeError):  # damaged: whoever opens it says so
        return None
    return int(shards[0]) if shards else 1


def suites(store: Path) -> list[str]:
    """List the names of a store's suites. Raises StoreError when there is no store, and for one suite of a store."""
    if not (store / "zarr.json").is_file():
        raise StoreError(f"{store} is no map store; make one with `kinmass maps`")
    with contextlib.suppress(
        json.JSONDecodeError, UnicodeDecodeError
    ):  # a damaged file is told where the store is opened
        if "suite" in json.loads((store / "zarr.json").read_text()).get("attributes", {}):
            raise StoreError(f"{store} is one suite of the store {store.parent}: give that")
    return sorted(p.parent.name for p in store.glob("*/zarr.json") if not p.parent.name.startswith("."))


def refuse_inside(folder: Path) -> None:
    """Raise StoreError for a folder for results that is a map store, or in one: what is in it would count as suites."""
    for place in (folder.resolve(), *folder.resolve().parents):
        if (place / "zarr.json").is_file():
            raise StoreError(f"{folder} is in the map store {place}, where results do not belong; give another --out")


def named_suites(store: Path, names: str | None) -> list[str]:
    """Return the suites that an option names, comma-separated; all of the store where it is left out.

    One that is named twice counts once: twice as many galaxies would not be there. Raises StoreError for a name that
    the store does not have.
    """
    there = suites(store)
    if names is None:
        return there
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in chosen:
        if name not in there:
            raise StoreError(f"{store} has no suite {name!r}; it has {', '.join(there) or 'none'}")
    if not chosen:
        raise StoreError(f"no suite is named; {store} has {', '.join(there) or 'none'}")
    return chosen


def without_dark_matter(store: Path, suites: list[str] | tuple[str, ...]) -> list[str]:
    """Make a line for each of these suites in which the truth of some galaxies is stars and gas alone."""
    lines = []
    for suite in suites:
        group = open_suite(store, suite)
        done = read_status(group) == DONE
        if n_bare := int((done & (read(group, "has_dark") == 0)).sum()):
            lines.append(
                f"{suite}: {n_bare} of {done.sum()} galaxies have no dark matter: their true mass is stars and gas"
            )
    return lines
