"""The map store: the table ARRAYS describes every array, for writer, readers, tests and docs; here it is read."""

import contextlib
import errno
import json
import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from kinmass.gen.storage import journal
from kinmass.gen.storage.chunk_files import ChunkFiles

SCHEMA_VERSION = 3
PENDING, DONE, FAILED = 0, 1, 2
#: What is said of a galaxy that cannot be read. It is never written.
DAMAGED = 251
TRACERS = ("stars", "gas")
#: What `gen.physics.projection` makes of each tracer, in its order.
CHANNELS = ("density", "velocity", "dispersion", "count")
COMPONENTS = ("total", "dark", "stars", "gas")


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


#: What is stored of one galaxy, by the arrays' names.
Record = dict[str, np.ndarray]


def read(group: zarr.Group, name: str, select: Any = slice(None)) -> np.ndarray:
    """Read group[name] of some galaxies; select is a slice, an array of their numbers, or one number.

    A galaxy that is not done and is just being written, or whose writer was killed, has the array's fill value. Raises
    StoreError naming the galaxy that cannot be read, or that is done and of which nothing is there.
    """
    array: zarr.Array[Any] = group[name]  # type: ignore[assignment]  # looked up once, for that reads a file
    numbers = np.arange(array.shape[0])[select]
    try:
        values = np.asarray(array.oindex[select] if isinstance(select, np.ndarray) else array[select])
    except OSError:
        raise
    except Exception:  # each codec raises errors of its own
        each = [_read_one(group, name, int(number)) for number in np.atleast_1d(numbers)]
        values = np.stack(each) if np.ndim(numbers) else each[0]
    if name in MARKED:
        rows, numbers = (values, numbers) if np.ndim(numbers) else (values[None], numbers[None])
        for number in numbers[empty_rows(name, rows)]:
            # A galaxy that was written since is there by now: its status is written last.
            if group["status"][number] == DONE and len(empty_rows(name, np.asarray(array[number])[None])):  # type: ignore[index]
                raise _unwritten(group, name, group["galaxy"][number])  # type: ignore[index]
    return values


def empty_rows(name: str, values: np.ndarray) -> np.ndarray:
    """List the rows of values (N, ...) of the array `name` that hold its fill value alone, as a missing chunk does."""
    fill = ARRAYS[name].fill
    nothing = np.isnan if np.isnan(fill) else partial(np.equal, fill)
    rows = values.reshape(len(values), math.prod(values.shape[1:]))
    suspects = np.flatnonzero(nothing(rows[:, 0]))  # few, so that maps are not all looked through
    return suspects[[bool(nothing(rows[i]).all()) for i in suspects]]


def _unwritten(group: zarr.Group, name: str, galaxy: str) -> StoreError:
    """Make the error of a finished galaxy of which an array holds nothing."""
    return StoreError(
        f"{group.store_path.store.root}: {name} of galaxy {galaxy} was never written, or deleted; "  # type: ignore[attr-defined]
        "give the command that made the store again, with --repair"
    )


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

    Raises StoreError where they are damaged or missing: nothing else says which galaxy is which.
    """
    array: zarr.Array[Any] = group[name]  # type: ignore[assignment]
    try:
        if array.size and not array.nchunks_initialized:
            raise ValueError("its chunk is missing")  # and zarr would read empty names
        return np.asarray(array[:])
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

    galaxies: names (G,). The values are those of group[name].
    """
    if len(missing := empty_rows(name, values)):
        raise _unwritten(group, name, galaxies[missing[0]])


def is_damaged(group: zarr.Group, index: int) -> bool:
    """Whether some array of a finished galaxy cannot be read, was never written, or is another galaxy's than its R_e.

    So are those of a copy that was broken off between arrays, over an older one.
    """
    try:
        record, config = read_galaxy(group, index), group.attrs["config"]
    except (StoreError, OSError):
        return True
    return not scales_fit(record["pixel_scale"], record["half_mass_radius"], config).all()


def scales_fit(pixel_scale_kpc: np.ndarray, half_mass_radius_kpc: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Whether pixels, of any shape, have the side that follows from R_e of the same shape, as they do in one galaxy."""
    re_kpc = pixel_scale_kpc.astype(float) * config["pixels"] / config["field_of_view_re"]
    return np.asarray(np.isclose(re_kpc, half_mass_radius_kpc, rtol=1e-5))


def open_suite(store: Path, suite: str) -> zarr.Group:
    """Open a suite's group and check it. Raises StoreError with what is wrong and which suites there are.

    >>> group = open_suite(Path("maps.zarr"), "quiet")
    >>> group["maps"].shape  # galaxies, views, channels of stars and of gas, pixels
    (12, 2, 8, 16, 16)
    >>> bool((group["status"][:] == DONE).all())
    True
    """
    group, arrays = _open_checked(store, suite)
    sizes = {array.shape[0] for array in arrays.values()}
    if len(sizes) > 1:
        raise StoreError(
            f"{store / suite} has arrays of {' and '.join(map(str, sorted(sizes)))} galaxies: a process was killed "
            "while it added some; give the command that made the store again"
        )
    return group


def open_growing(store: Path, suite: str) -> zarr.Group:
    """Open a suite's group as `open_suite` does, also where arrays are of different lengths."""
    return _open_checked(store, suite)[0]


def _open_checked(store: Path, suite: str) -> tuple[zarr.Group, dict[str, zarr.Array]]:
    """Open a suite's group and its arrays, each once: zarr takes longer over that than over reading a number."""
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
    return group, arrays


def _opened(files: ChunkFiles, path: Path) -> tuple[zarr.Group, dict[str, Any]]:
    """Open a suite's group and those of its arrays that are there. Raises StoreError naming a damaged file."""
    place = path
    try:
        group = zarr.open_group(files, mode="r+", use_consolidated=False)
        arrays = {}
        for name in (*ARRAYS, "galaxy", "lineage"):
            place = path / name
            if (array := group.get(name)) is not None:
                arrays[name] = array
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


def closed_folders(store: Path) -> list[str]:
    """List the names of a store's folders that may not be looked into, as of suites that somebody else has mapped.

    `suites` does not see them.
    """
    folders = (path for path in store.iterdir() if not path.name.startswith(".") and path.is_dir())
    return sorted(path.name for path in folders if not os.access(path, os.X_OK))


def refuse_inside(folder: Path) -> None:
    """Raise StoreError for a folder for results that is a map store, or in one: what is in it would count as suites."""
    for place in (folder.resolve(), *folder.resolve().parents):
        if (place / "zarr.json").is_file():
            raise StoreError(f"{folder} is in the map store {place}, where results do not belong; give another --out")


def named_suites(store: Path, names: str | None) -> list[str]:
    """Return the suites that an option names, comma-separated; all of the store where it is left out.

    One that is named twice counts once: twice as many galaxies would not be there. Raises StoreError for a name that
    the store does not have, and for one that may not be looked into: of all suites it would be missed without a word.
    """
    there = suites(store)
    for closed in closed_folders(store):
        if names is None or closed in [name.strip() for name in names.split(",")]:
            raise StoreError(
                f"{store / closed} may not be looked into by you: ask its owner for that (`chmod -R a+rX`), or name "
                f"the suites that you mean, of {', '.join(there) or 'none'}"
            )
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
