"""Rotation curves of gas discs from their velocity maps, corrected for the part of gravity that pressure balances."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_closing, binary_erosion, binary_fill_holes
from scipy.optimize import minimize

from kinmass.gen.constants import G

# P pixels along a side, n valid pixels, m ring radii, K radii. Lengths are in R_e.

#: Discs nearer to face on get no masses: the mass is divided by sin^2 i, of which 5 degrees of error at 30 are a third.
MIN_INCLINATION_DEG = 30.0
LEAST_KNOWN_DEG = 1.0  # of discs whose inclination is known: nothing rotates along the line of sight face on
MAX_INCLINATION_DEG = 84.0  # of fitted discs: rings that are thinner than a pixel constrain nothing
THICKNESS = 0.15  # axis ratio of a disc seen edge on
AXIS_RATIO_ERROR = 0.1  # of a disc's density map, because discs are not exactly round
RING_PIXELS = 1.0  # pixels between ring radii
MIN_PIXELS = 30  # fewest valid pixels that are fitted
MIN_SHAPE_PIXELS = 12  # fewest whose density tells an axis ratio
#: Share of the pixels at the edge of what is seen that are fainter than those that tell the axis ratio.
EDGE_SHARE = 2 / 3
#: Most of their outline that may be that edge: of more, the shape is that of a slit, or of one half of a disc.
MOST_AT_EDGE = 0.5
#: Pixels that count as one independent velocity. Residuals are correlated over the beam and along spiral arms. Thick,
#: turbulent discs look less inclined in velocity than they are (by 20 degrees in the bursty mocks), so that the axis
#: ratio must have a say unless V is very clean.
PIXELS_PER_INDEPENDENT = 60.0
#: Share of a ring, weighted as in the fit, that has to be observed.
MIN_COVERAGE = 0.5
#: Half width of a ring on the minor axis, in pixels, below which it is blended with the rings around it.
RESOLVED_PIXELS = 1.0
_STIFFNESS = 0.05  # weight, in pixels, of the curve's second differences: bridges rings with hardly any valid pixel


@dataclass(frozen=True)
class Disc:
    """A thin axisymmetric disc, as fitted to one velocity map."""

    position_angle: float  # of the receding side of the major axis, from +x towards +y [rad]
    cos_inclination: float  # or the apparent axis ratio of a disc whose inclination is known
    systemic_kms: float
    rotation_kms: np.ndarray  # (m,) rotation velocities in the disc's plane, at the rings of the fit


def apparent_axis_ratio(inclination_deg: float) -> float:
    """Return the axis ratio on the sky of a disc whose own thickness is THICKNESS."""
    return float(np.hypot(np.sqrt(1 - THICKNESS**2) * np.cos(np.radians(inclination_deg)), THICKNESS))


def disc_plane(x: np.ndarray, y: np.ndarray, angle: float, cos_i: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the radius in the disc's plane and cos of the azimuth from the major axis, of points (x, y) of the sky.

    angle [rad] is the position angle of the major axis, from +x towards +y; cos_i the cos of the inclination.
    """
    along = x * np.cos(angle) + y * np.sin(angle)
    across = (y * np.cos(angle) - x * np.sin(angle)) / cos_i
    radius = np.maximum(np.hypot(along, across), 1e-12)
    return radius, along / radius


def _hats(radius: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Return weights (n, m) that interpolate a curve given at equidistant rings (m,) to radii (n,).

    The interpolation is linear, from 0 at the centre, and constant beyond the last ring.
    """
    radius_in_rings = np.minimum(radius / ring[0], len(ring))
    return np.maximum(1 - np.abs(radius_in_rings[:, None] - np.arange(1, len(ring) + 1)), 0.0)


def _without_holes(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (P, P) with those that are missing among them, be they single ones at the edge."""
    closed = binary_closing(np.pad(pixels, 1), np.ones((3, 3)))[1:-1, 1:-1]
    return np.asarray(binary_fill_holes(closed))


def _outline(pixels: np.ndarray) -> np.ndarray:
    """Return those of pixels (P, P) that have a neighbour outside of them, or outside the field."""
    return pixels & ~binary_erosion(pixels)


def axis_ratio_of(density: np.ndarray, valid: np.ndarray) -> float:
    """Return the axis ratio from the second moments of a map's density (P, P) inside an isophote; NaN without one.

    valid (P, P): pixels that are seen. Their edge, that of the field or of a footprint within it, has a shape of its
    own, which is round for most. So the isophote is one than which a share EDGE_SHARE of the edge is fainter: of the
    brightest at the edge, little would be left of clumpy gas. Pixels count whose counterparts beyond the centre are
    seen, too. Holes are no edge.
    """
    seen = _without_holes(valid)
    on_both_sides = seen & seen[::-1, ::-1]
    edge = _outline(on_both_sides)
    if not (valid & edge).any():
        return float("nan")
    bright = valid & on_both_sides & (density > np.quantile(density[valid & edge], EDGE_SHARE))
    outline = _outline(_without_holes(bright))
    if np.count_nonzero(bright) < MIN_SHAPE_PIXELS or outline[edge].sum() > MOST_AT_EDGE * outline.sum():
        return float("nan")
    y, x = np.nonzero(bright)
    weight = density[bright] / density[bright].sum()
    offset_x, offset_y = x - weight @ x, y - weight @ y
    xx, yy, xy = weight @ offset_x**2, weight @ offset_y**2, weight @ (offset_x * offset_y)
    mean_moment, half_difference = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    return float(np.sqrt(max(mean_moment - half_difference, 0.0) / (mean_moment + half_difference)))


def _regularisation(n_rings: int) -> np.ndarray:
    """Return the matrix (1 + m, 1 + m) of what bends of a rotation curve cost in a fit of V_sys and V_rot."""
    bends = np.sqrt(_STIFFNESS) * np.diff(np.eye(n_rings + 1), 2, axis=0)[:, 1:]
    matrix = np.zeros((n_rings + 1, n_rings + 1))
    matrix[1:, 1:] = bends.T @ bends
    return matrix + 1e-9 * np.eye(n_rings + 1)


def fit_disc(
    x: np.ndarray,
    y: np.ndarray,
    velocity: np.ndarray,
    axis_ratio: float,
    ring: np.ndarray,
    inclination_deg: float | None = None,
) -> Disc:
    """Fit the disc whose V_sys + V_rot(R) sin i cos(azimuth) is nearest to velocity (n,) [km/s] at (x, y) [R_e].

    ring (m,) are the equidistant radii [R_e] at which V_rot is fitted. For a given position angle and inclination V_sys
    and V_rot follow from linear least squares (the tilted rings of Begeman 1989 with one geometry for all, harmonics
    m = 0 and 1). Position angle and inclination minimise
    n_independent ln(sum of squared residuals) + ((cos i - cos i of the axis ratio) / error)^2:
    the axis ratio decides where the velocities cannot, as in solid-body rotation. inclination_deg: where it is known,
    it is not fitted; places are then those in a disc squeezed to its apparent axis ratio, for near to edge on what lies
    off the major axis is the disc's thickness.
    """
    min_cos_i, max_cos_i = np.cos(np.radians(MAX_INCLINATION_DEG)), 0.97
    if inclination_deg is not None:  # which may be nearer to face on than any that is fitted
        min_cos_i = max_cos_i = apparent_axis_ratio(inclination_deg)
    cos_i_of_axis_ratio = np.sqrt(
        np.clip((axis_ratio**2 - THICKNESS**2) / (1 - THICKNESS**2), min_cos_i**2, max_cos_i**2)
    )
    regularisation = _regularisation(len(ring))
    n_independent = len(x) / PIXELS_PER_INDEPENDENT
    misfit_floor = 1e-10 * max(float(velocity @ velocity), 1e-30)

    def solve_velocities(angle: float, cos_i: float) -> tuple[np.ndarray, float]:
        """Return V_sys and V_rot sin i (1 + m,) of a geometry, and the sum of squared residuals [km^2/s^2]."""
        radius, cos_azimuth = disc_plane(x, y, angle, cos_i)
        design = np.column_stack([np.ones_like(x), _hats(radius, ring) * cos_azimuth[:, None]])
        coefficients = np.linalg.solve(design.T @ design + regularisation, design.T @ velocity)
        return coefficients, float(np.sum((velocity - design @ coefficients) ** 2))

    def cost(geometry: np.ndarray) -> float:
        """Return what is minimised over (position angle [rad], cos i), with a wall at the limits of cos i."""
        angle, cos_i = float(geometry[0]), float(np.clip(geometry[1], min_cos_i, max_cos_i))
        distance_outside = abs(geometry[1] - cos_i)
        misfit = n_independent * np.log(solve_velocities(angle, cos_i)[1] + misfit_floor)
        return float(misfit + ((cos_i - cos_i_of_axis_ratio) / AXIS_RATIO_ERROR) ** 2 + 1e4 * distance_outside)

    # By symmetry, the gradient of a disc's velocities is along its major axis.
    velocity_offset = velocity - velocity.mean()
    angle = float(np.arctan2(velocity_offset @ (y - y.mean()), velocity_offset @ (x - x.mean())))
    start_cos_i = min(np.linspace(min_cos_i, max_cos_i, 10), key=lambda cos_i: cost(np.array([angle, cos_i])))
    simplex = np.array(
        [
            [angle, start_cos_i],
            [angle + 0.15, start_cos_i],
            [angle, start_cos_i + (0.08 if start_cos_i < 0.6 else -0.08)],
        ]
    )
    best_geometry = minimize(
        cost, simplex[0], method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-3}
    ).x
    angle, cos_i = float(best_geometry[0]), float(np.clip(best_geometry[1], min_cos_i, max_cos_i))
    coefficients = solve_velocities(angle, cos_i)[0]
    sin_i = np.sqrt(1 - cos_i**2) if inclination_deg is None else np.sin(np.radians(inclination_deg))
    rotation = coefficients[1:] / sin_i
    return Disc(angle, cos_i, float(coefficients[0]), rotation)


def pressure_slope(radius: np.ndarray, pressure: np.ndarray, at_radius: np.ndarray) -> np.ndarray:
    """Return dln(Sigma sigma^2)/dlnR at radii at_radius (K,), from Sigma sigma^2 of pixels (n,) averaged in rings.

    A parabola in R is fitted to ln of the ring means. It is exact for an exponential disc of constant or exponential
    sigma, and the noise of the whole disc averages out in it. Zero for fewer than three rings.
    """
    edges = np.linspace(0, radius.max() * (1 + 1e-9), 13)
    label = np.digitize(radius, edges) - 1
    pixel_count, pressure_sum, radius_sum = (
        np.bincount(label, w, minlength=12) for w in (None, pressure, radius * pressure)
    )
    has_pixels = pressure_sum > 0
    if has_pixels.sum() < 3:
        return np.zeros_like(at_radius)
    ln_mean = np.log(pressure_sum[has_pixels] / pixel_count[has_pixels])
    c2, c1, _ = np.polyfit(
        radius_sum[has_pixels] / pressure_sum[has_pixels], ln_mean, 2, w=np.sqrt(pixel_count[has_pixels])
    )
    return at_radius * (c1 + 2 * c2 * at_radius)


def rotation_profile(
    gas: np.ndarray,
    half_mass_radius_kpc: float,
    field_of_view_re: float,
    radii_re: np.ndarray,
    inclination_deg: float | None = None,
) -> np.ndarray:
    """Return log10 M(<r) (K,) [Msun] at radii_re [R_e] from the gas (4, P, P) of one view: density, V, sigma, mask.

    M = V_c^2 r / G, as if the mass were spherical, with V_c^2 = V_rot^2 - sigma^2 dln(Sigma sigma^2)/dlnR
    (Iorio et al. 2017, arXiv:1611.03865, for a disc of the same thickness everywhere). NaN at radii of which less than
    half is observed, and at radii that are not resolved on the minor axis. NaN everywhere for fewer than MIN_PIXELS
    pixels, for discs nearer to face on than MIN_INCLINATION_DEG, where neither the axis ratio nor the velocities
    determine sin i, and where the density tells no axis ratio (`axis_ratio_of`). Beam smearing is not corrected.
    inclination_deg: where it is known, it is not fitted, and discs nearer to face on have masses too, from
    LEAST_KNOWN_DEG on, and those without an axis ratio.
    """
    log10_mass = np.full(len(radii_re), np.nan)
    if inclination_deg is not None and inclination_deg < LEAST_KNOWN_DEG:
        return log10_mass
    density, velocity, dispersion, mask = (channel.astype(float) for channel in gas)
    valid = (mask > 0) & (density > 0)
    if valid.sum() < MIN_PIXELS or not np.ptp(velocity[valid]) > 0:
        return log10_mass
    pixels = gas.shape[-1]
    pixel_offsets = ((np.arange(pixels) + 0.5) / pixels - 0.5) * field_of_view_re
    all_x, all_y = np.meshgrid(pixel_offsets, pixel_offsets)
    x, y = all_x[valid], all_y[valid]
    axis_ratio = axis_ratio_of(density, valid) if inclination_deg is None else 1.0
    if np.isnan(axis_ratio):
        return log10_mass
    step = RING_PIXELS * field_of_view_re / pixels
    ring = step * np.arange(1, int(0.5 * field_of_view_re / step) + 4)  # beyond the edge, for the corners
    disc = fit_disc(x, y, velocity[valid], axis_ratio, ring, inclination_deg)
    if inclination_deg is None and disc.cos_inclination > np.cos(np.radians(MIN_INCLINATION_DEG)):
        return log10_mass
    disc_radius, cos_azimuth = disc_plane(all_x, all_y, disc.position_angle, disc.cos_inclination)
    ring_weight = (np.abs(disc_radius[..., None] - radii_re) < step) * cos_azimuth[..., None] ** 2
    covered = ring_weight[valid].sum(0) > MIN_COVERAGE * np.maximum(ring_weight.sum((0, 1)), 1e-9)
    v_rot = _hats(radii_re, ring) @ disc.rotation_kms
    radius = disc_radius[valid]
    sigma2_pixels = dispersion[valid] ** 2
    ring_weights = _hats(radius, ring)
    ring_light = ring_weights.T @ density[valid]
    pressure_kms2 = np.divide(
        ring_weights.T @ (density[valid] * sigma2_pixels), ring_light, out=0 * ring_light, where=ring_light > 0
    )
    sigma2_at_radii = np.interp(radii_re, ring, pressure_kms2)
    slope = pressure_slope(radius, density[valid] * sigma2_pixels, radii_re)
    v_circ2 = v_rot**2 - sigma2_at_radii * slope
    covered &= (v_circ2 > 0) & (radii_re * disc.cos_inclination >= RESOLVED_PIXELS * field_of_view_re / pixels)
    log10_mass[covered] = np.log10(v_circ2[covered] * radii_re[covered] * half_mass_radius_kpc / G)
    return log10_mass
