"""Enzo (FOGGIE): a parameter file, its .hierarchy, which lists all grids, and HDF5 files with the grids' data.

Layout: Enzo's documentation, Output Formats, and yt's frontend. `snapshots` names the parameter file, `DD0046/DD0046`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.formats.base import CodeUnits, SnapshotError, check_cosmology, first_bytes, reading
from kinmass.gen.formats.frontends import open_grid
from kinmass.gen.formats.grid import GridFormat, Raw
from kinmass.gen.formats.once import status
from kinmass.gen.formats.sample import MAX_FILES
from kinmass.gen.formats.stored import checked

_COSMOLOGY = (
    "CosmologyHubbleConstantNow", "CosmologyOmegaMatterNow", "CosmologyOmegaLambdaNow", "CosmologyComovingBoxSize",
    "CosmologyInitialRedshift", "CosmologyCurrentRedshift",
)  # fmt: skip
#: Types of particles (typedefs.h): dark matter, stars, alone or in clusters, and dark matter or stars around which the
#: grid must be refined.
DARK, STARS, TRACER, MUST_REFINE = 1, (2, 5, 7), 3, 4
#: Of stars that have exploded Enzo keeps 1e-20 of the mass (StarParticleDeath.C); no particle is as light as this.
LEAST_MSUN = 1e-6


class Enzo(GridFormat):
    """Enzo: stars and dark matter by `particle_type`, or by creation time; gas from cells that no finer grid covers."""

    name = "enzo"
    container = "enzo"
    others = ("other",)
    cell_fields = tuple(("enzo", name) for name in ("x-velocity", "y-velocity", "z-velocity", "Density"))

    def files(self, path: Path) -> list[Path]:
        """Return the parameter file, its hierarchy and all files that this names. Raises SnapshotError."""
        self._parameters(path)
        hierarchy = path.with_name(f"{path.name}.hierarchy")
        if not hierarchy.is_file():
            raise SnapshotError(f"{hierarchy}: missing; get all files of its folder")
        files = [path.with_name(name) for name in sorted(_data_files(hierarchy, hierarchy.read_text(errors="replace")))]
        for file in files:
            if not file.is_file():
                raise SnapshotError(f"{file}: missing, and {hierarchy.name} names it; get all files of its folder")
        return [path, hierarchy, *files]

    def _parameters(self, path: Path) -> dict[str, list[str]]:
        """Read the parameter file: words by key. Raises SnapshotError."""
        head = first_bytes(path, 1_000_000)
        if not is_parameter_file(head):
            raise SnapshotError(f"{path}: no parameter file of Enzo 2; give DD0046/DD0046 and not its .hierarchy")
        lines = re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", head.decode(errors="replace"), re.M)
        parameters = {key: value.split() for key, value in lines}
        for key, count in (("TopGridRank", 1), ("TopGridDimensions", 3), ("DomainLeftEdge", 3), ("DomainRightEdge", 3),
                           ("LeftFaceBoundaryCondition", 3), ("ComovingCoordinates", 1), ("RefineBy", 1)):  # fmt: skip
            if len(_numbers(path, parameters, key)) < count:
                raise SnapshotError(
                    f"{path}: {key} has fewer than {count} numbers; only runs of three dimensions are read"
                )
        if "AppendActiveParticleType" in parameters:
            raise SnapshotError(
                f"{path}: it has active particles (AppendActiveParticleType), which are not read; "
                "take a run without them"
            )
        return parameters

    def _units(self, path: Path, suite_units: dict[str, Any]) -> CodeUnits:
        """Take Enzo's units of cosmological runs, which follow from its parameters, or those that it names."""
        from yt.frontends.enzo.misc import cosmology_get_units

        parameters = self._parameters(path)
        low, high = (_numbers(path, parameters, f"Domain{side}Edge") for side in ("Left", "Right"))
        if not np.allclose(high - low, high[0] - low[0], rtol=1e-6) or not high[0] > low[0]:
            raise SnapshotError(f"{path}: its domain is no cube; only cubic boxes are read")
        expands = bool(_numbers(path, parameters, "ComovingCoordinates")[0])
        a = h = 1.0
        if expands:
            h, omega_m, _, box, z_first, z = (float(_numbers(path, parameters, key)[0]) for key in _COSMOLOGY)
            a = 1 / (1 + z) if z > -1 else np.nan
            check_cosmology(path, a, h, "CosmologyCurrentRedshift", "CosmologyHubbleConstantNow")
            units = cosmology_get_units(h, omega_m, box, z_first, z)
            length_cm, density, velocity = box * 1000 * KPC_CM * a / h, units["urho"], units["uvel"]
            self._check_age(path, parameters, units["utim"])
            if "LengthUnits" in parameters:
                stated = float(_numbers(path, parameters, "LengthUnits")[0])
                if stated not in (0.0, 1.0) and not abs(stated - length_cm) <= 0.01 * length_cm:
                    raise SnapshotError(
                        f"{path}: LengthUnits = {stated:.5g}, and its box would be {length_cm:.5g} cm; "
                        "which is right? Correct the other"
                    )
        else:
            length_cm, density, time = (
                float(_numbers(path, parameters, key)[0]) for key in ("LengthUnits", "DensityUnits", "TimeUnits")
            )
            velocity = length_cm / time if time else np.nan
        cosmological = bool(suite_units.get("cosmological", expands))
        a, h = (a, h) if cosmological else (1.0, 1.0)
        length_kpc = suite_units.get("length_kpc", length_cm / KPC_CM / a) * a
        mass_msun = suite_units.get("mass_msun", density * length_cm**3 / MSUN_G)
        velocity_kms = suite_units.get("velocity_kms", velocity / KMS_CM_S)
        periodic = _numbers(path, parameters, "LeftFaceBoundaryCondition")[0] == 3
        is_timed = not cosmological and "InitialTime" in parameters
        source = f"{'the cosmology' if expands else 'LengthUnits, DensityUnits and TimeUnits'} of {path.name}"
        return CodeUnits(
            length_kpc, mass_msun, velocity_kms, length_kpc * float(high[0] - low[0]) if periodic else None, a, h,
            source, corner_kpc=length_kpc * float(low[0]), energy_kms2=velocity_kms**2, cosmological=cosmological,
            time=float(_numbers(path, parameters, "InitialTime")[0]) if is_timed else None,
        )  # fmt: skip

    def _check_age(self, path: Path, parameters: dict[str, list[str]], time_s: float) -> None:
        """Raise SnapshotError where InitialTime, the age of the Universe, is not that of the redshift."""
        h, omega_m, omega_l, _, _, z = (float(_numbers(path, parameters, key)[0]) for key in _COSMOLOGY)
        if abs(omega_m + omega_l - 1) > 0.01 or not omega_l > 0:  # the age in closed form is that of a flat universe
            return
        hubble_s = h * 3.2407793e-18
        age_s = 2 / (3 * hubble_s * np.sqrt(omega_l)) * np.arcsinh(np.sqrt(omega_l / omega_m) / (1 + z) ** 1.5)
        told_s = float(_numbers(path, parameters, "InitialTime")[0]) * time_s
        if not abs(told_s - age_s) <= 0.03 * age_s:
            raise SnapshotError(
                f"{path}: InitialTime is {told_s / 3.15576e16:.4g} Gyr, and its redshift {z:.4g} is at "
                f"{age_s / 3.15576e16:.4g} Gyr; which is right? Correct the other"
            )

    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """Link all files into a folder, with a hierarchy that names files in this folder alone."""
        with self._explain_other_formats(path):
            parameters = self._parameters(path)
        if light is not None:
            raise SnapshotError(f"{path}: Enzo stores no light; take `tracers: {{stars: mass}}`")
        _, hierarchy, *data = self.files(path)
        text = hierarchy.read_text(errors="replace")
        grids = _grids(hierarchy, text)
        _check_grids(hierarchy, grids, parameters, path)
        folder = scratch / "enzo"
        folder.mkdir()
        for file in [path, *data]:
            (folder / file.name).symlink_to(file.resolve())
        plain = re.sub(r"^((?:Baryon|Particle)FileName\s*=\s*)\S*?([^/\s]+)\s*$", r"\1\2", text, flags=re.M)
        (folder / hierarchy.name).write_text(plain)
        return folder / path.name

    def open(self, staged: Path) -> Any:
        """Open a staged snapshot with yt's Enzo frontend."""
        return open_grid("yt.frontends.enzo.api", "EnzoDataset", str(staged))

    def kind_fields(self, ds: Any) -> tuple[Any, ...]:
        """Name the type of particles, and their creation time."""
        names = ("io", "particle_type"), ("io", "creation_time")
        return tuple(name for name in names if name in ds.field_list)

    def kinds(self, raw: Raw, ds: Any) -> dict[str, np.ndarray]:
        """Tell stars, dark matter and others apart, as sinks; tracers and exploded stars are none of these.

        Young stars that are to explode one by one are of the type that must be refined until then
        (Grid_StarParticleHandler.C), and stars that were made and do not shine yet have a negative type. Dark matter
        has no creation time: what has one is what a star of population III leaves behind (Star_HitEndpoint.C).
        """
        heavy = ~(np.abs(raw["io", "particle_mass"]) * float(ds.mass_unit.in_units("Msun")) <= LEAST_MSUN)  # or NaN
        born = raw.get(("io", "creation_time"), np.zeros(len(heavy))) > 0
        if ("io", "particle_type") in raw:
            return _by_type(heavy, born, raw["io", "particle_type"])
        return {"stars": heavy & born, "dark": heavy & ~born}

    def unowned(self, path: Path, owned: set[str]) -> set[str]:
        """Return the type `other` unless it is owned, if the largest files of data have such particles."""
        _, _, *data = self.files(path)
        largest = sorted(data, key=lambda file: status(file).st_size)[-MAX_FILES:]  # where galaxies are
        return {"other"} - owned if any(map(_has_others, largest)) else set()

    def count_particles(self, objects: Sequence[Any]) -> int:
        """Count the particles of the grids in one file."""
        return sum(int(grid.NumberOfParticles) for grid in objects)

    def count_cells(self, ds: Any) -> int:
        """Count cells that no finer grid covers. Raises SnapshotError where these do not fill the domain."""
        n_cells, volume = 0, 0.0
        for grid in ds.index.grids:
            n = int(grid.child_mask.sum())
            n_cells, volume = n_cells + n, volume + n * float(np.prod(grid.dds.d))
        expected = float(np.prod(ds.domain_width.d))
        if not abs(volume - expected) <= 1e-6 * expected:
            raise SnapshotError(
                f"its grids fill {volume / expected:.6g} of the domain; is the .hierarchy damaged? Get it again"
            )
        return n_cells

    def derived(self, ds: Any) -> dict[str, Any]:
        """Give temperatures where Enzo has written them."""
        field = ("enzo", "Temperature")
        return {"Temperature": ((field,), lambda kelvin: kelvin)} if field in ds.field_list else {}

    def check_region(self, ds: Any, region: Any) -> None:
        """Check the data of all grids that a region reaches into, once each."""
        done = vars(ds).setdefault("checked_grids", set())
        chunk = region._current_chunk
        for grid in chunk.objs if chunk is not None else ():
            if grid.id not in done:
                _check_data(grid, [name for kind, name in ds.field_list if kind == "io"])
                done.add(grid.id)


def _by_type(heavy: np.ndarray, born: np.ndarray, kind: np.ndarray) -> dict[str, np.ndarray]:
    """Tell particles (N,) apart by their types, and by whether they have a mass and a creation time."""
    stars = heavy & (np.isin(np.abs(kind), STARS) | ((np.abs(kind) == MUST_REFINE) & born))
    dark = heavy & ~born & np.isin(kind, (DARK, MUST_REFINE))
    return {"stars": stars, "dark": dark, "other": heavy & ~stars & ~dark & (kind != TRACER)}


def _has_others(path: Path) -> bool:
    """Tell whether a file of data has particles that are neither stars nor dark matter, and have mass."""
    names = ("particle_mass", "creation_time", "particle_type")
    with reading(path), h5py.File(path, "r") as file:
        for group in file.values():
            if isinstance(group, h5py.Group) and names[2] in group:
                mass, born, kind = (checked(path, group, name)[()] if name in group else np.zeros(1) for name in names)
                if _by_type(mass != 0, born > 0, kind)["other"].any():
                    return True
    return False


def is_parameter_file(head: bytes) -> bool:
    """Tell whether a file begins as a parameter file of Enzo 2."""
    return re.match(rb"\s*(#[^\n]*\n)*InitialCycleNumber\s*=", head) is not None


def _numbers(path: Path, parameters: dict[str, list[str]], key: str) -> np.ndarray:
    """Return the numbers of a parameter. Raises SnapshotError where it is missing or holds none."""
    try:
        numbers = np.array([float(word) for word in parameters.get(key, [])])
    except ValueError as error:
        raise SnapshotError(f"{path}: {key} is {' '.join(parameters[key])[:40]!r}, no number; repair it") from error
    if not len(numbers) or not np.isfinite(numbers).all():
        raise SnapshotError(f"{path}: no {key}, or not finite; is it the parameter file of an Enzo output?")
    return numbers


def _data_files(hierarchy: Path, text: str) -> set[str]:
    """Names of the data files without folders, which are those of the machine that wrote them."""
    names = {name.rsplit("/", 1)[-1] for name in re.findall(r"^(?:Baryon|Particle)FileName\s*=\s*(\S+)", text, re.M)}
    if not names or not all(re.fullmatch(r"[\w+-][\w.+-]{0,199}", name) for name in names):
        raise SnapshotError(f"{hierarchy}: names no data files, or by names that cannot be; damaged? Get it again")
    return names


def _grids(hierarchy: Path, text: str) -> list[dict[str, np.ndarray]]:
    """Read the numbers of every grid. Raises SnapshotError where some are missing."""
    keys = {"GridStartIndex": 3, "GridEndIndex": 3, "GridLeftEdge": 3, "GridRightEdge": 3, "NumberOfBaryonFields": 1,
            "NumberOfParticles": 1}  # fmt: skip
    columns = {}
    n = len(re.findall(r"^Grid = \d+\s*$", text, re.M))
    for key, width in keys.items():
        lines = re.findall(rf"^{key}\s*=\s*(.*)$", text, re.M)
        try:
            columns[key] = np.array([[float(word) for word in line.split()] for line in lines]).reshape(n, width)
        except ValueError as error:
            raise SnapshotError(
                f"{hierarchy}: {len(lines)} lines of {key} for {n} grids, or not of {width} numbers; damaged? "
                "Get it again"
            ) from error
        if not n or not np.isfinite(columns[key]).all():
            raise SnapshotError(f"{hierarchy}: {key} not finite, or no grids; damaged? Get it again")
    numbers = [int(number) for number in re.findall(r"^Grid = (\d+)\s*$", text, re.M)]
    if numbers != list(range(1, n + 1)):
        raise SnapshotError(f"{hierarchy}: its grids are not numbered 1 to {n}; cut short or damaged? Get it again")
    return [{key: columns[key][i] for key in keys} for i in range(n)]


def _check_grids(
    hierarchy: Path, grids: list[dict[str, np.ndarray]], parameters: dict[str, list[str]], path: Path
) -> None:
    """Raise SnapshotError where grids lie off the lattice of their level, or are not reached by pointers."""
    low, high, top = (
        _numbers(path, parameters, key)[:3] for key in ("DomainLeftEdge", "DomainRightEdge", "TopGridDimensions")
    )
    refine = _numbers(path, parameters, "RefineBy")[0]
    if refine != 2 or (top < 1).any():
        raise SnapshotError(f"{path}: RefineBy is {refine:g}, TopGridDimensions {top}; only factors of 2 are read")
    if (top != top[0]).any():
        raise SnapshotError(f"{path}: TopGridDimensions are {top}, so that cells are no cubes; only cubes are read")
    for number, grid in enumerate(grids, start=1):
        n = grid["GridEndIndex"] - grid["GridStartIndex"] + 1
        width = (grid["GridRightEdge"] - grid["GridLeftEdge"]) / n
        level = np.round(np.log2(((high - low) / top / width)[0])) if (n >= 1).all() and (width > 0).all() else -1
        side = (high - low) / top / 2.0 ** max(level, 0)
        place = (grid["GridLeftEdge"] - low) / side
        off = level < 0 or not np.allclose(width, side, rtol=1e-6) or np.abs(place - np.round(place)).max() > 1e-3
        if off or not ((grid["GridLeftEdge"] >= low - 1e-9).all() and (grid["GridRightEdge"] <= high + 1e-9).all()):
            raise SnapshotError(f"{hierarchy}: grid {number} lies on no lattice of cells; damaged? Get it again")
        if grid["NumberOfBaryonFields"][0] < 4:
            raise SnapshotError(f"{hierarchy}: grid {number} has no gas; only runs with gas in all grids are read")
        if grid["NumberOfParticles"][0] < 0:
            raise SnapshotError(f"{hierarchy}: grid {number} has a negative number of particles; damaged? Get it again")


def _check_data(grid: Any, particle_names: list[str]) -> None:
    """Raise SnapshotError where a grid's data are missing or of another shape than the hierarchy says."""
    path, name = Path(grid.filename).resolve(), f"Grid{grid.id:08d}"
    with h5py.File(path, "r") as file:
        group = file.get(name)
        if not isinstance(group, h5py.Group):
            raise SnapshotError(f"{path}: no {name}, and the .hierarchy says that it is there; damaged? Get it again")
        for field in ("Density", "x-velocity", "y-velocity", "z-velocity"):
            dataset, shape = checked(path, group, field), tuple(int(n) for n in grid.ActiveDimensions[::-1])
            if dataset.shape != shape or dataset.dtype.kind != "f" or dataset.dtype.itemsize < 4:
                raise SnapshotError(
                    f"{path}: {name}/{field} has {dataset.shape} {dataset.dtype}, not {shape} floats; damaged? "
                    "Get it again"
                )
        n = int(grid.NumberOfParticles)
        for field in particle_names if n else ():
            needed = field.startswith(("particle_position", "particle_velocity", "particle_mass", "particle_type"))
            if (needed or field == "creation_time") and checked(path, group, field).shape != (n,):
                raise SnapshotError(
                    f"{path}: {name}/{field} has not the {n} entries that the .hierarchy says; damaged? Get it again"
                )
