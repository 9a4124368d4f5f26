"""Where the particles of a large file lie by the table of cells that it holds: SWIFT's cells, EAGLE's hash table.

Such a table spares looking at every position of a box. It is used where it says for each row of the file in what cuboid
it lies, and where rows that are looked at do lie there; else positions are looked at. Every row that is read for a
galaxy later is compared with what was said of it (`gen.formats.blocks.Blocks.check`), so that no table is trusted
without being seen to hold.

SWIFT (src/common_io_cells.c) counts particles in the cells that they had when these were last built, and they may have
left them since. So only tables with MinPositions and MaxPositions are used, which say how far they went. EAGLE (The
EAGLE team 2017, arXiv:1706.09899, section 3.3) sorts particles by the key of the cell that they lie in on a
Peano-Hilbert curve, that of GADGET-2 (Springel 2005).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import h5py
import numpy as np

from kinmass.gen.formats.blocks import NO_CELLS, Blocks, joined

#: The groups of a file that hold such a table.
TABLES = ("Cells", "HashTable")
#: The attribute of a staged file's Header that says whether there is one.
HAS_TABLE = "HasTableOfCells"
#: So many cells of each file are looked at, in each of them at most so many rows, before its table is used.
LOOKED_AT, ROWS_LOOKED_AT = 24, 2048
#: Cuboids are taken larger by this share of a cell on all sides: positions are kept with fewer digits than codes have.
MARGIN = 1e-3


class Cells(NamedTuple):
    """Cuboids low to high (C, 3) [code units] in which rows start to end (C,) of a type lie; every row is in one."""

    start: np.ndarray
    end: np.ndarray
    low: np.ndarray
    high: np.ndarray


def has_table(file: h5py.File) -> bool:
    """Tell whether a file has a table of cells that may say where its particles lie."""
    names = [f"Cells/{name}" for name in ("MinPositions", "MaxPositions")]
    return all(name in file for name in names) or any(key.startswith("PartType") for key in file.get("HashTable", ()))


def told(files: Sequence[Any], of_snapshot: Sequence[str]) -> Blocks | None:
    """Tell by the tables in the staged files where blocks of particles lie; None where they do not say it.

    files: yt's blocks, with filename, start and end. of_snapshot: all staged files of the snapshot, in their order.
    """
    found = []
    for path, blocks in groupby(files, attrgetter("filename")):
        with h5py.File(path, "r") as file:
            cells = _believed(file, of_snapshot.index(path))
        if cells is None:
            return None
        found.append(_around(cells, np.array([(block.start, block.end) for block in blocks])))
    return joined(found)


def _believed(file: h5py.File, number: int) -> dict[str, Cells] | None:
    """Return the cells of each type in the staged file of a number; None where rows lie elsewhere."""
    rng, found = np.random.default_rng(0), {}
    types = [key for key in file if key.startswith("PartType") and "Coordinates" in file[key]]
    for ptype in types:
        positions = file[ptype]["Coordinates"]
        cells = _cells(file, ptype, number) if len(positions) else None
        if len(positions) and (cells is None or not _holds(positions, cells, rng, -(-LOOKED_AT // len(types)))):
            return None
        if cells is not None:
            found[ptype] = cells
    return found


def _cells(file: h5py.File, ptype: str, number: int) -> Cells | None:
    """Return the cells of a type by whatever table there is; None where there is none, or not for all rows."""
    readers = {"Cells": _of_swift, "HashTable": _of_eagle}
    tables = [name for name in TABLES if name in file]
    try:
        cells = readers[tables[0]](file[tables[0]], ptype, number) if len(tables) == 1 else None
    except (KeyError, ValueError, IndexError, OSError, TypeError, OverflowError):  # some other table, or a damaged one
        return None
    if cells is None:
        return None
    order = np.lexsort((cells.end, cells.start))
    cells = Cells(*(column[order] for column in cells))
    is_filled = cells.end > cells.start
    cells = Cells(*(column[is_filled] for column in cells))
    n = len(file[ptype]["Coordinates"])
    follow = np.array_equal(cells.start, np.concatenate([[0], cells.end[:-1]])[: len(cells.start)])
    is_whole = len(cells.start) > 0 and follow and cells.end[-1] == n
    is_cuboid = np.isfinite(cells.low).all() and np.isfinite(cells.high).all() and (cells.low <= cells.high).all()
    return cells if is_whole and is_cuboid else None


def _of_swift(table: h5py.Group, ptype: str, number: int) -> Cells | None:
    if not {"MinPositions", "MaxPositions", "OffsetsInFile", "Counts", "Files"} <= set(table):
        return None
    counts = np.asarray(table["Counts"][ptype], dtype=np.int64)
    start = np.asarray(table["OffsetsInFile"][ptype], dtype=np.int64)
    of_file = np.asarray(table["Files"][ptype], dtype=np.int64)
    low, high = (np.asarray(table[name][ptype], dtype=np.float64) for name in ("MinPositions", "MaxPositions"))
    if _box(table).get("Virtual"):  # rows follow each other, file after file
        n_before = np.concatenate([[0], np.cumsum(np.bincount(of_file, counts).astype(np.int64))])
        start = start + n_before[of_file]
    elif of_file.any():
        is_here = of_file == number
        counts, start, low, high = counts[is_here], start[is_here], low[is_here], high[is_here]
    is_filled = counts > 0  # of the others MinPositions are not those of any particle
    counts, start, low, high = counts[is_filled], start[is_filled], low[is_filled], high[is_filled]
    size = np.asarray(table["Meta-data"].attrs["size"], dtype=np.float64)
    low, high = low - MARGIN * size, high + MARGIN * size
    # Particles that have left the box come back into it when they are written, after these numbers were taken.
    box = np.broadcast_to(np.asarray(_box(table)["BoxSize"], dtype=np.float64), 3)
    if (low < -size).any() or (high > box + size).any():
        return None
    crosses = (low < 0) | (high > box)
    return Cells(start, start + counts, np.where(crosses, 0.0, low), np.where(crosses, box, high))


def _of_eagle(table: h5py.Group, ptype: str, number: int) -> Cells:
    counts = np.asarray(table[f"{ptype}/NumParticleInCell"], dtype=np.int64)
    first = int(np.asarray(table[f"{ptype}/FirstKeyInFile"])[number])
    bits = int(np.ravel(table.attrs["HashBits"])[0])
    ends, is_filled = np.cumsum(counts), counts > 0
    cell = places_of_keys(first + np.flatnonzero(is_filled), bits)
    edges = np.stack([cell - MARGIN, cell + 1 + MARGIN]).clip(0, 2**bits)
    low, high = edges * (float(np.ravel(_box(table)["BoxSize"])[0]) / 2**bits)
    return Cells((ends - counts)[is_filled], ends[is_filled], low, high)


def _box(table: h5py.Group) -> dict[str, Any]:
    """Return the attributes of the Header of the file that a table lies in."""
    return dict(table.file["Header"].attrs)


def _holds(positions: h5py.Dataset, cells: Cells, rng: np.random.Generator, n_cells: int) -> bool:
    """Tell whether rows of some cells lie in their cuboids."""
    for cell in np.sort(rng.choice(len(cells.start), min(n_cells, len(cells.start)), replace=False)):
        start, end = int(cells.start[cell]), int(cells.end[cell])
        pos = positions[start : min(end, start + ROWS_LOOKED_AT)]
        if not ((pos >= cells.low[cell]) & (pos <= cells.high[cell])).all():
            return False
    return True


def _around(cells_of: dict[str, Cells], rows: np.ndarray) -> Blocks:
    """Return the cuboids around all cells of each type that have some of rows (B, 2), from the first to the last."""
    names = sorted(cells_of)
    extents, sides = np.zeros((2, len(rows), len(names), 3)), np.zeros((len(rows), len(names)), dtype=np.int64)
    for kind, name in enumerate(names):
        cells = cells_of[name]
        first = np.searchsorted(cells.end, rows[:, 0], side="right")
        last = np.searchsorted(cells.start, rows[:, 1], side="left")
        is_filled = first < last
        sides[:, kind] = is_filled
        pairs = np.stack([first, last], axis=1)[is_filled].ravel()
        for extent, column, least in zip(extents, (cells.low, cells.high), (np.minimum, np.maximum), strict=True):
            # One row more, for a block may end with the last cell; what is between two blocks is left out.
            extent[is_filled, kind] = least.reduceat(np.concatenate([column, column[-1:]]), pairs)[::2]
    low, high = extents
    return Blocks(names, low, high, sides, np.zeros(sides.size + 1, dtype=np.int64), NO_CELLS, is_told=True)


#: GADGET-2's curve: which of eight octants, in the order of x, y and z, comes at which place; and how the part of the
#: curve in the octant at each place is turned, by so many quarter turns of two kinds, and whether it runs backwards.
_PLACE = (0, 7, 1, 6, 3, 4, 2, 5)
_TURNS = ((3, 0), (0, 1), (0, 1), (2, 2), (2, 2), (0, 3), (0, 3), (1, 0))
_BACKWARDS = (True, True, True, False, False, True, True, True)


def _turned_back(place: int) -> Iterator[tuple[int, bool]]:
    """Say for each axis outside an octant which axis inside it is along it, and whether it runs against it."""
    axes, against = [0, 1, 2], [False, False, False]
    first, second = _TURNS[place]
    for _ in range(first):
        axes, against = [axes[0], axes[2], axes[1]], [against[0], not against[2], against[1]]
    for _ in range(second):
        axes, against = [axes[2], axes[1], axes[0]], [against[2], against[1], not against[0]]
    for axis in range(3):
        inside = axes.index(axis)
        yield inside, against[inside]


def places_of_keys(keys: np.ndarray, bits: int) -> np.ndarray:
    """Return the cells (N, 3), of 2^bits along each axis, at places `keys` (N,) of GADGET-2's Peano-Hilbert curve.

    >>> places_of_keys(np.arange(8), 1).tolist()
    [[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]]
    """
    is_backwards, places = np.zeros(len(keys), dtype=bool), []
    for level in reversed(range(bits)):
        digit = (keys >> (3 * level)) & 7
        places.append(np.where(is_backwards, 7 - digit, digit))
        is_backwards = is_backwards ^ np.array(_BACKWARDS)[places[-1]]
    octants = np.argsort(_PLACE)
    turns = [list(_turned_back(place)) for place in range(8)]
    inside, against = (np.array([[turn[k] for turn in turns[place]] for place in range(8)]) for k in (0, 1))
    cell = np.zeros((len(keys), 3), dtype=np.int64)
    for level, place in enumerate(reversed(places)):  # from the smallest octants outwards
        cell = np.take_along_axis(cell, inside[place], axis=1)
        cell = np.where(against[place], 2**level - 1 - cell, cell)
        octant = octants[place]
        cell += np.stack([octant >> 2, (octant >> 1) & 1, octant & 1], axis=1) << level
    return cell
