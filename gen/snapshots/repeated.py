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
    mixed = _mixed(columns[0])
    drawn = mixed % np.uint64(step) == 0 if (step := len(mixed) // MOST) > 1 else slice(None)
    keys = mixed[drawn]
    for column in columns[1:]:
        keys = _mixed(column[drawn], keys)
    keys.sort()
    n, n_copies = len(keys), int(np.count_nonzero(keys[1:] == keys[:-1]))
    return (n_copies if n_copies > max(MOST_COPIES, COPIED_SHARE * n) else 0), n


def _mixed(values: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Mix the bits of values (N,), and of `others` (N,) that were mixed before, into numbers (N,) of 64 random bits.

    Equal values are mixed to equal numbers; two others to one by a chance of 2^-64.
    """
    bits = np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)
    mixed = (bits if others is None else bits ^ others) * np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hash
    return mixed ^ (mixed >> np.uint64(32))
