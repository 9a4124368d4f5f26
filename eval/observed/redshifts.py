"""Which redshift the velocities in a file tell, and whether it is that of the galaxy's file and of its other map.

A redshift is a pair here, the lowest and the highest that V can mean: they differ where V is not said to be c z, as V
that is said to be in the galaxy's frame may count its systemic velocity in any convention.
"""

import numpy as np
from astropy.io import fits

from kinmass.gen.constants import LIGHT_KMS

#: A redshift that is right may be as far from that of V [km/s]: that of the microwave background's frame is up to 370
#: from the Sun's (Planck 2018), one without the flow towards nearby clusters a few hundred; farther than the second
#: number not even that of the galaxy's cluster is.
FRAMES_KMS, MAX_GAP_KMS = 600.0, 3000.0
#: Largest rounding of a redshift that is given with three digits, below and above one.
ROUNDING, ROUNDING_ABOVE_ONE = 0.0005, 0.005
#: Largest difference between the velocities of stars and of gas of one galaxy [km/s], as where gas is seen on one side
#: or flows out, and between those of any two tracers that are bound to each other.
TRACERS_KMS, MAX_TRACERS_KMS = 300.0, 1000.0

#: What headers call an axis of velocities, by its first letters, and the convention of these.
_AXES = {"VRAD": "radio", "VOPT": "optical", "FELO": "optical"}
#: AIPS and CASA write a larger VELREF for radio velocities, and one from 1 to this for c z.
_LARGEST_OPTICAL = 256
#: Powers of 1 + z by which differences of velocities in the galaxy's frame are larger than those in a convention.
_POWERS = {"optical": -1, "rest": 0, "radio": 1}


def convention_in(header: fits.Header) -> tuple[str, str] | None:
    """Return the convention of velocities that a header tells, and the card that does so; None without one."""
    for key in (f"CTYPE{axis}" for axis in range(1, 6)):
        if (convention := _AXES.get(str(header.get(key, ""))[:4].upper())) is not None:
            return convention, f"{key} = {header[key]!r}"
    if isinstance(velref := header.get("VELREF"), int) and velref > 0:
        return "radio" if velref > _LARGEST_OPTICAL else "optical", f"VELREF = {velref}"
    return None


def share_between(one: str, other: str, redshift: float) -> float:
    """Return by what share differences of velocities at a redshift are larger in one convention than in another.

    >>> round(share_between("optical", "radio", 0.05), 4), share_between("rest", "rest", 0.05)
    (0.1025, 0.0)
    """
    return float((1 + redshift) ** abs(_POWERS[one] - _POWERS[other]) - 1)


def redshifts_of(velocity_kms: float, convention: str) -> tuple[float, float]:
    """Return the lowest and the highest redshift that V [km/s] of a convention can mean.

    In the galaxy's frame (rest) that may be c z, c ln(1 + z) or radio, of which the first is the lowest, the last the
    highest. No radio velocity reaches that of light: those that do are of an infinite redshift.
    """
    optical = velocity_kms / LIGHT_KMS
    radio = 1 / (1 - optical) - 1 if optical < 1 else np.inf
    return {"optical": (optical, optical), "radio": (radio, radio), "rest": (optical, radio)}[convention]


def gap_kms(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the least speed between two redshifts [km/s], as seen from the nearer."""
    return LIGHT_KMS * max(one[0] - other[1], other[0] - one[1], 0.0) / (1 + min(one[1], other[1]))


def contradiction_kms(told: tuple[float, float], redshift: float) -> float:
    """Return the speed [km/s] by which a galaxy's redshift differs from that of V, without what rounding may explain.

    That is nil where the rounding explains it all.
    """
    rounding = ROUNDING if redshift < 1 else ROUNDING_ABOVE_ONE
    return gap_kms(told, (redshift - rounding, redshift + rounding))


def refuse_other_redshift(tracer: str, velocity_kms: float, convention: str, redshift: float | None) -> None:
    """Raise ValueError where an absolute V [km/s] cannot be that of a galaxy at its redshift, None where not known."""
    told = redshifts_of(velocity_kms, convention)
    if convention == "radio" and velocity_kms >= LIGHT_KMS:
        raise ValueError(
            f"V of the {tracer} is about {velocity_kms:.0f} km/s, which no velocity of the radio convention reaches: "
            "say convention: optical if that is c z"
        )
    if redshift is None or contradiction_kms(told, redshift) <= MAX_GAP_KMS:
        return
    as_others = {
        "velocity_unit: m/s": redshifts_of(1e-3 * velocity_kms, convention),
        "convention: optical": redshifts_of(velocity_kms, "optical"),
        "convention: radio": redshifts_of(velocity_kms, "radio"),
        "convention: rest, as of c ln(1 + z)": (np.expm1(velocity_kms / LIGHT_KMS),) * 2,
    }
    fitting = [key for key, other in as_others.items() if contradiction_kms(other, redshift) <= FRAMES_KMS]
    what_to_do = (
        f"say {fitting[0]}, which fits" if fitting else "which is right? Correct redshift, or leave the map out"
    )
    raise ValueError(
        f"V of the {tracer} is about {velocity_kms:.0f} km/s, that of a redshift of {in_words(told)} in the "
        f"{convention} convention, and redshift is {redshift:g}: {what_to_do}"
    )


def refuse_two_galaxies(told: dict[str, tuple[float, float]]) -> None:
    """Raise ValueError where the redshifts that V of stars and gas tell are not those of one galaxy."""
    if len(told) == 2 and gap_kms(*told.values()) > MAX_TRACERS_KMS:
        raise ValueError(
            f"{apart_in_words(told)}, which those of one galaxy never are: is one of them a map of another galaxy, or "
            "is a convention wrong? Correct it, or leave that tracer out"
        )


def apart_in_words(told: dict[str, tuple[float, float]]) -> str:
    """Return how far apart the velocities of two tracers {tracer: redshifts} are, as the beginning of a sentence."""
    redshifts = " and ".join(f"V of the {tracer} is that of a redshift of {in_words(z)}" for tracer, z in told.items())
    return f"{redshifts}, {gap_kms(*told.values()):.0f} km/s apart"


def in_words(redshifts: tuple[float, float]) -> str:
    """Return a redshift, or the two between which it lies, in words.

    >>> in_words((0.02, 0.02)), in_words((0.09, 0.0989))
    ('0.02', '0.09 to 0.0989')
    """
    low, high = (f"{redshift:.4g}" for redshift in redshifts)
    return low if low == high else f"{low} to {high}"
