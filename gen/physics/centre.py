"""The centre of a galaxy: found from its particles, or a catalogue's centre compared with them."""

from dataclasses import replace

import numpy as np

from kinmass.gen.compiled import compiled
from kinmass.gen.physics.extent import edge
from kinmass.gen.physics.particles import Galaxy, Particles
from kinmass.gen.physics.profile import half_mass_radius

#: A catalogue's centre may lie this many R_e from the peak of the galaxy's own particles.
FARTHEST_RE = 1.0
#: A centre is found on about this many particles; of more than these, every n-th is taken.
MAX_PARTICLES = 20_000
#: Each step of a climb goes to the mean of a share of the galaxy's own particles, the nearest ones; one climb follows
#: the other.
PEAK_SHARES = (0.1, 0.05)
#: At least this many neighbours are averaged: with fewer the mean is dominated by shot noise.
MIN_NEIGHBOURS = 20


def subsample(particles: Particles, max_particles: int) -> Particles:
    """Take every n-th particle, `max_particles` at most, and scale their masses to the total mass of all."""
    step = max(1, -(-len(particles) // max_particles))
    pos, vel, mass = particles.pos_kpc[::step], particles.vel_kms[::step], particles.mass_msun[::step]
    scale = particles.mass_msun.sum() / mass.sum() if mass.sum() > 0 else 1.0
    return Particles(pos, vel, mass * scale)


def representative(parts: list[Particles], max_particles: int = MAX_PARTICLES) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 3) [kpc] and masses (n,) [Msun] of a subsample of all parts, about `max_particles` of them.

    Each part has the same share of the subsample as of all particles. Particles without mass are left out: a mean over
    them alone would be none.
    """
    parts = [p if p.mass_msun.all() else p[p.mass_msun > 0] for p in parts]
    n_all = max(sum(map(len, parts)), 1)
    chosen = [subsample(p, max(1, round(max_particles * len(p) / n_all))) for p in parts if len(p)]
    if not chosen:
        return np.zeros((0, 3)), np.zeros(0)
    return np.concatenate([p.pos_kpc for p in chosen]), np.concatenate([p.mass_msun for p in chosen])


def climb_to_peak(pos_kpc: np.ndarray, mass_msun: np.ndarray, start_kpc: np.ndarray, neighbours: int) -> np.ndarray:
    """Climb from a start (3,) to a peak (3,) [kpc] of the density of particles (N, 3), (N,).

    Each step goes to the mean of the nearest `neighbours` (mean shift, Fukunaga & Hostetler 1975), until it is shorter
    than a thousandth of their distance.
    """
    centre = np.asarray(start_kpc, dtype=float)
    for _ in range(200):
        offset = pos_kpc - centre
        r2 = np.einsum("ij,ij->i", offset, offset)
        nearest = np.argpartition(r2, neighbours - 1)[:neighbours] if neighbours < len(r2) else slice(None)
        mean = np.average(pos_kpc[nearest], axis=0, weights=mass_msun[nearest])
        if np.linalg.norm(mean - centre) <= 1e-3 * np.sqrt(r2[nearest].max()):
            return mean
        centre = mean
    return centre


def offset_re(galaxy: Galaxy, n_stars: int | None = None) -> float:
    """Distance of a galaxy's origin from the nearest peak of its stars, or of all its matter, in units of R_e.

    n_stars: the number of the galaxy's own star particles, where a catalogue gives it; else those count that end about
    the origin. In the aperture there may be more stars of its host and neighbours. R_e is three quarters of the
    half-mass radius of the stars that end about their peak (Wolf et al. 2010): with those of neighbours it would be as
    large as their distance, and any centre near. Two peaks are tried because each can mislead: a bright clump moves
    the peak of the stars, but not that of all matter; a halo that is off its galaxy moves the peak of all matter, but
    not that of the stars.
    """
    smallest_re = np.inf
    own_share = min(1.0, (n_stars or len(_own(galaxy.stars, np.zeros(3))[0])) / max(len(galaxy.stars), 1))
    for parts in ([galaxy.stars], list(galaxy.components().values())):
        pos, mass = representative(parts)
        if len(pos) == 0 or not mass.sum() > 0:
            continue
        peak = np.zeros(3)
        for share in PEAK_SHARES:
            peak = climb_to_peak(pos, mass, peak, max(min(MIN_NEIGHBOURS, len(pos)), int(share * own_share * len(pos))))
        r_e = 0.75 * half_mass_radius(*_own(galaxy.stars, peak))
        smallest_re = min(smallest_re, float(np.linalg.norm(peak)) / r_e if r_e > 0 else np.inf)
    return smallest_re


def _own(stars: Particles, centre_kpc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distances (n,) [kpc] and masses (n,) of the stars that end about a centre (3,); all where none end."""
    about = replace(stars, pos_kpc=stars.pos_kpc - centre_kpc)
    r_kpc = np.linalg.norm(about.pos_kpc, axis=1)
    if (end_kpc := edge(about, float(r_kpc.max(initial=0.0)))) is None:
        return r_kpc, stars.mass_msun
    return r_kpc[r_kpc <= end_kpc], stars.mass_msun[r_kpc <= end_kpc]


@compiled()
def _potential(places, pos, mass, softening):  # type: ignore[no-untyped-def]
    """Depth (K,) of the potential at places (K, 3), without G: sum of m / sqrt(d^2 + softening^2) over N particles."""
    depth = np.zeros(len(places))
    for i in range(len(places)):
        for j in range(len(pos)):
            d2 = (places[i, 0] - pos[j, 0]) ** 2 + (places[i, 1] - pos[j, 1]) ** 2 + (places[i, 2] - pos[j, 2]) ** 2
            depth[i] += mass[j] / np.sqrt(d2 + softening**2)
    return depth


def deepest_point(stars: Particles, matter: list[Particles]) -> np.ndarray:
    """Centre (3,) [kpc] of the galaxy in a file: the minimum of the potential, then the peak of all matter near it.

    The minimum is searched at the places of stars. The potential is softened by 0.7 of the stars' median distance
    from their middle, so that a clump of stars is no minimum. From there the centre climbs the density of the matter
    within four half-mass radii of the stars: first by means of a tenth of that matter, then of a twentieth.
    """
    pos, mass = representative(matter)
    places, _ = representative([stars], 2000)
    softening = 0.7 * float(np.median(np.linalg.norm(places - np.median(places, axis=0), axis=1)))
    centre = places[np.argmax(_potential(places, pos, mass, max(softening, 1e-6)))]
    half_mass_kpc = half_mass_radius(np.linalg.norm(stars.pos_kpc - centre, axis=1), stars.mass_msun)
    nearby = [p[np.linalg.norm(p.pos_kpc - centre, axis=1) <= 4 * half_mass_kpc] for p in matter if len(p)]
    pos, mass = representative(nearby)
    for share in PEAK_SHARES:
        centre = climb_to_peak(pos, mass, centre, max(min(MIN_NEIGHBOURS, len(pos)), int(share * len(pos))))
    return centre
