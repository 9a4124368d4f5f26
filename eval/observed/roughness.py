"""How much V and the dispersion vary from one pixel to the next: their errors, whether or not a file tells these."""

import numpy as np
from scipy.spatial import cKDTree

from kinmass.eval.observed.sky import SkyMap

#: Fewest pixels, or bins, from which that is found, and how many others a pixel is compared with.
FEWEST, NEIGHBOURS = 30, 4


def roughness_ratio(sky: SkyMap) -> float | None:
    """Return how much rougher the dispersion of a map is than its V; None where either is smooth, or pixels are few.

    Roughness is the median of how far a pixel lies from the mean of the nearest four, which a smooth gradient leaves
    at zero. Pixels with the same V and dispersion are one bin, at its centre.
    """
    if sky.dispersion_kms is None:
        return None
    values = np.column_stack([sky.velocity_kms, sky.dispersion_kms])
    bins, bin_of_pixel, n_pixels = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    if len(bins) < FEWEST:
        return None
    places = [np.bincount(bin_of_pixel.ravel(), offset) / n_pixels for offset in (sky.x_arcsec, sky.y_arcsec)]
    nearest = cKDTree(np.column_stack(places)).query(np.column_stack(places), k=NEIGHBOURS + 1)[1][:, 1:]
    of_velocity, of_dispersion = np.median(np.abs(bins - bins[nearest].mean(1)), axis=0)
    return float(of_dispersion / of_velocity) if of_velocity > 0 and of_dispersion > 0 else None
