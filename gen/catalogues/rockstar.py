"""Rockstar and Rockstar-Galaxies (Behroozi et al. 2013): text tables `out_*.list`, `halos_*.ascii`, `hlist_*.list`."""

import re
from pathlib import Path

import numpy as np

from kinmass.gen.catalogues.base import Halo, factor_of_h, joined, listed, numbered_parts, same_epoch, text_table
from kinmass.gen.constants import G
from kinmass.gen.formats import CodeUnits, SnapshotError

_OPTIONAL = {
    "m200c", "mvir", "m200b", "r200c", "rvir", "r200b", "pid", "np", "num_p", "sm", "m200b_hires", "m200b_lowres",
    "scale",
}  # fmt: skip
#: Names of the parts that Rockstar's processes write, of snapshot, by its number or its name, and part.
_PARTS = r"halos_.+\.(\d+)\.ascii"
#: Words of Rockstar's header, and those that consistent-trees has for them.
_HEADER = {"a": "a", "Om": "Om", "Ol": "Ol", "h": "h", "Omega_M": "Om", "Omega_L": "Ol", "h0": "h"}
#: What a catalogue's comments say of its units, without blanks and `(comoving)`.
_UNITS = {"Masses": "Msun/h", "Positions": "Mpc/h", "Radii": "kpc/h"}
#: Rounding of consistent-trees' scale factors, of four digits in older versions.
_ROUNDING = 5e-5


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Read the haloes; positions are in comoving Mpc/h, radii in kpc/h, masses in Msun/h (its `#Units` lines).

    All parts of a catalogue in parts are read. The column `scale` of consistent-trees must be the snapshot's. R200 is
    computed from M200c and the header's cosmology; without them it is the primary radius. Only the PID column of
    `find_parents` tells centrals (-1) from satellites. Raises OtherEpoch, or SnapshotError for a damaged table.
    """
    parts = numbered_parts(path, _PARTS, always=path.name.count(".") == 2)
    column, comments = joined(path, [text_table(part, {"id", "x", "y", "z"}, _OPTIONAL) for part in parts])
    _check_units(path, comments)
    words = re.findall(rf"\b({'|'.join(_HEADER)}) = ([-+.\deE]+)", comments)
    header = {_HEADER[name]: float(value) for name, value in words}
    a = header.get("a", units.scale_factor)
    h = header["h"] if "h" in header else factor_of_h(path, units)
    for scale in {a, *map(float, set(column.get("scale", [])))}:
        same_epoch(path, scale, units, tolerance=_ROUNDING if "scale" in column else 0.0)

    def values(*names: str) -> np.ndarray | None:
        """Return the first of the named columns that the table has, as numbers (N,); None without any."""
        present = [name for name in names if name in column]
        return np.array(column[present[0]], dtype=float) if present else None

    def mass(*names: str) -> np.ndarray | None:
        """Return the first of the named columns (N,) [Msun], of masses in Msun/h."""
        masses = values(*names)
        return None if masses is None else masses / h

    halo_mass, radius = mass("m200c", "mvir", "m200b"), values("r200c", "rvir", "r200b")
    r200 = None if radius is None else radius * a / h
    if halo_mass is not None and "m200c" in column and {"Om", "Ol"} <= header.keys():
        hubble2 = (0.1 * h) ** 2 * (header["Om"] / a**3 + (1 - header["Om"] - header["Ol"]) / a**2 + header["Ol"])
        r200 = np.cbrt(halo_mass * G / (100 * hubble2))  # 4/3 pi r^3 200 rho_crit = M
    parent = values("pid")
    high, low = values("m200b_hires"), values("m200b_lowres")
    if high is not None and low is not None:
        high = np.divide(high, high + low, out=np.full(len(high), np.nan), where=high + low > 0)
    return listed(
        column["id"],
        np.array([column[x] for x in "xyz"], dtype=float).T * 1000 * a / h + units.corner_kpc,
        r200_kpc=r200,
        n_particles=values("np", "num_p"),
        central=None if parent is None else parent == -1,
        halo_mass_msun=halo_mass,
        stellar_mass_msun=mass("sm"),
        high_res_fraction=None if low is None else high,
    )


def _check_units(path: Path, comments: str) -> None:
    """Raise SnapshotError where the comments say other units than Rockstar's, as those of a converted table may."""
    for what, unit in re.findall(r"^#\s*Units:.*\b(Masses|Positions|Radii) in (.*)$", comments, re.MULTILINE):
        if "".join(unit.split()).removesuffix("(comoving)") != _UNITS[what]:
            raise SnapshotError(
                f"{path}: by its comments {what.lower()} in {unit.strip()}, not comoving {_UNITS[what]} as Rockstar "
                "writes them; get the file as it was written, or make a table of it (`format: table`)"
            )
