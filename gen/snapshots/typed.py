"""The fields of one particle type as particles in kpc, km/s and Msun, checked for what no galaxy can hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kinmass.gen.constants import LIGHT_KMS
from kinmass.gen.formats.base import CodeUnits, Format, SnapshotError
from kinmass.gen.formats.domain import at_origin, check_written
from kinmass.gen.formats.smoothing import Smoothing
from kinmass.gen.formats.tracers import is_cold, luminosity, neutral_fraction
from kinmass.gen.physics.particles import Particles, empty, unmoved
from kinmass.gen.physics.projection import NEIGHBOURS
from kinmass.gen.snapshots.components import host_of
from kinmass.gen.snapshots.repeated import copies
from kinmass.gen.suite import Tracers

#: No more particles of a type than this are exactly at rest by chance.
MOST_AT_REST = 10
#: Of a type's particles at most so many, or this share, have no mass: what black holes have swallowed.
MOST_MASSLESS, MASSLESS_SHARE = 10, 0.01
#: Mass of the heaviest clusters of galaxies [Msun]: no particle weighs as much.
HEAVIEST_MSUN = 1e16
#: Particles of gas and dark matter are not so many times lighter than stars, unless their masses are in another unit.
LARGEST_RATIO = 1e7
#: Radius at which a kernel ends, over the distance of the 32nd neighbour: no kernel reaches so little or so much.
LEAST_REACH, MOST_REACH = 1 / 300, 100.0
#: At so many particles neighbours are looked for, where there are enough: a file may have been thinned to a few.
KERNELS_TRIED, ENOUGH_KERNELS = 8, 200
#: Among at most about so many, whose distances are scaled to those of all: that tells a unit, and costs no time.
MOST_NEIGHBOURS = 20_000
#: Reads a field of one particle type by its name, times a unit (1 by default).
Field = Callable[..., np.ndarray]


def impossible_masses(mass: np.ndarray) -> tuple[str, str]:
    """Say what is wrong with the masses (N,) of one type, in any unit, and what to do; "" and "" where nothing is."""
    n_blank = int(np.count_nonzero(mass == 0))
    if mass.min(initial=0.0) < 0:
        return "negative masses", "is the file damaged? Get it again"
    if len(mass) and n_blank == len(mass):
        return "only zeros", "check the field, or leave this type out of `particles`"
    if n_blank > max(MOST_MASSLESS, MASSLESS_SHARE * len(mass)):
        return f"{n_blank} of {len(mass)} masses are zero", "was the file written to its end? Get it again"
    return "", ""


def too_light(stars: np.ndarray, others: Mapping[str, np.ndarray]) -> str:
    """Say which particles have masses (N,) that are next to nothing beside the stars' (M,), in one unit; "" for none.

    A script that converts `Masses` often leaves the MassTable, which has the dark matter's, in the code's unit: the
    truth would be that of stars and gas alone. Masses that are as much too large show in how slowly the stars move.
    """
    star = _typical(stars)
    for name, mass in others.items():
        if 0 < (own := _typical(mass)) < star / LARGEST_RATIO:
            return (
                f"particles of {name} weigh {own / star:.2g} times what those of stars do: were some masses converted, "
                "and others (or the Header's MassTable) not? Write those of all types in one unit"
            )
    return ""


def _typical(mass: np.ndarray) -> float:
    """Return the median of masses (N,) that are not 0, of about a thousand particles; 0 without any."""
    mass = mass[:: max(1, len(mass) // 1000)]
    return float(np.median(mass[mass > 0])) if mass.any() else 0.0


def kernels_per_neighbours(pos_kpc: np.ndarray, support_kpc: np.ndarray) -> float:
    """Return supports (N,) over the distance of the 32nd neighbour among positions (N, 3): the median of some of them.

    1 where there are too few to tell.
    """
    thinned_by = max(1, len(pos_kpc) // MOST_NEIGHBOURS)
    pos_kpc, support_kpc = pos_kpc[::thinned_by], support_kpc[::thinned_by] * thinned_by ** (1 / 3)
    ratios = []
    tried = np.linspace(0, len(pos_kpc) - 1, KERNELS_TRIED if len(pos_kpc) >= ENOUGH_KERNELS else 0).astype(int)
    for i in tried[support_kpc[tried] > 0]:
        squared_kpc2 = np.zeros(len(pos_kpc))
        for x in pos_kpc.T:
            squared_kpc2 += (x - x[i]) ** 2
        squared_kpc2.partition(NEIGHBOURS - 1)
        ratios.append(support_kpc[i] / np.sqrt(max(squared_kpc2[NEIGHBOURS - 1], 1e-30)))
    return float(np.median(ratios)) if ratios else 1.0


@dataclass(frozen=True)
class TypeReader:
    """Turns fields of a snapshot's particle types into particles.

    components: the types of gas, stars, dark and black_holes; fields: the names of the fields of each type.
    disguised_is_declared: the suite file says which particles stored as stars are none.
    """

    path: Path
    format: Format
    units: CodeUnits
    smoothing: Smoothing
    tracers: Tracers
    components: Mapping[str, list[str]]
    fields: Mapping[str, list[str]]
    disguised_is_declared: bool

    @property
    def host(self) -> str | None:
        """Component of the particles stored among the stars that are none: AREPO's wind, Tipsy's black holes.

        None where no component takes them.
        """
        return host_of(self.format, self.components)

    def names(self, ptype: str) -> list[str]:
        """List the fields that `read` asks for as a rule, in its order.

        Some files need more: those whose smoothing lengths are all zero need the densities.
        """
        asked: list[str] = []

        def field(name: str, unit: float = 1.0) -> np.ndarray:
            """Note the field that is asked for, and return it without particles."""
            asked.append(name)
            return np.zeros((0, 3) if name in ("Coordinates", "Velocities") else 0)

        self.read(ptype, field)
        return list(dict.fromkeys(asked))

    def read(self, ptype: str, field: Field) -> tuple[Particles, Particles]:
        """Turn fields of one type into particles at their positions in the file.

        Returns its own, and those disguised as stars (see `host`), which are empty where they are not told apart. A
        black hole that another has swallowed is left out. Velocities are those of gas and stars alone; others are NaN
        and never read. Raises SnapshotError for a field that is missing or holds what no galaxy can.
        """
        pos, vel = self._positions_and_velocities(ptype, field)
        mass = self._masses(ptype, field)
        fields = self.fields[ptype]
        try:
            support = self._support(field, fields, pos, mass) if ptype in self.components["gas"] else None
            weight = self._weight(ptype, field, fields, mass)
            side = field("Sides", self.units.length_kpc) if "Sides" in fields else None
        except SnapshotError as error:
            raise error if str(self.path) in str(error) else SnapshotError(f"{self.path}: {ptype}: {error}") from error
        particles = Particles(pos, vel, mass, support, weight, side)
        if "Swallowed" in fields and ptype in self.components["black_holes"]:
            # MP-Gadget keeps black holes that others have swallowed, whose mass these have, too (its blackhole.c).
            particles = particles[field("Swallowed") == 0]
        pos, vel, mass = particles.pos_kpc, particles.vel_kms, particles.mass_msun
        n_copies, n_seen = copies([*pos.T, *(vel.T if any(vel.strides) else ()), mass])
        if n_copies:
            problem = f"{n_copies} of {n_seen} particles are others' copies, with the same places"
            hint = "was it joined from pieces that overlap? Keep each particle once"
            raise self._impossible(problem, ptype, "Coordinates", hint)
        return self._split_disguised(ptype, field, particles)

    def _impossible(self, problem: str, ptype: str, name: str, hint: str) -> SnapshotError:
        """Make the error for values of a field that no galaxy can have."""
        return SnapshotError(f"{self.path}: {problem} in {ptype}/{name}; {hint}")

    def _positions_and_velocities(self, ptype: str, field: Field) -> tuple[np.ndarray, np.ndarray]:
        """Read positions (N, 3) [kpc] and, of gas and stars, velocities (N, 3) [km/s], and check both."""
        pos = field("Coordinates", self.units.length_kpc)
        moves = ptype in self.components["gas"] or ptype in self.components["stars"]
        try:
            check_written(ptype, at_origin(pos))
        except SnapshotError as error:
            raise SnapshotError(f"{self.path}: {error}") from error
        if not moves:
            return pos, unmoved(len(pos))
        if "Velocities" not in self.fields[ptype]:
            raise SnapshotError(
                f"{self.path}: {ptype} has no Velocities, which maps of gas and stars show; get the file with them"
            )
        vel = field("Velocities", self.units.velocity_kms)
        if len(vel) and max(vel.max(), -vel.min()) > LIGHT_KMS:
            hint = "check the velocity unit, or get the file again if it is damaged"
            raise self._impossible("speeds beyond that of light", ptype, "Velocities", hint)
        if self._all_move(ptype) and (n_at_rest := np.count_nonzero(~vel.any(axis=1))) > MOST_AT_REST:
            hint = "was the field written to its end? Get the file again"
            raise self._impossible(f"{n_at_rest} of {len(vel)} particles at rest", ptype, "Velocities", hint)
        return pos, vel

    def _all_move(self, ptype: str) -> bool:
        """Tell whether all particles of a type move: stars do, and gas but for cells and runs that begin at rest."""
        is_grid = "Sides" in self.fields[ptype]
        return ptype in self.components["stars"] or (self.units.cosmological and not is_grid)

    def _masses(self, ptype: str, field: Field) -> np.ndarray:
        """Read masses (N,) [Msun] of one type, and check them."""
        name = self.format.mass
        if name not in self.fields[ptype]:
            raise SnapshotError(
                f"{self.path}: {ptype} has neither {name} nor a MassTable entry; write either, or leave this type out "
                "of `particles`"
            )
        mass = field(name, self.units.mass_msun)
        problem, hint = impossible_masses(mass)
        if problem:
            raise self._impossible(problem, ptype, name, hint)
        if mass.max(initial=0.0) > HEAVIEST_MSUN:
            raise self._impossible("masses of whole clusters of galaxies", ptype, name, "check the mass unit")
        return mass

    def _split_disguised(self, ptype: str, field: Field, particles: Particles) -> tuple[Particles, Particles]:
        """Split particles of one type into its own and those disguised as stars, which maps do not show as gas."""
        formed = self.format.formed
        if ptype not in self.components["stars"] or self.host == "stars":
            return particles, empty()
        if formed not in self.fields[ptype]:
            if untold := self.format.untold(ptype, self.units.cosmological):
                raise SnapshotError(f"{self.path}: {untold}")
            return particles, empty()
        times = field(formed)
        doubt = self.format.doubt(times, self.units.cosmological, self.units.scale_factor)
        if doubt and not self.disguised_is_declared:
            raise SnapshotError(f"{self.path}: {ptype}: {doubt} In the suite file {self.format.doubt_hint(ptype)}")
        if (is_star := self.format.are_stars(times)).all():
            return particles, empty()
        disguised, weight_and_support = particles[~is_star], None
        if self.host == "gas":
            weight_and_support = np.zeros(len(disguised))  # AREPO's wind: no map shows it
        return particles[is_star], Particles(
            disguised.pos_kpc, disguised.vel_kms, disguised.mass_msun, weight_and_support, weight_and_support
        )

    def _support(self, field: Field, fields: list[str], pos: np.ndarray, mass: np.ndarray) -> np.ndarray | None:
        """Kernel support (N,) [kpc] of gas; None where the file holds neither smoothing lengths nor densities."""
        if self.smoothing.factor is not None and "SmoothingLength" in fields:
            unit_kpc = self.units.length_kpc * self.units.factors.get("SmoothingLength", 1.0)
            stored = np.asarray(field("SmoothingLength", self.smoothing.factor * unit_kpc))
            if _all_or_none("SmoothingLength", stored, mass):
                return _plausible("SmoothingLength", stored, pos)
        if self.smoothing.volumes and "Density" in fields:
            density = field("Density", self.units.factors.get("Density", 1.0))
            if _all_or_none("Density", density, mass):
                density = np.where(density > 0, density, 1.0)  # of cells without mass, whose kernel carries nothing
                support = self.smoothing.from_density(mass / self.units.mass_msun, density) * self.units.length_kpc
                return _plausible("Density", support, pos)
        return None

    def _weight(self, ptype: str, field: Field, fields: list[str], mass: np.ndarray) -> np.ndarray | None:
        """Weights (N,) of these particles in maps; None where maps weigh them by mass."""
        tracers = self.tracers
        # Runs without expansion are of many models of the gas.
        has_equation_of_state = self.format.has_equation_of_state and self.units.cosmological
        if ptype in self.components["gas"] and tracers.gas == "cold":
            energy_kms2 = self.units.energy_kms2 * self.units.factors.get("InternalEnergy", 1.0)
            unit_k = self.units.factors.get("Temperature", 1.0)
            return mass * is_cold(fields, field, energy_kms2, tracers.cold_below_k, unit_k, has_equation_of_state)
        if ptype in self.components["gas"] and tracers.gas == "hi":
            return mass * neutral_fraction(fields, field, self.format.molecules, has_equation_of_state)
        if ptype in self.components["stars"] and tracers.light_field is not None:
            if "Light" not in fields:
                raise SnapshotError(f"no dataset for `light_field: {tracers.light_field}`; name one that it has")
            return luminosity(field("Light"), tracers.light_field)
        return None


def _all_or_none(name: str, values: np.ndarray, mass: np.ndarray) -> bool:
    """Tell whether particles (N,) have a positive value, or none has one: some initial conditions hold only zeros.

    Raises SnapshotError where some with mass (N,) have one and some not, or where one is negative.
    """
    if values.min(initial=0.0) < 0:
        raise SnapshotError(f"negative values in {name}; is the file damaged? Get it again")
    if not values.any():
        return not len(values)
    if n_blank := np.count_nonzero((values == 0) & (mass > 0)):
        raise SnapshotError(
            f"{n_blank} of {len(values)} values of {name} are 0; was the file written to its end? Get it again"
        )
    return True


def _plausible(name: str, support_kpc: np.ndarray, pos_kpc: np.ndarray) -> np.ndarray:
    """Return supports (N,) that follow from a field, after a look at how many particles (N, 3) they reach.

    Raises SnapshotError where the field must be in another unit: a script may have converted the rest of the gas.
    """
    ratio = kernels_per_neighbours(pos_kpc, support_kpc)
    if not LEAST_REACH <= ratio <= MOST_REACH:
        raise SnapshotError(
            f"by its {name} kernels of the gas end at {ratio:.2g} times the distance of the 32nd neighbour: is it in "
            "another unit than Coordinates and Masses? Convert it as these, or take it out: kernels then follow from "
            "the neighbours"
        )
    return support_kpc
