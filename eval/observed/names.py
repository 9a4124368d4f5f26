"""Hold what names of maps say against the keys that they are given for: widths, errors, inverse squares, logarithms."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations
from pathlib import PurePath

import numpy as np

from kinmass.eval.observed.galaxy_file import TracerFiles

_FULL_WIDTH = re.compile(r"fwhm|full_?width|(?<![a-z])w_?50(?![0-9])")
#: Widths that hold 80 % of the flux, or at a fifth of the peak, half widths, and Doppler widths, as bettermoments
#: writes them (dV, and gdV, gtdV, ... of fits): neither sigma nor a full width at half maximum.
_OTHER_WIDTH = re.compile(r"(?<![a-z])(?:w_?(?:20|80|90|95)(?![0-9])|g?[gth]?dvb?(?![a-z\d]))|doppler|hwhm")
#: What names say of the tracer.
_OF_TRACERS = {
    "stars": re.compile(r"stellar|(?<![a-z])stars?(?![a-z])"),
    "gas": re.compile(r"emline|(?<![a-z])(?:gas|h_?alpha|ha|hi|co|oiii)(?![a-z])"),
}
#: A map of sigma may have a beam in its name, as `sigma_fwhm2.5.fits`. Dispersions are called so whatever their width.
_SIGMA = re.compile(r"sig")
_INVERSE = re.compile(r"ivar|inv|(?<![a-z])(?:weights?|wht|wgt)(?![a-z])")
#: What surveys call an instrument's own width: EMLINE_INSTSIGMA, STELLAR_SIGMACORR (MaNGA), HA6562_SIGMA_CORR (PHANGS).
_INSTRUMENTS = re.compile(
    r"inst(?:r|rument(?:al)?)?_?(?:sig|disp|fwhm)|(?:sig(?:ma)?|disp(?:ersion)?|fwhm)_?(?:inst|corr?(?![a-z]))|lsf"
)
#: Errors as tables of surveys call them: e_V by the CDS' standard, EVPXF and DVPXF, emom1, evcen, eew.
_SHORT_ERROR = r"(?<![a-z])(?:e_(?=[a-z])|e(?:mom|vcen|vel|sig|disp|fwhm|ew)(?=[\d_.]|$)|[ed](?:vpxf|spxf)(?![a-z]))"
_ERROR = re.compile(rf"err|std|unc|{_SHORT_ERROR}")
#: What astropy's CCDData calls errors, variances and inverse variances alike: its header says which.
_ANY_KIND = "uncert"
#: STAT is that of ESO's files and of mpdaf, which are variances.
_VARIANCE = re.compile(
    r"(?<![a-z])(?:(?:vel|sig|sigma|disp)?var(?:iances?|map)?|stat|sq|squared?)(?![a-z])|(?:\^|\*\*)2(?!\d)"
)
#: Of a map that is no error, this says that it is one.
_CALLED_ERROR = re.compile(
    r"(?<![a-z])(?:e|d)?(?:errors?|err|ivar|uncertainty|unc)(?![a-z])"
    rf"|(?:vel|sig|sigma|disp|flux)err|(?<![a-z])verr(?:or)?(?![a-z])|{_SHORT_ERROR}"
)
#: Extensions and arrays that any map may be in, whose file is called what it is (mpdaf, HST and JWST, numpy).
_ANY_MAP = ("data", "sci", "primary", "image", "arr_0")
#: A map that is called so holds logarithms.
_LOGARITHM = re.compile(r"(?<![a-z])(?:log|(?:lg|ln|dex|mags?)(?![a-z]))")
#: A column of places that is called so counts pixels, unless its name has an angle too.
_PIXELS, _ANGLE = re.compile(r"pix|spaxel"), re.compile(r"arc|sec|deg")
#: Or it is in another unit than arcsec, R_e for one, which is none of the sky.
_PLACES = re.compile(r"(kpc|arcmin|deg|(?<![a-z])(?:pc|mas|rad|r_?e)(?![a-z]))")
#: Keys of maps that are no errors, and those of their units.
_UNIT_KEYS = {"velocity": "velocity_unit", "dispersion": "dispersion_unit", "density": "density_unit"}
_ERRORS = ("velocity_error", "dispersion_error", "velocity_ivar", "dispersion_ivar")
#: Keys of which no two can be one map, but for the errors of V and of sigma.
_DIFFERENT = ("velocity", "dispersion", "density", "instrument_sigma", *_ERRORS)


def refuse_contradictions(files: TracerFiles) -> None:
    """Raise ValueError where two keys have one map, or where a map's name says that it is something else."""
    names = {key: name for key in _DIFFERENT if (name := getattr(files, key)) is not None}
    _refuse_one_map(files, lambda key, other: names.get(key) is not None and names.get(key) == names.get(other))
    keys = (*_UNIT_KEYS, "instrument_sigma")
    refuse_misnomers(files, {key: [_told(files, key)] for key in keys if getattr(files, key) is not None})


def refuse_one_map(files: TracerFiles, values: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError where two keys have one map by its numbers {key: as read}, as where it is named in two ways.

    So are FILE and FILE[0], or a plane by its name and by its number. A number that is the same everywhere may be that
    of two maps.
    """
    varying = {key: value for key, value in values.items() if len(np.unique(value[np.isfinite(value)])) > 1}
    _refuse_one_map(
        files,
        lambda key, other: (
            key in varying and other in varying and np.array_equal(varying[key], varying[other], equal_nan=True)
        ),
    )


def _refuse_one_map(files: TracerFiles, are_one: Callable[[str, str], bool]) -> None:
    """Raise ValueError for the first two keys that are one map."""
    for key, other in combinations(_DIFFERENT, 2):
        if not {key, other} <= set(_ERRORS) and are_one(key, other):
            name, other_name = getattr(files, key), getattr(files, other)
            called = name if name == other_name else f"{name} and {other_name}"
            raise ValueError(f"{key} and {other} are one map, {called}: give a file, extension or column for each")


def refuse_misnomers(files: TracerFiles, called: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError where one of the names that a map has {key: names} says that it is something else than its key.

    They are in the YAML file, or in the map's own: what a header calls an extension, or a plane, given by its number.
    """
    for key, names in called.items():
        for name in names:
            if key in _UNIT_KEYS:
                _refuse_error_for(files, key, name)
            if key in ("dispersion", "instrument_sigma"):
                _refuse_width(files, key, name)


def refuse_misnamed_errors(
    files: TracerFiles, called: Mapping[str, Sequence[str]], variances: Collection[str] = ()
) -> None:
    """Raise ValueError where the name of an error says another kind of it than its key, as a variance.

    called {key: names} is what the maps' own files call them, variances the keys of errors that these say to be
    variances, of which the root is taken. Not where the key of the unit of errors is said.
    """
    for key in _ERRORS if files.velocity_error_unit is None else ():
        if getattr(files, key) is not None:
            for name in (_told(files, key), *called.get(key, ())):
                _refuse_error(files, key, name, key in variances)


def refuse_variance(files: TracerFiles, called: Sequence[str], is_squared: bool) -> None:
    """Raise ValueError where a dispersion is called a variance and neither its file (is_squared) nor its key says so.

    called: what its file calls it, besides the YAML file's name of it.
    """
    if files.dispersion is None or is_squared or files.dispersion_unit is not None:
        return
    for name in (_told(files, "dispersion"), *called):
        if is_called_variance(name):
            raise ValueError(
                f"{_named(files, 'dispersion', name)} is called a variance, and its file does not say so: say "
                "dispersion_unit: km2/s2, or km/s if it holds sigma"
            )


def is_called_variance(name: str) -> bool:
    """Whether a map's name says that it holds a variance."""
    return bool(_VARIANCE.search(name.lower())) and not _INVERSE.search(name.lower())


def _refuse_width(files: TracerFiles, key: str, called: str) -> None:
    """Raise ValueError where a dispersion, or the instrument's, is called another width, or a logarithm."""
    told, named = called.lower(), _named(files, key, called)
    if key == "instrument_sigma":
        if _FULL_WIDTH.search(told):
            raise ValueError(
                f"{named} is called a full width at half maximum: give sigma, 1 / 2.355 of it, as a map of another name"
            )
        return
    if "dispersion_is" not in files.model_fields_set and _FULL_WIDTH.search(told) and not _SIGMA.search(told):
        raise ValueError(
            f"{named} is called a full width at half maximum: say dispersion_is: fwhm, or dispersion_is: sigma if it "
            "holds sigma"
        )
    if "dispersion_is" not in files.model_fields_set and _OTHER_WIDTH.search(told):
        raise ValueError(
            f"{named} is called a width that is neither sigma nor a full width at half maximum: convert it (of a "
            "Gaussian W80 is 2.563 sigma, W20 3.588 sigma, the half width HWHM 1.177 sigma, the Doppler width dV "
            "1.414 sigma), and say dispersion_is: sigma"
        )
    if files.dispersion_unit is None and _LOGARITHM.search(told):
        raise ValueError(f"{named} is called a logarithm: give it in km/s, or say dispersion_unit if it is")


def refuse_forgotten_width(files: TracerFiles, beside: Collection[str], called: Sequence[str]) -> None:
    """Raise ValueError where a dispersion stands beside its instrument's width, by that map's name, which no key says.

    beside: names of the other maps in its file, its columns, extensions or planes. Those are of this dispersion whose
    first word is one of its own names', or that begin with the instrument. called: what its file calls the dispersion.
    """
    said = {"instrument_sigma", "instrument_sigma_kms"} & files.model_fields_set
    if files.dispersion is None or said:
        return
    own = [_underscored(name.rsplit("/", 1)[-1]) for name in called or [_told(files, "dispersion")]]
    if any(map(_INSTRUMENTS.search, own)):
        return
    first_words = {name.split("_")[0] for name in own}
    for name in beside:
        other = _underscored(name)
        found = _INSTRUMENTS.search(other)
        if found and (found.start() == 0 or other.split("_")[0] in first_words):
            raise ValueError(
                f"dispersion {files.dispersion} stands beside {name}, by its name the width of the instrument, which "
                "the dispersion may hold: say instrument_sigma, that map, or instrument_sigma_kms: 0 where it was "
                "taken out before"
            )


def _underscored(name: str) -> str:
    """Return a name in lower case with underscores between its words."""
    return re.sub(r"\W+", "_", name.lower())


def _refuse_error_for(files: TracerFiles, key: str, called: str) -> None:
    """Raise ValueError where a velocity, dispersion or density is called an error, and its unit was not said."""
    unit_key = _UNIT_KEYS[key]
    if getattr(files, unit_key) is None and _CALLED_ERROR.search(called.lower()):
        raise ValueError(
            f"{key} {getattr(files, key)} is called an error ({called}): give the map itself; if it is, say "
            f"{unit_key}, its unit"
        )


def of_other_tracer(files: TracerFiles, tracer: str, called: Sequence[str]) -> list[str]:
    """Return a remark where the velocity of the gas is called one of stars, or the reverse; `called` by its file."""
    other = "gas" if tracer == "stars" else "stars"
    told = " ".join([_told(files, "velocity"), *called]).lower()
    if _OF_TRACERS[tracer].search(told) or not _OF_TRACERS[other].search(told):
        return []
    title = _named(files, "velocity", " ".join(called)).removeprefix("velocity ")
    return [f"The velocity of the {tracer}, {title}, is called one of {other}: is it the right map?"]


def is_called_pixels(column: str) -> bool:
    """Whether a column of places counts pixels by its name, as `x_pix`."""
    return bool(_PIXELS.search(column.lower())) and not _ANGLE.search(column.lower())


def is_called_galactic(x: str, y: str) -> bool:
    """Whether columns of places are galactic longitude and latitude by their names, as GLON and GLAT or `sky.l`."""
    return (x.lower().rsplit(".", 1)[-1], y.lower().rsplit(".", 1)[-1]) in (("glon", "glat"), ("l", "b"))


def unit_in_words(column: str) -> str | None:
    """Return the unit other than arcsec that the name of a column of places says, as `x_kpc`, None without one."""
    found = _PLACES.search(column.lower())
    return None if found is None or "arcsec" in column.lower() else found[1]


def refuse_logarithm(files: TracerFiles, is_logarithm: bool, called: Sequence[str]) -> None:
    """Raise ValueError where a density is called a logarithm or a magnitude, and the unit in its file is of none.

    called: what its file calls it, besides the YAML file's name of it.
    """
    if files.density is None or files.density_unit is not None or is_logarithm:
        return
    for name in (_told(files, "density"), *called):
        if _LOGARITHM.search(name.lower()):
            raise ValueError(
                f"{_named(files, 'density', name)} is called a logarithm or a magnitude, and its file does not say so: "
                "say density_unit, as dex, ln, dex(Msun/pc2) or mag/arcsec2, or arbitrary where it is proportional to "
                "light or mass per area"
            )


def _refuse_error(files: TracerFiles, key: str, called: str, is_variance: bool) -> None:
    """Raise ValueError where the name of an error says inverse variance or variance, or the reverse.

    is_variance: its file says that it is one.
    """
    (what, kind), told = key.split("_"), called.lower()
    words = None
    if kind == "error" and _INVERSE.search(told):
        words = f"an inverse variance: say {what}_ivar"
    elif is_called_variance(told) and not (kind == "error" and is_variance):
        words = f"a variance: give its root, or its inverse as {what}_ivar"
        words = f"a variance: give one over it, or its root as {what}_error" if kind == "ivar" else words
    elif kind == "ivar" and _ERROR.search(told) and not _INVERSE.search(told) and told != _ANY_KIND:
        words = f"an error: say {what}_error"
    if words:
        raise ValueError(
            f"{_named(files, key, called)} is called {words}; if the key is right say velocity_error_unit, the unit of "
            "the error"
        )


def _named(files: TracerFiles, key: str, called: str) -> str:
    """Return a key and its map, for a sentence, with what its file calls it where the map's name does not say it."""
    name = str(getattr(files, key))
    return f"{key} {name}" + (f" ({called})" if called.lower() not in name.lower() else "")


def _told(files: TracerFiles, key: str) -> str:
    """Return in lower case what a map's name says: its extension, its column, or the file without folders.

    Of an extension that may hold any map it is the file, too. Brackets after the name of a column hold an element of a
    vector, or a unit.
    """
    name = str(getattr(files, key))
    match = re.fullmatch(r"(.+?)\[([^\],]+)(?:,[^\]]*)?\]", name)
    file, extension = (match[1], match[2]) if match else (name, "")
    if files.table is not None or (files.bins is not None and not PurePath(file).suffix):
        return file.lower()
    is_any = extension.isdigit() or extension.lower() in ("", *_ANY_MAP)
    return (PurePath(file).name if is_any else extension).lower()
