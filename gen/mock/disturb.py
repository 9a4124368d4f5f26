"""What keeps real galaxies from perfect order. Every shift keeps each particle's spherical radius,
so the true mass profile stays what the equilibrium model says."""

from dataclasses import dataclass, replace

import numpy as np

from kinmass.gen.physics.particles import Particles


@dataclass(frozen=True)
class Disturbance:
    """Strengths; zero everywhere is an undisturbed galaxy."""

    misalignment_deg: float = 0.0  # gas disc against stellar disc
    warp_deg: float = 0.0  # tilt of the gas at three gas scale lengths and beyond
    lopsidedness: float = 0.0  # m = 1 amplitude of the gas surface density
    bar: float = 0.0  # m = 2 amplitude of the stellar disc inside one scale length
    flow: float = 0.0  # gas radial velocity over circular velocity, outwards positive
    sloshing: float = 0.0  # gas bulk motion over circular velocity
    holes: int = 0  # bubbles blown into the gas


def _turn(gas: Particles, angle: np.ndarray) -> Particles:
    """Rotate position and velocity of every particle about z by its own angle (N,)."""
    cos, sin = np.cos(angle), np.sin(angle)

    def about_z(v: np.ndarray) -> np.ndarray:
        return np.stack([cos * v[:, 0] - sin * v[:, 1], sin * v[:, 0] + cos * v[:, 1], v[:, 2]], axis=1)

    return replace(gas, pos_kpc=about_z(gas.pos_kpc), vel_kms=about_z(gas.vel_kms))


def _tilt(gas: Particles, angle: np.ndarray) -> Particles:
    """Rotate position and velocity of every particle about x by its own angle (N,)."""
    roll = [2, 0, 1]  # x plays the part of z
    turned = _turn(replace(gas, pos_kpc=gas.pos_kpc[:, [1, 2, 0]], vel_kms=gas.vel_kms[:, [1, 2, 0]]), angle)
    return replace(turned, pos_kpc=turned.pos_kpc[:, roll], vel_kms=turned.vel_kms[:, roll])


def disturb_stars(disc: Particles, d: Disturbance, scale_kpc: float, rng: np.random.Generator) -> Particles:
    """A bar: the inner disc's stars crowd towards one axis, density 1 + bar cos 2 phi."""
    phi = np.arctan2(disc.pos_kpc[:, 1], disc.pos_kpc[:, 0]) - rng.uniform(0, np.pi)
    R = np.hypot(disc.pos_kpc[:, 0], disc.pos_kpc[:, 1])
    return _turn(disc, -0.5 * d.bar * np.exp(-((R / scale_kpc) ** 2)) * np.sin(2 * phi))


def disturb_gas(
    gas: Particles, d: Disturbance, scale_kpc: float, v_circ_kms: float, rng: np.random.Generator
) -> Particles:
    """Lopsidedness, radial flow, sloshing, holes, a warp and a misalignment, in this order."""
    phi = np.arctan2(gas.pos_kpc[:, 1], gas.pos_kpc[:, 0]) - rng.uniform(0, 2 * np.pi)
    gas = _turn(gas, -d.lopsidedness * np.sin(phi))
    R = np.hypot(gas.pos_kpc[:, 0], gas.pos_kpc[:, 1])
    outwards = gas.pos_kpc * [1, 1, 0] / np.maximum(R, 1e-12)[:, None]
    bulk = rng.standard_normal(3)
    vel = gas.vel_kms + v_circ_kms * (d.flow * outwards + d.sloshing * bulk / np.linalg.norm(bulk))
    gas = replace(gas, vel_kms=vel)
    for _ in range(d.holes):
        gas = _blow_hole(gas, scale_kpc, v_circ_kms, rng)
    gas = _tilt(gas, np.radians(d.warp_deg) * np.clip(R / scale_kpc - 1, 0, 2) / 2)
    gas = _turn(gas, np.full(len(gas), rng.uniform(0, 2 * np.pi)))
    return _tilt(gas, np.full(len(gas), np.radians(d.misalignment_deg)))


def _blow_hole(gas: Particles, scale_kpc: float, v_circ_kms: float, rng: np.random.Generator) -> Particles:
    """Push the gas around a random place in the disc aside, along its own sphere, and outwards."""
    r = np.linalg.norm(gas.pos_kpc, axis=1)
    where, turn = scale_kpc * rng.uniform(0.3, 2.0), rng.uniform(0, 2 * np.pi)
    size = scale_kpc * rng.uniform(0.15, 0.4)
    centre = np.array([where * np.cos(turn), where * np.sin(turn), 0.0])
    away = gas.pos_kpc - centre
    distance = np.maximum(np.linalg.norm(away, axis=1), 1e-9)
    inside = distance < size
    # A point at distance d moves to sqrt(d * size): the hole empties into its own rim.
    push = (np.sqrt(distance * size) / distance - 1)[inside, None] * away[inside]
    pos = gas.pos_kpc.copy()
    moved = pos[inside] + push
    pos[inside] = moved * (r[inside] / np.linalg.norm(moved, axis=1))[:, None]
    vel = gas.vel_kms.copy()
    speed = 0.15 * v_circ_kms * (1 - distance[inside] / size)
    vel[inside] += speed[:, None] * away[inside] / distance[inside, None]
    return replace(gas, pos_kpc=pos, vel_kms=vel)
