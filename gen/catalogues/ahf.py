"""AHF, the Amiga halo finder (Knollmann & Knebe 2009): a text table `*.AHF_halos`."""

import re
from pathlib import Path

import numpy as np

from kinmass.gen.catalogues.base import Halo, factor_of_h, joined, listed, need, numbered_parts, same_epoch, text_table
from kinmass.gen.formats import CodeUnits

#: Columns that AHF has renamed, as its newer versions call them, by their older names.
_RENAMED = {"mvir": "mhalo", "rvir": "rhalo"}
_COLUMNS = {
    "n_stars": "n_star", "n_particles": "npart", "halo_mass_msun": "mvir", "stellar_mass_msun": "m_star",
    "high_res_fraction": "fmhires",
}  # fmt: skip
#: What a catalogue of dark matter alone has of baryons: zeros.
_BARYONS = ("n_gas", "n_star")


#: Names of the parts that AHF writes where it runs on several ranks.
PARTS = r".*\.(\d{4})\.z\d+\.\d+\.AHF_halos"


def _check_epoch(path: Path, snapshot: Path, units: CodeUnits) -> None:
    """Raise OtherEpoch where the redshift in the catalogue's file name is not the snapshot's.

    Only the file name has the redshift. A catalogue whose name begins with the snapshot's belongs to it.
    """
    name_redshift = re.search(r"\.z(\d+\.\d+)\.AHF_halos$", path.name)
    if name_redshift and not path.name.startswith(f"{snapshot.name}."):
        z, rounding = float(name_redshift[1]), 10.0 ** -len(name_redshift[1].split(".")[1])
        same_epoch(path, 1 / (1 + z), units, tolerance=rounding / (1 + z) ** 2)


def _tables(parts: list[Path], needed: set[str], optional: set[str]) -> list[tuple[dict[str, list[str]], str]]:
    """Read all parts: the first rank alone writes the names of the columns, and others may have found nothing.

    Built without AHFnewHaloIDs each rank counts its haloes from 0: these are called by their part, too.
    """
    with open(parts[0], encoding="utf-8", errors="replace") as file:
        names = file.readline(1 << 20)
    tables = [text_table(parts[0], needed, optional)]
    tables += [text_table(part, needed, optional, names) for part in parts[1:]]
    ids = [halo_id for column, _ in tables for halo_id in column["id"]]
    if len(set(ids)) < len(ids):
        for number, (column, _) in enumerate(tables):
            for name in ("id", "hosthalo"):
                column[name] = [word if word == "-1" else f"{number}.{word}" for word in column[name]]
    return tables


def read(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """Read the haloes; AHF writes comoving kpc/h from the box's corner and Msun/h (AHF user's guide).

    All parts of a catalogue in parts are read. Rvir (Rhalo) is used as R200. One that was made of dark matter alone, as
    it counts no gas either, says nothing of stars. Raises OtherEpoch, or SnapshotError for a damaged table.
    """
    _check_epoch(path, snapshot, units)
    needed, optional = {"id", "hosthalo", "xc", "yc", "zc"}, {*_COLUMNS.values(), "rvir", *_BARYONS, *_RENAMED.values()}
    column, _ = joined(path, _tables(numbered_parts(path, PARTS), needed, optional))
    column = {name: column[new] for name, new in _RENAMED.items() if new in column} | column
    need(path, "its first line", {"rvir"}, column)
    h = factor_of_h(path, units)
    kpc_per_unit = units.scale_factor / h
    # A halo without a host has hostHalo -1 where IDs count from 0, else 0.
    ids, hosts = column["id"], column["hosthalo"]
    no_host = {"-1"} if {"0", "0.0"} & set(ids) else {"-1", "0"}
    halo_columns = {key: np.array(column[name], dtype=float) for key, name in _COLUMNS.items() if name in column}
    if column.keys() >= {*_BARYONS} and not any(float(n) for name in _BARYONS for n in column[name]):
        halo_columns = {key: values for key, values in halo_columns.items() if "star" not in _COLUMNS[key]}
    for key in halo_columns.keys() & {"halo_mass_msun", "stellar_mass_msun"}:
        halo_columns[key] = halo_columns[key] / h
    return listed(
        ids,
        np.array([column[x] for x in ("xc", "yc", "zc")], dtype=float).T * kpc_per_unit + units.corner_kpc,
        r200_kpc=np.array(column["rvir"], dtype=float) * kpc_per_unit,
        central=[host in no_host or host == halo_id for host, halo_id in zip(hosts, ids, strict=True)],
        **halo_columns,
    )
