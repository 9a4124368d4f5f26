"""AHF, the Amiga halo finder (Knollmann & Knebe 2009): a text table `*.AHF_halos`."""

from pathlib import Path

import numpy as np

from gen.catalogues.base import Halo, listed, need, text_table
from gen.formats import CodeUnits

_COLUMNS = {
    "n_stars": "n_star", "n_particles": "npart", "halo_mass_msun": "mvir", "stellar_mass_msun": "m_star",
    "high_res_fraction": "fmhires",
}  # fmt: skip


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Comoving kpc/h from the box's corner, Msun/h (AHF user's guide, section 4.2); Rvir stands for R200."""
    column, rows, _ = text_table(path)
    need(path, "its first line", {"id", "hosthalo", "xc", "yc", "zc", "rvir"}, column)
    length = units.scale_factor / units.hubble

    def values(name: str) -> np.ndarray:
        return np.array([row[column[name]] for row in rows], dtype=float)

    # No host is -1 where IDs count from 0, and 0 where they do not.
    ids = [row[column["id"]] for row in rows]
    nobody = {"-1", "0"} if "0" not in ids else {"-1"}
    hosts = [row[column["hosthalo"]] for row in rows]
    given = {key: values(name) for key, name in _COLUMNS.items() if name in column}
    for key in given.keys() & {"halo_mass_msun", "stellar_mass_msun"}:
        given[key] = given[key] / units.hubble
    return listed(
        ids,
        np.stack([values(x) for x in ("xc", "yc", "zc")], axis=1) * length + units.corner_kpc,
        r200_kpc=values("rvir") * length,
        central=[host in nobody or host == own for host, own in zip(hosts, ids, strict=True)],
        **given,
    )
