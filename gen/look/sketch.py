"""What a snapshot holds, told from its headers and a bounded sample, for `kinmass check` and drafts of suite files."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kinmass.gen.constants import LIGHT_KMS
from kinmass.gen.formats import FORMATS, CodeUnits, Format, SnapshotError
from kinmass.gen.formats.base import reading, settled_box
from kinmass.gen.formats.sample import Sample
from kinmass.gen.physics.centre import deepest_point
from kinmass.gen.physics.particles import Particles, concatenate
from kinmass.gen.physics.profile import half_mass_radius
from kinmass.gen.snapshots.components import components_of, disc_question, disc_types, lighter_than_dark
from kinmass.gen.snapshots.snapshot import HEAVIEST_MSUN

#: Particles of each type that are looked at.
MOST = 100_000
#: What a star particle of a simulation of galaxies weighs [Msun]: from single massive stars to the coarsest boxes.
STAR_MSUN = (1.0, 1e9)
#: Half of the stars of the largest galaxy, and of the smallest, lie within [kpc].
HALF_MASS_KPC = (0.02, 300.0)
#: The spread of velocities in a galaxy, or a box of them [km/s].
SPREAD_KMS = (0.3, 5000.0)
#: Below this many star particles a map is shot noise.
FEW_STARS = 200


@dataclass(frozen=True)
class Sketch:
    """A snapshot at a glance. units is None where the header contradicts itself; `wrong` says what stands in the way
    of maps, `odd` what to look at; centre_kpc (3,) and half_kpc are of the galaxy that a file of one holds."""

    path: Path
    format: str
    samples: dict[str, Sample]
    components: dict[str, list[str]]
    low_resolution: list[str]
    discs: list[str]
    units: CodeUnits | None
    wrong: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def of(self, component: str) -> list[Sample]:
        """The samples of a component's types."""
        return [self.samples[t] for t in self.components[component] if t in self.samples]

    def count(self, component: str) -> int:
        """Particles of a component, by the header."""
        return sum(s.count for s in self.of(component))

    def particles(self, component: str) -> Particles:
        """The sampled particles of a component, as heavy as all of it, in physical units."""
        assert self.units is not None
        length, mass, velocity = self.units.length_kpc, self.units.mass_msun, self.units.velocity_kms
        return concatenate(
            [
                Particles(s.pos * length, s.vel * velocity, s.mass * mass * s.count / max(len(s.mass), 1))
                for s in self.of(component)
            ]
        )

    def galaxy(self) -> tuple[np.ndarray, float]:
        """Centre (3,) and half-mass radius [kpc] of the stars of a file that holds one galaxy, by its sample.

        The radius is that of the stars within six of itself: no companion counts.
        """
        assert self.units is not None
        parts = {name: self.particles(name) for name in self.components}
        origin, box = parts["stars"].pos_kpc[0], self.units.box_kpc
        near = [Particles(_wrapped(p.pos_kpc - origin, box), p.vel_kms, p.mass_msun) for p in parts.values() if len(p)]
        stars = Particles(_wrapped(parts["stars"].pos_kpc - origin, box), *_rest(parts["stars"]))
        centre = deepest_point(stars, near)
        r = np.linalg.norm(stars.pos_kpc - centre, axis=1)
        inside, half = np.ones(len(r), dtype=bool), 0.0
        for _ in range(20):
            half, known = half_mass_radius(r[inside], stars.mass_msun[inside]), half
            if half == known or not half > 0:
                break
            inside = r <= 6 * half
        return origin + centre, half


def _rest(p: Particles) -> tuple[np.ndarray, np.ndarray]:
    return p.vel_kms, p.mass_msun


def _wrapped(offset_kpc: np.ndarray, box_kpc: float | None) -> np.ndarray:
    return offset_kpc if box_kpc is None else offset_kpc - box_kpc * np.round(offset_kpc / box_kpc)


def sketch(
    path: Path,
    format_name: str,
    particles: dict[str, list[str]] | None = None,
    units: dict[str, float] | None = None,
    min_stars: int = FEW_STARS,
) -> Sketch:
    """Look at a snapshot's headers and at some particles of each type; particles and units as a suite file has them.

    Raises SnapshotError when it cannot be read at all.
    """
    reader, given = FORMATS[format_name], particles or {}
    with tempfile.TemporaryDirectory(prefix="kinmass-") as scratch, reading(path):
        samples = reader.sample(reader.stage(path, Path(scratch)), MOST)
    components, low = components_of(reader, given)
    samples = _undisguised(reader, samples, components)
    worth, wrong = None, []
    try:
        worth = reader.units(path, units or {})
        extents = {t: np.stack([s.pos.min(0), s.pos.max(0)]) * worth.length_kpc for t, s in samples.items()}
        worth = settled_box(path, worth, extents)
    except SnapshotError as error:
        wrong.append(str(error).removeprefix(f"{path}: "))
    discs = disc_types(components["dark"], given, samples, worth is not None and worth.cosmological)
    seen = Sketch(path, format_name, samples, components, low, discs, worth, wrong)
    _look_at_types(seen, given, min_stars)
    if worth is not None:
        _look_at_numbers(seen)
    return seen


def _undisguised(reader: Format, samples: dict[str, Sample], components: dict[str, list[str]]) -> dict[str, Sample]:
    """The samples with what only goes as stars (AREPO's wind, Tipsy's black holes) as a type of its own, which joins
    the component that it belongs to."""
    found = dict(samples)
    for ptype in components["stars"]:
        formed = samples[ptype].formed if ptype in samples else None
        if formed is None or (star := reader.are_stars(formed)).all():
            continue
        other = reader.disguised
        if other in components:
            other = f"wind of {ptype}"
            components[reader.disguised] = [*components[reader.disguised], other]
        found |= {ptype: samples[ptype][star], other: samples[ptype][~star]}
    return found


def _look_at_types(seen: Sketch, given: dict[str, list[str]], min_stars: int) -> None:
    if seen.discs:
        seen.wrong.append(disc_question(seen.discs))
    elif not seen.count("stars"):
        seen.wrong.append("no stars: no map can be made; if they are of another type add `particles: {stars: [...]}`")
    elif seen.count("stars") < min_stars:
        seen.wrong.append(f"{seen.count('stars')} star particles in the whole file, fewer than min_stars = {min_stars}")
    if not seen.count("dark") and given.get("dark") != []:
        seen.wrong.append(
            "no dark matter: M(<r) would be that of stars and gas alone; if it is of another type add "
            "`particles: {dark: [...]}`, and `particles: {dark: []}` to map it all the same"
        )
    if not seen.count("gas"):
        seen.odd.append("no gas: gas maps will be empty; if it is of another type add `particles: {gas: [...]}`")
    elif not any({"SmoothingLength", "Density"} & s.fields for s in seen.of("gas")):
        seen.odd.append("no smoothing lengths and densities of the gas: the distance of the 32nd neighbour is taken")
    for ptype in lighter_than_dark(seen.low_resolution, seen.samples):
        seen.odd.append(f"{ptype} is said to be of low resolution, and its particles are lighter than PartType1's")
    used = {t for types in seen.components.values() for t in types}
    for ptype in sorted(seen.samples.keys() - used):
        seen.odd.append(f"{seen.samples[ptype].count:,d} particles of {ptype} are not used: their mass is nobody's")


def _look_at_numbers(seen: Sketch) -> None:
    """Numbers that no galaxy has, most often those of a unit that is another."""
    units = seen.units
    assert units is not None
    if "assumed" in units.source:
        seen.odd.append("no units in the file; if they are others add `units: {length_kpc, mass_msun, velocity_kms}`")
    if not units.cosmological:
        seen.odd.append("taken as an isolated run, not cosmological (a = 1, no factors of h but those above)")
    for name in seen.components:
        p = seen.particles(name)
        if not all(np.isfinite(x).all() for x in (p.pos_kpc, p.vel_kms, p.mass_msun)):
            seen.wrong.append(f"NaN or infinite values among {name}; is the file damaged?")
            return
        heaviest = max((s.mass.max(initial=0.0) for s in seen.of(name)), default=0.0) * units.mass_msun
        if heaviest > HEAVIEST_MSUN:
            seen.wrong.append(f"{name} of {heaviest:.3g} Msun a particle; check the mass unit")
        if len(p) and np.abs(p.vel_kms).max() > LIGHT_KMS:
            seen.wrong.append(f"{name} beyond the speed of light; check the velocity unit")
    stars = seen.particles("stars")
    if not len(stars):
        return
    mass = float(np.median(np.concatenate([s.mass for s in seen.of("stars")])))
    spread = float(np.sqrt(np.var(stars.vel_kms, axis=0).mean()))
    if not stars.mass_msun.sum() > 0:
        seen.wrong.append("the stars have no mass; is the file damaged?")
        return
    for value, (low, high), words, key in (
        (mass * units.mass_msun, STAR_MSUN, "a star particle weighs {:.3g} Msun", "mass_msun"),
        (seen.galaxy()[1], HALF_MASS_KPC, "half of the stars lie within {:.3g} kpc", "length_kpc"),
        (spread, SPREAD_KMS, "the stars' velocities spread by {:.3g} km/s", "velocity_kms"),
    ):
        if len(stars) > 1 and not low <= value <= high:
            seen.odd.append(f"{words.format(value)}: is the unit right? If not add `units: {{{key}: ...}}`")
