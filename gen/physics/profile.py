"""Enclosed masses and half-mass radii: the truth that networks are trained on."""

import numpy as np

#: Radii of the stored fine profile.
N_RADII = 64


def enclosed_mass(pos_kpc: np.ndarray, mass_msun: np.ndarray, radius_kpc: np.ndarray) -> np.ndarray:
    """Mass [Msun] of particles with |pos| <= r for every r: pos (N, 3), mass (N,), growing radius (K,) -> (K,).

    >>> enclosed_mass(np.array([[1.0, 0, 0], [0, 2.0, 0]]), np.array([1e6, 3e6]), np.array([0.5, 1.0, 3.0])).tolist()
    [0.0, 1000000.0, 4000000.0]
    """
    shell = np.searchsorted(radius_kpc, np.sqrt(np.einsum("ij,ij->i", pos_kpc, pos_kpc)))
    return np.cumsum(np.bincount(shell, mass_msun, minlength=len(radius_kpc) + 1))[: len(radius_kpc)]


def half_mass_radius(radius_kpc: np.ndarray, mass_msun: np.ndarray) -> float:
    """Radius [kpc] that encloses half the mass of particles at radii (N,), projected or not.

    Linear between particles, so that one particle more or less moves it smoothly.
    """
    # Only the particles about the half need sorting: every 64th one tells where that is.
    few = np.argsort(radius_kpc[::64])
    share = np.cumsum(mass_msun[::64][few])
    lo, hi = np.interp([0.4 * share[-1], 0.6 * share[-1]], share, radius_kpc[::64][few])
    about = (radius_kpc >= lo) & (radius_kpc <= hi)
    r, mass, half = radius_kpc[about], mass_msun[about], 0.5 * mass_msun.sum()
    inside = mass_msun[radius_kpc < lo].sum()
    if not (len(r) and inside + mass.max() < half < inside + mass.sum() - mass.max()):
        r, mass, inside = radius_kpc, mass_msun, 0.0
    order = np.argsort(r)
    middle = inside + np.cumsum(mass[order]) - 0.5 * mass[order]
    return float(np.interp(half, middle, r[order]))


def profile_radii(half_mass_kpc: float, aperture_kpc: float) -> np.ndarray:
    """(N_RADII,) logarithmic radii [kpc] from a twentieth of the stars' half-mass radius to the aperture."""
    return np.geomspace(min(0.05 * half_mass_kpc, 0.5 * aperture_kpc), aperture_kpc, N_RADII)


def menc_at(radius_kpc: np.ndarray, mass_msun: np.ndarray, at_kpc: np.ndarray) -> np.ndarray:
    """log10 M(<r) at any radii, by interpolation in log-log between the stored ones.

    radius (..., K) and mass (..., K) share leading dimensions with at (..., X). Radii outside the
    stored ones give NaN, for a profile is never extrapolated; so do those beside a mass of zero, where no
    particle lies inside.
    """
    log_m = np.log10(mass_msun, out=np.full(np.shape(mass_msun), np.nan), where=np.asarray(mass_msun) > 0)
    log_r, log_at = np.log10(radius_kpc), np.log10(at_kpc)
    rows = zip(*(a.reshape(-1, a.shape[-1]) for a in (log_at, log_r, log_m)), strict=True)
    out = np.stack([np.interp(x, r, m, left=np.nan, right=np.nan) for x, r, m in rows])
    return out.reshape(np.shape(at_kpc))
