"""HBT+ (Han et al. 2018) and HBT-HERONS (Forouhar Moreno et al. 2025), subhaloes that are followed in time, in HDF5."""

from pathlib import Path

import h5py
import numpy as np

from kinmass.gen.catalogues.base import (
    Halo,
    Kinds,
    factor_of_h,
    listed,
    need,
    numbered_parts,
    numbers,
    of_types,
    rows_joined,
    same_epoch,
)
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget_header import scalar
from kinmass.gen.formats.stored import check_complete

#: Names of the parts that its processes write.
_PARTS = r"SubSnap_\d+\.(\d+)\.hdf5"
_NEEDED = ("TrackId", "Nbound", "Rank", "ComovingMostBoundPosition")
#: Radii and masses had names without "Bound" at first. Runs of dark matter alone have no types.
_OPTIONAL = (
    "Mbound",
    "NboundType",
    "MboundType",
    "BoundR200CritComoving",
    "BoundM200Crit",
    "R200CritComoving",
    "M200Crit",
)
#: The file beside the catalogues' folders with the run's parameters (its `DumpParameters`).
_LOG = "Parameters.log"


def _columns(path: Path) -> dict[str, np.ndarray]:
    """Read the columns of one file: members of HBT's records, or datasets where HERONS has sorted its subhaloes."""
    with h5py.File(path, "r") as file:
        need(path, "the file", {"Subhalos"}, file)
        data = file["Subhalos"]
        present = list(data) if isinstance(data, h5py.Group) else list(data.dtype.names or ())
        need(path, "Subhalos", _NEEDED, present)
        names = [name for name in (*_NEEDED, *_OPTIONAL) if name in present]
        if isinstance(data, h5py.Group):
            columns = {name: numbers(path, data[name]) for name in names}
        else:
            check_complete(f"{path}: {data.name}", data)
            rows = data.fields(names)[()]
            columns = {name: rows[name] for name in names}
    for name, values in columns.items():
        if values.dtype.kind not in "iuf" or len(values) != len(columns["TrackId"]):
            raise SnapshotError(f"{path}: {name} of Subhalos is no column of numbers; damaged? Get it again")
    return columns


def _number(path: Path, name: str) -> float | None:
    """Return the number in a dataset of one, None where there is none."""
    with h5py.File(path, "r") as file:
        return scalar(numbers(path, file[name]), name) if name in file else None


def logs(path: Path) -> list[Path]:
    """List the logs of a run's parameters in a catalogue's folder and the one above."""
    return [folder / _LOG for folder in path.absolute().parents[:2] if (folder / _LOG).is_file()]


def _units(path: Path, units: CodeUnits) -> tuple[float, float]:
    """Return the catalogue's units in physical kpc and Msun: comoving lengths, and all with factors of h.

    HERONS writes them into the catalogue; HBT+ has them in the log of its parameters alone. Raises SnapshotError
    where neither says them: they need not be the snapshot's.
    """
    names = ("LengthInMpch", "MassInMsunh")
    said = {name: value for name in names if (value := _number(path, f"Units/{name}")) is not None}
    if (found := logs(path)) and len(said) < len(names):
        words = (line.split() for line in found[0].read_text(encoding="utf-8", errors="replace").splitlines())
        said = {w[0]: scalar(w[1], f"{found[0]}: {w[0]}") for w in words if len(w) == 2 and w[0] in names} | said
    if missing := [name for name in names if not 0 < said.get(name, 0.0) < np.inf]:
        raise SnapshotError(
            f"{path}: says no {' and no '.join(missing)}, nor does a {_LOG} in its folder or the one above; put the "
            "run's there"
        )
    length, mass = (said[name] / factor_of_h(path, units) for name in names)
    return 1000 * length * units.scale_factor, mass


def _check(path: Path, units: CodeUnits, n_subhaloes: int) -> None:
    """Raise SnapshotError where, by the first file, subhaloes are missing, OtherEpoch for another time's."""
    n_stated = _number(path, "NumberOfSubhalosInAllFiles")
    if n_stated is not None and n_stated != n_subhaloes:
        raise SnapshotError(f"{path}: {n_subhaloes} subhaloes of {n_stated:.0f}; have all files of the catalogue")
    if units.cosmological and (a := _number(path, "Cosmology/ScaleFactor")) is not None:
        same_epoch(path, a, units)


def read(path: Path, snapshot: Path, units: CodeUnits, kinds: Kinds) -> list[Halo]:
    """Read `SubSnap_*.hdf5`, or all its parts from `*.0.hdf5`, or HERONS's `OrderedSubSnap_*.hdf5`.

    Centres are the most bound particles. A central, of rank 0 in its group or without one, has R200c and M200c, of
    what is bound to it; stars, numbers and a satellite's mass are of what is bound, too. Orphans, of which at most one
    particle is left, are left out. Names are TrackIds, which count from 0 and are the lineage. Raises OtherEpoch, or
    SnapshotError for a damaged or incomplete catalogue.
    """
    table = rows_joined(path, [_columns(part) for part in numbered_parts(path, _PARTS, always=True)])
    _check(path, units, len(table["TrackId"]))
    kpc_per_unit, msun_per_unit = _units(path, units)
    table = {name: values[table["Nbound"] > 1] for name, values in table.items()}
    central, unknown = table["Rank"] == 0, np.full(len(table["Rank"]), np.nan)
    r200, m200 = (
        table.get(f"Bound{name}", table.get(name, unknown)).astype(float) for name in ("R200CritComoving", "M200Crit")
    )
    bound = table.get("Mbound", unknown).astype(float)
    n_by_type, mass_by_type = table.get("NboundType"), table.get("MboundType")
    tracks = [str(track) for track in table["TrackId"].tolist()]
    return listed(
        tracks,
        table["ComovingMostBoundPosition"] * kpc_per_unit,
        r200_kpc=np.where(central, r200 * kpc_per_unit, np.nan),
        n_stars=None if n_by_type is None else of_types(n_by_type, kinds.stars),
        n_particles=table["Nbound"],
        central=central,
        halo_mass_msun=np.where(central, np.where(m200 > 0, m200, np.nan), bound) * msun_per_unit,
        stellar_mass_msun=None if mass_by_type is None else of_types(mass_by_type, kinds.stars) * msun_per_unit,
        lineage=tracks,
    )
