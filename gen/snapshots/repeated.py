"""Particles that a snapshot has more than once: pieces that overlap were joined, or a file was appended to itself."""

from collections.abc import Sequence

import numpy as np

#: About so many particles are looked at. They are drawn by the bits of their places, so that copies are drawn together.
MOST = 5000
#: Single particles may coincide where single precision rounds their places. More than so many, and this share, do not.
MOST_COPIES, COPIED_SHARE = 10, 0.02


def copies(columns: Sequence[np.ndarray]) -> tuple[int, int]:
    """Count the particles that equal another in all columns (N,), and those that were looked at.

    The first column should hardly have equal values: the places along one axis. Returns (0, n) where copies are no more
    than chance allows.

    >>> x = np.arange(30.0)
    >>> copies([x, -x]), copies([np.append(x, x), -np.append(x, x)])
    ((0, 30), (30, 60))
    """
    drawn = _drawn(columns[0])
    n = len(drawn)
    limit = max(MOST_COPIES, COPIED_SHARE * n)
    in_order = np.sort(drawn)
    if np.count_nonzero(in_order[1:] == in_order[:-1]) <= limit:
        return 0, n
    rows = np.stack([_drawn(columns[0], column) for column in columns])
    rows = rows[:, np.lexsort(rows)]
    n_copies = int(np.count_nonzero((rows[:, 1:] == rows[:, :-1]).all(axis=0)))
    return (n_copies if n_copies > limit else 0), n


def _drawn(by: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """Draw from values (N,), or from `by` itself, by the bits of `by` (N,): equal entries of it are drawn together."""
    values = by if values is None else values
    if (step := len(by) // MOST) < 2:
        return values
    bits = np.ascontiguousarray(by, dtype=np.float64).view(np.uint64)
    mixed = (bits * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)  # Knuth's multiplicative hash
    return values[mixed % np.uint64(step) == 0]
