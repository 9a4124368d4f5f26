"""Read the maps of one tracer of an observed galaxy, of any unit and grid, as they stand in its files."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from astropy import units
from astropy.io import fits

from kinmass.eval.observed.fits_maps import Bins, blank_to_nan, columns, image, text_columns
from kinmass.eval.observed.fits_units import (
    Density,
    inverse_variance_per_unit,
    is_inverse_variance,
    is_mass_per_pixel,
    is_no_unit,
    kms2_per_inverse_square,
    kms2_per_unit,
    kms_per_unit,
    read_density,
    read_unit,
)
from kinmass.eval.observed.frequencies import to_velocities
from kinmass.eval.observed.galaxy_file import GalaxyFile, TracerFiles
from kinmass.eval.observed.grids import (
    Grid,
    Resampling,
    first_of_each_place,
    lie_one_apart,
    onto_one_grid,
    spaxel_side,
    tiled,
)
from kinmass.eval.observed.kinds import is_variance, of_other_sense, refuse_other_kind, root_of_variance
from kinmass.eval.observed.names import refuse_misnamed_errors, refuse_misnomers, refuse_one_map, refuse_variance
from kinmass.eval.observed.offsets import parts_of_pixel, pixel_offsets, row_offsets, side_arcsec_of
from kinmass.eval.observed.plain_tables import Columns
from kinmass.eval.observed.redshifts import convention_in

_MAPS = (
    "velocity", "density", "dispersion", "mask", "velocity_error", "velocity_ivar", "dispersion_error",
    "dispersion_ivar", "instrument_sigma",
)  # fmt: skip
IVARS, ERRORS = ("velocity_ivar", "dispersion_ivar"), ("velocity_error", "dispersion_error")


#: What tells where pixels lie: coordinates on the sky, numbers of pixels, or offsets from the centre.
Places = Literal["sky", "pixels", "offsets"]


@dataclass
class TracerMaps:
    """Maps of one tracer as read: values {key: (n,) or (Y, X)}, NaN where blank, and the offsets of their pixels.

    Velocities and widths are in km/s, densities linear in the unit that `density` tells. remarks are for the reader,
    doubts speak against what follows from the maps.
    """

    values: dict[str, np.ndarray]
    x_arcsec: np.ndarray
    y_arcsec: np.ndarray
    side_arcsec: float
    density: Density
    remarks: list[str] = field(default_factory=list)
    convention: str | None = None  # of V, where its unit, a frequency, tells it
    told_convention: tuple[str, str] | None = None  # of V, as its header has it, and the card
    doubts: list[str] = field(default_factory=list)
    called: dict[str, list[str]] = field(default_factory=dict)  # what the files of images call them {key: names}
    places: Places = "offsets"


def read_maps(files: TracerFiles, folder: Path, galaxy_file: GalaxyFile) -> TracerMaps:
    """Read the maps of a tracer, images or columns of a table. Raises as `tracer.read_tracer`."""
    return (_read_table if files.table is not None else _read_images)(files, folder, galaxy_file)


def _without_blanks(files: TracerFiles, value: np.ndarray) -> np.ndarray:
    for blank in [files.blank] if isinstance(files.blank, float) else files.blank or []:
        value = blank_to_nan(value, blank)
    return value


def _in_kms(files: TracerFiles, key: str, value: np.ndarray, units_of_files: dict[str, str | None]) -> np.ndarray:
    """Convert a map as read: blanks become NaN; velocities, dispersions and errors are in km/s, or (km/s)^-2.

    Errors of a dispersion that is a variance stay those of its square, in (km/s)^2 or (km/s)^-4, for `_errors_of_root`.
    units_of_files {key: unit} are those that the files of the maps tell.
    """
    if key.startswith("mask") and files.mask_is == "good":
        return np.where(value > 0, 0.0, 1.0)
    if key.startswith("mask") or key == "bin":
        return value  # a zero of these is a value, even where `blank` is zero
    value = _without_blanks(files, value)
    name = getattr(files, key)
    if key == "density":
        return value
    if key == "velocity":
        return value * kms_per_unit(name, files.velocity_unit or units_of_files[key])
    own_key, (unit, is_of_key) = _own_unit_key(files, key), _unit_of_width(files, key, units_of_files)
    if (of_square := _kms2_of_error(files, key, units_of_files)) is not None:
        return value * of_square ** (-2 if key in IVARS else 1)
    if key in IVARS:
        return value * (kms_per_unit(name, unit) ** -2 if is_of_key else inverse_variance_per_unit(name, unit))
    # A variance, as a moment of second order is, or the square of an error.
    is_square = key == "velocity_error" or (key == "dispersion" and _is_variance(files, units_of_files))
    if is_square and (squared := kms2_per_unit(unit)) is not None:
        return np.sqrt(np.where(value >= 0, value * squared, np.nan))
    if key == "instrument_sigma" and is_of_key and (squared := kms2_per_unit(unit)) is not None:
        return value * np.sqrt(squared)  # the unit of a variance, the dispersion's
    if key in ERRORS and not is_of_key and is_inverse_variance(unit):
        raise ValueError(f"{key} {name} is in {unit!r}: say {key.removesuffix('_error')}_ivar, an inverse variance")
    return value * kms_per_unit(name, unit, own_key)


def _is_variance(files: TracerFiles, units_of_files: dict[str, str | None]) -> bool:
    """Whether the dispersion is a variance by its unit."""
    unit, _ = _unit_of_width(files, "dispersion", units_of_files)
    return files.dispersion_is == "sigma" and kms2_per_unit(unit) is not None


def _kms2_of_error(files: TracerFiles, key: str, units_of_files: dict[str, str | None]) -> float | None:
    """Return how many (km/s)^2 one unit of the error of a variance is, or of the error behind its inverse variance.

    None for other maps, as for errors of sigma beside a variance.
    """
    if not key.startswith("dispersion_") or not _is_variance(files, units_of_files):
        return None
    unit, is_of_key = _unit_of_width(files, key, units_of_files)
    return kms2_per_unit(unit) if is_of_key or key in ERRORS else kms2_per_inverse_square(unit)


def _errors_of_root(files: TracerFiles, values: dict[str, np.ndarray], units_of_files: dict[str, str | None]) -> None:
    """Turn errors of a dispersion's square, where they are, into those of the dispersion: 1 / (2 sigma) of them.

    Where sigma is smaller than its error, that is the error of a square of zero.
    """
    for key in ("dispersion_error", "dispersion_ivar"):
        if key in values and _kms2_of_error(files, key, units_of_files) is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                half = 0.5 * (values[key] if key in ERRORS else values[key] ** -0.5)
                error = half / np.maximum(values["dispersion"], np.sqrt(half))
                values[key] = error if key in ERRORS else np.where(values[key] > 0, error**-2, values[key])


#: Keys that tell the unit of a width or an error which has none of its own, of which the first that is said counts; and
#: the maps that these keys are of.
_BORROWED = {
    "dispersion": ("velocity_unit",), "instrument_sigma": ("dispersion_unit", "velocity_unit"),
    "velocity_error": ("velocity_unit",), "velocity_ivar": ("velocity_unit",),
    "dispersion_error": ("dispersion_unit", "velocity_error_unit", "velocity_unit"),
    "dispersion_ivar": ("dispersion_unit", "velocity_error_unit", "velocity_unit"),
}  # fmt: skip
_LENDERS = {"velocity_unit": ("velocity",), "dispersion_unit": ("dispersion",),
            "velocity_error_unit": ("velocity_error", "velocity_ivar")}  # fmt: skip


def _own_unit_key(files: TracerFiles, key: str) -> str | None:
    """Return the key of the unit of a width or an error; None where it has none, as that of errors is V's already."""
    if key == "dispersion":
        return "dispersion_unit"
    is_of_v = key.startswith("dispersion") and (files.velocity_error or files.velocity_ivar)
    return None if key == "instrument_sigma" or is_of_v else "velocity_error_unit"


def _unit_of_width(files: TracerFiles, key: str, units_of_files: dict[str, str | None]) -> tuple[str | None, bool]:
    """Return the unit of a map of widths or errors, and whether a key says it, and not the map's file.

    The unit is that of the map's own key, else that of its file. Where the file tells none, or none that is known, it
    is what a key says of another map; so it is where that map's file tells the same, as then both are wrong. Raises
    ValueError where a velocity differs from velocity_unit: that may be meant for both maps, or the header of V alone
    may be wrong.
    """
    own_key, unit, name = _own_unit_key(files, key), units_of_files[key], getattr(files, key)
    if own_key is not None and (said := getattr(files, own_key)) is not None:
        return said, True
    is_untold = _kms_or_none(name, unit) is None and is_no_unit(unit)
    square = units_of_files.get("dispersion") if files.dispersion_unit is None else None
    if key.startswith("dispersion_") and is_untold and kms2_per_unit(square) is not None:
        return square, True  # an error of what the dispersion holds
    other_key = next((other for other in _BORROWED[key] if getattr(files, other) is not None), None)
    if other_key is None:
        return unit, False
    said, kms = getattr(files, other_key), _kms_or_none(name, unit)
    if other_key == "velocity_unit" and kms is not None:
        if abs(kms / kms_per_unit(name, said) - 1) > 1e-6:
            raise ValueError(
                f"{name} is in {unit!r} as its file says, velocity_unit is {said}: say "
                f"{own_key or 'dispersion_unit'}, its unit"
            )
        return unit, False
    return (said, True) if is_untold or unit in map(units_of_files.get, _LENDERS[other_key]) else (unit, False)


def _kms_or_none(name: str, unit: str | None) -> float | None:
    """Return how many km/s a unit is, None where none is told and where it is no velocity."""
    try:
        return kms_per_unit(name, unit) if (unit or "").strip() else None
    except ValueError:
        return None


def _map_names(files: TracerFiles) -> dict[str, str]:
    """Return the names of a tracer's maps {key: name}; of several masks, the second is called mask 2."""
    masks = [files.mask] if isinstance(files.mask, str) else files.mask or []
    names = {key: name for key in _MAPS if key != "mask" and (name := getattr(files, key)) is not None}
    return names | {f"mask {i + 1}" if i else "mask": name for i, name in enumerate(masks)}


def _squared(units_of_files: dict[str, str | None]) -> set[str]:
    """Return the keys of maps whose unit {key: unit} is a squared velocity."""
    return {key for key, unit in units_of_files.items() if kms2_per_unit(unit) is not None}


def _merge_masks(values: dict[str, np.ndarray]) -> None:
    """Make one mask of several: a pixel is bad where it is in any of them."""
    if len(masks := [values.pop(key) for key in list(values) if key.startswith("mask")]):
        values["mask"] = np.any([mask != 0 for mask in masks], axis=0).astype(float)  # NaN too


def bin_table_of(files: TracerFiles, folder: Path) -> Bins | None:
    """Return the table of bins that the maps' bin numbers refer to, if there is one."""
    if files.bins is None:
        return None
    return Bins(
        files.bins,
        folder,
        files.bin_id or files.bin,
        files.bins_start_at,
        _map_names(files).values(),
        files.bin_id is not None,
    )


def _read_images(files: TracerFiles, folder: Path, galaxy_file: GalaxyFile) -> TracerMaps:
    """Read maps that are images, or columns of a table of bins whose numbers are an image."""
    bin_table = bin_table_of(files, folder)
    map_names = _map_names(files)
    bin_columns = {key: name for key, name in map_names.items() if bin_table is not None and name in bin_table.columns}
    image_names = {key: name for key, name in map_names.items() if key not in bin_columns} | (
        {"bin": files.bin} if bin_columns else {}
    )
    read = {key: image(name, folder) for key, name in image_names.items()}
    variances = {key for key in {*ERRORS} & read.keys() if is_variance(files, read[key][1])}
    of_masks = list[str]()
    for key, (value, header) in read.items():
        if key in variances:
            read[key] = root_of_variance(_without_blanks(files, value), header)
        if key.startswith("mask"):
            of_masks += of_other_sense(files, image_names[key], header)
        elif key != "bin":
            refuse_other_kind(files, key, header)
    values_and_headers, is_frequency = read, False
    if files.velocity_unit is None:
        values_and_headers, is_frequency = to_velocities(read, files.velocity, lambda v: _without_blanks(files, v))
    planes = {key: str(header["PLANE"]) for key, (_, header) in values_and_headers.items() if "PLANE" in header}
    called = {key: _names_in(header) for key, (_, header) in values_and_headers.items()}
    units_of_files = {key: header.get("BUNIT") for key, (_, header) in values_and_headers.items()}
    if bin_table is not None:
        units_of_files |= {key: bin_table.columns[name][1] for key, name in bin_columns.items()}
    refuse_misnomers(files, called)
    refuse_misnamed_errors(files, called, variances | _squared(units_of_files))
    refuse_variance(files, called.get("dispersion", []), "dispersion" in _squared(units_of_files))
    of_bins = {key: bin_table.columns[name][0] for key, name in bin_columns.items()} if bin_table is not None else {}
    refuse_one_map(files, {key: value for key, (value, _) in read.items()} | of_bins)
    of_planes = {key: values_and_headers[key][1] for key in planes}
    _refuse_other_planes(image_names, of_planes)
    tracer = "gas" if files is galaxy_file.gas else "stars"
    doubts = _of_another_line(tracer, image_names, of_planes)
    grids = {key: Grid.of(image_names[key], value.shape, header) for key, (value, header) in values_and_headers.items()}
    grids = _as_others_of_their_file(grids)
    images = {key: _in_kms(files, key, value, units_of_files) for key, (value, _) in values_and_headers.items()}
    for key in {"dispersion", *ERRORS} & images.keys():
        images[key] = np.where(images[key] > 0, images[key], np.nan)  # or else zeros would be averaged with others
    for key in {*IVARS} & images.keys():
        images[key] = np.where(images[key] <= 0, -np.inf, images[key])  # means leave it what it is
    density = None
    if "density" in images:
        density = _density_of_image(files, galaxy_file, images["density"], units_of_files["density"], grids)
        images["density"] = density.value
    reference_key = "velocity" if "velocity" in images else "bin"
    methods: dict[str, Resampling] = {"bin": "nearest"}
    methods |= dict.fromkeys((key for key in images if key.startswith("mask")), "largest")
    values, grid, remarks = onto_one_grid(images, grids, reference_key, methods, files.one_grid)
    if files.density_is == "bin_total" and any(said.startswith(f"{files.density} lies on a grid") for said in remarks):
        raise ValueError(
            f"density_is: bin_total needs the density on the grid of the velocity, and {files.density} lies on one of "
            "its own: divide it by the area of each bin, and leave the key out"
        )
    remarks += of_masks
    parts = parts_of_pixel(grid)
    remarks += _said_of_parts(grid, parts)
    x, y, side = pixel_offsets(files, grid, galaxy_file)
    values = {key: value.repeat(parts[0], 0).repeat(parts[1], 1) for key, value in values.items()}
    if bin_table is not None and bin_columns:
        row_of_spaxel = bin_table.row_of(values.pop("bin"))
        remarks += bin_table.remarks
        for key, name in bin_columns.items():
            value, unit = bin_table.at_spaxels(name, row_of_spaxel)
            values[key] = _in_kms(files, key, value, units_of_files)
            if key == "density":
                pixel_arcsec, unit = side_arcsec_of(grid, files.pixel_arcsec), files.density_unit or unit
                density = read_density(name, values[key], unit, pixel_arcsec, galaxy_file.distance()[0], bins=True)
                values[key] = density.value
    _errors_of_root(files, values, units_of_files)
    remarks += _said_of_planes(tracer, planes)
    _merge_masks(values)
    convention = "optical" if is_frequency else None
    told = convention_in(values_and_headers["velocity"][1]) if "velocity" in values_and_headers else None
    places: Places = "pixels" if grid.wcs is None else "sky"
    return TracerMaps(values, x, y, side, density or _even(values), remarks, convention, told, doubts, called, places)


def _density_of_image(
    files: TracerFiles, galaxy_file: GalaxyFile, value: np.ndarray, unit_of_file: str | None, grids: dict[str, Grid]
) -> Density:
    """Read a density (ny, nx); pixels without a WCS have the side of those of another image of the tracer."""
    grid = next((g for g in (grids["density"], *grids.values()) if g.wcs is not None), grids["density"])
    pixel_arcsec = side_arcsec_of(grid, files.pixel_arcsec if grid.wcs is None else None)
    unit = files.density_unit or unit_of_file
    return read_density(str(files.density), value, unit, pixel_arcsec, galaxy_file.distance()[0])


def _said_of_parts(grid: Grid, parts: tuple[int, int]) -> list[str]:
    """Return a remark where pixels are cut into so many parts along y and x."""
    if parts == (1, 1):
        return []
    wide, high = grid.sides_arcsec()
    return [
        f"Pixels of {grid.name} are {wide:.3g} x {high:.3g} arcsec: each is cut into {parts[1]} x {parts[0]} "
        "parts, which are the pixels that are counted here."
    ]


def _said_of_planes(tracer: str, planes: dict[str, str]) -> list[str]:
    """Return a remark on what headers call the planes {key: name} of cubes that were chosen."""
    keys_of = {name: [key for key in planes if planes[key] == name] for name in planes.values()}
    listed = "; ".join(f"{', '.join(keys)} {name!r}" for name, keys in keys_of.items())
    return [f"Planes of the {tracer} as headers call them: {listed}."] if planes else []


def _as_others_of_their_file(grids: dict[str, Grid]) -> dict[str, Grid]:
    """Return grids of which those without a WCS have that of another image of their file with as many pixels (SAMI)."""
    files = {key: grid.name.split("[")[0] for key, grid in grids.items()}
    return {
        key: next(
            (
                replace(grid, wcs=other.wcs)
                for k, other in grids.items()
                if grid.wcs is None and files[k] == files[key] and other.shape == grid.shape
            ),
            grid,
        )
        for key, grid in grids.items()
    }


def _names_in(header: fits.Header) -> list[str]:
    """Return what a header calls its extension and its plane, where it does."""
    return [name for key in ("EXTNAME", "PLANE") if (name := str(header.get(key, "")).strip())]


#: Of which map another map tells something: its error, say.
_MAIN_OF = {
    "velocity_error": "velocity", "velocity_ivar": "velocity", "dispersion_error": "dispersion",
    "dispersion_ivar": "dispersion", "instrument_sigma": "dispersion",
}  # fmt: skip


def _refuse_other_planes(names: dict[str, str], headers: dict[str, fits.Header]) -> None:
    """Raise ValueError where an error, mask or width {key: header with PLANE} is of another line than its map.

    It is where its cube has a plane that is called as the map's own, and another one was chosen.
    """
    for key in headers:
        mains = ("velocity", "dispersion", "density") if key.startswith("mask") else (_MAIN_OF.get(key, ""),)
        if found := _plane_of(mains, key, names, headers):
            raise ValueError(
                f"{key} {names[key]} is of {headers[key]['PLANE']}, and what it belongs to is of {found}: choose the "
                f"plane {found} of it"
            )


def _of_another_line(tracer: str, names: dict[str, str], headers: dict[str, fits.Header]) -> list[str]:
    """Return a doubt for a dispersion of another line than V, where V's own was to be had as well."""
    found = _plane_of(("velocity",), "dispersion", names, headers) if "dispersion" in headers else None
    if found is None:
        return []
    of_dispersion = f"{names['dispersion']}, is of {headers['dispersion']['PLANE']}"
    return [f"The dispersion of the {tracer}, {of_dispersion}, and V of {found}: choose one line for both."]


def _plane_of(mains: tuple[str, ...], key: str, names: dict[str, str], headers: dict[str, fits.Header]) -> str | None:
    """Return what the plane is called that a map's cube has, too, and another cube's plane of one of the main maps is.

    None where the map's plane is called so itself, or where there is no such plane.
    """
    own, beside = str(headers[key]["PLANE"]), {str(card.value).strip() for card in headers[key].cards}
    others = [
        str(headers[main]["PLANE"])
        for main in mains
        if main in headers and names[main].split(",")[0] != names[key].split(",")[0]
    ]
    return None if own in others else next((other for other in others if other in beside), None)


def _even(values: dict[str, np.ndarray]) -> Density:
    """Put a density of one where there is a velocity, into the maps of a tracer of which none was measured."""
    values["density"] = np.where(np.isfinite(values["velocity"]), 1.0, np.nan)
    return Density(values["density"], None, "", units.dimensionless_unscaled)


def _read_table(files: TracerFiles, folder: Path, galaxy_file: GalaxyFile) -> TracerMaps:
    """Read maps that are columns of a table of spaxels or bins, or of a table of bins that its spaxels refer to."""
    name, map_columns = str(files.table), _map_names(files) | {"x": files.x, "y": files.y}
    bin_table = bin_table_of(files, folder)
    table_columns, bin_columns = _columns_of_table(files, folder, bin_table, map_columns)
    places = (table_columns[map_columns.pop("x")], table_columns[map_columns.pop("y")])
    has_unit = any(unit for _, unit in places) or files.xy_unit is not None
    remarks = list(bin_table.remarks) if bin_table is not None else []
    refuse_one_map(files, {key: table_columns[column][0] for key, column in map_columns.items()})
    units_of_files = {key: table_columns[column][1] for key, column in map_columns.items()}
    refuse_misnamed_errors(files, {}, _squared(units_of_files))
    refuse_variance(files, [], "dispersion" in _squared(units_of_files))
    values = {key: _in_kms(files, key, table_columns[column][0], units_of_files) for key, column in map_columns.items()}
    _errors_of_root(files, values, units_of_files)
    _merge_masks(values)
    has_place = _has_place(files, places, np.isfinite(values["velocity"]) & (values.get("mask", 0) == 0))
    if not has_place.any():
        raise ValueError(
            f"{name}: no row has numbers for its place in {files.x} and {files.y}: are they the right ones?"
        )
    x, y, is_on_sky = row_offsets(files, galaxy_file, *((value[has_place], unit) for value, unit in places))
    are_pixels = files.centre_pixel is not None or read_unit(files.xy_unit or places[0][1]).unit == units.pix
    kind: Places = "sky" if is_on_sky else "pixels" if are_pixels else "offsets"
    values = {key: value[has_place] for key, value in values.items()}
    doubts = list[str]()
    if files.rows == "bins":
        if not has_unit:
            is_pixels, said = _centres_without_unit(files, x, y)
            (doubts if is_pixels else remarks).append(said)
        x, y, bin_index, side = tiled(x, y)
        values = {key: value[bin_index] for key, value in values.items()}
    else:
        side = spaxel_side(x, y, name, files.pixel_arcsec)
        if abs(side - 1) < 1e-6 and files.pixel_arcsec is None and not has_unit:
            remarks.append(
                f"{name}: columns {files.x} and {files.y} are one apart and have no unit: they were taken for arcsec; "
                "if they count pixels say xy_unit: pix."
            )
        values["velocity"] = _without_doubles(name, x, y, side, values)
    if files.density is None:
        return TracerMaps(values, x, y, side, _even(values), remarks, doubts=doubts, places=kind)
    unit, is_binned = (
        files.density_unit or table_columns[files.density][1],
        files.rows == "bins" or files.density in bin_columns,
    )
    # The squares that bins are cut into are no pixels.
    pixel_arcsec = files.pixel_arcsec if files.rows == "bins" else side
    density = read_density(files.density, values["density"], unit, pixel_arcsec, galaxy_file.distance()[0], is_binned)
    if pixel_arcsec is None and is_mass_per_pixel(density) and not (files.total_mass_msun or files.density_msun_kpc2):
        raise ValueError(f"density {files.density} is in {unit!r}: say pixel_arcsec, the side of a pixel, or its unit")
    values["density"] = density.value
    return TracerMaps(values, x, y, side, density, remarks, doubts=doubts, places=kind)


def _columns_of_table(
    files: TracerFiles, folder: Path, bin_table: Bins | None, map_columns: dict[str, str]
) -> tuple[Columns, set[str]]:
    """Read the columns {key: name} of a table, and say which of them are those of its bins, by their names.

    Raises ValueError where one is missing.
    """
    name, where = str(files.table), (files.x, files.y)
    named = (*where, *map_columns.values(), *((files.bin,) if bin_table else ()))
    table_columns = columns(name, folder, tuple(dict.fromkeys(named)), where)
    bin_columns = set[str]()
    if bin_table is not None and files.bin in table_columns:
        row_of_spaxel = bin_table.row_of(table_columns[files.bin][0])
        bin_columns = {
            column for column in map_columns.values() if column in bin_table.columns and column not in table_columns
        }
        table_columns |= {column: bin_table.at_spaxels(column, row_of_spaxel) for column in bin_columns}
    missing = [column for column in map_columns.values() if column not in table_columns]
    for column, text in text_columns(name, folder).items() if missing else ():
        if column in missing:
            raise ValueError(
                f"{name}: column {column} holds text, {text!r}: it must be a number, or nan, in every row (right "
                "ascension and declination in degrees)"
            )
    if missing:
        of_bins = f"; {files.bins} has {', '.join(bin_table.columns)}" if bin_table is not None else ""
        unsaid = [key for key in ("x", "y") if map_columns[key] in missing and key not in files.model_fields_set]
        hint = f"; say {' and '.join(unsaid)}, the columns of the places" if unsaid else ""
        raise ValueError(
            f"{name} has no column {', '.join(missing)}; there are {', '.join(table_columns)}{of_bins}{hint}"
        )
    return table_columns, bin_columns


def _centres_without_unit(files: TracerFiles, x_arcsec: np.ndarray, y_arcsec: np.ndarray) -> tuple[bool, str]:
    """Return whether centres of bins (n,) without a unit look like pixels, and a sentence on it: arcsec are assumed.

    Raises ValueError where pixel_arcsec is said, of which nothing would be made.
    """
    columns_of_table = f"columns {files.x} and {files.y}, centres of bins,"
    if files.pixel_arcsec is not None:
        raise ValueError(
            f"{files.table}: {columns_of_table} have no unit, and pixel_arcsec is said: say xy_unit: pix if they count "
            "pixels, or xy_unit: arcsec and no pixel_arcsec"
        )
    taken = f"{files.table}: {columns_of_table} have no unit and were taken for arcsec"
    if lie_one_apart(x_arcsec, y_arcsec):
        return True, (
            f"{taken}, though many lie one apart as pixels do: say xy_unit: pix and pixel_arcsec if they count pixels, "
            "or xy_unit: arcsec."
        )
    return False, f"{taken}; if they count pixels say xy_unit: pix and pixel_arcsec."


def _has_place(
    files: TracerFiles, places: tuple[tuple[np.ndarray, str | None], ...], has_value: np.ndarray
) -> np.ndarray:
    """Return which rows (n,) of a table lie somewhere, by their x and y (values, unit); has_value (n,): V is known.

    A number that is blank may be a place as well, as 0 is. It is none where x and y are both blank in a row without a
    value, and where it lies farther from all rows with values than these from each other. There, a row without a value
    has no place either, whether its number is said to be blank or not.
    """
    xy = np.stack([value for value, _ in places])
    is_blank = np.isnan(_without_blanks(files, xy))
    has_place = np.isfinite(xy).all(0) & (has_value | ~is_blank.all(0))
    is_measured = has_value & ~is_blank.any(0)
    if np.count_nonzero(is_measured) < 2:
        return has_place
    low, high = xy[:, is_measured].min(1, keepdims=True), xy[:, is_measured].max(1, keepdims=True)
    extent = (high - low).max()
    return has_place & (is_measured | ((xy >= low - extent) & (xy <= high + extent)).all(0))


def _without_doubles(
    name: str, x_arcsec: np.ndarray, y_arcsec: np.ndarray, side_arcsec: float, values: dict[str, np.ndarray]
) -> np.ndarray:
    """Return velocities (n,) of a table's rows, NaN in those that say once more what another row of the place says.

    Raises ValueError where rows of one place have different velocities.
    """
    velocity = np.where(values.get("mask", 0) == 0, values["velocity"], np.nan)
    is_used = np.flatnonzero(np.isfinite(velocity))
    first = is_used[first_of_each_place(x_arcsec[is_used], y_arcsec[is_used], side_arcsec)]
    n_others = np.count_nonzero(velocity[is_used] != velocity[first])
    if n_others:
        raise ValueError(
            f"{name}: {n_others} of {len(is_used)} rows have another velocity than a row at the same place: are there "
            "several galaxies, components or pointings in it? give a table with one row for each spaxel, or a mask"
        )
    return np.where(np.isin(np.arange(len(velocity)), first) | ~np.isfinite(velocity), values["velocity"], np.nan)
