"""Halo catalogues: where the galaxies of a snapshot are. One reader per catalogue format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from astropy.table import Table

from gen.formats import CodeUnits, SnapshotError
from gen.snapshot import Snapshot


@dataclass(frozen=True)
class Halo:
    """One entry: its name within the snapshot, where it is, and how far it reaches (if known)."""

    name: str
    centre_kpc: np.ndarray | None  # (3,) physical, in the snapshot's own box; None: to be found
    r200_kpc: float | None = None
    n_stars: int | None = None


def read_ahf(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """AHF_halos (Knollmann & Knebe 2009): comoving kpc/h, origin at the box's corner.

    Subhaloes (hostHalo > 0) are left out.
    """
    with open(path) as file:
        names = [name.split("(")[0] for name in file.readline().lstrip("#").split()]
    rows = np.loadtxt(path, ndmin=2)
    if rows.size and rows.shape[1] < len(names):
        raise SnapshotError(f"{path}: {rows.shape[1]} columns under {len(names)} names; cut short?")
    column = {name: i for i, name in enumerate(names)}
    unit = units.scale_factor / units.hubble
    haloes = []
    for row in rows:
        if row[column["hostHalo"]] > 0:
            continue
        centre = row[[column["Xc"], column["Yc"], column["Zc"]]] * unit + units.corner_kpc
        n_stars = int(row[column["n_star"]]) if "n_star" in column else None
        haloes.append(Halo(str(int(row[column["ID"]])), centre, row[column["Rvir"]] * unit, n_stars))
    return haloes


def read_subfind(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """SUBFIND group catalogue (HDF5): the first subhalo of each group, comoving kpc/h."""
    length = units.scale_factor / units.hubble
    with h5py.File(path, "r") as file:
        if "Group" not in file or "GroupPos" not in file["Group"]:
            return []
        first = file["Group/GroupFirstSub"][()]
        r200 = file["Group/Group_R_Crit200"][()]
        centres = file["Subhalo/SubhaloPos"][()]
        n_stars = file["Subhalo/SubhaloLenType"][()][:, 4]
    return [
        Halo(str(sub), centres[sub] * length, float(r200[group]) * length, int(n_stars[sub]))
        for group, sub in enumerate(first)
        if sub >= 0
    ]


def read_table(path: Path, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """A plain ECSV or CSV table: columns `x`, `y`, `z`, and optionally `id`, `r200`, `snapshot`.

    Lengths are physical kpc, or in the unit an ECSV header gives. With a `snapshot` column only
    the rows whose entry is the file's name (or its path's end) count.
    """
    table = Table.read(path, format="ascii.ecsv" if path.suffix == ".ecsv" else "ascii.csv")
    missing = {"x", "y", "z"} - set(table.colnames)
    if missing:
        raise SnapshotError(f"{path}: no column {', '.join(sorted(missing))}; there are {', '.join(table.colnames)}")

    def kpc(name: str) -> np.ndarray:
        column = table[name]
        return np.asarray(column.to("kpc").value if getattr(column, "unit", None) else column, dtype=float)

    haloes = []
    for i in range(len(table)):
        if "snapshot" in table.colnames and not snapshot.as_posix().endswith(str(table["snapshot"][i])):
            continue
        name = str(table["id"][i]) if "id" in table.colnames else str(i)
        centre = np.array([kpc("x")[i], kpc("y")[i], kpc("z")[i]])
        haloes.append(Halo(name, centre, float(kpc("r200")[i]) if "r200" in table.colnames else None))
    return haloes


READERS: dict[str, Callable[[Path, Path, CodeUnits], list[Halo]]] = {
    "ahf": read_ahf,
    "subfind": read_subfind,
    "table": read_table,
}


def find_haloes(kind: str, path: Path | None, snapshot: Path, units: CodeUnits) -> list[Halo]:
    """The galaxies of one snapshot; one of unknown centre when there is no catalogue.

    Raises SnapshotError naming the catalogue that cannot be read.
    """
    if kind == "none" or path is None:
        return [Halo("0", None)]
    try:
        haloes = READERS[kind](path, snapshot, units)
    except SnapshotError:
        raise
    except Exception as error:
        raise SnapshotError(
            f"{path}: cannot be read as a {kind} catalogue ({type(error).__name__}: {error})"
        ) from error
    for halo in haloes:
        if not np.isfinite(halo.centre_kpc).all():  # type: ignore[arg-type]
            raise SnapshotError(f"{path}: halo {halo.name} has no finite position")
    return haloes


def densest_point(snapshot: Snapshot) -> np.ndarray:
    """Centre (3,) [kpc] of the stars: spheres that shrink by 10 % until 100 are left (Power et al. 2003)."""
    stars = snapshot.everything("stars")
    if len(stars) == 0:
        raise SnapshotError(f"{snapshot.path}: no stars to find a centre from, and no catalogue given")
    origin = stars.pos_kpc[0]
    offset = snapshot.wrap(stars.pos_kpc - origin)
    centre = np.median(offset, axis=0)
    radius = float(np.linalg.norm(offset - centre, axis=1).max())
    weight = stars.mass_msun
    enough = min(100, len(stars))
    while True:
        inside = np.linalg.norm(offset - centre, axis=1) <= radius
        if inside.sum() < enough or radius == 0:
            return origin + centre
        centre = np.average(offset[inside], axis=0, weights=weight[inside])
        radius *= 0.9
