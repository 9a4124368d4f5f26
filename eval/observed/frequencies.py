"""Turn moments of lines that are in frequencies, as SoFiA writes them (WALLABY), into velocities c z."""

from collections.abc import Callable

import numpy as np
from astropy import units
from astropy.io import fits

from kinmass.eval.observed.fits_maps import positive_or_none
from kinmass.eval.observed.fits_units import factor_to
from kinmass.gen.constants import LIGHT_KMS

Image = tuple[np.ndarray, fits.Header]
#: Cards that hold the line's frequency at rest [Hz].
_REST_FREQUENCY = ("RESTFRQ", "RESTFREQ", "FREQ0")


def to_velocities(
    images: dict[str, Image], name: str, without_blanks: Callable[[np.ndarray], np.ndarray]
) -> tuple[dict[str, Image], bool]:
    """Return images {key: (values, header)} with a velocity, called name, in a frequency f as c z = c (f0 / f - 1).

    So are widths and errors in frequencies: c f0 / f^2 times them. f0 is the frequency at rest in the velocity's
    header. The second value says whether the velocity was in a frequency. Raises ValueError where f0 is not known or
    widths have another shape.
    """
    frequency, header = images.get("velocity", (np.zeros(0), fits.Header()))
    unit_hz = factor_to(units.Hz, header.get("BUNIT"))
    if unit_hz is None:
        return images, False
    rest_hz = next((hz for key in _REST_FREQUENCY if (hz := positive_or_none(header.get(key))) is not None), None)
    if rest_hz is None:
        raise ValueError(
            f"{name} is in {header['BUNIT']}: convert it to km/s, or add RESTFRQ, the line's frequency at rest [Hz], "
            "to its header; say velocity_unit: km/s if that is what it is in"
        )
    values = without_blanks(frequency) * unit_hz
    f_hz = np.where(values > 0, values, np.nan)
    converted: dict[str, Image] = {"velocity": (LIGHT_KMS * (rest_hz / f_hz - 1), _in_kms(header))}
    for key in ("dispersion", "velocity_error", "dispersion_error"):
        if key in images and (width_hz := factor_to(units.Hz, images[key][1].get("BUNIT"))) is not None:
            width = without_blanks(images[key][0]) * width_hz
            if width.shape != f_hz.shape:
                raise ValueError(f"{key} is in Hz and of shape {width.shape}, the velocity of shape {f_hz.shape}")
            converted[key] = LIGHT_KMS * rest_hz / f_hz**2 * width, _in_kms(images[key][1])
    return images | converted, True


def _in_kms(header: fits.Header) -> fits.Header:
    own = header.copy()
    own["BUNIT"] = "km/s"
    return own
