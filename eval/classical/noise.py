"""How noisy V and sigma of observed maps are, from the maps themselves: errors add to <V^2 + sigma^2>."""

import numpy as np
from scipy.ndimage import convolve
from scipy.special import ndtr

# N views, P pixels along a side

#: Blind to planes and to anything that curves along one axis only (Immerkaer 1996, CVIU 64, 300).
_MASK = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
_MEDIAN_CHI2 = 0.45494  # of one degree of freedom
MIN_PIXELS = 16


def added_square(maps: np.ndarray) -> np.ndarray:
    """(N, P, P) what errors add on average to V^2 + sigma^2 [km^2/s^2], from one tracer's maps (N, 4, P, P).

    Errors of V and sigma are taken to be equal, independent from pixel to pixel, and those of counted photons,
    error^2 = E / Sigma. E is the median over pixels of the squared high-pass filtered V over its expected
    value. A negative sigma is not observed, so that errors larger than sigma add less than their square.
    Zero for maps with fewer than MIN_PIXELS pixels that have all their neighbours. Maps of bare particles
    have no errors but are as rough as their particles are few: that roughness is taken for error.
    """
    maps = maps.astype(float)
    out = np.zeros((len(maps), *maps.shape[2:]))
    for added, (density, velocity, dispersion, mask) in zip(out, maps, strict=True):
        valid = (mask > 0) & (density > 0)
        whole = convolve(valid.astype(int), np.ones((3, 3), dtype=int), mode="constant") == 9
        if np.count_nonzero(whole) < MIN_PIXELS:
            continue
        inverse = np.divide(1.0, density, out=np.zeros_like(density), where=valid)
        expected = convolve(inverse, _MASK**2, mode="constant")[whole]
        rough = convolve(np.where(valid, velocity, 0.0), _MASK, mode="constant")[whole]
        power = np.median(rough**2 / expected) / _MEDIAN_CHI2
        light = density[valid] / density[valid].sum()
        error = np.sqrt(power * inverse[valid])
        if not error.min() > 1e-6 * np.sqrt(light @ (velocity[valid] ** 2 + dispersion[valid] ** 2)):
            continue  # rounding
        true2 = light @ dispersion[valid] ** 2
        for _ in range(3):
            true2 = max(light @ (dispersion[valid] ** 2 - excess(np.sqrt(true2), error)), 0.0)
        added[valid] = error**2 + excess(np.sqrt(true2), error)
    return out


def excess(true: float | np.ndarray, error: np.ndarray) -> np.ndarray:
    """<max(true + error z, 0)^2> - true^2 for standard normal z."""
    t = true / error
    return error**2 * ((t**2 + 1) * ndtr(t) + t * np.exp(-0.5 * t**2) / np.sqrt(2 * np.pi) - t**2)
