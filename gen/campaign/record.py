"""Makes what the store keeps of one galaxy: its maps and its true mass profile."""

import dataclasses
from dataclasses import replace
from types import SimpleNamespace
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from scipy.spatial import ConvexHull

from kinmass.gen.constants import G
from kinmass.gen.formats.blocks import measured
from kinmass.gen.formats.domain import lowest_and_highest
from kinmass.gen.options import SEED, STRICT, whole
from kinmass.gen.physics.centre import deepest_point
from kinmass.gen.physics.particles import Galaxy, Particles, is_within, within
from kinmass.gen.physics.profile import enclosed_mass, half_mass_radius, profile_radii
from kinmass.gen.physics.projection import views, with_kernels
from kinmass.gen.physics.sightline import sightlines
from kinmass.gen.storage import store
from kinmass.gen.suite import Aperture
from kinmass.gen.words import counted

#: Side of the map, and the largest radius of the network's profile, in projected half-mass radii.
FIELD_OF_VIEW_RE = 6.0
REACH_RE = 3.0
#: Dark matter that reaches so many times as far on one side as on the other is cut off.
LOPSIDED = 3.0
#: Where so many dark particles end tells where a region was cut: in no direction all lie within a third by chance.
ENOUGH_TO_END = 300
#: Of more dark particles than these every n-th is taken: a hull of so many takes a millisecond.
MOST_IN_HULL = 3_000
#: Lowest and highest v^2 r / (G M) of a galaxy's stars, of which half are faster than v: it is near 1.
LOWEST_MOTION, HIGHEST_MOTION = 0.003, 300.0
#: Of fewer stars than these one may outweigh all others.
FEWEST_TO_COMPARE = 10
#: Share of a galaxy's light that no single star particle has.
MOST_LIGHT = 0.99
#: Mean density of light within R_e [per kpc^2] in any unit, of which networks find velocities in single precision: its
#: product with their squares, and a thousandth of it, are numbers there.
FAINTEST_PER_KPC2, BRIGHTEST_PER_KPC2 = 1e-20, 1e28
#: A sphere whose farthest particle lies within this share of its radius is cut off by the end of its file.
FILLED = 0.9


def _growing(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= limits[0] < limits[1] <= 90:
        raise ValueError("not growing")
    return limits


@dataclass(frozen=True, config=STRICT)
class Settings:
    """How galaxies are mapped; kept in the store's attributes. Raises pydantic's ValidationError."""

    views: Annotated[int, whole(1, 10_000)] = 16
    pixels: Annotated[int, whole(4, 4096)] = 32
    seed: Annotated[int, SEED] = 0
    field_of_view_re: Annotated[
        float, Field(ge=0.01, le=1000, description="a number from 0.01 to 1000 (half-mass radii)")
    ] = FIELD_OF_VIEW_RE
    inclination_deg: Annotated[
        tuple[float, float], AfterValidator(_growing), Field(description="two growing angles from 0 to 90 degrees")
    ] = (0.0, 90.0)
    galaxies_per_shard: Annotated[int | None, whole(1, 100_000)] = None  # None: by the number of galaxies


class Refused(ValueError):
    """A galaxy that cannot be mapped correctly; the message is the reason in failures.jsonl."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """From where and how far a galaxy is mapped. Follows from its own stars alone, not from the truth's aperture.

    stars_radius_kpc is where its stars end; half_mass_kpc is the spherical half-mass radius, r_e_kpc (V,) the
    projected ones; maps show the particles within map_radius_kpc. That is at least twice as far from the centre as the
    field's corners, because R_e is at most the spherical half-mass radius; or half a periodic box where that is less.
    """

    stars_radius_kpc: float
    half_mass_kpc: float
    bulk_kms: np.ndarray  # (3,)
    turns: np.ndarray  # (V, 3, 3)
    inclination_deg: np.ndarray  # (V,)
    r_e_kpc: np.ndarray  # (V,)
    map_radius_kpc: float


def enough_stars(stars: Particles, min_stars: int, place: str) -> None:
    """Raise Refused for fewer than min_stars stars; `place` says in the message where they were counted."""
    if len(stars) < min_stars:
        raise Refused(
            f"{counted(len(stars), 'star particle')} {place}, fewer than min_stars = {min_stars}; "
            "lower `selection.min_stars` to map it all the same"
        )


def at_rest(stars: Particles) -> np.ndarray:
    """Velocity (3,) [km/s] of a galaxy: the mass-weighted mean of its stars within their half-mass radius."""
    r_kpc = np.sqrt(np.einsum("ij,ij->i", stars.pos_kpc, stars.pos_kpc))
    inner = np.where(r_kpc <= half_mass_radius(r_kpc, stars.mass_msun), stars.mass_msun, 0.0)
    return np.asarray(inner @ stars.vel_kms / inner.sum())


def spin(stars: Particles, bulk_kms: np.ndarray) -> np.ndarray:
    """Direction (3,) of the angular momentum of the stars within twice their half-mass radius; zeros without any."""
    r_kpc = np.sqrt(np.einsum("ij,ij->i", stars.pos_kpc, stars.pos_kpc))
    inner_mass = np.where(r_kpc <= 2 * half_mass_radius(r_kpc, stars.mass_msun), stars.mass_msun, 0.0)
    # Sums of m x_i v_j, one axis at a time: no copy of all the stars.
    moment = np.stack([(inner_mass * x) @ stars.vel_kms - (inner_mass @ x) * bulk_kms for x in stars.pos_kpc.T])
    momentum = np.array([moment[1, 2] - moment[2, 1], moment[2, 0] - moment[0, 2], moment[0, 1] - moment[1, 0]])
    return np.asarray(momentum / max(float(np.linalg.norm(momentum)), 1e-30))


def frame_of(
    stars: Particles, stars_radius_kpc: float, name: str, settings: Settings, half_box_kpc: float = np.inf
) -> Frame:
    """Choose the frame of a galaxy from its own stars; the sightlines follow from its name and the seed.

    Raises Refused for stars without mass or extent, or of which one outweighs all others, for stars without spin where
    an inclination is asked for, and for a periodic box that does not hold the field of view.
    """
    if not stars.mass_msun.sum() > 0:
        raise Refused("its star particles have no mass; is the file damaged? Get it again")
    if (share := stars.mass_msun.max() / stars.mass_msun.sum()) > 0.5 and len(stars) >= FEWEST_TO_COMPARE:
        raise Refused(
            f"one of its star particles has {100 * share:.3g} % of the mass of all, and its place would be R_e: is it "
            "a black hole or coarse dark matter? Take it out, or say in `particles` what its type is"
        )
    bulk_kms = at_rest(stars)
    pole = spin(stars, bulk_kms)
    if not pole.any() and settings.inclination_deg != (0.0, 90.0):
        raise Refused("its stars have no angular momentum, so no inclination; map it without --inclination")
    turns = sightlines(settings.seed, name, settings.views, pole, settings.inclination_deg)
    r_e_kpc = np.array([half_mass_radius(np.hypot(*(turn[:2] @ stars.pos_kpc.T)), stars.mass_msun) for turn in turns])
    if not r_e_kpc.min() > 0:
        raise Refused("half of the stars lie at one point; is the file damaged? Get it again")
    half_mass_kpc = half_mass_radius(np.sqrt(np.einsum("ij,ij->i", stars.pos_kpc, stars.pos_kpc)), stars.mass_msun)
    inclination_deg = np.degrees(np.arccos(np.clip(np.abs(turns[:, 2] @ pole), 0, 1)))
    if (corner_kpc := 0.5**0.5 * settings.field_of_view_re * r_e_kpc.max()) > half_box_kpc:
        raise Refused(
            f"its maps reach {corner_kpc:.4g} kpc from its centre, out of the box of {2 * half_box_kpc:.4g} kpc; "
            "lower --field-of-view, or check BoxSize"
        )
    map_radius_kpc = min(2**0.5 * settings.field_of_view_re * half_mass_kpc, half_box_kpc)
    return Frame(stars_radius_kpc, half_mass_kpc, bulk_kms, turns, inclination_deg, r_e_kpc, map_radius_kpc)


def aperture_of(aperture: Aperture, r200_kpc: float | None, box_kpc: float | None) -> float:
    """Return the radius [kpc] of the sphere of a galaxy's truth, of which the catalogue says R200, or not (None).

    Raises Refused where it is not known, or does not fit into a periodic box of this side; None stands for no box.
    """
    if aperture.kpc is None and r200_kpc is None:
        raise Refused("the catalogue has no R200 for it; give `aperture: {kpc: ...}`")
    aperture_kpc = aperture.kpc or (aperture.r200 or 0.0) * (r200_kpc or 0.0)
    if box_kpc is not None and aperture_kpc > 0.5 * box_kpc:
        raise Refused(
            f"the aperture of {aperture_kpc:.4g} kpc does not fit into the box of {box_kpc:.4g} kpc; check `aperture`, "
            "the catalogue's R200 and BoxSize (`units: {box: none}` if it is no box)"
        )
    return aperture_kpc


def check_aperture(frame: Frame, aperture_kpc: float) -> None:
    """Raise Refused when the truth's aperture ends before the network's profile does."""
    if (reach_kpc := REACH_RE * frame.r_e_kpc.max()) > aperture_kpc:
        raise Refused(
            f"the aperture of {aperture_kpc:.4g} kpc ends before {REACH_RE:g} R_e = {reach_kpc:.4g} kpc; "
            "enlarge `aperture`"
        )


def check_ends(frame: Frame, ends_kpc: tuple[float, float]) -> None:
    """Raise Refused for a galaxy at the side of a region that was cut out: by Snapshot.nearest_end or `ends_of`.

    The farthest particles on its other side do not tell that it is cut. The dark matter of a whole galaxy ends at
    similar distances on opposite sides.
    """
    near_kpc, far_kpc = ends_kpc
    if near_kpc < (reach_kpc := REACH_RE * frame.r_e_kpc.max()) and far_kpc > LOPSIDED * near_kpc:
        raise Refused(
            f"its file's dark matter ends {near_kpc:.4g} kpc from its centre on one side, before {REACH_RE:g} R_e = "
            f"{reach_kpc:.4g} kpc, and {far_kpc:.4g} kpc on the other: a cutout of a region, which cuts it; leave it "
            "out, or take a larger region"
        )


def ends_of(dark: Particles) -> tuple[float, float]:
    """Return how far [kpc] dark matter around a centre reaches where it ends first, and how far in the other direction.

    It ends at the convex hull of its particles. Both are infinite where there are too few to tell. Of a cutout across
    the face of its box, whose positions lie all over the box, and of a sphere nothing else tells where they end.
    """
    if len(dark) < ENOUGH_TO_END:
        return np.inf, np.inf
    pos_kpc = dark.pos_kpc[:: max(1, len(dark) // MOST_IN_HULL)]
    planes = ConvexHull(pos_kpc, qhull_options="QJ").equations  # outward normals, and minus the distance along them
    nearest = planes[np.argmax(planes[:, 3])]
    return float(-nearest[3]), float(np.max(pos_kpc @ -nearest[:3]))


def check_motion(galaxy: Galaxy, frame: Frame, source: str) -> None:
    """Raise Refused where a galaxy's stars do not move by far as the mass inside them has them move.

    v^2 r / (G M) at their half-mass radius is near 1 in equilibrium (1 of a cold disc with a flat rotation curve),
    and some times as much in a merger. A length in Mpc that is taken for kpc changes it a thousand times. Without dark
    matter in the file M may be far too small, and only slow stars are refused. source says where the units are from.
    """
    highest = HIGHEST_MOTION if len(galaxy.dark) else np.inf
    r_kpc = (1 + 1e-6) * frame.half_mass_kpc  # with the star that lies on it
    inside_msun = sum(float(p.mass_msun[is_within(p, r_kpc)].sum()) for p in galaxy.components().values())
    vel_kms = galaxy.stars.vel_kms[is_within(galaxy.stars, r_kpc)] - frame.bulk_kms
    speed2 = float(np.median((vel_kms**2).sum(axis=1)))  # the median, for stars of a cluster around it are fast
    if not LOWEST_MOTION <= speed2 * r_kpc / (G * inside_msun) <= highest:
        raise Refused(
            f"its stars move at {np.sqrt(speed2):.3g} km/s within {r_kpc:.3g} kpc, where {inside_msun:.3g} Msun would "
            f"have them move at some {np.sqrt(G * inside_msun / r_kpc):.3g} km/s; are the units right (from {source})? "
            "If not, give `units: {length_kpc: ..., mass_msun: ..., velocity_kms: ...}`"
        )


def check_light(stars: Particles, frame: Frame, dataset: str) -> None:
    """Raise Refused where the stars of a map have no light in a dataset, or one of them has all but a hundredth.

    Or where its unit is one of which maps in single precision cannot hold the numbers.
    """
    light = np.zeros(0) if stars.weight is None else stars.weight[is_within(stars, frame.map_radius_kpc)]
    if not light.any():
        raise Refused(f"its stars have no light: {dataset} is 0 for all of them; name another `light_field`")
    if len(light) >= FEWEST_TO_COMPARE and light.max() > MOST_LIGHT * light.sum():
        raise Refused(
            f"one of its {len(light)} stars has {light.max() / light.sum():.2%} of their light; is its {dataset} a "
            "mark of what has none? Write 0 in its place"
        )
    per_kpc2 = light.sum() / (2 * np.pi * frame.r_e_kpc.min() ** 2)
    if not FAINTEST_PER_KPC2 < per_kpc2 < BRIGHTEST_PER_KPC2:
        raise Refused(
            f"its stars have {per_kpc2:.2g} of {dataset} per kpc^2 within R_e, and maps are in single precision; write "
            "it in a unit in which that is nearer to 1, as solar luminosities"
        )


def map_galaxy(galaxy: Galaxy, frame: Frame, aperture_kpc: float, settings: Settings) -> dict[str, np.ndarray]:
    """Make the maps and the truth of one centred galaxy, as `store.ARRAYS` describes them.

    galaxy holds all particles out to the aperture and to frame.map_radius_kpc, and may hold others. Raises Refused
    when its particles end before the network's profile does.

    >>> from kinmass.gen.mock.suites import make_galaxy
    >>> galaxy, model = make_galaxy("quiet", 0, seed=1, n_stars=2000, n_gas=500, n_dark=2000)
    >>> settings, aperture_kpc = Settings(views=2, pixels=16), 0.3 * model.r200_kpc
    >>> frame = frame_of(galaxy.stars, aperture_kpc, "quiet 0", settings)
    >>> record = map_galaxy(galaxy, frame, aperture_kpc, settings)
    >>> record["maps"].shape  # views, channels of stars and of gas, pixels
    (2, 8, 16, 16)
    >>> bool((np.diff(record["mass"][0]) >= 0).all())  # mass inside growing radii
    True
    """
    gas = with_kernels(within(galaxy.gas, frame.map_radius_kpc))
    mapped = replace(galaxy, stars=within(galaxy.stars, frame.map_radius_kpc), gas=gas)
    half_width_kpc = 0.5 * settings.field_of_view_re * frame.r_e_kpc
    radius_kpc = profile_radii(frame.half_mass_kpc, aperture_kpc)
    sphere_kpc, profile_kpc = max(aperture_kpc, frame.map_radius_kpc), REACH_RE * frame.r_e_kpc.max()
    reach_kpc = _farthest(galaxy, sphere_kpc)
    if reach_kpc < min(profile_kpc, FILLED * sphere_kpc):
        raise Refused(
            f"its file ends {reach_kpc:.4g} kpc from its centre, before {REACH_RE:g} R_e = {profile_kpc:.4g} kpc; "
            "is it a cutout? Take one that is larger"
        )
    mass_inside = {
        c: enclosed_mass(p.pos_kpc, p.mass_msun, radius_kpc, p.side_kpc) for c, p in galaxy.components().items()
    }
    total_inside = sum(mass_inside.values())
    return {
        "maps": views(mapped, frame.turns, half_width_kpc, settings.pixels, frame.bulk_kms).astype(np.float32),
        "sightline": frame.turns,
        "inclination": frame.inclination_deg.astype(np.float32),
        "half_mass_radius": frame.r_e_kpc.astype(np.float32),
        "pixel_scale": (2 * half_width_kpc / settings.pixels).astype(np.float32),
        "stars_radius": np.array(frame.stars_radius_kpc),
        "map_radius": np.array(frame.map_radius_kpc),
        "reach": np.array(reach_kpc),
        "radius": radius_kpc,
        "mass": np.stack([total_inside if c == "total" else mass_inside[c] for c in store.COMPONENTS]),
        "has_gas": np.array(_shows_anything(gas), dtype=np.uint8),
        "has_dark": np.array(len(galaxy.dark) > 0, dtype=np.uint8),
        "bulk_velocity": frame.bulk_kms,
    }


def load_kernels() -> None:
    """Compile what maps are made with, or load it where another process has compiled it: map a galaxy of four stars."""
    positions: list[tuple[str, np.ndarray]] = [("stars", np.eye(3)), ("gas", np.eye(3, dtype=np.float32))]
    measured(range(1), lambda _: positions, lowest_and_highest).touched(SimpleNamespace(center=np.zeros(3), radius=1.0))
    x = np.array([[1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0], [0, -1.0, 0]])
    pos, vel = np.asfortranarray(x), np.asfortranarray(np.roll(x, 1, axis=1))
    stars = Particles(pos, vel, np.ones(4))
    dark = replace(stars, pos_kpc=8 * pos)
    galaxy = Galaxy(stars, replace(stars, support_kpc=np.ones(4)), dark, stars)
    deepest_point(stars, [stars, dark])
    settings = Settings(views=1, pixels=4)
    map_galaxy(galaxy, frame_of(stars, 2.0, "", settings), 10.0, settings)


def _farthest(galaxy: Galaxy, radius_kpc: float) -> float:
    """Distance [kpc] of the farthest particle of any kind within a radius."""
    squared_kpc2 = [np.einsum("ij,ij->i", p.pos_kpc, p.pos_kpc) for p in galaxy.components().values()]
    return float(np.sqrt(max(s.max(where=s <= radius_kpc**2, initial=0.0) for s in squared_kpc2)))


def _shows_anything(particles: Particles) -> bool:
    shown = particles.mass_msun if particles.weight is None else particles.weight
    return bool((shown > 0).any())
