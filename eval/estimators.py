"""Classical mass estimators on the same observed views."""

import numpy as np

from gen.constants import G
from gen.store import TRACERS

# N views, P pixels along a side, K radii


def sigma_los(observed: np.ndarray, tracer: str = "stars") -> np.ndarray:
    """(N,) luminosity-weighted line-of-sight velocity dispersion [km/s] over all valid pixels.

    Rotation counts as dispersion, as in an aperture spectrum: <V^2 + sigma^2> about the mean V.
    observed (N, 8, P, P) from `gen.instrument.observe`.
    """
    start = 4 * TRACERS.index(tracer)
    density, velocity, dispersion = (observed[:, start + i].astype(float) for i in range(3))
    total = density.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (density * velocity).sum((1, 2)) / total
        square = (density * (velocity**2 + dispersion**2)).sum((1, 2)) / total
    return np.sqrt(np.maximum(square - mean**2, 0.0))


def wolf2010(observed: np.ndarray, half_mass_radius_kpc: np.ndarray, radii_re: np.ndarray) -> np.ndarray:
    """(N, K) log10 M(<r) [Msun]: M(<r_3) = 3 sigma_los^2 r_3 / G with r_3 = 4/3 R_e (Wolf et al. 2010, eq. 2).

    Defined at one radius only: every column but the radius nearest to 4/3 R_e is NaN. The mass is
    carried from r_3 to that radius in proportion to r, as the flat circular velocity about r_3 says.
    """
    sigma = sigma_los(observed)
    nearest = int(np.argmin(np.abs(np.log(np.asarray(radii_re) * 3 / 4))))
    out = np.full((len(observed), len(radii_re)), np.nan)
    with np.errstate(divide="ignore"):
        out[:, nearest] = np.log10(3 * sigma**2 * radii_re[nearest] * half_mass_radius_kpc / G)
    out[~np.isfinite(out)] = np.nan
    return out
