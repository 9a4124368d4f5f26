"""Whether observed maps are what they are said to be: velocities in km/s, about their centre, of that tracer."""

import numpy as np

from kinmass.eval.observed.sky import SkyMap
from kinmass.gen.constants import LIGHT_KMS

#: rms of V about its mean, of V and sigma together [km/s]; galaxies have 5 to 400.
MOST_V_KMS, LEAST_KMS = 2000.0, 1.0
#: Stars that rotate this much faster than they move at random (rms V / rms sigma; below 2.3 in all mocks) are gas.
STARS_V_SIGMA = 3.0
#: Gas that is hotter than this [km/s], and rotates less than half of it, is stars.
GAS_SIGMA_KMS = 80.0
#: c z of a galaxy this far off has differences 1 % too large.
FAR_KMS = 3000.0
#: V in opposite halves, over the velocity scale, from which the axis of rotation is known; and how far two may differ.
CLEAR_ROTATION, MISALIGNED_DEG = 0.3, 60.0


def refuse(name: str, sky: SkyMap, r_e_arcsec: float) -> None:
    """Raises ValueError, saying what to change, where a tracer's maps cannot be what they are said to be."""
    spread, sigma = _speeds(sky)
    if spread > MOST_V_KMS:
        raise ValueError(
            f"V of the {name} varies by {spread:.3g} km/s over the map, which no galaxy does: if it is in m/s say "
            "velocity_unit: m/s, if bad pixels spoil it cut them with mask, within_kms or max_velocity_error_kms"
        )
    if np.hypot(spread, sigma) < LEAST_KMS:
        raise ValueError(
            f"V of the {name} varies by {spread:.3g} km/s over the map: it must be in km/s, neither a redshift nor in "
            "units of c"
        )
    nearest = float(np.hypot(sky.x_arcsec, sky.y_arcsec).min())
    if nearest > r_e_arcsec:
        raise ValueError(
            f"the nearest pixel of the {name} lies {nearest:.3g} arcsec from the centre, farther than R_e "
            f"({r_e_arcsec:.3g} arcsec): are the centre and half_light_radius_arcsec right?"
        )


def cautions(maps: dict[str, SkyMap]) -> list[str]:
    """What is odd of maps {tracer: map}, in sentences."""
    found = []
    for name, sky in maps.items():
        v, sigma = _speeds(sky)
        if name == "stars" and sigma > 0 and v > STARS_V_SIGMA * sigma:
            found.append(f"V / sigma of the stars is {v / sigma:.1f}, as of cold gas: is this a map of gas?")
        if name == "gas" and sigma > max(GAS_SIGMA_KMS, 2 * v):
            found.append(f"The gas has a dispersion of {sigma:.0f} km/s and hardly rotates: is this a map of stars?")
        away = abs(sky.systemic_kms())
        if away > FAR_KMS:
            found.append(
                f"V of the {name} is about {away:.0f} km/s: if that is c z, its differences are "
                f"{100 * away / LIGHT_KMS:.1f} % too large; say convention: optical (or radio)."
            )
    if len(maps) == 2:
        (one, clear), (other, too) = (_axis(sky) for sky in maps.values())
        apart = abs((one - other + 180) % 360 - 180)
        if min(clear, too) > CLEAR_ROTATION and apart > MISALIGNED_DEG:
            found.append(
                f"Stars and gas rotate about axes {apart:.0f} degrees apart: where that is not known of the galaxy, "
                "one map is mirrored or turned."
            )
    return found


def _speeds(sky: SkyMap) -> tuple[float, float]:
    """rms of V about its mean, and of sigma [km/s], weighted with the density; no dispersion is nil."""
    spread = np.average((sky.velocity_kms - sky.systemic_kms()) ** 2, weights=sky.density)
    sigma = 0.0 if sky.dispersion_kms is None else np.average(sky.dispersion_kms**2, weights=sky.density)
    return float(np.sqrt(spread)), float(np.sqrt(sigma))


def _axis(sky: SkyMap) -> tuple[float, float]:
    """Direction in which V grows [degrees from +x to +y], and how much of the velocity scale follows it."""
    v = sky.velocity_kms - sky.systemic_kms()
    r = np.maximum(np.hypot(sky.x_arcsec, sky.y_arcsec), 1e-9)
    x, y = (np.average(v * at / r, weights=sky.density) for at in (sky.x_arcsec, sky.y_arcsec))
    return float(np.degrees(np.arctan2(y, x))), float(2 * np.hypot(x, y) / max(np.hypot(*_speeds(sky)), 1e-9))
