"""Read tables that are not FITS: text, ECSV, VOTable, HDF5, numpy; images of the last two, too. Nothing is executed."""

import codecs
import gzip
import io
import re
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.io import votable
from astropy.table import MaskedColumn, Table
from astropy.table.serialize import represent_mixins_as_columns
from astropy.utils.exceptions import AstropyWarning

from kinmass.eval.observed.fits_units import read_unit
from kinmass.eval.observed.text_heads import (
    MOST_LINES_BEFORE,
    first_row,
    is_number,
    is_of_maps,
    with_one_line_of_names,
    with_units_at_names,
    without_frame,
    words_of,
)

#: Suffixes of files that are read here, and the format in which astropy knows them.
FORMATS = {
    ".ecsv": "ascii.ecsv", ".csv": "ascii", ".tsv": "ascii", ".txt": "ascii", ".dat": "ascii", ".asc": "ascii",
    ".tbl": "ascii", ".mrt": "ascii",
    ".vot": "votable", ".xml": "votable", ".votable": "votable", ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5",
    ".npz": "numpy", ".npy": "numpy",
}  # fmt: skip
#: How texts say that nothing was measured.
_NOTHING = [
    (text, "nan")
    for text in ("", "--", "-", "N/A", "n/a", "NA", "null", "NULL", "INDEF", "...", "masked", "None", "none")
]

Columns = dict[str, tuple[np.ndarray, str | None]]


def is_plain_table(file: str) -> bool:
    """Whether a file is a table that is not FITS, by its suffix; texts may be compressed (.gz)."""
    return _suffix(file) in FORMATS


def _suffix(file: str | Path) -> str:
    path = Path(file)
    inner = Path(path.stem).suffix.lower()
    return inner if path.suffix.lower() == ".gz" and FORMATS.get(inner) not in (None, "hdf5") else path.suffix.lower()


def holds_arrays(file: str | Path) -> bool:
    """Whether a file is HDF5 or numpy's, by its suffix: images may be in it as well as tables."""
    return FORMATS.get(_suffix(file)) in ("hdf5", "numpy")


def _is_numpy(path: Path) -> bool:
    return FORMATS.get(_suffix(path)) == "numpy"


def plain_tables(path: Path, part: str | None) -> dict[str, Columns]:
    """Return the tables of a file {name: columns that hold one number per row}, of which texts hold one, "".

    Columns are {name: (values, unit)}; masked values are NaN. part: the group, or table, of an HDF5 file or a VOTable
    that is meant; all of them where left out. Raises ValueError for a file that cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            if _is_numpy(path):
                return _numpy_tables(path)
            if holds_arrays(path):
                return _hdf5_tables(path, part)
            tables = _tables(path, part)
    except Exception as error:  # each kind of file and of compression raises errors of its own
        why = " ".join(str(error).split())
        if "Unable to guess" in why:  # astropy lists all that it has tried
            why = "lines must have one number of columns each, under a line of names"
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            why = f"it is cut short or damaged: {why}; get it again"
        raise ValueError(f"{path.name} cannot be read as a table ({why})") from error
    return {label: _columns(table) for label, table in tables.items()}


def _tables(path: Path, part: str | None = None) -> dict[str, Table]:
    """Return the tables of a text or a VOTable {name, "" for a text's: table}. Raises as its readers do."""
    kind = FORMATS[_suffix(path)]
    if kind == "votable":
        return _votables(path, part)
    table = _text_table(path) if kind == "ascii" else Table.read(_lines(path), format=kind)
    for name in table.colnames:
        if (truths := _truths(table[name])) is not None:
            table.replace_column(name, truths)
    return {"": table}


def _votables(path: Path, part: str | None) -> dict[str, Table]:
    """Return the tables of a VOTable that have rows {name or ID, or number from 0: table}, or the one called `part`.

    Raises ValueError where there is no such table.
    """
    tables = list(votable.parse(io.BytesIO(_content(path))).iter_tables())
    called = [str(table.name or table.ID or "") for table in tables]
    labels = [name if name and called.count(name) == 1 else str(i) for i, name in enumerate(called)]
    if part is not None and part not in labels:
        raise ValueError(f"there is no {part}; there are {', '.join(labels)}")
    found = {label: table.to_table() for label, table in zip(labels, tables, strict=True) if part in (None, label)}
    return {label: table for label, table in found.items() if len(table)} or found


def _truths(column: Any) -> Table.Column | None:
    """Return a column of texts that all are True or False, as pandas writes, as truths; None for other columns."""
    if getattr(column, "dtype", np.dtype(float)).kind != "U":
        return None
    texts = np.ma.asarray(column)
    if np.ma.getmaskarray(texts).all():
        return None
    lower = np.char.lower(np.ma.filled(texts, "false").astype(str))
    if not np.isin(lower, ("true", "false")).all():
        return None
    return MaskedColumn(lower == "true", mask=np.ma.getmaskarray(texts), name=column.name)


def _text_table(path: Path) -> Table:
    """Read a table whose columns are separated by commas, tabs, blanks or (where it has a single column) semicolons.

    Where no line of names can be told, they are those of the last comment that has as many words as there are columns.
    Raises ValueError where two columns have one name, and where the line below the names is neither numbers nor units.
    """
    lines = with_units_at_names(with_one_line_of_names(without_frame(_lines(path))))
    if (table := _vizier_table(lines)) is not None:
        return table
    line_of_units, units = _units_in(lines)
    table = _named_table(path, [line for line in lines if line is not line_of_units])
    if len(units) == len(table.colnames):
        for name, unit in zip(table.colnames, units, strict=True):
            table[name].unit = table[name].unit or unit
    _refuse_twofold(lines, table.colnames)
    _refuse_words_below_names(table)
    return table


def _named_table(path: Path, lines: list[str]) -> Table:
    """Return the table of a text's lines, with the names that stand in it."""
    if _suffix(path) == ".csv" and lines[0].startswith((",", '"",')):  # the number of a row, as pandas writes
        return Table.read(lines, format="ascii.csv", guess=False, fill_values=_NOTHING)
    table = Table.read(lines, format="ascii", guess=True, fill_values=_NOTHING)
    if len(table.colnames) == 1:
        table = Table.read(lines, format="ascii.basic", guess=False, delimiter=";", fill_values=_NOTHING)
    if table.colnames == [f"col{i + 1}" for i in range(len(table.colnames))]:
        comments = [str(line).split() for line in table.meta.get("comments", [])]
        names = next(
            (words for words in reversed(comments) if len(set(words)) == len(words) == len(table.colnames)), []
        )
        if names:
            table.rename_columns(table.colnames, names)
    return table


def _units_in(lines: list[str]) -> tuple[str | None, list[str | None]]:
    """Return the line above a text's numbers, a comment or not, that holds a unit for each column, and these units.

    One of them is of places or velocities: other words may be units by chance, as V and S are. (None, []) without.
    """
    i, n_columns, between = first_row(lines)
    for above in lines[:i]:
        try:
            units = [_unit_or_none(word) for word in words_of(above.lstrip("#"), between)]
        except ValueError:
            continue
        if len(units) == n_columns and any(map(is_of_maps, units)):
            return above, units
    return None, []


def _refuse_words_below_names(table: Table) -> None:
    """Raise ValueError where the first row of a table is words, in columns that hold numbers below."""
    if len(table) < 2:
        return
    first, second = (
        ["" if np.ma.is_masked(table[name][i]) else str(table[name][i]).strip() for name in table.colnames]
        for i in range(2)
    )
    is_over_number = [bool(word) and is_number(below) for word, below in zip(first, second, strict=True)]
    if any(is_over_number) and not any(map(is_number, first)):
        raise ValueError(
            f"below the line of names stands {', '.join(first)}, which is neither numbers nor known units: leave that "
            "line out, or write units as astropy does, e.g. km/s"
        )


def _unit_or_none(text: str) -> str | None:
    """Return a unit as it stands in a text without brackets around all of it, None for none. Raises ValueError."""
    bare = match[1] if (match := re.fullmatch(r"[\[(]([^()\[\]]*)[\])]", text)) else text
    if is_number(bare):
        raise ValueError(f"{bare} is a number")
    return bare if bare.strip("-. ") and read_unit(bare) else None


def _vizier_table(lines: list[str]) -> Table | None:
    """Read a text as VizieR writes it: below the names a line of units, then one of dashes; None for other texts."""
    head, rows = [], [line for line in lines if line.strip() and not line.startswith("#")]
    head, rows = rows[:3], rows[3:]
    if len(head) < 3 or not (dashes := re.fullmatch(r"-+(?:([\t;|])-+)+", head[2])):
        return None
    table = Table.read([head[0], *rows], format="ascii.basic", guess=False, delimiter=dashes[1], fill_values=_NOTHING)
    for name, unit in zip(table.colnames, head[1].split(dashes[1]), strict=True):
        table[name].unit = unit.strip() or None
    return table


def _refuse_twofold(lines: list[str], names: list[str]) -> None:
    """Raise ValueError where a line of names has one twice, of which the reader calls the second `NAME_1`."""
    for line in lines[:MOST_LINES_BEFORE]:
        words = re.split(r"[\s,;|]+", line.strip("#\"' \n"))
        doubled = {word for word in words if words.count(word) > 1 and f"{word}_1" not in words}
        if found := sorted(word for word in doubled if word in names and f"{word}_1" in names):
            raise ValueError(f"two columns are called {found[0]}: give each its own name")


def _content(path: Path) -> bytes:
    """Return what a file holds, compressed or not."""
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
        return bytes(file.read())


def _lines(path: Path) -> list[str]:
    """Return the lines of a text, compressed or not, in UTF-8, UTF-16 with its mark (Excel), or else Latin-1."""
    content = _content(path)
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if not text.strip():
        raise ValueError("it is empty")
    lines = re.split("\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def text_in(path: Path) -> dict[str, str]:
    """Return the columns that hold something that is no number: {name: the first such text}; none of arrays."""
    if holds_arrays(path) or not is_plain_table(str(path)):
        return {}
    found = {}
    for table in _tables(path).values():
        for name in table.colnames:
            if len(table) and getattr(table[name], "dtype", np.dtype(float)).kind == "U":
                texts = [str(text) for text in table[name] if not is_number(str(text))]
                found[name] = texts[0] if texts else str(table[name][0])
    return found


def _columns(table: Table) -> Columns:
    """Return the columns of a table that hold one number per row.

    Those of an object of astropy are called as in FITS: of a SkyCoord sky, `sky.ra` and `sky.dec`.
    """
    objects = [name for name in table.colnames if not hasattr(table[name], "dtype")]
    parts = represent_mixins_as_columns(Table({name: table[name] for name in objects}, copy=False))
    held = {name: column for each in (table, parts) for name, column in each.columns.items() if name not in objects}
    return {name: _numbers(column) for name, column in held.items() if _is_numeric(column)}


def _is_numeric(column: Any) -> bool:
    """Whether a column or a dataset holds one number per row; astropy's places and times (SkyCoord, Time) do not."""
    return hasattr(column, "dtype") and column.ndim == 1 and column.dtype.kind in "fiub"


def _numbers(column: Table.Column) -> tuple[np.ndarray, str | None]:
    values = np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
    return np.asarray(values), None if column.unit is None else str(column.unit)


def _hdf5_tables(path: Path, part: str | None) -> dict[str, Columns]:
    """Read compound datasets, as astropy and PyTables write, and groups of one dataset per column {name: columns}.

    Raises ValueError where there is no such part.
    """
    with h5py.File(path) as file:
        if part and part not in file:
            raise ValueError(f"there is no {part}; there are {', '.join(_hdf5_names(file))}")
        top: h5py.Group | h5py.Dataset = file[part] if part else file
        groups = [top, *_members(top, h5py.Group)]
        tables: dict[str, Columns] = {}
        for group in groups:
            datasets = [group] if isinstance(group, h5py.Dataset) else list(group.values())
            datasets = [d for d in datasets if isinstance(d, h5py.Dataset)]
            for table in datasets:
                if table.dtype.names and not table.name.endswith("__table_column_meta__"):
                    name = table.name.lstrip("/")
                    read = Table.read(path, path=name, format="hdf5", character_as_bytes=True)
                    tables[name] = _columns(read)
            columns = {
                d.name.rsplit("/", 1)[-1]: (_values_of(d).astype(float), _unit_of(d))
                for d in datasets
                if _is_numeric(d)
            }
            if columns:
                tables[group.name.lstrip("/")] = columns
        return tables


def _members(group: h5py.Group | h5py.Dataset, kind: type) -> list[Any]:
    """Return the groups, or datasets, at any depth in a group of an HDF5 file."""
    found: list[Any] = []
    if isinstance(group, h5py.Group):
        group.visititems(lambda _, node: found.append(node) if isinstance(node, kind) else None)
    return found


def _hdf5_names(file: h5py.File) -> list[str]:
    nodes = [node for kind in (h5py.Group, h5py.Dataset) for node in _members(file, kind)]
    return [node.name.lstrip("/") for node in nodes if not node.name.endswith("__table_column_meta__")]


#: Attributes that hold a dataset's unit, in lower case; the first that is there counts.
_UNIT_ATTRIBUTES = ("unit", "units", "bunit", "tunit", "astropy_unit")


def _unit_of(dataset: h5py.Dataset) -> str | None:
    spelt = {str(key).lower(): key for key in dataset.attrs}
    unit = next((dataset.attrs[spelt[key]] for key in _UNIT_ATTRIBUTES if key in spelt), None)
    unit = unit.ravel()[0] if isinstance(unit, np.ndarray) and unit.size == 1 else unit
    text = unit.decode() if isinstance(unit, bytes) else unit
    return None if text is None else str(text)


def _values_of(dataset: h5py.Dataset) -> np.ndarray:
    """Return a dataset's numbers, NaN where blank, as its attributes of netCDF's convention (CF, section 8.1) say.

    `_FillValue` and `missing_value` are of numbers as stored, which become `scale_factor` times them plus `add_offset`.
    Raises ValueError for such an attribute that is no number.
    """
    stored = np.asarray(dataset[()])
    told = {}
    for key in ("_FillValue", "missing_value", "scale_factor", "add_offset"):
        if key in dataset.attrs:
            try:
                told[key] = np.ravel(dataset.attrs[key]).astype(float)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{dataset.name}: its attribute {key} is no number; mend it or remove it") from error
    if not told:
        return stored
    values = stored.astype(float)
    is_blank = np.zeros(values.shape, bool)
    for blank in np.concatenate([told.get("_FillValue", []), told.get("missing_value", [])]):
        is_blank |= np.abs(values - blank) <= 1e-6 * abs(blank)  # 1e20 in single precision is another number
    factor, offset = told.get("scale_factor", np.ones(1)), told.get("add_offset", np.zeros(1))
    return np.where(is_blank, np.nan, factor[0] * values + offset[0])


def _images(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the datasets of numbers of two or more dimensions {name: dataset}."""
    return {d.name.lstrip("/"): d for d in _members(file, h5py.Dataset) if d.ndim >= 2 and d.dtype.kind in "fiub"}


def image_names(path: Path) -> list[str]:
    """Return the names of the arrays of a file that `image_in` can read. Raises ValueError."""
    try:
        if _is_numpy(path):
            return [name for name, values in _numpy_arrays(path).items() if values.ndim >= 2]
        with h5py.File(path) as file:
            return list(_images(file))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; paths are relative to the YAML file's folder") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as HDF5 ({error})") from error


def image_in(path: Path, part: str | None) -> tuple[np.ndarray, str | None, str]:
    """Return an array of two or more dimensions of an HDF5 or a numpy file, its unit and name.

    part, its name, may be left out where there is only one. Raises ValueError for a file that cannot be read, or where
    there is no such array.
    """
    images = image_names(path)
    name = part.strip("/") if part else next(iter(images), "")
    if name not in images or (part is None and len(images) > 1):
        raise ValueError(
            f"{path.name}: say which image is meant, as FILE[DATASET]; there are {', '.join(images) or 'none'}"
        )
    own_name = name.encode("ascii", "replace").decode()
    if _is_numpy(path):
        return _numpy_arrays(path)[name], None, own_name
    try:
        with h5py.File(path) as file:
            return _values_of(file[name]), _unit_of(file[name]), own_name
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as HDF5 ({error})") from error


def _numpy_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of numbers of a numpy file (.npz, .npy) {name: values}; "" is that of .npy without fields.

    Objects, which numpy would have to execute, are left out. Raises ValueError for a file that cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    arrays = {}
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            loaded = {name: loaded[name] for name in loaded.dtype.names} if loaded.dtype.names else {"": loaded}
        for name in loaded:
            with suppress(ValueError):  # of objects
                arrays[str(name)] = np.asarray(loaded[name])
    except Exception as error:  # a damaged archive raises errors of zip's, too
        why = "it is damaged, or holds objects of Python" if "pickle" in str(error) else " ".join(str(error).split())
        raise ValueError(f"{path.name} cannot be read as numpy's ({why}); save arrays of numbers") from error
    return {name: values for name, values in arrays.items() if values.dtype.kind in "fiub"}


def _numpy_tables(path: Path) -> dict[str, Columns]:
    """Return arrays of one dimension as columns, a table for each length {rows in words: columns}."""
    rows = {name: values for name, values in _numpy_arrays(path).items() if values.ndim == 1}
    lengths = sorted({len(values) for values in rows.values()}, reverse=True)
    return {
        f"{length} rows": {name: (v.astype(float), None) for name, v in rows.items() if len(v) == length}
        for length in lengths
    }
