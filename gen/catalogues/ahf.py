"""AHF, the Amiga halo finder (Knollmann & Knebe 2009): a text table `*.AHF_halos`."""

import re
from pathlib import Path

import numpy as np

from kinmass.gen.catalogues.base import Halo, listed, same_epoch, text_table
from kinmass.gen.formats import CodeUnits

_COLUMNS = {
    "n_stars": "n_star", "n_particles": "npart", "halo_mass_msun": "mvir", "stellar_mass_msun": "m_star",
    "high_res_fraction": "fmhires",
}  # fmt: skip


def _check_epoch(path: Path, snapshot: Path, units: CodeUnits) -> None:
    """Raises OtherEpoch where the redshift in the catalogue's name, all that tells it, is not the snapshot's.

    A catalogue that bears the snapshot's own name is its own.
    """
    said = re.search(r"\.z(\d+\.\d+)\.AHF_halos$", path.name)
    if said and not path.name.startswith(snapshot.name):
        z, step = float(said[1]), 10.0 ** -len(said[1].split(".")[1])
        same_epoch(path, 1 / (1 + z), units, rounded=step / (1 + z) ** 2)


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Comoving kpc/h from the box's corner, Msun/h (AHF user's guide); Rvir stands for R200."""
    _check_epoch(path, snapshot, units)
    column, _ = text_table(path, {"id", "hosthalo", "xc", "yc", "zc", "rvir"}, set(_COLUMNS.values()))
    length = units.scale_factor / units.hubble
    # No host is -1 where IDs count from 0, and 0 where they do not.
    ids, hosts = column["id"], column["hosthalo"]
    nobody = {"-1"} if "0" in ids else {"-1", "0"}
    given = {key: np.array(column[name], dtype=float) for key, name in _COLUMNS.items() if name in column}
    for key in given.keys() & {"halo_mass_msun", "stellar_mass_msun"}:
        given[key] = given[key] / units.hubble
    return listed(
        ids,
        np.array([column[x] for x in ("xc", "yc", "zc")], dtype=float).T * length + units.corner_kpc,
        r200_kpc=np.array(column["rvir"], dtype=float) * length,
        central=[host in nobody or host == own for host, own in zip(hosts, ids, strict=True)],
        **given,
    )
