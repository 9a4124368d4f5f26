"""An octree around particles, and gas particles as its cells: how the mocks' gas is written for the codes of grids."""

from dataclasses import dataclass

import numpy as np

from kinmass.gen.physics.particles import Galaxy, Particles, concatenate

#: The eight cells of an oct in the order of the codes: x runs fastest.
CORNERS = np.array([[i & 1, (i >> 1) & 1, (i >> 2) & 1] for i in range(8)])


def in_unit_cube(
    galaxies: list[tuple[Galaxy, np.ndarray, np.ndarray]], name: str, box_kpc: float, vel_kms: float, mass_msun: float
) -> Particles:
    """Join one component of all galaxies in units of a box, a velocity and a mass, wrapped into the unit cube.

    galaxies: (galaxy, centre_kpc (3,), velocity_kms (3,)).
    """
    parts = []
    for galaxy, centre, bulk in galaxies:
        p = galaxy.components()[name]
        parts.append(Particles((p.pos_kpc + centre) / box_kpc % 1.0 % 1.0, p.vel_kms + bulk, p.mass_msun))
    p = concatenate(parts)
    return Particles(p.pos_kpc, p.vel_kms / vel_kms, p.mass_msun / mass_msun)


@dataclass(frozen=True)
class Level:
    """Octs of one level: place (n, 3), integers in units of an oct's side; refined (n, 8): cells with octs below."""

    place: np.ndarray
    refined: np.ndarray


@dataclass(frozen=True)
class Cells:
    """Leaf cells: level (n,) from 1, oct (n,) and corner (n,) of each, density and velocity (n, 3)."""

    level: np.ndarray
    oct: np.ndarray
    corner: np.ndarray
    density: np.ndarray
    velocity: np.ndarray


def build(pos: np.ndarray, coarsest: int, finest: int, most: int) -> list[Level]:
    """Build an octree over the unit cube, whole down to level `coarsest`: cells of more than `most` points are refined.

    pos (N, 3) in [0, 1); level 1 is one oct of eight cells of side 1/2. Returns the levels 1, 2, ...
    """
    levels, place = [], np.zeros((1, 3), dtype=np.int64)
    for number in range(1, finest + 1):
        cells = (2 * place[:, None, :] + CORNERS).reshape(-1, 3)
        if number < coarsest:
            refine = np.ones(len(cells), dtype=bool)
        elif number < finest:
            n_side = 1 << number
            keys, counts = np.unique(_key((pos * n_side).astype(np.int64), n_side), return_counts=True)
            refine = np.isin(_key(cells, n_side), keys[counts > most])
        else:
            refine = np.zeros(len(cells), dtype=bool)
        levels.append(Level(place, refine.reshape(-1, 8)))
        place = cells[refine]
        if not len(place):
            break
    return levels


def _key(place: np.ndarray, n_side: int) -> np.ndarray:
    return (place[:, 0] * n_side + place[:, 1]) * n_side + place[:, 2]


def deposit(levels: list[Level], pos: np.ndarray, vel: np.ndarray, mass: np.ndarray, floor: float) -> Cells:
    """Put the mass and momentum of points into the leaf cells that hold them: density and velocity of each cell.

    floor: the density of cells without points, at rest. Density times a cell's volume sums to the mass of the points.
    """
    parts = []
    for number, level in enumerate(levels, start=1):
        n_side = 1 << number
        octs, corners = np.nonzero(~level.refined)
        keys = _key(2 * level.place[octs] + CORNERS[corners], n_side)
        order = np.argsort(keys)
        wanted = _key((pos * n_side).astype(np.int64), n_side)
        found = np.searchsorted(keys, wanted, sorter=order).clip(max=max(len(keys) - 1, 0))
        row = order[found] if len(keys) else found
        inside = keys[row] == wanted if len(keys) else np.zeros(len(pos), dtype=bool)
        total = np.bincount(row[inside], mass[inside], minlength=len(keys))
        momentum = [np.bincount(row[inside], (mass * v)[inside], minlength=len(keys)) for v in vel.T]
        velocity = np.divide(
            np.stack(momentum, axis=-1), total[:, None], where=total[:, None] > 0, out=np.zeros((len(keys), 3))
        )
        density = np.where(total > 0, total * float(n_side) ** 3, floor)
        parts.append((np.full(len(keys), number), octs, corners, density, velocity))
    return Cells(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def of_levels(levels: list[Level], cells: Cells, values: np.ndarray) -> list[np.ndarray]:
    """Put values (n, F) of leaf cells into arrays (octs, 8, F) of the levels; others have the mean of those below."""
    filled = []
    for number, level in enumerate(levels, start=1):
        own = cells.level == number
        filled.append(np.zeros((*level.refined.shape, values.shape[1])))
        filled[-1][cells.oct[own], cells.corner[own]] = values[own]
    for level, block, below in zip(levels[-2::-1], filled[-2::-1], filled[:0:-1], strict=True):
        block[np.nonzero(level.refined)] = below.mean(axis=1)
    return filled


@dataclass(frozen=True)
class Gas:
    """The points that each cell of a lattice of n_side^3 holds: keys (n,) of the cells that hold some, and sums."""

    n_side: int
    keys: np.ndarray
    count: np.ndarray
    mass: np.ndarray
    momentum: np.ndarray

    @classmethod
    def of(cls, pos: np.ndarray, vel: np.ndarray, mass: np.ndarray, n_side: int) -> "Gas":
        """Sum points of the unit cube, pos and vel (N, 3), mass (N,), in the cells of a lattice."""
        keys, cell, count = np.unique(
            _key((pos * n_side).astype(np.int64), n_side), return_inverse=True, return_counts=True
        )
        momentum = np.stack([np.bincount(cell, mass * v, minlength=len(keys)) for v in vel.T], axis=-1)
        return cls(n_side, keys, count, np.bincount(cell, mass, minlength=len(keys)), momentum)

    def _rows(self, first: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row of each cell of a block, and whether it holds points."""
        place = np.stack(np.meshgrid(*(f + np.arange(n) for f, n in zip(first, shape, strict=True)), indexing="ij"), -1)
        wanted = _key(place.reshape(-1, 3), self.n_side)
        row = np.searchsorted(self.keys, wanted).clip(max=max(len(self.keys) - 1, 0))
        return row, self.keys[row] == wanted if len(self.keys) else np.zeros(len(wanted), dtype=bool)

    def counts_in(self, first: np.ndarray, shape: np.ndarray) -> np.ndarray:
        """Count the points in the cells [x, y, z] of a block whose first cell and number of cells are given."""
        row, held = self._rows(first, shape)
        return np.where(held, self.count[row] if len(self.count) else 0, 0).reshape(shape)

    def cells(self, first: np.ndarray, shape: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
        """Return densities [x, y, z], floor without gas, and velocities [x, y, z, 3] of the cells of a block."""
        row, held = self._rows(first, shape)
        density, velocity = np.full(len(row), floor), np.zeros((len(row), 3))
        mass = self.mass[row[held]]
        density[held] = mass * float(self.n_side) ** 3
        velocity[held] = self.momentum[row[held]] / mass[:, None]
        return density.reshape(shape), velocity.reshape(*shape, 3)
