"""An octree around particles, and gas particles as its cells: how the mocks' gas is written for the codes of grids."""

from dataclasses import dataclass

import numpy as np

#: The eight cells of an oct in the order of the codes: x runs fastest.
CORNERS = np.array([[i & 1, (i >> 1) & 1, (i >> 2) & 1] for i in range(8)])


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
