"""Read units as headers and tables write them. An unknown unit raises ValueError, with a sentence that says why."""

import re
import warnings
from dataclasses import dataclass

import numpy as np
from astropy import units
from astropy.utils.exceptions import AstropyWarning

from kinmass.eval.observed.sky import KPC_PER_ARCSEC_MPC

#: Spellings in lower case -> astropy's: those it does not know, and units whose case headers in capitals have lost.
_SPELLINGS = {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s", "meters": "m", "kilometers": "km", "metre": "m",
    "metr": "m", "metres": "m", "kilometre": "km", "kilometres": "km",
    "k": "K", "jy": "Jy", "mjy": "MJy", "hz": "Hz",
    "msun": "solMass", "m_sun": "solMass", "msol": "solMass", "m_sol": "solMass", "msolar": "solMass",
    "solmass": "solMass", "lsun": "solLum", "l_sun": "solLum", "lsol": "solLum", "l_sol": "solLum", "sollum": "solLum",
    "spaxel": "pix", "spaxels": "pix", "spax": "pix", "pixel": "pix", "pixels": "pix", "px": "pix",
    "ang": "Angstrom", "angstrom": "Angstrom", "angstroms": "Angstrom", "counts": "ct", "count": "ct", "cts": "ct",
    "electrons": "electron", "photons": "photon", "dn": "DN", "ergs": "erg", "asec": "arcsec", "arcsecs": "arcsec",
    "arcsecond": "arcsec", "arcseconds": "arcsec", "arcmins": "arcmin", "arcminute": "arcmin", "arcminutes": "arcmin",
    "degree": "deg", "degrees": "deg", "sqarcsec": "(arcsec2)", "nanomaggy": "nmgy", "nanomaggies": "nmgy",
    "beams": "beam", "mpc": "Mpc", "atoms": "1", "atom": "1",
    "m_odot": "solMass", "m_solar": "solMass", "l_odot": "solLum", "l_solar": "solLum",
}  # fmt: skip
#: Kinds of logarithms, and how much log10 of a quantity grows where one of them grows by one.
LOGARITHMS = {"dex": 1.0, "mag": -0.4, "db": 0.1, "ln": float(np.log10(np.e))}
_NO_UNIT = (
    "", "1", "none", "arbitrary", "arb", "arb.", "relative", "dimensionless", "unitless", "n/a", "arbitrary units",
    "arb. units", "arb.units", "a.u.",
)  # fmt: skip
#: Seconds and minutes of arc as texts write them.
_MARKS = {'"': "arcsec", "''": "arcsec", "'": "arcmin"}
_MAGNITUDE = re.compile(
    r"(?<![a-z])(?:(?:AB|ST|Vega)[ _]?)?mag(?:s|nitudes?)?(?![a-z])(?:[ _]?\(?(?:AB|ST|Vega)\b\)?)?", re.I
)
_LOGARITHM = re.compile(r"(dex|log10|log|lg|ln|dB)(?:\s*[(\[]\s*(.*?)\s*[)\]]|\s+(.*))?", re.I)
_NUMBER = re.compile(
    r"10\s*(?:\*\*|\^)\s*\(?\s*([-+]?\d+)\s*\)?[\s.*]*|([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?=[\s*(/a-z])\s*\*?",
    re.I,
)
_POWER = re.compile(r"(1\s*/\s*)?\(([^()]+)\)(?:\s*(?:\^|\*\*)?\s*(-?\d+))?")


@dataclass(frozen=True)
class WrittenUnit:
    """The unit of a map's numbers; with log one of LOGARITHMS they are logarithms of something in that unit."""

    log: str
    unit: units.UnitBase

    def linear(self, value: np.ndarray) -> np.ndarray:
        """Return the values with the logarithm undone."""
        if not self.log:
            return value
        with np.errstate(over="ignore"):
            return np.asarray(10 ** (LOGARITHMS[self.log] * value))


def read_unit(text: str | None) -> WrittenUnit:
    """Read a unit as written in a header, a table or a YAML file. Raises ValueError for an unknown unit."""
    unit_text = _plain(text or "")
    if unit_text.lower() in _NO_UNIT:
        return WrittenUnit("", units.dimensionless_unscaled)
    if (logarithm := _LOGARITHM.fullmatch(unit_text)) is not None:
        inner = read_unit(logarithm[2] or logarithm[3])
        if inner.log:
            raise ValueError(f"unit {text!r} is a logarithm of a logarithm; convert the map")
        kind = logarithm[1].lower()
        return WrittenUnit(kind if kind in ("db", "ln") else "dex", inner.unit)
    if _MAGNITUDE.search(unit_text):
        area = re.sub(r"\bper\b", "/", _MAGNITUDE.sub(" ", unit_text)).replace("/ ", "/").strip()
        area = area.removesuffix(")") if area.count(")") > area.count("(") else area
        unit = _read_linear_unit(f"1{area}" if area.startswith("/") else area) if area else units.dimensionless_unscaled
        areas = (units.dimensionless_unscaled, units.arcsec**-2, units.pix**-1, units.pix**-2)
        if unit.scale != 1 or not any(unit.is_equivalent(allowed) for allowed in areas):
            raise ValueError(f"{text!r} is no surface brightness in magnitudes")
        return WrittenUnit("mag", unit)
    return WrittenUnit("", _read_linear_unit(unit_text))


def _plain(text: str) -> str:
    """Return a unit without quotes and TeX around it. Brackets stay: by the CDS' standard they are a logarithm."""
    without_tex = re.sub(r"\\(?:mathrm|rm|text)\b", "", text.strip().strip("'\"$"))
    spelled = re.sub(r"_?(?:\\odot|\u2299)", "sun", re.sub(r"[{}$]", "", without_tex))
    return re.sub(r"\\[,;: ]|~", " ", spelled).strip()


def name_and_unit(column: str) -> tuple[str, str | None]:
    """Return a column's name and the unit that it ends with in brackets, as in `V [km/s]` or `x (arcmin)`, or None.

    >>> name_and_unit("V [km/s]"), name_and_unit("V (stars)"), name_and_unit("V[2]")  # the last of a column of vectors
    (('V', 'km/s'), ('V (stars)', None), ('V[2]', None))
    """
    match = re.fullmatch(r"(.*?\S)\s*(?:\[([^\[\]]+)\]|\(([^()]+)\))\s*", column)
    text = (match[2] or match[3]) if match else ""
    try:
        is_unit = not (text.strip().isdigit() or text.strip().lower() in _NO_UNIT) and bool(read_unit(text))
    except ValueError:
        is_unit = False
    return (match[1], text) if match and is_unit else (column, None)


def _read_linear_unit(text: str) -> units.UnitBase:
    """Read a unit that is no logarithm, in astropy's spelling or another. Raises ValueError for an unknown unit."""
    if (power := _POWER.fullmatch(text)) is not None:  # (km/s)^-2
        return _read_linear_unit(power[2]) ** (int(power[3] or 1) * (-1 if power[1] else 1))
    scale = 1.0
    if (number := _NUMBER.match(text)) is not None:
        scale = 10.0 ** int(number[1]) if number[1] else float(number[2])
        text = text[number.end() :].strip()
        text = f"1{text}" if text.startswith("/") else text
    text = re.sub(r"/\s*b(?![a-z])", "/beam", text, flags=re.I)  # JY/B, as AIPS writes
    all_capitals = text == text.upper()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        astropy_text = re.sub(
            r"[A-Za-z_]+", lambda word: _astropy_spelling(word[0], all_capitals), text.replace("**", "^")
        )
        try:
            unit = units.Unit(scale * units.Unit(astropy_text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"unit {text!r} is not known; write it as astropy does, e.g. km/s") from error
        if any(base.name == "dex" for base in unit.decompose().bases):  # magnitudes and decibels too
            raise ValueError(f"unit {text!r} mixes a logarithm with other units; convert the map")
    return unit


def _astropy_spelling(word: str, all_capitals: bool) -> str:
    """Return a word of a unit as astropy spells it; a header in all capitals means m/s with M/S, not siemens.

    Raises ValueError for an unknown word.
    """
    if word.lower() in _SPELLINGS and (all_capitals or word not in ("mJy", "k", "mpc")):
        return _SPELLINGS[word.lower()]
    spellings = (word.lower(), word) if all_capitals else (word, word.lower())
    for spelling in spellings:
        try:
            units.Unit(spelling)
        except ValueError:
            continue
        return spelling
    raise ValueError(f"unit {word!r} is not known; write it as astropy does, e.g. km/s")


def _conversion_factor(name: str, unit: str | None, target_unit: units.UnitBase, reason: str) -> float:
    """Return how many target units one `unit` is, 1 where no unit is written.

    Raises ValueError with `reason` where the unit of the map `name` is unknown, a logarithm or of another quantity.
    """
    if not (unit or "").strip():
        return 1.0
    unit = _plain(str(unit))
    if target_unit == units.km / units.s:  # in upper or lower case, with or without blanks, dots, powers
        compact = re.sub(r"[\s.*^()]", "", str(unit).lower()).replace("sec", "s")
        unit = {"kms": "km/s", "kms-1": "km/s", "km/s": "km/s", "ms-1": "m/s", "m/s": "m/s"}.get(compact, unit)
    try:
        written = read_unit(unit)
        if written.log:
            raise ValueError(f"{unit!r} is a logarithm")
        return float(written.unit.to(target_unit))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is in {unit!r}, {reason}") from error


def kms_per_unit(name: str, unit: str | None, key: str | None = "velocity_unit") -> float:
    """Return how many km/s one unit of a map `name` is, 1 where it has no unit.

    Raises ValueError for a unit that is no velocity; the message names `key`, the YAML key to set, if there is one.
    """
    instead = f"say {key}: km/s if that is what it is in" if key else "mend the unit in its file"
    return _conversion_factor(
        name, unit, units.km / units.s,
        f"which is no velocity: convert it to km/s (frequencies, wavelengths and logarithms too), or {instead}",
    )  # fmt: skip


def is_no_unit(unit: str | None) -> bool:
    """Whether no unit is written, or none that is known: it may be any."""
    try:
        written = read_unit(unit)
    except ValueError:
        return True
    return not written.log and written.unit == units.dimensionless_unscaled


def factor_to(target_unit: units.UnitBase, unit: str | None) -> float | None:
    """Return how many target units one unit is, None where it is a logarithm, of another quantity, or not known."""
    try:
        written = read_unit(unit)
        return None if written.log else float(written.unit.to(target_unit))
    except (ValueError, TypeError):
        return None


def kms2_per_unit(unit: str | None) -> float | None:
    """Return how many (km/s)^2 one unit is, None for other units: second moments and errors are often variances."""
    return factor_to((units.km / units.s) ** 2, unit)


def kms2_per_inverse_square(unit: str | None) -> float | None:
    """Return how many (km/s)^2 one over the root of a unit is, as of a variance's inverse variance; None for others."""
    factor = factor_to((units.km / units.s) ** -4, unit)
    return None if factor is None else factor**-0.5


def is_inverse_variance(unit: str | None) -> bool:
    """Whether a unit is that of an inverse variance of a velocity."""
    return factor_to((units.km / units.s) ** -2, unit) is not None


def inverse_variance_per_unit(name: str, unit: str | None) -> float:
    """Return how many (km/s)^-2 one unit of an inverse variance is, 1 where it has no unit.

    Raises ValueError for a unit that is no inverse variance of a velocity.
    """
    return _conversion_factor(
        name, unit, (units.km / units.s) ** -2,
        "which is no inverse variance of a velocity: say velocity_error_unit: km/s if it is one in (km/s)^-2",
    )  # fmt: skip


def arcsec_per_unit(name: str, unit: str | None, distance_mpc: float, pixel_arcsec: float | None) -> float:
    """Return how many arcsec one unit of a table's offsets is, 1 where they have no unit.

    Raises ValueError for a unit that is neither an angle, a length nor pixels, and for pixels without pixel_arcsec.
    """
    unit = _MARKS.get((unit or "").strip(), unit)
    if not (unit or "").strip():
        return 1.0
    reason = (
        "which is no offset on the sky: give arcsec, another angle, kpc or pixels, or say xy_unit: arcsec "
        "if that is what it is in"
    )
    try:
        written = read_unit(unit)
    except ValueError as error:
        raise ValueError(f"{name} is in {unit!r}, {reason}") from error
    if written.unit.is_equivalent(units.pix):
        if pixel_arcsec is None:
            raise ValueError(f"{name} is in {unit!r}: give pixel_arcsec, the side of one on the sky")
        return float(written.unit.to(units.pix)) * pixel_arcsec
    if written.unit.is_equivalent(units.kpc):
        return float(written.unit.to(units.kpc)) / (distance_mpc * KPC_PER_ARCSEC_MPC)
    return _conversion_factor(name, unit, units.arcsec, reason)


#: Quantities that are often given in place of a density, and a unit of each.
_OTHER_QUANTITIES = {"a velocity": units.km / units.s, "a length": units.m, "an angle": units.deg, "a time": units.s,
               "a frequency": units.Hz, "a squared velocity": (units.km / units.s) ** 2}  # fmt: skip


@dataclass(frozen=True)
class Density:
    """Surface densities of a map, and the unit that they were written in."""

    value: np.ndarray  # linear, also where a logarithm was written
    msun_kpc2: float | None  # how many Msun/kpc^2 a value of one is, None where the unit does not tell
    log: str  # as in WrittenUnit
    unit: units.UnitBase


def is_mass_per_pixel(density: Density) -> bool:
    """Whether a density was written as mass per pixel."""
    is_mass = (density.unit.is_equivalent(units.solMass / area) for area in (units.pix, units.pix**2))
    return density.log != "mag" and any(is_mass)


def read_density(
    name: str, value: np.ndarray, unit: str | None, side_arcsec: float | None, distance_mpc: float, bins: bool = False
) -> Density:
    """Turn a map `name` in a unit into linear surface densities; side_arcsec is the side of its pixels, if known.

    bins: the values belong to bins, which differ in area. Raises ValueError for other quantities, for unknown units
    (which may be logarithms), for a mass or luminosity per bin, and for several zeros in a logarithm.
    """
    try:
        written = read_unit(unit)
    except ValueError as error:
        raise ValueError(
            f"density {name} is in {unit!r}: {error}; say density_unit, as density_unit: Msun/pc2, mag/arcsec2, "
            "dex, or arbitrary where it is proportional to light or mass per area"
        ) from error
    for quantity, quantity_unit in _OTHER_QUANTITIES.items():
        if written.unit.is_equivalent(quantity_unit):
            raise ValueError(
                f"density {name} is in {unit!r}, {quantity}: is that the right map? If the unit is wrong, say "
                "density_unit"
            )
    if bins and any(written.unit.is_equivalent(bin_total_unit) for bin_total_unit in (units.solMass, units.solLum)):
        raise ValueError(f"density {name} is in {unit!r}, of a bin as a whole: give it per area")
    n_zeros = np.count_nonzero(value == 0)
    if written.log and n_zeros > 1:
        raise ValueError(
            f"density {name} is in {unit!r}, and {n_zeros} of its values are zero, which is bright or dense in a "
            "logarithm: if zero means none, say blank: 0"
        )
    kpc_per_arcsec = distance_mpc * KPC_PER_ARCSEC_MPC
    msun_kpc2_per_unit, pixel_kpc2 = None, None if side_arcsec is None else (side_arcsec * kpc_per_arcsec) ** 2
    for area, area_kpc2 in (
        (units.kpc**2, 1.0),
        (units.arcsec**2, kpc_per_arcsec**2),
        (units.pix, pixel_kpc2),
        (units.pix**2, pixel_kpc2),
    ):
        if area_kpc2 is not None and written.log != "mag" and written.unit.is_equivalent(units.solMass / area):
            msun_kpc2_per_unit = float(written.unit.to(units.solMass / area)) / area_kpc2
    return Density(written.linear(value), msun_kpc2_per_unit, written.log, written.unit)
