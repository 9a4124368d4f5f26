"""Lines of sight: random rotations that depend on (seed, galaxy, view) only."""

import hashlib

import numpy as np


def within(suite: str, name: str) -> str:
    """Name of a suite's galaxy or lineage among those of all suites, of which several may use the same names."""
    return f"{suite}/{name}"


def view_rng(seed: int, galaxy: str, view: int = 0) -> np.random.Generator:
    """Generator of the random numbers of one view of a galaxy: the same on every rank and in every run."""
    digest = hashlib.blake2b(galaxy.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "little"), view])


def sightlines(
    seed: int,
    galaxy: str,
    n_views: int,
    pole: np.ndarray | None = None,
    inclination_deg: tuple[float, float] = (0.0, 90.0),
) -> np.ndarray:
    """Rotations (V, 3, 3), uniform over all orientations whose inclination is within inclination_deg.

    Rows are the map's x axis, its y axis and the line of sight, which points away from the
    observer: a receding particle has positive line-of-sight velocity. x, y and the direction
    towards the observer are right-handed, so maps look as on a screen. The inclination is the angle [0, 90 deg]
    between the line of sight and the axis of the pole (3,): 0 is face on. Without a pole all orientations are drawn.
    """
    from scipy.spatial.transform import Rotation  # of training, which draws no rotations, it would take half a second

    away = np.diag([1.0, 1.0, -1.0])
    low, high = np.cos(np.radians(inclination_deg))[::-1]

    def draw(view: int) -> np.ndarray:
        """Draw the rotation (3, 3) of one view."""
        rng = view_rng(seed, galaxy, view)
        rotation = away @ Rotation.random(rng=rng).as_matrix()
        if pole is None or inclination_deg == (0.0, 90.0):
            return np.asarray(rotation)
        # Tilt the line of sight, in its plane with the pole, until the cosine of the inclination is the one drawn: for
        # random orientations that cosine is uniform.
        cosine, axis = rng.uniform(low, high) * rng.choice([-1.0, 1.0]), np.cross(pole, rotation[2])
        angle = np.arccos(np.clip(rotation[2] @ pole, -1, 1)) - np.arccos(cosine)
        return np.asarray(rotation @ Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix())

    return np.stack([draw(view) for view in range(n_views)])
