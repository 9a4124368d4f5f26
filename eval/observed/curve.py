"""The rotation curve of an observed galaxy's gas, at the radii of its own rings, out to the edge of its map."""

from dataclasses import dataclass

import numpy as np

from kinmass.eval.classical.rotation import LEAST_KNOWN_DEG, apparent_axis_ratio, axis_ratio_of, rotation_profile
from kinmass.eval.observed.galaxy import ObservedGalaxy
from kinmass.eval.observed.sky import KPC_PER_ARCSEC_MPC, SkyMap, regrid

# K rings
#: Fewest and most pixels along a side of the grid on which rings are fitted.
_PIXELS = (16, 96)


@dataclass(frozen=True)
class RotationCurve:
    """Masses log10 M(<r) [Msun] (3, K) from the gas' rotation at radii (K,) [kpc]: low, as given, high.

    Low and high are for the inclination one standard error larger and smaller. They equal the middle where the
    inclination was fitted, or has no error. Empty without a curve.
    """

    radius_kpc: np.ndarray
    log10_menc: np.ndarray

    def at(self, radius_kpc: np.ndarray) -> np.ndarray:
        """Return log10 M (M,) at radii (M,) [kpc], NaN beyond the first and the last ring."""
        if not len(self.radius_kpc):
            return np.full(len(radius_kpc), np.nan)
        found = np.interp(np.log(radius_kpc), np.log(self.radius_kpc), self.log10_menc[1])
        within = (radius_kpc >= self.radius_kpc[0]) & (radius_kpc <= self.radius_kpc[-1])
        return np.where(within, found, np.nan)

    def inside(self, radius_kpc: float) -> str:
        """Return words on the mass inside a radius [kpc], to follow those on the network's; "" without a curve."""
        mass = self.at(np.array([radius_kpc]))[0]
        if not np.isnan(mass):
            return f"; the rotation curve of the gas gives {mass:.2f} there"
        if len(self.radius_kpc) and radius_kpc > self.radius_kpc[-1]:
            last_kpc, last_mass = self.radius_kpc[-1], self.log10_menc[1, -1]
            return f"; the rotation curve of the gas ends at {last_kpc:.3g} kpc, where it gives {last_mass:.2f}"
        return ""


def _own_grid(gas: SkyMap) -> tuple[np.ndarray, float]:
    """Return a gas map (4, Q, Q) on a grid of its own pixels, or half beams, out to its edge, and its side [arcsec]."""
    field_arcsec = 2.2 * (float(np.hypot(gas.x_arcsec, gas.y_arcsec).max()) + gas.side_arcsec)
    step_arcsec = max(0.5 * gas.blur_arcsec, gas.side_arcsec)
    pixels = int(np.clip(field_arcsec / step_arcsec, *_PIXELS))
    return regrid(gas, pixels, field_arcsec), field_arcsec


def axis_ratio_of_gas(gas: SkyMap, inclination_deg: float | None) -> float:
    """Return the axis ratio of a gas disc on the sky, by its inclination or else by its density; NaN without either."""
    if inclination_deg is not None:
        return apparent_axis_ratio(inclination_deg)
    maps, _ = _own_grid(gas)
    return axis_ratio_of(maps[0], maps[3] > 0)


def rotation_curve_of(gas: SkyMap, galaxy: ObservedGalaxy) -> RotationCurve:
    """Fit the rotation curve of a gas map on its own pixels, with the galaxy's inclination where that is known."""
    r_e_arcsec = galaxy.half_light_radius_arcsec
    r_e_kpc = r_e_arcsec * galaxy.distance_mpc * KPC_PER_ARCSEC_MPC
    maps, field_arcsec = _own_grid(gas)
    pixels = maps.shape[-1]
    radii_re = np.arange(1, pixels // 2 + 1) * field_arcsec / pixels / r_e_arcsec

    def masses(inclination_deg: float | None) -> np.ndarray:
        """Return log10 M (m,) [Msun] at the rings, for an inclination or (None) a fitted one."""
        return rotation_profile(maps, r_e_kpc, field_arcsec / r_e_arcsec, radii_re, inclination_deg)

    given, error = galaxy.inclination_deg, galaxy.inclination_error_deg
    middle = masses(given)
    low = high = middle
    if given is not None and error:
        low, high = masses(min(given + error, 90.0)), masses(max(given - error, LEAST_KNOWN_DEG))
    found = np.isfinite(middle) & np.isfinite(low) & np.isfinite(high)
    return RotationCurve(radii_re[found] * r_e_kpc, np.stack([low, middle, high])[:, found])
