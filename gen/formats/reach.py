"""Where the particles of a block lie, and which blocks reach into a sphere, compiled.

A large box has billions of particles, each looked at once, and hundreds of thousands of blocks, each asked for every
galaxy.
"""

import numpy as np
from numba import njit

#: Cuboids and cells are taken larger by this share on all sides: more than any rounding.
MARGIN = 1e-3


@njit(inline="always", error_model="numpy")
def _beyond(low, high, centre):  # type: ignore[no-untyped-def]
    """How far along one axis a centre lies outside of an interval with a margin; 0 inside."""
    margin = MARGIN * (high - low) + 1e-9 * max(abs(low), abs(high))
    return max(low - margin - centre, centre - high - margin, 0.0)


@njit(inline="always", error_model="numpy")
def _slabs(low, high, side, centre, radius):  # type: ignore[no-untyped-def]
    """First and last slab along the first axis that a sphere may touch, one more on either side."""
    step = (high - low) / side
    if step == 0:
        return 0, side - 1
    last = min(max((centre + radius - low) / step + 1, -1.0), side - 1.0)
    return np.int64(min(max((centre - radius - low) / step - 2, 0.0), side + 0.0)), np.int64(last)


@njit(cache=True, nogil=True, error_model="numpy")
def reaching(low, high, sides, ends, cells, centre, radius):  # type: ignore[no-untyped-def]
    """Tell (B, T) which types of which blocks may have particles within a radius of a centre (3,).

    All else is as in `gen.formats.blocks.Blocks`. What has a position that is not finite reaches everywhere.
    """
    n_blocks, n_types = sides.shape
    touched = np.zeros((n_blocks, n_types), dtype=np.bool_)
    limit = radius * radius
    for block in range(n_blocks):
        for kind in range(n_types):
            side = sides[block, kind]
            if side == 0:
                continue
            distance2, is_finite = 0.0, True
            for axis in range(3):
                a, b = low[block, kind, axis], high[block, kind, axis]
                is_finite = is_finite and np.isfinite(b - a)
                distance2 += _beyond(a, b, centre[axis]) ** 2
            if side == 1 or not is_finite or distance2 > limit:
                touched[block, kind] = not is_finite or distance2 <= limit
                continue
            of_block = cells[ends[block * n_types + kind] : ends[block * n_types + kind + 1]]
            first, last = _slabs(low[block, kind, 0], high[block, kind, 0], side, centre[0], radius)
            for k in range(np.searchsorted(of_block, first * side * side), of_block.size):
                cell, distance2 = np.int64(of_block[k]), 0.0
                if cell >= (last + 1) * side * side:
                    break
                for axis in range(2, -1, -1):
                    step = (high[block, kind, axis] - low[block, kind, axis]) / side
                    place = cell % side
                    cell //= side
                    a = low[block, kind, axis] + place * step
                    distance2 += _beyond(a, low[block, kind, axis] + (place + 1) * step, centre[axis]) ** 2
                if distance2 <= limit:
                    touched[block, kind] = True
                    break
    return touched


@njit(cache=True, nogil=True, error_model="numpy")
def filled(pos, low, scale, finest, most, share):  # type: ignore[no-untyped-def]
    """Return how many cells along each axis a cuboid is cut into, and the ids of those that hold positions (N, 3).

    low (3,) is its corner and scale (3,) the finest cells per length. Coarser cells are taken while more than `most` or
    a larger share of all are filled; (1, empty) where one cell is left.
    """
    side = finest
    while side > 1:
        is_filled, n, limit = np.zeros(side**3, dtype=np.bool_), 0, min(most, share * side**3)
        for i in range(len(pos)):
            cell = 0
            for axis in range(3):
                step = np.int64((pos[i, axis] - low[axis]) * scale[axis])
                cell = cell * side + min(max(step, 0), finest - 1) * side // finest
            if not is_filled[cell]:
                is_filled[cell] = True
                n += 1
                if n > limit:
                    break
        if n <= limit:
            return side, np.flatnonzero(is_filled).astype(np.uint32)
        side //= 2
    return 1, np.zeros(0, dtype=np.uint32)
