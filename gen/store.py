"""The map store: one table says what every array is; writer, readers, tests and docs share it."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from gen.code import version_of
from gen.profile import N_RADII
from gen.projection import CHANNELS

SCHEMA_VERSION = 3
PENDING, DONE, FAILED = 0, 1, 2
TRACERS = ("stars", "gas")
COMPONENTS = ("total", "dark", "stars", "gas")
#: What the system says when a disk, a quota or a file-size limit is reached.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    here = Path(__file__).parent.parent
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
    store: Path, suite: str, galaxies: list[str], lineages: list[str], config: dict[str, Any]
) -> zarr.Group:
    """Create a suite's group with its final shape, or open it to go on with.

    config must hold `views`, `pixels` and `galaxies_per_shard`. lineages names the history each
    galaxy belongs to. Made aside and renamed, so a group is whole or not there; galaxies that come to
    a suite later are put behind the others (not in shards). Raises StoreError when the group exists
    with another configuration, or has galaxies that the suite lacks.
    """
    config = json.loads(json.dumps(config))
    path = store / suite
    if path.exists():
        group = open_suite(store, suite)
        old = group.attrs["config"]
        changed = sorted(k for k in config.keys() | old.keys() if config.get(k) != old.get(k))
        if changed:
            raise StoreError(
                f"{path} was made with another configuration ({', '.join(changed)} differ); "
                "repeat the settings of that run or write to a new --out"
            )
        return _grown(group, path, dict(zip(galaxies, lineages, strict=True)))
    root = zarr.open_group(store, mode="a", zarr_format=3)
    root.attrs["schema_version"] = SCHEMA_VERSION
    aside = store / f".{suite}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    sizes = {
        "galaxy": len(galaxies), "view": config["views"], "channel": len(channels()), "axis": 3, "xyz": 3,
        "y": config["pixels"], "x": config["pixels"], "radius": N_RADII, "component": len(COMPONENTS),
    }  # fmt: skip
    attrs = {"schema_version": SCHEMA_VERSION, "suite": suite, "config": config, **provenance()}
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
    labels = {"galaxy": galaxies, "lineage": lineages, "channel": channels(), "component": list(COMPONENTS)}
    for name, texts in labels.items():
        array = group.create_array(
            name, shape=(len(texts),), chunks=(len(texts),), dtype=str,
            dimension_names=("galaxy" if name == "lineage" else name,),
        )  # fmt: skip
        array[:] = np.array(texts, dtype=np.dtypes.StringDType())
    os.rename(aside, path)
    return open_suite(store, suite)


def _grown(group: zarr.Group, path: Path, wanted: dict[str, str]) -> zarr.Group:
    """The group with room for galaxies that were not known when it was made, behind the others.

    wanted maps galaxies to lineages. What was never mapped may be missing from it.
    """
    known = dict(zip(group["galaxy"][:].tolist(), group["lineage"][:].tolist(), strict=True))
    new = {name: lineage for name, lineage in wanted.items() if name not in known}
    gone = [i for i, name in enumerate(known) if name not in wanted]
    changed = any(wanted.get(name, lineage) != lineage for name, lineage in known.items())
    packed = group.attrs["config"]["galaxies_per_shard"] > 1 and bool(new or gone)
    if changed or packed or any(read(group, "status", i) == DONE for i in gone):
        raise StoreError(f"{path} holds other galaxies than the suite has now; write to a new --out")
    if new:
        both = known | new
        for name in ARRAYS:
            group[name].resize((len(both), *group[name].shape[1:]))
        # Labels last: a run that is killed here begins again with the same ones.
        for name, texts in (("lineage", list(both.values())), ("galaxy", list(both))):
            group[name].resize((len(both),))
            group[name][:] = np.array(texts, dtype=np.dtypes.StringDType())
    return group


Record = dict[str, np.ndarray]


def write_galaxies(group: zarr.Group, first: int, records: list[Record | None]) -> None:
    """Write the galaxies of one chunk or of one whole shard, from number `first` on, their status last.

    None is a galaxy that failed. Only one process may write a shard: each array is written once.
    """
    here = slice(first, first + len(records))
    if any(records):
        for name in ARRAYS:
            if name != "status":
                array = group[name]
                blank = np.full(array.shape[1:], array.fill_value, dtype=array.dtype)
                _assign(array, here, np.stack([record[name] if record else blank for record in records]))
    _assign(group["status"], here, np.array([DONE if record else FAILED for record in records], dtype=np.uint8))


def _assign(array: zarr.Array, here: slice, values: np.ndarray) -> None:
    try:
        array[here] = values
    except OSError:
        raise
    except Exception:  # zarr looks at the shard it replaces: perhaps this one cannot be read
        with contextlib.suppress(ValueError, RuntimeError):
            _ = array[here]
            raise
        chunk = here.start // (array.shards or array.chunks)[0]
        old = Path(array.store_path.store.root) / array.path / "c" / str(chunk)
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()
        array[here] = values


def clear_unfinished(store: Path, suite: str, index: int) -> None:
    """Remove what a killed process left of the files it was writing for one galaxy."""
    group = open_suite(store, suite)
    chunk = index // group.attrs["config"]["galaxies_per_shard"]
    for name in ARRAYS:
        folder = store / suite / name / "c"
        for partial in (*folder.glob(f"{chunk}.*.partial"), *folder.glob(f"{chunk}/**/*.partial")):
            partial.unlink()


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
    """A suite's group, read and checked. Raises StoreError with what is wrong and what there is."""
    known = suites(store)
    if suite not in known:
        raise StoreError(f"{store} has no suite {suite!r}; it has {', '.join(known) or 'none'}")
    group = zarr.open_group(store / suite, mode="r+")
    found = group.attrs.get("schema_version")
    if found != SCHEMA_VERSION:
        raise StoreError(
            f"{store / suite} has schema version {found}, this code reads {SCHEMA_VERSION}; "
            "run `python -m gen maps` again, with a new --out"
        )
    missing = [name for name in (*ARRAYS, "galaxy", "lineage") if name not in group]
    if missing:
        raise StoreError(f"{store / suite} lacks {', '.join(missing)}; it is damaged or no map store")
    return group


def suites(store: Path) -> list[str]:
    """Names of a store's suites. Raises StoreError when there is no store."""
    if not (store / "zarr.json").is_file():
        raise StoreError(f"{store} is no map store; make one with `python -m gen maps`")
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
