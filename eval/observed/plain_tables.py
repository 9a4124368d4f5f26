"""Read the columns of tables that are not FITS: ECSV and CSV, and HDF5. Nothing in a file is executed."""

import warnings
from pathlib import Path

import h5py
import numpy as np
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning

#: Suffixes of files that are read here, and the format in which astropy knows them.
FORMATS = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5"}

Columns = dict[str, tuple[np.ndarray, str | None]]


def is_plain_table(file: str) -> bool:
    """Whether a file is a table that is not FITS, by its suffix."""
    return Path(file).suffix.lower() in FORMATS


def plain_columns(path: Path, part: str | None) -> Columns:
    """Return the columns that hold one number per row: {name: (values, unit)}; masked values are NaN.

    part: the group, or table, of an HDF5 file that is meant; the first one where left out. Raises ValueError for a
    file that cannot be read.
    """
    kind = FORMATS[path.suffix.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            if kind == "hdf5":
                return _hdf5_columns(path, part)
            table = Table.read(path, format=kind)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path.name} cannot be read as a table ({error})") from error
    return {name: _numbers(table[name]) for name in table.colnames if _is_numeric(table[name])}


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
                text = unit.decode() if isinstance(unit, bytes) else unit
                found[dataset.name.rsplit("/", 1)[-1]] = (
                    np.asarray(dataset[()], float),
                    None if text is None else str(text),
                )
        return found
