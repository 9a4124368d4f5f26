"""Projection of particles and cells into maps: one compiled pass gives all moments of a view and conserves mass."""

from dataclasses import replace

import numpy as np
from numba import njit
from scipy.spatial import cKDTree

from kinmass.gen.physics.cells import deposit_cells
from kinmass.gen.physics.particles import Galaxy, Particles

CHANNELS = ("density", "velocity", "dispersion", "count")


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
#: Pixels of a row handled at once; particles of a block, which stay in cache while all views are made of them.
LANES, BLOCK = 4, 1024


def with_kernels(gas: Particles) -> Particles:
    """Give gas kernels where its file has none: each then ends at the distance of the 32nd neighbour in this gas.

    Cells have no need of them and are left alone.
    """
    if len(gas) == 0 or gas.support_kpc is not None or gas.side_kpc is not None:
        return gas
    distance_kpc, _ = cKDTree(gas.pos_kpc).query(gas.pos_kpc, k=min(NEIGHBOURS, len(gas)))
    return replace(gas, support_kpc=distance_kpc.reshape(len(gas), -1)[:, -1])


#: What the compiler may do: reorder sums, fuse multiply and add, ignore the sign of zero, multiply by reciprocals.
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}


@njit(inline="always", fastmath=FAST_MATH)
def _spread_by_integral(images, mass, x, y, u, h):  # type: ignore[no-untyped-def]
    """Add a particle's mass, mass u and mass u^2 to three images (n, n + 2 LANES), by the kernel at pixel centres.

    x, y and the support h are in pixels. The kernel is normalised by its integral.
    """
    density, first, second = images
    n, steps_b2 = density.shape[0], COLUMN.size - 1
    per_h2 = 1.0 / (h * h)
    x0, y0 = int(np.ceil(x - h - 0.5)), int(np.ceil(y - h - 0.5))
    x1, y1 = int(np.floor(x + h - 0.5)), int(np.floor(y + h - 0.5))
    for row in range(max(y0, 0), min(y1, n - 1) + 1):
        for col in range(max(x0, 0), min(x1, n - 1) + 1):
            q2 = min(((row + 0.5 - y) ** 2 + (col + 0.5 - x) ** 2) * per_h2, 1.0)
            k = int(q2 * steps_b2)
            w = mass * per_h2 * (COLUMN[k] + (q2 * steps_b2 - k) * STEP[k])
            density[row, col + LANES] += w
            first[row, col + LANES] += w * u
            second[row, col + LANES] += w * u * u


@njit(inline="always", fastmath=FAST_MATH)
def _spread_by_sum(images, weights, mass, x, y, u, h):  # type: ignore[no-untyped-def]
    """As `_spread_by_integral`, but the kernel is normalised by its sum over all pixels, which conserves mass.

    weights is scratch space for the kernel at the pixel centres.
    """
    density, first, second = images
    n, steps_b2 = density.shape[0], COLUMN.size - 1
    per_h2 = 1.0 / (h * h)
    x0, y0 = int(np.ceil(x - h - 0.5)), int(np.ceil(y - h - 0.5))
    x1, y1 = int(np.floor(x + h - 0.5)), int(np.floor(y + h - 0.5))
    total = 0.0
    for row in range(y0, y1 + 1):
        dy2 = (row + 0.5 - y) ** 2
        for c0 in range(0, x1 - x0 + 1, LANES):
            dx0 = x0 + c0 + 0.5 - x
            for c in range(LANES):
                q2 = min((dy2 + (dx0 + c) ** 2) * per_h2, 1.0)
                k = int(q2 * steps_b2)
                w = COLUMN[k] + (q2 * steps_b2 - k) * STEP[k]
                weights[row - y0, c0 + c] = w
                total += w
    share = mass / total
    share_u = share * u
    share_uu = share_u * u
    for row in range(max(y0, 0), min(y1, n - 1) + 1):
        for c0 in range(0, x1 - x0 + 1, LANES):
            col0 = x0 + c0 + LANES
            if 0 < col0 < n + LANES:
                for c in range(LANES):
                    density[row, col0 + c] += share * weights[row - y0, c0 + c]
                    first[row, col0 + c] += share_u * weights[row - y0, c0 + c]
                    second[row, col0 + c] += share_uu * weights[row - y0, c0 + c]


@njit(inline="always", fastmath=FAST_MATH)
def _sums_of(narrow, wide):  # type: ignore[no-untyped-def]
    """Sums per view and pixel (V, n, n, 4) of narrow and wide kernels, without the margins of either."""
    views, n = wide.shape[0], wide.shape[2]
    sums = np.empty((views, n, n, 4))
    for v in range(views):
        for row in range(n):
            for col in range(n):
                k = (row + 1) * (n + 2) + col + 1
                for j in range(3):
                    sums[v, row, col, j] = narrow[v, k, j] + wide[v, j, row, col + LANES]
                sums[v, row, col, 3] = narrow[v, k, 3]
    return sums


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST_MATH)
def _deposit(pos, vel, mass, support, rotations, half_kpc, n, rest_kms):  # type: ignore[no-untyped-def]
    """Sums per view and pixel (V, n, n, 4): mass, mass u, mass u^2 and particle count, u = v_los - v_los of rest_kms.

    pos, vel (3, N): in this order the compiler rotates a block of particles with vector instructions. A block stays
    in cache while it is added to every view. A kernel wider than a pixel is spread over the pixel centres that it
    covers, with weights of the cubic spline that are scaled to add up to its mass. A narrower one falls into its
    pixel as a whole. The share of pixels outside the field is dropped.
    """
    views = half_kpc.size
    narrow = np.zeros((views, (n + 2) ** 2, 4))  # a margin of one pixel collects all that is outside
    wide = np.zeros((views, 3, n, n + 2 * LANES))
    weights = np.empty((2 * WIDE + 3, 2 * WIDE + 3 + LANES))
    cell, chosen = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    at_x, at_y, at_u = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    for start in range(0, mass.size, BLOCK):
        block = slice(start, min(start + BLOCK, mass.size))
        px, py, pz, vx, vy, vz = (
            pos[0, block],
            pos[1, block],
            pos[2, block],
            vel[0, block],
            vel[1, block],
            vel[2, block],
        )
        m = mass[block]
        for v in range(views):
            turn = rotations[v]
            scale = n / (2 * half_kpc[v])
            u_rest = turn[2, 0] * rest_kms[0] + turn[2, 1] * rest_kms[1] + turn[2, 2] * rest_kms[2]
            for i in range(m.size):
                x = (turn[0, 0] * px[i] + turn[0, 1] * py[i] + turn[0, 2] * pz[i]) * scale + 0.5 * n
                y = (turn[1, 0] * px[i] + turn[1, 1] * py[i] + turn[1, 2] * pz[i]) * scale + 0.5 * n
                at_x[i], at_y[i] = x, y
                at_u[i] = turn[2, 0] * vx[i] + turn[2, 1] * vy[i] + turn[2, 2] * vz[i] - u_rest
                cell_x = np.int32(np.floor(min(max(x, -1.0), n + 0.0)) + 1)
                cell_y = np.int32(np.floor(min(max(y, -1.0), n + 0.0)) + 1)
                cell[i] = cell_y * (n + 2) + cell_x
            points = narrow[v]
            for i in range(m.size):
                index = np.uint64(cell[i])  # numba looks for a negative index otherwise
                inside = support.size == 0 or support[start + i] * scale <= 1.0
                share = m[i] if inside else 0.0
                momentum = share * at_u[i]
                # All four are read before any is written, so that they are added as one vector.
                old = points[index, 0], points[index, 1], points[index, 2], points[index, 3]
                points[index, 0] = old[0] + share
                points[index, 1] = old[1] + momentum
                points[index, 2] = old[2] + momentum * at_u[i]
                points[index, 3] = old[3] + 1.0
            if support.size == 0:
                continue
            several = 0  # kernels of several pixels are listed first: a choice by chance would hold the processor up
            for i in range(m.size):
                x, y, h = at_x[i], at_y[i], support[start + i] * scale
                chosen[several] = i
                several += (h > 1.0) & (x >= -h) & (y >= -h) & (x <= n + h) & (y <= n + h)
            images = wide[v, 0], wide[v, 1], wide[v, 2]
            for i in chosen[:several]:
                x, y, h = at_x[i], at_y[i], support[start + i] * scale
                if h >= WIDE:  # pixels are fine enough for the kernel's own integral
                    _spread_by_integral(images, m[i], x, y, at_u[i], h)
                else:
                    _spread_by_sum(images, weights, m[i], x, y, at_u[i], h)
    return _sums_of(narrow, wide)


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
