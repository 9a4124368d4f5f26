"""VELOCIraptor (Elahi et al. 2019), haloes and their subhaloes of SWIFT, GADGET and other codes, in HDF5."""

from pathlib import Path

import h5py
import numpy as np

from kinmass.gen.catalogues.base import Halo, factor_of_h, listed, need, numbered_parts, numbers, same_epoch, stacked
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget_header import scalar

#: Names of the parts that several processes write.
_PARTS = r".*\.properties\.(\d+)"
_NEEDED = {"ID", "Structuretype", "Xcmbp", "Ycmbp", "Zcmbp"}
#: Places of a halo: of its most bound particle, its centre of mass and its deepest particle.
_PLACES = ("cmbp", "c", "cminpot")
_OPTIONAL = {"R_200crit", "Mass_200crit", "Mass_tot", "npart", "n_star", "M_star", "R_size"} | {
    f"{axis}{place}" for place in _PLACES[1:] for axis in "XYZ"
}
#: Values of Structuretype (its allvars.h): haloes, whose subhaloes have 20, 30 and so on, and the groups that
#: `Keep_FOF` keeps beside the haloes that were found in them.
_HALO, _FOF_GROUP = 10, 7
#: Its numbers in words have six decimals.
_ROUNDING = 5e-7


def _said(path: Path, *names: str) -> float | None:
    """Return the first of the named attributes of the file, or of its groups of words; None if it has none of them."""
    with h5py.File(path, "r") as file:
        groups = [file, *(file[name] for name in ("UnitInfo", "SimulationInfo") if name in file)]
        return next((scalar(g.attrs[name], name) for name in names for g in groups if name in g.attrs), None)


def _units(path: Path, units: CodeUnits) -> tuple[float, float]:
    """Return the catalogue's units in physical kpc and Msun; comoving ones have factors of h, physical ones none.

    Its `ConverttoComove` multiplies lengths by h / a and masses by h. Raises SnapshotError where it does not say.
    """
    names = ("Length_unit_to_kpc", "Mass_unit_to_solarmass", "Comoving_or_Physical")
    said = [_said(path, name) for name in names]
    if missing := [name for name, value in zip(names, said, strict=True) if value is None]:
        raise SnapshotError(f"{path}: says no {', '.join(missing)}; is `catalogue.format` right? If so, get it again")
    length, mass, comoving = (0.0 if value is None else value for value in said)
    if not (0 < length < np.inf and 0 < mass < np.inf and comoving in (0, 1)):
        raise SnapshotError(
            f"{path}: units of {length:g} kpc and {mass:g} Msun, comoving: {comoving:g}; damaged? Get it again"
        )
    if not comoving:
        return length, mass
    h = _said(path, "h_val") or factor_of_h(path, units)
    return length * units.scale_factor / h, mass / h


def _check(path: Path, units: CodeUnits, n_haloes: int) -> None:
    """Raise SnapshotError where, by the first file, haloes are missing, OtherEpoch for another time's."""
    with h5py.File(path, "r") as file:
        need(path, "the file", {"Total_num_of_groups"}, file)
        n_stated = scalar(numbers(path, file["Total_num_of_groups"]), "Total_num_of_groups")
    if n_stated != n_haloes:
        raise SnapshotError(f"{path}: {n_haloes} haloes of {n_stated:.0f}; have all files of the catalogue")
    a = _said(path, "Time", "ScaleFactor")
    if units.cosmological and a is not None and _said(path, "Cosmological_Sim") != 0:
        same_epoch(path, a, units, tolerance=_ROUNDING)


def _most_bound(table: dict[str, np.ndarray]) -> np.ndarray:
    """Return the places (N, 3) of the most bound particles, in the catalogue's unit.

    Until June 2019 it wrote one place of a halo, by default its centre of mass, and others as offsets from that (its
    commit 3bab5ba, "No long adjust returned positions to reference frame").
    """
    places = {
        place: np.stack([table[f"{axis}{place}"] for axis in "XYZ"], axis=1)
        for place in _PLACES
        if all(f"{axis}{place}" in table for axis in "XYZ")
    }
    far = {place: float(np.median(np.linalg.norm(pos, axis=1))) for place, pos in places.items()}
    farthest = max(far, key=far.__getitem__)
    # All places of a halo are as far from the origin, unless it surrounds that, as that of an isolated run does.
    is_offset = far["cmbp"] < 0.5 * far[farthest] and far[farthest] > float(np.median(table.get("R_size", 0.0)))
    return places["cmbp"] + places[farthest] if is_offset else places["cmbp"]


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Read `*.properties`, or all its parts from `*.properties.0`; a halo is a central, its subhaloes are satellites.

    Units are those of the file's attributes. Centres are the most bound particles. Centrals have R200c and M200c,
    satellites their own mass; stars and numbers of particles are those of the object without its subhaloes. Names are
    its IDs, which count from 1. Raises OtherEpoch, or SnapshotError for a damaged or incomplete catalogue.
    """
    table = stacked(numbered_parts(path, _PARTS, always=True), "/", _NEEDED, _OPTIONAL)
    kpc_per_unit, msun_per_unit = _units(path, units)
    _check(path, units, len(table["ID"]) if table else 0)
    if not table:
        return []
    table = {name: values[table["Structuretype"] != _FOF_GROUP] for name, values in table.items()}
    central = table["Structuretype"] == _HALO
    unknown = np.full(len(central), np.nan)
    r200, m200, bound = (table.get(name, unknown) for name in ("R_200crit", "Mass_200crit", "Mass_tot"))
    halo_mass = np.where(central, np.where(m200 > 0, m200, np.nan), bound)
    return listed(
        table["ID"].tolist(),
        _most_bound(table) * kpc_per_unit,
        r200_kpc=np.where(central, r200 * kpc_per_unit, np.nan),
        n_stars=table.get("n_star"),
        n_particles=table.get("npart"),
        central=central,
        halo_mass_msun=halo_mass * msun_per_unit,
        stellar_mass_msun=table["M_star"] * msun_per_unit if "M_star" in table else None,
    )
