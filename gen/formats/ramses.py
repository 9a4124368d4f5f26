"""RAMSES (Horizon-AGN, NewHorizon, VINTERGATAN): a folder of an info file and one file per domain and kind.

Layout: RAMSES's output_amr.f90, output_hydro.f90 and output_part.f90, and yt's frontend. `snapshots` names
the info file.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G, RAMSES_MPC_CM, RAMSES_RHO_CRIT, G
from kinmass.gen.formats.base import NOT_COSMOLOGICAL, CodeUnits, SnapshotError, check_cosmology, first_bytes
from kinmass.gen.formats.blocks import Blocks
from kinmass.gen.formats.fortran import Records
from kinmass.gen.formats.frontends import open_grid
from kinmass.gen.formats.grid import GridFormat, Raw
from kinmass.gen.formats.once import names_in, status
from kinmass.gen.formats.sample import MAX_FILES
from kinmass.gen.formats.tracers import PROTON_K_PER_KMS2

_NUMBERS = (
    "ncpu", "ndim", "levelmin", "levelmax", "boxlen", "time", "aexp", "H0", "omega_m", "unit_l", "unit_d", "unit_t",
)  # fmt: skip
#: Newton's constant in cgs; it is 1 in the units of a run without expansion (units.f90).
_G_CGS = G * KPC_CM * KMS_CM_S**2 / MSUN_G
#: Families of particles with mass (pm_commons.f90); higher ones are of other types. Tracers, which repeat the mass of
#: what they are in, have families of 0 and less.
FAMILIES = {"dark": 1, "stars": 2, "clouds": 3, "debris": 4}
#: The numbers of particles, by yt's name.
_NUMBER = ("io", "particle_identity")
#: Names the fields of particles, in outputs since there are families.
_DESCRIPTOR = "part_file_descriptor.txt"
#: The fields of particles in files without one, as far as they are read.
_USUAL_PARTICLES = [
    *(f"{kind}_{axis}" for kind in ("position", "velocity") for axis in "xyz"),
    "mass", "identity", "levelp", "birth_time",
]  # fmt: skip
#: Debris is of the stars that one cell forms in one step, fewer than this (star_formation.f90); stars are numbered from
#: 1 on, and the first of a galaxy's explode soon.
MOST_STARS_OF_DEBRIS = 1000


@dataclass(frozen=True)
class _Tree:
    """The header of a domain's amr file: octs (levels, domains + boundaries), and where the octs begin in the file."""

    octs: np.ndarray
    n_domains: int
    n_boundaries: int
    sides: np.ndarray
    a: float
    boxlen: float
    box_mpc_h: float
    begin: int
    time: float
    steps: tuple[int, int]

    def own(self, cpu: int) -> np.ndarray:
        """Octs (levels,) of the domain itself."""
        return self.octs[:, cpu - 1]


class Ramses(GridFormat):
    """RAMSES: stars and dark matter by their families, in old files by birth times; gas from the leaf cells."""

    name = "ramses"
    container = "ramses"
    has_domains = True
    others = ("clouds", "debris", "other")
    version_of_reading = 3  # before, stars with negative numbers of eight bytes were left out
    cell_fields = tuple(("ramses", name) for name in ("x-velocity", "y-velocity", "z-velocity", "Density"))

    def files(self, path: Path) -> list[Path]:
        """Return the info file and the files of all domains. Raises SnapshotError when one is missing."""
        info = self._info(path)
        number = path.stem.rpartition("_")[2]
        files = [path]
        # Of a run without particles there are no such files, and no description of their fields.
        has_particles = any(any(path.parent.glob(name)) for name in (_DESCRIPTOR, f"part_{number}.out[0-9]*"))
        in_groups = _in_groups(path)
        for kind in ("amr", "hydro", *(["part"] if has_particles else [])):
            for cpu in range(1, int(info["ncpu"]) + 1):
                name = f"{kind}_{number}.out{cpu:05d}"
                file = in_groups.get(name, path.parent / name)
                if not file.exists():
                    raise SnapshotError(
                        f"{file}: missing; {path.name} says {info['ncpu']:.0f} domains, get all files of its folder"
                    )
                files.append(file)
        return files

    def listed_files(self, path: Path) -> list[Path]:
        """Return all files, with those that name the fields of others. Raises SnapshotError when one is missing."""
        return [*self.files(path), *sorted(path.parent.glob("*_file_descriptor.txt"))]

    def _info(self, path: Path) -> dict[str, float]:
        """Read the numbers of an info file. Raises SnapshotError where one is missing."""
        if path.suffix != ".txt" or path.name.startswith("info_rt_"):
            raise SnapshotError(f"{path}: no info file of RAMSES; give output_NNNNN/info_NNNNN.txt (info_[0-9]*.txt)")
        text = first_bytes(path, 100_000).decode(errors="replace")
        info: dict[str, float] = {}
        for key, value in re.findall(r"^(\w+) *= *(\S+)", text, re.M):
            if key in _NUMBERS:
                try:
                    info[key] = float(value)
                except ValueError as error:
                    raise SnapshotError(f"{path}: {key} is {value[:40]!r}, no number; repair it") from error
        if missing := [key for key in _NUMBERS if key not in info]:
            raise SnapshotError(f"{path}: no {', '.join(missing)}; is it the info file of a RAMSES output?")
        if info["ndim"] != 3 or not 1 <= info["ncpu"] <= 1e6 or not 1 <= info["levelmin"] <= info["levelmax"] <= 60:
            counts = ", ".join(f"{key} = {info[key]:g}" for key in _NUMBERS[:4])
            raise SnapshotError(f"{path}: {counts}; damaged? Only outputs of three dimensions are read")
        if any(info[key] % 1 for key in _NUMBERS[:4]):
            raise SnapshotError(f"{path}: {', '.join(_NUMBERS[:4])} are no whole numbers; damaged? Get it again")
        return info

    def _units(self, path: Path, suite_units: dict[str, Any]) -> CodeUnits:
        """Take unit_l, unit_d, unit_t of the info file, and hold them against its cosmology and the amr file's."""
        info = self._info(path)
        a, h = info["aexp"], info["H0"] / 100
        expands = not (info["time"] >= 0 and info["H0"] == 1 and info["aexp"] == 1)
        cosmological = bool(suite_units.get("cosmological", expands))
        number = path.stem.rpartition("_")[2]
        tree = _read_header(path.parent / f"amr_{number}.out00001")
        expected = {"boxlen": tree.boxlen}
        if cosmological:
            check_cosmology(path, a, h, f"aexp{NOT_COSMOLOGICAL}", "H0")
            expected |= {
                "unit_d": info["omega_m"] * RAMSES_RHO_CRIT * h**2 / a**3,
                "unit_t": a**2 / (info["H0"] * 1e5 / RAMSES_MPC_CM),
                "unit_l": a * tree.box_mpc_h * RAMSES_MPC_CM / h,
                "aexp": tree.a,
            }
        elif not {"mass_msun", "velocity_kms"} & set(suite_units):
            expected["unit_t"] = (_G_CGS * info["unit_d"]) ** -0.5 if info["unit_d"] > 0 else np.nan
        for key, value in expected.items():
            if not abs(info[key] - value) <= (0.01 if cosmological else 0.05) * value:  # namelists are rounded
                law = "its own cosmology and the amr file" if cosmological else "G = 1 and the amr file"
                raise SnapshotError(
                    f"{path}: {key} = {info[key]:.5g}, and by {law} it would be {value:.5g}; which is right? "
                    "Correct the other"
                )
        factor = a if cosmological else 1.0
        length_kpc = suite_units.get("length_kpc", info["unit_l"] / KPC_CM / factor) * info["boxlen"] * factor
        mass_msun = suite_units.get("mass_msun", info["unit_d"] * info["unit_l"] ** 3 / MSUN_G)
        velocity_kms = suite_units.get("velocity_kms", info["unit_l"] / info["unit_t"] / KMS_CM_S)
        return CodeUnits(
            length_kpc, mass_msun, velocity_kms, None if tree.n_boundaries else length_kpc,
            a if cosmological else 1.0, h if cosmological else 1.0, f"unit_l, unit_d and unit_t of {path.name}",
            energy_kms2=velocity_kms**2, cosmological=cosmological, time=None if cosmological else info["time"],
        )  # fmt: skip

    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """Link all files into a folder of the name that yt expects, after checking the sizes of all."""
        with self._explain_other_formats(path):
            info = self._info(path)
        if light is not None:
            raise SnapshotError(f"{path}: RAMSES stores no light; take `tracers: {{stars: mass}}`")
        files = self.files(path)
        fields = _fields(path)
        field_bytes = _field_bytes(path.parent)
        first, n_stars = _read_header(files[1]), list[int]()
        for file in files[1:]:
            if file.name.startswith("amr"):
                _check_tree_file(file, int(info["ncpu"]), int(info["levelmax"]))
                _check_moment(file, _read_header(file), first)
                hydro = file.with_name(f"hydro{file.name[3:]}")
                _check_hydro_file(hydro, _read_header(file), len(fields) if fields else None)
            elif file.name.startswith("part"):
                n_stars.append(_check_particle_file(file, int(info["ncpu"]), field_bytes))
                # All count the stars of all; where a run began with an output of another, only the first counts its.
                if len(n_stars) > 2 and n_stars[-1] != n_stars[1]:
                    raise SnapshotError(
                        f"{file}: its header says {n_stars[-1]} stars in all, those before it {n_stars[1]}: of another "
                        "output? Get all files of one"
                    )
        number = re.sub(r"\D", "", path.stem.rpartition("_")[2]).rjust(5, "0")
        if path.name != f"info_{number}.txt" or len(number) != 5:
            raise SnapshotError(f"{path}: its name is not info_NNNNN.txt; name it as RAMSES does")
        folder = scratch / f"output_{number}"
        folder.mkdir()
        beside = [
            p for name in ("*_file_descriptor.txt", "info_rt_*.txt") for p in path.parent.glob(name) if p.is_file()
        ]
        for file in [*files, *beside]:
            (folder / file.name).symlink_to(file.resolve())
        return folder / path.name

    def open(self, staged: Path) -> Any:
        """Open a staged snapshot with yt's RAMSES frontend."""
        birth = [("particle_birth_time", "d"), ("particle_metallicity", "d")]
        with _usual_order():
            ds = open_grid(
                "yt.frontends.ramses.api", "RAMSESDataset", str(staged),
                fields=_fields(staged), extra_particle_fields=None if _has_families(staged.parent) else birth,
            )  # fmt: skip
        ds.parameters["ordering type"] = "as chosen"  # yt shall not choose domains by the Hilbert curve
        for domain in ds.index.domains:
            domain.included = partial(_included, domain)
            for handler in domain.particle_handlers:
                # Of records of eight bytes that nothing describes yt takes all for doubles: negative numbers are NaN.
                if handler.field_types.get(_NUMBER) == "d":
                    handler.field_types[_NUMBER] = "q"
        return ds

    def choose(self, ds: Any, region: Any, domains: Blocks) -> None:
        """Have a region read from the domains with cells or particles in it.

        yt chooses by the Hilbert curve, as if a domain ended where its piece of the curve does. But a domain owns whole
        octs by their centres, and so cells and particles on other domains' pieces; and info files list more pieces than
        domains where each domain has several (`overload`).
        """
        from yt.frontends.ramses.data_structures import RAMSESDomainSubset

        found, _, _ = domains.identify_file_masks(region.selector)
        region._chunk_info = [
            RAMSESDomainSubset(region, ds.index.domains[i], ds, num_ghost_zones=region._num_ghost_zones) for i in found
        ]

    def kind_fields(self, ds: Any) -> tuple[Any, ...]:
        """Name the family, or the birth time and the number, of particles."""
        if ("io", "particle_family") in ds.field_list:
            return (("io", "particle_family"),)
        return tuple(name for name in (_birth_field(ds), _NUMBER) if name in ds.field_list)

    def kinds(self, raw: Raw, ds: Any) -> dict[str, np.ndarray]:
        """Tell stars, dark matter and others apart; tracers and what has no mass are none of these."""
        mass = raw["io", "particle_mass"]
        if ("io", "particle_family") in raw:
            return _by_family(mass, raw["io", "particle_family"])
        born = raw.get(_birth_field(ds), np.zeros(len(mass)))
        number = raw.get(_NUMBER, np.ones(len(mass)))
        return _by_birth(mass, born, number, _of_header(ds, "nsink"))

    def unowned(self, path: Path, owned: set[str]) -> set[str]:
        """Return the types in no component, as far as the largest files of particles have them: headers do not."""
        files = [file for file in self.files(path) if file.name.startswith("part")]
        largest = sorted(files, key=lambda file: status(file).st_size)[-MAX_FILES:]  # where galaxies are
        return {name for file in largest for name in _others_in(file, path.parent)} - owned

    def check_counts(self, ds: Any, counts: dict[str, int]) -> None:
        """Raise SnapshotError where stars are not those that the header counts: birth times may be another field.

        Files without descriptors do not name their fields, and some runs wrote the potential before the birth times.
        Isolated runs may begin with stars that the header does not count.
        """
        if not (handlers := ds.index.domains[0].particle_handlers):
            return
        n_told, n_found = _of_header(ds, "nstar_tot"), counts.get("stars", 0)
        alone = ds.cosmological_simulation or not counts.get("dark", 0)
        if n_found < 0.5 * n_told - 10 or (alone and n_found > 1.1 * n_told + 10 and not _has_families(_folder(ds))):
            raise SnapshotError(
                f"{Path(handlers[0].fname).resolve()}: its header counts {n_told} stars, by birth times or families "
                f"there are {n_found}; its fields are not in the usual order, write a part_file_descriptor.txt"
            )

    def box_side(self, ds: Any) -> float:
        """Return boxlen: yt measures places and sides in boxes, but densities are per cube of unit_l."""
        return float(ds.parameters["boxlen"])

    def count_particles(self, objects: Sequence[Any]) -> int:
        """Count the particles of a domain."""
        return sum(handler.local_particle_count for of in objects for handler in of.domain.particle_handlers)

    def count_cells(self, ds: Any) -> int:
        """Count leaf cells: eight for each oct, less one for each oct below the coarsest level."""
        octs = np.sum([_own_octs(domain, ds) for domain in ds.index.domains], axis=0)
        if octs[0] != 8**ds.min_level:
            raise SnapshotError(
                f"levelmin = {ds.min_level + 1}, and of the {8**ds.min_level} octs of this "
                f"level its files have {octs[0]}; write the levelmin that is refined everywhere into its info file"
            )
        return int(8 * octs.sum() - octs[1:].sum())

    def derived(self, ds: Any) -> dict[str, Any]:
        """Give temperatures where there is a pressure, and where it is known which field it is."""
        if ("ramses", "Pressure") not in ds.field_list or _order_is_guessed(ds):
            return {}
        unit_kms = float(ds.parameters["unit_l"] / ds.parameters["unit_t"]) / KMS_CM_S

        def temperature_k(pressure: np.ndarray, density: np.ndarray) -> np.ndarray:
            """Return temperatures (N,) [K] from pressures and densities (N,) in code units."""
            over_mu = pressure / density * unit_kms**2 * PROTON_K_PER_KMS2
            # Neutral gas (mu = 1.22) below 1e4 K, ionised gas (mu = 0.59) above, 1e4 K in between.
            return np.where(over_mu * 0.59 > 1e4, over_mu * 0.59, np.minimum(over_mu * 1.22, 1e4))

        return {"Temperature": ((("ramses", "Pressure"), ("ramses", "Density")), temperature_k)}

    def check_region(self, ds: Any, region: Any) -> None:
        """Check the octs of all domains that a region reaches into, once each."""
        checked = vars(ds).setdefault("checked_domains", set())
        chunk = region._current_chunk
        for subset in chunk.objs if chunk is not None else ():
            domain = subset.domain
            if domain.domain_id not in checked:
                _check_domain(domain, ds)
                checked.add(domain.domain_id)


def _in_groups(info: Path) -> dict[str, Path]:
    """Return the files of an output in groups by their names; empty for one in a single folder.

    Runs with IOGROUPSIZE write the files of so many domains into a folder `group_00001`, with the info file and the
    descriptors, those of the next ones into `group_00002`, and so on (output_amr.f90; Obelisk).
    """
    if not is_group(info.parent):
        return {}
    folders = [folder for folder in sorted(info.parent.parent.glob("group_*")) if is_group(folder)]
    return {name: folder / name for folder in folders for name in names_in(folder)}


def is_group(folder: Path) -> bool:
    """Whether a folder is called as one of several into which RAMSES writes an output."""
    return re.fullmatch(r"group_\d{5}", folder.name) is not None


@contextmanager
def _usual_order() -> Iterator[None]:
    """Have yt take its usual order of fields where files do not name them, and not that which a user has told it.

    A yt.toml in the home or the working folder, or one above, has the order in the files of one run.
    """
    from yt.frontends.ramses.field_handlers import HydroFieldFileHandler
    from yt.frontends.ramses.particle_handlers import DefaultParticleFileHandler

    sections: dict[Any, Any] = {
        handler: handler.config_field for handler in (HydroFieldFileHandler, DefaultParticleFileHandler)
    }
    try:
        for handler in sections:
            handler.config_field = None
        yield
    finally:
        for handler, section in sections.items():
            handler.config_field = section


def _included(domain: Any, selector: Any) -> bool:
    """Stand in for yt's choice among domains, which is that of `choose`, or all of them.

    yt leaves out domains without a cell whose centre is selected, and with them the particles of its larger cells.
    """
    wanted = getattr(selector, "domain_id", None)
    return wanted is None or wanted == domain.domain_id


def _by_family(mass: np.ndarray, family: np.ndarray) -> dict[str, np.ndarray]:
    """Tell particles (N,) apart by their families."""
    masks = {name: (mass != 0) & (family == number) for name, number in FAMILIES.items()}
    return masks | {"other": (mass != 0) & (family > max(FAMILIES.values()))}


def _by_birth(mass: np.ndarray, born: np.ndarray, number: np.ndarray, n_sinks: int) -> dict[str, np.ndarray]:
    """Tell particles (N,) without families apart.

    Stars have a birth time, and those whose supernovae are still to come a negative number (mechanical feedback, as in
    NewHorizon). So may have clouds, whose number is that of their sink, and debris, whose number is that of the stars
    it is of: both are small.
    """
    heavy, is_born = mass != 0, born != 0
    is_star = (number > 0) | (-number > max(MOST_STARS_OF_DEBRIS, n_sinks))
    masks = {"stars": heavy & is_born & is_star, "dark": heavy & ~is_born & (number > 0)}
    return masks | {"other": heavy & ~masks["stars"] & ~masks["dark"]}


def _others_in(path: Path, folder: Path) -> set[str]:
    """Return the types in one file of particles that are neither stars nor dark matter, and have mass.

    folder: that of the info file, and of the descriptor of the fields.
    """
    sizes = _field_bytes(folder)
    names = _descriptor_lines(folder / _DESCRIPTOR) or _USUAL_PARTICLES
    with Records(path) as records:
        records.skip(times=7)
        n_sinks = records.number("i4")
        records_at, n_bytes = [], []
        while records.at < records.size:
            records_at.append(records.at)
            n_bytes.append(records.skip())
        n = (n_bytes[names.index("mass")] // (sizes[names.index("mass")] if sizes else 8)) if n_bytes else 0

        def read(name: str, kind: str) -> np.ndarray:
            """Read one field (N,); zeros where there is none."""
            if not n or name not in names or names.index(name) >= len(n_bytes):
                return np.zeros(n)
            records.at = records_at[names.index(name)]
            return records.read(f"{kind}{n_bytes[names.index(name)] // n}", n)

        if "family" in names:
            family = read("family", "i")  # most files have no others: then the larger masses are not read
            masks = _by_family(read("mass", "f"), family) if (family > FAMILIES["stars"]).any() else {}
        else:
            number = read("identity", "i")
            is_any = bool((number <= 0).any())
            masks = _by_birth(read("mass", "f"), read("birth_time", "f"), number, n_sinks) if is_any else {}
    return {name for name, mask in masks.items() if mask.any()} & set(Ramses.others)


def _birth_field(ds: Any) -> tuple[str, str]:
    """Name the birth times as they are in the file: yt turns conformal ones, of cosmological runs, into years."""
    conformal = ("io", "conformal_birth_time")
    return conformal if conformal in ds.field_list else ("io", "particle_birth_time")


def _of_header(ds: Any, name: str) -> int:
    """Return a number of the header of the first particle file, 0 where there is none."""
    handlers = ds.index.domains[0].particle_handlers
    return int(handlers[0].header.get(name, 0)) if handlers else 0


def _folder(ds: Any) -> Path:
    return Path(ds.parameter_filename).parent


#: Without a file descriptor, files of more fields than this may have magnetic fields before the pressure, or not.
_MOST_USUAL_FIELDS = 10


def _order_is_guessed(ds: Any) -> bool:
    """Tell whether the pressure may be another field: files without descriptor, of many fields or with radiation."""
    if (_folder(ds) / "hydro_file_descriptor.txt").exists():
        return False
    n_fields = sum(kind == "ramses" for kind, _ in ds.field_list)
    return n_fields > _MOST_USUAL_FIELDS or any(_folder(ds).glob("info_rt_*.txt"))


def is_info(head: bytes) -> bool:
    """Tell whether a file begins as an info file of RAMSES."""
    return re.match(rb"\s*ncpu\s*=\s*\d+\s*\n\s*ndim\s*=", head) is not None


def _descriptor_lines(file: Path) -> list[str]:
    """List the names in a file descriptor of either version; none where there is no such file."""
    if not file.is_file():
        return []
    text = file.read_text(errors="replace")[:100_000]
    version_1 = text.startswith("# version")
    names = re.findall(r"^\s*\d+,\s*([^\s,]+)," if version_1 else r"^\s*variable\s*#\s*[\d*]+\s*:\s*(\S+)", text, re.M)
    if not names:
        raise SnapshotError(f"{file}: lists no fields; damaged? Without this file the usual order is assumed")
    return names


def _fields(path: Path) -> list[str] | None:
    """List the fields of cells by their names in yt, from the file descriptor; without one, yt's usual order."""
    names = _descriptor_lines(path.parent / "hydro_file_descriptor.txt")
    if not names:
        return None
    known = {"density": "Density", "pressure": "Pressure", "thermal_pressure": "Pressure"} | {
        f"velocity_{axis}": f"{axis}-velocity" for axis in "xyz"
    }
    fields = [known.get(name, name) for name in names]
    if missing := {"Density", "x-velocity", "y-velocity", "z-velocity"} - set(fields):
        raise SnapshotError(
            f"{path.parent / 'hydro_file_descriptor.txt'}: no {', '.join(sorted(missing))}; damaged? Get it again"
        )
    if any(fields.count(name) > 1 for name in known.values()):
        raise SnapshotError(f"{path.parent / 'hydro_file_descriptor.txt'}: names a field twice; damaged? Get it again")
    # Old versions have one digit for the number of a scalar: from the tenth on all are passive_scalar_*.
    return [name if fields.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(fields)]


def _has_families(folder: Path) -> bool:
    return "family" in _descriptor_lines(folder / _DESCRIPTOR)


def _field_bytes(folder: Path) -> list[int] | None:
    """Return the bytes of each field of particles by their file descriptor, None where there is none."""
    file = folder / _DESCRIPTOR
    if not (names := _descriptor_lines(file)):
        return None
    kinds = re.findall(r"^\s*\d+,\s*[^\s,]+,\s*(\w)", file.read_text(errors="replace"), re.M)
    sizes = {"d": 8, "f": 4, "i": 4, "l": 8, "q": 8, "h": 2, "b": 1, "c": 1}
    needed = {"mass", *(f"{kind}_{axis}" for kind in ("position", "velocity") for axis in "xyz")}
    if missing := needed - set(names):
        raise SnapshotError(f"{file}: no {', '.join(sorted(missing))}; damaged? Get it again")
    if len(set(names)) < len(names) or len(kinds) != len(names) or not set(kinds) <= set(sizes):
        raise SnapshotError(f"{file}: names a field twice, or a type that is not known; damaged? Get it again")
    return [sizes[kind] for kind in kinds]


def _read_header(path: Path) -> _Tree:
    """Read the header of an amr file. Raises SnapshotError."""
    return _kept_header(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=64)  # of thousands of domains they take gigabytes
def _kept_header(path: Path, _mtime_ns: int) -> _Tree:
    with Records(path) as records:
        if records.peek() == 4 << 24:
            raise SnapshotError(f"{path}: written on a big-endian machine, which is not read; convert all files")
        n_cpu, n_dim = (records.number("i4") for _ in range(2))
        sides = records.read("i4", 3)
        n_levels = records.number("i4")
        records.skip(4)
        n_bound = records.number("i4")
        records.skip(4)
        if records.peek() == 4:
            raise SnapshotError(
                f"{path}: of a run in single precision (NPRE=4), which is not read; take a run in double precision"
            )
        boxlen = records.number("f8")
        n_out = int(records.read("i4", 3)[0])
        sane = n_dim == 3 and 0 < n_cpu <= 10**6 and 0 < n_levels <= 60 and 0 <= n_bound <= 100 and n_out >= 0
        if not sane or not ((sides > 0) & (sides < 100)).all():
            raise records.broken("counts of domains, levels or boundaries that cannot be")
        if not np.isin(sides, (1, 3) if n_bound else 1).all():
            raise SnapshotError(
                f"{path}: its coarse grid is {' x '.join(map(str, sides))}; only cubic boxes are read, without "
                "boundaries or with one at both ends of an axis"
            )
        records.skip(8 * n_out, times=2)
        time = records.number("f8")
        records.skip(8 * n_levels, times=2)
        fine, coarse = records.read("i4", 2).tolist()
        records.skip(24)
        cosmology, timing = records.read("f8", 7), records.read("f8", 5)
        records.skip(8)
        records.skip(4 * n_cpu * n_levels, times=2)
        octs = records.read("i4", n_cpu * n_levels).reshape(n_levels, n_cpu)
        records.skip(40 * n_levels)
        if n_bound:
            records.skip(4 * n_bound * n_levels, times=2)
            octs = np.hstack([octs, records.read("i4", n_bound * n_levels).reshape(n_levels, n_bound)])
        records.skip(20)
        ordering = bytes(records.read("u1")).decode(errors="replace").strip("\0 ")
        if ordering not in ("hilbert", "bisection"):
            raise records.broken(f"an ordering {ordering[:20]!r} of the domains that is not known")
        records.skip(times=1 if ordering == "hilbert" else 5)
        records.skip(4 * int(np.prod(sides)), times=3)
        if octs.min(initial=0) < 0:
            raise records.broken("negative counts of octs")
        return _Tree(
            octs, n_cpu, n_bound, sides, float(timing[0]), boxlen, float(cosmology[6]), records.at, time, (fine, coarse)
        )  # fmt: skip


def _check_tree_file(path: Path, n_cpu: int, n_levels: int) -> None:
    """Raise SnapshotError for an amr file whose size is not that which its counts of octs give."""
    tree = _read_header(path)
    if (tree.n_domains, len(tree.octs)) != (n_cpu, n_levels):
        raise SnapshotError(
            f"{path}: {tree.n_domains} domains and {len(tree.octs)} levels, its info file says {n_cpu} and {n_levels}; "
            "get all files of one output"
        )
    n = tree.octs[tree.octs > 0].astype(np.int64)
    _check_size(path, tree.begin + int((n * (_INTS * 4 + 24) + (_INTS + 3) * 8).sum()))


def _check_moment(path: Path, tree: _Tree, first: _Tree) -> None:
    """Raise SnapshotError where the header of an amr file is not of the moment of the first: a run was broken off.

    A run that goes on from an earlier output writes those after it anew, over the files that are there.
    """
    times = (tree.time, tree.a), (first.time, first.a)
    if tree.steps != first.steps or not np.allclose(*times, rtol=1e-9, atol=0):
        own, others = (f"steps {x.steps[0]}, {x.steps[1]}, time {x.time:.10g}, a = {x.a:.10g}" for x in (tree, first))
        raise SnapshotError(f"{path}: {own}; the first domain: {others}; of another output? Get all files of one")


#: Records of four-byte integers of the octs of one level and domain: number, next, previous; father, six neighbours,
#: eight sons, domains and flags.
_INTS = 3 + 1 + 6 + 3 * 8


def _check_size(path: Path, expected: int) -> None:
    with Records(path) as records:
        if records.size != expected:
            raise SnapshotError(
                f"{path}: {records.size} bytes, its counts of octs say {expected}; cut short or damaged? Get it again"
            )
        if not records.last_record():
            raise SnapshotError(f"{path}: no record ends with the file; was it written to its end? Get it again")


def _check_hydro_file(path: Path, tree: _Tree, n_fields: int | None) -> None:
    """Raise SnapshotError for a hydro file whose size is not that which the octs of its amr file give."""
    with Records(path) as records:
        n_cpu, n_var, n_dim, n_levels, n_bound = (records.number("i4") for _ in range(5))
        records.skip(8)
        if (n_cpu, n_dim, n_levels, n_bound) != (tree.n_domains, 3, len(tree.octs), tree.n_boundaries):
            raise records.broken("domains, levels or boundaries that are not those of its amr file, before")
        if n_fields not in (None, n_var) or n_var < 5:
            raise records.broken(f"{n_var} fields, the file descriptor says {n_fields}, before")
        begin = records.at
    n = tree.octs.astype(np.int64)
    _check_size(path, begin + 24 * n.size + int((8 * n_var * (8 * n[n > 0] + 8)).sum()))


def _check_particle_file(path: Path, n_cpu: int, field_bytes: list[int] | None) -> int:
    """Return how many stars a particle file says that there are in all domains.

    Raises SnapshotError for one that does not consist of records of as many entries as it says.
    """
    with Records(path) as records:
        found_cpu, n_dim, n = (records.number("i4") for _ in range(3))
        if (found_cpu, n_dim) != (n_cpu, 3) or n < 0:
            raise records.broken(f"{found_cpu} domains and {n} particles, before")
        records.skip()
        n_stars = records.number("i8" if records.peek() == 8 else "i4")
        for size in (8, 8, 4):
            records.skip(size)
        sizes = []
        while records.at < records.size:
            sizes.append(records.skip())
        if field_bytes is not None and sizes != [n * b for b in field_bytes]:
            raise records.broken(f"other fields than {n} particles have by part_file_descriptor.txt, before")
        if field_bytes is None and n and sizes[9:11] == [n, n]:
            raise SnapshotError(
                f"{path.with_name(_DESCRIPTOR)}: missing; {path.name} has families of particles, which it names: "
                "get it, too"
            )
        # Position, velocity and mass; number and level; birth time. Horizon-AGN and NewHorizon have odd records later.
        known = sizes[:7] == [8 * n] * 7 and all(size in (n, 4 * n, 8 * n) for size in sizes[7:9])
        if field_bytes is None and not (known and sizes[9:10] in ([], [8 * n])):
            raise records.broken(f"fields that are not of {n} particles, before")
    return n_stars


def _own_octs(domain: Any, ds: Any) -> np.ndarray:
    """Octs (levels,) of a domain from the coarsest level on."""
    return _read_header(Path(domain.amr_fn)).own(domain.domain_id)[ds.min_level :].astype(np.int64)


def _check_domain(domain: Any, ds: Any) -> None:
    """Raise SnapshotError where the octs that yt finds are not those of the file, or marks between fields are lost."""
    path = Path(domain.amr_fn).resolve()
    tree, leaves = _read_header(Path(domain.amr_fn)), 0
    with Records(path) as records:
        records.at = tree.begin
        for level in range(len(tree.octs)):
            for column, n in enumerate(tree.octs[level].tolist()):
                if n:
                    sons = _read_octs(records, n, level, tree)
                    leaves += int((sons == 0).sum()) if level >= ds.min_level and column + 1 == domain.domain_id else 0
    for handler in domain.field_handlers:
        if handler.ftype == "ramses":
            _check_marks(Path(handler.fname), tree, len(handler.field_list))
    found = ds.all_data().selector.count_oct_cells(domain.oct_handler, domain.domain_id)
    if found != leaves:
        raise SnapshotError(
            f"{path}: yt finds {found} leaf cells, and {leaves} cells are not refined; damaged? Get it again"
        )


def _read_octs(records: Records, n: int, level: int, tree: _Tree) -> np.ndarray:
    """Read the sons (8, n) of the octs of one level and domain, and check that the octs lie on the lattice."""
    records.skip(4 * n, times=3)
    for side in tree.sides:
        place = (records.read("f8", n) - 0.5 * (side - 1)) * 2.0**level
        with np.errstate(invalid="ignore"):
            off_lattice = ~(np.abs(place - np.floor(place) - 0.5) < 1e-7)
        if off_lattice.any():
            raise records.broken(f"octs that lie on no lattice, {np.count_nonzero(off_lattice)} of level {level + 1},")
    records.skip(4 * n, times=7)
    sons = np.stack([records.read("i4", n) for _ in range(8)])
    records.skip(4 * n, times=16)
    return sons


def _check_marks(path: Path, tree: _Tree, n_fields: int) -> None:
    """Raise SnapshotError where a hydro file's records do not begin and end where the counts of octs say."""
    raw, n = np.memmap(path.resolve(), "u1", "r"), tree.octs.astype(np.int64).ravel()
    begin = 5 * 12 + 16
    starts = begin + 24 * np.arange(len(n)) + np.append(0, np.cumsum(8 * n_fields * (8 * n + 8) * (n > 0))[:-1])
    level = np.repeat(np.arange(1, len(tree.octs) + 1), tree.octs.shape[1])
    four = np.full(len(n), 4)
    heads = raw[starts[:, None] + np.arange(24)].copy().view("<i4")
    wrong = (heads != np.stack([four, level, four, four, n, four], axis=-1)).any()
    for at, count in zip((starts[n > 0] + 24).tolist(), n[n > 0].tolist(), strict=True):
        records = at + (8 * count + 8) * np.arange(8 * n_fields)
        for marks_at in (records, records + 8 * count + 4):
            wrong = wrong or (raw[marks_at[:, None] + np.arange(4)].copy().view("<i4") != 8 * count).any()
    if wrong:
        raise SnapshotError(
            f"{path.resolve()}: records of other sizes than its counts of octs say; damaged? Get it again"
        )
