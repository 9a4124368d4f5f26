"""Check that observed maps are what the user says: velocities in km/s, about the galaxy's centre, of that tracer."""

import numpy as np

from kinmass.eval.observed.sky import SkyMap
from kinmass.gen.constants import LIGHT_KMS

#: Largest rms of V about its mean, and smallest rms of V and sigma together [km/s]; galaxies have 5 to 400.
MAX_V_RMS_KMS, MIN_RMS_KMS = 2000.0, 1.0
#: Above this rms V / rms sigma a map of stars is probably one of gas; it is below 2.3 in all mocks.
STARS_V_SIGMA = 3.0
#: A map of gas with a larger rms sigma [km/s], and an rms V of less than half of it, is probably one of stars.
GAS_SIGMA_KMS = 80.0
#: Above this systemic velocity a caution asks for the convention: at 3000 km/s differences of c z are 1 % too large.
MAX_UNCORRECTED_KMS = 3000.0
#: Rotation over the velocity scale (`_rotation_axis`) from which the axis of rotation is known; and the largest angle
#: between the axes of stars and gas.
MIN_ROTATION_SHARE, MISALIGNED_DEG = 0.3, 60.0


def refuse(name: str, sky: SkyMap, r_e_arcsec: float) -> None:
    """Raise ValueError, saying what to change, where a tracer's maps cannot be what the user says they are."""
    v_rms, sigma_rms = _rms_speeds(sky)
    if v_rms > MAX_V_RMS_KMS:
        raise ValueError(
            f"V of the {name} varies by {v_rms:.3g} km/s over the map, which no galaxy does: if it is in m/s say "
            "velocity_unit: m/s, if bad pixels spoil it cut them with mask, within_kms or max_velocity_error_kms"
        )
    if np.hypot(v_rms, sigma_rms) < MIN_RMS_KMS:
        raise ValueError(
            f"V of the {name} varies by {v_rms:.3g} km/s over the map: it must be in km/s, neither a redshift nor in "
            "units of c"
        )
    nearest_arcsec = float(np.hypot(sky.x_arcsec, sky.y_arcsec).min())
    if nearest_arcsec > r_e_arcsec:
        raise ValueError(
            f"the nearest pixel of the {name} lies {nearest_arcsec:.3g} arcsec from the centre, farther than R_e "
            f"({r_e_arcsec:.3g} arcsec): are the centre and half_light_radius_arcsec right?"
        )


def cautions(maps: dict[str, SkyMap]) -> list[str]:
    """Return sentences on what is unusual in maps {tracer: map}."""
    sentences = []
    for name, sky in maps.items():
        v_rms, sigma_rms = _rms_speeds(sky)
        if name == "stars" and sigma_rms > 0 and v_rms > STARS_V_SIGMA * sigma_rms:
            sentences.append(
                f"V / sigma of the stars is {v_rms / sigma_rms:.1f}, as of cold gas: is this a map of gas?"
            )
        if name == "gas" and sigma_rms > max(GAS_SIGMA_KMS, 2 * v_rms):
            sentences.append(
                f"The gas has a dispersion of {sigma_rms:.0f} km/s and hardly rotates: is this a map of stars?"
            )
        systemic_kms = abs(sky.systemic_kms())
        if systemic_kms > MAX_UNCORRECTED_KMS:
            sentences.append(
                f"V of the {name} is about {systemic_kms:.0f} km/s: if that is c z, its differences are "
                f"{100 * systemic_kms / LIGHT_KMS:.1f} % too large; say convention: optical (or radio)."
            )
    if len(maps) == 2:
        (first_axis_deg, first_share), (second_axis_deg, second_share) = (_rotation_axis(sky) for sky in maps.values())
        angle_between_deg = abs((first_axis_deg - second_axis_deg + 180) % 360 - 180)
        if min(first_share, second_share) > MIN_ROTATION_SHARE and angle_between_deg > MISALIGNED_DEG:
            sentences.append(
                f"Stars and gas rotate about axes {angle_between_deg:.0f} degrees apart: where that is not known of "
                "the galaxy, one map is mirrored or turned."
            )
    return sentences


def _rms_speeds(sky: SkyMap) -> tuple[float, float]:
    """Return the rms of V about its mean and the rms of sigma [km/s], weighted with density; 0 without dispersion."""
    v_square = np.average((sky.velocity_kms - sky.systemic_kms()) ** 2, weights=sky.density)
    sigma_square = 0.0 if sky.dispersion_kms is None else np.average(sky.dispersion_kms**2, weights=sky.density)
    return float(np.sqrt(v_square)), float(np.sqrt(sigma_square))


def _rotation_axis(sky: SkyMap) -> tuple[float, float]:
    """Return the direction in which V grows [degrees from +x to +y], and how large that growth is.

    The second number is in units of the velocity scale, the rms of V and sigma together.
    """
    v = sky.velocity_kms - sky.systemic_kms()
    r = np.maximum(np.hypot(sky.x_arcsec, sky.y_arcsec), 1e-9)
    x, y = (np.average(v * offset_arcsec / r, weights=sky.density) for offset_arcsec in (sky.x_arcsec, sky.y_arcsec))
    return float(np.degrees(np.arctan2(y, x))), float(2 * np.hypot(x, y) / max(np.hypot(*_rms_speeds(sky)), 1e-9))
