"""Where the stars of a galaxy end, found from the stars alone: maps must not depend on the aperture of the truth."""

import numpy as np

from kinmass.gen.physics.particles import Particles

#: Radii [kpc] at which the edge may lie, the same for every galaxy.
PER_DECADE = 20
EDGES_KPC = 10.0 ** (np.arange(-4 * PER_DECADE, 5 * PER_DECADE + 1) / PER_DECADE)
#: A galaxy ends at ten half-mass radii, or, where it has a neighbour, somewhere beyond 10^0.5 of them [radial steps].
END_STEPS, NEIGHBOUR_STEPS = PER_DECADE, PER_DECADE // 2
#: Shells of 0.1 dex (so many radial steps) are compared. A shell is part of a neighbour only if it has at least this
#: share of the stellar mass inside.
SHELL_STEPS, NEIGHBOUR_SHARE = 2, 0.005
#: A half-mass radius of fewer stars than this is not trusted.
MIN_STARS = 50


def edge(stars: Particles, complete_kpc: float, min_stars: int = MIN_STARS) -> float | None:
    """Radius [kpc] at which a galaxy's stars end; None when that is not within complete_kpc.

    stars: all stars within complete_kpc of the galaxy's centre, in any order, and perhaps others farther out.
    The edge is the radius of the smallest sphere of at least `min_stars` stars with mass that is ten times as large as
    their half-mass radius (99.9 % of an exponential disc, 95 % of a de Vaucouleurs profile). If the density of stars
    rises outwards before that, beyond 3.16 half-mass radii, another galaxy begins there, and that is the edge. Stars
    outside of the edge have no influence on it.
    """
    radius_kpc = EDGES_KPC[complete_kpc >= EDGES_KPC]
    first_around = np.searchsorted(radius_kpc, np.sqrt(np.einsum("ij,ij->i", stars.pos_kpc, stars.pos_kpc)))
    mass, n_stars = (
        np.cumsum(np.bincount(first_around, weights, len(radius_kpc) + 1))[: len(radius_kpc)]
        for weights in (stars.mass_msun, stars.mass_msun > 0)
    )
    enough_stars = n_stars >= min_stars

    def inside(steps: int) -> np.ndarray:
        """Return the mass (K,) inside radii that are so many steps smaller."""
        return np.concatenate([np.zeros(steps), mass])[: len(mass)]

    shell = mass - inside(SHELL_STEPS)
    next_shell = np.append(shell[SHELL_STEPS:], np.zeros(SHELL_STEPS))[: len(mass)]
    rises = (next_shell > 10 ** (3 * SHELL_STEPS / PER_DECADE) * shell) & (next_shell > NEIGHBOUR_SHARE * mass)
    end_index = np.flatnonzero(enough_stars & (2 * inside(END_STEPS) >= mass))
    first_end = int(end_index[0]) if len(end_index) else len(radius_kpc)
    neighbour_index = np.flatnonzero(
        (enough_stars & rises & (2 * inside(NEIGHBOUR_STEPS) >= mass))[: max(first_end - SHELL_STEPS, 0)]
    )
    if len(neighbour_index):
        return float(radius_kpc[neighbour_index[0]])
    return float(radius_kpc[first_end]) if len(end_index) else None
