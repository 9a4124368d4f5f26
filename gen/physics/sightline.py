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
        turn = flip @ Rotation.random(rng=rng).as_matrix()
        if pole is None or inclination_deg == (0.0, 90.0):
            return np.asarray(turn)
        # Tilt the sight in its plane with the pole until its cosine is the one drawn, uniform like all orientations.
        cosine, axis = rng.uniform(low, high) * rng.choice([-1.0, 1.0]), np.cross(pole, turn[2])
        angle = np.arccos(np.clip(turn[2] @ pole, -1, 1)) - np.arccos(cosine)
        return np.asarray(turn @ Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix())

    return np.stack([draw(view) for view in range(n_views)])
