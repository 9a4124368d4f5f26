"""Projection of the cells of an adaptive grid: uniform cubes, seen from any side, whose mass in each pixel is exact.

The column of a cube along a sightline is a box spline: a point, drawn out along the three edges as they are seen (de
Boor, Hoellig & Riemenschneider 1993, Box Splines, chapter I). Its derivative in x and y lies along the twelve edges, so
that the mass to the lower left of a point is a sum of twelve polynomials; four such points give the mass of a pixel.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from kinmass.gen.compiled import compiled

#: Smallest part of the sightline along an edge: a cube that is seen exactly along a face or an edge is tilted by this.
TILT = 1e-7
#: Error of the mass to the lower left of a point for edges of weight 1: the rounding of some twenty operations.
ROUNDING = 1e-15
#: Shares of a pixel within so many times this error are none, as beside a cube in the corner of the pixels it touches.
SURE = 10
#: Cells of a block, which stay in cache while all views are made of them.
BLOCK = 1024
# The functions for single cells return at their ends alone and divide without Python's check for zero: numba then
# leaves out counting references to their arrays, which would take ten times as long as a small cell.


@dataclass(frozen=True)
class Cube:
    """The cube of side 1 around the origin in one view.

    axes (2, 3): its three edges as they are seen. edges (9, 12): where each of twelve edges begins (x, y) and where it
    leads from there (x, y), one over these two, what to add to the place where it meets an x for the first and the last
    place at smaller x (2), and the weight of its polynomial. least: the smallest share of its mass that is more than
    rounding and tilt. largest: the side [pixels] up to which pixels are good to 1e-6 of the cube's mean column.
    """

    axes: np.ndarray
    edges: np.ndarray
    least: float
    largest: float


def _tilted(turn: np.ndarray) -> np.ndarray:
    """The map's axes (2, 3) of a view (3, 3), tilted so that no part of the line of sight is below TILT."""
    sight = np.where(np.abs(turn[2]) < TILT, np.copysign(TILT, turn[2]), turn[2])
    sight = sight / np.linalg.norm(sight)
    x = turn[0] - (turn[0] @ sight) * sight
    x /= np.linalg.norm(x)
    y = turn[1] - (turn[1] @ sight) * sight
    y -= (y @ x) * x
    return np.stack([x, y / np.linalg.norm(y)])


def cube_seen(turn: np.ndarray) -> Cube:
    """The unit cube in the view of turn (3, 3), whose rows are the map's x and y and the line of sight."""
    tilt = np.abs(turn[2]).min() < TILT
    axes = _tilted(turn) if tilt else turn[:2]
    edges, weights = np.empty((9, 12)), np.empty(3)
    for k in range(3):
        along, other, third = axes[:, k], axes[:, (k + 1) % 3], axes[:, (k + 2) % 3]
        areas = [along[0] * o[1] - along[1] * o[0] for o in (other, third)]
        weights[k] = -along[0] * along[1] / (areas[0] * areas[1])
        if along[1] < 0:
            along = -along
        per = np.copysign(1 / np.maximum(np.abs(along), 1e-12), along)
        ends = (0.0, 1e30) if along[0] < 0 else (-1e30, 0.0)
        for s, (i, j) in enumerate(((-1, -1), (-1, 1), (1, -1), (1, 1))):
            begin = (i * other + j * third - along) / 2
            edges[:, 4 * k + s] = *begin, *along, *per, *ends, i * j * weights[k] / 6
    error = ROUNDING * max(np.abs(weights).max(), 1.0)
    largest = np.sqrt(1e-7 / error)
    if tilt:
        return Cube(axes, edges, max(SURE * error, TILT), min(largest, 1e-6 / TILT))
    return Cube(axes, edges, SURE * error, largest)


# Sums may be reordered here, where nothing is written: of such a loop there is one version, wherever arrays lie.
@njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _mass_below(x, y, edges):  # type: ignore[no-untyped-def]
    """Share of the unit cube's mass at smaller x and y than this: (x - x') (y - y') over the parts of edges there."""
    total = 0.0
    for k in range(12):
        dx, dy = x - edges[0, k], y - edges[1, k]
        at_x, at_y = dx * edges[4, k], dy * edges[5, k]
        begin = max(at_x + edges[6, k], 0.0)
        end = min(min(at_x + edges[7, k], at_y), 1.0)
        ax, bx = dx - begin * edges[2, k], dx - end * edges[2, k]
        ay, by = dy - begin * edges[3, k], dy - end * edges[3, k]
        total += edges[8, k] * max(end - begin, 0.0) * (ax * (2 * ay + by) + bx * (ay + 2 * by))
    return total


@njit(inline="always", error_model="numpy")
def _spread(points, below, edges, least, x, y, side, reach_x, reach_y, mass, u):  # type: ignore[no-untyped-def]
    """Add the mass, mass u and mass u^2 of a cube to pixels points (n, n, 4) that it covers; x, y, side in pixels.

    reach_x, reach_y: the furthest that it reaches from its centre, into the field. below (n + 1,) is scratch space.
    """
    n = points.shape[0]
    col0, col1 = int(np.floor(x - reach_x)), int(np.floor(x + reach_x))
    row0, row1 = int(np.floor(y - reach_y)), int(np.floor(y + reach_y))
    per = 1.0 / side
    top_x, top_y = reach_x * per, reach_y * per
    first, last = max(col0, -1), min(col1, n - 1)
    for col in range(first, last + 1):
        below[col + 1] = 0.0
    for row in range(max(row0, -1), min(row1, n - 1) + 1):  # row and column -1: all that is outside on that side
        line = min((row + 1 - y) * per, top_y)
        left = left_below = 0.0
        for col in range(first, last + 1):
            inside = row < row1 or col < col1
            right = _mass_below(min((col + 1 - x) * per, top_x), line, edges) if inside else 1.0
            share = (right - left) - (below[col + 1] - left_below)
            left, left_below = right, below[col + 1]
            below[col + 1] = right
            if row >= 0 and col >= 0 and share > least:
                m = mass * share
                points[row, col, 0] += m
                points[row, col, 1] += m * u
                points[row, col, 2] += m * u * u


@njit(error_model="numpy")
def _spread_pieces(points, below, pieces, axes, edges, least, largest, x, y, side, half_x, half_y, mass, u):  # type: ignore[no-untyped-def]
    """As `_spread`, of a cube that is halved until its pieces' side is at most the largest.

    half_x, half_y: how far it reaches from its centre [side]. pieces (200, 4) is scratch space: pieces yet to be added.
    """
    n = points.shape[0]
    pieces[0, 0], pieces[0, 1], pieces[0, 2], pieces[0, 3] = x, y, side, mass
    left = 1
    while left > 0:
        left -= 1
        x, y, side, mass = pieces[left, 0], pieces[left, 1], pieces[left, 2], pieces[left, 3]
        reach_x, reach_y = half_x * side, half_y * side
        if x + reach_x >= 0 and y + reach_y >= 0 and x - reach_x < n and y - reach_y < n:
            if side <= largest or left > 190:
                _spread(points, below, edges, least, x, y, side, reach_x, reach_y, mass, u)
            else:
                for k in range(8):
                    a, b, c = (k & 1) - 0.5, (k >> 1 & 1) - 0.5, (k >> 2) - 0.5
                    pieces[left, 0] = x + 0.5 * side * (a * axes[0, 0] + b * axes[0, 1] + c * axes[0, 2])
                    pieces[left, 1] = y + 0.5 * side * (a * axes[1, 0] + b * axes[1, 1] + c * axes[1, 2])
                    pieces[left, 2], pieces[left, 3] = 0.5 * side, 0.125 * mass
                    left += 1


@compiled()
def _deposit(pos, vel, mass, side, rotations, axes, edges, least, largest, half_kpc, n, rest_kms):  # type: ignore[no-untyped-def]
    """Sums per view and pixel (V, n, n, 4): as `deposit_cells`, with what `cube_seen` says of each view.

    pos, vel (3, N). A block of cells stays in cache while it is added to every view.
    """
    sums = np.zeros((half_kpc.size, n, n, 4))
    below, pieces = np.empty(n + 1), np.empty((200, 4))
    for start in range(0, mass.size, BLOCK):
        for v in range(half_kpc.size):
            turn, points, seen, cube = rotations[v], sums[v], axes[v], edges[v]
            scale = n / (2 * half_kpc[v])
            half_x = 0.5 * (abs(seen[0, 0]) + abs(seen[0, 1]) + abs(seen[0, 2]))
            half_y = 0.5 * (abs(seen[1, 0]) + abs(seen[1, 1]) + abs(seen[1, 2]))
            for i in range(start, min(start + BLOCK, mass.size)):
                x = (turn[0, 0] * pos[0, i] + turn[0, 1] * pos[1, i] + turn[0, 2] * pos[2, i]) * scale + 0.5 * n
                y = (turn[1, 0] * pos[0, i] + turn[1, 1] * pos[1, i] + turn[1, 2] * pos[2, i]) * scale + 0.5 * n
                wide = side[i] * scale
                reach_x, reach_y = half_x * wide, half_y * wide
                if not (x + reach_x >= 0 and y + reach_y >= 0 and x - reach_x < n and y - reach_y < n):
                    continue
                u = 0.0
                for k in range(3):
                    u += turn[2, k] * (vel[k, i] - rest_kms[k])
                if 0 <= x < n and 0 <= y < n:
                    points[int(y), int(x), 3] += 1.0
                col, row = int(np.floor(x - reach_x)), int(np.floor(y - reach_y))
                if x + reach_x < col + 1 and y + reach_y < row + 1:  # all of it in one pixel
                    points[row, col, 0] += mass[i]
                    points[row, col, 1] += mass[i] * u
                    points[row, col, 2] += mass[i] * u * u
                elif wide <= largest[v]:
                    _spread(points, below, cube, least[v], x, y, wide, reach_x, reach_y, mass[i], u)
                else:
                    _spread_pieces(
                        points, below, pieces, seen, cube, least[v], largest[v], x, y, wide, half_x, half_y, mass[i], u
                    )
    return sums


def deposit_cells(
    pos_kpc: np.ndarray, vel_kms: np.ndarray, mass: np.ndarray, side_kpc: np.ndarray,
    rotations: np.ndarray, half_width_kpc: np.ndarray, pixels: int, rest_kms: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Sums per view and pixel (V, P, P, 4) of cells: mass, mass u, mass u^2, and cells whose centre lies there.

    pos_kpc, vel_kms (N, 3); mass, side_kpc (N,); rotations (V, 3, 3); half_width_kpc (V,); u = v_los - v_los of
    rest_kms (3,). All of a cell moves with its velocity. A cell within one pixel is added to it as a whole. The pixels
    of any other are exact but for rounding: a pixel's share of the cell's mass to 1e-14, up to 1e-8 where the sightline
    lies in a plane of the grid, and its column to 1e-6 of the cell's mean column. Shares within the rounding are left
    out, and those outside the field.
    """
    cubes = [cube_seen(turn) for turn in rotations]
    axes, edges = np.stack([c.axes for c in cubes]), np.stack([c.edges for c in cubes])
    least, largest = np.array([c.least for c in cubes]), np.array([c.largest for c in cubes])
    pos, vel = np.asfortranarray(pos_kpc).T, np.asfortranarray(vel_kms).T
    sums = _deposit(pos, vel, mass, side_kpc, rotations, axes, edges, least, largest, half_width_kpc, pixels, rest_kms)
    return np.asarray(sums)
