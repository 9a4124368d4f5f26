"""Lines of sight: random rotations that follow (seed, galaxy, view)."""

import hashlib

import numpy as np
from scipy.spatial.transform import Rotation


def seed_of(seed: int, galaxy: str, view: int = 0) -> np.random.Generator:
    """The random numbers of one view of one galaxy, whatever rank or run asks for them."""
    digest = hashlib.blake2b(galaxy.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little"), view])


def sightlines(seed: int, galaxy: str, n_views: int) -> np.ndarray:
    """(V, 3, 3) rotations, uniform over all orientations.

    Rows are the map's x axis, its y axis and the line of sight, which points away from the
    observer: a receding particle has positive line-of-sight velocity. x, y and the direction
    towards the observer are right-handed, so maps are seen as on a screen.
    """
    flip = np.diag([1.0, 1.0, -1.0])
    return np.stack([flip @ Rotation.random(rng=seed_of(seed, galaxy, view)).as_matrix() for view in range(n_views)])
