"""Hold what names of maps say against the keys that they are given for: widths, errors, inverse squares, logarithms."""

import re
from collections.abc import Collection
from pathlib import PurePath

from kinmass.eval.observed.galaxy_file import TracerFiles

_FULL_WIDTH = re.compile(r"fwhm|(?<![a-z])w_?50(?![0-9])")
#: Widths that hold 80 % of the flux, or at a fifth of the peak: neither sigma nor a full width at half maximum.
_OTHER_WIDTH = re.compile(r"(?<![a-z])w_?(?:20|80|90|95)(?![0-9])")
#: What names say of the tracer.
_OF_TRACERS = {
    "stars": re.compile(r"stellar|(?<![a-z])stars?(?![a-z])"),
    "gas": re.compile(r"emline|(?<![a-z])(?:gas|h_?alpha|ha|hi|co|oiii)(?![a-z])"),
}
_SIGMA = re.compile(r"sig|disp")
_INVERSE = re.compile(r"ivar|inv")
#: What surveys call an instrument's own width: EMLINE_INSTSIGMA, STELLAR_SIGMACORR (MaNGA), HA6562_SIGMA_CORR (PHANGS).
_INSTRUMENTS = re.compile(
    r"inst(?:r|rument(?:al)?)?_?(?:sig|disp|fwhm)|(?:sig(?:ma)?|disp|fwhm)_?(?:inst|corr?(?![a-z]))|lsf"
)
#: Errors as tables of surveys call them: e_V by the CDS' standard, EVPXF and DVPXF, emom1, evcen, eew.
_SHORT_ERROR = r"(?<![a-z])(?:e_(?=[a-z])|e(?:mom|vcen|vel|sig|disp|fwhm|ew)(?=[\d_.]|$)|[ed](?:vpxf|spxf)(?![a-z]))"
_ERROR = re.compile(rf"err|std|unc|{_SHORT_ERROR}")
_VARIANCE = re.compile(r"(?<![a-z])var(?:iance)?(?![a-z])")
#: Of a map that is no error, this says that it is one.
_CALLED_ERROR = re.compile(
    rf"(?<![a-z])(?:e|d)?(?:errors?|err|ivar|uncertainty|unc)(?![a-z])|(?:vel|sig|sigma|disp|flux)err|{_SHORT_ERROR}"
)
#: A map that is called so holds logarithms.
_LOGARITHM = re.compile(r"(?<![a-z])(?:log|(?:lg|ln|dex|mags?)(?![a-z]))")
#: A column of places that is called so counts pixels, unless its name has an angle too.
_PIXELS, _ANGLE = re.compile(r"pix|spaxel"), re.compile(r"arc|sec|deg")
#: Keys of maps that are no errors, and those of their units.
_UNIT_KEYS = {"velocity": "velocity_unit", "dispersion": "dispersion_unit", "density": "density_unit"}
#: Keys of which no two can be one map.
_DIFFERENT = ("velocity", "dispersion", "density", "velocity_error", "velocity_ivar")


def refuse_contradictions(files: TracerFiles) -> None:
    """Raise ValueError where two keys have one map, or where a map's name says that it is something else."""
    maps = {key: name for key in _DIFFERENT if (name := getattr(files, key)) is not None}
    for key, name in maps.items():
        for other, other_name in maps.items():
            if key < other and name == other_name:
                raise ValueError(f"{key} and {other} are one map, {name}: give a file, extension or column for each")
    for key in _UNIT_KEYS:
        if (name := getattr(files, key)) is not None:
            refuse_error_for(files, key, _told(name))
    called = {key: _told(name) for key in ("dispersion", *_errors()) if (name := getattr(files, key)) is not None}
    width = called.get("dispersion", "")
    if "dispersion_is" not in files.model_fields_set and _FULL_WIDTH.search(width) and not _SIGMA.search(width):
        raise ValueError(
            f"dispersion {files.dispersion} is called a full width at half maximum: say dispersion_is: fwhm, or "
            "dispersion_is: sigma if it holds sigma"
        )
    if "dispersion_is" not in files.model_fields_set and _OTHER_WIDTH.search(width):
        raise ValueError(
            f"dispersion {files.dispersion} is called a width that is neither sigma nor a full width at half maximum: "
            "convert it (of a Gaussian W80 is 2.563 sigma, W20 3.588 sigma), and say dispersion_is: sigma"
        )
    if files.dispersion_unit is None and _LOGARITHM.search(width):
        raise ValueError(
            f"dispersion {files.dispersion} is called a logarithm: give it in km/s, or say dispersion_unit if it is"
        )
    if files.instrument_sigma is not None and _FULL_WIDTH.search(_told(files.instrument_sigma)):
        raise ValueError(
            f"instrument_sigma {files.instrument_sigma} is called a full width at half maximum: give sigma, 1 / 2.355 "
            "of it, as a map of another name"
        )
    if files.velocity_error_unit is None:
        for key in _errors():
            _refuse_error(key, getattr(files, key), called.get(key, ""))


def refuse_forgotten_width(files: TracerFiles, beside: Collection[str]) -> None:
    """Raise ValueError where a dispersion stands beside its instrument's width, by that map's name, which no key says.

    beside: names of the other maps in its file, its columns or its extensions. Those are of this dispersion whose first
    word is its own, or that begin with the instrument.
    """
    said = {"instrument_sigma", "instrument_sigma_kms"} & files.model_fields_set
    if files.dispersion is None or said or _INSTRUMENTS.search(own := _told(files.dispersion).rsplit("/", 1)[-1]):
        return
    for name in beside:
        called = name.lower()
        found = _INSTRUMENTS.search(called)
        if found and (found.start() == 0 or re.split(r"[_\W]", called)[0] == re.split(r"[_\W]", own)[0]):
            raise ValueError(
                f"dispersion {files.dispersion} stands beside {name}, by its name the width of the instrument, which "
                "the dispersion may hold: say instrument_sigma, that map, or instrument_sigma_kms: 0 where it was "
                "taken out before"
            )


def refuse_error_for(files: TracerFiles, key: str, called: str) -> None:
    """Raise ValueError where a velocity, dispersion or density is called an error, and its unit was not said."""
    unit_key = _UNIT_KEYS.get(key)
    if unit_key is not None and getattr(files, unit_key) is None and _CALLED_ERROR.search(called.lower()):
        raise ValueError(
            f"{key} {getattr(files, key)} is called an error ({called}): give the map itself; if it is, say "
            f"{unit_key}, its unit"
        )


def of_other_tracer(files: TracerFiles, tracer: str) -> list[str]:
    """Return a remark where the velocity of the gas is called one of stars, or the reverse."""
    other = "gas" if tracer == "stars" else "stars"
    told = _told(files.velocity)
    if _OF_TRACERS[tracer].search(told) or not _OF_TRACERS[other].search(told):
        return []
    return [f"The velocity of the {tracer}, {files.velocity}, is called one of {other}: is it the right map?"]


def is_called_pixels(column: str) -> bool:
    """Whether a column of places counts pixels by its name, as `x_pix`."""
    return bool(_PIXELS.search(column.lower())) and not _ANGLE.search(column.lower())


def refuse_logarithm(files: TracerFiles, is_logarithm: bool) -> None:
    """Raise ValueError where a density is called a logarithm or a magnitude, and the unit in its file is of none."""
    name = files.density
    if name is not None and files.density_unit is None and not is_logarithm and _LOGARITHM.search(_told(name)):
        raise ValueError(
            f"density {name} is called a logarithm or a magnitude, and its file does not say so: say density_unit, as "
            "dex, ln, dex(Msun/pc2) or mag/arcsec2, or arbitrary where it is proportional to light or mass per area"
        )


def _errors() -> tuple[str, ...]:
    return "velocity_error", "dispersion_error", "velocity_ivar", "dispersion_ivar"


def _refuse_error(key: str, name: str | None, told: str) -> None:
    """Raise ValueError where the name of an error says inverse variance or variance, or the reverse."""
    what, kind = key.split("_")
    words = None
    if kind == "error" and _INVERSE.search(told):
        words = f"an inverse variance: say {what}_ivar"
    elif kind == "error" and _VARIANCE.search(told):
        words = f"a variance: give its root, or its inverse as {what}_ivar"
    elif kind == "ivar" and _ERROR.search(told) and not _INVERSE.search(told):
        words = f"an error: say {what}_error"
    if words:
        raise ValueError(
            f"{key} {name} is called {words}; if the key is right say velocity_error_unit, the unit of the error"
        )


def _told(name: str) -> str:
    """Return in lower case what a map's name says: its extension, its column, or the file without folders."""
    match = re.fullmatch(r"(.+?)\[([^\],]+)(?:,[^\]]*)?\]", name)
    file, extension = (match[1], match[2]) if match else (name, "")
    return (PurePath(file).name if extension.isdigit() or not extension else extension).lower()
