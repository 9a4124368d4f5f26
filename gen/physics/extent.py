"""Where the stars of a galaxy end, told by themselves: nothing that maps show may follow from the truth's aperture."""

import numpy as np

from kinmass.gen.physics.particles import Particles
from kinmass.gen.physics.profile import enclosed_mass

#: Radii [kpc] that are looked at, the same for every galaxy.
PER_DECADE = 20
EDGES_KPC = 10.0 ** (np.arange(-4 * PER_DECADE, 5 * PER_DECADE + 1) / PER_DECADE)
#: A galaxy ends at ten half-mass radii; where there is a neighbour, beyond 10^0.5 of them.
ENDS, MAY_END = PER_DECADE, PER_DECADE // 2
#: Shells of 0.1 dex are compared; one with less than this share of the stars inside is no neighbour.
SHELL, NEIGHBOUR = 2, 0.005
#: With fewer stars no half-mass radius is believed.
ENOUGH = 50


def edge(stars: Particles, known_kpc: float, enough: int = ENOUGH) -> float | None:
    """Radius [kpc] at which a galaxy's stars end; None when that is not within known_kpc.

    stars: all that there are within known_kpc of the galaxy's centre, in any order, and perhaps others.
    The smallest sphere of `enough` stars that is ten times as large as their half-mass radius (99.9 % of an
    exponential disc, 95 % of a de Vaucouleurs profile); or the smallest beyond 3.16 half-mass radii where the
    density of stars rises outwards: there begins another galaxy. Nothing outside of the edge has a say in it.
    """
    radius = EDGES_KPC[known_kpc >= EDGES_KPC]
    mass = enclosed_mass(stars.pos_kpc, stars.mass_msun, radius)
    settled = enclosed_mass(stars.pos_kpc, np.ones(len(stars)), radius) >= enough

    def inside(steps: int) -> np.ndarray:
        return np.concatenate([np.zeros(steps), mass])[: len(mass)]

    shell = mass - inside(SHELL)
    beyond = np.append(shell[SHELL:], np.zeros(SHELL))[: len(mass)]
    rises = (beyond > 10 ** (3 * SHELL / PER_DECADE) * shell) & (beyond > NEIGHBOUR * mass)
    ends = np.flatnonzero(settled & (2 * inside(ENDS) >= mass))
    last = int(ends[0]) if len(ends) else len(radius)
    neighbour = np.flatnonzero((settled & rises & (2 * inside(MAY_END) >= mass))[: max(last - SHELL, 0)])
    if len(neighbour):
        return float(radius[neighbour[0]])
    return float(radius[last]) if len(ends) else None
