"""One galaxy's stars as JamPy and MgeFit model them: what `bench.dynamics` sets beside ours, and says how.

Two kinds of velocity ellipsoids, by the JamPy that is installed:

- JamPy 8: aligned with cylindrical coordinates. V_rms^2 is linear in the masses of a potential's Gaussians and in
  1 / (1 - beta_z) (Cappellari 2008, eqs. 19 to 28; JamPy's is, to 1e-11). So JamPy is asked once per Gaussian,
  inclination (six, with splines between) and two anisotropies; every model after that is a sum, and a `Model` has
  posteriors.
- JamPy 9, which needs Python 3.12: aligned with spherical coordinates, with an anisotropy that goes with the angle, by
  which the ellipsoid nearly is a cylindrical one (Cappellari 2026, MNRAS 549, ag420, eq. 37; as in its examples).
  Splines between six inclinations are off by a tenth there: it is asked for each model, for best fits (`best_fit`).

JamPy and MgeFit are imported where they are called.
"""

import contextlib
import io
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.ndimage import map_coordinates
from scipy.optimize import brentq, least_squares
from scipy.special import erf

from kinmass.eval.classical.noise import excess
from kinmass.gen.constants import G
from kinmass.gen.instruments.looks import middle
from kinmass.gen.instruments.model import Instrument
from kinmass.gen.instruments.observe import inside_half_mass_radius, psf_fwhm_pixels
from kinmass.train.data.dataset import RADII_RE

# n pixels seen, K radii, J Gaussians of a potential, W walkers. Lengths are in kpc where not said.

ARCSEC_IS_KPC = 648 / np.pi  # the distance [Mpc] at which JamPy's arcsec are kpc
HALO_RE = np.geomspace(0.12, 30.0, 9)  # dispersions of the halo's Gaussians [R_e]
SLOPES, LG_SCALES = np.linspace(0, 1.6, 9), np.linspace(-0.1, 1.8, 20)  # of gNFW halos; lg of scales [R_e]
LG_SCALE = (np.log10(6.7), 0.3)
AXIS_RATIOS = (0.06, 0.985)  # of the flattest Gaussian: JamPy wants at least .05, round ones have no inclination
NODES, FINE_NODES = 6, 31
FLOOR = 0.05  # relative error of V_rms^2 below which no pixel is believed: 2.5 % of V_rms
WALKERS = 64


@dataclass(frozen=True)
class Mge:
    """Gaussians on the sky (Emsellem et al. 1994): peaks [Msun/pc^2], dispersions, axis ratios; (J,) each."""

    peak: np.ndarray
    sigma: np.ndarray
    axis_ratio: np.ndarray

    def mass(self) -> np.ndarray:
        """(J,) masses [Msun]."""
        return 2e6 * np.pi * self.peak * self.sigma**2 * self.axis_ratio

    def inclination(self, flattest: float) -> float:
        """Return the inclination [deg] for a least intrinsic axis ratio of `flattest` (Cappellari 2008, eq. 14)."""
        least = float(self.axis_ratio.min())
        return float(np.degrees(np.arctan2(np.sqrt(1 - least**2), np.sqrt(max(least**2 - flattest**2, 0.0)))))

    def mass_inside(self, r: np.ndarray, inclination_deg: float) -> np.ndarray:
        """(K,) mass [Msun] in spheres of radii r, of oblate Gaussians (Mitzkus et al. 2017, eq. 14)."""
        cos, sin = np.cos(np.radians(inclination_deg)), np.sin(np.radians(inclination_deg))
        q = np.sqrt(np.maximum(self.axis_ratio**2 - cos**2, 0)) / sin
        q = np.clip(q, 1e-3, 1 - 1e-4)
        e = np.sqrt(1 - q**2)
        x = np.asarray(r, dtype=float)[:, None] / (np.sqrt(2) * self.sigma)
        return np.asarray((erf(x / q) - np.exp(-(x**2)) * erf(e * x / q) / e) @ self.mass())


@lru_cache(maxsize=1)
def halos() -> np.ndarray:
    """(slopes, scales, J) masses of HALO_RE's Gaussians in gNFW halos of unit mass inside R_e; MgeFit's linear fits."""
    import mgefit as mge

    r = np.geomspace(0.05, 20.0, 200)
    half = 0.5 * np.log(HALO_RE[1] / HALO_RE[0])
    bounds = (HALO_RE[0] * np.exp(-half), HALO_RE[-1] * np.exp(half))
    out = np.zeros((len(SLOPES), len(LG_SCALES), len(HALO_RE)))
    for i, slope in enumerate(SLOPES):
        for j, scale in enumerate(10**LG_SCALES):
            density = (r / scale) ** -slope * (0.5 + 0.5 * r / scale) ** (slope - 3)
            fit = mge.fit_1d(r, density, ngauss=len(HALO_RE), linear=True, quiet=True, plot=False, rbounds=bounds)
            at = np.rint(np.log(fit.sol[1] / HALO_RE[0]) / (2 * half)).astype(int)
            out[i, j, at] = fit.sol[0] * fit.sol[1] ** 2  # peak times sigma^2: a mass, but for a factor
    return np.asarray(out / (out @ sphere_share(np.ones(1)))[..., :1])


def sphere_share(r_re: np.ndarray) -> np.ndarray:
    """(J, K) share of each halo Gaussian's mass inside radii [R_e]."""
    x = r_re / (np.sqrt(2) * HALO_RE[:, None])
    return np.asarray(erf(x) - 2 / np.sqrt(np.pi) * x * np.exp(-(x**2)))


@dataclass(frozen=True)
class Pixels:
    """The pixels that are seen of a view's stars: offsets [kpc] along and across the axis, density [Msun/kpc^2]."""

    x: np.ndarray
    y: np.ndarray
    density: np.ndarray
    square: np.ndarray  # V_rms^2 less what errors add [km^2/s^2]
    smooth: np.ndarray  # its mean over rings
    error: np.ndarray  # of V and sigma [km/s]
    side: float  # of a pixel
    axis_ratio: float  # of the density's second moments, for the sectors
    mean: float  # density inside R_e


def pixels_of(stars: np.ndarray, r_e: float, field_of_view_re: float, instrument: Instrument) -> Pixels:
    """What is fitted, from the stars' observed maps (4, P, P): turned to its axis, and at rest."""
    density, velocity, dispersion, mask = stars.astype(float)
    n = len(mask)
    side = field_of_view_re * r_e / n
    centre = (np.arange(n) + 0.5 - n / 2) * side
    x, y = np.meshgrid(centre, centre)
    radius = np.hypot(x, y)
    valid = (mask > 0) & (density > 0)
    inner = inside_half_mass_radius(n, field_of_view_re).numpy()
    mean = density[inner].mean()
    error = middle(instrument.stars.velocity_error_kms) * (np.where(valid, density, mean) / mean) ** -middle(
        instrument.stars.error_slope
    )
    ring = (radius / side).astype(int)
    total = np.maximum(np.bincount(ring[valid], minlength=ring.max() + 1), 1)

    def ring_mean(values: np.ndarray) -> np.ndarray:
        """Return at each pixel (P, P) the mean of values (P, P) over the valid pixels of its ring."""
        return np.asarray((np.bincount(ring[valid], values[valid], minlength=len(total)) / total)[ring])

    paired = valid & valid[::-1, ::-1]
    weight = np.where(paired, ring_mean(density), 0.0)
    velocity = velocity - (weight * velocity).sum() / weight.sum()
    # The mean over rings of sigma^2 and V^2, errors taken out: a sigma below nil is not observed.
    true2 = ring_mean(dispersion**2)
    for _ in range(5):
        true2 = np.maximum(ring_mean(dispersion**2 - excess(np.sqrt(true2), np.maximum(error, 1e-3))), 0.0)
    square = velocity**2 + dispersion**2 - error**2 - excess(np.sqrt(true2), np.maximum(error, 1e-3))
    smooth = np.maximum(ring_mean(square), (0.3 * error) ** 2)
    # Axes of the light and of the rotation, in the round.
    light = np.where(paired & (radius < centre[-1]), density, 0.0)
    xx, yy, xy = ((light * a).sum() for a in (x * x, y * y, x * y))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    spread = np.hypot(0.5 * (xx - yy), xy)
    ratio = np.sqrt((0.5 * (xx + yy) - spread) / (0.5 * (xx + yy) + spread))
    weight = np.where(radius < centre[-1], weight, 0.0)
    along, across = (weight * velocity * x).sum(), (weight * velocity * y).sum()
    if np.hypot(along, across) > 0.1 * (weight * radius * np.sqrt(smooth)).sum() / 2:
        angle = np.arctan2(across, along)
    cos, sin = np.cos(angle), np.sin(angle)
    seen = [a[valid] for a in (x * cos + y * sin, y * cos - x * sin, density, square, smooth, error)]
    return Pixels(seen[0], seen[1], seen[2], seen[3], seen[4], seen[5], side, float(ratio), float(mean))


def light_of(p: Pixels, psf: float) -> Mge:
    """MGE of the density. psf is the dispersion of the PSF; a pixel's own width is added to it.

    Sectors are as those of MgeFit's `sectors_photometry`, which would have the centre on a pixel's, not between pixels.
    """
    import mgefit as mge

    q = np.clip(p.axis_ratio, 0.15, 1.0)
    radius, angle = np.hypot(p.x, p.y), np.degrees(np.arctan2(np.abs(p.y), np.abs(p.x)))
    level = np.round(24.2 * np.log10(np.hypot(p.x, p.y / q) / p.side)).astype(int)
    sector = np.round(18 / np.pi * np.arctan2(np.abs(p.y / q), np.abs(p.x))).astype(int)  # ten, of eccentric anomaly
    _, mine = np.unique(level * 100 + sector, return_inverse=True)
    weight = np.bincount(mine, p.density)
    r = np.bincount(mine, p.density * radius) / weight / p.side
    a = np.bincount(mine, p.density * angle) / weight
    counts = weight / np.bincount(mine)
    blur = np.hypot(psf / p.side, np.sqrt(1 / 12))
    with contextlib.redirect_stdout(io.StringIO()):
        fit = mge.fit_sectors_regularized(r, a, counts, 1 - q, sigmapsf=blur, ngauss=10, outer_slope=2, quiet=True)
    total, sigma, ratio = fit.sol
    ratio = np.clip(ratio, AXIS_RATIOS[0] + 0.02, AXIS_RATIOS[1])
    return Mge(total / (2e6 * np.pi * sigma**2 * ratio), sigma * p.side, ratio)


@lru_cache(maxsize=1)
def jampy_version() -> int:
    """Return the first number of the version of JamPy that is installed."""
    return int(version("jampy").partition(".")[0])


def v_rms2(light: Mge, potential: Mge, inclination: float, ratio: float, p: Pixels, psf: float) -> np.ndarray:
    """(n,) JamPy's V_rms^2 [km^2/s^2] of a tracer in a potential, with sigma_z / sigma_R."""
    import jampy

    def beta(_: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the anisotropy at polar angles and its derivative: Cappellari 2026, eq. 37."""
        power = ratio ** (-2 * np.cos(2 * theta))
        return 1 - power, -4 * np.log(ratio) * power * np.sin(2 * theta)

    mges = [(mge.peak, mge.sigma, mge.axis_ratio) for mge in (light, potential)]
    where = (inclination, 0.0, ARCSEC_IS_KPC, p.x, p.y)
    how = {
        "ml": 1.0, "sigmapsf": psf, "normpsf": 1.0, "pixsize": p.side, "step": psf / 2, "quiet": True, "plot": False,
    }  # fmt: skip
    if jampy_version() < 9:
        constant = np.full(len(light.peak), 1 - ratio**2)
        model = jampy.axi.proj(*mges[0], *mges[1], *where, align="cyl", beta=constant, **how).model
    else:
        model = jampy.axi.proj(*mges, *where, beta=beta, **how).model
    return np.asarray(model**2)


def joined(*mges: Mge) -> Mge:
    """The Gaussians of several."""
    return Mge(*(np.concatenate([getattr(m, a) for m in mges]) for a in ("peak", "sigma", "axis_ratio")))


def halo_mge(masses: np.ndarray, r_e: float) -> Mge:
    """A halo of Gaussians HALO_RE of masses (J,) [Msun]."""
    sigma = HALO_RE * r_e
    return Mge(masses / (2e6 * np.pi * sigma**2), sigma, np.ones_like(sigma))


def bounds(light: Mge) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest parameters (6,), which `Model` names."""
    low = [AXIS_RATIOS[0], 0.5, 5.0, 0.0, SLOPES[0], LG_SCALES[0]]
    return np.array(low), np.array([light.axis_ratio.min() - 1e-3, 1.0, 14.0, 0.99, SLOPES[-1], LG_SCALES[-1]])


def halo_masses(slope: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(W, J) masses of HALO_RE's Gaussians in halos of unit mass inside R_e, of slopes and lg of scales (W,)."""
    where = [slope / (SLOPES[1] - SLOPES[0]), (scale - LG_SCALES[0]) / (LG_SCALES[1] - LG_SCALES[0])]
    return np.stack([map_coordinates(h, where, order=1, mode="nearest") for h in np.moveaxis(halos(), 2, 0)], 1)


def potential_of(light: Mge, r_e: float, theta: np.ndarray) -> tuple[float, Mge, np.ndarray]:
    """Inclination [deg], Gaussians of the stars' mass and masses (J,) of the halo's, of parameters (6,)."""
    q, _, lg_mass, dark, slope, scale = theta
    inclination = light.inclination(q)
    factor = 10**lg_mass * (1 - dark) / light.mass_inside(np.array([r_e]), inclination)[0]
    halo = halo_masses(np.array([slope]), np.array([scale]))[0] * 10**lg_mass * dark
    return inclination, Mge(light.peak * factor, light.sigma, light.axis_ratio), halo


def jampy_square(light: Mge, r_e: float, theta: np.ndarray, p: Pixels, psf: float) -> np.ndarray:
    """(n,) JamPy's own V_rms^2 of parameters (6,)."""
    inclination, stars, halo = potential_of(light, r_e, theta)
    return v_rms2(light, joined(stars, halo_mge(halo, r_e)), inclination, theta[1], p, psf)


def masses_of(light: Mge, r_e: float, theta: np.ndarray) -> np.ndarray:
    """(K,) log10 of the mass [Msun] inside RADII_RE of parameters (6,)."""
    inclination, stars, halo = potential_of(light, r_e, theta)
    radii = np.array(RADII_RE)
    return np.log10(stars.mass_inside(radii * r_e, inclination) + halo @ sphere_share(radii))


def first_variance(p: Pixels) -> np.ndarray:
    """(n,) variance of V_rms^2 by the instrument's errors alone."""
    return 4 * p.error**2 * (p.smooth + p.error**2) + (FLOOR * p.smooth) ** 2


def believed(p: Pixels, square: np.ndarray) -> tuple[np.ndarray, float]:
    """(n,) variance of V_rms^2 that residuals of the best model, and few stars, call for; the reduced chi^2 with it."""
    best = np.maximum(square, (0.3 * p.error) ** 2)
    own = 4 * p.error**2 * (best + p.error**2) + (FLOOR * best) ** 2
    few, residual2 = best**2 * p.mean / p.density, (p.square - best) ** 2

    def excess_of(c: float) -> float:
        """Return the median of chi^2 per pixel less what it should be, with c times the noise of few stars."""
        return float(np.median(residual2 / (own + c * few)) - 0.45494)

    c = 0.0 if excess_of(0.0) <= 0 else brentq(excess_of, 0.0, 100.0)
    variance = own + c * few
    return variance, float(np.mean(residual2 / variance))


def best_fit(p: Pixels, light: Mge, r_e: float, psf: float) -> tuple[np.ndarray, float]:
    """Parameters (6,) of the best of JamPy's own models, and its reduced chi^2; from two starts."""
    low, high = bounds(light)
    width = np.array([0.2, 0.15, 0.2, 0.3, 0.5, 0.3])  # of a step; those of differences are a twentieth
    lg_mass = np.log10(2.5 * r_e * np.median(p.smooth) / G)
    variance = first_variance(p)

    def residuals(x: np.ndarray) -> np.ndarray:
        """Return those of pixels and of the prior on the halo's scale (n + 1,)."""
        square = np.nan_to_num(jampy_square(light, r_e, x * width, p, psf))
        return np.append((p.square - square) / np.sqrt(variance), (x[5] * width[5] - LG_SCALE[0]) / LG_SCALE[1])

    def slopes(x: np.ndarray) -> np.ndarray:
        """Return differences of residuals (n + 1, 6), towards the middle of the bounds."""
        here, steps = residuals(x), 0.05 * np.sign((low + high) / 2 / width - x)
        return np.stack([(residuals(x + h) - here) / h[i] for i, h in enumerate(np.diag(steps))], axis=1)

    def fitted(x: np.ndarray) -> Any:
        """Return the least squares' answer from a start (6,)."""
        return least_squares(residuals, x, slopes, bounds=(low / width, high / width), ftol=1e-4, max_nfev=12)

    def start(share: float, dark: float) -> np.ndarray:
        """Return the parameters (6,), over their widths, at a share of the range of axis ratios."""
        q = low[0] + share * (high[0] - low[0])
        return np.array([q, 0.9, lg_mass, dark, 1.0, LG_SCALE[0]]) / width

    first = fitted(start(0.7, 0.2)).x
    variance, _ = believed(p, jampy_square(light, r_e, first * width, p, psf))
    theta = min(map(fitted, (first, start(0.3, 0.7))), key=lambda fit: fit.cost).x * width
    return theta, believed(p, jampy_square(light, r_e, theta, p, psf))[1]


class Model:
    """Everything JAM says of one galaxy, as a sum; parameters are (W, 6).

    Columns: axis ratio of the flattest Gaussian, sigma_z / sigma_R, lg of the mass inside R_e [Msun], dark share of it,
    the halo's slope, and lg of its scale [R_e].
    """

    def __init__(self, p: Pixels, light: Mge, r_e: float, psf: float):
        self.p, self.light, self.r_e, self.psf = p, light, r_e, psf
        self.low, self.high = bounds(light)
        nodes = np.linspace(self.low[0], self.high[0], NODES)
        self.axis_ratio = np.linspace(nodes[0], nodes[-1], FINE_NODES)
        self.inclination = np.array([light.inclination(q) for q in self.axis_ratio])
        unit = [light] + [halo_mge(one, r_e) for one in np.eye(len(HALO_RE)) * 1e10]
        table = np.empty((NODES, 2, len(unit), len(p.x)))
        for i, q in enumerate(nodes):
            for j, potential in enumerate(unit):
                # beta = 0 and -1/2: more makes single Gaussians' V_rms^2 negative, which JamPy cuts off
                one, two_thirds = (
                    v_rms2(light, potential, light.inclination(q), (1 - b) ** 0.5, p, psf) for b in (0.0, -0.5)
                )
                table[i, :, j] = 3 * two_thirds - 2 * one, 3 * (one - two_thirds)
        table[:, :, 1:] *= 1e-10
        fine = CubicSpline(nodes, table)(self.axis_ratio)
        self.table = fine.reshape(FINE_NODES, 2 * len(unit), len(p.x))
        self.stars = np.stack([light.mass_inside(np.array(RADII_RE) * r_e, i) for i in self.inclination])
        self.stars_re = np.concatenate([light.mass_inside(np.array([r_e]), i) for i in self.inclination])
        self.weigh(first_variance(p))

    def weigh(self, variance: np.ndarray) -> None:
        """Take variances (n,) of V_rms^2, and add up what chi^2 needs."""
        self.variance = variance
        weighted = self.table / variance
        self.quadratic = weighted @ np.swapaxes(self.table, 1, 2)
        self.linear = weighted @ self.p.square
        self.constant = float(self.p.square**2 @ (1 / variance))

    def parts(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Node below, share of the next, factor on the stars (W,), halo masses (W, J), coefficients (W, 2 + 2 J)."""
        q, ratio, lg_mass, dark, slope, scale = theta.T
        at = (q - self.axis_ratio[0]) / (self.axis_ratio[1] - self.axis_ratio[0])
        node = np.clip(at.astype(int), 0, FINE_NODES - 2)
        share = at - node
        mass = 10**lg_mass
        stars_re = (1 - share) * self.stars_re[node] + share * self.stars_re[node + 1]
        factor = mass * (1 - dark) / stars_re
        halo = halo_masses(slope, scale)
        halo *= (mass * dark)[:, None]
        each = np.column_stack([factor, halo])
        return node, share, factor, halo, np.column_stack([each, each / ratio[:, None] ** 2])  # 1 / (1 - beta_z)

    def square(self, theta: np.ndarray) -> np.ndarray:
        """(n,) V_rms^2 of parameters (6,)."""
        node, share, _, _, c = self.parts(theta[None])
        return np.asarray(c[0] @ ((1 - share[0]) * self.table[node[0]] + share[0] * self.table[node[0] + 1]))

    def log_posterior(self, theta: np.ndarray, inflate: float, lg_factor_error: float) -> np.ndarray:
        """(W,) with errors inflated, and the stars' factor within a number of dex of 1 (or free, if infinite)."""
        out = np.full(len(theta), -np.inf)
        good = ((theta >= self.low) & (theta <= self.high)).all(1)
        mine = theta[good]
        node, share, factor, _, c = self.parts(mine)
        chi2 = sum(
            part * (np.einsum("wi,wij,wj->w", c, self.quadratic[k], c) - 2 * np.einsum("wi,wi->w", c, self.linear[k]))
            for part, k in ((1 - share, node), (share, node + 1))
        )
        prior = ((mine[:, 5] - LG_SCALE[0]) / LG_SCALE[1]) ** 2 + (np.log10(factor) / lg_factor_error) ** 2
        out[good] = -0.5 * ((chi2 + self.constant) / inflate**2 + prior)
        return out

    def masses(self, theta: np.ndarray) -> np.ndarray:
        """(W, K) log10 of the mass [Msun] inside RADII_RE."""
        node, share, factor, halo, _ = self.parts(theta)
        stars = (1 - share)[:, None] * self.stars[node] + share[:, None] * self.stars[node + 1]
        return np.log10(factor[:, None] * stars + halo @ sphere_share(np.array(RADII_RE)))

    def sample(self, inflate: float, lg_factor_error: float, steps: int, rng: np.random.Generator) -> Any:
        """Samples (W steps / 2, 6), the best one (6,) and the share of moves taken; from the best of 20,000 guesses."""
        rough = 3 * max(inflate, np.sqrt(np.sqrt(2 * len(self.p.x))))

        def target(theta: np.ndarray) -> np.ndarray:
            """Return the log posterior (W,) of parameters (W, 6)."""
            return self.log_posterior(theta, inflate, lg_factor_error)

        guess = rng.uniform(self.low, self.high, (20_000, 6))
        guess[:, 3] = rng.uniform(0, 0.9, len(guess))
        guess[:, 2] = np.log10(2.5 * self.r_e * np.median(self.p.smooth) / G) + rng.uniform(-1.2, 1.2, 20_000)
        walkers = guess[np.argsort(self.log_posterior(guess, rough, max(lg_factor_error, 0.2)))[-WALKERS:]]
        now = target(walkers)
        kept, best, best_at, taken = [], walkers[now.argmax()], now.max(), 0
        for step in range(steps):
            for half in (slice(0, None, 2), slice(1, None, 2)):
                others = walkers[1 - (half.start or 0) :: 2]
                z = (1 + rng.random(len(others))) ** 2 / 2  # from .5 to 2, density as 1 / sqrt(z)
                partner = others[rng.integers(len(others), size=len(others))]
                new = partner + z[:, None] * (walkers[half] - partner)
                there = target(new)
                move = np.log(rng.random(len(z))) < 5 * np.log(z) + there - now[half]
                walkers[half] = np.where(move[:, None], new, walkers[half])
                now[half] = np.where(move, there, now[half])
                taken += int(move.sum())
            if now.max() > best_at:
                best, best_at = walkers[now.argmax()].copy(), now.max()
            if step >= steps // 2:
                kept.append(walkers.copy())
        return np.concatenate(kept), best, taken / (steps * WALKERS)

    def believe(self, theta: np.ndarray) -> float:
        """Weigh pixels by `believed` of parameters (6,), and return the reduced chi^2."""
        variance, chi2 = believed(self.p, self.square(theta))
        self.weigh(variance)
        return chi2


def seen_of(
    observed: np.ndarray, r_e: float, field_of_view_re: float, stored: int, instrument: Instrument
) -> tuple[Pixels, Mge, float, float]:
    """What `Model` and `best_fit` want of observed maps (8, P, P), stored with so many pixels along a side."""
    fwhm = float(psf_fwhm_pixels(instrument, stored, field_of_view_re, torch.tensor(r_e)))
    psf = fwhm / 2.3548 * field_of_view_re * r_e / stored
    p = pixels_of(observed[:4], r_e, instrument.grid(stored, field_of_view_re)[1], instrument)
    return p, light_of(p, psf), r_e, psf
