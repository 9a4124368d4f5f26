"""A snapshot file as plain particle arrays in kpc, km/s and Msun, read through yt."""

import contextlib
import os
import shutil
import tempfile
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import numpy as np
from scipy.spatial import cKDTree

from gen.constants import LIGHT_KMS
from gen.formats import FORMATS, SnapshotError
from gen.formats.base import reading
from gen.formats.frontends import forget_datasets
from gen.formats.tracers import is_cold, luminosity, neutral_fraction
from gen.particles import Galaxy, Particles, concatenate, empty
from gen.suite import Tracers

#: Above this many particles a region is selected by yt's index instead of reading everything.
READ_WHOLE = 200_000
#: Neighbours whose distance is the kernel support of gas that comes without density.
NEIGHBOURS = 32
YT = version("yt")
#: More black holes among stars than this share are old stars of initial conditions, or so they could be.
MOST_DISGUISED = 0.5
WHICH = "say `particles: {black_holes: [BlackHoles]}`, or `particles: {stars: [Stars, BlackHoles], black_holes: []}`"
#: No particle weighs as much as the heaviest clusters of galaxies.
HEAVIEST_MSUN = 1e16


class Snapshot:
    """One snapshot, opened in a scratch folder so that yt leaves nothing beside the archive's files.

    components: which particle types make up gas, stars, dark and black_holes, and which of the dark
    ones are low_resolution; the format's own choice where empty. units: overrides of length_kpc,
    mass_msun, velocity_kms per code unit, before factors of a and h. keep: small snapshots stay in
    memory for the next galaxy. indexes: folder where yt's index of a snapshot in many chunks is kept
    for whoever opens it next. Raises SnapshotError with the path and the reason.
    """

    def __init__(
        self,
        path: Path,
        format_name: str,
        components: dict[str, list[str]] | None = None,
        units: dict[str, float] | None = None,
        tracers: Tracers | None = None,
        keep: bool = True,
        indexes: Path | None = None,
    ):
        self.path = path
        self.format = FORMATS[format_name]
        self.tracers = tracers or Tracers()
        self.components = self.format.components | (components or {})
        self._disguised_is_said = any(self.format.disguised in types for types in (components or {}).values())
        self.low_resolution = self.components.pop("low_resolution", [])
        self.components["dark"] = list(dict.fromkeys(self.components["dark"] + self.low_resolution))
        self._scratch = tempfile.TemporaryDirectory(prefix="kinmass-")
        try:
            with reading(path):
                self._check_components()
                self.units = self.format.units(path, units or {})
                self.smoothing = self.format.smoothing(path)
                staged = self.format.stage(path, Path(self._scratch.name), self.tracers.light_field)
                self._ds = self._load_indexed(staged, indexes)
                promised = self.format.promised(path)
        except SnapshotError:
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
        sort = YT, self.format.name, self.tracers.light_field
        marks = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns, *sort) for f in files]
        ours = staged.with_name(f"{staged.name}.ewah")  # where yt reads and writes it
        shared = (indexes or ours.parent) / f"{blake2b(repr(marks).encode(), digest_size=16).hexdigest()}.ewah"
        if shared.exists():
            shutil.copyfile(shared, ours)  # a copy, for yt may write to it
            try:
                return self.format.load(staged)
            except SnapshotError:  # perhaps the index is what is damaged: make it again
                ours.unlink()
                shared.unlink(missing_ok=True)
        ds = self.format.load(staged)
        if indexes and ours.exists():
            with contextlib.suppress(OSError):  # it only saves time
                indexes.mkdir(parents=True, exist_ok=True)
                aside = shared.with_suffix(f".{uuid4().hex}.partial")
                shutil.copyfile(ours, aside)
                os.replace(aside, shared)
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
        gas = concatenate(parts.pop("gas"))
        if len(gas) and gas.support_kpc is None:
            near, _ = cKDTree(gas.pos_kpc).query(gas.pos_kpc, k=min(NEIGHBOURS, len(gas)))
            gas = Particles(gas.pos_kpc, gas.vel_kms, gas.mass_msun, near.reshape(len(gas), -1)[:, -1], gas.weight)
        rest = {name: concatenate(parts.pop(name)) for name in list(parts)}
        dark = float(rest["dark"].mass_msun.sum())
        return Galaxy(gas=gas, **rest, high_res_fraction=1 - low / dark if dark else 1.0)

    def everything(self, component: str) -> Particles:
        """All particles of a component at their positions in the box."""
        found = [self._read(ptype, self._ds.all_data())[0] for ptype in self.components[component]]
        if component == self.host and component != "stars":
            mixed = [p for p in self.components["stars"] if self.format.formed in self.fields.get(p, [])]
            found += [self._read(ptype, self._ds.all_data())[1] for ptype in mixed]
        return concatenate(found)

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
                self._kept[ptype] = self._read(ptype, self._ds.all_data())
            own, wind = (self._cut(p, centre_kpc, radius_kpc) for p in self._kept[ptype])
            return own, wind
        length, box = self.units.length_kpc, self.units.box_kpc
        inside = np.asarray(centre_kpc)
        if box:  # yt takes no centre outside of it
            inside = self.units.corner_kpc + np.mod(inside - self.units.corner_kpc, box)
        # A percent more than asked for: yt's selection works in its own rounding.
        region = (
            self._ds.all_data()
            if whole
            else self._ds.sphere(
                self._ds.arr(inside / length, "code_length"),
                (1.01 * radius_kpc / length, "code_length"),
            )
        )
        own, wind = (self._cut(p, centre_kpc, radius_kpc, in_place=True) for p in self._read(ptype, region))
        return own, wind

    def _cut(self, p: Particles, centre_kpc: np.ndarray, radius_kpc: float, in_place: bool = False) -> Particles:
        """Those within the radius, relative to the centre; in_place spends p's own positions on it."""
        offset = np.subtract(p.pos_kpc, centre_kpc, out=p.pos_kpc if in_place else None)
        for axis in offset.T:  # one at a time: no further copy of all positions
            axis[:] = self.wrap(axis)
        inside = np.einsum("ij,ij->i", offset, offset) <= radius_kpc**2
        p = Particles(offset, p.vel_kms, p.mass_msun, p.support_kpc, p.weight)
        return p if inside.all() else p[inside]

    def _read(self, ptype: str, region: Any) -> tuple[Particles, Particles]:
        """Particles of one type in a region, in their box: its own, and the wind among them.

        Raises SnapshotError for a field that is missing or holds what no galaxy can.
        """
        if self.counts.get(ptype, 0) == 0:
            return empty(), empty()
        units, fields = self.units, self.fields[ptype]

        def field(name: str, unit: float = 1.0) -> np.ndarray:
            try:
                values = np.array(region[ptype, name].d, dtype=np.float64, order="F")
            except Exception as error:
                why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise SnapshotError(f"{self.path}: cannot read {ptype}/{name} ({why}); is the file damaged?") from error
            region.clear_data()  # the array is ours alone
            with np.errstate(over="ignore"):
                values *= unit
            if not np.isfinite(values).all():
                raise SnapshotError(f"{self.path}: NaN or infinite values in {ptype}/{name}; is the file damaged?")
            return values

        def refuse(problem: str, name: str, hint: str) -> None:
            raise SnapshotError(f"{self.path}: {problem} in {ptype}/{name}; {hint}")

        pos = field("Coordinates", units.length_kpc)
        box = units.box_kpc
        if box and len(pos) and max(units.corner_kpc - box - pos.min(), pos.max() - units.corner_kpc - 2 * box) > 0:
            refuse("positions more than a box outside the box", "Coordinates", "check BoxSize and the length unit")
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
