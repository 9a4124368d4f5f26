"""Particles to maps: one compiled pass gives all moments of a view and conserves mass."""

import numpy as np
from numba import njit

from gen.particles import Galaxy, Particles

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


#: The column at equal steps of b^2 from 0 to 1.
COLUMN = _spline_column(np.sqrt(np.linspace(0, 1, 1025)))


@njit(cache=True)
def _deposit(pos, vel, mass, support, rotation, v_ref, half_kpc, n, wide):  # type: ignore[no-untyped-def]
    """Sums per pixel (n, n, 4): mass, mass u, mass u^2 (u = v_los - v_ref) and particle count.

    A particle whose kernel is wider than a pixel is spread over the pixel centres it covers with
    the cubic spline's weights, scaled to add up to its mass; a narrower one falls into its pixel.
    Pixels outside the field take their share and are dropped.
    """
    sums = np.zeros((n, n, 4))
    weight = np.empty((wide, wide))
    pixel = 2 * half_kpc / n
    for i in range(mass.size):
        x = (rotation[0, 0] * pos[i, 0] + rotation[0, 1] * pos[i, 1] + rotation[0, 2] * pos[i, 2] + half_kpc) / pixel
        y = (rotation[1, 0] * pos[i, 0] + rotation[1, 1] * pos[i, 1] + rotation[1, 2] * pos[i, 2] + half_kpc) / pixel
        h = min(support[i] / pixel, 0.5 * wide - 2.0)
        if x < -h - 1 or y < -h - 1 or x > n + h + 1 or y > n + h + 1:
            continue
        u = rotation[2, 0] * vel[i, 0] + rotation[2, 1] * vel[i, 1] + rotation[2, 2] * vel[i, 2] - v_ref
        own_x, own_y = int(np.floor(x)), int(np.floor(y))
        if 0 <= own_x < n and 0 <= own_y < n:
            sums[own_y, own_x, 3] += 1
        if h <= 1.0:
            if 0 <= own_x < n and 0 <= own_y < n:
                sums[own_y, own_x, 0] += mass[i]
                sums[own_y, own_x, 1] += mass[i] * u
                sums[own_y, own_x, 2] += mass[i] * u * u
            continue
        x0, x1 = int(np.floor(x - h)), int(np.floor(x + h))
        y0, y1 = int(np.floor(y - h)), int(np.floor(y + h))
        total = 0.0
        for row in range(y0, y1 + 1):
            dy2 = (row + 0.5 - y) ** 2
            for col in range(x0, x1 + 1):
                q2 = (dy2 + (col + 0.5 - x) ** 2) / (h * h)
                w = 0.0
                if q2 < 1.0:
                    at = q2 * (COLUMN.size - 1)
                    k = int(at)
                    w = COLUMN[k] + (at - k) * (COLUMN[k + 1] - COLUMN[k])
                weight[row - y0, col - x0] = w
                total += w
        for row in range(max(y0, 0), min(y1, n - 1) + 1):
            for col in range(max(x0, 0), min(x1, n - 1) + 1):
                m = mass[i] * weight[row - y0, col - x0] / total
                sums[row, col, 0] += m
                sums[row, col, 1] += m * u
                sums[row, col, 2] += m * u * u
    return sums


def project(particles: Particles, rotation: np.ndarray, half_width_kpc: float, pixels: int) -> np.ndarray:
    """Mass-weighted moment maps (4, P, P) of one tracer seen along one sightline.

    Channels: surface density [Msun/kpc^2], mean line-of-sight velocity and dispersion [km/s],
    particle count. rotation (3, 3): rows are the map's x, y and the line of sight, away from the
    observer. y grows with the row, x with the column. A pixel of zero density is empty; its
    velocity and dispersion of zero mean nothing.
    """
    maps = np.zeros((4, pixels, pixels))
    if len(particles) == 0:
        return maps
    support = np.zeros(len(particles)) if particles.support_kpc is None else particles.support_kpc
    # Velocities are summed about their mean, so that a bulk motion of 1e4 km/s costs no digits.
    v_ref = float(np.average(particles.vel_kms @ rotation[2], weights=np.maximum(particles.mass_msun, 1e-30)))
    wide = 2 * pixels + 6  # a kernel reaches at most one field width to either side
    sums = _deposit(
        particles.pos_kpc, particles.vel_kms, particles.mass_msun, support,
        np.ascontiguousarray(rotation), v_ref, half_width_kpc, pixels, wide,
    )  # fmt: skip
    mass, first, second, count = np.moveaxis(sums, -1, 0)
    seen = mass > 0
    mean = np.divide(first, mass, out=np.zeros_like(mass), where=seen)
    square = np.divide(second, mass, out=np.zeros_like(mass), where=seen)
    maps[0] = mass / (2 * half_width_kpc / pixels) ** 2
    maps[1] = np.where(seen, mean + v_ref, 0.0)
    maps[2] = np.sqrt(np.maximum(square - mean**2, 0.0))
    maps[3] = count
    return maps


def view(galaxy: Galaxy, rotation: np.ndarray, half_width_kpc: float, pixels: int) -> np.ndarray:
    """(8, P, P): the four channels of the stars, then those of the gas. Stars have no kernel."""
    stars = Particles(galaxy.stars.pos_kpc, galaxy.stars.vel_kms, galaxy.stars.mass_msun)
    return np.concatenate([project(p, rotation, half_width_kpc, pixels) for p in (stars, galaxy.gas)])
