"""Lines of sight: random rotations that follow (seed, galaxy, view)."""

import hashlib

import numpy as np
from scipy.spatial.transform import Rotation


def seed_of(seed: int, galaxy: str, view: int = 0) -> np.random.Generator:
    """The random numbers of one view of one galaxy, whatever rank or run asks for them."""
    digest = hashlib.blake2b(galaxy.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little"), view])


def sightlines(
    seed: int,
    galaxy: str,
    n_views: int,
    pole: np.ndarray | None = None,
    inclination_deg: tuple[float, float] = (0.0, 90.0),
) -> np.ndarray:
    """(V, 3, 3) rotations, uniform over all orientations whose inclination is in the range given.

    Rows are the map's x axis, its y axis and the line of sight, which points away from the
    observer: a receding particle has positive line-of-sight velocity. x, y and the direction
    towards the observer are right-handed, so maps are seen as on a screen. The inclination is the
    angle between the line of sight and the pole (3,), either end of it: 0 is face on.
    """
    flip = np.diag([1.0, 1.0, -1.0])
    low, high = np.cos(np.radians(inclination_deg))[::-1]

    def draw(view: int) -> np.ndarray:
        rng = seed_of(seed, galaxy, view)
        while True:
            turn = flip @ Rotation.random(rng=rng).as_matrix()
            if pole is None or low - 1e-12 <= abs(turn[2] @ pole) <= high + 1e-12:
                return np.asarray(turn)

    return np.stack([draw(view) for view in range(n_views)])
