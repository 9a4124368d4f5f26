"""Where the particles of a block lie, and which blocks reach into a sphere, compiled.

A large box has billions of particles, each looked at once, and hundreds of thousands of blocks, of which only those of
the same corner of the box are asked for a galaxy.
"""

import numpy as np
from numba import njit

from kinmass.gen.compiled import compiled

#: Cuboids and cells are taken larger by this share on all sides: more than any rounding.
MARGIN = 1e-3
#: The extent of all blocks is cut into so many rooms along each axis, for which it is listed what reaches into them.
ROOMS = 16
#: What reaches into more rooms is asked for every sphere.
MOST_ROOMS = 512


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


@njit(inline="always", error_model="numpy")
def _touches(i, low, high, sides, ends, cells, centre, radius):  # type: ignore[no-untyped-def]
    """Tell whether one type of one block may have particles in a sphere; positions that are not finite reach all."""
    if sides[i] == 0:
        return False
    distance2 = 0.0
    for axis in range(3):
        if not np.isfinite(high[i, axis] - low[i, axis]):
            return True
        distance2 += _beyond(low[i, axis], high[i, axis], centre[axis]) ** 2
    if distance2 > radius * radius:
        return False
    return sides[i] == 1 or _reaches(low[i], high[i], sides[i], cells, ends[i], ends[i + 1], centre, radius)


@njit(inline="always", error_model="numpy")
def _place(x, origin, per_length):  # type: ignore[no-untyped-def]
    """Place of a coordinate among the rooms along one axis, the first or last one for those beyond."""
    return np.int64(min(max((x - origin) * per_length, 0.0), ROOMS - 1.0))


@njit(error_model="numpy")
def _rooms_of(i, low, high, sides, ends, cells, origin, per_length, seen, rooms, spans):  # type: ignore[no-untyped-def]
    """Write the rooms that one type of one block may reach into to `rooms`; return their number, -1 for too many.

    seen (ROOMS^3,): the last i that was noted in each room. spans (3, n, 2): for the first and last room of each slab
    of the cuboid along each axis, found once for all cells.
    """
    side, n = sides[i], 0
    for axis in range(3):
        step = (high[i, axis] - low[i, axis]) / side
        for place in range(side):
            begin, end = low[i, axis] + place * step, low[i, axis] + (place + 1) * step
            margin = MARGIN * (end - begin) + 1e-9 * max(abs(begin), abs(end))
            if not np.isfinite(margin):
                return -1
            spans[axis, place, 0] = _place(begin - margin, origin[axis], per_length[axis])
            spans[axis, place, 1] = _place(end + margin, origin[axis], per_length[axis])
    bits = 0
    while (1 << bits) < side:
        bits += 1
    for k in range(ends[i + 1] - ends[i] if side > 1 else 1):
        cell = np.int64(cells[ends[i] + k]) if side > 1 else 0
        along_x, along_y = spans[0, cell >> (2 * bits)], spans[1, (cell >> bits) & (side - 1)]
        along_z = spans[2, cell & (side - 1)]
        for x in range(along_x[0], along_x[1] + 1):
            for y in range(along_y[0], along_y[1] + 1):
                for room in range((x * ROOMS + y) * ROOMS + along_z[0], (x * ROOMS + y) * ROOMS + along_z[1] + 1):
                    if seen[room] != i:
                        if n == MOST_ROOMS:
                            return -1
                        seen[room], rooms[n] = i, room
                        n += 1
    return n


@compiled()
def by_room(low, high, sides, ends, cells):  # type: ignore[no-untyped-def]
    """List the types of blocks, N of them, that may reach into each of ROOMS^3 rooms of their whole extent.

    low, high (N, 3), sides (N,), ends and cells as in `gen.formats.blocks.Blocks`, whose blocks and types are counted
    as one. Returns the corner and the rooms per length (3,) of the rooms; where each one's list begins, with one list
    more, of those that reach into too many; and all lists.
    """
    origin, far = np.full(3, np.inf), np.full(3, -np.inf)
    for i in range(len(sides)):
        for axis in range(3):
            if sides[i] > 0 and np.isfinite(low[i, axis]) and np.isfinite(high[i, axis]):
                origin[axis], far[axis] = min(origin[axis], low[i, axis]), max(far[axis], high[i, axis])
    per_length = np.ones(3)
    for axis in range(3):
        if far[axis] > origin[axis] and np.isfinite(far[axis] - origin[axis]):
            per_length[axis] = ROOMS / (far[axis] - origin[axis])
        elif not np.isfinite(origin[axis]):
            origin[axis] = 0.0
    spans = np.zeros((3, sides.max() if len(sides) else 0, 2), dtype=np.int64)
    seen, n_rooms = np.full(ROOMS**3, -1, dtype=np.int32), np.zeros(len(sides), dtype=np.int32)
    rooms, n = np.zeros(len(sides) + MOST_ROOMS, dtype=np.uint16), 0
    starts = np.zeros(ROOMS**3 + 2, dtype=np.int64)
    for i in range(len(sides)):
        if sides[i] > 0:
            if n + MOST_ROOMS > len(rooms):
                rooms = np.concatenate((rooms, np.zeros_like(rooms)))
            own = rooms[n : n + MOST_ROOMS]
            n_rooms[i] = _rooms_of(i, low, high, sides, ends, cells, origin, per_length, seen, own, spans)
            if n_rooms[i] < 0:
                n_rooms[i], own[0] = 1, ROOMS**3
            for room in own[: n_rooms[i]]:
                starts[room + 1] += 1
            n += n_rooms[i]
    starts = np.cumsum(starts)
    filled, members, k = starts.copy(), np.zeros(n, dtype=np.uint32), 0
    for i in range(len(sides)):
        for room in rooms[k : k + n_rooms[i]]:
            members[filled[room]] = i
            filled[room] += 1
        k += n_rooms[i]
    return origin, per_length, starts, members


@compiled()
def reaching(listed, low, high, sides, ends, cells, centre, radius):  # type: ignore[no-untyped-def]
    """Name, in any order and maybe twice, the types of blocks that may have particles within a radius of a centre (3,).

    listed: of `by_room`, of the same blocks. All are asked where the rooms that the sphere touches name more than that.
    """
    origin, per_length, starts, members = listed
    first, last = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for axis in range(3):
        first[axis] = _place(centre[axis] - radius, origin[axis], per_length[axis])
        last[axis] = _place(centre[axis] + radius, origin[axis], per_length[axis])
    rows = [(ROOMS**3, ROOMS**3)]
    for x in range(first[0], last[0] + 1):
        for y in range(first[1], last[1] + 1):
            row = (x * ROOMS + y) * ROOMS
            rows.append((row + first[2], row + last[2]))
    n_asked = 0
    for begin, end in rows:
        n_asked += starts[end + 1] - starts[begin]
    if n_asked > len(sides):
        asked = np.arange(len(sides)).astype(np.uint32)
    else:
        asked, n_asked = np.zeros(n_asked, dtype=np.uint32), 0
        for begin, end in rows:
            named = members[starts[begin] : starts[end + 1]]
            asked[n_asked : n_asked + len(named)] = named
            n_asked += len(named)
    n = 0
    for i in asked:
        if _touches(i, low, high, sides, ends, cells, centre, radius):
            asked[n] = i
            n += 1
    return asked[:n]


@compiled()
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
