"""What the formats of adaptive grids share: gas cells and particles of a yt dataset, as particles of named types.

yt reads cells and particles of a region; this file names them as `gen.snapshots` does: types gas, stars, dark and
coarse_dark, with Coordinates, Velocities, Masses and, of gas, Sides. A cell belongs to a region if its centre does.
"""

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from kinmass.gen.formats.base import Format, Part, Slot, SnapshotError
from kinmass.gen.formats.blocks import Blocks, measured
from kinmass.gen.formats.domain import blocks_file, lowest_and_highest, side_file
from kinmass.gen.formats.sample import MAX_FILES, Sample, take
from kinmass.gen.formats.smoothing import Smoothing

Raw = dict[Any, np.ndarray]
#: A zoom's dark matter heavier than the lightest by this factor is of low resolution: zooms refine by factors of eight.
COARSER = 1.5
#: A zoom has at most so many different masses of dark matter; those closer than COARSER_STEP in ln count as one.
MOST_STEPS, COARSER_STEP = 16, 0.01
#: A mass that a smaller share of the particles has does not part those of a run that does not expand.
FEW = 1e-3
#: So many different masses, in single precision, are counted at most.
MOST_MASSES = 100_000
#: What a particle of each component holds, and a cell.
PARTICLE_FIELDS = ("Coordinates", "Velocities", "Masses")
CELL_FIELDS = (*PARTICLE_FIELDS, "Sides", "Density")


@dataclass(frozen=True)
class Census:
    """How many particles and cells of each type a snapshot holds, and where [code lengths].

    coarse_above: the mass above which dark matter is coarse. domains: the places that particles and cells of each
    domain fill, None where `GridFormat.has_domains` is not set.
    """

    counts: dict[str, int]
    extents: dict[str, np.ndarray]
    coarse_above: float
    domains: Blocks | None = None


class Tally(NamedTuple):
    """What is counted in some of a snapshot's files: particles of each type, and dark ones of each mass [code mass].

    expands: whether the run does; domain (2, 3): the edges of the whole grid [code length].
    """

    counts: dict[str, int]
    dark_masses: dict[float, int]
    expands: bool
    domain: np.ndarray


class GridFormat(Format):
    """A code that keeps gas in cells of an adaptive grid.

    `others` names the types of particles with mass that belong to no component unless a suite file names them.
    `cell_fields` and `particle_fields` name yt's fields: of a cell its velocity (3) and density, of a particle its
    position (3), velocity (3) and mass. `kind_fields` names what tells the kinds of particles apart.
    """

    components: ClassVar[dict[str, list[str]]] = {
        "gas": ["gas"],
        "stars": ["stars"],
        "dark": ["dark"],
        "black_holes": [],
        "low_resolution": ["coarse_dark"],
    }
    others: ClassVar[tuple[str, ...]] = ()
    formed: ClassVar[str] = "none"
    version_of_reading: ClassVar[int] = 2  # before, true masses took a cell's gas to be in its centre
    cell_fields: ClassVar[tuple[Any, ...]]
    #: Whether cells have densities of momentum in the place of velocities.
    cell_momenta: ClassVar[bool] = False
    #: Whether `choose` says which domains a sphere is read from, by the places that the census finds them to fill.
    has_domains: ClassVar[bool] = False
    particle_fields: ClassVar[tuple[Any, ...]] = (
        *(("io", f"particle_{kind}_{axis}") for kind in ("position", "velocity") for axis in "xyz"),
        ("io", "particle_mass"),
    )

    @abstractmethod
    def kinds(self, raw: Raw, ds: Any) -> dict[str, np.ndarray]:
        """Return the masks (N,) of stars, dark particles and `others`, from fields that `kind_fields` names."""

    @abstractmethod
    def kind_fields(self, ds: Any) -> tuple[Any, ...]:
        """Name yt's fields from which `kinds` follow, among those that the dataset has."""

    def count_particles(self, objects: Sequence[Any]) -> int:
        """Count the particles in yt's parts of one file by its header; 0 of a code that has one file of particles."""
        return 0

    @abstractmethod
    def count_cells(self, ds: Any) -> int:
        """Count the leaf cells of a snapshot by its index."""

    def known_types(self) -> list[str]:
        """Return the names of all types, those of no component too."""
        return [*super().known_types(), *self.others]

    def check_counts(self, ds: Any, counts: dict[str, int]) -> None:
        """Raise SnapshotError where the counted particles of a type cannot be those of the files' headers."""

    def box_side(self, ds: Any) -> float:
        """Return the side of yt's domain in the unit of length of which masses are densities times volumes."""
        return 1.0

    @abstractmethod
    def open(self, staged: Path) -> Any:
        """Open a staged snapshot with yt, its index built. Raises SnapshotError with yt's reason."""

    def choose(self, ds: Any, region: Any, domains: Blocks) -> None:
        """Have a region read from those domains alone that reach into it."""

    def check_region(self, ds: Any, region: Any) -> None:
        """Raise SnapshotError where files that a region is read from contradict themselves."""

    def derived(self, ds: Any) -> dict[str, tuple[tuple[Any, ...], Callable[..., np.ndarray]]]:
        """Return further fields of cells by name: the fields of yt that they follow from, and how."""
        return {}

    def load(self, staged: Path, slot: Slot = nullcontext, part: Part | None = None) -> Any:
        """Open a staged snapshot and take its census, or read the one that lies beside it, inside `slot()`.

        Of a part only its share of the files is looked at: what they hold becomes `blocks` and `tally`.
        """
        with slot():
            ds = self.open(staged)
            if part is None:
                return GridData(self, ds, self._census(ds, staged))
            data = GridData(self, ds, Census({}, {}, np.inf))
            data.blocks, data.tally = self._counted(data, *part)
            return data

    def smoothing(self, path: Path) -> Smoothing:
        """Return a convention without kernels: cells have sides."""
        return Smoothing("cells", None, None, "the grid itself")

    def sample(self, staged: Path, max_particles: int, types: Collection[str] | None = None) -> dict[str, Sample]:
        """Sample each type from some of the files, as `Format.sample` says."""
        ds = self.open(staged)
        data = GridData(self, ds, Census({}, {}, np.inf))
        parts: dict[str, list[Sample]] = {}
        counts: dict[str, float] = {}
        pieces, stands_for = data.pieces(MAX_FILES)
        for piece, like_it in zip(pieces, stands_for, strict=True):
            for ptype, fields in data.types(piece).items():
                if len(fields["Masses"]) and (types is None or ptype in types):
                    n, most = len(fields["Masses"]), -(-max_particles // len(stands_for))
                    pos, vel, mass = (take(fields[name].__getitem__, n, most) for name in PARTICLE_FIELDS)
                    names = frozenset(name for name, _ in data.names(ptype))
                    parts.setdefault(ptype, []).append(Sample(n, pos, vel, mass, names))
                    counts[ptype] = counts.get(ptype, 0.0) + n * like_it
        samples = {ptype: _joined(of, round(counts[ptype])) for ptype, of in parts.items()}
        return _split_dark(samples, bool(ds.cosmological_simulation))

    def _census(self, ds: Any, staged: Path) -> Census:
        """Count the particles of each type, file by file, and keep the result beside the staged snapshot."""
        where_file, counts_file = blocks_file(staged), side_file(staged)
        if not (where_file.exists() and counts_file.exists()):
            blocks, tally = self._counted(GridData(self, ds, Census({}, {}, np.inf)))
            where_file.write_bytes(blocks.packed())
            counts_file.write_text(json.dumps(self.beside(blocks.extents(), [tally])))
        kept = json.loads(counts_file.read_text())
        self.check_counts(ds, kept["counts"])
        extents = {ptype: np.array(extent) for ptype, extent in kept["extents"].items()}
        domains = Blocks.load(where_file) if self.has_domains else None
        return Census(kept["counts"], extents, kept["coarse_above"], domains)

    def _counted(self, data: "GridData", number: int = 0, n_parts: int = 1) -> tuple[Blocks, Tally]:
        """Look at one of so many shares of the files, and say where in them particles of each type are, and how many.

        Cells are counted by the index: the first share has all of them.
        """
        ds, (pieces, files, n_files) = data.ds, data.share(number, n_parts)
        tally = Tally(
            {}, {}, bool(ds.cosmological_simulation), np.array([ds.domain_left_edge.d, ds.domain_right_edge.d])
        )
        if number == 0:
            tally.counts["gas"] = self.count_cells(ds)

        def positions(_: int) -> Iterator[tuple[str, np.ndarray]]:
            """Yield types and positions (N, 3) [code lengths] of the next piece, and count its particles."""
            piece = next(pieces)
            if self.has_domains:
                yield "gas", data.cells(piece, ["Coordinates"])["Coordinates"]
            raw = data.raw_particles(piece, velocities=False)
            for kind, mask in self.kinds(raw, ds).items():
                if n := int(np.count_nonzero(mask)):
                    tally.counts[kind] = tally.counts.get(kind, 0) + n
                    yield kind, data.columns(raw, 0)[mask]
                    if kind == "dark":
                        count_masses(tally.dark_masses, raw[self.particle_fields[6]][mask])

        return measured(files, positions, lowest_and_highest, is_single=n_files == 1), tally

    def beside(self, extents: dict[str, np.ndarray], tallies: Sequence[Tally]) -> Any:
        """Return the counts and extents of all types, and the mass above which dark matter is coarse."""
        counts: Counter[str] = Counter()
        dark_masses: Counter[float] = Counter()
        for tally in tallies:
            counts.update(tally.counts)
            dark_masses.update(tally.dark_masses)
        extents = extents | {"gas": tallies[0].domain}
        limit = coarse_above_counted(dark_masses, tallies[0].expands)
        if n_coarse := sum(n for mass, n in dark_masses.items() if mass > limit):
            counts.update({"dark": -n_coarse, "coarse_dark": n_coarse})
            extents["coarse_dark"] = extents["dark"]
        told = {ptype: extent.tolist() for ptype, extent in extents.items()}
        return {"counts": counts, "coarse_above": limit, "extents": told}


def coarse_above(masses: np.ndarray, expands: bool, counts: np.ndarray | None = None) -> float:
    """Return the mass above which dark matter is coarse, infinity where masses (N,) do not come in a few steps.

    A zoom's particles have a few masses, a factor of eight apart, and only the lightest are of high resolution; where
    each has its own, mass does not tell. In a run that does not expand, the lighter ones may be the stars that it began
    with, of a disc, a bulge and so on: it is parted in two where two masses next to each other are the farthest apart,
    of those that more than a few particles have: one black hole is no halo. counts (N,): how many have each mass.
    """
    counts = np.ones(len(masses)) if counts is None else counts
    steps, step = np.unique(np.round(np.log(masses[masses > 0]) / COARSER_STEP), return_inverse=True)
    if not 1 < len(steps) <= MOST_STEPS:
        return float("inf")
    if expands:
        return float(COARSER * masses[masses > 0].min())
    n_in_step = np.bincount(step, counts[masses > 0])
    steps = steps[n_in_step >= FEW * n_in_step.sum()]
    if len(steps) < 2:
        return float("inf")
    apart = COARSER_STEP * np.diff(steps)
    widest = int(np.argmax(apart))
    is_apart = apart[widest] > np.log(COARSER)
    return float(np.exp(COARSER_STEP * steps[widest] + 0.5 * apart[widest])) if is_apart else float("inf")


def coarse_above_counted(counts: dict[float, int], expands: bool) -> float:
    """Return `coarse_above` of masses by their counts; infinity where too many differ for `count_masses` to keep all.

    Coarse particles that were not counted would belong to no type, and their mass to nobody.
    """
    if len(counts) > MOST_MASSES:
        return float("inf")
    return coarse_above(np.array(list(counts)), expands, np.array(list(counts.values())))


def count_masses(counts: dict[float, int], masses: np.ndarray) -> None:
    """Add masses (N,) to their counts, rounded to single precision; after MOST_MASSES different ones none is added."""
    for mass, n in zip(*np.unique(masses.astype(np.float32), return_counts=True), strict=True):
        if len(counts) > MOST_MASSES:
            return
        counts[float(mass)] = counts.get(float(mass), 0) + int(n)


def _joined(parts: list[Sample], count: int) -> Sample:
    """Join samples of one type from some of the files; count: of all files."""
    pos, vel, mass = (np.concatenate([getattr(p, name) for p in parts]) for name in ("pos", "vel", "mass"))
    return Sample(count, pos, vel, mass, parts[0].fields)


def _split_dark(samples: dict[str, Sample], expands: bool) -> dict[str, Sample]:
    """Split sampled dark matter by `coarse_above`."""
    if "dark" not in samples:
        return samples
    dark = samples["dark"].mass
    coarse = dark > coarse_above(dark, expands)
    split = {"dark": samples["dark"][~coarse], "coarse_dark": samples["dark"][coarse]}
    return samples | split if coarse.any() else samples


class GridData:
    """A yt dataset of cells and particles as `gen.snapshots` asks for it: regions with fields of particle types."""

    def __init__(self, reader: GridFormat, ds: Any, census: Census):
        self.reader, self.ds, self.census = reader, ds, census
        self.frontend = type(ds).__mro__[1].__name__
        self.particle_type_counts, self.extents = census.counts, census.extents
        self.index = SimpleNamespace(io=SimpleNamespace(_dataset_type="grid"))
        self.field_list = [(ptype, name) for ptype in census.counts for name, _ in self.names(ptype)]
        #: Of a part of the files, see `GridFormat.load`.
        self.blocks: Blocks | None = None
        self.tally: Tally | None = None
        self.at_origin: dict[str, int] = {}  # codes of grids write all positions at once

    def names(self, ptype: str) -> list[tuple[str, Any]]:
        """List the fields of a type, each with what yt's fields make it."""
        names = CELL_FIELDS if ptype == "gas" else PARTICLE_FIELDS
        derived = self.reader.derived(self.ds) if ptype == "gas" else {}
        return [*((name, None) for name in names), *derived.items()]

    def arr(self, values: np.ndarray, unit: str) -> Any:
        """Give values a unit of the dataset."""
        return self.ds.arr(values, unit)

    def all_data(self) -> "GridRegion":
        """Make the region that holds everything."""
        return GridRegion(self, self.ds.all_data(), "region")

    def sphere(self, centre: Any, radius: tuple[float, str]) -> "GridRegion":
        """Make the region of a sphere, which is not periodic, and larger than the smallest cell: yt refuses others."""
        smallest = 1.01 * float(self.ds.index.get_smallest_dx())
        region = self.ds.sphere(centre, (max(radius[0], smallest), radius[1]))
        if self.census.domains is not None:
            self.reader.choose(self.ds, region, self.census.domains)
        return GridRegion(self, region, "sphere")

    def pieces(self, most: int) -> tuple[Iterator[Any], list[float]]:
        """Go through some of the snapshot's files, at most so many, and say how many files each stands for.

        One half are those with the most particles, where a galaxy's stars are, the others are spread over the rest, for
        which they stand.
        """
        region = self._everything()
        n_in = np.array([self.reader.count_particles(region._current_chunk.objs) for _ in region.chunks([], "io")])
        files = np.argsort(-n_in, kind="stable")
        most = min(most, len(files))
        n_alone = most if most == len(files) else most // 2
        rest = np.sort(files[n_alone:])
        spread = rest[np.linspace(0, len(rest) - 1, most - n_alone).astype(int)]
        chosen = {int(i): 1.0 for i in files[:n_alone]} | {int(i): len(rest) / len(spread) for i in spread}
        return self._of_files(region, chosen), [chosen[i] for i in sorted(chosen)]

    def share(self, number: int, n_parts: int) -> tuple[Iterator[Any], range, int]:
        """Go through one of so many shares of the files, file by file; say which they are, and how many all are."""
        region = self._everything()
        n_files = sum(1 for _ in region.chunks([], "io"))
        files = range(number * n_files // n_parts, (number + 1) * n_files // n_parts)
        return self._of_files(region, files), files, n_files

    def _everything(self) -> Any:
        region = self.ds.all_data()
        region.index._identify_base_chunk(region)
        return region

    def _of_files(self, region: Any, files: Container[int]) -> Iterator[Any]:
        """Yield a region once for each of some files, by their numbers, which is checked before and forgotten after."""
        for i, _ in enumerate(region.chunks([], "io")):
            if i in files:
                self.reader.check_region(self.ds, region)
                yield region
                region.clear_data()

    def types(self, region: Any) -> dict[str, dict[str, np.ndarray]]:
        """Read the main fields of every type of a region; dark matter is not yet split."""
        of: dict[str, dict[str, np.ndarray]] = {"gas": self.cells(region, PARTICLE_FIELDS)}
        raw = self.raw_particles(region)
        for kind, mask in self.reader.kinds(raw, self.ds).items():
            of[kind] = {name: self.columns(raw, i)[mask] for i, name in enumerate(PARTICLE_FIELDS)}
        return of

    def raw_particles(self, region: Any, velocities: bool = True) -> Raw:
        """Read yt's fields of all particles of a region; empty where the snapshot has no particles."""
        names = self.reader.particle_fields
        if names[0] not in self.ds.field_list:
            return {name: np.zeros(0) for name in (*names, *self.reader.kind_fields(self.ds))}
        wanted = [*names[:3], *(names[3:6] if velocities else ()), names[6], *self.reader.kind_fields(self.ds)]
        return _read(region, wanted)

    def columns(self, raw: Raw, number: int) -> np.ndarray:
        """Return positions (N, 3), velocities (N, 3) or masses (N,) of the particles, by their number."""
        names = self.reader.particle_fields
        return raw[names[6]] if number == 2 else np.stack([raw[name] for name in names[3 * number :][:3]], axis=-1)

    def cells(self, region: Any, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Read fields of the cells of a region. Raises SnapshotError for cells without density."""
        names, fields = set(names), self.reader.cell_fields
        derived = {name: how for name, how in self.reader.derived(self.ds).items() if name in names}
        dense = {"Masses", "Density"} | ({"Velocities"} if self.reader.cell_momenta else set())
        wanted = [
            *(fields[:3] if "Velocities" in names else ()),
            *(fields[3:] if dense & names else ()),
            *(field for fields_of, _ in derived.values() for field in fields_of),
        ]
        region.index._identify_base_chunk(region) if region._current_chunk is None else None
        raw = _read(region, list(dict.fromkeys(wanted)))
        out: dict[str, np.ndarray] = {}
        if {"Sides", "Masses"} & names:
            out["Sides"] = np.asarray(region.fwidth, dtype=np.float64).reshape(-1, 3)[:, 0]
        if "Coordinates" in names:
            out["Coordinates"] = np.asarray(region.fcoords, dtype=np.float64)
        if dense & names:
            out["Density"] = raw[fields[3]]
            if np.any(out["Density"] <= 0):
                n = np.count_nonzero(out["Density"] <= 0)
                raise SnapshotError(
                    f"{n} cells without a positive density; was the file written to its end? Get it again"
                )
        if "Velocities" in names:
            out["Velocities"] = np.stack([raw[name] for name in fields[:3]], axis=-1)
            out["Velocities"] /= out["Density"][:, None] if self.reader.cell_momenta else 1.0
        if "Masses" in names:
            out["Masses"] = out["Density"] * (out["Sides"] * self.reader.box_side(self.ds)) ** 3
        return out | {name: how(*(raw[field] for field in of)) for name, (of, how) in derived.items()}


class GridRegion:
    """A region of a GridData, with the part of yt's interface that `gen.snapshots.regions` uses."""

    def __init__(self, data: GridData, region: Any, type_name: str):
        self._data, self._region, self._type_name = data, region, type_name
        self.field_data: dict[tuple[str, str], Any] = {}

    def get_data(self, keys: list[tuple[str, str]]) -> None:
        """Read fields of particle types, all raw fields of one kind together."""
        data, region = self._data, self._region
        region.index._identify_base_chunk(region)
        data.reader.check_region(data.ds, region)
        values: dict[tuple[str, str], np.ndarray] = {}
        if names := {name for ptype, name in keys if ptype == "gas"}:
            cells = data.cells(region, names)
            values |= {("gas", name): cells[name] for name in names}
        if particles := [key for key in keys if key[0] != "gas"]:
            raw = data.raw_particles(region, any(name == "Velocities" for _, name in particles))
            masks = self._masks(raw)
            for ptype, name in particles:
                values[ptype, name] = data.columns(raw, PARTICLE_FIELDS.index(name))[masks[ptype]]
        self.field_data = {key: data.arr(value, "") for key, value in values.items()}

    def _masks(self, raw: Raw) -> dict[str, np.ndarray]:
        masks = self._data.reader.kinds(raw, self._data.ds)
        coarse = raw[self._data.reader.particle_fields[6]] > self._data.census.coarse_above
        return masks | {"dark": masks["dark"] & ~coarse, "coarse_dark": masks["dark"] & coarse}

    def __getitem__(self, key: tuple[str, str]) -> Any:
        self.get_data([key])
        return self.field_data[key]

    def clear_data(self) -> None:
        """Forget what was read."""
        self.field_data = {}
        self._region.clear_data()


def _read(region: Any, names: list[Any]) -> Raw:
    """Read fields of yt as doubles, and let yt forget them."""
    if names:
        region.get_data(names)
    return {name: np.asarray(region.field_data.pop(name).d, dtype=np.float64) for name in names}
