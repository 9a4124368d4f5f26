"""SOAP (McGibbon et al. 2025), the subhaloes of COLIBRE, FLAMINGO and other SWIFT simulations, in HDF5."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.catalogues.base import Halo, header, listed, members, need, numbers, same_epoch
from kinmass.gen.constants import KPC_CM, MSUN_G
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget_header import scalar
from kinmass.gen.formats.gadget_units import in_round_units

_CGS = "Conversion factor to CGS (not including cosmological corrections)"
#: Exponents of a dataset's base units, by which a length is told from a mass.
_LENGTH, _MASS = (KPC_CM, "U_L exponent"), (MSUN_G, "U_M exponent")


def _unit(path: Path, data: h5py.Dataset, kind: tuple[float, str], units: CodeUnits) -> float:
    """Return the unit of a dataset of lengths in physical kpc, or of masses in Msun, by its attributes.

    A factor of a is in comoving numbers alone: the exponent is given for those stored as physical, too. Raises
    SnapshotError for a dataset that does not say its unit, or is of another kind.
    """
    cgs, exponent = kind
    attrs = dict(data.attrs)
    need(path, data.name, {_CGS, exponent, "a-scale exponent"}, attrs)
    if scalar(attrs[exponent], exponent) != 1:
        raise SnapshotError(f"{path}: {data.name} is no {'length' if kind is _LENGTH else 'mass'}; get the file again")
    is_physical = scalar(attrs.get("Value stored as physical", 0), "Value stored as physical") == 1
    a = 0.0 if is_physical else scalar(attrs["a-scale exponent"], "a-scale exponent")
    h = scalar(attrs.get("h-scale exponent", 0.0), "h-scale exponent")
    return in_round_units(scalar(attrs[_CGS], _CGS) / cgs) * units.scale_factor**a * units.hubble**h


def _check(path: Path, units: CodeUnits, n_subhaloes: int) -> None:
    """Raise SnapshotError where, by its Header, subhaloes are missing, OtherEpoch for another time's."""
    n_stated = header(path, "NumSubhalos_Total")
    if n_stated is not None and n_stated != n_subhaloes:
        raise SnapshotError(f"{path}: {n_subhaloes} subhaloes of {n_stated:.0f}; get the whole file")
    if (a := header(path, "Scale-factor")) is not None:
        same_epoch(path, a, units)
    elif (z := header(path, "Redshift")) is not None:
        same_epoch(path, 1 / (1 + z), units)


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
        groups = {name: members(path, file, name) for name in ("InputHalos", "BoundSubhalo", "SO/200_crit")}
        need(path, "InputHalos", {"HaloCentre", "IsCentral"}, groups["InputHalos"])
        need(path, "BoundSubhalo", {"NumberOfStarParticles"}, groups["BoundSubhalo"])

        def column(group: str, name: str, kind: tuple[float, str] | None = None) -> Any:
            """Return a dataset in physical kpc or Msun, or as it is; None where it is missing."""
            if name not in groups[group]:
                return None
            values = numbers(path, groups[group][name])
            if len(values) != n:
                raise SnapshotError(f"{path}: {groups[group][name].name} has {len(values)} of {n} rows; get it again")
            return values if kind is None else values * _unit(path, groups[group][name], kind, units)

        n = len(numbers(path, groups["InputHalos"]["HaloCentre"]))
        _check(path, units, n)
        central = column("InputHalos", "IsCentral") == 1
        track = numbers(path, file["InputHalos/HBTplus/TrackId"]) if "InputHalos/HBTplus/TrackId" in file else None
        r200, m200, bound = (
            column(group, name, kind)
            for group, name, kind in (
                ("SO/200_crit", "SORadius", _LENGTH), ("SO/200_crit", "TotalMass", _MASS),
                ("BoundSubhalo", "TotalMass", _MASS),
            )
        )  # fmt: skip
        unknown = np.full(n, np.nan)
        # Too few particles for a quantity, or a satellite: SOAP writes zero.
        m200 = unknown if m200 is None else np.where(m200 > 0, m200, np.nan)
        return listed(
            range(n),
            column("InputHalos", "HaloCentre", _LENGTH),
            r200_kpc=unknown if r200 is None else np.where(central, r200, np.nan),
            n_stars=column("BoundSubhalo", "NumberOfStarParticles"),
            n_particles=column("InputHalos", "NumberOfBoundParticles"),
            central=central,
            halo_mass_msun=np.where(central, m200, unknown if bound is None else bound),
            stellar_mass_msun=column("BoundSubhalo", "StellarMass", _MASS),
            lineage=None if track is None else [str(number) for number in track.tolist()],
        )
