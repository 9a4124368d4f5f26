"""Disturbances of the ordered model galaxies, such as real galaxies have.

They move particles at constant spherical radius, so the true mass profile stays that of the equilibrium model.
"""

from dataclasses import dataclass, replace

import numpy as np

from kinmass.gen.physics.particles import Particles


@dataclass(frozen=True)
class Disturbance:
    """Strengths of all disturbances; the default, zero everywhere, is an undisturbed galaxy."""

    misalignment_deg: float = 0.0  # gas disc against stellar disc
    warp_deg: float = 0.0  # tilt of the gas at three gas scale lengths and beyond
    lopsidedness: float = 0.0  # m = 1 amplitude of the gas surface density
    bar: float = 0.0  # m = 2 amplitude of the stellar disc inside one scale length
    flow: float = 0.0  # gas radial velocity over circular velocity, outwards positive
    sloshing: float = 0.0  # gas bulk motion over circular velocity
    holes: int = 0  # bubbles blown into the gas
    clumpiness: float = 0.0  # amplitude of the clumps of the gas in azimuth
    clumps: int = 0  # on a circle


def _rotate_about_z(gas: Particles, angle: np.ndarray) -> Particles:
    """Rotate position and velocity of every particle about z by its own angle (N,)."""
    cos, sin = np.cos(angle), np.sin(angle)

    def about_z(v: np.ndarray) -> np.ndarray:
        """Rotate vectors (N, 3)."""
        return np.stack([cos * v[:, 0] - sin * v[:, 1], sin * v[:, 0] + cos * v[:, 1], v[:, 2]], axis=1)

    return replace(gas, pos_kpc=about_z(gas.pos_kpc), vel_kms=about_z(gas.vel_kms))


def _rotate_about_x(gas: Particles, angle: np.ndarray) -> Particles:
    """Rotate position and velocity of every particle about x by its own angle (N,)."""
    back = [2, 0, 1]  # moves x, which was put in the place of z, back to its own
    turned = _rotate_about_z(replace(gas, pos_kpc=gas.pos_kpc[:, [1, 2, 0]], vel_kms=gas.vel_kms[:, [1, 2, 0]]), angle)
    return replace(turned, pos_kpc=turned.pos_kpc[:, back], vel_kms=turned.vel_kms[:, back])


def disturb_stars(disc: Particles, disturbance: Disturbance, scale_kpc: float, rng: np.random.Generator) -> Particles:
    """Add a bar to the stellar disc: inner stars move in azimuth until their density goes as 1 + bar cos 2 phi."""
    phi = np.arctan2(disc.pos_kpc[:, 1], disc.pos_kpc[:, 0]) - rng.uniform(0, np.pi)
    R = np.hypot(disc.pos_kpc[:, 0], disc.pos_kpc[:, 1])
    return _rotate_about_z(disc, -0.5 * disturbance.bar * np.exp(-((R / scale_kpc) ** 2)) * np.sin(2 * phi))


def disturb_gas(
    gas: Particles, disturbance: Disturbance, scale_kpc: float, v_circ_kms: float, rng: np.random.Generator
) -> Particles:
    """Add lopsidedness, clumps, radial flow, sloshing, holes, a warp and a misalignment to the gas, in this order."""
    phi = np.arctan2(gas.pos_kpc[:, 1], gas.pos_kpc[:, 0]) - rng.uniform(0, 2 * np.pi)
    gas = _rotate_about_z(gas, -disturbance.lopsidedness * np.sin(phi))
    R = np.hypot(gas.pos_kpc[:, 0], gas.pos_kpc[:, 1])
    if disturbance.clumps:
        # Clumps of one radius lie evenly; from one radius to the next, a sixth of it apart, they lie anew.
        ring = np.floor(6 * np.log(np.maximum(R / scale_kpc, 1e-3))).astype(int)
        start = rng.uniform(0, 2 * np.pi, ring.max() - ring.min() + 1)[ring - ring.min()]
        phase = disturbance.clumps * (np.arctan2(gas.pos_kpc[:, 1], gas.pos_kpc[:, 0]) - start)
        gas = _rotate_about_z(gas, -disturbance.clumpiness * np.sin(phase) / disturbance.clumps)
    outwards = gas.pos_kpc * [1, 1, 0] / np.maximum(R, 1e-12)[:, None]
    bulk = rng.standard_normal(3)
    vel = gas.vel_kms + v_circ_kms * (disturbance.flow * outwards + disturbance.sloshing * bulk / np.linalg.norm(bulk))
    gas = replace(gas, vel_kms=vel)
    for _ in range(disturbance.holes):
        gas = _blow_hole(gas, scale_kpc, v_circ_kms, rng)
    gas = _rotate_about_x(gas, np.radians(disturbance.warp_deg) * np.clip(R / scale_kpc - 1, 0, 2) / 2)
    gas = _rotate_about_z(gas, np.full(len(gas), rng.uniform(0, 2 * np.pi)))
    return _rotate_about_x(gas, np.full(len(gas), np.radians(disturbance.misalignment_deg)))


def _blow_hole(gas: Particles, scale_kpc: float, v_circ_kms: float, rng: np.random.Generator) -> Particles:
    """Push the gas around a random place in the disc away from it, at constant radius, and let it stream outwards."""
    r = np.linalg.norm(gas.pos_kpc, axis=1)
    R_hole, azimuth = scale_kpc * rng.uniform(0.3, 2.0), rng.uniform(0, 2 * np.pi)
    hole_radius = scale_kpc * rng.uniform(0.15, 0.4)
    centre = np.array([R_hole * np.cos(azimuth), R_hole * np.sin(azimuth), 0.0])
    offset = gas.pos_kpc - centre
    distance = np.maximum(np.linalg.norm(offset, axis=1), 1e-9)
    inside = distance < hole_radius
    # A point at distance d moves to sqrt(d * hole_radius): the hole empties and its rim fills up.
    push = (np.sqrt(distance * hole_radius) / distance - 1)[inside, None] * offset[inside]
    pos = gas.pos_kpc.copy()
    moved = pos[inside] + push
    pos[inside] = moved * (r[inside] / np.linalg.norm(moved, axis=1))[:, None]
    vel = gas.vel_kms.copy()
    speed = 0.15 * v_circ_kms * (1 - distance[inside] / hole_radius)
    vel[inside] += speed[:, None] * offset[inside] / distance[inside, None]
    return replace(gas, pos_kpc=pos, vel_kms=vel)
