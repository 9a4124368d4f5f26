"""caesar (Thompson 2014), the galaxies and haloes of SIMBA (Davé et al. 2019), in HDF5."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.catalogues.base import Halo, factor_of_h, listed, members, need, numbers, same_epoch
from kinmass.gen.formats import CodeUnits, SnapshotError
from kinmass.gen.formats.gadget_header import scalar

_UNITS = {"kpc": 1.0, "Mpc": 1000.0, "Msun": 1.0}


def _unit(path: Path, data: Any, default_unit: str, units: CodeUnits) -> float:
    """Return a dataset's unit in kpc or Msun: `kpccm` is comoving kpc, and only a unit with `/h` has a factor of h.

    Raises SnapshotError for an unknown unit.
    """
    unit = data.attrs.get("unit", default_unit)
    unit = unit.decode() if isinstance(unit, bytes) else str(unit)
    without_h = unit.removesuffix("/h")
    base = without_h.removesuffix("cm")
    if base not in _UNITS:
        raise SnapshotError(
            f"{path}: {data.name} is in {unit!r}, which is not known here; the known ones are {', '.join(_UNITS)}, "
            "each with cm and /h; make a table of it (`format: table`)"
        )
    a = units.scale_factor if base != without_h else 1.0
    return _UNITS[base] * a / factor_of_h(path, units, without_h != unit)


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Read the galaxies; a central has R200 and M200 of its halo, a satellite neither.

    Units are those of the datasets' `unit` attributes, else comoving kpc and Msun (caesar's
    `saver.py`). Centres are `minpotpos`, or in files without it `pos`, the centre of mass.
    Raises OtherEpoch, or SnapshotError for a damaged catalogue.
    """
    with h5py.File(path, "r") as file:
        need(path, "the file", {"simulation_attributes"}, file)
        simulation = file["simulation_attributes"].attrs
        if "redshift" in simulation:
            same_epoch(path, 1 / (1 + scalar(simulation["redshift"], "redshift")), units)
        galaxy, halo = (members(path, file, name) for name in ("galaxy_data", "halo_data"))
        if not galaxy:
            return []  # caesar writes no group if there is no galaxy
        position = "minpotpos" if "minpotpos" in galaxy else "pos"
        need(path, "galaxy_data", {"GroupID", "nstar", "central", "parent_halo_index", position}, galaxy)

        def values(group: Any, name: str, default_unit: str) -> np.ndarray | None:
            """Read a dataset (N,) or (N, 3) in physical kpc or Msun; None where it is missing."""
            if name not in group:
                return None
            return numbers(path, group[name]) * _unit(path, group[name], default_unit, units)

        central = numbers(path, galaxy["central"]).astype(bool)
        parent = numbers(path, galaxy["parent_halo_index"]).astype(np.int64)

        def of_halo(name: str) -> np.ndarray | None:
            """Return a quantity (N,) of the haloes whose centrals the galaxies are, NaN for satellites."""
            halo_values = values(halo, f"dicts/virial_quantities.{name}", "kpccm" if name[0] == "r" else "Msun")
            if halo_values is None:
                return None
            if len(parent) and parent.max() >= len(halo_values):
                raise SnapshotError(
                    f"{path}: a parent_halo_index points beyond the last of {len(halo_values)} haloes; "
                    "damaged? Get it again"
                )
            has_halo = central & (parent >= 0)
            return np.where(has_halo, halo_values[np.where(has_halo, parent, 0)], np.nan)

        return listed(
            numbers(path, galaxy["GroupID"]),
            values(galaxy, position, "kpccm"),  # type: ignore[arg-type]
            r200_kpc=of_halo("r200c"),
            n_stars=numbers(path, galaxy["nstar"]),
            n_particles=sum(
                numbers(path, galaxy[name]).astype(np.int64)
                for name in ("nstar", "ngas", "ndm", "nbh")
                if name in galaxy
            ),
            central=central,
            halo_mass_msun=of_halo("m200c"),
            stellar_mass_msun=values(galaxy, "dicts/masses.stellar", "Msun"),
        )
