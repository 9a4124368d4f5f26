"""Rotation curves of gas discs from their velocity maps, with the pressure's share of the support added."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from kinmass.gen.constants import G

# P pixels along a side, n valid pixels, m ring radii, K radii. Lengths are in R_e.

#: Nearer to face on, sin^2 i, by which the mass is divided, is not known: 5 degrees at 30 are a third of it.
MIN_INCLINATION_DEG = 30.0
MAX_INCLINATION_DEG = 84.0  # where the rings are fitted; thinner ellipses than pixels say nothing
THICKNESS = 0.15  # axis ratio of a disc seen edge on
AXIS_RATIO_ERROR = 0.1  # of a disc's density map: discs are not round
RING_PIXELS = 1.0  # between ring radii
MIN_PIXELS = 30
#: Residuals are correlated over the beam and along arms; and thick, turbulent discs look less inclined in velocity
#: than they are (by 20 degrees in the bursty mocks), so that the axis ratio has to be heard unless V is very clean.
PIXELS_PER_INDEPENDENT = 60.0
#: Share of a ring, weighted as it weighs in the fit, that has to be seen.
MIN_COVERAGE = 0.5
#: Half width on the minor axis below which a ring is blended with those around it.
RESOLVED_PIXELS = 1.0
_STIFFNESS = 0.05  # of the curve's second differences, in pixels' weights: bridges rings that are hardly seen


@dataclass(frozen=True)
class Disc:
    """A thin axisymmetric disc: what was fitted to one velocity map."""

    position_angle: float  # of the receding side of the major axis, from +x towards +y [rad]
    cos_inclination: float
    systemic_kms: float
    ring_re: np.ndarray  # (m,)
    rotation_kms: np.ndarray  # (m,) in the disc's plane


def disc_plane(x: np.ndarray, y: np.ndarray, angle: float, cos_i: float) -> tuple[np.ndarray, np.ndarray]:
    """Radius in the disc's plane and cos of the azimuth from the major axis, of points of the sky."""
    along = x * np.cos(angle) + y * np.sin(angle)
    across = (y * np.cos(angle) - x * np.sin(angle)) / cos_i
    radius = np.maximum(np.hypot(along, across), 1e-12)
    return radius, along / radius


def _hats(radius: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """(n, m) weights of linear interpolation from 0 at the centre over equidistant rings, level beyond the last."""
    at = np.minimum(radius / ring[0], len(ring))
    return np.maximum(1 - np.abs(at[:, None] - np.arange(1, len(ring) + 1)), 0.0)


def axis_ratio_of(x: np.ndarray, y: np.ndarray, density: np.ndarray, border: np.ndarray) -> float:
    """Axis ratio from the second moments of density (n,) inside its last closed isophote in the field.

    border (n,) marks pixels on the edge of the field: fainter ones than the brightest of these are left out.
    """
    floor = density[border].max() if border.any() else 0.0
    weight = np.where(density > floor, density, 0.0)
    if np.count_nonzero(weight) < MIN_PIXELS:
        weight = density
    weight = weight / weight.sum()
    dx, dy = x - weight @ x, y - weight @ y
    xx, yy, xy = weight @ dx**2, weight @ dy**2, weight @ (dx * dy)
    mean, half = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    return float(np.sqrt(max(mean - half, 0.0) / (mean + half)))


def fit_disc(
    x: np.ndarray,
    y: np.ndarray,
    velocity: np.ndarray,
    axis_ratio: float,
    ring: np.ndarray,
    inclination_deg: float | None = None,
) -> Disc:
    """The disc whose V_sys + V_rot(R) sin i cos(azimuth) is nearest to velocity (n,) [km/s] at (x, y).

    For a given position angle and inclination V_sys and the rings' V_rot are linear least squares
    (Begeman 1989's tilted rings with one geometry for all, harmonics m = 0 and 1). Position angle and
    inclination minimise n_eff ln(residual square) + ((cos i - that of the axis ratio) / error)^2: the
    axis ratio decides where the velocities cannot, as in solid-body rotation. An inclination that is known is kept.
    """
    lowest, highest = np.cos(np.radians(MAX_INCLINATION_DEG)), 0.97
    if inclination_deg is not None:
        lowest = highest = float(np.clip(np.cos(np.radians(inclination_deg)), lowest, highest))
    seen = np.sqrt(np.clip((axis_ratio**2 - THICKNESS**2) / (1 - THICKNESS**2), lowest**2, highest**2))
    stiff = np.sqrt(_STIFFNESS) * np.diff(np.eye(len(ring) + 1), 2, axis=0)[:, 1:]
    normal = np.zeros((len(ring) + 1, len(ring) + 1))
    normal[1:, 1:] = stiff.T @ stiff
    normal += 1e-9 * np.eye(len(normal))
    n_eff = len(x) / PIXELS_PER_INDEPENDENT
    least = 1e-10 * max(float(velocity @ velocity), 1e-30)

    def solve(angle: float, cos_i: float) -> tuple[np.ndarray, float]:
        radius, cos = disc_plane(x, y, angle, cos_i)
        design = np.column_stack([np.ones_like(x), _hats(radius, ring) * cos[:, None]])
        found = np.linalg.solve(design.T @ design + normal, design.T @ velocity)
        return found, float(np.sum((velocity - design @ found) ** 2))

    def cost(geometry: np.ndarray) -> float:
        angle, cos_i = float(geometry[0]), float(np.clip(geometry[1], lowest, highest))
        outside = abs(geometry[1] - cos_i)
        misfit = n_eff * np.log(solve(angle, cos_i)[1] + least)
        return float(misfit + ((cos_i - seen) / AXIS_RATIO_ERROR) ** 2 + 1e4 * outside)

    # By symmetry, the gradient of a disc's velocities is along its major axis.
    away = velocity - velocity.mean()
    angle = float(np.arctan2(away @ (y - y.mean()), away @ (x - x.mean())))
    start = min(np.linspace(lowest, highest, 10), key=lambda cos_i: cost(np.array([angle, cos_i])))
    corners = np.array([[angle, start], [angle + 0.15, start], [angle, start + (0.08 if start < 0.6 else -0.08)]])
    best = minimize(
        cost, corners[0], method="Nelder-Mead", options={"initial_simplex": corners, "xatol": 1e-3, "fatol": 1e-3}
    ).x
    angle, cos_i = float(best[0]), float(np.clip(best[1], lowest, highest))
    found = solve(angle, cos_i)[0]
    rotation = found[1:] / np.sqrt(1 - cos_i**2)
    return Disc(angle, cos_i, float(found[0]), ring, rotation)


def pressure_slope(radius: np.ndarray, pressure: np.ndarray, at: np.ndarray) -> np.ndarray:
    """dln(Sigma sigma^2)/dlnR at radii `at`, from pixels' Sigma sigma^2 (n,) averaged in rings.

    ln of the ring means is a parabola in R: exact for an exponential disc of constant or exponential
    sigma, and no noisier than the whole disc.
    """
    edges = np.linspace(0, radius.max() * (1 + 1e-9), 13)
    label = np.digitize(radius, edges) - 1
    count, total, moment = (np.bincount(label, w, minlength=12) for w in (None, pressure, radius * pressure))
    good = total > 0
    if good.sum() < 3:
        return np.zeros_like(at)
    ln_mean = np.log(total[good] / count[good])
    c2, c1, _ = np.polyfit(moment[good] / total[good], ln_mean, 2, w=np.sqrt(count[good]))
    return at * (c1 + 2 * c2 * at)


def rotation_profile(
    gas: np.ndarray,
    half_mass_radius_kpc: float,
    field_of_view_re: float,
    radii_re: np.ndarray,
    inclination_deg: float | None = None,
) -> np.ndarray:
    """(K,) log10 M(<r) [Msun] from one view's gas (4, P, P): density, V, sigma, mask.

    M = V_c^2 r / G, as if the mass were spherical, with V_c^2 = V_rot^2 - sigma^2 dln(Sigma sigma^2)/dlnR
    (Iorio et al. 2017, arXiv:1611.03865; a disc as thick everywhere). NaN at radii of which less than half is seen;
    everywhere for fewer than MIN_PIXELS pixels and for discs nearer to face on than MIN_INCLINATION_DEG,
    where neither axis ratio nor velocities tell sin i. Beam smearing is not corrected for. inclination_deg is for those
    who know it: it is kept.
    """
    out = np.full(len(radii_re), np.nan)
    density, velocity, dispersion, mask = (channel.astype(float) for channel in gas)
    valid = (mask > 0) & (density > 0)
    if valid.sum() < MIN_PIXELS or not np.ptp(velocity[valid]) > 0:
        return out
    pixels = gas.shape[-1]
    centre = ((np.arange(pixels) + 0.5) / pixels - 0.5) * field_of_view_re
    all_x, all_y = np.meshgrid(centre, centre)
    x, y = all_x[valid], all_y[valid]
    border = np.maximum(np.abs(x), np.abs(y)) > centre[-1] * (1 - 1e-9)
    step = RING_PIXELS * field_of_view_re / pixels
    ring = step * np.arange(1, int(0.5 * field_of_view_re / step) + 4)  # past the edge: corners
    disc = fit_disc(x, y, velocity[valid], axis_ratio_of(x, y, density[valid], border), ring, inclination_deg)
    if disc.cos_inclination > np.cos(np.radians(MIN_INCLINATION_DEG)):
        return out
    every, cos = disc_plane(all_x, all_y, disc.position_angle, disc.cos_inclination)
    near = (np.abs(every[..., None] - radii_re) < step) * cos[..., None] ** 2
    covered = near[valid].sum(0) > MIN_COVERAGE * np.maximum(near.sum((0, 1)), 1e-9)
    rotation = _hats(radii_re, ring) @ disc.rotation_kms
    radius = every[valid]
    square = dispersion[valid] ** 2
    hats = _hats(radius, ring)
    light = hats.T @ density[valid]
    pressure_kms2 = np.divide(hats.T @ (density[valid] * square), light, out=0 * light, where=light > 0)
    sigma2 = np.interp(radii_re, ring, pressure_kms2)
    slope = pressure_slope(radius, density[valid] * square, radii_re)
    circular2 = rotation**2 - sigma2 * slope
    covered &= (circular2 > 0) & (radii_re * disc.cos_inclination >= RESOLVED_PIXELS * field_of_view_re / pixels)
    out[covered] = np.log10(circular2[covered] * radii_re[covered] * half_mass_radius_kpc / G)
    return out
