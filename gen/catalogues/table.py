"""A plain table of galaxies, ECSV or CSV."""

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Table

from kinmass.gen.catalogues.base import Halo, listed, need
from kinmass.gen.formats import CodeUnits

_OPTIONAL = {
    "r200": ("r200_kpc", u.kpc), "halo_mass": ("halo_mass_msun", u.Msun), "stellar_mass": ("stellar_mass_msun", u.Msun),
    "n_stars": ("n_stars", None), "high_res_fraction": ("high_res_fraction", u.one),
}  # fmt: skip
_TRUTH = {"true": True, "1": True, "false": False, "0": False, "": None, "--": None}


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Read columns `x`, `y`, `z` and the optional ones of docs/generation.md; an empty field is unknown.

    Lengths are physical kpc and masses Msun, unless an ECSV header gives other units. With a `snapshot`
    column, only rows whose entry is the file's name, or the end of its path, are read. Raises
    SnapshotError for a missing column.
    """
    table = Table.read(path, format="ascii.ecsv" if path.suffix == ".ecsv" else "ascii.csv")
    need(path, f"the table ({', '.join(table.colnames)})", "xyz", table.colnames)
    table["row"] = np.arange(len(table))
    if "snapshot" in table.colnames:
        table = table[[bool(name) and snapshot.match(str(name)) for name in table["snapshot"]]]

    def values(name: str, unit: u.Unit) -> np.ndarray:
        factor = table[name].unit.to(unit) if table[name].unit is not None and unit is not None else 1.0
        return np.ma.filled(np.ma.asarray(table[name], dtype=float), np.nan) * factor

    def words(name: str) -> list[str]:
        return [str(word).strip() for word in table[name]]

    return listed(
        words("id" if "id" in table.colnames else "row"),
        np.stack([values(x, u.kpc) for x in "xyz"], axis=1),
        central=[_TRUTH[word.lower()] for word in words("central")] if "central" in table.colnames else None,
        lineage=[None if w in ("", "--") else w for w in words("lineage")] if "lineage" in table.colnames else None,
        **{halo_field: values(name, unit) for name, (halo_field, unit) in _OPTIONAL.items() if name in table.colnames},
    )
