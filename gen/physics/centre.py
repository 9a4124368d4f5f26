"""Where a galaxy's centre is: found on its particles, or a catalogue's compared with them."""

import numpy as np
from numba import njit

from kinmass.gen.physics.particles import Galaxy, Particles
from kinmass.gen.physics.profile import half_mass_radius

#: A catalogue's centre may lie this many R_e from the peak of the galaxy's own particles.
FARTHEST_RE = 1.0
#: Particles that a centre is found on; of more, every n-th.
FEW = 20_000
#: Share of the galaxy's own particles whose mean is the next step on the way up to their peak.
SHARE = 0.1
#: Fewer neighbours than this are shot noise.
FEWEST = 20


def few(particles: Particles, most: int) -> Particles:
    """At most `most` of these particles, every n-th, as heavy together as all."""
    step = max(1, -(-len(particles) // most))
    pos, vel, mass = particles.pos_kpc[::step], particles.vel_kms[::step], particles.mass_msun[::step]
    scale = particles.mass_msun.sum() / mass.sum() if mass.sum() > 0 else 1.0
    return Particles(pos, vel, mass * scale)


def thinned(parts: list[Particles], most: int = FEW) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 3) [kpc] and masses (n,) [Msun] that stand for all of these particles, `most` or a few more."""
    whole = max(sum(map(len, parts)), 1)
    chosen = [few(p, max(1, round(most * len(p) / whole))) for p in parts if len(p)]
    if not chosen:
        return np.zeros((0, 3)), np.zeros(0)
    return np.concatenate([p.pos_kpc for p in chosen]), np.concatenate([p.mass_msun for p in chosen])


def uphill(pos_kpc: np.ndarray, mass_msun: np.ndarray, start_kpc: np.ndarray, neighbours: int) -> np.ndarray:
    """The peak (3,) of a density of particles (N, 3), (N,) that one comes to from a start (3,): again and again to the
    mean of the nearest `neighbours` (mean shift, Fukunaga & Hostetler 1975)."""
    here = np.asarray(start_kpc, dtype=float)
    for _ in range(200):
        r2 = np.einsum("ij,ij->i", pos_kpc - here, pos_kpc - here)
        near = np.argpartition(r2, neighbours - 1)[:neighbours] if neighbours < len(r2) else slice(None)
        there = np.average(pos_kpc[near], axis=0, weights=mass_msun[near])
        if np.linalg.norm(there - here) <= 1e-3 * np.sqrt(r2[near].max()):
            return there
        here = there
    return here


def offset_re(galaxy: Galaxy, n_stars: int | None = None) -> float:
    """Distance of a galaxy's origin from the nearest peak of its stars, or of all its matter, in units of R_e.

    n_stars: star particles that are its own, where a catalogue knows: in a satellite's aperture its
    host's may be more. R_e is three quarters of the stars' half-mass radius about their peak (Wolf et
    al. 2010). A clump that outshines the centre does not move the peak of all matter, nor a halo that
    is off its galaxy that of the stars.
    """
    nearest = np.inf
    own = min(1.0, (n_stars or np.inf) / max(len(galaxy.stars), 1))
    for parts in ([galaxy.stars], list(galaxy.components().values())):
        pos, mass = thinned(parts)
        if len(pos) == 0 or not mass.sum() > 0:
            continue
        wanted = max(min(FEWEST, len(pos)), int(SHARE * own * len(pos)))
        peak = uphill(pos, mass, np.zeros(3), wanted)
        r = np.linalg.norm(galaxy.stars.pos_kpc - peak, axis=1)
        r_e = 0.75 * half_mass_radius(r, galaxy.stars.mass_msun)
        nearest = min(nearest, float(np.linalg.norm(peak)) / r_e if r_e > 0 else np.inf)
    return nearest


@njit(cache=True, nogil=True)
def _potential(at, pos, mass, softening):  # type: ignore[no-untyped-def]
    """Sum of m / sqrt(d^2 + softening^2) at places (K, 3), of particles (N, 3), (N,): depth, up to G."""
    depth = np.zeros(len(at))
    for i in range(len(at)):
        for j in range(len(pos)):
            d2 = (at[i, 0] - pos[j, 0]) ** 2 + (at[i, 1] - pos[j, 1]) ** 2 + (at[i, 2] - pos[j, 2]) ** 2
            depth[i] += mass[j] / np.sqrt(d2 + softening**2)
    return depth


def deepest_point(stars: Particles, matter: list[Particles]) -> np.ndarray:
    """Centre (3,) [kpc] of the galaxy in a file: from the minimum of the potential uphill to the peak of all matter.

    The minimum is looked for where stars are, softened by most of the stars' median distance from
    their middle, so that no clump of theirs is one; from there uphill in the matter within four of
    their half-mass radii, on a tenth of it and then on a twentieth.
    """
    pos, mass = thinned(matter)
    places, _ = thinned([stars], 2000)
    softening = 0.7 * float(np.median(np.linalg.norm(places - np.median(places, axis=0), axis=1)))
    here = places[np.argmax(_potential(places, pos, mass, max(softening, 1e-6)))]
    half = half_mass_radius(np.linalg.norm(stars.pos_kpc - here, axis=1), stars.mass_msun)
    near = [p[np.linalg.norm(p.pos_kpc - here, axis=1) <= 4 * half] for p in matter if len(p)]
    pos, mass = thinned(near)
    for share in (SHARE, SHARE / 2):
        here = uphill(pos, mass, here, max(min(FEWEST, len(pos)), int(share * len(pos))))
    return here
