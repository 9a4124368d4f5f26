"""Projection of particles and cells into maps: one compiled pass gives all moments of a view and conserves mass."""

from dataclasses import replace
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from scipy.spatial import cKDTree

from kinmass.gen.compiled import compiled
from kinmass.gen.physics.cells import deposit_cells
from kinmass.gen.physics.particles import Galaxy, Particles


def _spline_column(b: np.ndarray) -> np.ndarray:
    """Cubic spline kernel (Monaghan & Lattanzio 1985) integrated along the line of sight at impact parameters b <= 1.

    b is in units of the support radius. The kernel has unit mass, so that the integral over 2 pi b db is 1.
    """
    node, node_weight = np.polynomial.legendre.leggauss(64)
    half_path = np.sqrt(np.maximum(1 - b**2, 0))[:, None]
    q = np.sqrt(b[:, None] ** 2 + (half_path * (node + 1) / 2) ** 2)
    spline = np.where(q < 0.5, 1 - 6 * q**2 + 6 * q**3, 2 * np.maximum(1 - q, 0) ** 3) * 8 / np.pi
    return np.asarray(spline @ node_weight * half_path[:, 0])


#: The column at equal steps of b^2 from 0 to 1, and its differences. Interpolated linearly, it integrates to unit mass.
COLUMN = _spline_column(np.sqrt(np.linspace(0, 1, 1025)))
COLUMN /= np.pi * np.trapezoid(COLUMN, dx=1 / 1024)
STEP = np.append(np.diff(COLUMN), 0.0)
#: Neighbours within the kernel of a gas particle whose file gives no kernel.
NEIGHBOURS = 32
#: Kernels of this many pixels or more are normalised by their analytic integral, 1e-7 off the sum over pixels.
WIDE = 16
#: Kernels of up to so many pixels are spread together; the field has a margin as wide.
PATCH = 4
#: Particles of a block, which stay in cache while all views are made of them.
BLOCK = 1024


def with_kernels(gas: Particles) -> Particles:
    """Give gas kernels where its file has none: each then ends at the distance of the 32nd neighbour in this gas.

    Cells have no need of them and are left alone.
    """
    if len(gas) == 0 or gas.support_kpc is not None or gas.side_kpc is not None:
        return gas
    distance_kpc, _ = cKDTree(gas.pos_kpc).query(gas.pos_kpc, k=min(NEIGHBOURS, len(gas)))
    return replace(gas, support_kpc=distance_kpc.reshape(len(gas), -1)[:, -1])


#: What the compiler may do: fuse multiply and add, ignore the sign of zero, multiply by reciprocals. Not reorder sums:
#: it makes two versions of a loop, chooses by where arrays lie in memory, and would reorder only one of them.
FAST_MATH = {"contract", "nsz", "arcp"}


def _add_as_vector(typing, points, pixel, share, values):  # type: ignore[no-untyped-def]
    """How to add share times the four values to a pixel of points (n, 4) as one vector: numba adds them one by one."""

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        """Load, multiply, add and store."""
        array, pixel, share, values = arguments
        vector = ir.VectorType(ir.DoubleType(), 4)
        numbers = shares = ir.Constant(vector, ir.Undefined)
        for k in range(4):
            place = ir.Constant(ir.IntType(32), k)
            numbers = builder.insert_element(numbers, builder.extract_value(values, k), place)
            shares = builder.insert_element(shares, share, place)
        data = context.make_array(signature.args[0])(context, builder, array).data
        first = builder.gep(data, [builder.mul(pixel, ir.Constant(pixel.type, 4))])
        where = builder.bitcast(first, vector.as_pointer())
        added = builder.fmul(shares, numbers, flags=("contract",))
        builder.store(builder.fadd(builder.load(where, align=8), added, flags=("contract",)), where, align=8)
        return context.get_dummy_value()

    double = types.float64
    return types.none(points, types.uint64, double, types.UniTuple(double, 4)), code


#: Adds share times four values to a pixel of points (n, 4): _add(points, pixel, share, values).
_add: Any = intrinsic(_add_as_vector)


@njit(inline="always", fastmath=FAST_MATH)
def _column(steps):  # type: ignore[no-untyped-def]
    """The kernel's column at b^2 = steps / 1024, by linear interpolation; none beyond its end."""
    steps = min(steps, 1024.0)
    k = np.int32(steps)
    index = np.uint64(k)  # numba looks for a negative index otherwise
    return COLUMN[index] + (steps - k) * STEP[index]


@njit(nogil=True, error_model="numpy", fastmath=FAST_MATH)
def _turn_block(pos, vel, start, turn, scale, u_rest, n, at_x, at_y, at_u, cell):  # type: ignore[no-untyped-def]
    """Fill places x, y [pixels], velocities u and pixels of the block of particles from start on, as they are seen."""
    width = np.int32(n + 2 * PATCH)
    for i in range(min(BLOCK, pos.shape[1] - start)):
        px, py, pz = pos[0, start + i], pos[1, start + i], pos[2, start + i]
        vx, vy, vz = vel[0, start + i], vel[1, start + i], vel[2, start + i]
        x = (turn[0, 0] * px + turn[0, 1] * py + turn[0, 2] * pz) * scale + 0.5 * n
        y = (turn[1, 0] * px + turn[1, 1] * py + turn[1, 2] * pz) * scale + 0.5 * n
        at_x[i], at_y[i] = x, y
        at_u[i] = turn[2, 0] * vx + turn[2, 1] * vy + turn[2, 2] * vz - u_rest
        col, row = np.floor(min(max(x, -1.0), n + 0.0)), np.floor(min(max(y, -1.0), n + 0.0))
        cell[i] = (np.int32(row) + PATCH) * width + np.int32(col) + PATCH


@njit(nogil=True, error_model="numpy", fastmath=FAST_MATH)
def _add_narrow(points, cell, mass, at_u, support, scale):  # type: ignore[no-untyped-def]
    """Add to its pixel each particle of a block whose kernel is no wider than that, and count all others there."""
    for i in range(mass.size):
        share = mass[i] if support.size == 0 or support[i] * scale <= 1.0 else 0.0
        momentum = share * at_u[i]
        _add(points, np.uint64(cell[i]), 1.0, (share, momentum, momentum * at_u[i], 1.0))


@njit(nogil=True, error_model="numpy", fastmath=FAST_MATH)
def _choose(chosen, covers, at_x, at_y, support, scale, n):  # type: ignore[no-untyped-def]
    """List a block's particles whose kernels cover several pixels, some of them in the field, by their patches' size.

    chosen (3, B) gets their places: of those within 3 x 3 pixels, within 4 x 4, and wider ones. Returns how many.
    Nothing branches here: a choice by chance would hold the processor up. covers (B,) is scratch space.
    """
    for i in range(support.size):
        x, y, h = at_x[i], at_y[i], support[i] * scale
        covers[i] = (h > 1.0) & (x >= -h) & (y >= -h) & (x <= n + h) & (y <= n + h)
    several = in_three = in_four = wider = 0
    for i in range(support.size):
        chosen[2, several] = i
        several += covers[i]
    for i in chosen[2, :several]:
        h = support[i] * scale
        chosen[0, in_three] = chosen[1, in_four] = chosen[2, wider] = i
        in_three += h <= 1.5
        in_four += (h > 1.5) & (h <= 2.0)
        wider += h > 2.0
    return in_three, in_four, wider


@njit(nogil=True, error_model="numpy", fastmath=FAST_MATH)
def _spread_alike(points, n, chosen, size, at_x, at_y, at_u, mass, support, scale, scratch, weights):  # type: ignore[no-untyped-def]
    """Spread the chosen particles of a block, whose kernels all lie within size x size pixels.

    They are done together, pixel after pixel of their patches: then no loop's length depends on the particle, which
    would hold the processor up. scratch (4 + 2 PATCH, B) and weights (B, PATCH^2) are scratch space.
    """
    count, width = chosen.size, n + 2 * PATCH
    at_col, at_row, h, total = scratch[0], scratch[1], scratch[2], scratch[3]
    across, up = scratch[4 : 4 + PATCH], scratch[4 + PATCH :]  # b^2 in x and in y, in steps of the column
    for k in range(count):
        i = chosen[k]
        at_col[k], at_row[k], h[k], total[k] = at_x[i], at_y[i], support[i] * scale, 0.0
    for c in range(size):
        for k in range(count):
            x0, y0 = np.ceil(at_col[k] - h[k] - 0.5), np.ceil(at_row[k] - h[k] - 0.5)
            dx, dy = x0 + (c + 0.5) - at_col[k], y0 + (c + 0.5) - at_row[k]
            steps = (COLUMN.size - 1) / (h[k] * h[k])
            across[c, k], up[c, k] = dx * dx * steps, dy * dy * steps
    for k in range(count):  # from here on where its patch begins
        at_col[k], at_row[k] = np.ceil(at_col[k] - h[k] - 0.5), np.ceil(at_row[k] - h[k] - 0.5)
    pixel = np.uint64(0)
    for row in range(size):
        for col in range(size):
            for k in range(count):
                weight = _column(across[col, k] + up[row, k])
                weights[k, pixel] = weight
                total[k] += weight
            pixel += np.uint64(1)
    for k in range(count):
        i = chosen[k]
        u, share = at_u[i], mass[i] / total[k]
        moments = share, share * u, share * u * u, 0.0
        line, pixel = np.uint64((int(at_row[k]) + PATCH) * width + int(at_col[k]) + PATCH), np.uint64(0)
        for _ in range(size):
            for col in range(size):
                _add(points, line + np.uint64(col), weights[k, pixel], moments)
                pixel += np.uint64(1)
            line += np.uint64(width)


@njit(nogil=True, error_model="numpy", fastmath=FAST_MATH)
def _spread(points, n, mass, x, y, u, h, across, up):  # type: ignore[no-untyped-def]
    """Spread a particle whose kernel's support is h [pixels]; across and up are scratch space."""
    x0, y0 = int(np.ceil(x - h - 0.5)), int(np.ceil(y - h - 0.5))
    x1, y1 = int(np.floor(x + h - 0.5)), int(np.floor(y + h - 0.5))
    if h >= WIDE:  # what lies outside the field is not asked for
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, n - 1), min(y1, n - 1)
    steps = (COLUMN.size - 1) / (h * h)
    for col in range(x1 - x0 + 1):
        across[col] = (x0 + col + 0.5 - x) ** 2 * steps
    for row in range(y1 - y0 + 1):
        up[row] = (y0 + row + 0.5 - y) ** 2 * steps
    total = h * h  # pixels are fine enough for the kernel's own integral
    if h < WIDE:
        total = 0.0
        for row in range(y1 - y0 + 1):
            for col in range(x1 - x0 + 1):
                total += _column(across[col] + up[row])
    share = mass / total
    moments = share, share * u, share * u * u, 0.0
    for row in range(max(y0, 0), min(y1, n - 1) + 1):
        line = (row + PATCH) * (n + 2 * PATCH) + PATCH
        for col in range(max(x0, 0), min(x1, n - 1) + 1):
            _add(points, np.uint64(line + col), _column(across[col - x0] + up[row - y0]), moments)


@compiled(fastmath=FAST_MATH)
def _deposit(pos, vel, mass, support, rotations, half_kpc, n, rest_kms):  # type: ignore[no-untyped-def]
    """Sums per view and pixel (V, n, n, 4): mass, mass u, mass u^2 and particle count, u = v_los - v_los of rest_kms.

    pos, vel (3, N): in this order the compiler rotates a block of particles with vector instructions. A block stays
    in cache while it is added to every view. A kernel wider than a pixel is spread over the pixel centres that it
    covers, with weights of the cubic spline that are scaled to add up to its mass. A narrower one falls into its
    pixel as a whole. The share of pixels outside the field is dropped.
    """
    views, width = half_kpc.size, n + 2 * PATCH  # the margin collects what is outside
    sums = np.zeros((views, width * width, 4))
    cell, covers, chosen = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32), np.empty((3, BLOCK), np.int32)
    at_x, at_y, at_u = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    scratch, weights = np.empty((4 + 2 * PATCH, BLOCK)), np.empty((BLOCK, PATCH**2))
    across, up = np.empty(max(n, 2 * WIDE + 2)), np.empty(max(n, 2 * WIDE + 2))
    for start in range(0, mass.size, BLOCK):
        block = slice(start, min(start + BLOCK, mass.size))
        m, h = mass[block], support[block]
        for v in range(views):
            turn, points, scale = rotations[v], sums[v], n / (2 * half_kpc[v])
            u_rest = turn[2, 0] * rest_kms[0] + turn[2, 1] * rest_kms[1] + turn[2, 2] * rest_kms[2]
            _turn_block(pos, vel, start, turn, scale, u_rest, n, at_x, at_y, at_u, cell)
            _add_narrow(points, cell, m, at_u, h, scale)
            if support.size == 0:
                continue
            three, four, wider = _choose(chosen, covers, at_x, at_y, h, scale, n)
            for size, some in ((3, chosen[0, :three]), (4, chosen[1, :four])):
                _spread_alike(points, n, some, size, at_x, at_y, at_u, m, h, scale, scratch, weights)
            for i in chosen[2, :wider]:
                _spread(points, n, m[i], at_x[i], at_y[i], at_u[i], h[i] * scale, across, up)
    return sums.reshape(views, width, width, 4)[:, PATCH:-PATCH, PATCH:-PATCH]


def project(
    particles: Particles,
    rotations: np.ndarray,
    half_width_kpc: np.ndarray | list[float],
    pixels: int,
    rest_kms: np.ndarray | tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Moment maps (V, 4, P, P) of one tracer along V sightlines, in one pass over its particles.

    Channels: surface density [Msun/kpc^2], mean line-of-sight velocity relative to rest_kms (3,) and
    dispersion [km/s], particle count. All but the count are weighted by mass, or by the particles' own weight, whose
    unit the density then has. rotations (V, 3, 3): the rows are the map's x, its y and the line of sight, which points
    away from the observer; half_width_kpc (V,). y grows with the row, x with the column. A pixel of zero density is
    empty; its velocity and dispersion are zero, which means nothing. Particles that have a side_kpc are cells, cubes of
    uniform density (`deposit_cells`), whatever their kernels; motions within a cell are no part of the dispersion.

    >>> from kinmass.gen.physics.particles import Particles
    >>> one = Particles(np.array([[0.5, 0.5, 0.0]]), np.array([[0.0, 0.0, 30.0]]), np.array([4e6]))
    >>> density, velocity, dispersion, count = project(one, np.eye(3)[None], [1.0], 2)[0]
    >>> density.tolist()  # all of it in the pixel of 1 kpc^2 at the upper right
    [[0.0, 0.0], [0.0, 4000000.0]]
    >>> float(velocity[1, 1]), float(dispersion[1, 1]), int(count[1, 1])
    (30.0, 0.0, 1)
    """
    half_width_kpc = np.asarray(half_width_kpc, dtype=np.float64)
    maps = np.zeros((len(half_width_kpc), 4, pixels, pixels))
    if particles.weight is not None:
        particles = particles[particles.weight > 0]
    if len(particles) == 0:
        return maps
    weight = particles.mass_msun if particles.weight is None else particles.weight
    # Velocities are summed relative to rest_kms, so that a bulk motion of 1e4 km/s costs no digits.
    view = np.ascontiguousarray(rotations), half_width_kpc, pixels, np.asarray(rest_kms, dtype=np.float64)
    if particles.side_kpc is not None:
        sums = deposit_cells(particles.pos_kpc, particles.vel_kms, weight, particles.side_kpc, *view)
    else:
        support = np.zeros(0) if particles.support_kpc is None else particles.support_kpc
        pos, vel = np.asfortranarray(particles.pos_kpc).T, np.asfortranarray(particles.vel_kms).T
        sums = _deposit(pos, vel, weight, support, *view)
    mass, first, second, count = np.moveaxis(sums, -1, 0)
    occupied = mass > 0
    mean = np.divide(first, mass, out=np.zeros_like(mass), where=occupied)
    mean_square = np.divide(second, mass, out=np.zeros_like(mass), where=occupied)
    maps[:, 0] = mass / ((2 * half_width_kpc / pixels) ** 2)[:, None, None]
    maps[:, 1] = mean
    maps[:, 2] = np.sqrt(np.maximum(mean_square - mean**2, 0.0))
    maps[:, 3] = count
    return maps


def views(
    galaxy: Galaxy,
    rotations: np.ndarray,
    half_width_kpc: np.ndarray | list[float],
    pixels: int,
    rest_kms: np.ndarray | tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Maps (V, 8, P, P): the four channels of `project` of the stars, then those of the gas. Stars get no kernel."""
    stars = replace(galaxy.stars, support_kpc=None)
    return np.concatenate(
        [project(p, rotations, half_width_kpc, pixels, rest_kms) for p in (stars, galaxy.gas)], axis=1
    )
