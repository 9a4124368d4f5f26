"""A snapshot file as plain particle arrays in kpc, km/s and Msun, read through yt."""

import contextlib
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kinmass.gen.formats import FORMATS, SnapshotError
from kinmass.gen.formats.base import SMALLEST_FILL, Slot, reading, settled_box
from kinmass.gen.formats.domain import blocks_file, check_written
from kinmass.gen.formats.frontends import forget_datasets, hold_while_reading
from kinmass.gen.formats.once import asking_once, status
from kinmass.gen.formats.stored import held_open
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate, empty, wrapped
from kinmass.gen.snapshots.components import (
    coarse_question,
    components_of,
    disc_question,
    disc_types,
    first_stars_question,
    undeclared_types,
)
from kinmass.gen.snapshots.indexes import KeptIndex, forget
from kinmass.gen.snapshots.openings import Facts, KeptOpening, is_worth_keeping
from kinmass.gen.snapshots.regions import Regions, images
from kinmass.gen.snapshots.repeated import copies
from kinmass.gen.snapshots.typed import TypeReader, too_light
from kinmass.gen.suite import Tracers

#: Above this many particles only blocks that reach into a region are read; smaller snapshots are read whole.
READ_WHOLE = 1_000_000
#: Snapshots of at most so many bytes are fetched whole into the file system's cache before they are opened.
FETCH_WHOLE = 64 * 2**20
#: A particle takes at least so many bytes: a position in single precision and a mass.
SMALLEST_PARTICLE = 16


class Snapshot:
    """One snapshot, opened in a scratch folder so that yt leaves nothing beside the archive's files.

    components: which particle types make up gas, stars, dark and black_holes, and which of the dark
    ones are low_resolution; the format's own choice where empty. units: what the suite file says of
    units, box and cosmology (gen.suite.Units). keep: small snapshots stay in memory for the next
    galaxy. indexes: folder where it is kept, for the next process that opens it, where the blocks of a large
    snapshot lie. slot: makes the context in which bytes come from the file system; a small
    snapshot is fetched in it and then opened from memory. Raises SnapshotError with the path and the reason.
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
        slot: Slot = nullcontext,
    ):
        self.path = path
        self.format = FORMATS[format_name]
        self.tracers = tracers or Tracers()
        self.components, self.low_resolution = components_of(self.format, components or {})
        self._scratch = tempfile.TemporaryDirectory(prefix="kinmass-")
        try:
            with reading(path), asking_once(), contextlib.ExitStack() as stack:
                try:
                    files = self.format.files(path)
                except SnapshotError:  # what follows says more of a file of another format
                    files = []
                self._check_components()
                kept = self._kept_opening(indexes, files, (components, units))
                opened, n_bytes = kept.fetch(self._scratch.name) if kept else None, 0
                if is_new := opened is None:
                    with slot():
                        n_bytes = fetched(files)
                    stack.enter_context(held_open(files if self.format.container == "hdf5" else []))
                    opened = self._opened(n_bytes, components or {}, units or {}, slot, kept)
                staged, (self.units, smoothing, promised) = opened
                slot_to_open = nullcontext if holds(n_bytes, promised) else slot
                self._ds = self._load_indexed(staged, indexes, slot_to_open)
                if kept and is_new and blocks_file(staged).exists():
                    kept.keep(staged, opened[1])
                with np.errstate(over="ignore"):  # what is not finite is left out below
                    self._extents_kpc = {t: e * self.units.length_kpc for t, e in self._ds.extents.items()}
                finite_extents_kpc = {t: e for t, e in self._extents_kpc.items() if np.isfinite(e).all()}
                self.units = settled_box(path, self.units, finite_extents_kpc)
                self._count_types(promised, components or {})
        except BaseException:
            self.close()
            raise
        self._reader = TypeReader(
            path, self.format, self.units, smoothing, self.tracers, self.components, self.fields,
            disguised_is_declared=any(self.format.disguised in types for types in (components or {}).values()),
        )  # fmt: skip
        slot = nullcontext if holds(n_bytes, self.counts) else slot
        self._slot = nullcontext if hold_while_reading(self._ds, slot) else slot
        self._kept: dict[str, tuple[Particles, Particles]] | None = {} if keep else None

    def _kept_opening(self, indexes: Path | None, files: list[Path], said: object) -> KeptOpening | None:
        """Return where an opening of these files is kept, None for a single one. said: what the suite file says."""
        if indexes is None or not is_worth_keeping(self.format, files):
            return None
        index = KeptIndex(indexes, self.format, self.path, self.tracers.light_field)
        return KeptOpening(indexes, index.name, said)

    def _opened(
        self,
        n_bytes: int,
        components: dict[str, list[str]],
        units: dict[str, Any],
        slot: Slot,
        kept: KeptOpening | None,
    ) -> tuple[Path, Facts]:
        """Read what the headers say, stage the files for yt, and check what the suite file says. Raises SnapshotError.

        n_bytes: of `fetched`.
        """
        self.units = self.format.units(self.path, units)
        facts = Facts(self.units, self.format.smoothing(self.path), self.format.promised(self.path))
        scratch, light = Path(self._scratch.name), self.tracers.light_field
        with nullcontext() if holds(n_bytes, facts.promised) else slot():
            staged = (kept and kept.staged(scratch)) or self.format.stage(self.path, scratch, light)
            self._check_discs(staged, components)
        return staged, facts

    def _load_indexed(self, staged: Path, indexes: Path | None, slot: Slot) -> Any:
        """Load the yt dataset, with the blocks that another process has found in the same files where it has."""
        kept = KeptIndex(indexes, self.format, self.path, self.tracers.light_field) if indexes else None
        if kept and kept.fetch(staged):
            try:
                return self.format.load(staged, slot)
            except SnapshotError:  # perhaps the kept index is damaged: make it again
                forget(staged)
        ds = self.format.load(staged, slot)
        for ptype in [t for types in self.components.values() for t in types]:
            check_written(ptype, getattr(ds, "at_origin", {}).get(ptype, 0))
        if kept:
            kept.keep(staged)
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
        """Raise SnapshotError where the suite file does not say what types are that may be two things.

        Types 2 and 3 may be stars, type 5 coarse dark matter.
        """
        dark = self.components["dark"]
        undeclared = undeclared_types(dark, declared)
        if undeclared or "PartType5" in self.components["black_holes"]:
            samples = self.format.sample(staged, 1000, {*undeclared, "PartType1", "PartType5"})
            discs = disc_types(dark, declared, samples, self.units.cosmological)
            question = disc_question(discs) if discs else coarse_question(declared, samples)
            if question:
                raise SnapshotError(f"{self.path}: {question}")

    def _count_types(self, promised: Mapping[str, int], declared: dict[str, list[str]]) -> None:
        """List fields and counts of all types. Raises SnapshotError where these cannot be what they are taken for."""
        self.fields: dict[str, list[str]] = {}
        for ptype, name in self._ds.field_list:
            self.fields.setdefault(ptype, []).append(name)
        self.counts = {p: int(self._ds.particle_type_counts.get(p, 0)) for p in self.fields}
        self._check_counts(promised)
        present = {ptype: n for ptype, n in self.counts.items() if n}
        if question := first_stars_question(declared, present, self.units.cosmological):
            raise SnapshotError(f"{self.path}: {question}")

    def _check_counts(self, promised: Mapping[str, int]) -> None:
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
        return str(getattr(self._ds, "frontend", type(self._ds).__mro__[1].__name__))

    @property
    def half_box_kpc(self) -> float:
        """Radius [kpc] of the largest sphere that fits into the periodic box; infinite where there is no box."""
        return 0.5 * self.units.box_kpc if self.units.box_kpc else np.inf

    def nearest_end(self, centre_kpc: np.ndarray) -> tuple[float, float]:
        """Return how far [kpc] the dark matter reaches from a centre (3,) along the axis where it ends first.

        That is the distance to the nearer end, negative where the centre lies outside, and to the opposite one; both
        are infinite where it fills the periodic box, or where there is none.
        """
        extents = [
            self._extents_kpc[t] for t in self.components["dark"] if self.counts.get(t) and t in self._extents_kpc
        ]
        if not extents:
            return np.inf, np.inf
        low_kpc, high_kpc = np.min(extents, axis=0)[0], np.max(extents, axis=0)[1]
        half_kpc = 0.5 * (high_kpc - low_kpc)
        half_kpc = np.where(half_kpc < SMALLEST_FILL * self.half_box_kpc, half_kpc, np.inf)
        offset_kpc = np.abs(self.wrap(np.asarray(centre_kpc) - 0.5 * (low_kpc + high_kpc)))
        axis = int(np.argmin(half_kpc - offset_kpc))
        return float((half_kpc - offset_kpc)[axis]), float((half_kpc + offset_kpc)[axis])

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
        spheres = self._spheres([t for types in self.components.values() for t in types], centre_kpc, radius_kpc)
        host = self._reader.host
        for name, ptypes in self.components.items():
            for ptype in ptypes:
                own, disguised = spheres.pop(ptype)
                parts[name].append(own)
                if host is not None:
                    parts[host].append(disguised)
                low_res_msun += float(own.mass_msun.sum()) if ptype in self.low_resolution else 0.0
        particles = {name: concatenate(parts.pop(name)) for name in list(parts)}
        for name, ptypes in self.components.items():
            self._check_shared([ptype for ptype in ptypes if self.counts.get(ptype, 0)], particles[name])
        others = {k: particles[k].mass_msun for k in ("dark", "gas") if particles[k].side_kpc is None}
        if problem := too_light(particles["stars"].mass_msun, others):
            raise SnapshotError(f"{self.path}: {problem}")
        dark_msun = float(particles["dark"].mass_msun.sum())
        return Galaxy(**particles, high_res_fraction=1 - low_res_msun / dark_msun if dark_msun else 1.0)

    def _check_shared(self, types: list[str], particles: Particles) -> None:
        """Raise SnapshotError where particles of one component are in two of its types. Each type has been checked."""
        n_copies, n_seen = copies([*particles.pos_kpc.T, particles.mass_msun]) if len(types) > 1 else (0, 0)
        if n_copies:
            raise SnapshotError(
                f"{self.path}: {n_copies} of {n_seen} particles of {' and '.join(types)} are the same ones, with equal "
                "places and masses; leave one of the types out of `particles`"
            )

    def count(self, component: str) -> int:
        """Return the number of particles of a component in the whole snapshot."""
        return sum(self.counts.get(ptype, 0) for ptype in self.components[component])

    def stars(self, centre_kpc: np.ndarray, radius_kpc: float) -> Particles:
        """Read only the stars within radius_kpc of centre_kpc (3,), as `galaxy` has them. Raises SnapshotError."""
        return concatenate([own for own, _ in self._spheres(self.components["stars"], centre_kpc, radius_kpc).values()])

    def everything(self, component: str) -> Particles:
        """Read all particles of a component at their positions in the box. Raises SnapshotError."""
        own_types, stars_types = self.components[component], self.components["stars"]
        hosts = component == self._reader.host and component != "stars"
        read = self._read(self._all(list(dict.fromkeys([*own_types, *(stars_types if hosts else [])]))))
        parts = [read[ptype][0] for ptype in own_types if ptype in read]
        parts += [read[ptype][1] for ptype in stars_types if hosts and ptype in read]
        return concatenate(parts)

    def _all(self, types: list[str]) -> list[tuple[Any, list[str]]]:
        return [(self._ds.all_data(), [ptype for ptype in types if self.counts.get(ptype, 0)])]

    def wrap(self, offset_kpc: np.ndarray) -> np.ndarray:
        """Return the shortest periodic images of offsets (..., 3) [kpc]."""
        return wrapped(offset_kpc, self.units.box_kpc)

    def _spheres(
        self, types: list[str], centre_kpc: np.ndarray, radius_kpc: float
    ) -> dict[str, tuple[Particles, Particles]]:
        """Read particles of some types relative to the centre: its own, and those disguised as stars, of each type."""
        found = [ptype for ptype in types if self.counts.get(ptype, 0)]
        is_small = sum(self.counts.values()) <= READ_WHOLE
        if is_small and self._kept is not None:
            if missing := [ptype for ptype in found if ptype not in self._kept]:
                self._kept |= self._read(self._all(missing))
            read, in_place = self._kept, False
        else:
            parts = self._all(found) if is_small else self._regions(found, centre_kpc, radius_kpc)
            read, in_place = self._read(parts), True
        cut = partial(self._cut, centre_kpc=centre_kpc, radius_kpc=radius_kpc, in_place=in_place)
        nothing = empty(), empty()
        return {t: tuple(cut(p) for p in read[t]) if t in read else nothing for t in types}  # type: ignore[misc]

    def _read(self, parts: list[tuple[Any, list[str]]]) -> dict[str, tuple[Particles, Particles]]:
        """Read regions, each with the types that lie in it, as `TypeReader.read` has them. Raises SnapshotError."""
        types = list(dict.fromkeys(ptype for _, types in parts for ptype in types))
        if not types:
            return {}
        regions = Regions(self.path, parts, {t: self._names(t) for t in types}, self.counts, self._slot)
        return {ptype: self._reader.read(ptype, partial(regions.field, ptype)) for ptype in types}

    def _names(self, ptype: str) -> list[str]:
        """List the fields to read of one type, as far as it has them."""
        return [name for name in self._reader.names(ptype) if name in self.fields[ptype]]

    def _regions(self, types: list[str], centre_kpc: np.ndarray, radius_kpc: float) -> list[tuple[Any, list[str]]]:
        """Choose yt's regions that hold every particle of some types within the radius, each of them once.

        Returns each region with the types that reach into it. Raises SnapshotError where a position of a type is NaN
        or infinite: no region would hold it.
        """
        box_kpc, length_kpc = self.units.box_kpc, self.units.length_kpc
        for ptype in types:
            if not np.isfinite(self._extents_kpc[ptype]).all():
                raise SnapshotError(
                    f"{self.path}: NaN or infinite values in {ptype}/Coordinates; is the file damaged? Get it again"
                )
        reach_kpc = 1.01 * radius_kpc  # one per cent more than asked for: yt rounds in its own way when it selects
        if box_kpc is not None and 2 * reach_kpc >= box_kpc:  # the images of the sphere would overlap
            return self._all(types)
        types_at: dict[tuple[float, ...], list[str]] = {}
        for ptype in types:
            centre = np.asarray(centre_kpc, dtype=float)
            for image_kpc in images(centre, reach_kpc, self._extents_kpc[ptype], box_kpc):
                types_at.setdefault(tuple(image_kpc), []).append(ptype)
        reach = (reach_kpc / length_kpc, "code_length")
        return [
            (self._ds.sphere(self._ds.arr(np.array(image_kpc) / length_kpc, "code_length"), reach), types_there)
            for image_kpc, types_there in sorted(types_at.items())
        ]

    def _cut(self, p: Particles, centre_kpc: np.ndarray, radius_kpc: float, in_place: bool = False) -> Particles:
        """Cut out the particles within the radius, relative to the centre; in_place overwrites p's positions."""
        offset = np.subtract(p.pos_kpc, centre_kpc, out=p.pos_kpc if in_place else None)
        for axis in offset.T:  # one at a time: no further copy of all positions
            axis[:] = self.wrap(axis)
        inside = np.einsum("ij,ij->i", offset, offset) <= radius_kpc**2
        p = Particles(offset, p.vel_kms, p.mass_msun, p.support_kpc, p.weight, p.side_kpc)
        return p if inside.all() else p[inside]


def holds(n_bytes: int, counts: Mapping[str, int]) -> bool:
    """Tell whether bytes that were fetched can be those of so many particles.

    The parts of a virtual snapshot are files of their own, which are not fetched with it.
    """
    return n_bytes > 0 and n_bytes >= SMALLEST_PARTICLE * sum(counts.values())


def fetched(files: list[Path]) -> int:
    """Read small files once, for the file system's cache to hold them; return their bytes, 0 if they are not small."""
    try:
        if not 0 < sum(status(file).st_size for file in files) <= FETCH_WHOLE:
            return 0
        block, n_bytes = bytearray(2**20), 0
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while n := file.readinto(block):
                    n_bytes += n
        return n_bytes
    except OSError:  # whoever opens them says what is wrong
        return 0
