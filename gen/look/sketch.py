"""Finds out what a snapshot holds from its headers and a bounded sample, for `kinmass check` and for drafts."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kinmass.gen.constants import LIGHT_KMS
from kinmass.gen.formats import FORMATS, CodeUnits, Format, SnapshotError
from kinmass.gen.formats.base import reading, settled_box
from kinmass.gen.formats.sample import Sample
from kinmass.gen.physics.centre import deepest_point
from kinmass.gen.physics.particles import Particles, concatenate, wrapped
from kinmass.gen.physics.profile import half_mass_radius
from kinmass.gen.snapshots.components import (
    coarse_question,
    components_of,
    disc_question,
    disc_types,
    first_stars_question,
    host_of,
    lighter_than_dark,
)
from kinmass.gen.snapshots.typed import HEAVIEST_MSUN, TypeReader, impossible_masses, too_light
from kinmass.gen.suite import Tracers
from kinmass.gen.words import counted

#: At most so many particles of each type are sampled.
MOST = 100_000
#: Lowest and highest plausible mass of a star particle [Msun]: from single massive stars to the coarsest boxes.
STAR_MSUN = (1.0, 1e9)
#: Lowest and highest plausible half-mass radius of a galaxy's stars [kpc].
HALF_MASS_KPC = (0.02, 300.0)
#: Lowest and highest plausible spread of velocities in a galaxy, or a box of galaxies [km/s].
SPREAD_KMS = (0.3, 5000.0)
#: Below this many star particles a map is shot noise.
FEW_STARS = 200


@dataclass(frozen=True)
class Sketch:
    """A snapshot at a glance; samples are by particle type, in code units.

    units is None where the header contradicts itself. `wrong` lists what prevents maps, `odd` what to check.
    """

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
        """Return the samples of a component's types."""
        return [self.samples[t] for t in self.components[component] if t in self.samples]

    def count(self, component: str) -> int:
        """Return the number of particles of a component, by the header."""
        return sum(s.count for s in self.of(component))

    def particles(self, component: str) -> Particles:
        """Return the sampled particles of a component in kpc, km/s and Msun, as heavy as the whole component."""
        assert self.units is not None
        length, mass, velocity = self.units.length_kpc, self.units.mass_msun, self.units.velocity_kms
        return concatenate(
            [
                Particles(s.pos * length, s.vel * velocity, s.mass * mass * s.count / max(len(s.mass), 1))
                for s in self.of(component)
            ]
        )

    def galaxy(self) -> tuple[np.ndarray, float] | None:
        """Find centre (3,) and half-mass radius of the stars [kpc] in a file that holds one galaxy, from the sample.

        The radius is that of the stars within six times itself, so that companions do not count. None where no star of
        the sample has a mass, or a place and a mass that are numbers.
        """
        assert self.units is not None
        parts = {name: _with_mass(self.particles(name)) for name in self.components}
        if not len(parts["stars"]):
            return None
        origin, box = parts["stars"].pos_kpc[0], self.units.box_kpc
        near = {name: replace(p, pos_kpc=wrapped(p.pos_kpc - origin, box)) for name, p in parts.items() if len(p)}
        stars = near["stars"]
        centre = deepest_point(stars, list(near.values()))
        r_kpc = np.linalg.norm(stars.pos_kpc - centre, axis=1)
        inside, half_kpc = np.ones(len(r_kpc), dtype=bool), 0.0
        for _ in range(20):
            half_kpc, previous_kpc = half_mass_radius(r_kpc[inside], stars.mass_msun[inside]), half_kpc
            if half_kpc == previous_kpc or not half_kpc > 0:
                break
            inside = r_kpc <= 6 * half_kpc
        return origin + centre, half_kpc


def _with_mass(p: Particles) -> Particles:
    """Return the particles that have a mass, and a place."""
    is_sound = np.isfinite(p.pos_kpc).all(axis=1) & np.isfinite(p.mass_msun) & (p.mass_msun > 0)
    return p if is_sound.all() else p[is_sound]


def sketch(
    path: Path,
    format_name: str,
    particles: dict[str, list[str]] | None = None,
    units: dict[str, float] | None = None,
    min_stars: int = FEW_STARS,
    tracers: Tracers | None = None,
) -> Sketch:
    """Sketch a snapshot from its headers and some particles of each type.

    particles, units and tracers are those of a suite file; min_stars is its limit, below which `wrong` says so. Raises
    SnapshotError when it cannot be read at all.
    """
    tracers = tracers or Tracers()
    reader, declared = FORMATS[format_name], particles or {}
    with tempfile.TemporaryDirectory(prefix="kinmass-") as scratch, reading(path):
        samples = reader.sample(reader.stage(path, Path(scratch), tracers.light_field), MOST)
    components, low_resolution = components_of(reader, declared)
    stored, samples = samples, _undisguised(reader, samples, components)
    code_units, wrong = None, []
    try:
        code_units = reader.units(path, units or {})
        extents = {t: np.stack([s.pos.min(0), s.pos.max(0)]) * code_units.length_kpc for t, s in stored.items()}
        code_units = settled_box(path, code_units, extents)
    except SnapshotError as error:
        wrong.append(str(error).removeprefix(f"{path}: "))
    cosmological = code_units is not None and code_units.cosmological
    discs = disc_types(components["dark"], declared, samples, cosmological)
    if code_units is not None and not any(reader.disguised in types for types in declared.values()):
        wrong += _doubts(reader, stored, components["stars"], code_units)
    if code_units is not None and host_of(reader, components) != "stars":
        stars = [ptype for ptype in components["stars"] if ptype in stored and stored[ptype].formed is None]
        wrong += filter(None, (reader.untold(ptype, cosmological) for ptype in stars))
    counts = {ptype: sample.count for ptype, sample in samples.items()}
    if code_units is not None and (question := first_stars_question(declared, counts, cosmological)):
        wrong.append(question)
    if not discs and (question := coarse_question(declared, samples)):
        wrong.append(question)
    contents = Sketch(path, format_name, samples, components, low_resolution, discs, code_units, wrong)
    _check_types(contents, declared, min_stars)
    if code_units is not None:
        _check_fields(contents, tracers)
        _check_numbers(contents)
    return contents


def _undisguised(reader: Format, samples: dict[str, Sample], components: dict[str, list[str]]) -> dict[str, Sample]:
    """Split particles that are only stored as stars (AREPO's wind, Tipsy's black holes) off as a type of their own.

    That type is added to its component in `components`.
    """
    split_samples, host = dict(samples), host_of(reader, components)
    for ptype in components["stars"] if host != "stars" else ():
        formed = samples[ptype].formed if ptype in samples else None
        if formed is None or (is_star := reader.are_stars(formed)).all():
            continue
        split_samples |= {ptype: samples[ptype][is_star], reader.disguised: samples[ptype][~is_star]}
        if host is not None and reader.disguised not in components[host]:
            components[host] = [*components[host], reader.disguised]
    return split_samples


def _doubts(reader: Format, samples: dict[str, Sample], stars: list[str], units: CodeUnits) -> list[str]:
    """Say which particles that are stored as stars may be something else, and what to say of them."""
    times = {ptype: samples[ptype].formed for ptype in stars if ptype in samples}
    return [
        f"{ptype}: {doubt} In the suite file {reader.doubt_hint(ptype)}"
        for ptype, formed in times.items()
        if formed is not None and (doubt := reader.doubt(formed, units.cosmological, units.scale_factor))
    ]


def _check_types(contents: Sketch, declared: dict[str, list[str]], min_stars: int) -> None:
    if contents.discs:
        contents.wrong.append(disc_question(contents.discs))
    elif not contents.count("stars"):
        contents.wrong.append(
            "no stars: no map can be made; if they are of another type add `particles: {stars: [...]}`"
        )
    elif contents.count("stars") < min_stars:
        contents.wrong.append(
            f"{counted(contents.count('stars'), 'star particle')} in the whole file, fewer than "
            f"min_stars = {min_stars}; lower `selection.min_stars` to map it all the same"
        )
    if not contents.count("dark") and declared.get("dark") != []:
        contents.wrong.append(
            "no dark matter: M(<r) would be that of stars and gas alone; if it is of another type add "
            "`particles: {dark: [...]}`, and `particles: {dark: []}` to map it all the same"
        )
    if not contents.count("gas"):
        contents.odd.append("no gas: gas maps will be empty; if it is of another type add `particles: {gas: [...]}`")
    elif not any({"SmoothingLength", "Density"} & s.fields for s in contents.of("gas")):
        contents.odd.append(
            "no smoothing lengths and densities of the gas: the distance of the 32nd neighbour is taken"
        )
    else:
        try:
            contents.odd.extend(filter(None, [FORMATS[contents.format].smoothing(contents.path).assumed]))
        except SnapshotError as error:
            contents.wrong.append(str(error).removeprefix(f"{contents.path}: "))
    for ptype in lighter_than_dark([t for t in contents.low_resolution if t.startswith("PartType")], contents.samples):
        contents.odd.append(
            f"{ptype} is said to be of low resolution, and its particles are lighter than PartType1's; "
            "are they a disc and a bulge? Then they belong under `particles: {stars: [...]}`"
        )
    used_types = {t for types in contents.components.values() for t in types}
    for ptype in sorted(contents.samples.keys() - used_types):
        contents.odd.append(
            f"{contents.samples[ptype].count:,d} particles of {ptype} are in no component, so their mass counts "
            "nowhere; name them in `particles`"
        )


def _check_fields(contents: Sketch, tracers: Tracers) -> None:
    """Add to `wrong` the fields that maps of gas and stars need and that are not there."""
    reader, units = FORMATS[contents.format], contents.units
    assert units is not None
    fields = {ptype: sorted(sample.fields) for ptype, sample in contents.samples.items()}
    try:
        smoothing = reader.smoothing(contents.path)
    except SnapshotError:  # of an unknown kernel, which `wrong` tells already
        return
    types = TypeReader(
        contents.path, reader, units, smoothing, tracers, contents.components, fields, disguised_is_declared=True
    )
    for ptype in [*contents.components["gas"], *contents.components["stars"]]:
        if ptype in fields and ptype != reader.disguised:
            try:
                types.names(ptype)
            except SnapshotError as error:
                problem = str(error).removeprefix(f"{contents.path}: ")
                contents.wrong.extend([problem] if problem not in contents.wrong else [])


def _check_numbers(contents: Sketch) -> None:
    """Add to `wrong` and `odd` the numbers that no galaxy has; most often a unit is not the one assumed."""
    units = contents.units
    assert units is not None
    if "assumed" in units.source:
        contents.odd.append(
            "no units in the file: those usual for the format are assumed; where the run has others, add "
            "`units: {length_kpc: ..., mass_msun: ..., velocity_kms: ...}` to the suite file"
        )
    if units.without_box:
        contents.odd.append(units.without_box)
    if not units.cosmological:
        contents.odd.append("taken as an isolated run, not cosmological (a = 1, no factors of h but its units')")
    for name in contents.components:
        particles = contents.particles(name)
        if not all(np.isfinite(x).all() for x in (particles.pos_kpc, particles.vel_kms, particles.mass_msun)):
            contents.wrong.append(f"NaN or infinite values among {name}; is the file damaged? Get it again")
            return
        for problem, hint in map(impossible_masses, (sample.mass for sample in contents.of(name))):
            if problem:
                contents.wrong.append(f"masses of {name}: {problem}; {hint}")
        heaviest_msun = max((s.mass.max(initial=0.0) for s in contents.of(name)), default=0.0) * units.mass_msun
        if heaviest_msun > HEAVIEST_MSUN:
            contents.wrong.append(f"{name} of {heaviest_msun:.3g} Msun a particle; check the mass unit")
        if len(particles) and np.abs(particles.vel_kms).max() > LIGHT_KMS:
            contents.wrong.append(f"{name} beyond the speed of light; check the velocity unit")
    stars = contents.particles("stars")
    if not len(stars):
        return
    others = {ptype: contents.samples[ptype].mass for name in ("dark", "gas") for ptype in contents.components[name]
              if ptype in contents.samples and "Sides" not in contents.samples[ptype].fields}  # fmt: skip
    if problem := too_light(np.concatenate([s.mass for s in contents.of("stars")]), others):
        contents.wrong.append(problem)
    code_mass = float(np.median(np.concatenate([s.mass for s in contents.of("stars")])))
    spread_kms = float(np.sqrt(np.var(stars.vel_kms, axis=0).mean()))
    if (found := contents.galaxy()) is None:
        return
    _, half_mass_kpc = found
    for value, (low, high), words, key in (
        (code_mass * units.mass_msun, STAR_MSUN, "a star particle weighs {:.3g} Msun", "mass_msun"),
        (half_mass_kpc, HALF_MASS_KPC, "half of the stars lie within {:.3g} kpc", "length_kpc"),
        (spread_kms, SPREAD_KMS, "the stars' velocities spread by {:.3g} km/s", "velocity_kms"),
    ):
        if len(stars) > 1 and not low <= value <= high:
            many = "do several galaxies share the file, or is it in another unit? If so,"
            question = many if key == "length_kpc" and value > high else "is the unit right? If not,"
            contents.odd.append(f"{words.format(value)}: {question} add `units: {{{key}: ...}}`")
