"""FITS files of observers: images and tables of spaxels or bins, with their units. Nothing in them is executed."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from kinmass.eval.observed.fits_units import kms as kms


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


def _is(extension: Any, number: int, hdu: Any) -> bool:
    return extension == number or (isinstance(extension, str) and extension.upper() == hdu.name.upper())


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
        values = without(values, float(header["BLANK"]))
    return values, header


def _filled(values: np.ndarray, column: fits.Column) -> np.ndarray:
    """Numbers of a column, NaN where an integer one holds its null (TNULL)."""
    out = np.asarray(values, float)
    if column.null not in (None, "") and values.dtype.kind in "iu":
        null = float(column.null) * float(column.bscale or 1.0) + float(column.bzero or 0.0)
        out = np.where(out == null, np.nan, out)
    return out


def without(values: np.ndarray, blank: float) -> np.ndarray:
    """Values, NaN where they are `blank`: relative to it, since densities of 1e-17 are not zero."""
    return np.where(np.abs(values - blank) <= 1e-6 * abs(blank), np.nan, values)


def columns(name: str, folder: Path) -> dict[str, tuple[np.ndarray, str | None]]:
    """The columns of a FITS table that hold one number a row, with their units."""
    file, extension, _ = _named(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with _open(folder / file) as hdus:
            tables = [h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU)]
            if extension is not None:
                tables = [h for i, h in enumerate(hdus) if _is(extension, i, h) and h in tables]
            if not tables:
                raise ValueError(f"{name} holds no such table")
            data, known = tables[0].data, tables[0].columns
            numbers = [c for c in known if data[c.name].ndim == 1 and data[c.name].dtype.kind in "fiub"]
            found = {c.name: (_filled(data[c.name], c), c.unit) for c in numbers}
    if not found or not len(data):
        raise ValueError(f"{file}: columns must hold one number a row, and there must be rows")
    return found


#: Columns that hold a bin's number, in lower case.
_NUMBERS = ("bin_id", "binid", "bin_num", "binnum", "bin_number", "bin")


class Bins:
    """A table with one row per bin. A bin's number is in a column, or rows are counted from 0 or 1."""

    def __init__(self, name: str, folder: Path, number: str | None, starts_at: int | None):
        """number: the column that holds it, else one of the usual names; starts_at counts rows instead."""
        self.name, self.columns = name, columns(name, folder)
        self.rows = len(next(iter(self.columns.values()))[0])
        usual = [c for c in self.columns if c.lower() in _NUMBERS]
        column = number if number in self.columns else next(iter(usual), None)
        self._starts_at, self._numbers = starts_at, None
        if column is not None and starts_at is None:
            self._numbers = self.columns[column][0]
            if len(np.unique(self._numbers)) < self.rows:
                raise ValueError(
                    f"{name}: several rows have one bin's number in {column}: give a table with a row each"
                )

    def row_of(self, number: np.ndarray) -> np.ndarray:
        """The row of each spaxel's bin, -1 for spaxels of none (NaN, negative, not in the table).

        Raises ValueError where numbers seem to be counted from another start than the table's.
        """
        number = np.where(np.isfinite(number), number, -1)
        used = np.unique(number[number >= 0])
        ids = self._numbers if self._numbers is not None else self._counted(used)
        if not np.isin(used, ids).any():
            raise ValueError(f"{self.name}: its bins have none of the numbers of the spaxels")
        shifted = {shift: int(np.isin(used, ids + shift).sum()) for shift in (-1, 0, 1)}
        if self._starts_at is None and max(shifted.values()) > shifted[0]:
            raise ValueError(
                f"{self.name}: bins are numbered from {ids.min():.0f} to {ids.max():.0f}, spaxels say "
                f"{used.min():.0f} to {used.max():.0f}, as if counted from another start: say bins_start_at: 0 or 1, "
                "the number of the first row"
            )
        order = np.argsort(ids, kind="stable")
        at = np.searchsorted(ids[order], number).clip(max=self.rows - 1)
        return np.where(ids[order][at] == number, order[at], -1)

    def _counted(self, used: np.ndarray) -> np.ndarray:
        """Numbers of rows that have none: from where all that is used has a row, and the last row is used."""
        count = np.arange(self.rows, dtype=float)
        if self._starts_at is not None:
            return count + self._starts_at
        least, most = (used.min(), used.max()) if len(used) else (0, 0)
        if most == self.rows:  # zero, where there is one, is none
            return count + 1
        if most == self.rows - 1 and least != 1:
            return count
        raise ValueError(
            f"{self.name}: {self.rows} rows without numbers, and spaxels say {least:.0f} to {most:.0f}: say "
            "bins_start_at: 0 or 1, the number of the first row, or name the column of numbers with bin_id"
        )

    def spread(self, name: str, row: np.ndarray) -> tuple[np.ndarray, str | None]:
        """A column's value for every spaxel, NaN for spaxels of no bin."""
        value, unit = self.columns[name]
        return np.where(row >= 0, value[row], np.nan), unit


def beam_fwhm_arcsec(name: str, folder: Path) -> float | None:
    """FWHM [arcsec] of the beam of an image or a table: BMAJ and BMIN, a table BEAMS, or what AIPS left in HISTORY.

    None where the file tells none. The geometric mean of both axes; a beam with one axis is round.
    """
    file, extension, _ = _named(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with _open(folder / file) as hdus:
            own = [h.header for i, h in enumerate(hdus) if _is(extension, i, h)]
            headers = [*own, *(h.header for h in hdus)] if extension is None else [*own, hdus[0].header]
            tables = [h for h in hdus if isinstance(h, fits.BinTableHDU) and h.name == "BEAMS"]
            axes = [(header.get("BMAJ"), header.get("BMIN")) for header in headers]
            axes += [_beams(table) for table in tables]
            axes += [_history(header) for header in headers]
    for major, minor in axes:
        if (a := _positive(major)) is not None:
            return 3600 * float(np.sqrt(a * (_positive(minor) or a)))
    return None


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < np.inf else None


def _beams(table: fits.BinTableHDU) -> tuple[Any, Any]:
    """Axes [degrees] of the beam in the middle of CASA's table of one per channel, in arcsec where it says nothing."""
    both = []
    for axis in ("BMAJ", "BMIN"):
        if axis not in table.columns.names:
            return None, None
        unit = units.Unit(table.columns[axis].unit or "arcsec")
        both.append(float(np.median(table.data[axis])) * float(unit.to(units.deg)))
    return both[0], both[1]


def _history(header: fits.Header) -> tuple[Any, Any]:
    """Axes [degrees] of the last beam that AIPS noted: CLEAN BMAJ=  1.7E-03 BMIN=  1.6E-03 BPA=  10.0."""
    said = " ".join(str(line) for key in ("HISTORY", "COMMENT") for line in header.get(key, ""))
    number = r"\s*=\s*([-+.\d]+(?:[eEdD][-+]?\d+)?)"
    found = re.findall(rf"\bBMAJ{number}\s*,?\s*(?:BMIN{number})?", said)
    return tuple(part.upper().replace("D", "E") for part in found[-1]) if found else (None, None)  # type: ignore[return-value]
