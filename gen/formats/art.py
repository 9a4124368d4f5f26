"""ART with gas (N-ART: VELA): a file of cells, and three files of particles beside it, all big-endian.

Layout: yt's frontend `art`, which follows ART's own reader. `snapshots` names the file of cells, `10MpcBox_*.d`.
"""

import re
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kinmass.gen.constants import MSUN_G
from kinmass.gen.formats.art_files import A_M0_MSUN, CELL, HELD_BY_CELLS, OCT_WORDS, PARTICLE_HEADER
from kinmass.gen.formats.base import CodeUnits, SnapshotError, check_cosmology
from kinmass.gen.formats.fortran import Records
from kinmass.gen.formats.frontends import open_grid
from kinmass.gen.formats.grid import GridFormat, Raw
from kinmass.gen.formats.octree import CORNERS
from kinmass.gen.formats.tracers import PROTON_K_PER_KMS2

#: Mean molecular weight that ART takes for all gas: ionised, with helium of Y = 0.245.
_MU = 4 / (8 - 5 * 0.245)
#: The files of particles: yt's name of each, how their names begin, and how they end.
_COMPANIONS = {
    "file_particle_header": ("PMcrd", ".DAT"),
    "file_particle_data": ("PMcrs0", ".DAT"),
    "file_particle_stars": ("stars", ".dat"),
}
#: Numbers that two files tell may differ by this: they are of single precision, and of steps close to each other.
_AGREE = 0.01
#: Places may lie outside of the box by this part of a root cell, by rounding.
_EDGE = 1e-3


@dataclass(frozen=True)
class _Level:
    """Octs of one level: how many, the number of the first, and where octs and their cells begin in the file."""

    n_octs: int
    first: int
    octs_at: int
    cells_at: int


@dataclass(frozen=True)
class _Head:
    """What the file of cells says of itself.

    Cosmology; n_side: root cells along a side of the box; root_at: where their children are listed; unit: a root cell
    in the integers in which octs' places are; and the levels.
    """

    a: float
    box_mpc_h: float
    omega_m: float
    hubble: float
    n_side: int
    root_at: int
    unit: int
    levels: list[_Level]


@dataclass(frozen=True)
class _Species:
    """The header of particles: weights (n,) and numbers (n,) of the species, a, the cosmology, a page's side."""

    a: float
    omega_m: float
    hubble: float
    n_row: int
    n_grid: int
    weights: np.ndarray
    counts: np.ndarray


class Art(GridFormat):
    """ART: species of dark matter by their weights, stars as the last species; gas from the leaf cells."""

    name = "art"
    container = "art"
    cell_fields = (*(("art", f"{axis}MomentumDensity") for axis in "XYZ"), ("art", "Density"))
    cell_momenta = True
    has_parts = False  # of one file
    particle_fields = (
        *(("held", f"particle_{kind}_{axis}") for kind in ("position", "velocity") for axis in "xyz"),
        ("held", "particle_mass"),
    )

    def files(self, path: Path) -> list[Path]:
        """Return the file of cells and those of particles. Raises SnapshotError when one is missing."""
        return [path, *_companions(path).values()]

    def _units(self, path: Path, suite_units: dict[str, Any]) -> CodeUnits:
        """Take ART's units, which follow from the cosmology, the box and the number of root cells."""
        head = _read_head(path)
        check_cosmology(path, head.a, head.hubble, "its header", "its header")
        if not 0 < head.omega_m <= 2 or not 1e-3 < head.box_mpc_h < 1e5:
            raise SnapshotError(
                f"{path}: Om0 = {head.omega_m:.4g} and a box of {head.box_mpc_h:.4g} Mpc/h; damaged, or no snapshot? "
                "Get it again"
            )
        named = re.fullmatch(r"a(\d\.\d+)", path.stem.rpartition("_")[2])
        if named and not abs(float(named[1]) - head.a) <= _AGREE * head.a:
            raise SnapshotError(
                f"{path}: its name says a = {named[1]}, its header {head.a:.5g}; get the right file, or rename it"
            )
        cosmological = bool(suite_units.get("cosmological", True))
        a, h = (head.a, head.hubble) if cosmological else (1.0, 1.0)
        length_kpc = suite_units.get("length_kpc", head.box_mpc_h * 1000 / head.hubble * head.a / a) * a
        mass_msun = suite_units.get(
            "mass_msun", A_M0_MSUN / MSUN_G * head.hubble**2 * head.omega_m * (head.box_mpc_h / head.hubble) ** 3
        )
        velocity_kms = suite_units.get("velocity_kms", _velocity_kms(head))
        return CodeUnits(
            length_kpc, mass_msun, velocity_kms, length_kpc, a, h, f"the cosmology of {path.name}",
            energy_kms2=velocity_kms**2, cosmological=cosmological,
        )  # fmt: skip

    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """Link all files into a folder, after checking that their numbers are one snapshot's."""
        with self._explain_other_formats(path):
            head = _read_head(path)
        if light is not None:
            raise SnapshotError(f"{path}: ART stores no light; take `tracers: {{stars: mass}}`")
        companions = _companions(path)
        header, data, stars = companions.values()
        species = _read_species(header)
        if species.n_grid != head.n_side:
            raise SnapshotError(
                f"{header}: Ngridc = {species.n_grid}, {path.name} has {head.n_side}^3 root cells; "
                "get both of one snapshot"
            )
        for name in ("a", "omega_m", "hubble"):
            told, other = getattr(species, name), getattr(head, name)
            if not abs(told - other) <= _AGREE * other:
                raise SnapshotError(
                    f"{header}: {name} = {told:.5g}, {path.name} says {other:.5g}; get both of one snapshot"
                )
        _check_particles(data, species)
        _check_stars(stars, species, head.a)
        folder = scratch / "art"
        folder.mkdir()
        for file in [path, *companions.values()]:
            (folder / file.name).symlink_to(file.resolve())
        return folder / path.name

    def open(self, staged: Path) -> Any:
        """Open a staged snapshot with yt's ART frontend, the species that have particles together as `held`.

        yt believes what it finds: the whole tree and the places of all particles are checked first.
        """
        from yt.data_objects.unions import ParticleUnion

        companions = _companions(staged)
        _check_tree(staged.resolve(), _read_head(staged))
        _check_places(companions["file_particle_data"].resolve(), _read_species(companions["file_particle_header"]))
        files = {name: str(file) for name, file in companions.items()}
        ds = open_grid("yt.frontends.art.api", "ARTDataset", str(staged), (_ROOT_LEVEL,), **files)
        ds.index.io.caching = False  # it would keep every field of every particle
        ds.index.io._read_fluid_selection = _read_cells
        ds.index.io._get_field = partial(_in_box, ds.index.io._get_field)
        ds.add_particle_union(ParticleUnion("held", [name for name, n in ds._particle_type_counts.items() if n > 0]))
        return ds

    def kind_fields(self, ds: Any) -> tuple[Any, ...]:
        """Name the number of the species."""
        return (("held", "particle_type"),)

    def kinds(self, raw: Raw, ds: Any) -> dict[str, np.ndarray]:
        """Tell stars, which are the last species, from dark matter."""
        stars = raw["held", "particle_type"] == len(ds.parameters["lspecies"]) - 1
        heavy = raw["held", "particle_mass"] != 0
        return {"stars": heavy & stars, "dark": heavy & ~stars}

    def count_cells(self, ds: Any) -> int:
        """Count leaf cells: those of the root, and eight for one by each oct."""
        head = _read_head(Path(ds.parameter_filename))
        return head.n_side**3 + 7 * sum(level.n_octs for level in head.levels)

    def derived(self, ds: Any) -> dict[str, Any]:
        """Give temperatures by ART's thermal energy."""
        kelvin = 2 / 3 * _MU * PROTON_K_PER_KMS2 * _velocity_kms(_read_head(Path(ds.parameter_filename))) ** 2
        fields = ("art", "GasEnergy"), ("art", "Density")
        return {"Temperature": (fields, lambda energy, density: kelvin * energy / density)}


def _root_level(ds: Any) -> int:
    return _read_head(Path(ds.parameter_filename)).unit.bit_length() - 1


#: yt guesses the unit of places, and guesses wrong where no two octs of level 1 are neighbours.
_ROOT_LEVEL = ("root_level", property(_root_level, lambda _, guess: None))


def _in_box(read: Any, field: tuple[str, str]) -> np.ndarray:
    """Read a field of particles, places at the box's upper end as 0: yt leaves those out."""
    values = np.asarray(read(field))
    return values % 1.0 if field[1].startswith("particle_position") else values


def _read_cells(chunks: Any, selector: Any, fields: list[tuple[str, str]], size: int) -> Raw:
    """Read fields of the cells that a selector takes; yt's own leaves the file open."""
    parts = []
    for chunk in chunks:
        for subset in chunk.objs:
            with open(subset.domain.ds._file_amr, "rb") as file:
                parts.append(subset.fill(file, fields, selector))
    return {field: np.concatenate([part[field[1]] for part in parts]) for field in fields}


def is_cells(head: bytes) -> bool:
    """Tell whether a file begins as ART's file of cells: a record of 256 bytes, one of 28 and one of 20."""
    at = (0, 260, 264, 296, 300)
    return len(head) >= 304 and all(
        struct.unpack_from(">i", head, i) == (n,) for i, n in zip(at, (256, 256, 28, 28, 20), strict=True)
    )


def is_particle_header(head: bytes) -> bool:
    """Tell whether a file begins as ART's header of particles: the mark of a record of its size."""
    is_title = all(32 <= letter < 127 for letter in head[4:12])
    return len(head) >= 12 and struct.unpack_from(">i", head) == (_SPECIES_BYTES,) and is_title


_SPECIES_BYTES = struct.calcsize(PARTICLE_HEADER)


def _velocity_kms(head: _Head) -> float:
    return float(50 * head.box_mpc_h / head.n_side * np.sqrt(head.omega_m) / head.a)


def _companions(path: Path) -> dict[str, Path]:
    """Find the files of particles by the end of the name, `a0.330`. Raises SnapshotError when one is missing."""
    number = path.stem.rpartition("_")[2]
    if path.suffix != ".d" or "_" not in path.stem or not number:
        raise SnapshotError(f"{path}: not named as ART's file of cells, such as 10MpcBox_csf512_a0.330.d; rename it")
    found = {}
    for name, (begin, end) in _COMPANIONS.items():
        usual = f"{begin}{'_' if begin == 'stars' else ''}{number}{end}"
        there = [path.with_name(f"{begin}{between}{number}{end}") for between in ("", "_")]
        there = [file for file in there if file.is_file()]
        if len(there) != 1:
            what = "missing" if not there else f"there is {there[1].name}, too"
            file = there[0] if there else path.with_name(usual)
            raise SnapshotError(f"{file}: {what}; {path.name} needs one such file beside it")
        found[name] = there[0]
    return found


def _read_head(path: Path) -> _Head:
    """Read the header of the file of cells, and find its levels. Raises SnapshotError."""
    with Records(path, ">") as records:
        records.skip(256)
        a = struct.unpack(">iddff", records.read("u1", 28).tobytes())[3]
        box, omega_m, _, _, hubble = (float(x) for x in records.read("f4", 5))
        records.skip(4)
        records.skip(8)
        records.skip(512)
        lowest, deepest = (int(x) for x in records.read("i4", 2))
        if lowest != 0 or not 1 <= deepest <= 30:
            raise records.broken(f"levels {lowest} to {deepest}, not 0 to 1 or more,")
        records.skip(times=5)
        n_cells = records.number("i4")
        n_side = round(max(n_cells, 0) ** (1 / 3))
        if n_side**3 != n_cells or n_side < 2 or n_side % 2:
            raise records.broken(f"{n_cells} root cells, which is no cube of an even number,")
        root_at = records.at + 4
        for words in (1, HELD_BY_CELLS[0], HELD_BY_CELLS[1]):
            records.skip(4 * words * n_cells)
        records.skip(8)
        levels = [_find_level(records, number) for number in range(1, deepest + 1)]
        # An oct of level 1 lies in the middle of a root cell: at an odd multiple of half of one.
        records.at = levels[0].octs_at
        place = int(records.read("i4", OCT_WORDS - 2)[0])
        unit = 2 * (place & -place)
        if place <= 0 or unit < 1 << deepest:
            raise records.broken(f"an oct at {place}, which is no place for one with {deepest} levels,")
    if not np.isfinite([a, box, omega_m, hubble]).all():
        raise SnapshotError(f"{path}: a = {a}, boxh = {box}, Om0 = {omega_m}, hubble = {hubble}; damaged? Get it again")
    return _Head(float(a), box, omega_m, hubble, n_side, root_at, unit, levels)


def _find_level(records: Records, number: int) -> _Level:
    told, n_octs, first = (int(x) for x in records.read("i4", 3))
    if told != number or n_octs < 1:
        raise records.broken(f"level {told} of {n_octs} octs, where level {number} should be,")
    octs_at = records.at
    cells_at = octs_at + n_octs * 4 * OCT_WORDS
    records.at = cells_at + 8 * n_octs * CELL.itemsize
    if records.at > records.size:
        raise records.broken(f"{n_octs} octs of level {number} that would end")
    return _Level(n_octs, first, octs_at, cells_at)


def _read_species(path: Path) -> _Species:
    """Read the header of particles. Raises SnapshotError."""
    with Records(path, ">") as records:
        values = struct.unpack(PARTICLE_HEADER, records.read("u1", _SPECIES_BYTES).tobytes())
        n_row, n_grid, n_species = values[13:16]
        weights, last = np.array(values[23:33]), np.array(values[33:43])
        if not 1 <= n_species <= 10 or not 1 <= n_row <= 10**5:
            raise records.broken(f"{n_species} species, and pages of {n_row}^2 particles,")
        weights, last = weights[:n_species], last[:n_species]
        counts = np.diff(last, prepend=0)
        if (counts < 0).any() or counts.sum() < 1 or not (np.isfinite(weights[:-1]) & (weights[:-1] > 0)).all():
            raise records.broken(f"species of {counts.tolist()} particles and weights {weights.tolist()},")
    return _Species(values[1], values[17], values[19], n_row, n_grid, weights, counts)


def _check_particles(path: Path, species: _Species) -> None:
    """Raise SnapshotError where the file has not the pages that the header's number of particles fills."""
    n, page = int(species.counts.sum()), species.n_row**2
    with Records(path, ">") as file:
        expected = -(-n // page) * 24 * page
        if file.size != expected:
            raise SnapshotError(
                f"{path}: {file.size} bytes, and {n} particles in pages of {page} take {expected}; "
                "cut short, or of another snapshot? Get it again"
            )


def _check_stars(path: Path, species: _Species, a: float) -> None:
    """Raise SnapshotError where the file of stars is not of as many stars, or of another time."""
    n = int(species.counts[-1])
    with Records(path, ">") as records:
        _, a_stars = records.read("f8", 2)
        told = records.number("i4")
        if told != n:
            raise records.broken(f"{told} stars, and the last species has {n},")
        if not abs(a_stars - a) <= _AGREE * a:
            raise records.broken(f"a = {a_stars:.5g}, and the cells' is {a:.5g},")
        records.skip(16)
        mass = records.read("f4", n)
        if not (np.isfinite(mass) & (mass > 0)).all():
            raise records.broken("masses of stars that are NaN, infinite or not above 0")
        records.skip(4 * n, times=4)
        while records.at < records.size:  # further metals
            records.skip(4 * n)


def _check_places(path: Path, species: _Species) -> None:
    """Raise SnapshotError where a particle lies outside the box, which goes from 1 to 1 + the number of root cells."""
    n, page = int(species.counts.sum()), species.n_row**2
    pages = np.memmap(path, ">f4", "r").reshape(-1, 6, page)
    for number, of in enumerate(pages):
        x = of[:3, : n - number * page]
        if not ((x >= 1 - _EDGE) & (x <= 1 + species.n_grid + _EDGE)).all():
            raise SnapshotError(f"{path}: places that are NaN or outside of the box; damaged? Get it again")


def _check_tree(path: Path, head: _Head) -> None:
    """Raise SnapshotError where octs are not numbered, or do not lie, as the cells say whose children they are."""
    raw, n_root = np.memmap(path, "u1", "r"), head.n_side**3
    child = np.frombuffer(raw[head.root_at : head.root_at + 4 * n_root], ">i4").astype(np.int64)
    centre = np.stack(np.unravel_index(np.arange(n_root), (head.n_side,) * 3, order="F"), axis=-1) + 0.5
    for number, level in enumerate(head.levels, start=1):
        octs = np.frombuffer(raw[level.octs_at : level.cells_at], ">i4").reshape(-1, OCT_WORDS).astype(np.int64)
        cells = np.frombuffer(raw[level.cells_at :][: 8 * level.n_octs * CELL.itemsize], CELL)
        own = np.concatenate([[level.first], octs[:-1, 12]])
        parents = np.flatnonzero(child > 0)
        parents, order = parents[np.argsort(child[parents])], np.argsort(own)
        marks = (octs[:, [0, 14]] == 4 * (OCT_WORDS - 2)).all() and all(
            (cells[mark] == CELL.itemsize - 8).all() for mark in ("begin", "end")
        )
        numbers = n_root + 8 * (own[:, None] - 1) + np.arange(1, 9)
        if not (
            marks
            and len(parents) == level.n_octs
            and (child[parents] == own[order]).all()
            and (np.diff(own[order]) > 0).all()
            and (octs[order, 1:4] == (centre[parents] + 1) * head.unit).all()
            and (cells["number"].reshape(-1, 8) == numbers).all()
        ):
            raise SnapshotError(
                f"{path}: octs of level {number} that are not those of the cells above; damaged? Get it again"
            )
        centre = (octs[:, None, 1:4] / head.unit - 1 + (CORNERS - 0.5) / 2.0**number).reshape(-1, 3)
        child = cells["child"].astype(np.int64)
    if (child > 0).any():
        raise SnapshotError(
            f"{path}: cells of level {len(head.levels)} have children that it lacks; damaged? Get it again"
        )
