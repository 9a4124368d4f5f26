"""FITS files of observers: images and tables of spaxels or bins, with their units. Nothing in them is executed."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning


def _open(path: Path) -> fits.HDUList:
    try:
        # Headers and data as they are: no scaling by code, no pickles; files whose last block is short are common.
        return fits.open(path, ignore_missing_end=True, memmap=False)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as FITS ({error})") from error


def _named(name: str) -> tuple[str, Any, int | None]:
    """File, extension and plane of `FILE[EXTENSION,PLANE]`."""
    found = re.fullmatch(r"(.+?)(?:\[([^\],]+)(?:,\s*(\d+))?\])?", name)
    if found is None:
        raise ValueError(f"{name!r} is not FILE, FILE[EXTENSION] or FILE[EXTENSION,PLANE]")
    file, extension, plane = found.groups()
    return file, int(extension) if (extension or "").isdigit() else extension, None if plane is None else int(plane)


def image(name: str, folder: Path) -> tuple[np.ndarray, fits.Header]:
    """`FILE[EXTENSION,PLANE]` (the first image where left out) as (Y, X) numbers, NaN where blank; its header."""
    file, extension, plane = _named(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # headers off the standard, which it mends
        with _open(folder / file) as hdus:
            if extension is None:
                extension = next((i for i, h in enumerate(hdus) if h.is_image and h.header.get("NAXIS", 0) >= 2), None)
                if extension is None:
                    raise ValueError(f"{file} holds no image")
            if extension not in hdus if isinstance(extension, str) else extension >= len(hdus):
                raise ValueError(f"{file} has no extension {extension}; there are {', '.join(h.name for h in hdus)}")
            try:
                data, header = hdus[extension].data, hdus[extension].header
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(f"{file} is damaged ({error})") from error
    if not isinstance(data, np.ndarray) or data.dtype.kind not in "fiub":
        raise ValueError(f"{name} is no image")
    data = np.squeeze(data)
    if plane is not None:
        if data.ndim != 3 or plane >= len(data):
            raise ValueError(f"{name}: there is no plane {plane} in data of shape {data.shape}")
        data = data[plane]
    if data.ndim != 2:
        raise ValueError(f"{name} has shape {data.shape}, not that of an image; choose a plane, FILE[EXTENSION,PLANE]")
    values = data.astype(float)
    if "BLANK" in header and data.dtype.kind == "f":  # off the standard, and common
        values[np.isclose(values, float(header["BLANK"]))] = np.nan
    return values, header


def columns(name: str, folder: Path) -> dict[str, tuple[np.ndarray, str | None]]:
    """The columns of a FITS table that hold one number a row, with their units."""
    file, extension, _ = _named(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with _open(folder / file) as hdus:
            tables = [h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU)]
            if extension is not None:
                tables = [h for i, h in enumerate(hdus) if extension in (i, h.name) and h in tables]
            if not tables:
                raise ValueError(f"{name} holds no such table")
            data, known = tables[0].data, tables[0].columns
            numbers = [c for c in known if data[c.name].ndim == 1 and data[c.name].dtype.kind in "fiu"]
            found = {c.name: (np.asarray(data[c.name], float), c.unit) for c in numbers}
    if not found or not len(data):
        raise ValueError(f"{file}: columns must hold one number a row, and there must be rows")
    return found


class Bins:
    """A table with one row per bin, whose numbers are its column `number`, or count rows from 0."""

    def __init__(self, name: str, folder: Path, number: str):
        self.columns = columns(name, folder)
        some = next(iter(self.columns.values()))[0]
        numbers = self.columns[number][0] if number in self.columns else np.arange(len(some))
        self._order = np.argsort(numbers, kind="stable")
        self._number = numbers[self._order]

    def spread(self, name: str, number: np.ndarray) -> tuple[np.ndarray, str | None]:
        """A column's value for every spaxel, NaN for spaxels of no bin."""
        value, unit = self.columns[name]
        at = np.searchsorted(self._number, number).clip(max=len(self._number) - 1)
        return np.where(self._number[at] == number, value[self._order][at], np.nan), unit


def kms(name: str, unit: str | None) -> float:
    """One of the unit of a map `name` in km/s; one where it has no unit. Raises ValueError for what is no velocity."""
    written = re.sub(r"[\s.*^()]", "", (unit or "").lower()).replace("sec", "s")
    if written in ("", "km/s", "kms-1", "kms"):
        return 1.0
    if written in ("m/s", "ms-1"):
        return 1e-3
    try:
        return float(units.Unit(str(unit).strip()).to(units.km / units.s))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name} is in {unit!r}, which is no velocity: convert it to km/s (frequencies and wavelengths too), "
            "or say velocity_unit: km/s if that is what it is in"
        ) from error
