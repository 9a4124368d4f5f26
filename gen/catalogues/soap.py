"""SOAP (McGibbon et al. 2025), the subhaloes of COLIBRE, FLAMINGO and other SWIFT simulations, in HDF5."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.catalogues.base import Halo, header, listed, members, need, numbers, same_epoch
from kinmass.gen.constants import KPC_CM, MSUN_G
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget_header import scalar
from kinmass.gen.formats.gadget_units import dataset_unit

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
    if (scaling := dataset_unit(data, cgs)) is None:
        raise SnapshotError(f"{path}: {data.name} does not say its unit and its power of a; get the file again")
    unit, a_power, h_power = scaling
    return unit * units.scale_factor**a_power * units.hubble**h_power


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
        groups = {name: members(path, file, name) for name in _GROUPS}
        need(path, "InputHalos", {"HaloCentre", "IsCentral"}, groups["InputHalos"])
        need(path, "BoundSubhalo", {"NumberOfStarParticles"}, groups["BoundSubhalo"])

        def column(group: str, name: str, kind: tuple[float, str] | None = None) -> Any:
            """Return a dataset in physical kpc or Msun, or as it is; None where it is missing."""
            if name not in groups[group]:
                return None
            values = numbers(path, groups[group][name])
            shape = (n, 3) if name == "HaloCentre" else (n,)
            if values.shape != shape:
                raise SnapshotError(
                    f"{path}: {groups[group][name].name} is of shape {values.shape} where {shape} is due; damaged? Get "
                    "it again"
                )
            return values if kind is None else values * _unit(path, groups[group][name], kind, units)

        n = len(numbers(path, groups["InputHalos"]["HaloCentre"]))
        _check(path, units, n)
        central = column("InputHalos", "IsCentral") == 1
        track = column("InputHalos/HBTplus", "TrackId")
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
