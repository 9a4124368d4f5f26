"""Where the particles of a file lie, and a domain for yt that holds them all.

A header's box does not: cutouts keep their parent's and are centred on their galaxy, codes write positions
that have drifted across a face, isolated runs have none. What lies outside the domain yt's index passes over
and its Tipsy reader moves onto the face, and neither says so. So yt is told a domain that is measured, without
periodicity; gen.snapshots.snapshot looks for periodic images itself.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

#: Beyond the outermost particles, as a share of their span and of their coordinates: more than any rounding.
MARGIN = 1e-3
#: Half a domain that holds whatever can be read, for files with positions that are no numbers: these are never indexed.
ANYWHERE = 1e100


def lowest_and_highest(pos: np.ndarray) -> np.ndarray:
    """(2, 3) in double precision, of positions (n, 3); NaN or infinite where one of them is."""
    with np.errstate(invalid="ignore"):
        return np.array([pos.min(axis=0), pos.max(axis=0)], dtype=np.float64)


def around(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The extent (2, 3) of two extents together."""
    return np.array([np.minimum(first[0], second[0]), np.maximum(first[1], second[1])])


def _measure(index: Any) -> dict[str, np.ndarray]:
    """Extent (2, 3) [code units] of every particle type of a yt index, read block by block."""
    extents: dict[str, np.ndarray] = {}
    for block in index.data_files:
        for ptype, pos in index.io._yield_coordinates(block):
            if len(pos):
                here = lowest_and_highest(pos)
                extents[ptype] = around(extents[ptype], here) if ptype in extents else here
    return extents


def domain_of(extents: dict[str, np.ndarray]) -> np.ndarray:
    """Edges (2, 3) [code units] of a domain with all particles well inside."""
    whole = np.array(list(extents.values())).reshape(-1, 3)
    if not (len(whole) and np.isfinite(whole).all() and np.abs(whole).max() < ANYWHERE):
        return np.array([[-ANYWHERE] * 3, [ANYWHERE] * 3])
    low, high = whole.min(axis=0), whole.max(axis=0)
    margin = MARGIN * (np.maximum(np.abs(low), np.abs(high)).max() + (high - low).max()) or 1.0
    return np.array([low - margin, high + margin])


def side_file(parameter_file: str | Path) -> Path:
    """Where the extents of a staged snapshot are kept, beside yt's own index of it."""
    return Path(f"{parameter_file}.extent")


def set_domain(index: Any) -> None:
    """Measure the particles of a yt index that is about to be made, and give its dataset a domain around them.

    The extents are kept in the dataset's `extents` and in a side file, which is read where there is one.
    """
    ds = index.dataset
    kept = side_file(ds.parameter_filename)
    if kept.exists():
        extents = {ptype: np.array(extent) for ptype, extent in json.loads(kept.read_text()).items()}
    else:
        extents = _measure(index)
        kept.write_text(json.dumps({ptype: extent.tolist() for ptype, extent in extents.items()}))
    left, right = (ds.arr(edge, "code_length") for edge in domain_of(extents))
    ds.domain_left_edge, ds.domain_right_edge = left, right
    ds.domain_width, ds.domain_center = right - left, 0.5 * (left + right)
    ds._periodicity = (False, False, False)
    ds.extents = extents
