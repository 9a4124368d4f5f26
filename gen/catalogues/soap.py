"""SOAP (McGibbon et al. 2025), the subhaloes of COLIBRE, FLAMINGO and other SWIFT simulations, in HDF5."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.catalogues.base import Halo, factor_of_h, header, listed, members, need, numbers, same_epoch
from kinmass.gen.constants import KPC_CM, MSUN_G
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget_header import scalar
from kinmass.gen.formats.gadget_units import unit_by_attributes

_GROUPS = ("InputHalos", "InputHalos/HBTplus", "BoundSubhalo", "SO/200_crit")
#: Exponents of a dataset's base units, by which a length is told from a mass.
_LENGTH, _MASS = (KPC_CM, "U_L exponent"), (MSUN_G, "U_M exponent")


def _unit(path: Path, data: h5py.Dataset, kind: tuple[float, str], units: CodeUnits) -> float:
    """Return the unit of a dataset of lengths in physical kpc, or of masses in Msun, by its attributes.

    Raises SnapshotError for a dataset that does not say its unit, or is of another kind.
    """
    cgs, exponent = kind
    if scalar(data.attrs.get(exponent, 1.0), f"{data.name}: {exponent}") != 1:
        raise SnapshotError(f"{path}: {data.name} is no {'length' if kind is _LENGTH else 'mass'}; get the file again")
    if (scaling := unit_by_attributes(data.attrs, data.name, cgs)) is None:
        raise SnapshotError(f"{path}: {data.name} does not say its unit and its power of a; get the file again")
    unit, a_power, h_power = scaling
    return unit * units.scale_factor**a_power * factor_of_h(path, units, h_power)


def _check(path: Path, units: CodeUnits, n_subhaloes: int) -> None:
    """Raise SnapshotError where, by its Header, subhaloes are missing, OtherEpoch for another time's.

    A subset of them, as swiftsimio writes it, has its own number beside that of all.
    """
    with h5py.File(path, "r") as file:
        is_subset = "Header" in file and "Subset" in str(file["Header"].attrs.get("OutputType", ""))
    n_stated = header(path, "NumSubhalos_ThisFile" if is_subset else "NumSubhalos_Total")
    if n_stated is not None and n_stated != n_subhaloes:
        raise SnapshotError(f"{path}: {n_subhaloes} subhaloes of {n_stated:.0f}; get the whole file")
    if (a := header(path, "Scale-factor")) is not None:
        same_epoch(path, a, units)
    elif (z := header(path, "Redshift")) is not None:
        same_epoch(path, 1 / (1 + z), units)


def _rows(path: Path, group: Any, name: str, n: int) -> Any:
    """Return a dataset of n rows, None where it is missing. Raises SnapshotError for another shape."""
    if name not in group:
        return None
    values = numbers(path, group[name])
    shape = (n, 3) if name == "HaloCentre" else (n,)
    if values.shape != shape:
        raise SnapshotError(
            f"{path}: {group[name].name} is of shape {values.shape} where {shape} is due; damaged? Get it again"
        )
    return values


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Read `halo_properties_*.hdf5`; a central has R200c and M200c of SOAP's spherical overdensities.

    Units are those of the datasets' attributes. A satellite's mass, stars and all particle numbers are of what is bound
    to the subhalo. Names are row numbers in the catalogue; the lineage is HBT-HERONS's TrackId where that was the
    finder, as it is one object's at all times. Raises OtherEpoch, or SnapshotError for a damaged catalogue, or the
    layout of SOAP before 2024, whose groups have other names.
    """
    with h5py.File(path, "r") as file:
        if "BoundSubhaloProperties" in file:
            raise SnapshotError(f"{path}: in SOAP's layout of before 2024; make a table of it (`format: table`)")
        subhaloes, tracks, bound, sphere = (members(path, file, name) for name in _GROUPS)
        need(path, "InputHalos", {"HaloCentre", "IsCentral"}, subhaloes)
        need(path, "BoundSubhalo", {"NumberOfStarParticles"}, bound)
        n = len(numbers(path, subhaloes["HaloCentre"]))
        _check(path, units, n)

        def physical(group: Any, name: str, kind: tuple[float, str]) -> Any:
            """Return a dataset in kpc or Msun, None where it is missing."""
            values = _rows(path, group, name, n)
            return None if values is None else values * _unit(path, group[name], kind, units)

        flag, unknown = _rows(path, subhaloes, "IsCentral", n), np.full(n, np.nan)
        central = flag == 1
        if not np.isin(flag, (0, 1)).all():
            raise SnapshotError(f"{path}: /InputHalos/IsCentral is neither 0 nor 1 in a row; damaged? Get it again")
        r200, m200 = physical(sphere, "SORadius", _LENGTH), physical(sphere, "TotalMass", _MASS)
        bound_mass, track = physical(bound, "TotalMass", _MASS), _rows(path, tracks, "TrackId", n)
        # Too few particles for a quantity, or a satellite: SOAP writes zero.
        of_central = unknown if m200 is None else np.where(m200 > 0, m200, np.nan)
        return listed(
            range(n),
            physical(subhaloes, "HaloCentre", _LENGTH),
            r200_kpc=unknown if r200 is None else np.where(central, r200, np.nan),
            n_stars=_rows(path, bound, "NumberOfStarParticles", n),
            n_particles=_rows(path, subhaloes, "NumberOfBoundParticles", n),
            central=central,
            halo_mass_msun=np.where(central, of_central, unknown if bound_mass is None else bound_mass),
            stellar_mass_msun=physical(bound, "StellarMass", _MASS),
            lineage=None if track is None else [str(number) for number in track.tolist()],
        )
