"""Read the columns of tables that are not FITS: text, ECSV, VOTable and HDF5. Nothing in a file is executed."""

import warnings
from pathlib import Path

import h5py
import numpy as np
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning

#: Suffixes of files that are read here, and the format in which astropy knows them.
FORMATS = {
    ".ecsv": "ascii.ecsv", ".csv": "ascii", ".tsv": "ascii", ".txt": "ascii", ".dat": "ascii", ".asc": "ascii",
    ".vot": "votable", ".xml": "votable", ".votable": "votable", ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5",
}  # fmt: skip
#: How texts say that nothing was measured.
_NOTHING = [(text, "nan") for text in ("", "--", "-", "N/A", "n/a", "NA", "null", "NULL", "INDEF", "...", "masked")]

Columns = dict[str, tuple[np.ndarray, str | None]]


def is_plain_table(file: str) -> bool:
    """Whether a file is a table that is not FITS, by its suffix; texts may be compressed (.gz)."""
    return _suffix(file) in FORMATS


def _suffix(file: str | Path) -> str:
    path = Path(file)
    inner = Path(path.stem).suffix.lower()
    return inner if path.suffix.lower() == ".gz" and FORMATS.get(inner) not in (None, "hdf5") else path.suffix.lower()


def plain_columns(path: Path, part: str | None) -> Columns:
    """Return the columns that hold one number per row: {name: (values, unit)}; masked values are NaN.

    part: the group, or table, of an HDF5 file that is meant; the first one where left out. Raises ValueError for a
    file that cannot be read.
    """
    kind = FORMATS[_suffix(path)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            if kind == "hdf5":
                return _hdf5_columns(path, part)
            # Texts have columns by commas, tabs, semicolons or blanks, and a line of names, which may begin with #.
            table = _text_table(path) if kind == "ascii" else Table.read(path, format=kind)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        why = " ".join(str(error).split())
        if "Unable to guess" in why:  # astropy lists all that it has tried
            why = "lines must have one number of columns each, under a line of names"
        raise ValueError(f"{path.name} cannot be read as a table ({why})") from error
    return {name: _numbers(table[name]) for name in table.colnames if _is_numeric(table[name])}


def _text_table(path: Path) -> Table:
    """Read a table whose columns are separated by commas, tabs, blanks or (where it has a single column) semicolons."""
    table = Table.read(path, format="ascii", guess=True, fill_values=_NOTHING)
    if len(table.colnames) > 1:
        return table
    return Table.read(path, format="ascii.basic", guess=False, delimiter=";", fill_values=_NOTHING)


def text_in(path: Path) -> dict[str, str]:
    """Return the columns that hold something that is no number: {name: the first such text}; none of HDF5 files."""
    kind = FORMATS.get(_suffix(path))
    if kind == "hdf5" or kind is None:
        return {}
    table = _text_table(path) if kind == "ascii" else Table.read(path, format=kind)
    found = {}
    for name in table.colnames:
        if table[name].dtype.kind == "U":
            texts = [str(text) for text in table[name] if not _is_number(str(text))]
            found[name] = texts[0] if texts else str(table[name][0])
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_numeric(column: np.ndarray) -> bool:
    return column.ndim == 1 and column.dtype.kind in "fiub"


def _numbers(column: Table.Column) -> tuple[np.ndarray, str | None]:
    values = np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
    return np.asarray(values), None if column.unit is None else str(column.unit)


def _hdf5_columns(path: Path, part: str | None) -> Columns:
    """Read a compound dataset, as astropy and PyTables write, or a group of one dataset per column."""
    with h5py.File(path) as file:
        node: h5py.Group | h5py.Dataset = file[part] if part else file
        datasets = (
            [node] if isinstance(node, h5py.Dataset) else [d for d in node.values() if isinstance(d, h5py.Dataset)]
        )
        if not datasets and not part:
            group = next((g for g in file.values() if isinstance(g, h5py.Group)), None)
            datasets = [] if group is None else [d for d in group.values() if isinstance(d, h5py.Dataset)]
        tables = [d for d in datasets if d.dtype.names and not d.name.endswith("__table_column_meta__")]
        if tables:
            table = tables[0]
            with_units = Table.read(path, path=table.name.lstrip("/"), format="hdf5", character_as_bytes=True)
            return {name: _numbers(with_units[name]) for name in with_units.colnames if _is_numeric(with_units[name])}
        found: Columns = {}
        for dataset in datasets:
            if dataset.ndim == 1 and dataset.dtype.kind in "fiub":
                unit = next((dataset.attrs[key] for key in ("unit", "units") if key in dataset.attrs), None)
                unit = unit.ravel()[0] if isinstance(unit, np.ndarray) and unit.size == 1 else unit
                text = unit.decode() if isinstance(unit, bytes) else unit
                found[dataset.name.rsplit("/", 1)[-1]] = (
                    np.asarray(dataset[()], float),
                    None if text is None else str(text),
                )
        return found
