"""An observed galaxy, described by a YAML file: its maps as pixels on the sky, its distance, its size, their errors."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kinmass.eval.observed.galaxy_file import GalaxyFile
from kinmass.eval.observed.redshifts import refuse_two_galaxies
from kinmass.eval.observed.sanity import one_velocity
from kinmass.eval.observed.sky import SkyMap
from kinmass.eval.observed.tracer import read_tracer
from kinmass.gen.yamlfile import read_checked


@dataclass(frozen=True)
class ObservedGalaxy:
    """The maps of a galaxy, its distance and its projected half-light radius; errors are standard deviations.

    Densities are in Msun/kpc^2 for the tracers in `calibrated`, and not known at all of those in `without_density`.
    inclination_deg is that of the gas disc, 0 face on, for its rotation curve and for a density in no unit of mass;
    instrument_sigma_kms per tracer the width that was taken out of its dispersion. remarks_on {tracer: sentences} say
    how its maps were read, which results from them repeat, doubts {tracer: sentences} speak against what follows from
    its maps. redshift is that of which the distance follows, None where it is known otherwise; redshifts {tracer:
    (lowest, highest)} are those that the velocities in the files can mean, of tracers whose V is not about a mean.
    Raises ValueError for a distance or radius that is not positive, and for negative or infinite errors.
    """

    name: str
    distance_mpc: float
    half_light_radius_arcsec: float
    gas: SkyMap | None = None
    stars: SkyMap | None = None
    distance_error_mpc: float = 0.0
    half_light_radius_error_arcsec: float = 0.0
    centre_error_arcsec: float = 0.0
    calibrated: frozenset[str] = frozenset()
    without_density: frozenset[str] = frozenset()
    inclination_deg: float | None = None
    inclination_error_deg: float = 0.0
    instrument_sigma_kms: dict[str, float] = field(default_factory=dict)
    remarks_on: dict[str, tuple[str, ...]] = field(default_factory=dict)
    redshift: float | None = None
    redshifts: dict[str, tuple[float, float]] = field(default_factory=dict)
    doubts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("distance_mpc", "half_light_radius_arcsec"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        errors = (
            "distance_error_mpc",
            "half_light_radius_error_arcsec",
            "centre_error_arcsec",
            "inclination_error_deg",
        )
        for name in errors:
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be finite and not negative, not {getattr(self, name)}")

    @property
    def remarks(self) -> tuple[str, ...]:
        """The remarks on all tracers."""
        return tuple(remark for remarks in self.remarks_on.values() for remark in remarks)

    def maps(self) -> dict[str, SkyMap]:
        """The maps of the observed tracers, {"stars": ..., "gas": ...}, without those that were not observed."""
        return {name: sky for name in ("stars", "gas") if (sky := getattr(self, name)) is not None}


def _with_east(tracer: str, sky: SkyMap, places: str, other: str) -> tuple[SkyMap, tuple[str, ...]]:
    """Return a map beside that of another tracer, whose places are told in another way, with +x to the east.

    A remark says what was taken for east; places: as of `tracer_maps.Places`.
    """
    if places == "pixels":
        said = f"East was taken to be on the left of the {tracer}, given in pixels, beside the {other}, which are not"
        return replace(sky, x_arcsec=-sky.x_arcsec), (f"{said}: if it is not, turn the map over.",)
    said = f"x of the {tracer}, offsets from the centre, was taken to grow to the east, beside the {other}"
    return sky, (f"{said}: if it grows to the west, change its sign.",) if places == "offsets" else ()


def read_galaxy(path: Path) -> ObservedGalaxy:
    """Read the galaxy that a YAML file describes; files of maps are looked for in the folder of the YAML file.

    Raises ValueError in one sentence for a file of maps that is missing, damaged, of another shape or empty, and
    FileError (a ValueError, a line per wrong key) for a YAML file that cannot be read or used.
    """
    content = read_checked(path, GalaxyFile)
    distance_mpc, distance_error_mpc = content.distance()
    maps: dict[str, SkyMap] = {}
    widths: dict[str, float] = {}
    redshifts: dict[str, tuple[float, float]] = {}
    doubts: dict[str, tuple[str, ...]] = {}
    remarks: dict[str, tuple[str, ...]] = {}
    places: dict[str, str] = {}
    calibrated, without_density = set(), set()
    for tracer in ("gas", "stars"):
        if (files := getattr(content, tracer)) is None:
            continue
        try:
            read = read_tracer(files, path.parent, content)
        except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
            raise ValueError(f"{path}: {tracer}: {error}") from error
        maps[tracer], widths[tracer], places[tracer] = read.sky, read.instrument_sigma_kms, read.places
        remarks[tracer], doubts[tracer] = tuple(read.remarks), tuple(read.doubts)
        if read.is_calibrated:
            calibrated.add(tracer)
        if read.redshifts is not None:
            redshifts[tracer] = read.redshifts
        if files.density is None:
            without_density.add(tracer)
    try:
        refuse_two_galaxies(redshifts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if len(set(places.values())) > 1:
        for tracer, other in (("gas", "stars"), ("stars", "gas")):
            maps[tracer], said = _with_east(tracer, maps[tracer], places[tracer], other)
            remarks[tracer] += said
    for tracer in maps:
        doubts[tracer] += tuple(one_velocity(maps))
    if content.inclination_deg is not None and content.gas is None:
        remarks["stars"] += ("inclination_deg is that of a disc of gas: from stars alone, nothing follows from it.",)
    return ObservedGalaxy(
        content.name, distance_mpc, content.half_light_radius_arcsec, maps.get("gas"), maps.get("stars"),
        distance_error_mpc, content.half_light_radius_error_arcsec, content.centre_error_arcsec,
        frozenset(calibrated), frozenset(without_density), content.inclination_deg, content.inclination_error_deg,
        widths, remarks, content.redshift, redshifts, doubts,
    )  # fmt: skip
