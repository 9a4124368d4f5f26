"""The map store: one table says what every array is; writer, readers, tests and docs share it."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from gen.profile import N_RADII
from gen.projection import CHANNELS

SCHEMA_VERSION = 1
PENDING, DONE, FAILED = 0, 1, 2
TRACERS = ("stars", "gas")
COMPONENTS = ("total", "dark", "stars", "gas")


class StoreError(ValueError):
    """A store that is missing, of another schema, or not the one asked for."""


@dataclass(frozen=True)
class Array:
    """One array of a suite's group; every first dimension is the galaxy, one galaxy a chunk."""

    dims: tuple[str, ...]
    dtype: str
    units: str
    meaning: str


ARRAYS = {
    "maps": Array(
        ("galaxy", "view", "channel", "y", "x"),
        "float32",
        "Msun/kpc2, km/s, km/s, 1",
        "noiseless mass-weighted moments per tracer: density, velocity (receding positive), dispersion, count",
    ),
    "sightline": Array(
        ("galaxy", "view", "axis", "xyz"),
        "float64",
        "1",
        "rotation; rows are the map's x, y and the line of sight away from the observer, in simulation axes",
    ),
    "half_mass_radius": Array(
        ("galaxy", "view"), "float32", "kpc", "projected stellar half-mass radius R_e of the view"
    ),
    "pixel_scale": Array(("galaxy", "view"), "float32", "kpc", "side of a pixel"),
    "radius": Array(("galaxy", "radius"), "float64", "kpc", "spherical radii of the mass profile"),
    "mass": Array(("galaxy", "component", "radius"), "float64", "Msun", "mass inside the radius, per component"),
    "centre": Array(("galaxy", "xyz"), "float64", "kpc", "centre in the snapshot's box"),
    "bulk_velocity": Array(("galaxy", "xyz"), "float64", "km/s", "the galaxy's own motion, taken out of the maps"),
    "has_gas": Array(("galaxy",), "uint8", "1", "0 for a galaxy without gas: its gas maps are empty"),
    "status": Array(("galaxy",), "uint8", "1", "0 pending, 1 done, 2 failed (see failures.jsonl)"),
}


def channels() -> list[str]:
    """Names along the channel axis."""
    return [f"{tracer}_{channel}" for tracer in TRACERS for channel in CHANNELS]


def provenance() -> dict[str, Any]:
    """Software versions and git commit, for a store's or a run's attributes."""
    names = ("numpy", "numba", "yt", "zarr", "mpi4py")
    here = Path(__file__).parent
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        commit = git.stdout.strip() or "unknown"
    except OSError:
        commit = "unknown"
    return {"versions": {name: version(name) for name in names}, "commit": commit}


def create_suite(store: Path, suite: str, galaxies: list[str], config: dict[str, Any]) -> zarr.Group:
    """Create a suite's group with its final shape, or open it to go on with.

    config must hold `views` and `pixels`. Made aside and renamed, so a group is whole or not
    there. Raises StoreError when the group exists with another configuration or other galaxies.
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
        if list(group["galaxy"][:]) != galaxies:
            raise StoreError(f"{path} holds other galaxies than the suite has now; write to a new --out")
        return group
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
    for name, spec in ARRAYS.items():
        shape = tuple(sizes[dim] for dim in spec.dims)
        group.create_array(
            name,
            shape=shape,
            chunks=(1, *shape[1:]),
            dtype=spec.dtype,
            fill_value=np.nan if spec.dtype.startswith("float") else 0,
            dimension_names=spec.dims,
            attributes={"units": spec.units, "long_name": spec.meaning},
        )
    for name, labels in (("galaxy", galaxies), ("channel", channels()), ("component", list(COMPONENTS))):
        array = group.create_array(
            name, shape=(len(labels),), chunks=(len(labels),), dtype=str, dimension_names=(name,)
        )
        array[:] = np.array(labels, dtype=np.dtypes.StringDType())
    os.rename(aside, path)
    return open_suite(store, suite)


def write_galaxy(group: zarr.Group, index: int, record: dict[str, np.ndarray]) -> None:
    """Write every array of one galaxy, its status last. Only one process may write a galaxy."""
    for name in ARRAYS:
        if name != "status":
            group[name][index] = record[name]
    group["status"][index] = DONE


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
            "run `python -m gen maps` again"
        )
    missing = [name for name in ARRAYS if name not in group]
    if missing:
        raise StoreError(f"{store / suite} lacks {', '.join(missing)}; it is damaged or no map store")
    return group


def suites(store: Path) -> list[str]:
    """Names of a store's suites. Raises StoreError when there is no store."""
    if not (store / "zarr.json").is_file():
        raise StoreError(f"{store} is no map store; make one with `python -m gen maps`")
    return sorted(p.parent.name for p in store.glob("*/zarr.json") if not p.parent.name.startswith("."))
