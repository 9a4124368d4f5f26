"""Where the particles of a file lie, and a domain for yt that holds them all.

The box of a header often does not hold them: cutouts keep the box of the whole run but are centred on their
galaxy, codes write positions that have drifted across a face, and isolated runs have no box. yt skips
particles outside the domain, and its Tipsy reader moves them onto the face, both without a warning. So yt gets
a domain that is measured and not periodic; gen.snapshots.snapshot looks for periodic images itself.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from kinmass.gen.formats.base import Part, Slot, SnapshotError
from kinmass.gen.formats.blocks import Blocks, measured
from kinmass.gen.formats.celltables import HAS_TABLE, told

#: Margin around the outermost particles, as a share of their span and of their coordinates: more than any rounding.
MARGIN = 1e-3
#: Half the width [code units] of the domain for files whose positions are not all finite; these are never indexed.
UNBOUNDED = 1e100
#: More particles of a type than this never lie at exactly (0, 0, 0): their positions were not written.
MOST_AT_ORIGIN = 1


def check_written(ptype: str, n_at_origin: int) -> None:
    """Raise SnapshotError where so many particles of a type lie at (0, 0, 0) as do when positions were not written."""
    if n_at_origin > MOST_AT_ORIGIN:
        raise SnapshotError(
            f"{n_at_origin} particles at (0, 0, 0) in {ptype}/Coordinates; was the file written to its end? Get it "
            "again"
        )


def at_origin(pos: np.ndarray) -> int:
    """Count the positions (n, 3) that are exactly (0, 0, 0)."""
    rows = np.flatnonzero(pos[:, 0] == 0)  # one column is much faster than three: hardly any row is left
    return int(np.count_nonzero(~pos[rows].any(axis=1)))


def lowest_and_highest(pos: np.ndarray) -> np.ndarray:
    """Return the extent (2, 3) of positions (n, 3), in double precision; NaN or infinite where a position is."""
    with np.errstate(invalid="ignore"):  # column by column: numpy is twenty times slower along the first axis
        return np.array([[x.min() for x in pos.T], [x.max() for x in pos.T]], dtype=np.float64)


def domain_of(extents: dict[str, np.ndarray]) -> np.ndarray:
    """Return the edges (2, 3) [code units] of a domain that holds all extents with a margin."""
    corners = np.array(list(extents.values())).reshape(-1, 3)
    if not (len(corners) and np.isfinite(corners).all() and np.abs(corners).max() < UNBOUNDED):
        return np.array([[-UNBOUNDED] * 3, [UNBOUNDED] * 3])
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = MARGIN * (np.maximum(np.abs(low), np.abs(high)).max() + (high - low).max()) or 1.0
    return np.array([low - margin, high + margin])


def side_file(parameter_file: str | Path) -> Path:
    """Return the path of the file with the extents of a staged snapshot's particles, which lies beside it."""
    return Path(f"{parameter_file}.extent")


def blocks_file(parameter_file: str | Path) -> Path:
    """Return the path of the file that says where the blocks of a staged snapshot in several blocks lie."""
    return Path(f"{parameter_file}.blocks")


def _of_snapshot(blocks: list[Any]) -> list[str]:
    """List the files of a snapshot by its blocks, in their order."""
    return list(dict.fromkeys(str(block.filename) for block in blocks))


def set_domain(index: Any, slot: Slot, part: Part | None = None) -> Blocks:
    """Find where the particles of a yt index that is about to be made lie, and give its dataset a domain around them.

    Returns where its blocks lie. The extents of all types are stored as the dataset's `extents`. Both are written to
    side files; what lies there already is taken. Else a table in the files is asked, or all positions are read, inside
    `slot()`. How many particles of each type lie at the origin becomes its `at_origin`, where they are read. Of a part,
    its share of the blocks is found, and nothing is written. The blocks become the dataset's `blocks`, too.
    Raises ValueError where a side file is of another number of blocks.
    """
    ds = index.dataset
    extents_file, where_file = side_file(ds.parameter_filename), blocks_file(ds.parameter_filename)
    if extents_file.exists() and where_file.exists():
        extents = {ptype: np.array(extent) for ptype, extent in json.loads(extents_file.read_text()).items()}
        blocks = Blocks.load(where_file)
        if blocks.nfiles != len(index.data_files):
            raise ValueError(f"{where_file} is of {blocks.nfiles} blocks, not {len(index.data_files)}; remove it")
    else:
        files = index.data_files
        n_at_origin: Counter[str] = Counter()

        def positions(block: int) -> list[tuple[str, np.ndarray]]:
            """Read the positions (N, 3) [code units] of each type in a block, inside the slot."""
            with slot():
                read = list(index.io._yield_coordinates(files[block]))
            n_at_origin.update({ptype: at_origin(pos) for ptype, pos in read})
            return read

        number, n_parts = part or (0, 1)
        share = range(number * len(files) // n_parts, (number + 1) * len(files) // n_parts)
        by_table = None
        if len(files) > 1 and ds.parameters.get(HAS_TABLE):
            with slot():
                by_table = told(files[share.start : share.stop], _of_snapshot(files))
        blocks = by_table or measured(share, positions, lowest_and_highest, is_single=len(files) == 1)
        ds.at_origin, extents = dict(n_at_origin), blocks.extents()
        if part is None:
            extents_file.write_text(json.dumps({ptype: extent.tolist() for ptype, extent in extents.items()}))
            if len(files) > 1:
                where_file.write_bytes(blocks.packed())
    left, right = (ds.arr(edge, "code_length") for edge in domain_of(extents))
    ds.domain_left_edge, ds.domain_right_edge = left, right
    ds.domain_width, ds.domain_center = right - left, 0.5 * (left + right)
    ds._periodicity = (False, False, False)
    ds.extents, ds.blocks = extents, blocks
    return blocks
