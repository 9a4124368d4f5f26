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


@njit(inline="always", error_model="numpy")
def _first_from(cells, begin, end, least):  # type: ignore[no-untyped-def]
    """Find the place, from begin to end, of the first of some growing cells that is not below `least`."""
    while begin < end:
        middle = (begin + end) // 2
        if np.int64(cells[middle]) < least:
            begin = middle + 1
        else:
            end = middle
    return begin


@njit(error_model="numpy")
def _reaches(low, high, side, cells, begin, end, centre, radius):  # type: ignore[no-untyped-def]
    """Tell whether a cell from begin to end, of a cuboid cut into `side` along each axis, touches a sphere.

    side is a power of two, so that shifts do what divisions take ten times as long for.
    """
    bits = 0
    while (1 << bits) < side:
        bits += 1
    first_x, last_x = _slabs(low[0], high[0], side, centre[0], radius)
    first_y, last_y = _slabs(low[1], high[1], side, centre[1], radius)
    for k in range(_first_from(cells, begin, end, first_x << (2 * bits)), end):
        cell = np.int64(cells[k])
        x, y = cell >> (2 * bits), (cell >> bits) & (side - 1)
        if x > last_x:
            break
        if y < first_y or y > last_y:
            continue
        distance2 = 0.0
        for axis, place in enumerate((x, y, cell & (side - 1))):
            step = (high[axis] - low[axis]) / side
            distance2 += _beyond(low[axis] + place * step, low[axis] + (place + 1) * step, centre[axis]) ** 2
        if distance2 <= radius * radius:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def reaching(cuboids, everywhere, low, high, sides, ends, cells, centre, radius):  # type: ignore[no-untyped-def]
    """Tell (N,) which types of which blocks, N of them, may have particles within a radius of a centre (3,).

    cuboids (2, 3, N): lowest and highest corner with a margin, axis by axis: most are told by the first. everywhere
    (N,): which have positions that are not finite. low, high (N, 3), sides (N,), ends and cells as in
    `gen.formats.blocks.Blocks`, whose blocks and types are counted as one.
    """
    touched = np.zeros(len(sides), dtype=np.bool_)
    low_x, high_x, x = cuboids[0, 0], cuboids[1, 0], centre[0]
    for i in range(len(sides)):
        # One question in the place of several: which of them holds cannot be foretold, that one does is the rule.
        if ((low_x[i] - x > radius) | (x - high_x[i] > radius)) & (not everywhere[i]):
            continue
        distance2 = 0.0
        for axis in range(3):
            distance2 += max(cuboids[0, axis, i] - centre[axis], centre[axis] - cuboids[1, axis, i], 0.0) ** 2
        if everywhere[i]:
            touched[i] = True
        elif distance2 <= radius * radius and sides[i] > 0:
            touched[i] = sides[i] == 1 or _reaches(
                low[i], high[i], sides[i], cells, ends[i], ends[i + 1], centre, radius
            )
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
