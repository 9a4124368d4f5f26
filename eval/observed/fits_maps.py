"""Read observers' FITS files, images and tables of spaxels or bins, with their units. Nothing in them is executed."""

import os
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy import units
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from kinmass.eval.observed.fits_units import name_and_unit
from kinmass.eval.observed.plain_tables import (
    FORMATS,
    Columns,
    holds_arrays,
    image_in,
    image_names,
    is_plain_table,
    plain_tables,
    text_in,
)


@contextmanager
def _telling_damage(file: str) -> Iterator[None]:
    """Turn whatever reading a damaged file raises into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # each kind of compression raises errors of its own
        raise ValueError(f"{file} is damaged ({' '.join(str(error).split())}); get it again") from error


@contextmanager
def _open_fits(path: Path) -> Iterator[fits.HDUList]:
    """Open a FITS file and read all of its headers. Raises ValueError where it is no FITS file, or damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # about non-standard headers, which astropy repairs
        try:
            # Headers and data are read as they are, without pickles. Files with a short last block are common.
            hdus = fits.open(path, ignore_missing_end=True, memmap=False)
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such file; paths are relative to the YAML file's folder") from error
        except Exception as error:  # each kind of compression raises errors of its own
            others = f"; tables of other kinds are known by their suffix: {', '.join(FORMATS)}"
            is_fits = path.name.lower().removesuffix(".gz").endswith((".fits", ".fit", ".fts"))
            raise ValueError(f"{path} cannot be read as FITS ({error}){'' if is_fits else others}") from error
        with _telling_damage(path.name):
            hdus.readall()
        with hdus:
            yield hdus


def _parse_map_name(name: str) -> tuple[str, Any, int | str | None]:
    """Split `FILE[EXTENSION,PLANE]` into file, extension and plane, None for what it leaves out. ~ is the home."""
    match = re.fullmatch(r"(.+?)(?:\[([^\],]+)(?:,\s*(.+?)\s*)?\])?", name)
    if match is None:
        raise ValueError(f"{name!r} is not FILE, FILE[EXTENSION] or FILE[EXTENSION,PLANE]")
    file, *parts = match.groups()
    extension, plane = (int(part) if (part or "").isdigit() else part for part in parts)
    return os.path.expanduser(file), extension, plane


def _is_extension(extension: Any, number: int, hdu: Any) -> bool:
    """Whether the HDU with this number is the extension, which is a number or a name."""
    return extension == number or (isinstance(extension, str) and extension.upper() == hdu.name.upper())


def image(name: str, folder: Path) -> tuple[np.ndarray, fits.Header]:
    """Read `FILE[EXTENSION,PLANE]` (else the primary or only image): values (Y, X), NaN where blank, and the header.

    Raises ValueError where there is no such image, where it is damaged or not two-dimensional, and for twofold cards.
    """
    file, extension, plane = _parse_map_name(name)
    if holds_arrays(file):
        data, unit, own_name = image_in(folder / file, None if extension is None else str(extension))
        header = fits.Header({"EXTNAME": own_name} | ({} if unit is None else {"BUNIT": unit}))
    elif is_plain_table(file):
        raise ValueError(f"{name} is no image: name it as `table` or `bins`, and its columns as maps")
    else:
        data, header = _fits_image(file, extension, folder)
    if not isinstance(data, np.ndarray) or data.dtype.kind not in "fiub":
        raise ValueError(f"{name} is no image; say which extension is, as FILE[EXTENSION]")
    _refuse_twofold_card(name, header)
    n_axes, data = data.ndim, np.squeeze(data)
    if plane is not None:
        data = data[None] if data.ndim == 2 < n_axes else data  # a cube of one plane
        number = _number_of_plane(name, plane, header, data.shape)
        data, header = data[number], _header_of_plane(header, number, len(data))
    if data.ndim != 2:
        called = plane_names(header, len(data)) if data.ndim == 3 else []
        listed = f"; there are {', '.join(called)}" if called else ", counted from 0"
        raise ValueError(
            f"{name} has shape {data.shape}, not that of an image; choose a plane, FILE[EXTENSION,PLANE]{listed}"
        )
    values, header = data.astype(float), _with_text_unit(header)
    # BLANK is not standard for floats, but common. Of unsigned integers, which FITS keeps as signed ones and a BZERO,
    # astropy leaves it a number.
    offset = {"f": 0.0, "u": _number_or_none(header.get("BZERO"))}.get(data.dtype.kind)
    if offset is not None and (blank := _number_or_none(header.get("BLANK"))) is not None:
        values = blank_to_nan(values, blank + offset)
    return values, header


#: Cards of which a map with another value is another map: where pixels lie, and what their numbers mean.
_TELLING = re.compile(
    r"(?:CTYPE|CUNIT|CRPIX|CRVAL|CDELT|CROTA)[12]|(?:CD|PC)[12]_[12]|BUNIT|BSCALE|BZERO|BLANK|RESTFRE?Q"
)


def _refuse_twofold_card(name: str, header: fits.Header) -> None:
    """Raise ValueError where a card of an image's header comes twice, and not alike: readers take one or the other."""
    for key in dict.fromkeys(filter(_TELLING.fullmatch, header)):
        values = [header[key, i] for i in range(header.count(key))]
        for other in values[1:]:
            if other != values[0]:
                raise ValueError(
                    f"{name}: {key} comes twice in its header, as {values[0]!r} and as {other!r}: remove the wrong card"
                )


def _with_text_unit(header: fits.Header) -> fits.Header:
    """Return a header whose BUNIT is a text, with a number written out; without a value it is None."""
    if isinstance(unit := header.get("BUNIT"), str | None):
        return header
    own = header.copy()
    own["BUNIT"] = str(unit)
    return own


def _fits_image(file: str, extension: int | str | None, folder: Path) -> tuple[Any, fits.Header]:
    """Return what an extension of a FITS file holds, and its header. Raises ValueError where it cannot be read."""
    with _open_fits(folder / file) as hdus:
        extension = _only_image(file, hdus) if extension is None else extension
        if extension not in hdus if isinstance(extension, str) else extension >= len(hdus):
            names = ", ".join(hdu.name or str(i) for i, hdu in enumerate(hdus))
            raise ValueError(f"{file} has no extension {extension}; there are {names}")
        _refuse_one_name(file, extension, [i for i, hdu in enumerate(hdus) if _is_extension(extension, i, hdu)])
        with _telling_damage(file):
            return hdus[extension].data, hdus[extension].header


def _tables_of(hdus: fits.HDUList, extension: int | str | None = None) -> dict[int, Any]:
    """Return the tables of a FITS file by their numbers, or those that an extension, a number or a name, means."""
    tables = {i: hdu for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)}
    return {i: hdu for i, hdu in tables.items() if extension is None or _is_extension(extension, i, hdu)}


def _refuse_one_name(file: str, extension: int | str, numbers: list[int]) -> None:
    """Raise ValueError where several extensions of a file have the name that is meant to choose one."""
    if isinstance(extension, str) and len(numbers) > 1:
        listed = ", ".join(f"{file}[{number}]" for number in numbers)
        raise ValueError(f"{file} has {len(numbers)} extensions called {extension}: choose one by its number, {listed}")


def names_beside(name: str, folder: Path) -> list[str]:
    """Return the names of what the file of a map or table holds: extensions and columns of FITS, arrays of HDF5.

    With them are those of the planes of a cube of which the map is one.
    """
    file, extension, plane = _parse_map_name(name)
    if holds_arrays(file):
        tables = plain_tables(folder / file, None).values()
        names = [*image_names(folder / file), *(column for table in tables for column in table)]
        return [name.rsplit("/", 1)[-1] for name in names]
    if is_plain_table(file):
        return list(columns(name, folder))
    with _open_fits(folder / file) as hdus:
        names = [hdu.name for hdu in hdus if hdu.is_image]
        names += [name for table in _tables_of(hdus).values() for name in table.columns.names]
        if plane is None:
            return names
        cube = hdus[_only_image(file, hdus) if extension is None else extension]
        shape = [n for n in cube.shape if n > 1]
        return names + (plane_names(cube.header, shape[0]) if len(shape) == 3 else [])


#: Cards that number the axes of a header, not the planes of a cube.
_OF_AXES = ("CTYPE", "CUNIT", "CNAME", "NAXIS", "CRVAL", "CRPIX", "CDELT", "CROTA", "PV", "PS", "SIMPLE")
#: What surveys call the cards that name the planes of a cube (MaNGA, Pipe3D), and those that say their units.
_NAMES_OF_PLANES, _UNITS_OF_PLANES = ("DESC", "NAME", "C", "CHAN", "LINE", "PLANE"), ("UNITS", "UNIT", "BUNIT", "U")


def _cards_of_planes(header: fits.Header, n_planes: int) -> dict[str, dict[int, str]]:
    """Return texts that a header numbers by plane, as NAME0 or C01: {name of the cards: {plane, from 0: text}}.

    Numbers go from 0, or else from 1 to the number of planes.
    """
    families: dict[str, dict[int, str]] = {}
    for card in header.cards:
        match = re.fullmatch(r"([A-Z]+)_?(\d+)", card.keyword)
        if match and match[1] not in _OF_AXES and isinstance(card.value, str):
            families.setdefault(match[1], {})[int(match[2])] = card.value.strip()
    found = {}
    for name, texts in families.items():
        first = 0 if 0 in texts else 1
        if max(texts) < n_planes + first and (first == 0 or n_planes in texts):
            found[name] = {number - first: text for number, text in texts.items()}
    return found


def plane_names(header: fits.Header, n_planes: int) -> list[str]:
    """Return what a header calls the planes of a cube; empty where it names not all of them."""
    cards = _cards_of_planes(header, n_planes)
    names = next((cards[key] for key in _NAMES_OF_PLANES if len(cards.get(key, {})) == n_planes), {})
    return [names[plane] for plane in range(n_planes)] if names else []


def _number_of_plane(name: str, plane: int | str, header: fits.Header, shape: tuple[int, ...]) -> int:
    """Return the number, from 0, of a plane given by number or name. Raises ValueError where there is none."""
    if len(shape) != 3:
        raise ValueError(f"{name}: there is no plane {plane} in data of shape {shape}")
    if shape[2] < min(NARROWEST, *shape[:2]):
        raise ValueError(
            f"{name}: a plane of data of shape {shape} would be {shape[1]} x {shape[2]} pixels; where planes lie along "
            "the last axis, write them along the first"
        )
    called = plane_names(header, shape[0])
    if isinstance(plane, str):
        if called.count(plane) == 1:
            return called.index(plane)
        listed = f"there are {', '.join(called)}" if called else f"give its number, from 0 to {shape[0] - 1}"
        found = "several planes" if plane in called else "no plane"
        raise ValueError(f"{name}: its header has {found} {plane}; {listed}")
    if plane >= shape[0]:
        raise ValueError(f"{name}: there is no plane {plane} in data of shape {shape}; planes are counted from 0")
    return plane


def _header_of_plane(header: fits.Header, number: int, n_planes: int) -> fits.Header:
    """Return a cube's header with the unit of one of its planes (BUNIT), and its name (PLANE), where it tells them."""
    cards, called, own = _cards_of_planes(header, n_planes), plane_names(header, n_planes), header.copy()
    unit = next((cards[key].get(number) for key in _UNITS_OF_PLANES if key in cards), None)
    if unit is not None:
        own["BUNIT"] = unit
    if called:
        own["PLANE"] = called[number]
    return own


def _only_image(file: str, hdus: fits.HDUList) -> int:
    """Return the number of the image in a file that is meant where none is named: the primary one, or the only one.

    Raises ValueError where there is none, or where several extensions are images, of which the primary one may have a
    name as well, as that of a flux.
    """
    images = [i for i, hdu in enumerate(hdus) if hdu.is_image and hdu.header.get("NAXIS", 0) >= 2]
    if not images:
        raise ValueError(f"{file} holds no image; for columns of a table give its name as `table`")
    if len(images) > 1 and (images[0] or hdus[0].name not in ("", "PRIMARY")):
        names = ", ".join(hdus[i].name or str(i) for i in images)
        raise ValueError(f"{file} holds several images, {names}: say which is meant, as FILE[EXTENSION]")
    return images[0]


#: Most elements of a column of vectors (of emission lines, say) that are read as columns of their own.
MOST_ELEMENTS = 64
#: Maps of fewer pixels along their shorter side are planes of an array whose last axis counts these.
NARROWEST = 8


def _null_to_nan(values: np.ndarray, column: fits.Column) -> np.ndarray:
    """Return the numbers of a column, NaN where a column of integers, scaled or not, holds its null value (TNULL)."""
    numbers = np.asarray(values, float)
    if isinstance(column.null, int | np.integer):  # that of a column of texts is a text
        scale = float(column.bscale or 1.0)
        null_value = column.null * scale + float(column.bzero or 0.0)
        numbers = np.where(np.abs(numbers - null_value) < 0.5 * abs(scale), np.nan, numbers)
    return numbers


def _is_unsaid(data: fits.FITS_rec, column: fits.Column) -> np.ndarray:
    """Return the rows of a column of an ASCII table whose field is blank or its null value (TNULL): astropy reads 0."""
    texts = np.char.strip(data.view(np.ndarray)[column.name])
    return (texts == b"") | (texts == str(column.null or "").strip().encode())


def blank_to_nan(values: np.ndarray, blank: float) -> np.ndarray:
    """Return values with NaN where they equal `blank`, to 1e-6 of it: with blank 0, a density of 1e-17 is not blank."""
    return np.where(np.abs(values - blank) <= 1e-6 * abs(blank), np.nan, values)


def columns(name: str, folder: Path, wanted: Collection[str] = (), needed: Collection[str] = ()) -> Columns:
    """Read the columns of a table (FITS, or one of FORMATS) that hold one number per row: {name: (values, unit)}.

    Of a column of vectors, element 2 is called `NAME[2]`. Of several tables in a file, of which none is named, the one
    is read that has the columns needed, and the most of those wanted. Raises ValueError where there is no such table,
    no such column or no row, and where several tables have all the columns that are wanted.
    """
    file, extension, _ = _parse_map_name(name)
    if is_plain_table(file):
        tables = plain_tables(folder / file, None if extension is None else str(extension))
    else:
        tables = _fits_tables(name, folder)
    with_units = {
        label: _as_wanted({c: (v, unit or name_and_unit(c)[1]) for c, (v, unit) in table.items()}, wanted)
        for label, table in tables.items()
        if table
    }
    if not with_units or not len(next(iter(next(iter(with_units.values())).values()))[0]):
        raise ValueError(f"{file}: columns must hold one number a row, and there must be rows{_instead(name, folder)}")

    def held(table: Columns) -> tuple[int, int]:
        """Return how many of the columns needed, and of those wanted, a table has."""
        return sum(column in table for column in needed), sum(column in table for column in wanted)

    best = max(held(table) for table in with_units.values())
    fitting = [label for label, table in with_units.items() if held(table) == best]
    if len(fitting) > 1 and wanted and best[1] == len(wanted):
        raise ValueError(
            f"{file} holds several tables with these columns, {', '.join(fitting)}: say which is meant, as "
            "FILE[EXTENSION]"
        )
    return with_units[fitting[0]]


def _as_wanted(table: Columns, wanted: Collection[str]) -> Columns:
    """Return columns of which those whose name ends with a unit are called as they are wanted: `V [km/s]` is V, too.

    A name that could be that of two columns is left to neither.
    """
    called = {}
    for name in set(wanted) - table.keys():
        found = [c for c in table if name == name_and_unit(c)[0] or _squeezed(name) == _squeezed(c)]
        if len(found) == 1:
            called[found[0]] = name
    return {called.get(c, c): pair for c, pair in table.items()}


def _squeezed(column: str) -> str:
    return re.sub(r"\s+(?=[\[(])", "", column)


def _instead(name: str, folder: Path) -> str:
    """Say what stands in a table without columns of numbers, or how to name the images of arrays without any."""
    file, _, _ = _parse_map_name(name)
    if holds_arrays(file):
        return f"; images are named as maps, {file}[DATASET], without table" if image_names(folder / file) else ""
    column, text = next(iter(text_columns(name, folder).items()), ("", ""))
    return (
        f"; column {column} holds text, {text!r} (write numbers as 1.5e3, and names in one line alone)" if text else ""
    )


def _fits_tables(name: str, folder: Path) -> dict[str, Columns]:
    """Return the tables of a FITS file, or the one that `name` names: {name of the table: its columns}.

    Raises ValueError where there is none.
    """
    file, extension, _ = _parse_map_name(name)
    with _open_fits(folder / file) as hdus:
        tables = _tables_of(hdus, extension)
        if extension is not None:
            _refuse_one_name(file, extension, list(tables))
        if not tables:
            raise ValueError(f"{name}: there is no such table in the file; give FILE or FILE[EXTENSION] of a table")
        called = [table.name for table in tables.values()]
        found: dict[str, Columns] = {}
        for number, table in tables.items():
            label = table.name if called.count(table.name) == 1 and table.name else str(number)
            with _telling_damage(file):
                names = table.columns.names
            if doubled := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"table {label}: two columns are called {doubled}: give each its own name")
            with _telling_damage(file):
                parts = _tables_in(table)
            found |= {f"{label}{f' ({k + 1})' if k else ''}": part for k, part in enumerate(parts)}
        return found


def _tables_in(table: fits.BinTableHDU | fits.TableHDU) -> list[Columns]:
    """Return the columns of a table. A single row of vectors, as IDL writes, is a table of each length of these."""
    read: Columns = {}
    units_of_astropy = _units_of_astropy(table.header)
    for column in table.columns:
        values, unit = table.data[column.name], column.unit or units_of_astropy.get(column.name)
        if _is_numbers(values):
            numbers = _null_to_nan(values.ravel(), column)
            if isinstance(table, fits.TableHDU):
                numbers = np.where(_is_unsaid(table.data, column), np.nan, numbers)
            read[column.name] = numbers, unit
        elif values.dtype.kind in "fiub" and values.ndim == 2 and values.shape[1] <= MOST_ELEMENTS:
            numbers = _null_to_nan(values, column)
            read |= {f"{column.name}[{i}]": (numbers[:, i], unit) for i in range(values.shape[1])}
    lengths = sorted({len(values) for values, _ in read.values() if len(values) > 1}, reverse=True)
    return [{name: pair for name, pair in read.items() if len(pair[0]) == length} for length in lengths]


_ASTROPY_BEGINS, _ASTROPY_ENDS = (f"--{edge}-ASTROPY-SERIALIZED-COLUMNS--" for edge in ("BEGIN", "END"))


def _units_of_astropy(header: fits.Header) -> dict[str, str]:
    """Return units {column: unit} that astropy keeps in comments: FITS has none for logarithms, dex(...) or mag(AB).

    They stand in YAML, of whose lines a backslash after 70 letters goes on in the next comment.
    """
    comments = [str(comment) for comment in header.get("COMMENT", [])]
    if not {_ASTROPY_BEGINS, _ASTROPY_ENDS} <= set(comments):
        return {}
    text = ""
    for comment in comments[comments.index(_ASTROPY_BEGINS) + 1 : comments.index(_ASTROPY_ENDS)]:
        text += comment[:70] + ("" if len(comment) == 71 else "\n")
    # The description of columns alone: what follows tells astropy which objects to make of them.
    match = re.search(r"^datatype:\n((?:[-\s].*\n)+)", text, re.M)
    try:
        columns = yaml.safe_load(match[1]) if match else []
        return {str(column["name"]): str(column["unit"]) for column in columns if column.get("unit")}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return {}


def _is_numbers(values: np.ndarray) -> bool:
    """Whether a column holds one number per row, or its rows are one row of numbers."""
    return values.dtype.kind in "fiub" and (values.ndim == 1 or (values.ndim == 2 and 1 in values.shape))


def text_columns(name: str, folder: Path) -> dict[str, str]:
    """Return the columns of a table that hold text, of which no map can be made: {name: the first text}."""
    file, extension, _ = _parse_map_name(name)
    if is_plain_table(file):
        return text_in(folder / file)
    with _open_fits(folder / file) as hdus:
        tables = _tables_of(hdus, extension).values()
        rows = next((table.data for table in tables if table.data is not None and len(table.data)), None)
        if rows is None:
            return {}
        texts = [name for name in rows.dtype.names if rows[name].dtype.kind in "SU"]
        return {column: str(rows[column][0]) for column in texts}


#: So many times more spaxels than any other bin has no bin of a galaxy.
TIMES_A_BIN = 5
#: Usual names, in lower case, of the column that holds a bin's number.
_BIN_NUMBER_COLUMNS = ("bin_id", "binid", "bin_num", "binnum", "bin_number", "bin")


def _are_numbers_of_rows(values: np.ndarray) -> bool:
    """Whether a column (n,) has another whole number in every row."""
    return bool(np.all(values == np.round(values)) and len(np.unique(values)) == len(values))


class Bins:
    """A table with one row per bin. The number of a bin is in a column, or rows are counted from 0 or 1.

    remarks are for the reader, on how the rows were numbered.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        number_column: str | None,
        starts_at: int | None,
        wanted: Collection[str],
        is_said: bool,
    ):
        """Read the table `name`. Bin numbers are in number_column or else in a column with one of the usual names.

        is_said: number_column is what the user called it, not only what spaxels call theirs. With starts_at, the lowest
        number is this, or the first row's where no column numbers the rows. wanted: maps, some of which are columns.
        Raises ValueError where several rows have one number, or where it is not known which column numbers them.
        """
        self.name, self.columns, self.remarks = name, columns(name, folder, wanted), list[str]()
        self.rows = len(next(iter(self.columns.values()))[0])
        if is_said and number_column not in self.columns:
            raise ValueError(f"{name} has no column {number_column} (bin_id); there are {', '.join(self.columns)}")
        usual_columns = [c for c in self.columns if c.lower() in _BIN_NUMBER_COLUMNS]
        named_columns = [number_column] if number_column in self.columns else usual_columns
        self._starts_at, self._row_numbers = starts_at, None
        if (column := self._only(named_columns)) is not None:
            numbers = self.columns[column][0]
            if starts_at is None:
                self._row_numbers = numbers
                if len(np.unique(numbers)) < self.rows:
                    raise ValueError(
                        f"{name}: several rows have one bin's number in {column}: give a table with a row each"
                    )
            elif _are_numbers_of_rows(numbers):  # of which the first need not stand first
                self._row_numbers = np.argsort(np.argsort(numbers)) + float(starts_at)

    def _only(self, names: list[str]) -> str | None:
        """Return the first of some columns, None without any. Raises ValueError where they number rows differently."""
        if any(not np.array_equal(self.columns[name][0], self.columns[names[0]][0]) for name in names):
            raise ValueError(
                f"{self.name}: columns {', '.join(names)} may all hold the bins' numbers, and they differ: say bin_id, "
                "the one that does"
            )
        return next(iter(names), None)

    def row_of(self, bin_of_spaxel: np.ndarray) -> np.ndarray:
        """Return the row of each spaxel's bin, -1 for spaxels in no bin (NaN, negative, not in the table).

        Raises ValueError where the spaxels' numbers seem to be counted from another start than the table's, and where
        it is not known which column holds these.
        """
        bin_of_spaxel = np.where(np.isfinite(bin_of_spaxel), bin_of_spaxel, -1)
        used_numbers = np.unique(bin_of_spaxel[bin_of_spaxel >= 0])
        row_numbers = self._row_numbers
        if row_numbers is None:
            row_numbers = self._found_row_numbers(used_numbers)
        if row_numbers is None:
            row_numbers = self._counted_row_numbers(used_numbers)
        if not np.isin(used_numbers, row_numbers).any():
            raise ValueError(
                f"{self.name}: its bins have none of the numbers of the spaxels; check `bin`, which holds the spaxels' "
                "numbers, and `bin_id`, the table's column of them"
            )
        self._refuse_many_in_zero(bin_of_spaxel, row_numbers)
        # Zero may be the number of a bin, or of none.
        matches = [
            [int(np.isin(numbers, row_numbers + shift).sum()) for shift in (0, -1, 1)]
            for numbers in (used_numbers, used_numbers[used_numbers > 0])
        ]
        if self._starts_at is None and any(max(counts) > counts[0] for counts in matches):
            raise ValueError(
                f"{self.name}: bins are numbered from {row_numbers.min():.0f} to {row_numbers.max():.0f}, spaxels say "
                f"{used_numbers.min():.0f} to {used_numbers.max():.0f}, as if counted from another start: say "
                "bins_start_at: 0 or 1, the number of the first bin"
            )
        order = np.argsort(row_numbers, kind="stable")
        position = np.searchsorted(row_numbers[order], bin_of_spaxel).clip(max=self.rows - 1)
        return np.where(row_numbers[order][position] == bin_of_spaxel, order[position], -1)

    def _refuse_many_in_zero(self, bin_of_spaxel: np.ndarray, row_numbers: np.ndarray) -> None:
        """Raise ValueError where so many spaxels are in bin 0 that it seems to be the number of those in no bin."""
        numbers, counts = np.unique(bin_of_spaxel[bin_of_spaxel >= 0], return_counts=True)
        n_in_zero, n_in_others = int(counts[numbers == 0].sum()), int(counts[numbers > 0].max(initial=0))
        if self._starts_at is None and 0 in row_numbers and 0 < TIMES_A_BIN * n_in_others < n_in_zero:
            raise ValueError(
                f"{self.name}: {n_in_zero} of {bin_of_spaxel.size} spaxels are in bin 0, in any other {n_in_others} at "
                "most: if 0 says that a spaxel is in no bin, give these -1; if all are in it, say bins_start_at: 0"
            )

    def _found_row_numbers(self, used_numbers: np.ndarray) -> np.ndarray | None:
        """Return the numbers of the rows (n,) from the column that holds those of the spaxels, None without one.

        It has another whole number in every row, and all that are used, but for zero, which may mean no bin. Raises
        ValueError where several columns have, in different orders, or where one has if it is counted from another start
        and its rows are not in that order: rows as they stand in the file would then be those of other bins.
        """
        used_numbers = used_numbers[used_numbers > 0]
        if self._starts_at is not None or not len(used_numbers):
            return None
        numbered = {name: values for name, (values, _) in self.columns.items() if _are_numbers_of_rows(values)}
        column = self._only([name for name, numbers in numbered.items() if np.isin(used_numbers, numbers).all()])
        if column is not None:
            if np.any(np.diff(numbered[column]) < 0):
                self.remarks.append(
                    f"Rows of {self.name} were taken by their numbers in column {column}, which are those of the "
                    "spaxels' bins, and not in the order of the file: if that is wrong say bin_id or bins_start_at."
                )
            return numbered[column]
        for name, numbers in numbered.items():
            is_shifted = any(np.isin(used_numbers, numbers + shift).all() for shift in (-1, 1))
            if is_shifted and np.any(np.diff(numbers) < 0):
                raise ValueError(
                    f"{self.name}: {name} numbers its rows from {numbers.min():.0f} to {numbers.max():.0f} in an order "
                    f"of its own, and spaxels say {used_numbers.min():.0f} to {used_numbers.max():.0f}: if that column "
                    f"holds the bins' numbers say bin_id: {name} and bins_start_at: 0 or 1, the number of the first bin"
                )
        return None

    def _counted_row_numbers(self, used_numbers: np.ndarray) -> np.ndarray:
        """Number the rows of a table without bin numbers, from 0 or 1.

        The start is that for which every used number has a row and the last row is used. Raises ValueError where
        neither start is so.
        """
        row_index = np.arange(self.rows, dtype=float)
        if self._starts_at is not None:
            return row_index + self._starts_at
        lowest, highest = (used_numbers.min(), used_numbers.max()) if len(used_numbers) else (0, 0)
        if highest == self.rows:  # a bin number of zero, if there is one, then means no bin
            return row_index + 1
        if highest == self.rows - 1 and lowest != 1:
            return row_index
        raise ValueError(
            f"{self.name}: {self.rows} rows without numbers, and spaxels say {lowest:.0f} to {highest:.0f}: say "
            "bins_start_at: 0 or 1, the number of the first row, or name the column of numbers with bin_id"
        )

    def at_spaxels(self, name: str, row_of_spaxel: np.ndarray) -> tuple[np.ndarray, str | None]:
        """Return a column's value for every spaxel, NaN where row_of_spaxel is -1, and the column's unit."""
        value, unit = self.columns[name]
        return np.where(row_of_spaxel >= 0, value[row_of_spaxel], np.nan), unit


def beam_fwhm_arcsec(name: str, folder: Path) -> float | None:
    """Find the FWHM [arcsec] of the beam of an image or a table, None where the file does not tell it.

    It is the geometric mean of both axes; a beam of which only one axis is given is round. The axes are BMAJ and BMIN
    of headers, else a table BEAMS, else GIPSY's BMMAJ and BMMIN, else what AIPS wrote into HISTORY.
    """
    file, extension, _ = _parse_map_name(name)
    if is_plain_table(file):
        return None  # only FITS files have such headers
    with _open_fits(folder / file) as hdus:
        own_headers = [h.header for i, h in enumerate(hdus) if _is_extension(extension, i, h)]
        headers = [*own_headers, *(h.header for h in hdus)] if extension is None else [*own_headers, hdus[0].header]
        beam_tables = [h for h in hdus if isinstance(h, fits.BinTableHDU) and h.name == "BEAMS"]
        beam_axes = [(header.get("BMAJ"), header.get("BMIN")) for header in headers]
        beam_axes += [_axes_of_beam_table(table) for table in beam_tables]
        beam_axes += [_axes_of_gipsy(header) for header in headers]
        beam_axes += [_axes_of_history(header) for header in headers]
    for major, minor in beam_axes:
        if (major_deg := positive_or_none(major)) is not None:
            return 3600 * float(np.sqrt(major_deg * (positive_or_none(minor) or major_deg)))
    return None


def _number_or_none(value: Any) -> float | None:
    """Return the value of a card as a float, None where it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def positive_or_none(value: Any) -> float | None:
    """Return the value as a float where it is positive and finite, else None."""
    number = _number_or_none(value)
    return number if number is not None and 0 < number < np.inf else None


def _axes_of_beam_table(table: fits.BinTableHDU) -> tuple[Any, Any]:
    """Return the median axes [degrees] of CASA's table of one beam per channel; without units it is in arcsec."""
    axes_deg = []
    for axis in ("BMAJ", "BMIN"):
        if axis not in table.columns.names:
            return None, None
        unit = units.Unit(table.columns[axis].unit or "arcsec")
        axes_deg.append(float(np.median(table.data[axis])) * float(unit.to(units.deg)))
    return axes_deg[0], axes_deg[1]


#: GIPSY's beams are in arcsec, and in degrees where BBarolo writes them: none is so narrow, or so wide.
_LARGEST_DEGREES = 0.5


def _axes_of_gipsy(header: fits.Header) -> tuple[float | None, float | None]:
    """Return the axes [degrees] of the beam that GIPSY writes (WHISP), BMMAJ and BMMIN, or CLBMMAJ and CLBMMIN."""
    for prefix in ("BM", "CLBM"):
        major, minor = (positive_or_none(header.get(f"{prefix}{axis}")) for axis in ("MAJ", "MIN"))
        if major is not None:
            degrees = 1.0 if major < _LARGEST_DEGREES else 1 / 3600
            return degrees * major, None if minor is None else degrees * minor
    return None, None


def _axes_of_history(header: fits.Header) -> tuple[Any, Any]:
    """Return the axes [degrees] of the last beam that AIPS noted: CLEAN BMAJ=  1.7E-03 BMIN=  1.6E-03 BPA=  10.0."""
    notes = " ".join(str(line) for key in ("HISTORY", "COMMENT") for line in header.get(key, ""))
    number = r"\s*=\s*([-+.\d]+(?:[eEdD][-+]?\d+)?)"
    matches = re.findall(rf"\bBMAJ{number}\s*,?\s*(?:BMIN{number})?", notes)
    return tuple(part.upper().replace("D", "E") for part in matches[-1]) if matches else (None, None)  # type: ignore[return-value]
