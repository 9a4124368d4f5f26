"""Where the stars of a galaxy end, found from the stars alone: maps must not depend on the aperture of the truth."""

import numpy as np

from kinmass.gen.physics.particles import Particles
from kinmass.gen.physics.profile import half_mass_radius

#: Radii [kpc] at which the edge may lie, the same for every galaxy.
PER_DECADE = 20
EDGES_KPC = 10.0 ** (np.arange(-4 * PER_DECADE, 5 * PER_DECADE + 1) / PER_DECADE)
#: A galaxy ends at ten half-mass radii, or, where it has a neighbour, somewhere beyond 10^0.5 of them [radial steps].
END_STEPS, NEIGHBOUR_STEPS = PER_DECADE, PER_DECADE // 2
#: Shells of 0.1 dex (so many radial steps) are compared. A shell is part of a neighbour only if it has at least this
#: share of the stellar mass inside.
SHELL_STEPS, NEIGHBOUR_SHARE = 2, 0.005
#: Around a central the number of stars must say, too, by so many sigma, that the density rises: of a few stars in the
#: outskirts one lies beyond an empty shell by chance. What may be a satellite may lie among its host's stars, which are
#: spread evenly around it: there the first rise is the best sign of them that there is, if the stars beyond are at
#: least this share as dense as those before it, over so many radial steps (a factor of 2 in radius), or if so many
#: stars lie inside that hardly any rise is chance.
NEIGHBOUR_SIGMA, HOST_DENSITY, BEFORE_STEPS, MANY_STARS = 1.5, 0.5, 3 * PER_DECADE // 10, 800
#: What ends may be the inner part of a galaxy if there is more around it within a decade beyond: a nucleus within
#: NUCLEUS_KPC, and any other inside of a ring, in which the density rises by so many sigma of the number of stars.
AROUND_STEPS, NUCLEUS_KPC, RING_SIGMA = PER_DECADE, 3.0, 5.0
#: A ring is looked for over so many radial steps. Stars are around the centre, and not beside it, where their mean lies
#: within this share of their half-mass radius.
RING_STEPS, CENTRED = 3 * SHELL_STEPS, 0.3
#: A half-mass radius of fewer stars than this is not trusted.
MIN_STARS = 50


def edge(stars: Particles, complete_kpc: float, min_stars: int = MIN_STARS, is_central: bool = False) -> float | None:
    """Radius [kpc] at which a galaxy's stars end; None when that is not within complete_kpc.

    stars: all stars within complete_kpc of the galaxy's centre, in any order, and perhaps others farther out.
    is_central: whether it is known to be no satellite.
    The edge is the radius of the smallest sphere of at least `min_stars` stars with mass that is ten times as large as
    their half-mass radius (99.9 % of an exponential disc, 95 % of a de Vaucouleurs profile). If the density of stars
    rises outwards before that, beyond 3.16 half-mass radii, another galaxy begins there, and that is the edge. Stars
    outside of the edge have no influence on it. But what holds only a nucleus, or the inside of a ring, is no galaxy:
    where soon beyond its edge there are more stars, on all sides, the edge is theirs.
    """
    radius_kpc = EDGES_KPC[complete_kpc >= EDGES_KPC]
    first_around = np.searchsorted(radius_kpc, np.sqrt(np.einsum("ij,ij->i", stars.pos_kpc, stars.pos_kpc)))
    mass, n_stars = (
        np.cumsum(np.bincount(first_around, weights, len(radius_kpc) + 1))[: len(radius_kpc)]
        for weights in (stars.mass_msun, stars.mass_msun > 0)
    )
    enough_stars = n_stars >= min_stars

    growth = 10 ** (3 * SHELL_STEPS / PER_DECADE)  # of a shell's volume
    (shell, next_shell), (n_shell, n_next) = _shells(mass), _shells(n_stars)
    rises = (next_shell > growth * shell) & (next_shell > NEIGHBOUR_SHARE * mass)
    if is_central:
        rises &= _rises_surely(n_shell, n_next, growth, NEIGHBOUR_SIGMA)
    else:
        density_before = (n_stars - _inside(n_stars, BEFORE_STEPS)) / (1 - 10 ** (-3 * BEFORE_STEPS / PER_DECADE))
        rises &= (n_next / (growth - 1) > HOST_DENSITY * density_before) | (n_stars >= MANY_STARS)
    is_end = enough_stars & (2 * _inside(mass, END_STEPS) >= mass)
    is_neighbour = enough_stars & rises & (2 * _inside(mass, NEIGHBOUR_STEPS) >= mass)

    def is_around(inner: int, outer: int) -> bool:
        """Tell whether the stars beyond one of the radii, up to another, are on all sides."""
        chosen = (first_around > inner) & (first_around <= outer) & (first_around < len(radius_kpc))
        return _is_centred(stars.pos_kpc[chosen], stars.mass_msun[chosen])

    def is_ring(step: int) -> bool:
        """Tell whether the density of stars rises from a radius on, by many stars on all sides."""
        inner, step, outer = np.clip([step - SHELL_STEPS, step, step + SHELL_STEPS], 0, len(mass) - 1)
        n_inner, n_outer = n_stars[step] - n_stars[inner], n_stars[outer] - n_stars[step]
        return bool(_rises_surely(n_inner, n_outer, growth, RING_SIGMA)) and is_around(step, step + RING_STEPS)

    begin, end = 0, _first(is_end, 0)
    while True:
        found = _first(is_neighbour, begin)
        if found >= end - SHELL_STEPS:
            found = end
        elif any(map(is_ring, range(found, found + RING_STEPS))):
            begin = found + 1
            continue
        more = _first(~is_end, found)  # from here on half of the stars lie beyond a tenth of the radius
        if found == len(radius_kpc) or more > found + AROUND_STEPS or more == len(radius_kpc):
            break
        next_end = _first(is_end, more)
        if not (
            is_around(found, next_end)
            if radius_kpc[found] <= NUCLEUS_KPC
            else any(map(is_ring, range(found - SHELL_STEPS, more)))
        ):
            break
        begin, end = found + 1, next_end
    return float(radius_kpc[found]) if found < len(radius_kpc) else None


def _inside(total: np.ndarray, steps: int) -> np.ndarray:
    """Return what of a total inside the radii (K,) lies inside radii that are so many steps smaller."""
    return np.concatenate([np.zeros(steps), total])[: len(total)]


def _shells(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how much (K,) of a total inside the radii (K,) lies in the last shell within each, and beyond it."""
    shell = total - _inside(total, SHELL_STEPS)
    return shell, np.append(shell[SHELL_STEPS:], np.zeros(SHELL_STEPS))[: len(total)]


def _rises_surely(n_inner: np.ndarray, n_outer: np.ndarray, growth: float, sigma: float) -> np.ndarray:
    """Tell whether numbers of stars (...) say, by so many sigma, that an outer shell is denser than an inner one.

    growth: the outer shell's volume over the inner one's.
    """
    return np.asarray(n_outer - growth * n_inner > sigma * np.sqrt(n_outer + growth**2 * n_inner))


def _first(mask: np.ndarray, begin: int) -> int:
    """Return the index from `begin` on of the first True in a mask (K,), K where there is none."""
    found = np.flatnonzero(mask[begin:])
    return begin + int(found[0]) if len(found) else len(mask)


def _is_centred(pos_kpc: np.ndarray, mass_msun: np.ndarray) -> bool:
    """Tell whether stars (N, 3), (N,) lie around the origin, and not beside it."""
    if not mass_msun.any():
        return False
    r_kpc = np.sqrt(np.einsum("ij,ij->i", pos_kpc, pos_kpc))
    mean_kpc = mass_msun @ pos_kpc / mass_msun.sum()
    return bool(np.linalg.norm(mean_kpc) < CENTRED * half_mass_radius(r_kpc, mass_msun))
