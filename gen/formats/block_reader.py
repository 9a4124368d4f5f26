"""Reads regions out of the blocks of staged HDF5 files, in place of yt's reader, with as few bytes and calls as it can.

yt opens a file and looks up its datasets for every block, and reads all fields of all blocks that may reach into the
region.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from operator import attrgetter
from types import TracebackType
from typing import Any

import h5py
import numpy as np

#: Positions of the blocks that were read last are kept, up to so many bytes, for the next galaxies of a box.
KEPT_BYTES = 32_000_000


class StagedFile:
    """An open staged HDF5 file: finds its fields by type and name.

    Links into another file are followed in one that is opened once: HDF5 opens it anew for every link.
    """

    def __init__(self, path: str):
        self._stack = ExitStack()
        self._staged = self._stack.enter_context(h5py.File(path, "r"))
        self._archived: dict[str, h5py.File] = {}
        self._fields: dict[tuple[str, str], h5py.Dataset] = {}

    def __enter__(self) -> "StagedFile":
        return self

    def __exit__(self, *args: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._fields.clear()
        self._stack.close()

    def types(self) -> list[str]:
        """List the particle types that have positions."""
        return [key for key in self._staged if key.startswith("PartType") and "Coordinates" in list(self._staged[key])]

    def __call__(self, ptype: str, name: str) -> h5py.Dataset:
        """Return a field of a type."""
        if (ptype, name) not in self._fields:
            self._fields[ptype, name] = self._find(ptype, name)
        return self._fields[ptype, name]

    def _find(self, ptype: str, name: str) -> h5py.Dataset:
        link = self._staged[ptype].get(name, getlink=True)
        if not isinstance(link, h5py.ExternalLink):
            return self._staged[ptype][name]
        if link.filename not in self._archived:
            self._archived[link.filename] = self._stack.enter_context(h5py.File(link.filename, "r"))
        return self._archived[link.filename][link.path]


class PositionReader:
    """Reads the positions of staged HDF5 files block by block, in place of yt's reader, from a file that stays open."""

    def __init__(self) -> None:
        self._path, self._types, self._stack = "", list[str](), ExitStack()
        self._fields: StagedFile | None = None

    def __call__(self, block: Any) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each particle type in a block with its positions (N, 3)."""
        if self._fields is None or block.filename != self._path:
            self.close()
            self._path, self._fields = block.filename, self._stack.enter_context(StagedFile(block.filename))
            self._types = self._fields.types()
        for ptype in self._types:
            yield ptype, self._fields(ptype, "Coordinates")[block.start : block.end]

    def close(self) -> None:
        """Close the file that was read last."""
        self._fields = None
        self._stack.close()


class BlockReader:
    """Reads regions for yt's reader `io`, inside `io.slot()` where bytes come from files."""

    def __init__(self, io: Any):
        self._io = io
        self._kept: OrderedDict[tuple[int, str], np.ndarray] = OrderedDict()
        self._kept_bytes = 0

    def fields(
        self, chunks: Any, names: Mapping[str, Sequence[str]], selector: Any
    ) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        """Yield the fields `names` of each particle type in a region, block by block; yt's `_read_particle_fields`."""
        everything = selector is None or getattr(selector, "is_all_data", False)
        for path, blocks in groupby(self._io._sorted_chunk_iterator(chunks), attrgetter("filename")):
            with StagedFile(path) as fields:
                for block in blocks:
                    wanted = {t: list(dict.fromkeys(names[t])) for t in sorted(names) if block.total_particles[t]}
                    read = self._whole if everything else self._selected
                    yield from read(block, fields, wanted, selector).items()

    def _whole(self, block: Any, fields: Any, wanted: Mapping[str, list[str]], _: Any) -> dict[Any, np.ndarray]:
        with self._io.slot():
            return {
                (ptype, name): self._values(fields, ptype, name, block.start, block.end, block.total_particles[ptype])
                for ptype, names in wanted.items()
                for name in names
            }

    def _selected(
        self, block: Any, fields: Any, wanted: Mapping[str, list[str]], selector: Any
    ) -> dict[Any, np.ndarray]:
        """Read what a selector selects of one block.

        Positions come first. Of other fields the rows between the first and the last particle in the region are read.
        """
        wanted = {t: names for t, names in wanted.items() if self._io.blocks.touches(selector, block.file_id, t)}
        positions = self._positions(block, fields, list(wanted))
        data: dict[Any, np.ndarray] = {}
        rows_of = {ptype: _rows(selector, pos) for ptype, pos in positions.items()}
        if not any(map(len, rows_of.values())):
            return data
        with self._io.slot():
            for ptype, rows in rows_of.items():
                if not len(rows):
                    continue
                first, last = int(rows[0]), int(rows[-1]) + 1
                for name in wanted[ptype]:
                    if name == "Coordinates":
                        data[ptype, name] = positions[ptype][rows]
                    else:
                        start = block.start
                        values = self._values(fields, ptype, name, start + first, start + last, last - first)
                        data[ptype, name] = values[rows - first]
        return data

    def _values(self, fields: Any, ptype: str, name: str, start: int, end: int, n: int) -> np.ndarray:
        """Read rows start to end of a field, which are n; a mass that all particles of a type have is in no dataset."""
        io = self._io
        if name == io.ds._particle_mass_name and ptype not in io.var_mass:
            return np.full(n, io.ds["Massarr"][io._known_ptypes.index(ptype)], dtype=np.float64)
        return np.asarray(fields(ptype, name)[start:end])

    def _positions(self, block: Any, fields: Any, types: list[str]) -> dict[str, np.ndarray]:
        """Return the positions (N, 3) of some types in one block, which are kept for the next galaxies."""
        positions = {t: self._kept.pop((block.file_id, t)) for t in types if (block.file_id, t) in self._kept}
        if missing := [ptype for ptype in types if ptype not in positions]:
            with self._io.slot():
                for ptype in missing:
                    positions[ptype] = fields(ptype, "Coordinates")[block.start : block.end]
                    self._io.blocks.check(block.file_id, ptype, positions[ptype])
                    self._kept_bytes += positions[ptype].nbytes
        for ptype, pos in positions.items():
            self._kept[block.file_id, ptype] = pos
        while self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return {ptype: positions[ptype] for ptype in types}


def _rows(selector: Any, pos: np.ndarray) -> np.ndarray:
    """List the rows of positions (N, 3) that a selector selects, in their order."""
    mask = selector.select_points(*np.ascontiguousarray(pos.T, dtype=np.float64), 0.0)
    return np.flatnonzero(mask) if mask is not None else np.zeros(0, dtype=np.intp)
