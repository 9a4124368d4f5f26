"""Writes small snapshots of ART with gas in its own layout: root cells, octs level by level, pages of particles.

Layout: yt's frontend `art` (definitions.py and io.py), which follows ART's own reader.
"""

import struct
from pathlib import Path

import numpy as np

from kinmass.gen.constants import MSUN_G
from kinmass.gen.formats.fortran import record
from kinmass.gen.formats.octree import CORNERS, Cells, Level, build, deposit, in_unit_cube, of_levels
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate

OMEGA_M, OMEGA_L = 0.27, 0.73
#: Density of cells without gas, over that of the mean matter.
FLOOR = 1e-12
#: The critical density for h = 1 [Msun/Mpc^3] in ART, times its solar mass [g].
A_M0_MSUN = 2.776e11 * 1.98892e33
#: Numbers of a cell: of the gas, then potentials. Words of an oct: a record of 13.
HELD_BY_CELLS, OCT_WORDS = (10, 2), 15
#: A cell below the root: its number, the oct that refines it or 0, its values, between the marks of a record.
CELL = np.dtype(
    [("begin", ">i4"), ("number", ">i4"), ("child", ">i4"), ("values", ">f4", (sum(HELD_BY_CELLS),)), ("end", ">i4")]
)
#: The header of particles: title, times and energies, counts, cosmology, weights and last numbers of ten species.
PARTICLE_HEADER = ">45s4fi7f4i6f10f10i79ff"
#: ART's places are integers in units of a root cell over two to this.
_FINEST = 12


def write(
    path: Path,
    galaxies: list[tuple[Galaxy, np.ndarray, np.ndarray]],
    box_kpc: float,
    scale_factor: float,
    hubble: float,
    levels: tuple[int, int] = (5, 12),
    per_cell: int = 8,
    n_row: int = 16,
) -> None:
    """Write a snapshot of ART; path is its file of cells, 10MpcBox_NAME_aN.NNN.d.

    galaxies: (galaxy, centre_kpc (3,), velocity_kms (3,)). Gas becomes leaf cells of an octree that hold per_cell gas
    particles or fewer; root cells are those of the first of the levels, and none is beyond the last. Dark matter of
    each mass is a species, n_row^2 particles are a page. Black holes are not written. Raises ValueError for dark
    matter of more than nine masses.
    """
    n_side = 1 << levels[0]
    box_mpc_h = box_kpc / 1000 / scale_factor * hubble
    mass_msun = A_M0_MSUN / MSUN_G * hubble**2 * OMEGA_M * (box_mpc_h / hubble) ** 3
    velocity_kms = 50 * box_mpc_h / n_side * np.sqrt(OMEGA_M) / scale_factor

    gas, stars, dark = (
        in_unit_cube(galaxies, name, box_kpc, velocity_kms, mass_msun) for name in ("gas", "stars", "dark")
    )
    species = [dark[dark.mass_msun == mass] for mass in np.unique(dark.mass_msun)] + [stars]
    if len(species) > 10:
        raise ValueError(f"dark matter of {len(species) - 1} masses, and ART's header has room for nine")
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = build(gas.pos_kpc, *levels, per_cell)
    cells = deposit(tree, gas.pos_kpc, gas.vel_kms, gas.mass_msun, FLOOR)
    path.write_bytes(_cells(tree, _values(tree, cells), levels[0], scale_factor, hubble, box_mpc_h))
    number = path.stem.rpartition("_")[2]
    # Particles' masses are in units of the mean mass of a root cell.
    weights = [float(p.mass_msun[0]) * n_side**3 if len(p) else 0.0 for p in species[:-1]] + [0.0]
    header = _particle_header(species, weights, n_row, n_side, scale_factor, hubble, box_mpc_h)
    path.with_name(f"PMcrd{number}.DAT").write_bytes(record(header, order=">"))
    path.with_name(f"PMcrs0{number}.DAT").write_bytes(_pages(concatenate(species), n_row, n_side))
    path.with_name(f"stars_{number}.dat").write_bytes(_stars(stars.mass_msun * n_side**3, scale_factor))


def code_time(a: float) -> float:
    """Return ART's time of a scale factor, zero today: the integral of H0 sqrt(Om0)/2 dt / a^2."""
    x = np.geomspace(a, 1, 10_001)
    return -float(np.trapezoid(0.5 * np.sqrt(OMEGA_M) / x**3 / np.sqrt(OMEGA_M / x**3 + OMEGA_L), x))


def _values(tree: list[Level], cells: Cells) -> list[np.ndarray]:
    """Values (octs, 8, 12) of the cells of each level."""
    density, thermal = cells.density, 1e-3 * cells.density
    values = np.zeros((len(density), sum(HELD_BY_CELLS)))
    values[:, 0] = density
    values[:, 1] = thermal + 0.5 * density * (cells.velocity**2).sum(axis=1)
    values[:, 2:5] = density[:, None] * cells.velocity
    values[:, 5], values[:, 6], values[:, 7] = 2 / 3 * thermal, 5 / 3, thermal
    return of_levels(tree, cells, values)


def _cells(tree: list[Level], values: list[np.ndarray], coarsest: int, a: float, h: float, box_mpc_h: float) -> bytes:
    """Make the file of cells: the header, the root's cells with x fastest, and the octs of each level."""
    n_side, below = 1 << coarsest, tree[coarsest:]
    firsts = 1 + np.cumsum([0] + [len(level.place) for level in below])
    child = [np.zeros(level.refined.shape, dtype=np.int64) for level in tree[coarsest - 1 :]]
    for number, level in enumerate(below):
        child[number][np.nonzero(tree[coarsest - 1 + number].refined)] = firsts[number] + np.arange(len(level.place))
    x, y, z = (2 * tree[coarsest - 1].place[:, None, :] + CORNERS).reshape(-1, 3).T
    order = np.argsort(x + n_side * (y + n_side * z))
    root, n_gas = values[coarsest - 1].reshape(-1, sum(HELD_BY_CELLS))[order], HELD_BY_CELLS[0]
    n_octs, deepest = int(firsts[-1]) - 1, len(below)
    out = [
        record("kinmass".ljust(256).encode(), order=">"),
        record(struct.pack(">iddff", 9, code_time(a), 1e-3, a, 0.01), order=">"),
        _big([box_mpc_h, OMEGA_M, OMEGA_L, 0.045, h], "f4"), _big([2], "i4"), _big([0, 0], "f4"),
        record(bytes(512), order=">"), _big([0, deepest], "i4"),
        *(_big(np.zeros(deepest + 1), kind) for kind in ("f8", "f8", "f8", "f8", "i4")),
        _big([n_side**3], "i4"), _big(child[0].ravel()[order], "i4"),
        _big(root[:, :n_gas], "f4"), _big(root[:, n_gas:], "f4"), _big([n_octs + 1, n_octs], "i4"),
    ]  # fmt: skip
    for number, level in enumerate(below, start=1):
        own = firsts[number - 1] + np.arange(len(level.place))
        out += [
            _big([number, len(own), own[0]], "i4"),
            _octs(level, own, number),
            _oct_cells(own, child[number], values[coarsest - 1 + number], n_side**3),
        ]
    return b"".join(out)


def _big(values: object, kind: str) -> bytes:
    return record(values, kind, ">")


def _octs(level: Level, own: np.ndarray, number: int) -> bytes:
    """Make the records of octs: place, neighbours (left out), parent (left out), level, next and previous."""
    octs = np.zeros((len(own), OCT_WORDS), dtype=">i4")
    octs[:, [0, -1]] = 4 * (OCT_WORDS - 2)
    # Centres, counted from -1 root cells.
    octs[:, 1:4] = (2 * level.place + 1) * 2 ** (_FINEST - number) + 2**_FINEST
    octs[:, 11], octs[:, 12], octs[:, 13] = number, np.append(own[1:], 0), np.append(0, own[:-1])
    return octs.tobytes()


def _oct_cells(own: np.ndarray, child: np.ndarray, values: np.ndarray, n_root: int) -> bytes:
    """Make the records of the cells of octs."""
    cells = np.zeros((len(own), 8), dtype=CELL)
    cells["begin"] = cells["end"] = CELL.itemsize - 8
    cells["number"] = n_root + 8 * (own[:, None] - 1) + np.arange(1, 9)
    cells["child"], cells["values"] = child, values
    return cells.tobytes()


def _particle_header(
    species: list[Particles], weights: list[float], n_row: int, n_side: int, a: float, h: float, box_mpc_h: float
) -> bytes:
    last = np.cumsum([len(p) for p in species]).tolist()
    more = [0] * (10 - len(species))
    energies = [0.0] * 7
    return struct.pack(
        PARTICLE_HEADER, b"kinmass".ljust(45), a, 0.01, 1.0, 1e-3, 9, *energies, n_row, n_side, len(species), 1,
        OMEGA_M, OMEGA_L, h, 0.0, 0.0, 0.045, *weights, *more, *last, *more, *([0.0] * 79), box_mpc_h,
    )  # fmt: skip


def _pages(p: Particles, n_row: int, n_side: int) -> bytes:
    """Make pages of n_row^2 particles: their x, then y, z and velocities. Places are in root cells, from 1."""
    page = n_row**2
    columns = np.zeros((6, -(-len(p) // page) * page), dtype=">f4")
    columns[:3, : len(p)], columns[3:, : len(p)] = 1 + n_side * p.pos_kpc.T, p.vel_kms.T
    return columns.reshape(6, -1, page).swapaxes(0, 1).tobytes()


def _stars(mass: np.ndarray, a: float) -> bytes:
    """Make the file of stars: masses now and at birth, times of birth, metallicities of two kinds."""
    t, n = code_time(a), len(mass)
    columns = mass, 1.1 * mass, np.full(n, code_time(0.5 * a)), np.full(n, 0.01), np.full(n, 0.005)
    head = [_big([t, a], "f8"), _big([n], "i4"), _big([mass.sum(), 1.1 * mass.sum()], "f8")]
    return b"".join(head + [_big(column, "f4") for column in columns])
