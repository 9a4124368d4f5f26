"""SUBFIND (Springel et al. 2001) in HDF5: the layout of AREPO and GADGET-4, and the layout of EAGLE."""

from pathlib import Path

import h5py
import numpy as np

from kinmass.gen.catalogues.base import (
    Halo,
    Kinds,
    code_units,
    factor_of_h,
    header,
    listed,
    need,
    of_types,
    same_epoch,
    stacked,
)
from kinmass.gen.constants import KPC_CM, MSUN_G
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget_header import files_of, scalar
from kinmass.gen.formats.gadget_units import in_round_units

#: -1 where it is kept in 32 bits without a sign, as GroupFirstSub of Illustris.
NO_SUBHALO = 2**32 - 1


def _check(path: Path, n_groups: int, n_subhaloes: int, units: CodeUnits) -> None:
    """Raise SnapshotError when, by its Header, groups or subhaloes are missing or the time is not the snapshot's.

    Without all groups a subhalo would have the radius and the mass of another's group: they are known by their rows.
    """
    n_stated = header(path, "Nsubgroups_Total", "Nsubhalos_Total", "TotNsubgroups")
    if n_stated is None and n_subhaloes == 0:
        raise SnapshotError(f"{path}: no Header and no subhaloes; is `catalogue.format` right?")
    groups_stated = header(path, "Ngroups_Total", "TotNgroups")
    for kind, n_found, n_due in (("subhaloes", n_subhaloes, n_stated), ("groups", n_groups, groups_stated)):
        if n_due is not None and n_due != n_found and n_stated != 0:
            raise SnapshotError(
                f"{path}: {n_found} {kind} of {n_due:.0f}; give the first of all files, `*.0.hdf5`, and have them all"
            )
    if (redshift := header(path, "Redshift")) is not None:
        same_epoch(path, 1 / (1 + redshift), units)


def _high_resolution(mass_type: np.ndarray | None, kinds: Kinds) -> np.ndarray | None:
    """Return the share (N,) of the mass in high-resolution particles from masses (N, 6) by type."""
    if mass_type is None:
        return None
    total_mass, coarse_mass = mass_type.sum(axis=1, dtype=float), of_types(mass_type, kinds.low_resolution)
    return 1 - np.divide(coarse_mass, total_mass, out=np.full(len(total_mass), np.nan), where=total_mass > 0)


def read(path: Path, snapshot: Path, units: CodeUnits, kinds: Kinds) -> list[Halo]:
    """Read `fof_subhalo_tab_*.hdf5`, in its units or else the snapshot's (TNG data specifications: kpc/h, 1e10 Msun/h).

    The first subhalo of a group is its central and has the group's R200 and M200. Subhaloes with
    SubhaloFlag 0, which are not of cosmological origin, are left out. Names are row numbers in the catalogue.
    Raises OtherEpoch, or SnapshotError for a damaged or incomplete catalogue.
    """
    files = files_of(path)
    group = stacked(files, "Group", {"GroupFirstSub", "Group_R_Crit200"}, {"GroupNsubs", "Group_M_Crit200"})
    sub = stacked(
        files,
        "Subhalo",
        {"SubhaloPos", "SubhaloLenType"},
        {"SubhaloLen", "SubhaloMass", "SubhaloMassType", "SubhaloFlag"},
    )
    n = len(sub["SubhaloPos"]) if sub else 0
    _check(path, len(group["GroupFirstSub"]) if group else 0, n, units)
    if n == 0:
        return []
    if not group:
        raise SnapshotError(f"{path}: subhaloes without a Group; damaged? Get it again")
    kpc_per_unit, msun_per_unit = code_units(path, units)
    # GroupFirstSub of a group without subhaloes is -1, or in older codes the first subhalo of the next group.
    first = group["GroupFirstSub"].astype(np.int64)
    first[first == NO_SUBHALO] = -1
    has_subhaloes = (first >= 0) & (group.get("GroupNsubs", np.ones(len(first))) > 0)
    if np.any(first[has_subhaloes] >= n):
        raise SnapshotError(f"{path}: GroupFirstSub points beyond the last of {n} subhaloes; damaged? Get it again")
    central = np.zeros(n, dtype=bool)
    central[first[has_subhaloes]] = True
    r200 = np.full(n, np.nan)
    r200[first[has_subhaloes]] = group["Group_R_Crit200"][has_subhaloes] * kpc_per_unit
    bound_mass, mass_by_type = sub.get("SubhaloMass"), sub.get("SubhaloMassType")
    halo_mass = np.full(n, np.nan) if bound_mass is None else bound_mass.astype(float) * msun_per_unit
    if "Group_M_Crit200" in group:
        halo_mass[first[has_subhaloes]] = group["Group_M_Crit200"][has_subhaloes] * msun_per_unit
    stars = of_types(sub["SubhaloLenType"], kinds.stars)
    if "SubhaloFlag" in sub:
        stars = np.where(sub["SubhaloFlag"] == 0, 0, stars)
    return listed(
        range(n),
        sub["SubhaloPos"] * kpc_per_unit,
        r200_kpc=r200,
        n_stars=stars,
        n_particles=sub.get("SubhaloLen"),
        central=central,
        halo_mass_msun=halo_mass,
        stellar_mass_msun=None if mass_by_type is None else of_types(mass_by_type, kinds.stars) * msun_per_unit,
        high_res_fraction=_high_resolution(mass_by_type, kinds),
    )


def _physical(files: list[Path], name: str, units: CodeUnits, cgs: float, default_unit: float) -> float:
    """Return a dataset's physical unit by EAGLE's attributes, in the unit that is `cgs` in cgs.

    default_unit where the dataset has none.
    """
    for path in files:
        with h5py.File(path, "r") as file:
            if name in file and "CGSConversionFactor" in file[name].attrs:
                attrs = file[name].attrs
                need(path, name, {f"{x}-scale-exponent" for x in ("aexp", "h")}, attrs)
                a, h = (scalar(attrs[f"{x}-scale-exponent"]) for x in ("aexp", "h"))
                unit = in_round_units(scalar(attrs["CGSConversionFactor"]) / cgs)
                return unit * units.scale_factor**a * factor_of_h(path, units, h)
    return default_unit


def read_eagle(path: Path, snapshot: Path, units: CodeUnits, kinds: Kinds) -> list[Halo]:
    """Read `eagle_subfind_tab_*.hdf5` (The EAGLE team 2017): SubGroupNumber 0 is the central of FOF group GroupNumber.

    Units are those of the datasets' attributes, else the snapshot's. Stellar masses are those within
    30 kpc, where the catalogue has them. Names are GroupNumber_SubGroupNumber. Raises OtherEpoch, or
    SnapshotError for a damaged or incomplete catalogue.
    """
    files = files_of(path)
    fof = stacked(files, "FOF", {"Group_R_Crit200"}, {"Group_M_Crit200"})
    aperture = "ApertureMeasurements/Mass/030kpc"
    sub = stacked(
        files,
        "Subhalo",
        {"CentreOfPotential", "GroupNumber", "SubGroupNumber"},
        {"SubLength", "SubLengthType", "Mass", "MassType", aperture},
    )
    n = len(sub["GroupNumber"]) if sub else 0
    _check(path, len(fof["Group_R_Crit200"]) if fof else 0, n, units)
    if n == 0:
        return []
    host = sub["GroupNumber"].astype(np.int64) - 1
    if not fof or host.min() < 0 or host.max() >= len(fof["Group_R_Crit200"]):
        raise SnapshotError(f"{path}: a GroupNumber has no FOF group; have all files of the catalogue")
    central = sub["SubGroupNumber"] == 0

    def length(table: dict[str, np.ndarray], group: str, name: str) -> np.ndarray:
        """Return a dataset of lengths in physical kpc."""
        return table[name] * _physical(files, f"{group}/{name}", units, KPC_CM, units.length_kpc)

    def mass(table: dict[str, np.ndarray], group: str, name: str) -> np.ndarray | None:
        """Return a dataset of masses in Msun, None where it is missing."""
        return (
            table[name] * _physical(files, f"{group}/{name}", units, MSUN_G, units.mass_msun) if name in table else None
        )

    m200, bound, mass_by_type = mass(fof, "FOF", "Group_M_Crit200"), mass(sub, "Subhalo", "Mass"), sub.get("MassType")
    of_satellite = np.full(n, np.nan) if bound is None else bound
    stellar = mass(sub, "Subhalo", aperture if aperture in sub else "MassType")
    lengths = sub.get("SubLengthType")
    return listed(
        [f"{g + 1}_{s}" for g, s in zip(host, sub["SubGroupNumber"], strict=True)],
        length(sub, "Subhalo", "CentreOfPotential"),
        r200_kpc=np.where(central, length(fof, "FOF", "Group_R_Crit200")[host], np.nan),
        n_stars=None if lengths is None else of_types(lengths, kinds.stars),
        n_particles=sub.get("SubLength"),
        central=central,
        halo_mass_msun=of_satellite if m200 is None else np.where(central, m200[host], of_satellite),
        stellar_mass_msun=None if stellar is None else of_types(stellar, kinds.stars),
        high_res_fraction=_high_resolution(mass_by_type, kinds),
    )
