"""A snapshot file as plain particle arrays in kpc, km/s and Msun, read through yt."""

import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kinmass.gen.constants import LIGHT_KMS
from kinmass.gen.formats import FORMATS, SnapshotError
from kinmass.gen.formats.base import may_be_damaged_file, reading, settled_box
from kinmass.gen.formats.frontends import forget_datasets
from kinmass.gen.formats.stored import held_open
from kinmass.gen.formats.tracers import is_cold, luminosity, neutral_fraction
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate, empty
from kinmass.gen.snapshots.components import components_of, disc_question, disc_types, undeclared_types
from kinmass.gen.snapshots.indexes import KeptIndex
from kinmass.gen.suite import Tracers

#: Above this many particles yt's index selects the region to read; smaller snapshots are read whole.
READ_WHOLE = 200_000
YT = version("yt")
#: Black holes stored as stars that are more than this share of them may be old stars of initial conditions instead.
MOST_DISGUISED = 0.5
BLACK_HOLES_HINT = (
    "say `particles: {black_holes: [BlackHoles]}`, or `particles: {stars: [Stars, BlackHoles], black_holes: []}`"
)
#: Mass of the heaviest clusters of galaxies [Msun]: no particle weighs as much.
HEAVIEST_MSUN = 1e16
#: Reads a field of one particle type by its name, times a unit (1 by default).
Field = Callable[..., np.ndarray]


class Snapshot:
    """One snapshot, opened in a scratch folder so that yt leaves nothing beside the archive's files.

    components: which particle types make up gas, stars, dark and black_holes, and which of the dark
    ones are low_resolution; the format's own choice where empty. units: what the suite file says of
    units, box and cosmology (gen.suite.Units). keep: small snapshots stay in memory for the next
    galaxy. indexes: folder where yt's index of a snapshot in many chunks is kept for the next
    process that opens it. Raises SnapshotError with the path and the reason.
    """

    def __init__(
        self,
        path: Path,
        format_name: str,
        components: dict[str, list[str]] | None = None,
        units: dict[str, Any] | None = None,
        tracers: Tracers | None = None,
        keep: bool = True,
        indexes: Path | None = None,
    ):
        self.path = path
        self.format = FORMATS[format_name]
        self.tracers = tracers or Tracers()
        self.components, self.low_resolution = components_of(self.format, components or {})
        self._disguised_is_declared = any(self.format.disguised in types for types in (components or {}).values())
        self._scratch = tempfile.TemporaryDirectory(prefix="kinmass-")
        try:
            with reading(path), held_open(self.format.files(path) if self.format.container == "hdf5" else []):
                self._check_components()
                self.units = self.format.units(path, units or {})
                self.smoothing = self.format.smoothing(path)
                staged = self.format.stage(path, Path(self._scratch.name), self.tracers.light_field)
                self._check_discs(staged, components or {})
                self._ds = self._load_indexed(staged, indexes)
                self._extents_kpc = {t: e * self.units.length_kpc for t, e in self._ds.extents.items()}
                finite_extents_kpc = {t: e for t, e in self._extents_kpc.items() if np.isfinite(e).all()}
                self.units = settled_box(path, self.units, finite_extents_kpc)
                promised = self.format.promised(path)
        except BaseException:
            self.close()
            raise
        self.fields: dict[str, list[str]] = {}
        for ptype, name in self._ds.field_list:
            self.fields.setdefault(ptype, []).append(name)
        self.counts = {p: int(self._ds.particle_type_counts.get(p, 0)) for p in self.fields}
        self._check_counts(promised)
        self._kept: dict[str, tuple[Particles, Particles]] | None = {} if keep else None

    def _load_indexed(self, staged: Path, indexes: Path | None) -> Any:
        """Load the yt dataset, with the index that another process has made of the same files where there is one."""
        files = self.format.files(self.path)
        marks = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        kept = KeptIndex(indexes or staged.parent, staged, (marks, YT, self.format.name, self.tracers.light_field))
        if kept.fetch():
            try:
                return self.format.load(staged)
            except SnapshotError:  # perhaps the kept index is damaged: make it again
                kept.forget()
        ds = self.format.load(staged)
        if indexes:
            kept.keep()
        return ds

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *args: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _check_components(self) -> None:
        owners: dict[str, str] = {}
        for name, ptypes in self.components.items():
            for ptype in ptypes:
                if owners.setdefault(ptype, name) != name:
                    raise SnapshotError(f"{ptype} is both {owners[ptype]} and {name}; say in `particles` which it is")

    def _check_discs(self, staged: Path, declared: dict[str, list[str]]) -> None:
        """Raise SnapshotError where types 2 and 3 may be stars, and the suite file does not say what they are."""
        dark = self.components["dark"]
        if undeclared := undeclared_types(dark, declared):
            samples = self.format.sample(staged, 1000, {*undeclared, "PartType1"})
            if discs := disc_types(dark, declared, samples, self.units.cosmological):
                raise SnapshotError(f"{self.path}: {disc_question(discs)}")

    def _check_counts(self, promised: dict[str, int]) -> None:
        """Raise SnapshotError where a type has fewer particles than the Header says.

        A Header that fits no type at all is taken for that of the snapshot which this file was cut out of.
        """
        fits = [
            ptype for ptype, n_promised in promised.items() if n_promised and self.counts.get(ptype, 0) == n_promised
        ]
        for ptype in [p for ptypes in self.components.values() for p in ptypes if fits]:
            n_found, n_promised = self.counts.get(ptype, 0), promised.get(ptype, 0)
            if n_found < n_promised:
                raise SnapshotError(
                    f"{self.path}: {n_found} particles of {ptype}, but its Header says {n_promised}; get the whole "
                    "file, or leave this type out of `particles`"
                )

    @property
    def frontend(self) -> str:
        """Name of the yt frontend that reads this snapshot."""
        return str(type(self._ds).__mro__[1].__name__)

    @property
    def half_box_kpc(self) -> float:
        """Radius [kpc] of the largest sphere that fits into the periodic box; infinite where there is no box."""
        return 0.5 * self.units.box_kpc if self.units.box_kpc else np.inf

    def close(self) -> None:
        """Free the data and remove the scratch folder."""
        self._kept = self._ds = None
        forget_datasets()
        self._scratch.cleanup()

    def galaxy(self, centre_kpc: np.ndarray, radius_kpc: float) -> Galaxy:
        """Read every particle within radius_kpc of centre_kpc (3,), across the periodic boundary.

        Positions are relative to the centre, velocities as in the snapshot. AREPO's wind cells are
        gas of weight 0: their mass counts as gas, but no map shows it. Raises SnapshotError.
        """
        if (box := self.units.box_kpc) is not None:
            corner = self.units.corner_kpc
            if not (corner - box <= np.min(centre_kpc) and np.max(centre_kpc) <= corner + 2 * box):
                raise SnapshotError(f"{self.path}: the catalogue's centre lies outside the box; check its unit")
        parts: dict[str, list[Particles]] = {name: [] for name in self.components}
        low_res_msun = 0.0
        for name, ptypes in self.components.items():
            for ptype in ptypes:
                own, disguised = self._sphere(ptype, centre_kpc, radius_kpc)
                parts[name].append(own)
                if self.host is not None:
                    parts[self.host].append(disguised)
                low_res_msun += float(own.mass_msun.sum()) if ptype in self.low_resolution else 0.0
        particles = {name: concatenate(parts.pop(name)) for name in list(parts)}
        dark_msun = float(particles["dark"].mass_msun.sum())
        return Galaxy(**particles, high_res_fraction=1 - low_res_msun / dark_msun if dark_msun else 1.0)

    def count(self, component: str) -> int:
        """Number of particles of a component in the whole file."""
        return sum(self.counts.get(ptype, 0) for ptype in self.components[component])

    def stars(self, centre_kpc: np.ndarray, radius_kpc: float) -> Particles:
        """Read only the stars within radius_kpc of centre_kpc (3,), as `galaxy` has them. Raises SnapshotError."""
        return concatenate([self._sphere(p, centre_kpc, radius_kpc)[0] for p in self.components["stars"]])

    def everything(self, component: str) -> Particles:
        """Read all particles of a component at their positions in the box. Raises SnapshotError."""
        parts = [self._read(ptype, self._all())[0] for ptype in self.components[component]]
        if component == self.host and component != "stars":
            mixed = [p for p in self.components["stars"] if self.format.formed in self.fields.get(p, [])]
            parts += [self._read(ptype, self._all())[1] for ptype in mixed]
        return concatenate(parts)

    def _all(self) -> list[Any]:
        return [self._ds.all_data()]

    @property
    def host(self) -> str | None:
        """Component of the particles stored among the stars that are none: AREPO's wind, Tipsy's black holes.

        None where no component takes them.
        """
        if self.format.disguised in self.components:
            return self.format.disguised
        return next((name for name, types in self.components.items() if self.format.disguised in types), None)

    def wrap(self, offset_kpc: np.ndarray) -> np.ndarray:
        """Return the shortest periodic images of offsets (..., 3) [kpc]."""
        box = self.units.box_kpc
        return offset_kpc if box is None else offset_kpc - box * np.round(offset_kpc / box)

    def _sphere(self, ptype: str, centre_kpc: np.ndarray, radius_kpc: float) -> tuple[Particles, Particles]:
        """Read particles of one type relative to the centre: its own, and those disguised as stars (see `host`)."""
        if self.counts.get(ptype, 0) == 0:
            return empty(), empty()
        is_small = sum(self.counts.values()) <= READ_WHOLE
        if is_small and self._kept is not None:
            if ptype not in self._kept:
                self._kept[ptype] = self._read(ptype, self._all())
            own, wind = (self._cut(p, centre_kpc, radius_kpc) for p in self._kept[ptype])
            return own, wind
        regions = self._all() if is_small else self._regions(ptype, centre_kpc, radius_kpc)
        own, wind = (self._cut(p, centre_kpc, radius_kpc, in_place=True) for p in self._read(ptype, regions))
        return own, wind

    def _regions(self, ptype: str, centre_kpc: np.ndarray, radius_kpc: float) -> list[Any]:
        """Choose yt's regions that hold every particle of a type within the radius, each of them once.

        Raises SnapshotError where a position of the type is NaN or infinite: no region would hold it.
        """
        extent_kpc, box_kpc, length_kpc = self._extents_kpc[ptype], self.units.box_kpc, self.units.length_kpc
        if not np.isfinite(extent_kpc).all():
            raise SnapshotError(f"{self.path}: NaN or infinite values in {ptype}/Coordinates; is the file damaged?")
        reach_kpc = 1.01 * radius_kpc  # one per cent more than asked for: yt rounds in its own way when it selects
        if box_kpc is not None and 2 * reach_kpc >= box_kpc:  # the images of the sphere would overlap
            return self._all()
        centres = images(np.asarray(centre_kpc, dtype=float), reach_kpc, extent_kpc, box_kpc)
        return [
            self._ds.sphere(self._ds.arr(c / length_kpc, "code_length"), (reach_kpc / length_kpc, "code_length"))
            for c in centres
        ]

    def _cut(self, p: Particles, centre_kpc: np.ndarray, radius_kpc: float, in_place: bool = False) -> Particles:
        """Cut out the particles within the radius, relative to the centre; in_place overwrites p's positions."""
        offset = np.subtract(p.pos_kpc, centre_kpc, out=p.pos_kpc if in_place else None)
        for axis in offset.T:  # one at a time: no further copy of all positions
            axis[:] = self.wrap(axis)
        inside = np.einsum("ij,ij->i", offset, offset) <= radius_kpc**2
        p = Particles(offset, p.vel_kms, p.mass_msun, p.support_kpc, p.weight)
        return p if inside.all() else p[inside]

    def _read(self, ptype: str, regions: list[Any]) -> tuple[Particles, Particles]:
        """Read particles of one type in regions, at their positions in the file.

        Returns its own, and those disguised as stars (see `host`), which are empty where they are not told apart.
        Raises SnapshotError for a field that is missing, incomplete or holds what no galaxy can.
        """
        if self.counts.get(ptype, 0) == 0 or not regions:
            return empty(), empty()
        fields = self.fields[ptype]

        def field(name: str, unit: float = 1.0) -> np.ndarray:
            return self._field(ptype, name, regions, unit)

        pos, vel = self._positions_and_velocities(ptype, field)
        mass = self._masses(ptype, field)
        try:
            support = self._support(field, fields, mass) if ptype in self.components["gas"] else None
            weight = self._weight(ptype, field, fields, mass)
        except SnapshotError as error:
            raise error if str(self.path) in str(error) else SnapshotError(f"{self.path}: {ptype}: {error}") from error
        return self._split_disguised(ptype, field, Particles(pos, vel, mass, support, weight))

    def _field(self, ptype: str, name: str, regions: list[Any], unit: float) -> np.ndarray:
        """Read a field of one type in regions, times unit. Raises SnapshotError for missing or infinite values."""
        try:
            parts = [region[ptype, name].d for region in regions]
        except Exception as error:
            if not may_be_damaged_file(error):
                raise
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise SnapshotError(f"{self.path}: cannot read {ptype}/{name} ({why}); is the file damaged?") from error
        for region in regions:
            region.clear_data()  # yt keeps no second copy
        values = np.array(parts[0] if len(parts) == 1 else np.concatenate(parts), dtype=np.float64, order="F")
        del parts
        if regions[0]._type_name == "region" and len(values) != self.counts[ptype]:
            raise SnapshotError(
                f"{self.path}: {len(values)} of the {self.counts[ptype]} values of {ptype}/{name} could be read; "
                "is the file damaged?"
            )
        with np.errstate(over="ignore"):
            values *= unit
        if not np.isfinite(values).all():
            raise SnapshotError(f"{self.path}: NaN or infinite values in {ptype}/{name}; is the file damaged?")
        return values

    def _impossible(self, problem: str, ptype: str, name: str, hint: str) -> SnapshotError:
        """Make the error for values of a field that no galaxy can have."""
        return SnapshotError(f"{self.path}: {problem} in {ptype}/{name}; {hint}")

    def _positions_and_velocities(self, ptype: str, field: Field) -> tuple[np.ndarray, np.ndarray]:
        """Read positions (N, 3) [kpc] and velocities (N, 3) [km/s] of one type, and check both."""
        pos = field("Coordinates", self.units.length_kpc)
        vel = field("Velocities", self.units.velocity_kms)
        if len(vel) and max(vel.max(), -vel.min()) > LIGHT_KMS:
            hint = "check the velocity unit, or is the file damaged?"
            raise self._impossible("speeds beyond that of light", ptype, "Velocities", hint)
        if (n_blank := np.count_nonzero(~(pos.any(axis=1) | vel.any(axis=1)))) > 1:
            problem = f"{n_blank} particles at rest at (0, 0, 0)"
            raise self._impossible(problem, ptype, "Coordinates", "was the file written to its end?")
        return pos, vel

    def _masses(self, ptype: str, field: Field) -> np.ndarray:
        """Read masses (N,) [Msun] of one type, and check them."""
        name = self.format.mass
        mass = field(name, self.units.mass_msun)
        if mass.min(initial=0.0) < 0:
            raise self._impossible("negative masses", ptype, name, "is the file damaged?")
        if mass.max(initial=0.0) > HEAVIEST_MSUN:
            raise self._impossible("masses of whole clusters of galaxies", ptype, name, "check the mass unit")
        if len(mass) and mass.max() == 0:
            hint = "check the field, or leave this type out of `particles`"
            raise self._impossible("only zeros", ptype, name, hint)
        return mass

    def _split_disguised(self, ptype: str, field: Field, particles: Particles) -> tuple[Particles, Particles]:
        """Split particles of one type into its own and those disguised as stars, which maps do not show as gas."""
        formed = self.format.formed
        if ptype not in self.components["stars"] or formed not in self.fields[ptype] or self.host == "stars":
            return particles, empty()
        is_star = self.format.are_stars(field(formed))
        if is_star.all():
            return particles, empty()
        disguised, weight_and_support = particles[~is_star], None
        if self.host == "gas":
            weight_and_support = np.zeros(len(disguised))  # AREPO's wind: no map shows it
        elif not self._disguised_is_declared and len(disguised) > max(MOST_DISGUISED * len(is_star), 10):
            problem = (
                f"{len(disguised)} of {len(is_star)} {ptype} formed before time began: "
                "black holes, or old stars of an isolated run?"
            )
            raise self._impossible(problem, ptype, formed, BLACK_HOLES_HINT)
        return particles[is_star], Particles(
            disguised.pos_kpc, disguised.vel_kms, disguised.mass_msun, weight_and_support, weight_and_support
        )

    def _support(self, field: Field, fields: list[str], mass: np.ndarray) -> np.ndarray | None:
        """Kernel support (N,) [kpc] of gas; None where the file holds neither smoothing lengths nor densities."""
        if self.smoothing.factor is not None and "SmoothingLength" in fields:
            stored = np.asarray(field("SmoothingLength", self.smoothing.factor * self.units.length_kpc))
            if stored.min(initial=0.0) < 0:
                raise SnapshotError("negative values in SmoothingLength; is the file damaged?")
            if stored.any() or not len(stored):  # some initial conditions hold only zeros
                return stored
        if "Density" in fields and np.all((density := field("Density")) > 0):
            return self.smoothing.from_density(mass / self.units.mass_msun, density) * self.units.length_kpc
        return None

    def _weight(self, ptype: str, field: Field, fields: list[str], mass: np.ndarray) -> np.ndarray | None:
        """Weights (N,) of these particles in maps; None where maps weigh them by mass."""
        tracers = self.tracers
        if ptype in self.components["gas"] and tracers.gas == "cold":
            return mass * is_cold(fields, field, self.units.energy_kms2, tracers.cold_below_k)
        if ptype in self.components["gas"] and tracers.gas == "hi":
            return mass * neutral_fraction(fields, field)
        if ptype in self.components["stars"] and tracers.light_field is not None:
            if "Light" not in fields:
                raise SnapshotError(f"no dataset for `light_field: {tracers.light_field}`; name one that it has")
            return luminosity(field("Light"), tracers.light_field)
        return None


def images(centre_kpc: np.ndarray, radius_kpc: float, extent_kpc: np.ndarray, box_kpc: float | None) -> np.ndarray:
    """List the periodic images (n, 3) [kpc] of a centre (3,) whose spheres of radius_kpc reach into a cuboid.

    extent_kpc (2, 3) holds the cuboid's lowest and highest corner.
    """
    if box_kpc is None:
        return centre_kpc[None]
    low_kpc, high_kpc = extent_kpc
    first = np.ceil((low_kpc - radius_kpc - centre_kpc) / box_kpc)
    last = np.floor((high_kpc + radius_kpc - centre_kpc) / box_kpc)
    steps = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    centres_kpc = centre_kpc + box_kpc * np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    beyond_kpc = np.maximum(low_kpc - centres_kpc, centres_kpc - high_kpc).clip(min=0)
    return centres_kpc[np.einsum("ij,ij->i", beyond_kpc, beyond_kpc) <= radius_kpc**2]
