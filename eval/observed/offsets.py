"""Where the pixels of an image, or the rows of a table, lie from a galaxy's centre on the sky."""

from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord

from kinmass.eval.observed.fits_units import arcsec_per_unit
from kinmass.eval.observed.galaxy_file import GalaxyFile, TracerFiles
from kinmass.eval.observed.grids import Grid, count_from_a_corner
from kinmass.eval.observed.names import is_called_galactic, is_called_pixels, unit_in_words

#: No map reaches so far from its galaxy's centre [degrees]: places that lie so far from zero are no offsets from it.
FARTHEST_DEG = 10.0


#: Pixels that are so many times as long as they are wide are not those of an image (spectrographs' slices: 5).
LONGEST_PIXEL = 10.0


def side_arcsec_of(grid: Grid, pixel_arcsec: float | None) -> float:
    """Return the side of a pixel [arcsec], the root of its area, from the WCS or else pixel_arcsec.

    A header without celestial axes may tell it, too. Raises ValueError where they differ, where none is known, and for
    pixels that no image has.
    """
    if grid.wcs is None:
        if grid.told_arcsec is not None:
            wide, high = grid.told_arcsec
            if pixel_arcsec is None and abs(wide / high - 1) < 0.02:
                return wide
            if pixel_arcsec is not None and max(abs(pixel_arcsec / side - 1) for side in (wide, high)) > 0.02:
                raise ValueError(
                    f"{grid.name}: pixels are {wide:.4g} x {high:.4g} arcsec by CDELT and CUNIT in its header, and "
                    f"pixel_arcsec is {pixel_arcsec:g}: which is right? Leave pixel_arcsec out, or mend the header"
                )
        if pixel_arcsec is None:
            raise ValueError(
                f"{grid.name} has no celestial coordinates (WCS): say pixel_arcsec, the side of a pixel, and "
                "centre_pixel, or give a WCS"
            )
        return pixel_arcsec
    first_side, second_side = grid.sides_arcsec()
    if not 1 / LONGEST_PIXEL < first_side / second_side < LONGEST_PIXEL:
        raise ValueError(
            f"{grid.name}: pixels are {first_side:.3g} x {second_side:.3g} arcsec in its WCS: mend CDELT or CD of its "
            "celestial axes, or remove the WCS and say pixel_arcsec and centre_pixel"
        )
    side_arcsec = float(np.sqrt(first_side * second_side))
    if pixel_arcsec is not None and abs(pixel_arcsec / side_arcsec - 1) > 0.02:
        raise ValueError(
            f"{grid.name}: pixels are {side_arcsec:.4g} arcsec wide in its WCS, and pixel_arcsec is {pixel_arcsec}: "
            "which is right? Leave pixel_arcsec out, or mend the WCS"
        )
    return side_arcsec


def parts_of_pixel(grid: Grid) -> tuple[int, int]:
    """Return into how many parts a pixel is cut along y and along x, each nearly a square: 1 and 1 for a square."""
    if grid.wcs is None:
        return 1, 1
    first_side, second_side = grid.sides_arcsec()
    ratio = max(first_side, second_side) / min(first_side, second_side)
    across = min(range(1, 5), key=lambda n: round(abs(np.log(round(n * ratio) / n / ratio)), 1))  # to 5 %
    along = round(across * ratio)
    return (across, along) if first_side > second_side else (along, across)


def pixel_offsets(files: TracerFiles, grid: Grid, galaxy_file: GalaxyFile) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the offsets x, y (Y, X) of an image's pixels, or parts of one, from the centre, and their side [arcsec].

    Y and X count the parts of `parts_of_pixel`; their side is the root of a part's area. Raises ValueError where the
    centre is not known.
    """
    parts = parts_of_pixel(grid)
    side = side_arcsec_of(grid, files.pixel_arcsec) / np.sqrt(np.prod(parts))
    (height, width), (n_y, n_x) = grid.shape, parts
    row, column = np.indices((n_y * height, n_x * width))
    iy, ix = (row + 0.5) / n_y - 0.5, (column + 0.5) / n_x - 0.5
    centre_pixel = files.centre_pixel
    if grid.wcs is None:
        if centre_pixel is None:
            raise ValueError(f"{grid.name} has no celestial coordinates (WCS): say centre_pixel: [x, y], from 1")
        return side * (ix + 1 - centre_pixel[0]), side * (iy + 1 - centre_pixel[1]), side
    # North is up for both tracers, be the one's image in galactic coordinates.
    sky_position = _icrs(grid.wcs.pixel_to_world(ix, iy))
    if centre_pixel is not None:
        sky_centre = _icrs(grid.wcs.pixel_to_world(centre_pixel[0] - 1, centre_pixel[1] - 1))
        if galaxy_file.centre_deg is not None:
            given = SkyCoord(*galaxy_file.centre_deg, unit="deg", frame="icrs")
            if (apart_arcsec := float(given.separation(sky_centre).to_value("arcsec"))) > 2 * side:
                raise ValueError(
                    f"centre_pixel and centre_deg are {apart_arcsec:.3g} arcsec apart: give the one that is right"
                )
    elif galaxy_file.centre_deg is not None:
        sky_centre = SkyCoord(*galaxy_file.centre_deg, unit="deg", frame="icrs")
    else:
        raise ValueError("centre_deg: [right ascension, declination] is needed for maps with a WCS")
    x, y = (offset.to_value("arcsec") for offset in sky_centre.spherical_offsets_to(sky_position))
    _refuse_stretched(grid.name, sky_position, grid.sides_arcsec() / parts[::-1])
    return x, y, float(side)


def _refuse_stretched(name: str, position: SkyCoord, sides_arcsec: np.ndarray) -> None:
    """Raise ValueError where pixels (Y, X) lie farther from, or nearer to each other on the sky than their sides (2,).

    So they do where coordinates grow with right ascension itself: CTYPE1 = 'RA', without a projection.
    """
    iy, ix = (n // 2 for n in position.shape)
    if min(iy, ix) < 1:
        return
    here, left, below = position[iy, ix], position[iy, ix - 1], position[iy - 1, ix]
    apart_arcsec = [float(here.separation(other).to_value("arcsec")) for other in (left, below)]
    if np.abs(apart_arcsec / sides_arcsec - 1).max() > 0.05:
        raise ValueError(
            f"{name}: pixels lie {apart_arcsec[0]:.3g} and {apart_arcsec[1]:.3g} arcsec apart on the sky, and are "
            f"{sides_arcsec[0]:.3g} and {sides_arcsec[1]:.3g} arcsec wide by CDELT or CD: mend CTYPE (RA---TAN, "
            "DEC--TAN), or remove the WCS and say pixel_arcsec and centre_pixel"
        )


def _icrs(position: SkyCoord) -> SkyCoord:
    """Return a position in ICRS, without what else its own frame knows (an equinox)."""
    return SkyCoord(position.icrs.ra, position.icrs.dec, frame="icrs")


def _about_zero(angle: Any, turn: float) -> Any:
    """Return angles from -1/2 to 1/2 of a turn: beside a right ascension of zero lie those of 359 degrees."""
    return (angle + 0.5 * turn) % turn - 0.5 * turn


def _refuse_second_centre(files: TracerFiles, galaxy_file: GalaxyFile) -> None:
    """Raise ValueError where a table of right ascensions is given a centre that is not in them."""
    others = [other for other in (galaxy_file.gas, galaxy_file.stars) if other not in (None, files)]
    is_for_other = any(other.table is not None for other in others if other is not None)
    if files.centre_pixel is not None or (any(galaxy_file.centre_arcsec) and not is_for_other):
        key = "centre_arcsec" if files.centre_pixel is None else "centre_pixel"
        raise ValueError(
            f"columns {files.x} and {files.y} are right ascension and declination, of which centre_deg is the centre: "
            f"leave out {key}"
        )


def _refuse_one_unit(names: tuple[str, str], units: list[str | None], factors: list[float]) -> None:
    """Raise ValueError where one of two columns has a unit, which is not arcsec, as which the other would be taken."""
    has_unit = [bool((unit or "").strip()) for unit in units]
    if sum(has_unit) == 1 and factors[0] != factors[1]:
        known = has_unit.index(True)
        raise ValueError(
            f"column {names[known]} is in {units[known]!r}, and {names[1 - known]} has no unit: say xy_unit, that of "
            "both"
        )


def _on_the_sky(files: TracerFiles, x_arcsec: np.ndarray, y_arcsec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a longitude and a latitude (n,) as they are. Raises ValueError for a latitude beyond the poles."""
    if len(beyond := y_arcsec[np.abs(y_arcsec) > 90 * 3600]):
        raise ValueError(
            f"{files.table}: column {files.y} is {beyond[0] / 3600:.6g} degrees in {len(beyond)} of {len(y_arcsec)} "
            "rows, beyond the poles: say blank if such a number stands for nothing, or leave the rows out"
        )
    return x_arcsec, y_arcsec


def row_offsets(
    files: TracerFiles, galaxy_file: GalaxyFile, x: tuple[np.ndarray, str | None], y: tuple[np.ndarray, str | None]
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the offsets [arcsec] of a table's rows from the centre, and whether the columns are places on the sky.

    x, y: the columns (values, unit).

    The columns are right ascension and declination where their median is nearer to centre_deg than to zero, and
    galactic coordinates, in any unit of an angle, where they are called so (`names.is_called_galactic`).
    """
    names, values_and_units = (files.x, files.y), (x, y)
    units = [files.xy_unit or unit for _, unit in values_and_units]
    pixel = files.pixel_arcsec
    factors = [arcsec_per_unit(n, u, galaxy_file.distance()[0], pixel) for n, u in zip(names, units, strict=True)]
    _refuse_one_unit(names, units, factors)
    coordinates_arcsec = [v * factor for (v, _), factor in zip(values_and_units, factors, strict=True)]
    if galaxy_file.centre_deg is not None and not any(units):
        medians = np.array([np.nanmedian(v) for v in coordinates_arcsec])
        if np.linalg.norm(medians - np.array(galaxy_file.centre_deg)) < 0.1 * np.linalg.norm(medians):
            raise ValueError(
                f"columns {files.x} and {files.y} have no unit and look like right ascension and declination in "
                "degrees: say xy_unit: deg"
            )
    if not any(units) and any(is_called_pixels(name) for name in names):
        raise ValueError(
            f"columns {files.x} and {files.y} have no unit and are called numbers of pixels: say xy_unit: pix and "
            "pixel_arcsec, or xy_unit: arcsec if they are in that"
        )
    if not any(units) and (called := next(filter(None, map(unit_in_words, names)), None)):
        instead = f"say xy_unit: {called}" if called not in ("re", "r_e") else "convert them to arcsec"
        raise ValueError(
            f"columns {files.x} and {files.y} have no unit and are called {called}: {instead}, or xy_unit: arcsec if "
            "they are in that"
        )
    if not any(units) and count_from_a_corner(x[0], y[0]):
        raise ValueError(
            f"columns {files.x} and {files.y} have no unit, none is below zero, and they look like numbers of pixels: "
            "say xy_unit: pix, pixel_arcsec and centre_pixel, or xy_unit: arcsec and centre_arcsec if they are in that"
        )
    if all(units) and is_called_galactic(*names):
        galactic = SkyCoord(*_on_the_sky(files, *coordinates_arcsec), unit="arcsec", frame="galactic")
        if galaxy_file.centre_deg is None:
            raise ValueError(f"columns {files.x} and {files.y} are galactic coordinates: say centre_deg, in ICRS")
        coordinates_arcsec = [angle.to_value("arcsec") for angle in (galactic.icrs.ra, galactic.icrs.dec)]
    if galaxy_file.centre_deg is not None and all(units):
        turn_arcsec, given_arcsec = 360 * 3600, 3600 * np.array(galaxy_file.centre_deg)
        from_given, from_zero = (
            [
                np.nanmedian(_about_zero(v - origin, turn_arcsec))
                for v, origin in zip(coordinates_arcsec, at, strict=True)
            ]
            for at in (given_arcsec, (0.0, 0.0))
        )
        if np.linalg.norm(from_given) < np.linalg.norm(from_zero):
            _refuse_second_centre(files, galaxy_file)
            sky_positions = SkyCoord(*_on_the_sky(files, *coordinates_arcsec), unit="arcsec", frame="icrs")
            offsets = SkyCoord(*galaxy_file.centre_deg, unit="deg", frame="icrs").spherical_offsets_to(sky_positions)
            return offsets[0].to_value("arcsec"), offsets[1].to_value("arcsec"), True
    centre_arcsec = list(galaxy_file.centre_arcsec)
    if files.centre_pixel is not None:
        if pixel is None:
            raise ValueError("centre_pixel of a table needs pixel_arcsec")
        centre_arcsec = [pixel * v for v in files.centre_pixel]
    elif not any(centre_arcsec):
        _refuse_without_centre(files, galaxy_file, (x[0], y[0]), coordinates_arcsec)
    x_arcsec = _about_zero(coordinates_arcsec[0], 360 * 3600)
    return x_arcsec - centre_arcsec[0], coordinates_arcsec[1] - centre_arcsec[1], False


def _refuse_without_centre(
    files: TracerFiles,
    galaxy_file: GalaxyFile,
    values: tuple[np.ndarray, np.ndarray],
    coordinates_arcsec: list[np.ndarray],
) -> None:
    """Raise ValueError where a table's places, as in its file and in arcsec, are about a centre that is not said."""
    if galaxy_file.centre_deg is None:
        far_deg = float(np.hypot(*(np.nanmedian(_about_zero(v, 360 * 3600)) for v in coordinates_arcsec))) / 3600
        if far_deg > FARTHEST_DEG:
            raise ValueError(
                f"columns {files.x} and {files.y} lie about {far_deg:.0f} degrees from zero: say centre_deg if they "
                "are right ascension and declination, or xy_unit, their unit, if they are not in that"
            )
    if count_from_a_corner(*values):
        raise ValueError(
            f"columns {files.x} and {files.y} count from a corner of the map, and no centre is said: say centre_pixel, "
            "in these numbers, for pixels, or centre_arcsec"
        )
