"""Which blocks of a snapshot's particles reach into a sphere, by the places that each block fills.

Codes write particles in the order of space (SWIFT's cells, EAGLE's and GADGET's Peano-Hilbert keys) or of groups (AREPO
and GADGET-4, by SUBFIND). Where a file tells in which cuboid its rows lie, that is taken (`gen.formats.celltables`).
Else every position is looked at, once: a block's own cuboid is cut into cells, and those that hold particles are kept,
for each type by itself.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kinmass.gen.formats.base import SnapshotError

#: A block's cuboid is cut into this many cells along each axis, or half as many and so on.
FINEST = 64
#: Coarser cells are taken where more than so many are filled: such a block fills its cuboid.
MOST_CELLS = 512
#: And where a larger share is filled: such cells say hardly more than coarser ones, and every rank keeps them.
MOST_FILLED = 0.5
NO_CELLS = np.zeros(0, dtype=np.uint32)


class Blocks:
    """The cells that each block of particles fills, for each type.

    names are the T types; low, high (B, T, 3) the cuboid [code units] that the particles of a type in a block
    fill, cut into sides (B, T) cells along each axis, 0 where there are none. cells are the ids of filled cells of
    all of them, one after the other; they end at ends (B T + 1,), which begin with 0. Positions that are not
    finite reach everywhere. is_told: some cuboids are from a table in the file, and not measured.
    """

    def __init__(self, names: list[str], low: np.ndarray, high: np.ndarray, sides: np.ndarray, ends: np.ndarray,
                 cells: np.ndarray, is_told: bool = False):  # fmt: skip
        self.names, self.low, self.high, self.sides, self.ends, self.cells = names, low, high, sides, ends, cells
        self.is_told = is_told
        self._last: tuple[tuple[float, ...], frozenset[int]] | None = None
        self._by_room: tuple[np.ndarray, ...] | None = None

    @property
    def nfiles(self) -> int:
        """Number of blocks, under the name by which yt asks for it."""
        return len(self.sides)

    def identify_file_masks(self, selector: Any) -> tuple[np.ndarray, list[None], list[None]]:
        """List the blocks that reach into a selector's sphere, in their order, as yt's own index does."""
        found = np.array(sorted({i // len(self.names) for i in self.touched(selector)}), dtype=np.int64)
        return found, [None] * len(found), [None] * len(found)

    def touches(self, selector: Any, block: int, ptype: str) -> bool:
        """Tell whether particles of one type in one block may lie in a selector's sphere."""
        if ptype not in self.names:
            return True
        return block * len(self.names) + self.names.index(ptype) in self.touched(selector)

    def touched(self, selector: Any) -> frozenset[int]:
        """Tell which types of which blocks may have particles in a selector's sphere; all, where it has none.

        They are told by the number of the block times T, and that of the type.
        """
        sphere = (*map(float, selector.center), float(selector.radius)) if hasattr(selector, "radius") else ()
        if self._last is None or self._last[0] != sphere:
            found = self._reaching(np.array(sphere[:3]), sphere[3]) if sphere else np.flatnonzero(self.sides)
            self._last = sphere, frozenset(found.tolist())
        return self._last[1]

    def _reaching(self, centre: np.ndarray, radius: float) -> np.ndarray:
        from kinmass.gen.formats.reach import by_room, reaching  # loads numba, which few commands need

        low, high = self.low.reshape(-1, 3), self.high.reshape(-1, 3)
        of_all = low, high, self.sides.ravel(), self.ends, self.cells
        if self._by_room is None:
            self._by_room = by_room(*of_all)
        return np.asarray(reaching(self._by_room, *of_all, centre, radius))

    def check(self, block: int, ptype: str, pos: np.ndarray) -> None:
        """Raise SnapshotError where positions (N, 3) of a type, read from a block, are not where a table says."""
        if not self.is_told or not len(pos):
            return
        kind = self.names.index(ptype)
        low, high = self.low[block, kind], self.high[block, kind]
        if not all(x.min() >= low[i] and x.max() <= high[i] for i, x in enumerate(pos.T)):  # NaN is not, either
            raise SnapshotError(
                f"some of {ptype}/Coordinates lie elsewhere than the table of cells in the file says, by which they "
                "are found; is the file damaged, or the table another's? Get it again, or remove the table (the group "
                "Cells or HashTable) from a copy"
            )

    def extents(self) -> dict[str, np.ndarray]:
        """Return the extent (2, 3) of each type, over all blocks."""
        filled = self.sides[..., None] > 0
        low = np.where(filled, self.low, np.inf).min(axis=0)
        high = np.where(filled, self.high, -np.inf).max(axis=0)
        return {ptype: np.array([low[kind], high[kind]]) for kind, ptype in enumerate(self.names)}

    def packed(self) -> memoryview:
        """Return the content of a file of all, array after array: no rank waits for checksums that nobody asks for."""
        file, lengths = io.BytesIO(), np.diff(self.ends)
        names = np.array([*self.names, str(int(self.is_told))])
        for array in (names, self.low, self.high, _small(self.sides), _small(lengths), self.cells):
            np.lib.format.write_array(file, array, allow_pickle=False)
        return file.getbuffer()

    @staticmethod
    def load(path: Path) -> "Blocks":
        """Read a file of what `packed` returns. Raises OSError, or ValueError for other files."""
        with path.open("rb") as file:
            names, low, high, sides, lengths, cells = (
                np.lib.format.read_array(file, allow_pickle=False) for _ in range(6)
            )
        *types, is_told = names.tolist()
        return Blocks(types, low, high, sides.astype(np.int64), _ends(lengths), cells, is_told == "1")


def _small(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of cells in the type that they are kept in."""
    assert not numbers.size or numbers.max() <= MOST_CELLS
    return numbers.astype(np.uint16)


def filled_cells(pos: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[int, np.ndarray]:
    """Return how many cells along each axis a cuboid is cut into, and the ids (M,) of those that hold positions (N, 3).

    (1, empty) where one cell says as much, and where a position is not finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = np.isfinite(high - low).all()
    if not is_finite or not (high > low).any():
        return 1, NO_CELLS
    scale = FINEST / np.where(high > low, high - low, 1.0)
    dtype = np.float32 if pos.dtype.newbyteorder("=") == np.float32 else np.float64
    from kinmass.gen.formats.reach import filled  # loads numba, which few commands need

    return filled(np.ascontiguousarray(pos, dtype), low, scale, FINEST, MOST_CELLS, MOST_FILLED)  # type: ignore[no-any-return]


def measured(
    numbers: range,
    positions: Callable[[int], Iterable[tuple[str, np.ndarray]]],
    extent_of: Callable[..., np.ndarray],
    is_single: bool = False,
) -> Blocks:
    """Look at the positions of some blocks, given by their numbers, once each.

    positions(block) yields types with their positions (N, 3); extent_of gives the extent of positions. A file that is a
    single block is read whole in any case: of it no cells are found.
    """
    found: list[dict[str, tuple[np.ndarray, int, np.ndarray]]] = []
    for block in numbers:
        found.append({})
        for ptype, pos in positions(block):
            if len(pos):
                extent = extent_of(pos)
                found[-1][ptype] = extent, *((1, NO_CELLS) if is_single else filled_cells(pos, *extent))
    return _assembled(found)


def joined(parts: Sequence[Blocks]) -> Blocks:
    """Put the blocks of several parts of a snapshot one after the other."""
    names = sorted({ptype for part in parts for ptype in part.names})
    whole = [part if part.names == names else _with_types(part, names) for part in parts]  # each costs rank 0 time
    low, high, sides = (np.concatenate([getattr(part, name) for part in whole]) for name in ("low", "high", "sides"))
    lengths = np.concatenate([np.diff(part.ends) for part in whole])
    cells = np.concatenate([NO_CELLS, *(part.cells for part in parts)])  # by block, then by type: types are sorted
    return Blocks(names, low, high, sides, _ends(lengths), cells, any(part.is_told for part in parts))


def _with_types(part: Blocks, names: list[str]) -> Blocks:
    """Return blocks of which those types of `names` that they have not are empty."""
    columns = [names.index(ptype) for ptype in part.names]
    low, high = np.zeros((2, part.nfiles, len(names), 3))
    sides, lengths = np.zeros((2, part.nfiles, len(names)), dtype=np.int64)
    low[:, columns], high[:, columns], sides[:, columns] = part.low, part.high, part.sides
    lengths[:, columns] = np.diff(part.ends).reshape(part.sides.shape)
    return Blocks(names, low, high, sides, _ends(lengths), part.cells, part.is_told)


def _ends(lengths: np.ndarray) -> np.ndarray:
    """Where lists of so many cells end that lie one after the other, with a 0 before."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _assembled(found: list[dict[str, tuple[np.ndarray, int, np.ndarray]]]) -> Blocks:
    """Make blocks of the extent (2, 3), side and cells of each type that is in each block."""
    names = sorted({ptype for types in found for ptype in types})
    extents = np.zeros((2, len(found), len(names), 3))
    sides, cells = np.zeros((len(found), len(names)), dtype=np.int64), []
    for block, types in enumerate(found):
        for kind, ptype in enumerate(names):
            extent, side, ids = types.get(ptype, (np.zeros((2, 3)), 0, NO_CELLS))
            extents[:, block, kind], sides[block, kind] = extent, side
            cells.append(ids)
    low, high = extents
    ends = _ends(np.array([*map(len, cells)], dtype=np.int64))
    return Blocks(names, low, high, sides, ends, np.concatenate([NO_CELLS, *cells]))
