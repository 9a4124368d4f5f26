"""Particles to maps: one compiled pass gives all moments of a view and conserves mass."""

from dataclasses import replace

import numpy as np
from numba import njit
from scipy.spatial import cKDTree

from kinmass.gen.physics.particles import Galaxy, Particles

CHANNELS = ("density", "velocity", "dispersion", "count")


def _spline_column(b: np.ndarray) -> np.ndarray:
    """Cubic spline (Monaghan & Lattanzio 1985) integrated along the line of sight at impact b <= 1.

    In units of the support radius; unit volume, so that the integral over 2 pi b db is 1.
    """
    node, node_weight = np.polynomial.legendre.leggauss(64)
    reach = np.sqrt(np.maximum(1 - b**2, 0))[:, None]
    q = np.sqrt(b[:, None] ** 2 + (reach * (node + 1) / 2) ** 2)
    spline = np.where(q < 0.5, 1 - 6 * q**2 + 6 * q**3, 2 * np.maximum(1 - q, 0) ** 3) * 8 / np.pi
    return np.asarray(spline @ node_weight * reach[:, 0])


#: The column at equal steps of b^2 from 0 to 1, and its steps; straight lines between them enclose unit mass.
COLUMN = _spline_column(np.sqrt(np.linspace(0, 1, 1025)))
COLUMN /= np.pi * np.trapezoid(COLUMN, dx=1 / 1024)
STEP = np.append(np.diff(COLUMN), 0.0)
#: Neighbours within the kernel of gas that comes without one.
NEIGHBOURS = 32
#: Kernels of this many pixels or more are normalised by their own integral (1e-7 off the pixels' sum).
WIDE = 16
#: Pixels handled at once, and particles that stay in cache while all views see them.
LANES, BLOCK = 4, 1024


def with_kernels(gas: Particles) -> Particles:
    """Gas with kernels: where its file has nothing they follow from, each ends at the 32nd neighbour among these."""
    if len(gas) == 0 or gas.support_kpc is not None:
        return gas
    near, _ = cKDTree(gas.pos_kpc).query(gas.pos_kpc, k=min(NEIGHBOURS, len(gas)))
    return replace(gas, support_kpc=near.reshape(len(gas), -1)[:, -1])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def _deposit(pos, vel, mass, support, rotations, half_kpc, n, rest):  # type: ignore[no-untyped-def]
    """Sums per view and pixel (V, n, n, 4): mass, mass u, mass u^2 and particle count, u = v_los - rest.

    pos, vel (3, N), so that a block of particles is turned in vector instructions; blocks stay in
    cache while every view sees them. A kernel wider than a pixel is spread over the pixel centres
    it covers with the cubic spline's weights, scaled to add up to its mass; a narrower one falls
    into its pixel. Pixels outside the field take their share and are dropped.
    """
    views, last = half_kpc.size, COLUMN.size - 1
    narrow = np.zeros((views, (n + 2) ** 2, 4))  # one pixel more on every side for whatever is outside
    wide = np.zeros((views, 3, n, n + 2 * LANES))
    weights = np.empty((2 * WIDE + 3, 2 * WIDE + 3 + LANES))
    cell, at_x, at_y, at_u = np.empty(BLOCK, np.int32), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
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
            r = rotations[v]
            scale = n / (2 * half_kpc[v])
            u_rest = r[2, 0] * rest[0] + r[2, 1] * rest[1] + r[2, 2] * rest[2]
            for i in range(m.size):
                x = (r[0, 0] * px[i] + r[0, 1] * py[i] + r[0, 2] * pz[i]) * scale + 0.5 * n
                y = (r[1, 0] * px[i] + r[1, 1] * py[i] + r[1, 2] * pz[i]) * scale + 0.5 * n
                at_x[i], at_y[i] = x, y
                at_u[i] = r[2, 0] * vx[i] + r[2, 1] * vy[i] + r[2, 2] * vz[i] - u_rest
                own_x = np.int32(np.floor(min(max(x, -1.0), n + 0.0)) + 1)
                own_y = np.int32(np.floor(min(max(y, -1.0), n + 0.0)) + 1)
                cell[i] = own_y * (n + 2) + own_x
            points = narrow[v]
            for i in range(m.size):
                own = np.uint64(cell[i])  # numba looks for a negative index otherwise
                points[own, 3] += 1.0
                if support.size == 0 or support[start + i] * scale <= 1.0:
                    momentum = m[i] * at_u[i]
                    points[own, 0] += m[i]
                    points[own, 1] += momentum
                    points[own, 2] += momentum * at_u[i]
            if support.size == 0:
                continue
            density, first, second = wide[v, 0], wide[v, 1], wide[v, 2]
            for i in range(m.size):
                x, y, u, h = at_x[i], at_y[i], at_u[i], support[start + i] * scale
                if h <= 1.0 or x < -h or y < -h or x > n + h or y > n + h:
                    continue
                per_h2 = 1.0 / (h * h)
                x0, y0 = int(np.ceil(x - h - 0.5)), int(np.ceil(y - h - 0.5))
                x1, y1 = int(np.floor(x + h - 0.5)), int(np.floor(y + h - 0.5))
                if h >= WIDE:  # pixels are fine enough for the kernel's own integral
                    for row in range(max(y0, 0), min(y1, n - 1) + 1):
                        for col in range(max(x0, 0), min(x1, n - 1) + 1):
                            q2 = min(((row + 0.5 - y) ** 2 + (col + 0.5 - x) ** 2) * per_h2, 1.0)
                            k = int(q2 * last)
                            w = m[i] * per_h2 * (COLUMN[k] + (q2 * last - k) * STEP[k])
                            density[row, col + LANES] += w
                            first[row, col + LANES] += w * u
                            second[row, col + LANES] += w * u * u
                    continue
                total = 0.0
                for row in range(y0, y1 + 1):
                    dy2 = (row + 0.5 - y) ** 2
                    line = weights[row - y0]
                    for c0 in range(0, x1 - x0 + 1, LANES):
                        dx0 = x0 + c0 + 0.5 - x
                        for c in range(LANES):
                            q2 = min((dy2 + (dx0 + c) ** 2) * per_h2, 1.0)
                            k = int(q2 * last)
                            w = COLUMN[k] + (q2 * last - k) * STEP[k]
                            line[c0 + c] = w
                            total += w
                share = m[i] / total
                share_u = share * u
                share_uu = share_u * u
                for row in range(max(y0, 0), min(y1, n - 1) + 1):
                    line = weights[row - y0]
                    for c0 in range(0, x1 - x0 + 1, LANES):
                        col0 = x0 + c0 + LANES
                        if 0 < col0 < n + LANES:
                            for c in range(LANES):
                                density[row, col0 + c] += share * line[c0 + c]
                                first[row, col0 + c] += share_u * line[c0 + c]
                                second[row, col0 + c] += share_uu * line[c0 + c]
    sums = np.empty((views, n, n, 4))
    for v in range(views):
        for row in range(n):
            for col in range(n):
                k = (row + 1) * (n + 2) + col + 1
                for j in range(3):
                    sums[v, row, col, j] = narrow[v, k, j] + wide[v, j, row, col + LANES]
                sums[v, row, col, 3] = narrow[v, k, 3]
    return sums


def project(
    particles: Particles,
    rotations: np.ndarray,
    half_width_kpc: np.ndarray | list[float],
    pixels: int,
    rest_kms: np.ndarray | tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Moment maps (V, 4, P, P) of one tracer along V sightlines, in one pass over its particles.

    Channels: surface density [Msun/kpc^2], mean line-of-sight velocity relative to rest_kms (3,) and
    dispersion [km/s], particle count; weighted by mass, or by the particles' own weight (whose unit
    the density then has). rotations (V, 3, 3): rows are the map's x, y and the line of sight, away
    from the observer; half_width_kpc (V,). y grows with the row, x with the column. A pixel of zero
    density is empty; its velocity and dispersion of zero mean nothing.

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
    # Velocities are summed about rest_kms, so that a bulk motion of 1e4 km/s costs no digits.
    sums = _deposit(
        np.asfortranarray(particles.pos_kpc).T,
        np.asfortranarray(particles.vel_kms).T,
        weight,
        np.zeros(0) if particles.support_kpc is None else particles.support_kpc,
        np.ascontiguousarray(rotations),
        half_width_kpc,
        pixels,
        np.asarray(rest_kms, dtype=np.float64),
    )
    mass, first, second, count = np.moveaxis(sums, -1, 0)
    seen = mass > 0
    mean = np.divide(first, mass, out=np.zeros_like(mass), where=seen)
    square = np.divide(second, mass, out=np.zeros_like(mass), where=seen)
    maps[:, 0] = mass / ((2 * half_width_kpc / pixels) ** 2)[:, None, None]
    maps[:, 1] = mean
    maps[:, 2] = np.sqrt(np.maximum(square - mean**2, 0.0))
    maps[:, 3] = count
    return maps


def views(
    galaxy: Galaxy,
    rotations: np.ndarray,
    half_width_kpc: np.ndarray | list[float],
    pixels: int,
    rest_kms: np.ndarray | tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """(V, 8, P, P): the four channels of the stars, then those of the gas. Stars have no kernel."""
    stars = replace(galaxy.stars, support_kpc=None)
    return np.concatenate(
        [project(p, rotations, half_width_kpc, pixels, rest_kms) for p in (stars, galaxy.gas)], axis=1
    )
