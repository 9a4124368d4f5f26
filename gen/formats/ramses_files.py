"""Writes small outputs of RAMSES in its own layout: octs shared out along the Hilbert curve, particles with families.

Layout: RAMSES's output_amr.f90, output_hydro.f90, output_part.f90 and init_amr.f90, which reads them back.
"""

from pathlib import Path

import numpy as np

from kinmass.gen.constants import KPC_CM, MSUN_G, RAMSES_MPC_CM, RAMSES_RHO_CRIT
from kinmass.gen.formats.fortran import record
from kinmass.gen.formats.octree import Cells, Level, build, deposit, in_unit_cube, of_levels
from kinmass.gen.physics.particles import Galaxy, Particles

OMEGA_M, OMEGA_L = 0.3089, 0.6911
#: Density of cells without gas, over that which the mean matter has or, without expansion, the mean gas.
FLOOR = 1e-12
FIELDS = ("density", "velocity_x", "velocity_y", "velocity_z", "pressure", "metallicity")
_PARTICLES = (
    *(f"{kind}_{axis}" for kind in ("position", "velocity") for axis in "xyz"),
    "mass", "identity", "levelp", "family", "tag", "birth_time", "metallicity",
)  # fmt: skip
#: Octs of one level in a domain's file, by the domain that owns them.
Held = list[tuple[int, np.ndarray]]
_TYPES = ("d",) * 7 + ("i", "i", "b", "b", "d", "d")


def hilbert_key(place: np.ndarray, bits: int) -> np.ndarray:
    """Return the place (N,) on RAMSES's Hilbert curve of cells (N, 3), integers below 2^bits."""
    from yt.frontends.ramses.hilbert import hilbert3d

    return np.asarray(hilbert3d(place, bits), dtype=np.int64) if bits else np.zeros(len(place), dtype=np.int64)


class _Units:
    """RAMSES's units in cgs, and the box's side as the info file has it.

    They are those of a cosmological run, or with boxlen those of a run without expansion whose box has this side.
    """

    def __init__(self, box_kpc: float, a: float, h: float, boxlen: float | None = None):
        self.is_cosmological, self.boxlen = boxlen is None, boxlen or 1.0
        self.box_mpc_h = box_kpc * KPC_CM / a * h / RAMSES_MPC_CM
        self.length, self.density = a * self.box_mpc_h * RAMSES_MPC_CM / h, OMEGA_M * RAMSES_RHO_CRIT * h**2 / a**3
        self.time = a**2 / (100 * h * 1e5 / RAMSES_MPC_CM)
        if boxlen is not None:  # densities in Msun/pc^3, and G = 1
            self.box_mpc_h, self.length, self.density, self.time = 1.0, box_kpc * KPC_CM / boxlen, 6.77e-23, 4.70e14
        self.mass_msun = self.density * self.length**3 / MSUN_G
        self.velocity_kms = self.length / self.time / 1e5


def write(
    path: Path,
    galaxies: list[tuple[Galaxy, np.ndarray, np.ndarray]],
    box_kpc: float,
    scale_factor: float,
    hubble: float,
    domains: int = 3,
    levels: tuple[int, int] = (4, 14),
    per_cell: int = 8,
    families: bool = True,
    boxlen: float | None = None,
) -> None:
    """Write an output of RAMSES; path is its output_NNNNN/info_NNNNN.txt.

    galaxies: (galaxy, centre_kpc (3,), velocity_kms (3,)). Gas becomes leaf cells of an octree, whole at the first of
    the levels and at the last at most, whose cells hold per_cell gas particles or fewer. families: particles have
    families, as since 2018, else numbers and birth times. boxlen: the box's side in code units of a run without
    expansion; the run is cosmological where it is left out. Black holes are not written.
    """
    if boxlen is not None:
        scale_factor, hubble = 1.0, 0.01  # RAMSES says H0 = 1 of a run without expansion
    units = _Units(box_kpc, scale_factor, hubble, boxlen)
    gas, stars, dark = (
        in_unit_cube(galaxies, name, box_kpc, units.velocity_kms, units.mass_msun) for name in ("gas", "stars", "dark")
    )
    tree = build(gas.pos_kpc, *levels, per_cell)
    mass = gas.mass_msun / units.boxlen**3
    floor = FLOOR if boxlen is None else FLOOR * mass.sum()
    cells = deposit(tree, gas.pos_kpc, gas.vel_kms, mass, floor)
    write_tree(path, tree, cells, stars, dark, units, scale_factor, hubble, domains, levels, families)


def write_tree(
    path: Path, tree: list[Level], cells: Cells, stars: Particles, dark: Particles, units: _Units,
    a: float, h: float, domains: int, levels: tuple[int, int], families: bool,
) -> None:  # fmt: skip
    """Write an octree, its leaf cells and particles, all in code units."""
    number, folder = path.stem.rpartition("_")[2], path.parent
    folder.mkdir(parents=True, exist_ok=True)
    finest = levels[1]
    bounds = np.linspace(0, 8 ** (finest + 1), domains + 1).astype(np.int64)
    owners = [_owner(level.place, i, finest, bounds) for i, level in enumerate(tree, start=1)]
    density, metals = cells.density, np.full(len(cells.density), 1e-3)
    values = of_levels(tree, cells, np.column_stack([density, cells.velocity, 1e-6 * density, metals]))
    for cpu in range(1, domains + 1):
        numbers = f"{number}.out{cpu:05d}"
        held = _held(tree, owners, cpu, domains)
        (folder / f"amr_{numbers}").write_bytes(_amr(tree, held, domains, finest, bounds, units, a, h))
        (folder / f"hydro_{numbers}").write_bytes(_hydro(values, held, domains, finest))
        particles = _particles(stars, dark, units.boxlen, tree, owners, cpu, domains, families)
        (folder / f"part_{numbers}").write_bytes(particles)
    _descriptors(folder, families)
    path.write_text(_info(units, a, h, domains, levels, bounds))


def _owner(place: np.ndarray, level: int, finest: int, bounds: np.ndarray) -> np.ndarray:
    """Number (n,) of the domain that owns each oct: by its centre along the Hilbert curve at the finest resolution."""
    bits = finest + 1
    return np.searchsorted(bounds, hilbert_key((2 * place + 1) << (bits - level), bits), side="right")


def _holders(tree: list[Level], owners: list[np.ndarray], pos: np.ndarray) -> np.ndarray:
    """Number (N,) of the domain of each particle: that of the smallest oct around its position (N, 3) in the box.

    A large oct can hold particles whose own places on the Hilbert curve are another domain's.
    """
    found = np.zeros(len(pos), dtype=np.int64)
    for i, (level, of) in enumerate(zip(tree, owners, strict=True)):
        shape = (1 << i,) * 3
        keys = np.ravel_multi_index(tuple(level.place.T), shape)
        order = np.argsort(keys)
        wanted = np.ravel_multi_index(tuple((pos * shape[0]).astype(np.int64).T), shape)
        at = order[np.searchsorted(keys[order], wanted).clip(max=len(keys) - 1)]
        found = np.where(keys[at] == wanted, of[at], found)
    return found


def _amr(
    tree: list[Level], held: list[Held], domains: int, finest: int, bounds: np.ndarray,
    units: _Units, a: float, h: float,
) -> bytes:  # fmt: skip
    """Make a domain's amr file: the octs that it holds, level by level."""
    known = held + [[]] * (finest - len(tree))
    counts = np.zeros((finest, domains), dtype=np.int32)
    for i, of_level in enumerate(known):
        for owner, octs in of_level:
            counts[i, owner - 1] = len(octs)
    head = [
        record(domains, "i4"), record(3, "i4"), record([1, 1, 1], "i4"), record(finest, "i4"),
        record(int(counts.sum()), "i4"), record(0, "i4"), record(int(counts.sum()), "i4"), record(units.boxlen, "f8"),
        record([1, 1, 1], "i4"), record([0.0], "f8"), record([a], "f8"), record(-1.0, "f8"),
        record(np.zeros(finest), "f8"), record(np.zeros(finest), "f8"), record([9, 9], "i4"), record(np.zeros(3), "f8"),
        record([OMEGA_M, OMEGA_L, 0, 0.045, 100 * h, 0.01, units.box_mpc_h], "f8"), record([a, 1, a, 0, 0], "f8"),
        record(0.0, "f8"), record(0 * counts, "i4"), record(0 * counts, "i4"), record(counts, "i4"),
        record(np.zeros(10 * finest), "i4"), record(np.zeros(5), "i4"), record("hilbert".ljust(128).encode()),
        record(bounds, "f8"), record([1], "i4"), record([0], "i4"), record([1], "i4"),
    ]  # fmt: skip
    # Grids are numbered in the order in which the file has them; a father is a cell: its corner and its grid.
    index = [np.zeros(len(level.place), dtype=np.int32) for level in tree]
    n = 0
    for i, of_level in enumerate(known):
        for _, octs in of_level:
            index[i][octs] = n + 1 + np.arange(len(octs))
            n += len(octs)
    body = []
    for i, of_level in enumerate(known):
        for owner, octs in of_level:
            body.append(_octs(tree, index, i, octs, owner))
    return b"".join(head + body)


def _held(tree: list[Level], owners: list[np.ndarray], cpu: int, domains: int) -> list[Held]:
    """Octs of each level that a domain's file holds, by owner.

    They are its own and, as buffers, those of the next domain, with their children and all octs above.
    """
    parents = [np.nonzero(level.refined)[0] for level in tree]
    held = [np.isin(of, [cpu, cpu % domains + 1]) for of in owners]
    for i in range(len(tree) - 1, 0, -1):
        held[i] |= held[i - 1][parents[i - 1]]
    for i in range(len(tree) - 1, 0, -1):
        held[i - 1][parents[i - 1][held[i]]] = True
    return [
        [(int(owner), np.flatnonzero(mask & (of == owner))) for owner in np.unique(of[mask])]
        for mask, of in zip(held, owners, strict=True)
    ]


def _octs(tree: list[Level], index: list[np.ndarray], i: int, octs: np.ndarray, owner: int) -> bytes:
    """Make the records of the octs of one level and owner."""
    level = tree[i]
    numbers = index[i][octs]
    sons = np.zeros(level.refined.shape, dtype=np.int32)
    if i + 1 < len(tree):
        sons[np.nonzero(level.refined)] = index[i + 1]
    father = np.zeros(len(octs), dtype=np.int32)
    place = (level.place[octs] + 0.5) / 2.0**i
    parts = [numbers, np.append(numbers[1:], 0), np.append(0, numbers[:-1])]
    out = [record(x, "i4") for x in parts] + [record(x, "f8") for x in place.T]
    out += [record(father, "i4")] + [record(0 * father, "i4")] * 6
    out += [record(sons[octs, corner], "i4") for corner in range(8)]
    out += [record(np.full(len(octs), owner), "i4")] * 8
    out += [record(level.refined[octs, corner], "i4") for corner in range(8)]
    return b"".join(out)


def _hydro(values: list[np.ndarray], held: list[Held], domains: int, finest: int) -> bytes:
    """Make a domain's hydro file from the values (octs, 8, fields) of each level's cells."""
    out = [record(x, "i4") for x in (domains, len(FIELDS), 3, finest, 0)] + [record(5 / 3, "f8")]
    for i in range(finest):
        known = dict(held[i]) if i < len(held) else {}
        for owner in range(1, domains + 1):
            octs = known.get(owner, np.zeros(0, dtype=int))
            out += [record(i + 1, "i4"), record(len(octs), "i4")]
            if len(octs):
                out += [record(x, "f8") for x in values[i][octs].reshape(len(octs), -1).T]
    return b"".join(out)


def _particles(
    stars: Particles, dark: Particles, boxlen: float, tree: list[Level], owners: list[np.ndarray], cpu: int,
    domains: int, families: bool,
) -> bytes:  # fmt: skip
    """Make a domain's particle file: dark matter, stars, and with families one tracer of gas without mass."""
    parts = []
    for p, family in ((dark, 1), (stars, 2), (stars[:1], 0)):
        own = _holders(tree, owners, p.pos_kpc) == cpu
        p, mass = p[own], p.mass_msun[own] if family else np.zeros(int(own.sum()))
        born = np.full(len(p), -0.5 if family == 2 else 0.0)
        number = np.arange(1, len(p) + 1) * (1 if family else -1)
        parts.append((boxlen * p.pos_kpc, p.vel_kms, mass, number, np.full(len(p), family), born))
    pos, vel, mass, number, families_of, born = (np.concatenate(column) for column in zip(*parts, strict=True))
    n, n_stars = len(mass), len(stars)
    out = [record(domains, "i4"), record(3, "i4"), record(n, "i4"), record(np.zeros(4), "i4"), record(n_stars, "i4")]
    out += [record(float(stars.mass_msun.sum()), "f8"), record(0.0, "f8"), record(0, "i4")]
    out += [record(x, "f8") for x in (*pos.T, *vel.T, mass)] + [
        record(number, "i4"),
        record(np.full(n, len(tree)), "i4"),
    ]
    out += [record(families_of, "i1"), record(np.zeros(n), "i1")] if families else []
    return b"".join([*out, record(born, "f8"), record(np.zeros(n), "f8")])


def _descriptors(folder: Path, families: bool) -> None:
    """Write the file descriptors; files without families are older than descriptors of particles."""
    lines = [f"{i}, {name}, d" for i, name in enumerate(FIELDS, start=1)]
    (folder / "hydro_file_descriptor.txt").write_text(
        "# version:  1\n# ivar, variable_name, variable_type\n" + "\n".join(lines) + "\n"
    )
    if families:
        lines = [f"{i}, {name}, {kind}" for i, (name, kind) in enumerate(zip(_PARTICLES, _TYPES, strict=True), start=1)]
        (folder / "part_file_descriptor.txt").write_text(
            "# version:  1\n# ivar, variable_name, variable_type\n" + "\n".join(lines) + "\n"
        )


def _info(units: _Units, a: float, h: float, domains: int, levels: tuple[int, int], bounds: np.ndarray) -> str:
    """Make the info file."""
    counts = {
        "ncpu": domains,
        "ndim": 3,
        "levelmin": levels[0],
        "levelmax": levels[1],
        "ngridmax": 100000,
        "nstep_coarse": 9,
    }
    values = {
        "boxlen": units.boxlen, "time": -1.0 if units.is_cosmological else 1.0,
        "aexp": a, "H0": 100 * h, "omega_m": OMEGA_M, "omega_l": OMEGA_L, "omega_k": 0.0,
        "omega_b": 0.045, "unit_l": units.length, "unit_d": units.density, "unit_t": units.time,
    }  # fmt: skip
    lines = [f"{key:<12s}={value:>11d}" for key, value in counts.items()] + [""]
    lines += [f"{key:<12s}={value:>23.15E}" for key, value in values.items()] + ["", "ordering type=hilbert"]
    lines += ["   DOMAIN   ind_min                 ind_max"]
    lines += [f"{i + 1:>8d} {bounds[i]:>23.15E} {bounds[i + 1]:>23.15E}" for i in range(domains)]
    return "\n".join(lines) + "\n"
