"""Where the particles of a file lie, and a domain for yt that holds them all.

The box of a header often does not hold them: cutouts keep the box of the whole run but are centred on their
galaxy, codes write positions that have drifted across a face, and isolated runs have no box. yt's index skips
particles outside the domain, and its Tipsy reader moves them onto the face, both without a warning. So yt gets
a domain that is measured and not periodic; gen.snapshots.snapshot looks for periodic images itself.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

#: Margin around the outermost particles, as a share of their span and of their coordinates: more than any rounding.
MARGIN = 1e-3
#: Half the width [code units] of the domain for files whose positions are not all finite; these are never indexed.
UNBOUNDED = 1e100


def lowest_and_highest(pos: np.ndarray) -> np.ndarray:
    """Return the extent (2, 3) of positions (n, 3), in double precision; NaN or infinite where a position is."""
    with np.errstate(invalid="ignore"):  # column by column: numpy is twenty times slower along the first axis
        return np.array([[x.min() for x in pos.T], [x.max() for x in pos.T]], dtype=np.float64)


def union_of_extents(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the extent (2, 3) that holds two extents (2, 3)."""
    return np.array([np.minimum(first[0], second[0]), np.maximum(first[1], second[1])])


def _measure(index: Any) -> dict[str, np.ndarray]:
    """Measure the extent (2, 3) [code units] of every particle type of a yt index, block by block."""
    extents: dict[str, np.ndarray] = {}
    for block in index.data_files:
        for ptype, pos in index.io._yield_coordinates(block):
            if len(pos):
                block_extent = lowest_and_highest(pos)
                extents[ptype] = union_of_extents(extents[ptype], block_extent) if ptype in extents else block_extent
    return extents


def domain_of(extents: dict[str, np.ndarray]) -> np.ndarray:
    """Return the edges (2, 3) [code units] of a domain that holds all extents with a margin."""
    corners = np.array(list(extents.values())).reshape(-1, 3)
    if not (len(corners) and np.isfinite(corners).all() and np.abs(corners).max() < UNBOUNDED):
        return np.array([[-UNBOUNDED] * 3, [UNBOUNDED] * 3])
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = MARGIN * (np.maximum(np.abs(low), np.abs(high)).max() + (high - low).max()) or 1.0
    return np.array([low - margin, high + margin])


def side_file(parameter_file: str | Path) -> Path:
    """Return the path of the file with a staged snapshot's extents, which lies beside yt's index."""
    return Path(f"{parameter_file}.extent")


def set_domain(index: Any) -> None:
    """Measure the particles of a yt index that is about to be made, and give its dataset a domain around them.

    The extents are stored as the dataset's `extents` and in the side file. An existing side file is read
    instead of the particles.
    """
    ds = index.dataset
    extents_file = side_file(ds.parameter_filename)
    if extents_file.exists():
        extents = {ptype: np.array(extent) for ptype, extent in json.loads(extents_file.read_text()).items()}
    else:
        extents = _measure(index)
        extents_file.write_text(json.dumps({ptype: extent.tolist() for ptype, extent in extents.items()}))
    left, right = (ds.arr(edge, "code_length") for edge in domain_of(extents))
    ds.domain_left_edge, ds.domain_right_edge = left, right
    ds.domain_width, ds.domain_center = right - left, 0.5 * (left + right)
    ds._periodicity = (False, False, False)
    ds.extents = extents
