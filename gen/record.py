"""What the store keeps of one galaxy: its maps and its true mass profile."""

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gen import store
from gen.options import SEED, STRICT, whole
from gen.particles import Galaxy, Particles
from gen.profile import enclosed_mass, half_mass_radius, profile_radii
from gen.projection import views
from gen.sightline import sightlines

#: Side of the map, and the largest radius of the network's profile, in projected half-mass radii.
FIELD_OF_VIEW_RE = 6.0
REACH_RE = 3.0


def _growing(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= limits[0] < limits[1] <= 90:
        raise ValueError("not growing")
    return limits


@dataclass(frozen=True, config=STRICT)
class Settings:
    """How galaxies are looked at; kept in the store's attributes. Raises pydantic's ValidationError."""

    views: Annotated[int, whole(1, 10_000)] = 4
    pixels: Annotated[int, whole(4, 4096)] = 32
    seed: Annotated[int, SEED] = 0
    field_of_view_re: Annotated[
        float, Field(ge=0.01, le=1000, description="a number from 0.01 to 1000 (half-mass radii)")
    ] = FIELD_OF_VIEW_RE
    inclination_deg: Annotated[
        tuple[float, float], AfterValidator(_growing), Field(description="two growing angles from 0 to 90 degrees")
    ] = (0.0, 90.0)
    galaxies_per_shard: Annotated[int, whole(1, 100_000)] = 1


class Refused(ValueError):
    """A galaxy that cannot be mapped honestly: the message is its line in failures.jsonl."""


def at_rest(galaxy: Galaxy, min_stars: int) -> np.ndarray:
    """The galaxy's own velocity (3,) [km/s]: that of the inner half of its stars.

    Raises Refused for too few stars.
    """
    stars = galaxy.stars
    if len(stars) < min_stars:
        raise Refused(f"{len(stars)} star particles in the aperture, fewer than min_stars = {min_stars}")
    if not stars.mass_msun.sum() > 0:
        raise Refused("the star particles in the aperture have no mass; is the file damaged?")
    r = np.sqrt(np.einsum("ij,ij->i", stars.pos_kpc, stars.pos_kpc))
    inner = np.where(r <= half_mass_radius(r, stars.mass_msun), stars.mass_msun, 0.0)
    return np.asarray(inner @ stars.vel_kms / inner.sum())


def spin(stars: Particles, bulk_kms: np.ndarray) -> np.ndarray:
    """Direction (3,) of the angular momentum of the stars within twice their half-mass radius."""
    r = np.sqrt(np.einsum("ij,ij->i", stars.pos_kpc, stars.pos_kpc))
    weight = np.where(r <= 2 * half_mass_radius(r, stars.mass_msun), stars.mass_msun, 0.0)
    # Sums of m x_i v_j, one axis at a time: no copy of all the stars.
    moment = np.stack([(weight * x) @ stars.vel_kms - (weight @ x) * bulk_kms for x in stars.pos_kpc.T])
    momentum = np.array([moment[1, 2] - moment[2, 1], moment[2, 0] - moment[0, 2], moment[0, 1] - moment[1, 0]])
    return np.asarray(momentum / max(float(np.linalg.norm(momentum)), 1e-30))


def map_galaxy(
    galaxy: Galaxy, name: str, aperture_kpc: float, settings: Settings, bulk_kms: np.ndarray
) -> dict[str, np.ndarray]:
    """Maps and truth of one centred galaxy that moves with bulk_kms (3,), as `store.ARRAYS` describes them.

    Raises Refused when the aperture ends before the profile does.
    """
    stars = galaxy.stars
    pole = spin(stars, bulk_kms)
    if not pole.any() and settings.inclination_deg != (0.0, 90.0):
        raise Refused("its stars have no angular momentum, so no inclination; map it without --inclination")
    turns = sightlines(settings.seed, name, settings.views, pole, settings.inclination_deg)
    r_e = np.array([half_mass_radius(np.hypot(*(turn[:2] @ stars.pos_kpc.T)), stars.mass_msun) for turn in turns])
    if not r_e.min() > 0:
        raise Refused("half of the stars lie at one point; is the file damaged?")
    if REACH_RE * r_e.max() > aperture_kpc:
        raise Refused(
            f"the aperture of {aperture_kpc:.3g} kpc ends before {REACH_RE:g} R_e = {REACH_RE * r_e.max():.3g} kpc; "
            "enlarge `aperture`"
        )
    half_width = 0.5 * settings.field_of_view_re * r_e
    radius = profile_radii(stars, aperture_kpc)
    menc = {c: enclosed_mass(p.pos_kpc, p.mass_msun, radius) for c, p in galaxy.components().items()}
    total = sum(menc.values())
    return {
        "maps": views(galaxy, turns, half_width, settings.pixels, bulk_kms).astype(np.float32),
        "sightline": turns,
        "inclination": np.degrees(np.arccos(np.clip(np.abs(turns[:, 2] @ pole), 0, 1))).astype(np.float32),
        "half_mass_radius": r_e.astype(np.float32),
        "pixel_scale": (2 * half_width / settings.pixels).astype(np.float32),
        "radius": radius,
        "mass": np.stack([total if c == "total" else menc[c] for c in store.COMPONENTS]),
        "has_gas": np.array(_is_seen(galaxy.gas), dtype=np.uint8),
        "bulk_velocity": bulk_kms,
    }


def _is_seen(tracer: Particles) -> bool:
    return len(tracer) > 0 and (tracer.weight is None or bool((tracer.weight > 0).any()))
