"""What every halo catalogue is turned into, and what their readers share."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.constants import KPC_CM, MSUN_G
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget import in_round_units, scalar
from kinmass.gen.formats.stored import check_complete


@dataclass(frozen=True, slots=True)
class Halo:
    """One entry of a catalogue; None is unknown. Masses are its own: M200 (or Mvir) of a central, what is bound to a
    satellite."""

    name: str
    centre_kpc: np.ndarray | None  # (3,) physical, in the snapshot's own box; None: to be found
    r200_kpc: float | None = None
    n_stars: int | None = None
    n_particles: int | None = None
    central: bool | None = None
    halo_mass_msun: float | None = None
    stellar_mass_msun: float | None = None
    high_res_fraction: float | None = None  # by mass, 0 to 1
    lineage: str | None = None  # name of the object's history


_KIND: dict[str, type] = {"n_stars": int, "n_particles": int, "central": bool, "lineage": str}


def listed(names: Sequence[Any] | np.ndarray, centre_kpc: np.ndarray, **columns: Any) -> list[Halo]:
    """Rows of a catalogue from names, centres (N, 3) [kpc] and columns (N,) named as Halo's fields.

    A column that is None, an entry that is None or not finite, and a radius of zero are unknown.
    Entries known to have no star at all are left out: box catalogues are mostly these.
    Raises ValueError for columns of different lengths.
    """
    centre_kpc = np.asarray(centre_kpc, dtype=float)
    if centre_kpc.shape != (len(names), 3):
        raise ValueError(f"positions of shape {centre_kpc.shape} for {len(names)} entries")
    given = {key: values for key, values in columns.items() if values is not None}
    if odd := [key for key, values in given.items() if len(values) != len(names)]:
        raise ValueError(f"{len(given[odd[0]])} values of {odd[0]} for {len(names)} entries")

    def known(key: str, value: Any) -> Any:
        if value is None or (key == "r200_kpc" and not value > 0):
            return None
        return _KIND.get(key, float)(value) if key == "lineage" or math.isfinite(value) else None

    starry = np.flatnonzero(np.asarray(given["n_stars"]) != 0) if "n_stars" in given else range(len(names))
    return [
        Halo(str(names[i]), centre_kpc[i], **{key: known(key, values[i]) for key, values in given.items()})
        for i in map(int, starry)
    ]


#: Catalogues and snapshots of one time agree to this in a; TNG's last two snapshots differ by a hundred times more.
SAME_A = 1e-4


class OtherEpoch(SnapshotError):
    """A catalogue that was made from another snapshot of its run."""


def same_epoch(path: Path, scale_factor: float, units: CodeUnits, rounded: float = 0.0) -> None:
    """Raises OtherEpoch when a catalogue was not made from this snapshot; rounded: how far its word may be off."""
    if not abs(scale_factor - units.scale_factor) <= SAME_A * units.scale_factor + rounded:
        raise OtherEpoch(
            f"{path}: made at a = {scale_factor:.6g}, the snapshot at a = {units.scale_factor:.6g}; "
            "check `catalogue.path`"
        )


def text_table(path: Path, needed: set[str], wanted: set[str]) -> tuple[dict[str, list[str]], str]:
    """Columns by lower-case name, and the comments, of a text table under a line `#name(1) name(2) ...`.

    Words stay text: AHF's IDs do not fit a float. Raises SnapshotError for a file without the names
    that are needed, or cut short.
    """
    comments = ""
    with open(path) as file:
        # Lines of a megabyte are no table: a binary file is not swallowed whole.
        first = file.readline(1 << 20)
        names = [re.sub(r"\(\d+\)$", "", word).lower() for word in first.lstrip("#").split()]
        if not first.startswith("#"):
            raise SnapshotError(f"{path}: does not begin with a line of column names; is `catalogue.format` right?")
        need(path, "its first line", needed, names)
        columns: dict[str, list[str]] = {name: [] for name in names if name in needed | wanted}
        places = {name: names.index(name) for name in columns}
        for line in iter(lambda: file.readline(1 << 20), ""):
            if line.startswith("#"):
                comments += line
            elif words := line.split():
                if len(words) < len(names) or not line.endswith("\n"):
                    raise SnapshotError(f"{path}: {len(words)} columns under {len(names)} names; cut short?")
                for name, place in places.items():
                    columns[name].append(words[place])
    return columns, comments


def need(path: Path, where: str, needed: Iterable[str], there: Iterable[str]) -> None:
    """Raises SnapshotError naming the columns that are not there."""
    if missing := sorted(set(needed) - set(there)):
        raise SnapshotError(f"{path}: {where} has no {', '.join(missing)}")


def members(path: Path, file: h5py.File, name: str) -> Any:
    """A group of a file, or nothing where it is not there. Raises SnapshotError for a dataset in its place."""
    found = file.get(name, {})
    if isinstance(found, h5py.Dataset):
        raise SnapshotError(f"{path}: {name} is no group; is `catalogue.format` right?")
    return found


def numbers(path: Path, data: Any) -> np.ndarray:
    """All of an HDF5 dataset, floats as float64.

    Raises SnapshotError for one without numbers, or whose numbers are not all there.
    """
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "iufb" or not data.shape:
        raise SnapshotError(f"{path}: {data.name} is no array of numbers")
    check_complete(f"{path}: {data.name}", data)
    return data[()].astype(float) if data.dtype.kind == "f" else data[()]


def stacked(files: list[Path], group: str, needed: set[str], wanted: set[str]) -> dict[str, np.ndarray]:
    """Datasets of one HDF5 group joined over files; those without entries lack them. Empty where no file has entries.

    Raises SnapshotError naming the file that lacks a needed one, or where rows do not match.
    """
    parts: list[dict[str, np.ndarray]] = []
    for path in files:
        with h5py.File(path, "r") as file:
            found = members(path, file, group)
            there = {name: numbers(path, found[name]) for name in needed | wanted if name in found}
        if there:
            need(path, group, needed, there)
            if len({len(values) for values in there.values()}) > 1:
                raise SnapshotError(f"{path}: the datasets of {group} differ in length; damaged?")
            parts.append(there)
    names = set.intersection(*(set(part) for part in parts)) if parts else set()
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def header(path: Path, *names: str) -> float | None:
    """The first of some Header attributes that a file has."""
    with h5py.File(path, "r") as file:
        attrs = file["Header"].attrs if "Header" in file else {}
        return next((scalar(attrs[name]) for name in names if name in attrs), None)


def code_units(path: Path, units: CodeUnits) -> tuple[float, float]:
    """Worth in kpc and Msun of the catalogue's code units, factors of a and h included.

    By its own word, before a and h; without one the units are the snapshot's, whose code has written both.
    """
    worth = {"UnitLength_in_cm": KPC_CM, "UnitMass_in_g": MSUN_G}
    usual = {
        "UnitLength_in_cm": (units.length_kpc, units.scale_factor / units.hubble),
        "UnitMass_in_g": (units.mass_msun, 1 / units.hubble),
    }
    with h5py.File(path, "r") as file:
        said = [file[group].attrs for group in ("Units", "Parameters", "Header") if group in file]
        own = {
            name: next((in_round_units(scalar(attrs[name]) / cgs) for attrs in said if name in attrs), None)
            for name, cgs in worth.items()
        }
    length, mass = (usual[name][0] if own[name] is None else own[name] * usual[name][1] for name in worth)  # type: ignore[operator]
    return length, mass
