"""Slow and simple versions of what is fast, with which it must agree: a projection, and coverage."""

import numpy as np

from kinmass.gen.physics.particles import Particles
from kinmass.gen.physics.projection import _spline_column


def project(particles: Particles, rotation: np.ndarray, half_width_kpc: float, pixels: int) -> np.ndarray:
    """(4, P, P) moment maps, one particle and one pixel at a time, second pass for the dispersion."""
    pixel = 2 * half_width_kpc / pixels
    shares = []  # (row, column, mass, velocity)
    count = np.zeros((pixels, pixels))
    for i in range(len(particles)):
        x, y, _ = rotation @ particles.pos_kpc[i] / pixel + pixels / 2
        v = rotation[2] @ particles.vel_kms[i]
        h = 0.0 if particles.support_kpc is None else particles.support_kpc[i] / pixel
        own_pixel = int(np.floor(y)), int(np.floor(x))
        if 0 <= own_pixel[0] < pixels and 0 <= own_pixel[1] < pixels:
            count[own_pixel] += 1
        if h <= 1:
            weights = {own_pixel: 1.0}
        else:
            weights = {}
            for row in range(int(np.floor(y - h)), int(np.floor(y + h)) + 1):
                for column in range(int(np.floor(x - h)), int(np.floor(x + h)) + 1):
                    q = np.hypot(row + 0.5 - y, column + 0.5 - x) / h
                    if q < 1:
                        weights[row, column] = float(_spline_column(np.array([q]))[0])
        total = sum(weights.values())
        for (row, column), weight in weights.items():
            if 0 <= row < pixels and 0 <= column < pixels:
                shares.append((row, column, particles.mass_msun[i] * weight / total, v))
    maps = np.zeros((4, pixels, pixels))
    for row in range(pixels):
        for column in range(pixels):
            in_pixel = np.array([(m, v) for r, c, m, v in shares if (r, c) == (row, column)])
            if len(in_pixel):
                mass = in_pixel[:, 0].sum()
                mean = np.average(in_pixel[:, 1], weights=in_pixel[:, 0])
                maps[0, row, column] = mass / pixel**2
                maps[1, row, column] = mean
                maps[2, row, column] = np.sqrt(np.average((in_pixel[:, 1] - mean) ** 2, weights=in_pixel[:, 0]))
    maps[3] = count
    return maps


def held(samples: np.ndarray, truth: np.ndarray, level: float) -> np.ndarray:
    """How far truths (...) lie in a central interval of samples (S, ...): the mean over intervals that end on samples.

    Each end stands on one of the two samples beside its place among them, as often as it is near to that one.
    """
    ordered = np.concatenate([np.full((1, *truth.shape), -np.inf), np.sort(samples, axis=0)])
    place, mirrored = (
        0.5 * (1 - level) * (len(samples) + 1),
        np.concatenate([np.full((1, *truth.shape), -np.inf), np.sort(-samples, axis=0)]),
    )
    low, part = int(place), place - int(place)
    total = np.zeros(truth.shape)
    for end, weight in ((low, 1 - part), (low + 1, part)):
        total += weight * ((truth > ordered[end]).astype(float) - (-truth <= mirrored[end]))
    return total
