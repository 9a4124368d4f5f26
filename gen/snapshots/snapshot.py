"""A snapshot file as plain particle arrays in kpc, km/s and Msun, read through yt."""

import tempfile
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kinmass.gen.constants import LIGHT_KMS
from kinmass.gen.formats import FORMATS, SnapshotError
from kinmass.gen.formats.base import may_be_damaged_file, reading, settled_box
from kinmass.gen.formats.frontends import forget_datasets
from kinmass.gen.formats.tracers import is_cold, luminosity, neutral_fraction
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate, empty
from kinmass.gen.snapshots.components import components_of, disc_question, disc_types, unsaid_types
from kinmass.gen.snapshots.indexes import KeptIndex
from kinmass.gen.suite import Tracers

#: Above this many particles a region is selected by yt's index instead of reading everything.
READ_WHOLE = 200_000
YT = version("yt")
#: More black holes among stars than this share are old stars of initial conditions, or so they could be.
MOST_DISGUISED = 0.5
WHICH = "say `particles: {black_holes: [BlackHoles]}`, or `particles: {stars: [Stars, BlackHoles], black_holes: []}`"
#: No particle weighs as much as the heaviest clusters of galaxies.
HEAVIEST_MSUN = 1e16


class Snapshot:
    """One snapshot, opened in a scratch folder so that yt leaves nothing beside the archive's files.

    components: which particle types make up gas, stars, dark and black_holes, and which of the dark
    ones are low_resolution; the format's own choice where empty. units: what the suite file says of
    units, box and cosmology (gen.suite.Units). keep: small snapshots stay in memory for the next
    galaxy. indexes: folder where yt's index of a snapshot in many chunks is kept for whoever opens
    it next. Raises SnapshotError with the path and the reason.
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
        self._disguised_is_said = any(self.format.disguised in types for types in (components or {}).values())
        self._scratch = tempfile.TemporaryDirectory(prefix="kinmass-")
        try:
            with reading(path):
                self._check_components()
                self.units = self.format.units(path, units or {})
                self.smoothing = self.format.smoothing(path)
                staged = self.format.stage(path, Path(self._scratch.name), self.tracers.light_field)
                self._check_discs(staged, components or {})
                self._ds = self._load_indexed(staged, indexes)
                self._extents_kpc = {t: e * self.units.length_kpc for t, e in self._ds.extents.items()}
                sound = {t: e for t, e in self._extents_kpc.items() if np.isfinite(e).all()}
                self.units = settled_box(path, self.units, sound)
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
        """The yt dataset, with the index that another process has made of the same files where there is one."""
        files = self.format.files(self.path)
        marks = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        kept = KeptIndex(indexes or staged.parent, staged, (marks, YT, self.format.name, self.tracers.light_field))
        if kept.fetch():
            try:
                return self.format.load(staged)
            except SnapshotError:  # perhaps the index is what is damaged: make it again
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

    def _check_discs(self, staged: Path, given: dict[str, list[str]]) -> None:
        """Raises SnapshotError where types 2 and 3 may be stars, and nobody has said that they are dark matter."""
        dark = self.components["dark"]
        if unsaid := unsaid_types(dark, given):
            samples = self.format.sample(staged, 1000, {*unsaid, "PartType1"})
            if discs := disc_types(dark, given, samples, self.units.cosmological):
                raise SnapshotError(f"{self.path}: {disc_question(discs)}")

    def _check_counts(self, promised: dict[str, int]) -> None:
        """Raises SnapshotError where particles were lost; a cutout's Header that fits no type is its parent's."""
        fits = [ptype for ptype, n in promised.items() if n and self.counts.get(ptype, 0) == n]
        for ptype in [p for ptypes in self.components.values() for p in ptypes if fits]:
            there, n = self.counts.get(ptype, 0), promised.get(ptype, 0)
            if there < n:
                raise SnapshotError(
                    f"{self.path}: {there} particles of {ptype}, but its Header says {n}; get the whole file, "
                    "or leave this type out of `particles`"
                )

    @property
    def frontend(self) -> str:
        """Name of the yt frontend that reads it."""
        return str(type(self._ds).__mro__[1].__name__)

    @property
    def half_box_kpc(self) -> float:
        """The largest sphere that a periodic box holds once [kpc]."""
        return 0.5 * self.units.box_kpc if self.units.box_kpc else np.inf

    def close(self) -> None:
        """Forget the data and remove the scratch folder."""
        self._kept = self._ds = None
        forget_datasets()
        self._scratch.cleanup()

    def galaxy(self, centre_kpc: np.ndarray, radius_kpc: float) -> Galaxy:
        """Every particle within radius_kpc of centre_kpc (3,), across the periodic boundary.

        Positions are relative to the centre, velocities as in the snapshot. AREPO's wind cells are
        gas of weight 0: their mass is gas, and no map shows it.
        """
        if (box := self.units.box_kpc) is not None:
            corner = self.units.corner_kpc
            if not (corner - box <= np.min(centre_kpc) and np.max(centre_kpc) <= corner + 2 * box):
                raise SnapshotError(f"{self.path}: the catalogue's centre lies outside the box; check its unit")
        parts: dict[str, list[Particles]] = {name: [] for name in self.components}
        low = 0.0
        for name, ptypes in self.components.items():
            for ptype in ptypes:
                own, other = self._sphere(ptype, centre_kpc, radius_kpc)
                parts[name].append(own)
                if self.host is not None:
                    parts[self.host].append(other)
                low += float(own.mass_msun.sum()) if ptype in self.low_resolution else 0.0
        whole = {name: concatenate(parts.pop(name)) for name in list(parts)}
        dark = float(whole["dark"].mass_msun.sum())
        return Galaxy(**whole, high_res_fraction=1 - low / dark if dark else 1.0)

    def count(self, component: str) -> int:
        """Particles of a component in the whole file."""
        return sum(self.counts.get(ptype, 0) for ptype in self.components[component])

    def stars(self, centre_kpc: np.ndarray, radius_kpc: float) -> Particles:
        """The stars within radius_kpc of centre_kpc (3,), as `galaxy` has them, and nothing else."""
        return concatenate([self._sphere(p, centre_kpc, radius_kpc)[0] for p in self.components["stars"]])

    def everything(self, component: str) -> Particles:
        """All particles of a component at their positions in the box."""
        found = [self._read(ptype, self._all())[0] for ptype in self.components[component]]
        if component == self.host and component != "stars":
            mixed = [p for p in self.components["stars"] if self.format.formed in self.fields.get(p, [])]
            found += [self._read(ptype, self._all())[1] for ptype in mixed]
        return concatenate(found)

    def _all(self) -> list[Any]:
        return [self._ds.all_data()]

    @property
    def host(self) -> str | None:
        """The component of what only goes as stars: AREPO's wind, Tipsy's black holes; None where it is not used."""
        if self.format.disguised in self.components:
            return self.format.disguised
        return next((name for name, types in self.components.items() if self.format.disguised in types), None)

    def wrap(self, offset_kpc: np.ndarray) -> np.ndarray:
        """The shortest periodic images of offsets (..., 3)."""
        box = self.units.box_kpc
        return offset_kpc if box is None else offset_kpc - box * np.round(offset_kpc / box)

    def _sphere(self, ptype: str, centre_kpc: np.ndarray, radius_kpc: float) -> tuple[Particles, Particles]:
        """Particles of one type relative to the centre: its own, and the wind among them."""
        if self.counts.get(ptype, 0) == 0:
            return empty(), empty()
        whole = sum(self.counts.values()) <= READ_WHOLE
        if whole and self._kept is not None:
            if ptype not in self._kept:
                self._kept[ptype] = self._read(ptype, self._all())
            own, wind = (self._cut(p, centre_kpc, radius_kpc) for p in self._kept[ptype])
            return own, wind
        regions = self._all() if whole else self._regions(ptype, centre_kpc, radius_kpc)
        own, wind = (self._cut(p, centre_kpc, radius_kpc, in_place=True) for p in self._read(ptype, regions))
        return own, wind

    def _regions(self, ptype: str, centre_kpc: np.ndarray, radius_kpc: float) -> list[Any]:
        """yt's regions that hold every particle of a type within the radius, none of them twice.

        Raises SnapshotError where one of its positions is no number: no region would hold it.
        """
        extent, box, length = self._extents_kpc[ptype], self.units.box_kpc, self.units.length_kpc
        if not np.isfinite(extent).all():
            raise SnapshotError(f"{self.path}: NaN or infinite values in {ptype}/Coordinates; is the file damaged?")
        reach = 1.01 * radius_kpc  # a percent more than asked for: yt's selection works in its own rounding
        if box is not None and 2 * reach >= box:  # the images of the sphere would overlap
            return self._all()
        centres = images(np.asarray(centre_kpc, dtype=float), reach, extent, box)
        return [
            self._ds.sphere(self._ds.arr(c / length, "code_length"), (reach / length, "code_length")) for c in centres
        ]

    def _cut(self, p: Particles, centre_kpc: np.ndarray, radius_kpc: float, in_place: bool = False) -> Particles:
        """Those within the radius, relative to the centre; in_place spends p's own positions on it."""
        offset = np.subtract(p.pos_kpc, centre_kpc, out=p.pos_kpc if in_place else None)
        for axis in offset.T:  # one at a time: no further copy of all positions
            axis[:] = self.wrap(axis)
        inside = np.einsum("ij,ij->i", offset, offset) <= radius_kpc**2
        p = Particles(offset, p.vel_kms, p.mass_msun, p.support_kpc, p.weight)
        return p if inside.all() else p[inside]

    def _read(self, ptype: str, regions: list[Any]) -> tuple[Particles, Particles]:
        """Particles of one type in regions, where the file has them: its own, and the wind among them.

        Raises SnapshotError for a field that is missing, incomplete or holds what no galaxy can.
        """
        if self.counts.get(ptype, 0) == 0 or not regions:
            return empty(), empty()
        units, fields = self.units, self.fields[ptype]

        def field(name: str, unit: float = 1.0) -> np.ndarray:
            try:
                parts = [region[ptype, name].d for region in regions]
            except Exception as error:
                if not may_be_damaged_file(error):
                    raise
                why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise SnapshotError(f"{self.path}: cannot read {ptype}/{name} ({why}); is the file damaged?") from error
            for region in regions:
                region.clear_data()  # the array is ours alone
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

        def refuse(problem: str, name: str, hint: str) -> None:
            raise SnapshotError(f"{self.path}: {problem} in {ptype}/{name}; {hint}")

        pos = field("Coordinates", units.length_kpc)
        vel = field("Velocities", units.velocity_kms)
        if len(vel) and max(vel.max(), -vel.min()) > LIGHT_KMS:
            refuse("speeds beyond that of light", "Velocities", "check the velocity unit, or is the file damaged?")
        if (blank := np.count_nonzero(~(pos.any(axis=1) | vel.any(axis=1)))) > 1:
            refuse(f"{blank} particles at rest at (0, 0, 0)", "Coordinates", "was the file written to its end?")
        mass = field(self.format.mass, units.mass_msun)
        if mass.min(initial=0.0) < 0:
            refuse("negative masses", self.format.mass, "is the file damaged?")
        if mass.max(initial=0.0) > HEAVIEST_MSUN:
            refuse("masses of whole clusters of galaxies", self.format.mass, "check the mass unit")
        if len(mass) and mass.max() == 0:
            refuse("only zeros", self.format.mass, "check the field, or leave this type out of `particles`")
        try:
            support = self._support(field, fields, mass) if ptype in self.components["gas"] else None
            weight = self._weight(ptype, field, fields, mass)
        except SnapshotError as error:
            raise error if str(self.path) in str(error) else SnapshotError(f"{self.path}: {ptype}: {error}") from error
        own = Particles(pos, vel, mass, support, weight)
        if ptype not in self.components["stars"] or self.format.formed not in fields or self.host == "stars":
            return own, empty()
        star = self.format.are_stars(field(self.format.formed))
        if star.all():
            return own, empty()
        other, none = own[~star], None
        if self.host == "gas":
            none = np.zeros(len(other))  # wind: no map shows it
        elif not self._disguised_is_said and len(other) > max(MOST_DISGUISED * len(star), 10):
            what = f"{len(other)} of {len(star)} {ptype} formed before time began"
            refuse(f"{what}: black holes, or old stars of an isolated run?", self.format.formed, WHICH)
        return own[star], Particles(other.pos_kpc, other.vel_kms, other.mass_msun, none, none)

    def _support(self, field: Any, fields: list[str], mass: np.ndarray) -> np.ndarray | None:
        """Kernel support (N,) [kpc] of gas, None where the file holds nothing it follows from."""
        if self.smoothing.factor is not None and "SmoothingLength" in fields:
            stored = np.asarray(field("SmoothingLength", self.smoothing.factor * self.units.length_kpc))
            if stored.min(initial=0.0) < 0:
                raise SnapshotError("negative values in SmoothingLength; is the file damaged?")
            if stored.any() or not len(stored):  # some initial conditions have nothing but zeros
                return stored
        if "Density" in fields and np.all((density := field("Density")) > 0):
            return self.smoothing.from_density(mass / self.units.mass_msun, density) * self.units.length_kpc
        return None

    def _weight(self, ptype: str, field: Any, fields: list[str], mass: np.ndarray) -> np.ndarray | None:
        """What maps weigh these particles by (N,), None for their mass."""
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
    """The periodic images (n, 3) [kpc] of a centre (3,) whose spheres reach into a cuboid, extent_kpc (2, 3)."""
    if box_kpc is None:
        return centre_kpc[None]
    low, high = extent_kpc
    first = np.ceil((low - radius_kpc - centre_kpc) / box_kpc)
    last = np.floor((high + radius_kpc - centre_kpc) / box_kpc)
    steps = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    centres = centre_kpc + box_kpc * np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    beyond = np.maximum(low - centres, centres - high).clip(min=0)
    return centres[np.einsum("ij,ij->i", beyond, beyond) <= radius_kpc**2]
