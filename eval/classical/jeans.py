"""A spherical Jeans fit of the second velocity moments in annuli: the classical mass profile from stars.

The tracer is a sum of Gaussians (Emsellem et al. 1994). The mass is light with a constant M/L plus an NFW halo. The
anisotropy beta is constant. The predictions of such a model are linear in the two masses, so the fit has no local
minima: its integrals are tabulated once, the two non-negative amplitudes follow in closed form for each
(beta, halo scale), and ln M(<r) is averaged over the grid of (beta, halo scale), weighted by likelihood.

This code was written anew because the licence of JamPy and PaFit allows no redistribution and no commercial use.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import nnls
from scipy.special import erf, hyp2f1

from kinmass.gen.constants import G

# N views, P pixels along a side, K radii, A annuli, R table radii, B anisotropies, T tracer Gaussians, H halos.
# Lengths are in R_e.

#: Anisotropies beta = 2 b / (1 + b), b = (sigma_r^2 - sigma_t^2) / (sigma_r^2 + sigma_t^2) in equal steps (Read &
#: Steger 2017).
BETAS = tuple(2 * b / (1 + b) for b in np.linspace(-0.5, 0.5, 11).round(6))
GAUSSIANS = np.geomspace(0.07, 4.5, 12)  # dispersions of the tracer's Gaussians [R_e]
HALO_SCALES = np.geomspace(1.0, 16.0, 5)  # scale radii of the NFW halos [R_e]
_R = np.geomspace(0.02, 6.0, 48)  # projected radii of the table [R_e]
#: A pixel shows a mean over its area: over points at most so far apart [R_e], less than the narrowest Gaussian is wide.
POINT_STEP_RE = 0.05
#: Of pixels that are larger than this many steps the fit has too few annuli anyway.
MOST_POINTS = 40
#: The fit ends before the first annulus with a smaller share of valid pixels.
MIN_COVERAGE = 0.5
MIN_ANNULI = 3  # fewest observed annuli that are fitted
#: Smallest relative error of V_rms^2 that an annulus is given: a spherical model is not more exact than this.
ERROR_FLOOR = 0.05


def kernel(u: np.ndarray, beta: float) -> np.ndarray:
    """Return K(u) of Sigma sigma_los^2(R) = 2 G int_R^inf K(r/R) nu M dr/r for constant beta (Mamon & Lokas 2005, A15).

    K(u) = u^(2 beta - 1) int_1^u (1 - beta/t^2) t^(1 - 2 beta) / sqrt(t^2 - 1) dt. It is their eq. A16, written with
    Gauss's hypergeometric function, which is regular also where the Gamma functions of A16 are not (beta = 0, +-1/2).
    """
    s = 1 - u**-2
    return np.sqrt(s) * (hyp2f1(1, beta, 1.5, s) - beta / u**2 * hyp2f1(1, beta + 1, 1.5, s))


def gaussian_mass(r: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the share of the mass of a three-dimensional Gaussian of dispersion `scale` inside r, both [R_e]."""
    x = r / (np.sqrt(2) * scale)
    return erf(x) - 2 / np.sqrt(np.pi) * x * np.exp(-(x**2))


def halo_mass(r: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return M(<r) of an NFW halo of scale radius `scale`, both [R_e], in units of M(<scale)."""
    x = r / scale
    return (np.log1p(x) - x / (1 + x)) / (np.log(2) - 0.5)


@dataclass(frozen=True)
class Tables:
    """Surface densities and second moments of tracer Gaussians of unit mass at the projected radii _R."""

    density: np.ndarray  # (R, T) surface density
    light: np.ndarray  # (B, R, T, T) Sigma sigma_los^2 / G of a Gaussian (axis 2) in the gravity of another (axis 3)
    halo: np.ndarray  # (B, R, T, H) Sigma sigma_los^2 / G of a Gaussian in the gravity of a halo of M(<scale) = 1


@lru_cache(maxsize=1)
def tables() -> Tables:
    """Compute the line-of-sight integrals once, with r = R sqrt(1 + w^2) and equal steps in ln w."""
    ln_w = np.linspace(np.log(1e-3), np.log(2e3), 240)
    w = np.exp(ln_w)
    u = np.sqrt(1 + w**2)
    radius_re = _R[:, None] * u
    # dr / r = w^2 / (1 + w^2) dln w
    weight = 2 * (ln_w[1] - ln_w[0]) * np.stack([kernel(u, beta) for beta in BETAS]) * w**2 / u**2
    nu = np.exp(-0.5 * (radius_re[..., None] / GAUSSIANS) ** 2) / (2 * np.pi * GAUSSIANS**2) ** 1.5
    light, halo = (
        np.einsum("bw,rwt,rwm->brtm", weight, nu, mass, optimize=True)
        for mass in (gaussian_mass(radius_re[..., None], GAUSSIANS), halo_mass(radius_re[..., None], HALO_SCALES))
    )
    density = np.exp(-0.5 * (_R[:, None] / GAUSSIANS) ** 2) / (2 * np.pi * GAUSSIANS**2)
    return Tables(density, light, halo)


@lru_cache(maxsize=8)
def _annuli(pixels: int, field_of_view_re: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a map of pixels x pixels into annuli that are one pixel wide.

    Returns each pixel's annulus (P * P,), A for pixels outside of all; the outer radii (A,) [R_e]; and weights (A, R)
    that average what is tabulated at _R over the area of each annulus's pixels.
    """
    offset_re = ((np.arange(pixels) + 0.5) / pixels - 0.5) * field_of_view_re
    width_re = field_of_view_re / pixels
    n_annuli = min(pixels // 2, int(_R[-1] / width_re))
    # Of an odd number of pixels, some lie on the edge between two annuli: rounding must not part them.
    label = (np.hypot(offset_re[:, None], offset_re[None, :]) / width_re + 1e-9).astype(int)
    label = np.minimum(label, n_annuli)
    outer_edge_re = width_re * np.arange(1, n_annuli + 1)
    points = min(int(np.ceil(width_re / POINT_STEP_RE)), MOST_POINTS)  # in a pixel, along a side
    point_re = (offset_re[:, None] + ((np.arange(points) + 0.5) / points - 0.5) * width_re).ravel()
    radius_re = np.hypot(point_re[:, None], point_re[None, :]).ravel()
    label_of_point = label.repeat(points, axis=0).repeat(points, axis=1).ravel()
    table_position = np.interp(np.log(np.maximum(radius_re, _R[0])), np.log(_R), np.arange(_R.size))
    lower_index = np.minimum(table_position.astype(int), _R.size - 2)
    average = np.zeros((n_annuli + 1, _R.size))
    np.add.at(average, (label_of_point, lower_index), 1 - (table_position - lower_index))
    np.add.at(average, (label_of_point, lower_index + 1), table_position - lower_index)
    average = average[:-1] / np.bincount(label_of_point, minlength=n_annuli + 1)[:-1, None]
    label = label.ravel()
    return label, outer_edge_re, average


@dataclass(frozen=True)
class _Binned:
    """The annuli of one view that are observed without a gap from the centre.

    average (A, R): of `_annuli`; surface_density, v_rms2 [km^2/s^2] and its relative_error (A,); reach_re: of the last.
    """

    average: np.ndarray
    surface_density: np.ndarray
    v_rms2: np.ndarray
    relative_error: np.ndarray
    reach_re: float


def _binned(stars: np.ndarray, error_square: np.ndarray, field_of_view_re: float) -> _Binned | None:
    """Return the annuli of stars (4, P, P), as `jeans_profile` takes them; None where it gives no mass."""
    label, outer_edge_re, average = _annuli(stars.shape[-1], field_of_view_re)
    density, velocity, dispersion, mask = (channel.astype(float).ravel() for channel in stars)

    def annulus_sums(values: np.ndarray) -> np.ndarray:
        """Return the sums (A,) of values (P P,) over the valid pixels of each annulus."""
        return np.bincount(label, values * mask, minlength=len(outer_edge_re) + 1)[: len(outer_edge_re)]

    total_light, is_seen = annulus_sums(density), (density > 0) & (mask > 0)
    # What was not measured is one number everywhere: a dispersion of zero, a density of one.
    if not total_light.any() or not dispersion[is_seen].any() or not np.ptp(density[is_seen]) > 0:
        return None
    light_or_1 = np.where(total_light > 0, total_light, 1.0)
    pixel_count = np.bincount(label, minlength=len(outer_edge_re) + 1)[: len(outer_edge_re)]
    seen_count = annulus_sums(np.ones_like(mask))
    systemic = annulus_sums(density * velocity).sum() / total_light.sum()
    raw_v_rms2 = annulus_sums(density * ((velocity - systemic) ** 2 + dispersion**2)) / light_or_1
    noise2 = annulus_sums(density * error_square.ravel()) / light_or_1
    is_observed = (seen_count >= MIN_COVERAGE * pixel_count) & (total_light > 0) & (raw_v_rms2 > 2 * noise2)
    n_annuli = int(np.argmin(is_observed)) if not is_observed.all() else len(is_observed)
    if n_annuli < MIN_ANNULI:
        return None
    v_rms2, noise2, seen_count = (raw_v_rms2 - noise2)[:n_annuli], noise2[:n_annuli], seen_count[:n_annuli]
    relative_error = np.sqrt(ERROR_FLOOR**2 + (2 * noise2 / v_rms2 + (noise2 / v_rms2) ** 2) / seen_count)
    surface_density = total_light[:n_annuli] / seen_count
    return _Binned(average[:n_annuli], surface_density, v_rms2, relative_error, float(outer_edge_re[n_annuli - 1]))


def jeans_profile(
    stars: np.ndarray,
    error_square: np.ndarray,
    half_mass_radius_kpc: float,
    field_of_view_re: float,
    radii_re: np.ndarray,
) -> np.ndarray:
    """Return log10 M(<r) (K,) [Msun] at radii_re [R_e] from the stars (4, P, P) of one view: density, V, sigma, mask.

    error_square (P, P) is what errors add to V^2 + sigma^2 [km^2/s^2].

    An annulus is observed where a share MIN_COVERAGE of its pixels is valid and V_rms^2 is more than twice what errors
    add. The profile is NaN beyond the last of the annuli that are observed without a gap from the centre, and NaN
    everywhere where these are fewer than MIN_ANNULI, and where dispersion or density were not measured. Flattening and
    the PSF are not modelled; rotation counts as random motion.
    """
    log10_mass = np.full(len(radii_re), np.nan)
    if (binned := _binned(stars, error_square, field_of_view_re)) is None:
        return log10_mass
    table, average, n_annuli = tables(), binned.average, len(binned.average)
    design = average @ table.density
    try:
        gaussian_share, _ = nnls(design / binned.surface_density[:, None], np.ones(n_annuli))
    except RuntimeError:  # no convergence
        return log10_mass
    gaussian_share /= gaussian_share.sum()
    # Predicted over observed V_rms^2 for an amplitude of 1 km^2/s^2, of light and of halos: (B, H, A).
    per_unit_amplitude = (design @ gaussian_share) * binned.v_rms2
    light_term = (
        np.einsum("ar,brtm,t,m->ba", average, table.light, gaussian_share, gaussian_share, optimize=True)[:, None]
        / per_unit_amplitude
    )
    halo_term = np.einsum("ar,brth,t->bha", average, table.halo, gaussian_share, optimize=True) / per_unit_amplitude
    amplitude, misfit = _two_amplitudes(
        light_term / binned.relative_error, halo_term / binned.relative_error, 1 / binned.relative_error
    )
    # Errors are taken to be at least as large as the residuals of the best model.
    weight = np.exp(-0.5 * (misfit - misfit.min()) / max(misfit.min() / max(n_annuli - 2, 1), 1.0))
    light_mass_inside = gaussian_mass(radii_re[:, None], GAUSSIANS) @ gaussian_share
    mass = amplitude[0][..., None] * light_mass_inside + amplitude[1][..., None] * halo_mass(
        radii_re, HALO_SCALES[:, None]
    )
    ln_mass = (weight[..., None] * np.log(mass)).sum((0, 1)) / weight.sum()
    covered = radii_re <= binned.reach_re
    log10_mass[covered] = (ln_mass[covered] + np.log(half_mass_radius_kpc / G)) / np.log(10)
    return log10_mass


def _two_amplitudes(light: np.ndarray, halo: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the amplitudes >= 0 (2, B, H) of light and halo with the sum nearest to data (A,).

    light (B, 1, A) and halo (B, H, A) are the predictions for an amplitude of one. Also returns the squared distances
    (B, H) from the data.
    """
    light = np.broadcast_to(light, halo.shape)
    light_light, light_halo, halo_halo = (light**2).sum(-1), (light * halo).sum(-1), (halo**2).sum(-1)
    light_data, halo_data = light @ data, halo @ data
    determinant = np.maximum(light_light * halo_halo - light_halo**2, 1e-12 * light_light * halo_halo)
    both_components = (
        np.stack([halo_halo * light_data - light_halo * halo_data, light_light * halo_data - light_halo * light_data])
        / determinant
    )
    one_component = np.stack(
        [np.stack([light_data / light_light, 0 * light_data]), np.stack([0 * halo_data, halo_data / halo_halo])]
    )
    candidates = np.concatenate([both_components[None], one_component])  # (3, 2, B, H)
    residual = candidates[:, 0, ..., None] * light + candidates[:, 1, ..., None] * halo - data
    misfit = np.where((candidates >= 0).all(1), (residual**2).sum(-1), np.inf)
    best = misfit.argmin(0)
    return np.take_along_axis(candidates, best[None, None], 0)[0], misfit.min(0)
