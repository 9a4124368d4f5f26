"""A spherical Jeans fit of the second velocity moments in annuli: the classical mass profile from stars.

The tracer is a sum of Gaussians (Emsellem et al. 1994), the mass is part light (a constant M/L) and part
NFW halo, the anisotropy beta is constant. What such a model predicts is linear in both masses, so the fit
has no local minima: a table made once, two non-negative amplitudes per (beta, halo scale) in closed form,
and the mean of ln M(<r) over those grids, weighted by likelihood.

Written here because JamPy's and PaFit's licence allows no redistribution and no commercial use.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import nnls
from scipy.special import erf, hyp2f1

from kinmass.gen.constants import G

# N views, P pixels along a side, K radii, A annuli, R table radii, B anisotropies, T tracer Gaussians, H halos.
# Lengths are in R_e.

#: beta = 2 b / (1 + b) with b = (sigma_r^2 - sigma_t^2) / (sigma_r^2 + sigma_t^2) in equal steps (Read & Steger 2017).
BETAS = tuple(2 * b / (1 + b) for b in np.linspace(-0.5, 0.5, 11).round(6))
GAUSSIANS = np.geomspace(0.07, 4.5, 12)  # their dispersions [R_e]
HALO_SCALES = np.geomspace(1.0, 16.0, 5)  # of NFW halos [R_e]
_R = np.geomspace(0.02, 6.0, 48)
#: Annuli with a smaller share of valid pixels are left out.
MIN_COVERAGE = 0.5
MIN_ANNULI = 3
#: Relative error of V_rms^2 below which annuli are not believed: spheres are not that good a model.
ERROR_FLOOR = 0.05


def kernel(u: np.ndarray, beta: float) -> np.ndarray:
    """K(u) of Sigma sigma_los^2(R) = 2 G int_R^inf K(r/R) nu M dr/r (Mamon & Lokas 2005, eq. A15), beta constant.

    u^(2 beta - 1) int_1^u (1 - beta/t^2) t^(1 - 2 beta) / sqrt(t^2 - 1) dt: their eq. A16, as Gauss's
    hypergeometric function, which is regular also where A16's Gamma functions are not (beta = 0, +-1/2).
    """
    s = 1 - u**-2
    return np.sqrt(s) * (hyp2f1(1, beta, 1.5, s) - beta / u**2 * hyp2f1(1, beta + 1, 1.5, s))


def gaussian_mass(r: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Share of a three-dimensional Gaussian's mass inside r."""
    x = r / (np.sqrt(2) * scale)
    return erf(x) - 2 / np.sqrt(np.pi) * x * np.exp(-(x**2))


def halo_mass(r: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """M(<r) of an NFW halo in units of M(<scale)."""
    x = r / scale
    return (np.log1p(x) - x / (1 + x)) / (np.log(2) - 0.5)


@dataclass(frozen=True)
class Tables:
    """What unit-mass tracer Gaussians look like at the radii _R of the sky, and in unit masses' gravity."""

    density: np.ndarray  # (R, T) surface density
    light: np.ndarray  # (B, R, T, T) Sigma sigma_los^2 / G of a tracer Gaussian in the gravity of another
    halo: np.ndarray  # (B, R, T, H) the same in each halo's


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The line-of-sight integrals, with r = R sqrt(1 + w^2) and equal steps in ln w."""
    ln_w = np.linspace(np.log(1e-3), np.log(2e3), 240)
    w = np.exp(ln_w)
    u = np.sqrt(1 + w**2)
    r = _R[:, None] * u
    # dr / r = w^2 / (1 + w^2) dln w
    weight = 2 * (ln_w[1] - ln_w[0]) * np.stack([kernel(u, beta) for beta in BETAS]) * w**2 / u**2
    nu = np.exp(-0.5 * (r[..., None] / GAUSSIANS) ** 2) / (2 * np.pi * GAUSSIANS**2) ** 1.5
    light, halo = (
        np.einsum("bw,rwt,rwm->brtm", weight, nu, mass, optimize=True)
        for mass in (gaussian_mass(r[..., None], GAUSSIANS), halo_mass(r[..., None], HALO_SCALES))
    )
    density = np.exp(-0.5 * (_R[:, None] / GAUSSIANS) ** 2) / (2 * np.pi * GAUSSIANS**2)
    return Tables(density, light, halo)


@lru_cache(maxsize=8)
def _annuli(pixels: int, field_of_view_re: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per pixel its annulus (P * P,), one pixel wide; their outer edges (A,); (A, R) the table averaged over each."""
    x = ((np.arange(pixels) + 0.5) / pixels - 0.5) * field_of_view_re
    radius = np.hypot(x[:, None], x[None, :]).ravel()
    width = field_of_view_re / pixels
    label = (radius / width).astype(int)
    n = min(pixels // 2, int(_R[-1] / width))
    label = np.minimum(label, n)
    edges = width * np.arange(1, n + 1)
    at = np.interp(np.log(np.maximum(radius, _R[0])), np.log(_R), np.arange(_R.size))
    low = np.minimum(at.astype(int), _R.size - 2)
    average = np.zeros((n + 1, _R.size))
    np.add.at(average, (label, low), 1 - (at - low))
    np.add.at(average, (label, low + 1), at - low)
    average = average[:-1] / np.bincount(label, minlength=n + 1)[:-1, None]
    return label, edges, average


def jeans_profile(
    stars: np.ndarray, added: np.ndarray, half_mass_radius_kpc: float, field_of_view_re: float, radii_re: np.ndarray
) -> np.ndarray:
    """(K,) log10 M(<r) [Msun] from one view's stars (4, P, P): density, V, sigma, mask.

    added (P, P) is what errors add to V^2 + sigma^2 [km^2/s^2].

    NaN beyond the last annulus that is seen (half of its pixels valid, and all annuli inside it), and
    everywhere where fewer than MIN_ANNULI are. Flattening and the PSF are not modelled; rotation counts
    as random motion.
    """
    out = np.full(len(radii_re), np.nan)
    label, edges, average = _annuli(stars.shape[-1], field_of_view_re)
    density, velocity, dispersion, mask = (channel.astype(float).ravel() for channel in stars)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(label, values * mask, minlength=len(edges) + 1)[: len(edges)]

    total = sums(density)
    count = np.bincount(label, minlength=len(edges) + 1)[: len(edges)]
    seen = (sums(np.ones_like(mask)) >= MIN_COVERAGE * count) & (total > 0)
    if not total.any():
        return out
    systemic = sums(density * velocity).sum() / total.sum()
    raw = sums(density * ((velocity - systemic) ** 2 + dispersion**2)) / np.where(total > 0, total, 1.0)
    noise = sums(density * added.ravel()) / np.where(total > 0, total, 1.0)
    seen &= raw > 2 * noise
    n = int(np.argmin(seen)) if not seen.all() else len(seen)
    if n < MIN_ANNULI:
        return out
    square, noise = (raw - noise)[:n], noise[:n]
    relative = np.sqrt(ERROR_FLOOR**2 + (2 * noise / square + (noise / square) ** 2) / count[:n])
    table, average = tables(), average[:n]
    surface = total[:n] / count[:n]
    design = average @ table.density
    try:
        share, _ = nnls(design / surface[:, None], np.ones(n))
    except RuntimeError:  # no convergence
        return out
    share /= share.sum()
    # Predictions over what is seen, per unit of V^2 [km^2/s^2] in light's and in halos' amplitude: (B, H, A)
    unit = (design @ share) * square
    light = np.einsum("ar,brtm,t,m->ba", average, table.light, share, share, optimize=True)[:, None] / unit
    halo = np.einsum("ar,brth,t->bha", average, table.halo, share, optimize=True) / unit
    amplitude, misfit = _two_amplitudes(light / relative, halo / relative, 1 / relative)
    # Errors at least as large as the best model's residuals.
    weight = np.exp(-0.5 * (misfit - misfit.min()) / max(misfit.min() / max(n - 2, 1), 1.0))
    inner = gaussian_mass(radii_re[:, None], GAUSSIANS) @ share
    mass = amplitude[0][..., None] * inner + amplitude[1][..., None] * halo_mass(radii_re, HALO_SCALES[:, None])
    ln_mass = (weight[..., None] * np.log(mass)).sum((0, 1)) / weight.sum()
    covered = radii_re <= edges[n - 1]
    out[covered] = (ln_mass[covered] + np.log(half_mass_radius_kpc / G)) / np.log(10)
    return out


def _two_amplitudes(light: np.ndarray, halo: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2, B, H) amplitudes >= 0 with which light + halo is nearest to data (A,); (B, H) squared distances."""
    light = np.broadcast_to(light, halo.shape)
    ll, lh, hh = (light**2).sum(-1), (light * halo).sum(-1), (halo**2).sum(-1)
    l1, h1 = light @ data, halo @ data
    determinant = np.maximum(ll * hh - lh**2, 1e-12 * ll * hh)
    both = np.stack([hh * l1 - lh * h1, ll * h1 - lh * l1]) / determinant
    alone = np.stack([np.stack([l1 / ll, 0 * l1]), np.stack([0 * h1, h1 / hh])])
    tries = np.concatenate([both[None], alone])  # (3, 2, B, H)
    residual = tries[:, 0, ..., None] * light + tries[:, 1, ..., None] * halo - data
    misfit = np.where((tries >= 0).all(1), (residual**2).sum(-1), np.inf)
    best = misfit.argmin(0)
    return np.take_along_axis(tries, best[None, None], 0)[0], misfit.min(0)
