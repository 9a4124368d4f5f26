"""Hold what headers say of errors and masks against their keys: variances, inverse ones, and masks of good pixels."""

import numpy as np
from astropy.io import fits

from kinmass.eval.observed.fits_units import kms2_per_unit
from kinmass.eval.observed.galaxy_file import TracerFiles
from kinmass.eval.observed.names import is_called_variance

#: Kinds of errors, as astropy's CCDData (UTYPE), and ESO and SDSS (HDUCLAS3), write them in lower case.
_KINDS = {
    "stddevuncertainty": "an error", "rmse": "an error", "varianceuncertainty": "a variance", "mse": "a variance",
    "inversevariance": "an inverse variance", "invmse": "an inverse variance", "invrmse": "an inverse error",
}  # fmt: skip
#: Kinds of masks, and which pixels those are that are not zero.
_MASKS = {"maskone": "good", "maskzero": "bad"} | {f"flag{bits}bit": "bad" for bits in (8, 16, 32, 64)}
_CARDS = ("UTYPE", "HDUCLAS3")


def refuse_other_kind(files: TracerFiles, key: str, header: fits.Header) -> None:
    """Raise ValueError where a map's header says that it is an error, or another kind of an error than its key.

    Not where the key of its unit is said: that tells what the numbers are.
    """
    what, _, kind = key.partition("_")
    unit_key = "velocity_error_unit" if kind in ("error", "ivar") else f"{key}_unit"
    card, said = _said(header, _KINDS)
    if said is None or kind not in ("", "error", "ivar") or getattr(files, unit_key) is not None:
        return
    right_keys = {"an error": "error", "a variance": "error", "an inverse variance": "ivar"}
    if (right := right_keys.get(said)) == kind:
        return
    instead = "give the map itself" if not kind else f"say {what}_{right}" if right else "give one over it"
    raise ValueError(
        f"{key} {getattr(files, key)} is {said} by {card} in its header: {instead}; if the key is right say {unit_key}"
    )


def is_variance(files: TracerFiles, header: fits.Header) -> bool:
    """Whether the header of an error says that it holds a variance: by a card, or by its name and a squared velocity.

    So mpdaf calls it (STAT). Not where the unit of errors is said, which is a squared one for a variance.
    """
    is_squared = kms2_per_unit(header.get("BUNIT")) is not None
    is_called_so = is_squared and is_called_variance(str(header.get("EXTNAME", "")))
    return files.velocity_error_unit is None and (is_called_so or _said(header, _KINDS)[1] == "a variance")


def root_of_variance(values: np.ndarray, header: fits.Header) -> tuple[np.ndarray, fits.Header]:
    """Return the root of a variance (Y, X), an error, and its header."""
    kms2, own = kms2_per_unit(header.get("BUNIT")), header.copy()
    if kms2 is not None:
        own["BUNIT"] = "km/s"
    return np.sqrt(np.where(values >= 0, (kms2 or 1.0) * values, np.nan)), own


def of_other_sense(files: TracerFiles, name: str, header: fits.Header) -> list[str]:
    """Return a remark where mask_is contradicts what the header of a mask, called name, says of its pixels.

    Raises ValueError where mask_is is not said, and the mask is not zero where pixels are good.
    """
    card, said = _said(header, _MASKS)
    if said in (None, files.mask_is):
        return []
    if "mask_is" not in files.model_fields_set:
        raise ValueError(
            f"mask {name} is zero in bad pixels by {card} in its header: say mask_is: good, or bad if it is not"
        )
    return [f"mask {name} is not zero in {said} pixels by {card} in its header, and mask_is says {files.mask_is}."]


def _said(header: fits.Header, kinds: dict[str, str]) -> tuple[str, str | None]:
    """Return the card of a header that tells one of some kinds, for a sentence, and that kind; None without."""
    for key in _CARDS:
        if (kind := kinds.get(str(header.get(key, "")).strip().lower())) is not None:
            return f"{key} = {header[key]!r}", kind
    return "", None
