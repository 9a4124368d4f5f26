"""Units as headers and tables write them: what a number is, or a sentence that says why that cannot be known."""

import re
import warnings
from dataclasses import dataclass

import numpy as np
from astropy import units
from astropy.utils.exceptions import AstropyWarning

from kinmass.eval.observed.sky import KPC_PER_ARCSEC_MPC

#: Spellings that astropy does not know, in lower case; and units that headers in capitals mean otherwise.
_WORDS = {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s", "meters": "m", "kilometers": "km",
    "k": "K", "jy": "Jy", "mjy": "MJy", "hz": "Hz",
    "msun": "solMass", "m_sun": "solMass", "msol": "solMass", "m_sol": "solMass", "msolar": "solMass",
    "solmass": "solMass", "lsun": "solLum", "l_sun": "solLum", "lsol": "solLum", "l_sol": "solLum", "sollum": "solLum",
    "spaxel": "pix", "spaxels": "pix", "spax": "pix", "pixel": "pix", "pixels": "pix", "px": "pix",
    "ang": "Angstrom", "angstrom": "Angstrom", "angstroms": "Angstrom", "counts": "ct", "count": "ct", "cts": "ct",
    "electrons": "electron", "photons": "photon", "dn": "DN", "ergs": "erg", "asec": "arcsec", "arcsecs": "arcsec",
    "arcsecond": "arcsec", "arcseconds": "arcsec", "arcmins": "arcmin", "arcminute": "arcmin", "arcminutes": "arcmin",
    "degree": "deg", "degrees": "deg", "sqarcsec": "(arcsec2)", "nanomaggy": "nmgy", "nanomaggies": "nmgy",
    "beams": "beam", "mpc": "Mpc",
}  # fmt: skip
_NONE = ("", "1", "none", "arbitrary", "arb", "relative", "dimensionless", "unitless", "n/a")
_MAGNITUDE = re.compile(
    r"(?<![a-z])(?:(?:AB|ST|Vega)[ _]?)?mag(?:s|nitudes?)?(?![a-z])(?:[ _]?\(?(?:AB|ST|Vega)\b\)?)?", re.I
)
_LOGARITHM = re.compile(r"(dex|log10|log|lg|dB)(?:\s*[(\[]\s*(.*?)\s*[)\]]|\s+(.*))?", re.I)
_FACTOR = re.compile(
    r"10\s*(?:\*\*|\^)\s*\(?\s*([-+]?\d+)\s*\)?[\s.*]*|([-+]?\d*\.?\d+(?:e[-+]?\d+)?)(?=[\s*(/a-z])\s*\*?", re.I
)
_POWER = re.compile(r"(1\s*/\s*)?\(([^()]+)\)(?:\s*(?:\^|\*\*)?\s*(-?\d+))?")


@dataclass(frozen=True)
class Written:
    """What a map's numbers are: of a unit, or (log: dex, mag, dB) logarithms of something in that unit."""

    log: str
    unit: units.UnitBase

    def linear(self, value: np.ndarray) -> np.ndarray:
        """Values without the logarithm."""
        if not self.log:
            return value
        with np.errstate(over="ignore"):
            return np.asarray(10 ** ({"dex": 1.0, "mag": -0.4, "db": 0.1}[self.log] * value))


def read_unit(text: str | None) -> Written:
    """A unit as written. Raises ValueError for what is none that is known."""
    said = re.sub(r"[{}]", "", (text or "").strip())
    if said.lower() in _NONE:
        return Written("", units.dimensionless_unscaled)
    if (found := _LOGARITHM.fullmatch(said)) is not None:
        inner = read_unit(found[2] or found[3])
        if inner.log:
            raise ValueError(f"{text!r} is a logarithm of a logarithm")
        return Written("db" if found[1].lower() == "db" else "dex", inner.unit)
    if _MAGNITUDE.search(said):
        area = re.sub(r"\bper\b", "/", _MAGNITUDE.sub(" ", said)).replace("/ ", "/").strip()
        area = area.removesuffix(")") if area.count(")") > area.count("(") else area
        unit = _linear(f"1{area}" if area.startswith("/") else area) if area else units.dimensionless_unscaled
        areas = (units.dimensionless_unscaled, units.arcsec**-2, units.pix**-1, units.pix**-2)
        if unit.scale != 1 or not any(unit.is_equivalent(one) for one in areas):
            raise ValueError(f"{text!r} is no surface brightness in magnitudes")
        return Written("mag", unit)
    return Written("", _linear(said))


def _linear(text: str) -> units.UnitBase:
    """A unit that is no logarithm, in astropy's spelling or another. Raises ValueError."""
    if (power := _POWER.fullmatch(text)) is not None:  # (km/s)^-2
        return _linear(power[2]) ** (int(power[3] or 1) * (-1 if power[1] else 1))
    scale = 1.0
    if (factor := _FACTOR.match(text)) is not None:
        scale = 10.0 ** int(factor[1]) if factor[1] else float(factor[2])
        text = text[factor.end() :].strip()
        text = f"1{text}" if text.startswith("/") else text
    text = re.sub(r"/\s*b(?![a-z])", "/beam", text, flags=re.I)  # JY/B, as AIPS writes
    shouted = text == text.upper()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        known = re.sub(r"[A-Za-z_]+", lambda word: _word(word[0], shouted), text.replace("**", "^"))
        try:
            unit = units.Unit(scale * units.Unit(known))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{text!r} is no unit that is known") from error
        if any(base.name == "dex" for base in unit.decompose().bases):  # magnitudes and decibels too
            raise ValueError(f"{text!r} mixes a logarithm with other units")
    return unit


def _word(word: str, shouted: bool) -> str:
    """A word of a unit as astropy spells it; headers in capitals mean m/s with M/S, not siemens."""
    if word.lower() in _WORDS and (shouted or word not in ("mJy", "k", "mpc")):
        return _WORDS[word.lower()]
    tries = (word.lower(), word) if shouted else (word, word.lower())
    for one in tries:
        try:
            units.Unit(one)
        except ValueError:
            continue
        return one
    raise ValueError(f"{word!r} is no unit that is known")


def _factor(name: str, unit: str | None, wanted: units.UnitBase, default: float, what: str) -> float:
    """One of a unit in another; `default` where none is written. Raises ValueError, `what` saying why."""
    if not (unit or "").strip():
        return default
    if wanted == units.km / units.s:  # in any case, with no blanks or dots between
        bare = re.sub(r"[\s.*^()]", "", str(unit).lower()).replace("sec", "s")
        unit = {"kms": "km/s", "kms-1": "km/s", "km/s": "km/s", "ms-1": "m/s", "m/s": "m/s"}.get(bare, unit)
    try:
        written = read_unit(unit)
        if written.log:
            raise ValueError(f"{unit!r} is a logarithm")
        return float(written.unit.to(wanted))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is in {unit!r}, {what}") from error


def kms(name: str, unit: str | None, key: str = "velocity_unit") -> float:
    """One of the unit of a map `name` in km/s; one where it has no unit. Raises ValueError for what is no velocity."""
    return _factor(
        name, unit, units.km / units.s, 1.0,
        f"which is no velocity: convert it to km/s (frequencies, wavelengths and logarithms too), or say {key}: km/s "
        "if that is what it is in",
    )  # fmt: skip


def inverse_variance(name: str, unit: str | None, default: float) -> float:
    """One of the unit of an inverse variance in (km/s)^-2; `default` where it has none. Raises ValueError."""
    return _factor(
        name, unit, (units.km / units.s) ** -2, default,
        "which is no inverse variance of a velocity: say velocity_error_unit: km/s if it is one in (km/s)^-2",
    )  # fmt: skip


def arcsec(name: str, unit: str | None, distance_mpc: float, pixel_arcsec: float | None) -> float:
    """One of the unit of a table's offsets in arcsec; one where they have none. Raises ValueError for others."""
    if not (unit or "").strip():
        return 1.0
    what = (
        "which is no offset on the sky: give arcsec, another angle, kpc or pixels, or say xy_unit: arcsec "
        "if that is what it is in"
    )
    try:
        written = read_unit(unit)
    except ValueError as error:
        raise ValueError(f"{name} is in {unit!r}, {what}") from error
    if written.unit.is_equivalent(units.pix):
        if pixel_arcsec is None:
            raise ValueError(f"{name} is in {unit!r}: give pixel_arcsec, the side of one on the sky")
        return float(written.unit.to(units.pix)) * pixel_arcsec
    if written.unit.is_equivalent(units.kpc):
        return float(written.unit.to(units.kpc)) / (distance_mpc * KPC_PER_ARCSEC_MPC)
    return _factor(name, unit, units.arcsec, 1.0, what)


#: What a map of another quantity is in.
_NO_DENSITY = {"a velocity": units.km / units.s, "a length": units.m, "an angle": units.deg, "a time": units.s,
               "a frequency": units.Hz, "a squared velocity": (units.km / units.s) ** 2}  # fmt: skip


@dataclass(frozen=True)
class Density:
    """Linear surface densities, how many Msun/kpc^2 one is where the unit tells, and how they were written."""

    value: np.ndarray
    msun_kpc2: float | None
    log: str
    unit: units.UnitBase


def read_density(
    name: str, value: np.ndarray, unit: str | None, side_arcsec: float, distance_mpc: float, bins: bool = False
) -> Density:
    """Surface densities of a map `name`; side_arcsec is the side of its pixels, for masses per pixel.

    Raises ValueError for other quantities, for units that are not known (they may be logarithms), and for a mass or
    luminosity per bin, since bins differ in area.
    """
    try:
        written = read_unit(unit)
    except ValueError as error:
        raise ValueError(
            f"density {name} is in {unit!r}: {error}; say density_unit, as density_unit: Msun/pc2, mag/arcsec2, "
            "dex, or arbitrary where it is proportional to light or mass per area"
        ) from error
    for what, other in _NO_DENSITY.items():
        if written.unit.is_equivalent(other):
            raise ValueError(
                f"density {name} is in {unit!r}, {what}: is that the right map? If the unit is wrong, say density_unit"
            )
    if bins and any(written.unit.is_equivalent(one) for one in (units.solMass, units.solLum)):
        raise ValueError(f"density {name} is in {unit!r}, of a bin as a whole: give it per area")
    zeros = np.count_nonzero(value == 0)
    if written.log and zeros > 1:
        raise ValueError(
            f"density {name} is in {unit!r}, and {zeros} of its values are zero, which is bright or dense in a "
            "logarithm: if zero means none, say blank: 0"
        )
    kpc = distance_mpc * KPC_PER_ARCSEC_MPC  # of an arcsec
    msun, pixel = None, (side_arcsec * kpc) ** 2
    for area, kpc2 in ((units.kpc**2, 1.0), (units.arcsec**2, kpc**2), (units.pix, pixel), (units.pix**2, pixel)):
        if written.log != "mag" and written.unit.is_equivalent(units.solMass / area):
            msun = float(written.unit.to(units.solMass / area)) / kpc2
    return Density(written.linear(value), msun, written.log, written.unit)
