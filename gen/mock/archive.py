"""Mock suites as files, each in the layout of the archive that it imitates."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from astropy.table import Table

from kinmass.gen.constants import HUBBLE
from kinmass.gen.formats import gadget, ramses_files, tipsy
from kinmass.gen.mock.galaxy import MockGalaxy
from kinmass.gen.mock.suites import SUITES, Count, make_galaxy
from kinmass.gen.physics.particles import Galaxy
from kinmass.gen.storage.files import sync_folder, sync_tree, write_atomically, write_new

#: Whether the code that a suite imitates writes positions in double precision by default. Single precision is good to
#: 1e-3 kpc in the box of `quiet`, whose thinnest discs are a hundred times thicker.
DOUBLE = {"bursty": False, "quiet": False, "middle": True, "early": True, "grid": True}
#: Suites whose galaxies are those of another, written by another kind of code: same seed, same galaxies.
TWINS = {"grid": "quiet"}
#: Suites that can be written.
WRITTEN = (*SUITES, *TWINS)
#: Galaxies in one snapshot of the `quiet` suite, whose snapshots are boxes and not zooms.
PER_BOX = 10

Member = tuple[Galaxy, np.ndarray, np.ndarray]  # galaxy, centre_kpc, velocity_kms


def _place_in_box(
    suite: str, indices: list[int], seed: int, box_kpc: float, spread: float, n_particles: dict[str, Count]
) -> tuple[list[Member], list[MockGalaxy]]:
    """Make galaxies and place them on a lattice in the box, off it by up to `spread` [kpc], with random motions.

    The first galaxy is near the origin, which is the middle of a Tipsy box and the corner of the others.
    """
    members, models = [], []
    side = max(2, int(np.ceil(len(indices) ** (1 / 3))))
    for slot, index in enumerate(indices):
        galaxy, model = make_galaxy(TWINS.get(suite, suite), index, seed, **n_particles)
        rng = np.random.default_rng([seed, 77, index])
        cell = np.array(np.unravel_index(slot, (side,) * 3)) / side
        centre = cell * box_kpc + rng.uniform(-spread, spread, 3)
        members.append((galaxy, centre, rng.normal(0, 200, 3)))
        models.append(model)
    return members, models


def write_nihao(
    folder: Path, suite: str, index: int, seed: int, n_particles: dict[str, Count], double: bool
) -> list[Path]:
    """Write one Tipsy zoom with its .param and .AHF_halos files, at a = 0.8; return the folder of them."""
    a, box_kpc = 0.8, 8000.0
    name = f"{suite}_{index:05d}"
    path = folder / name / f"{name}.01000"
    path.parent.mkdir(parents=True, exist_ok=True)
    members, models = _place_in_box(suite, [index], seed, box_kpc, 30.0, n_particles)
    (galaxy, centre, velocity), model = members[0], models[0]
    kpc_per_unit = a / HUBBLE
    corner = (centre + 0.5 * box_kpc) / kpc_per_unit
    header = (
        "#ID(1) hostHalo(2) numSubStruct(3) Mvir(4) npart(5) Xc(6) Yc(7) Zc(8) "
        "VXc(9) VYc(10) VZc(11) Rvir(12) n_star(64)"
    )
    row = [
        0, -1, 0, model.structure.m200_msun * HUBBLE, sum(len(p) for p in galaxy.components().values()),
        *corner, *velocity, model.r200_kpc / kpc_per_unit, len(galaxy.stars),
    ]  # fmt: skip
    Path(f"{path}.AHF_halos").write_text(header + "\n" + "\t".join(f"{value:.10g}" for value in row) + "\n")
    tipsy.write(path, members, box_kpc, a, HUBBLE, double)
    return [path.parent]


def write_auriga(
    folder: Path, suite: str, indices: list[int], seed: int, n_particles: dict[str, Count], double: bool
) -> list[Path]:
    """Write one AREPO box and its SUBFIND catalogue, at a = 0.75; return both paths.

    The first galaxy lies across the corner of the box, so that readers must unwrap it.
    """
    a, box_kpc = 0.75, 30_000.0
    number = indices[0] // PER_BOX
    path = folder / f"snap_{number:03d}.hdf5"
    folder.mkdir(parents=True, exist_ok=True)
    members, models = _place_in_box(suite, indices, seed, box_kpc, 40.0, n_particles)
    kpc_per_unit = a / HUBBLE
    centres = np.mod([centre for _, centre, _ in members], box_kpc) / kpc_per_unit
    r200 = np.array([model.r200_kpc for model in models]) / kpc_per_unit
    components = ("gas", "dark", None, None, "stars", "black_holes")
    lengths = [[len(g.components()[component]) if component else 0 for component in components] for g, _, _ in members]
    catalogue = folder / f"fof_subhalo_tab_{number:03d}.hdf5"
    with h5py.File(catalogue, "w") as file:
        file["Group/GroupPos"], file["Group/Group_R_Crit200"] = centres, r200
        file["Group/GroupFirstSub"] = np.arange(len(members), dtype=np.int32)
        file["Subhalo/SubhaloPos"] = centres
        file["Subhalo/SubhaloVel"] = np.array([velocity for _, _, velocity in members])
        file["Subhalo/SubhaloLenType"] = np.array(lengths, dtype=np.int32)
        file["Subhalo/SubhaloGrNr"] = np.arange(len(members), dtype=np.int32)
    gadget.write(path, members, box_kpc, a, HUBBLE, "arepo", double)
    return [path, catalogue]


def write_fire(
    folder: Path, suite: str, index: int, seed: int, n_particles: dict[str, Count], double: bool
) -> list[Path]:
    """Write one GIZMO zoom at z = 0 with an ECSV table of its galaxy; return the folder of both."""
    box_kpc = 20_000.0
    name = f"{suite}_{index:05d}"
    path = folder / name / "snapshot_600.hdf5"
    path.parent.mkdir(parents=True, exist_ok=True)
    members, models = _place_in_box(suite, [index], seed, box_kpc, 50.0, n_particles)
    centre = np.mod(members[0][1], box_kpc)
    _write_table(path.parent / "galaxies.ecsv", centre, models[0].r200_kpc)
    gadget.write(path, members, box_kpc, 1.0, HUBBLE, "gizmo", double)
    return [path.parent]


def _write_table(path: Path, centre_kpc: np.ndarray, r200_kpc: float, **columns: str) -> None:
    """Write an ECSV table of one galaxy."""
    places = {axis: [coordinate] for axis, coordinate in zip("xyz", centre_kpc, strict=True)}
    table = Table({"id": [0], **places, "r200": [r200_kpc], **{name: [value] for name, value in columns.items()}})
    for column in ("x", "y", "z", "r200"):
        table[column].unit = "kpc"
    table.write(path, format="ascii.ecsv", overwrite=True)


def write_grid(
    folder: Path, suite: str, index: int, seed: int, n_particles: dict[str, Count], double: bool
) -> list[Path]:
    """Write a galaxy of `quiet` as an output of RAMSES at a = 0.75, and an ECSV table of it; return the folder of both.

    The finest cells have sides of 0.12 kpc. Its lineage is the galaxy that it is a twin of, so that no split of
    galaxies has one in training and the other in a test.
    """
    box_kpc = 8000.0
    path = folder / f"{suite}_{index:05d}" / "output_00100" / "info_00100.txt"
    members, models = _place_in_box(suite, [index], seed, box_kpc, 40.0, n_particles)
    ramses_files.write(path, members, box_kpc, 0.75, HUBBLE, levels=(4, 16))
    lineage = f"snap_{index // PER_BOX:03d}:{index % PER_BOX}"
    _write_table(path.parent / "galaxies.ecsv", np.mod(members[0][1], box_kpc), models[0].r200_kpc, lineage=lineage)
    return [path.parent.parent]


_WRITE_ZOOM: dict[str, Callable[[Path, str, int, int, dict[str, Count], bool], list[Path]]] = {
    "bursty": write_nihao,
    "middle": write_fire,
    "early": write_fire,
    "grid": write_grid,
}
_YAML = {
    "bursty": "format: tipsy\nsnapshots: bursty_*/*.01000\ncatalogue: {format: ahf, path: '{name}.AHF_halos'}\n",
    "quiet": (
        "format: arepo\nsnapshots: snap_*.hdf5\ncatalogue: {format: subfind, path: 'fof_subhalo_tab_{number}.hdf5'}\n"
    ),
    "middle": "format: gizmo\nsnapshots: middle_*/snapshot_600.hdf5\ncatalogue: {format: table, path: galaxies.ecsv}\n",
    "grid": (
        "format: ramses\nsnapshots: grid_*/output_00100/info_00100.txt\n"
        "catalogue: {format: table, path: galaxies.ecsv}\n"
    ),
    "early": "format: gizmo\nsnapshots: early_*/snapshot_600.hdf5\ncatalogue: {format: table, path: galaxies.ecsv}\n",
}


def write_suite_file(folder: Path, suite: str) -> Path:
    """Write the YAML file that tells `kinmass maps` how to read a mock suite; return its path.

    One that is there stays: it may have been changed, by a selection for instance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite}.yaml"
    write_new(path, f"name: {suite}\n{_YAML[suite]}aperture: {{r200: 0.3}}\n")
    return path


def jobs(suite: str, n_galaxies: int) -> list[list[int]]:
    """Numbers of the galaxies in each snapshot of a suite."""
    step = PER_BOX if suite == "quiet" else 1
    return [list(range(i, min(i + step, n_galaxies))) for i in range(0, n_galaxies, step)]


def write_snapshot(
    folder: Path, suite: str, indices: list[int], seed: int, n_particles: dict[str, Count], double: bool | None = None
) -> Path:
    """Write one snapshot of a mock suite unless it is done; return the path of the file that marks it as done.

    That file is written last, after all others are on disk, and names them with their sizes: a snapshot of which one is
    gone, or was cut short, is written anew. double: positions in double precision; None: as the code that the suite
    imitates writes them.
    """
    double = DOUBLE[suite] if double is None else double
    done_mark = folder / ".done" / f"{indices[0]:05d}"
    if not _is_done(folder, done_mark):
        if suite == "quiet":
            paths = write_auriga(folder, suite, indices, seed, n_particles, double)
        else:
            paths = _WRITE_ZOOM[suite](folder, suite, indices[0], seed, n_particles, double)
        for path in paths:  # only these: other ranks are writing in the same folder
            sync_tree(path)
            sync_folder(path.parent)
        done_mark.parent.mkdir(exist_ok=True)
        files = sorted(file for path in paths for file in (path, *path.rglob("*")) if file.is_file())
        write_atomically(done_mark, "".join(f"{file.stat().st_size} {file.relative_to(folder)}\n" for file in files))
    return done_mark


def _is_done(folder: Path, done_mark: Path) -> bool:
    """Whether a snapshot was written, and all of its files are still there. A mark of an earlier version names none."""
    if not done_mark.exists():
        return False
    files = [line.partition(" ") for line in done_mark.read_text().splitlines()]
    return all((folder / name).is_file() and str((folder / name).stat().st_size) == size for size, _, name in files)
