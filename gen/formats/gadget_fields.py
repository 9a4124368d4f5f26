"""The particle groups of the Gadget HDF5 family: their types and fields, and the names under which codes write them."""

import re
from collections.abc import Collection
from pathlib import Path

import h5py
import numpy as np

from kinmass.gen.formats.base import SnapshotError
from kinmass.gen.formats.stored import checked

# Fields that yt shall see, and the names under which gen.snapshots.snapshot reads them: EAGLE and SWIFT use other
# names, and so do newer versions of GIZMO (KernelMaxRadius). All other fields are hidden from yt (EAGLE's element
# abundances would make it download tables).
LINKED_FIELDS = {
    name: name
    for name in (
        "Coordinates", "Velocities", "Masses", "Density", "SmoothingLength", "GFM_StellarFormationTime",
        "InternalEnergy", "ElectronAbundance", "StarFormationRate", "Temperature", "NeutralHydrogenAbundance",
        "FractionH2", "Swallowed",
    )
} | {
    "Velocity": "Velocities", "Mass": "Masses", "DynamicalMasses": "Masses", "Densities": "Density",
    "SmoothingLengths": "SmoothingLength", "KernelMaxRadius": "SmoothingLength", "Temperatures": "Temperature",
    "StarFormationRates": "StarFormationRate",
}  # fmt: skip
#: Fields that no code writes as whole numbers: these are steps of a length that only their writer knows.
CONTINUOUS = {"Coordinates", "Velocities", "SmoothingLength", "Density", "InternalEnergy", "Temperature"}
_PHOTOMETRIC_BANDS = ("U", "B", "V", "K", "g", "r", "i", "z")  # columns of GFM_StellarPhotometrics (TNG)
SHAPES = {"Coordinates": (3,), "Velocities": (3,)}  # shape of one particle's entry; all other fields have one number
TYPES = range(6)  # the particle types that yt reads; SWIFT's PartType6 are neutrinos


def particle_groups(path: Path, file: h5py.File) -> dict[int, h5py.Group]:
    """Return the particle groups of a file by their number. Raises SnapshotError for a link to nothing."""
    groups, names = {}, set(file)  # `name in file` is not reliable for broken links
    for number in TYPES:
        if (name := f"PartType{number}") in names:
            groups[number] = file.get(name)
            if groups[number] is None:
                raise SnapshotError(f"{path}: {name} is a link to nothing; put the file that it names beside it")
    return groups


def check_no_other_types(path: Path, file: h5py.File, left_out: Collection[str]) -> None:
    """Raise SnapshotError for particles of a type that is not read, and not in left_out: they would have no mass."""
    for name in set(file) - set(left_out):
        if (match := re.fullmatch(r"PartType(\d+)", name)) and int(match[1]) not in TYPES:
            pos = file[name].get("Coordinates") if isinstance(file.get(name), h5py.Group) else None
            if isinstance(pos, h5py.Dataset) and pos.size:
                raise SnapshotError(
                    f"{path}: {len(pos)} particles of {name}, and types above 5 are not read: their mass would be "
                    "nobody's; write them as one of the types 0 to 5"
                )


def types_of(counts: np.ndarray) -> set[str]:
    """Return the names of the types of which there are particles, by counts (6,)."""
    return {f"PartType{number}" for number in np.flatnonzero(counts)}


def types_in(path: Path, file: h5py.File) -> set[str]:
    """Return the types of which a file has particles."""
    groups = {n: group for n, group in particle_groups(path, file).items() if isinstance(group, h5py.Group)}
    rows = {n: group.get("Coordinates") for n, group in groups.items()}
    return {f"PartType{n}" for n, pos in rows.items() if isinstance(pos, h5py.Dataset) and pos.size}


def holds_particles(path: Path, group: h5py.Group) -> bool:
    """Tell whether a group holds particles. Raises SnapshotError when it does, but lacks positions."""
    if not isinstance(group, h5py.Group):
        raise SnapshotError(f"{path}: {group.name} is no group of datasets; damaged? Get it again")
    if "TracerID" in group or len(group) == 0:
        return False  # TNG's tracers stand for gas that is there; some tools add places to them, MassTable has a mass
    if all(isinstance(item, h5py.Dataset) and not item.size for item in map(group.get, group)):
        return False  # codes write empty datasets of any shape, or without one, for types without particles
    if "Coordinates" not in group:
        raise SnapshotError(f"{path}: {group.name} lacks Coordinates; cut it out with them")
    if not checked(path, group, "Coordinates").shape:
        raise SnapshotError(f"{path}: {group.name}/Coordinates is a single number; damaged? Get it again")
    return True


def find_column(path: Path, group: h5py.Group, selector: str) -> tuple[h5py.Dataset | None, int | None]:
    """Return the dataset and column that `Name` or `Name[column]` selects; (None, None) without such a dataset.

    Columns are given by number, by TNG's bands, or by the names in SWIFT's NamedColumns group. Raises
    SnapshotError for a column that is not there.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[(.+)\])?", selector)
    if match is None or not isinstance(group.get(match[1]), h5py.Dataset):
        return None, None
    dataset, column = group[match[1]], match[2]
    if dataset.ndim == 1 and column is None:
        return dataset, None
    if dataset.shape[1:] == (1,) and column is None:
        return dataset, 0
    columns = group.file.get(f"SubgridScheme/NamedColumns/{match[1]}")
    bands = _PHOTOMETRIC_BANDS if "Photometrics" in match[1] else ()  # other codes have other bands in these columns
    names = list(bands) if columns is None else [str(n, "utf-8").strip("\0 ") for n in columns[()]]
    index = int(column) if column and column.isdigit() else names.index(column) if column in names else -1
    if dataset.ndim != 2:
        raise SnapshotError(f"{path}: {dataset.name} of shape {dataset.shape} has no columns; give `{match[1]}` alone")
    if not 0 <= index < dataset.shape[1]:
        what = "several columns, and one is needed" if column is None else f"no column {column}"
        raise SnapshotError(
            f"{path}: {dataset.name} of shape {dataset.shape} has {what}; give `{match[1]}[column]` with its number"
            + (f" or {', '.join(names)}" if names else "")
        )
    return dataset, index
