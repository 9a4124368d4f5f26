"""Makes a suite's group in a map store, and lets it grow: all at once or not at all, whoever is killed."""

import contextlib
import errno
import json
import math
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from kinmass.gen.code import command_line, provenance
from kinmass.gen.physics.profile import N_RADII
from kinmass.gen.storage import changes, journal
from kinmass.gen.storage.chunk_files import ChunkFiles
from kinmass.gen.storage.files import make_folder, sync_folder, sync_tree, write_atomically
from kinmass.gen.storage.store import (
    ARRAYS,
    COMPONENTS,
    DONE,
    SCHEMA_VERSION,
    StoreError,
    channels,
    galaxies_per_shard,
    open_growing,
    open_suite,
    read_labels,
    read_status,
    suites,
)
from kinmass.gen.words import counted

#: A galaxy whose place in its catalogue moves by more than this from one run to the next is another galaxy [kpc].
SAME_PLACE_KPC = 0.1
#: Galaxies in one chunk of a shard have at most so many bytes [bytes]: who reads one of them decodes all.
MOST_TOGETHER = 2**15


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
        group = open_growing(store, suite)
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
    group = zarr.open_group(ChunkFiles(folder), mode="w", zarr_format=3, attributes=attrs)
    galaxies_per_shard = config["galaxies_per_shard"]
    for name, spec in ARRAYS.items():
        shape = tuple(sizes[dim] for dim in spec.dims)
        group.create_array(
            name,
            shape=shape,
            chunks=(_galaxies_per_chunk(galaxies_per_shard, shape, spec.dtype), *shape[1:]),
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


def _galaxies_per_chunk(galaxies_per_shard: int, shape: tuple[int, ...], dtype: str) -> int:
    """Return how many galaxies of a shard are compressed together: few maps, and many of a single number.

    What zarr does for each chunk takes longer than to compress some kB.
    """
    most = max(MOST_TOGETHER // (math.prod(shape[1:]) * np.dtype(dtype).itemsize), 1)
    return max(n for n in range(1, galaxies_per_shard + 1) if galaxies_per_shard % n == 0 and n <= most)


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
            _write_labels(zarr.open_group(ChunkFiles(aside), mode="w", zarr_format=3), labels)
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
