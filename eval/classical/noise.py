"""Estimate from observed maps themselves how noisy their V and sigma are: errors add to <V^2 + sigma^2>."""

import numpy as np
from scipy.ndimage import convolve
from scipy.special import ndtr

# N views, P pixels along a side

#: High-pass filter, zero on planes and on anything that curves along one axis only (Immerkaer 1996, CVIU 64, 300).
_MASK = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
_MEDIAN_CHI2 = 0.45494  # median of chi^2 with one degree of freedom
MIN_PIXELS = 16  # with all their neighbours, below which no noise is estimated


def added_square(maps: np.ndarray) -> np.ndarray:
    """Estimate what errors add on average to V^2 + sigma^2, (N, P, P) [km^2/s^2], in one tracer's maps (N, 4, P, P).

    Errors of V and sigma are taken to be equal, independent from pixel to pixel, and those of counted photons,
    error^2 = E / Sigma. E is the median over pixels of the squared high-pass filtered V over its expected
    value. A negative sigma is never measured, so that errors larger than sigma add less than their square.
    The result is zero for maps with fewer than MIN_PIXELS pixels that have all their neighbours. Maps made straight
    from particles have no errors, but are rough where particles are few: that roughness is taken for error.
    """
    maps = maps.astype(float)
    error_square = np.zeros((len(maps), *maps.shape[2:]))
    for view_error_square, (density, velocity, dispersion, mask) in zip(error_square, maps, strict=True):
        valid = (mask > 0) & (density > 0)
        has_all_neighbours = convolve(valid.astype(int), np.ones((3, 3), dtype=int), mode="constant") == 9
        if np.count_nonzero(has_all_neighbours) < MIN_PIXELS:
            continue
        inverse_density = np.divide(1.0, density, out=np.zeros_like(density), where=valid)
        expected_roughness2 = convolve(inverse_density, _MASK**2, mode="constant")[has_all_neighbours]
        roughness = convolve(np.where(valid, velocity, 0.0), _MASK, mode="constant")[has_all_neighbours]
        photon_constant = np.median(roughness**2 / expected_roughness2) / _MEDIAN_CHI2
        light_share = density[valid] / density[valid].sum()
        error_kms = np.sqrt(photon_constant * inverse_density[valid])
        if not error_kms.min() > 1e-6 * np.sqrt(light_share @ (velocity[valid] ** 2 + dispersion[valid] ** 2)):
            continue  # only rounding errors
        true_sigma2 = light_share @ dispersion[valid] ** 2
        for _ in range(3):
            true_sigma2 = max(light_share @ (dispersion[valid] ** 2 - excess(np.sqrt(true_sigma2), error_kms)), 0.0)
        view_error_square[valid] = error_kms**2 + excess(np.sqrt(true_sigma2), error_kms)
    return error_square


def excess(true_kms: float | np.ndarray, error_kms: np.ndarray) -> np.ndarray:
    """Return <max(true + error z, 0)^2> - true^2 [km^2/s^2] for standard normal z."""
    ratio = true_kms / error_kms
    return error_kms**2 * (
        (ratio**2 + 1) * ndtr(ratio) + ratio * np.exp(-0.5 * ratio**2) / np.sqrt(2 * np.pi) - ratio**2
    )
