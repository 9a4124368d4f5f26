"""The Gadget HDF5 family: GADGET, EAGLE, AREPO (AURIGA, IllustrisTNG), GIZMO (FIRE) and SIMBA."""

import contextlib
import os
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.formats.base import (
    NOT_COSMOLOGICAL,
    CodeUnits,
    Format,
    Part,
    Slot,
    SnapshotError,
    check_cosmology,
    reading,
)
from kinmass.gen.formats.celltables import HAS_TABLE, TABLES, has_table
from kinmass.gen.formats.frontends import open_raw
from kinmass.gen.formats.gadget_fields import (
    CONTINUOUS,
    LINKED_FIELDS,
    SHAPES,
    TYPES,
    check_no_other_types,
    find_column,
    holds_particles,
    particle_groups,
    types_in,
    types_of,
)
from kinmass.gen.formats.gadget_header import (
    box_side,
    check_holds_all,
    check_no_redshift,
    check_time_is_a,
    expansion_unsaid,
    files_of,
    header,
    is_region,
    may_expand,
    run_parameter,
    scalar,
    scale_factor,
    velocity_power,
)
from kinmass.gen.formats.gadget_units import (
    QUANTITIES,
    Beside,
    UnitScaling,
    check_groups_agree,
    check_h_is_meant,
    factors,
    first_of_each,
    from_datasets,
    in_round_units,
    said_beside,
    until_found,
)
from kinmass.gen.formats.gadget_words import check_nothing_is_said, check_words_agree
from kinmass.gen.formats.once import once, status
from kinmass.gen.formats.sample import Sample, from_hdf5
from kinmass.gen.formats.stored import checked, files_behind, link_dataset
from kinmass.gen.formats.together import check_copies, check_one_unit, check_together, check_whole
from kinmass.gen.physics.particles import Galaxy


class Gadget(Format):
    """GADGET HDF5: PartType0 gas, 1 dark, 4 stars, 5 black holes; lengths comoving with h, velocities with sqrt(a)."""

    name = "gadget"
    has_equation_of_state = True  # that of Springel & Hernquist (2003), in GADGET-3, GADGET-4 and MP-Gadget
    frontend = ("yt.frontends.gadget.api", "GadgetHDF5Dataset")
    components: ClassVar[dict[str, list[str]]] = {
        "gas": ["PartType0"],
        "stars": ["PartType4"],
        "dark": ["PartType1", "PartType2", "PartType3"],
        "black_holes": ["PartType5"],
    }
    # The units where a file gives none (Gadget-2 users' guide, section 6): kpc/h, 1e10 Msun/h, km/s sqrt(a).
    default: ClassVar[dict[str, UnitScaling]] = {
        "length_kpc": (1.0, 1.0, -1.0),
        "mass_msun": (1e10, 0.0, -1.0),
        "velocity_kms": (1.0, 0.5, 0.0),
    }
    default_words = "kpc/h, 1e10 Msun/h, km/s sqrt(a)"
    left_out: ClassVar[frozenset[str]] = frozenset()  # further types, which count for nothing
    expansion: ClassVar[tuple[str, ...]] = ("ExpansionFactor", "Time")  # Header attributes with the scale factor a

    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """Write one scratch file per snapshot file, with a clean Header and links to the original datasets."""
        self._check_code(path)
        files = self.files(path)
        names = [f"snapshot.{i}.hdf5" for i in range(len(files))] if len(files) > 1 else ["snapshot.hdf5"]
        headers = [self._header(file) for file in files]
        check_together(files, headers)
        for file, attrs in zip(files, headers, strict=True):
            check_holds_all(file, attrs)
        staged_files = [
            self._stage_file(file, attrs, scratch / name, light)
            for file, attrs, name in zip(files, headers, names, strict=True)
        ]
        if len(files) > 1:
            said = [(said, types_of(counts)) for counts, _, said in staged_files]
            check_one_unit(files, [part for part, _ in said], [*until_found(said, self._types_with_units(path))])
        counts_and_masses = [(counts, masses) for counts, masses, _ in staged_files]
        check_whole(files, headers, [counts for counts, _ in counts_and_masses])
        check_copies(files, [scratch / name for name in names], [counts for counts, _ in counts_and_masses])
        if not any(sum(counts) for counts, _ in counts_and_masses):
            raise SnapshotError(f"{path}: holds no particles; check the snapshot pattern")
        mass_table = _common_mass_table(path, counts_and_masses)
        with h5py.File(scratch / names[0], "r") as first:
            is_tabled = has_table(first)
        for original, name, (counts, _) in zip(files, names, counts_and_masses, strict=True):
            with h5py.File(scratch / name, "r+") as staged:
                staged_header = staged.create_group("Header").attrs
                staged_header["NumPart_ThisFile"] = staged_header["NumPart_Total"] = counts
                staged_header["NumPart_Total_HighWord"] = 0 * counts
                staged_header["NumFilesPerSnapshot"] = len(files)
                staged_header[HAS_TABLE] = is_tabled
                staged_header["MassTable"] = mass_table
                # yt's cosmology is not used; without dark energy and redshift yt sets none up.
                cosmology = {"Redshift": 0.0, "Time": 1.0, "HubbleParam": 1.0, "Omega0": 0.0, "OmegaLambda": 0.0}
                for key, value in {**cosmology, "BoxSize": 1.0}.items():
                    staged_header[key] = value
            # yt recognises the files of an index by their times.
            os.utime(scratch / name, ns=((times := status(original)).st_atime_ns, times.st_mtime_ns))
        return scratch / names[0]

    def _header(self, path: Path) -> dict[str, Any]:
        return header(path)

    def _check_code(self, path: Path) -> None:
        """Raise SnapshotError where the file is by its content of a code with other kernels."""
        from kinmass.gen.formats.recognise import check_kernels_are_meant  # imports this file

        check_kernels_are_meant(path, self.name)

    def _stage_file(
        self, path: Path, attrs: dict[str, Any], staged: Path, light: str | None
    ) -> tuple[np.ndarray, np.ndarray, tuple[Beside, ...]]:
        """Link the particles of one file for yt; return counts (6,), MassTable masses (6,) and what it says of units.

        A mass is NaN where each particle of the type has its own, and 0 where none has any.
        """
        type_masses = np.zeros(6)
        mass_table = np.ravel(attrs.get("MassTable", type_masses)).astype(float)[:6]
        type_masses[: len(mass_table)] = mass_table
        counts = np.zeros(6, dtype=np.int64)
        with h5py.File(path, "r") as source, h5py.File(staged, "w") as staged_file:
            check_no_other_types(path, source, self.left_out)
            for table in TABLES:
                if table in source:
                    staged_file[table] = h5py.ExternalLink(str(path.absolute()), table)
            for number, group in particle_groups(path, source).items():
                if not holds_particles(path, group):
                    continue
                counts[number] = group["Coordinates"].shape[0]
                if "Masses" in self._link(path, f"PartType{number}", group, staged_file, light):
                    type_masses[number] = np.nan
                elif not np.isfinite(type_masses[number]):
                    type_masses[number] = 0.0  # a type without masses is refused where it is read
            return counts, type_masses, said_beside(path, source)

    def _link(self, path: Path, ptype: str, group: h5py.Group, staged: h5py.File, light: str | None) -> set[str]:
        """Link the fields of one particle type for yt, and return the names of the linked fields."""
        linked: set[str] = set()
        n = group["Coordinates"].shape[0]
        for name in sorted(group, key=lambda name: LINKED_FIELDS.get(name) != name):  # where two names stand for one
            field = LINKED_FIELDS.get(name)
            if field is None or field in linked:
                continue
            dataset = checked(path, group, name)
            is_column = not SHAPES.get(field) and dataset.shape == (n, 1)
            if dataset.shape != (shape := (n, *SHAPES.get(field, ()))) and not is_column:
                raise SnapshotError(
                    f"{path}: {group.name}/{name} has shape {dataset.shape}, not {shape}; damaged? Get it again"
                )
            too_coarse = field == "Coordinates" and dataset.dtype.itemsize < 4
            if too_coarse or (field in CONTINUOUS and dataset.dtype.kind != "f"):
                raise SnapshotError(
                    f"{path}: {group.name}/{name} are {dataset.dtype}, too coarse for positions or steps of no known "
                    "length; write them as floats of 32 or 64 bits in the file's unit"
                )
            link_dataset(staged, f"{ptype}/{field}", dataset, 0 if is_column else None)
            linked.add(field)
        columns = self._columns(ptype, group) | ({"Light": light} if light else {})
        for field, selector in columns.items():
            dataset, column = find_column(path, group, selector)
            if dataset is not None and n and field not in linked:
                checked(path, group, selector.partition("[")[0])
                if len(dataset) != n:
                    raise SnapshotError(
                        f"{path}: {dataset.name} has {len(dataset)} rows for {n} particles; damaged? Get it again"
                    )
                link_dataset(staged, f"{ptype}/{field}", dataset, column)
        return linked

    def _columns(self, ptype: str, group: h5py.Group) -> dict[str, str]:
        """Map yt's name of each field that is a column of a wider dataset to `Dataset[column]`."""
        return {}

    def sample(self, staged: Path, max_particles: int, types: Collection[str] | None = None) -> dict[str, Sample]:
        """Sample each particle type over the staged files, as `Format.sample` says."""
        return from_hdf5(sorted(staged.parent.glob("snapshot*.hdf5")), max_particles, self.formed, types)

    def load(self, staged: Path, slot: Slot = nullcontext, part: Part | None = None) -> Any:
        """Open the staged snapshot with the format's yt frontend, as `Format.load` says."""
        return open_raw(*self.frontend, str(staged), slot=slot, part=part)

    def tells_cells(self, path: Path) -> bool:
        """Tell whether the snapshot has a table of cells that may say where its particles lie."""
        with contextlib.suppress(OSError), h5py.File(path, "r") as file:
            return has_table(file)
        return False

    def files(self, path: Path) -> list[Path]:
        """Return all files of a snapshot, as `files_of` does."""
        return files_of(path)

    def listed_files(self, path: Path) -> list[Path]:
        """Return the files of a snapshot; of a single one also those in which its positions lie, as virtual parts."""
        files = self.files(path)
        return files if len(files) > 1 else [*files, *_others(path)]

    def promised(self, path: Path) -> dict[str, int]:
        """Return the particle count of each type, summed over NumPart_ThisFile of all files."""
        files = [np.ravel(header(file).get("NumPart_ThisFile", [])) for file in self.files(path)]
        return {f"PartType{i}": sum(int(scalar(n[i])) for n in files if i < len(n)) for i in TYPES}

    def known_types(self) -> list[str]:
        """Return the names of all particle types that yt reads, those of no component too, and of AREPO's wind."""
        return [*(f"PartType{number}" for number in TYPES), self.disguised]

    def types(self, path: Path) -> set[str]:
        """Return the particle types that NumPart_Total of the first file counts, or its NumPart_ThisFile."""
        attrs = header(path)
        counts = np.ravel(attrs.get("NumPart_Total", attrs.get("NumPart_ThisFile", [])))
        return {f"PartType{i}" for i, n in enumerate(counts) if scalar(n) > 0}

    def unowned(self, path: Path, owned: set[str]) -> set[str]:
        """Return the types that no component owns: not SWIFT's neutrinos, which are left out, nor TNG's tracers."""
        types = self.types(path) - owned - self.left_out
        with contextlib.suppress(OSError), h5py.File(path, "r") as file:
            groups = {name: file.get(name) for name in types}
            types -= {name for name, group in groups.items() if isinstance(group, h5py.Group) and "TracerID" in group}
        return types

    def _units(self, path: Path, suite_units: dict[str, Any]) -> CodeUnits:
        """Take units from the suite file, the datasets, a Units, Parameters or Header group, else `default`."""
        with h5py.File(path, "r") as file:
            a, h, cosmological = self._cosmology(path, file, suite_units.get("cosmological"))
            said_by_file: dict[Path, tuple[Beside, ...]] = dict(
                until_found(self._said(path, file), self._types_with_units(path))
            )
            claims = first_of_each(from_datasets(part, said) for part, said in said_by_file.items())
            scalings, source = self._scalings(path, file, claims, suite_units, cosmological)
            check_cosmology(path, a, h, f"Time and Redshift{NOT_COSMOLOGICAL}", "HubbleParam")
            knows_h = np.isfinite(run_parameter(path, file, "HubbleParam", np.nan))
            if cosmological and not knows_h and any(scalings[key][2] for key in scalings.keys() - suite_units.keys()):
                raise SnapshotError(
                    f"{path}: a cosmological run without HubbleParam, and its units have factors of h; write it into "
                    "the Header, or give `units: {length_kpc: ..., mass_msun: ...}` with these factors in the suite "
                    "file"
                )
            if not cosmological and not source.startswith("the attributes"):
                check_h_is_meant(path, h, {key: scalings[key] for key in scalings.keys() - suite_units.keys()})
            code_units = {key: value * a**a_power * h**h_power for key, (value, a_power, h_power) in scalings.items()}
            box = 0.0 if "box" in suite_units else box_side(path, file)
            if box and cosmological and a != 1 and not scalings["length_kpc"][1]:
                raise SnapshotError(
                    f"{path}: its positions are physical, and its BoxSize may be comoving; give `units: {{box: ...}}`, "
                    "the side in comoving kpc, in the suite file"
                )
            units = CodeUnits(
                **code_units,
                box_kpc=box * code_units["length_kpc"] or None,
                scale_factor=a,
                hubble=h,
                source=source,
                energy_kms2=scalings["velocity_kms"][0] ** 2,
                cosmological=cosmological,
                is_region=is_region(header(path)),
                factors=factors(claims, scalings, suite_units.keys() & scalings.keys(), a, h),
                time=None
                if cosmological or "Time" not in file["Header"].attrs
                else scalar(file["Header"].attrs["Time"], "Time"),
            )
            for part, said in said_by_file.items():
                check_words_agree(part, said, units, suite_units.keys())
            return units

    def _types_with_units(self, path: Path) -> set[str]:
        """Return the types of a snapshot whose datasets say the units of all that is read."""
        return self.types(path) & {"PartType0", "PartType4"}

    def _said(self, path: Path, file: h5py.File) -> Iterator[tuple[tuple[Path, tuple[Beside, ...]], set[str]]]:
        """Give what each file of a snapshot says beside datasets, and its types, in turn; `file` is the first, open."""
        yield (path, said_beside(path, file)), types_in(path, file)
        for part in self.files(path)[1:]:
            with reading(part, " as HDF5"), h5py.File(part, "r") as other:
                yield (part, said_beside(part, other)), types_in(part, other)

    def _scalings(
        self,
        path: Path,
        file: h5py.File,
        claims: dict[str, UnitScaling],
        suite_units: dict[str, Any],
        cosmological: bool,
    ) -> tuple[dict[str, UnitScaling], str]:
        """Return how each quantity scales, and the words for where that is from."""
        claimed = {key: claims[key] for key in QUANTITIES if key in claims}
        scalings, source = claimed, "the attributes of its datasets"
        if len(claimed) < len(QUANTITIES):
            scalings, source = self._from_groups(path, file, suite_units)
            if not cosmological:
                # AREPO and GADGET-4 write no factors of a and h beside the datasets of such a run, and no dataset of
                # masses where the MassTable has them all.
                scalings = {key: (unit[0], *claimed.get(key, unit)[1:]) for key, unit in scalings.items()}
            scalings |= {key: unit for key, unit in claimed.items() if scalings and key not in scalings}
        if scalings and (unsaid := QUANTITIES.keys() - scalings.keys()):
            if unsaid - suite_units.keys():
                raise SnapshotError(
                    f"{path}: {source} says some units, but not {' and '.join(sorted(unsaid))}; give them by `units`"
                )
            scalings = self.default | scalings
        if not scalings and not QUANTITIES.keys() <= suite_units.keys():
            check_nothing_is_said(path, file)
        if not scalings:
            scalings, source = self.default, f"assumed {self.default_words}: no units in the file"
        if "velocity_kms" not in claimed and (a_power := velocity_power(path)) is not None:
            scalings = scalings | {"velocity_kms": (scalings["velocity_kms"][0], a_power, 0.0)}
            source += ", UsePeculiarVelocity of its Header"
        for key, unit in claimed.items():
            if key not in suite_units and not np.allclose(unit, scalings[key], rtol=1e-2):
                raise SnapshotError(
                    f"{path}: the attributes of {QUANTITIES[key][0]} say another unit than what holds for the file "
                    f"({source}); give `units: {{{key}: ...}}` in the suite file"
                )
        for key in suite_units.keys() & scalings.keys():
            scalings = {**scalings, key: (suite_units[key], *scalings[key][1:])}
            source = "the suite file"
        return scalings, source

    def _from_groups(
        self, path: Path, file: h5py.File, overruled: Collection[str]
    ) -> tuple[dict[str, UnitScaling], str]:
        """Return units from that of the Units, Parameters and Header groups which has most, and the words for it.

        Raises SnapshotError where two groups say other units, unless these are overruled by the suite file.
        """
        best: tuple[dict[str, UnitScaling], str] = {}, ""
        said: dict[str, dict[str, float]] = {}
        h = run_parameter(path, file, "HubbleParam", 1.0) or 1.0
        for group in ("Units", "Parameters", "Header"):
            attrs = file[group].attrs if group in file else {}
            scalings: dict[str, UnitScaling] = {}
            for key, (_, names, one) in QUANTITIES.items():
                _, a_power, h_power = self.default[key]
                for name in [name for name in names if name in attrs][:1]:
                    cgs = scalar(attrs[name], name) / (h**h_power if name.endswith("_In_CGS") else 1.0)
                    if np.isfinite(cgs) and cgs > 0:
                        scalings[key] = in_round_units(cgs / one), a_power, h_power
                        said.setdefault(key, {})[f"{name} of its {group} group"] = cgs
            if len(scalings) > len(best[0]):
                best = scalings, f"the file's {group} group"
        check_groups_agree(path, {key: values for key, values in said.items() if key not in overruled})
        return best

    def _cosmology(self, path: Path, file: h5py.File, cosmological: bool | None) -> tuple[float, float, bool]:
        """Return the scale factor, h, and whether the run is cosmological; None leaves that to the file.

        Raises SnapshotError where the Header contradicts itself.
        """
        h, z = run_parameter(path, file, "HubbleParam", 1.0), run_parameter(path, file, "Redshift", 0.0)
        attrs = header(path)
        if cosmological is None:
            # An old Header has no flag: a run without dark energy and redshift is not cosmological.
            lambdas = [run_parameter(path, file, name, np.nan) for name in ("OmegaLambda", "Omega_Lambda")]
            dark_energy = next((value for value in lambdas if np.isfinite(value)), np.nan)
            comoving_flag = run_parameter(path, file, "ComovingIntegrationOn", np.nan)
            cosmological = np.nan_to_num(dark_energy) != 0 or z != 0 if np.isnan(comoving_flag) else comoving_flag != 0
            unsaid = np.isnan(comoving_flag) and np.isnan(dark_energy)
            if not cosmological and unsaid and may_expand(attrs, self.expansion):
                self._check_code(path)  # of another code's file this is the reason
                raise expansion_unsaid(path, "OmegaLambda", "Redshift above 0", "ComovingIntegrationOn")
            if not cosmological:
                check_no_redshift(path, z)
            elif np.isnan(comoving_flag):
                check_time_is_a(path, attrs, h)
        if not cosmological:
            return 1.0, h or 1.0, False
        return scale_factor(path, attrs, self.expansion), h, True


@once
def _others(path: Path) -> list[Path]:
    """Return the files behind that of a snapshot, sorted. Raises SnapshotError if it is no HDF5 file."""
    with reading(path, " as HDF5"), h5py.File(path, "r") as file:
        return sorted(files_behind(file))


def _common_mass_table(path: Path, counts_and_masses: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the masses (6,) of the types without a dataset of masses, 0 for the others.

    yt reads those of the first file for all files. Raises SnapshotError where files of one snapshot differ.
    """
    mass_table = np.zeros(6)
    for number in TYPES:
        file_masses = np.array([masses[number] for counts, masses in counts_and_masses if counts[number]])
        if len(file_masses) and not (np.isnan(file_masses).all() or (file_masses == file_masses[0]).all()):
            raise SnapshotError(f"{path}: the files of this snapshot give PartType{number} different masses; repair it")
        mass_table[number] = np.nan_to_num(file_masses[0]) if len(file_masses) else 0.0
    return mass_table


class Eagle(Gadget):
    """EAGLE (arXiv:1706.09899): GADGET-3 with other field names and Mpc/h; the MassTable has the dark matter's mass.

    Staged as plain Gadget, because yt's frontend for EAGLE would download ionisation tables.
    """

    name = "eagle"
    default: ClassVar[dict[str, UnitScaling]] = Gadget.default | {"length_kpc": (1000.0, 1.0, -1.0)}
    default_words = "Mpc/h, 1e10 Msun/h, km/s sqrt(a)"


class Arepo(Gadget):
    """AREPO: Voronoi cells carry mass and density instead of a smoothing length."""

    name = "arepo"
    frontend = ("yt.frontends.arepo.api", "ArepoHDF5Dataset")

    def untold(self, ptype: str, cosmological: bool) -> str:
        """Say that wind cannot be told from stars where those of a cosmological run lack formation times."""
        if ptype != "PartType4" or not cosmological:
            return ""
        return (
            f"{ptype} has no {self.formed}, which tells wind from stars: get the file with this field, or say "
            f"`particles: {{stars: [{ptype}, {self.disguised}]}}` in the suite file where there is no wind"
        )


class Gizmo(Gadget):
    """GIZMO (FIRE): the same layout as Gadget, read by yt's GIZMO frontend."""

    name = "gizmo"
    has_equation_of_state = False
    frontend = ("yt.frontends.gizmo.api", "GizmoDataset")


class Simba(Gizmo):
    """SIMBA (Davé et al. 2019): GIZMO with 64 neighbours."""

    name = "simba"
    has_equation_of_state = True
    molecules = "FractionH2"


def write(
    path: Path,
    galaxies: list[tuple[Galaxy, np.ndarray, np.ndarray]],
    box_kpc: float,
    scale_factor: float,
    hubble: float,
    flavour: str,
    double: bool = True,
) -> None:
    """Write a snapshot as AREPO or GIZMO does: comoving kpc/h, 1e10 Msun/h, km/s sqrt(a).

    galaxies: (galaxy, centre_kpc (3,), velocity_kms (3,)), physical, in a periodic physical box.
    flavour: `arepo` (densities, Config, Parameters) or `gizmo` (smoothing lengths, bare header).
    double: positions in double precision; in single they are good to 6e-8 of the box.
    """
    length, mass, velocity = scale_factor / hubble, 1e10 / hubble, np.sqrt(scale_factor)
    counts = np.zeros(6, dtype=np.int32)
    parts = {0: "gas", 1: "dark", 4: "stars"}
    with h5py.File(path, "w") as file:
        first_id = 1
        for number, part in parts.items():
            placed = [(g.components()[part], centre, bulk) for g, centre, bulk in galaxies]
            n = counts[number] = sum(len(p) for p, _, _ in placed)
            if n == 0:
                continue
            group = file.create_group(f"PartType{number}")
            pos = np.concatenate([p.pos_kpc + centre for p, centre, _ in placed])
            code_pos = (np.mod(pos, box_kpc) / length).astype(np.float64 if double else np.float32)
            code_pos[code_pos >= code_pos.dtype.type(box_kpc / length)] = 0  # rounded onto the far face
            group["Coordinates"] = code_pos
            group["Velocities"] = np.float32(np.concatenate([p.vel_kms + v for p, _, v in placed]) / velocity)
            masses = np.concatenate([p.mass_msun for p, _, _ in placed])
            group["Masses"] = np.float32(masses / mass)
            group["ParticleIDs"] = np.arange(first_id, first_id + n, dtype=np.uint32)
            first_id += int(n)
            if number == 0:
                support = np.concatenate([p.support_kpc for p, _, _ in placed if p.support_kpc is not None])
                if flavour == "arepo":
                    rho = 3 * 8 * masses / (4 * np.pi * support**3)
                    group["Density"] = np.float32(rho / mass * length**3)
                else:
                    group["SmoothingLength"] = np.float32(support / length)
                group["InternalEnergy"] = np.full(n, 100.0, dtype=np.float32)
            if number == 4 and flavour == "arepo":
                group["GFM_StellarFormationTime"] = np.full(n, 0.5 * scale_factor, dtype=np.float32)
        header_attrs = file.create_group("Header").attrs
        header_attrs["NumPart_ThisFile"] = header_attrs["NumPart_Total"] = counts
        header_attrs["NumPart_Total_HighWord"] = 0 * counts
        header_attrs["MassTable"] = np.zeros(6)
        header_attrs["NumFilesPerSnapshot"] = 1
        header_attrs["Time"], header_attrs["Redshift"] = scale_factor, 1 / scale_factor - 1
        header_attrs["HubbleParam"], header_attrs["Omega0"], header_attrs["OmegaLambda"] = hubble, 0.3089, 0.6911
        header_attrs["BoxSize"] = box_kpc / length
        if flavour == "arepo":
            header_attrs["UnitLength_in_cm"], header_attrs["UnitMass_in_g"] = KPC_CM, 1e10 * MSUN_G
            header_attrs["UnitVelocity_in_cm_per_s"] = KMS_CM_S
            file.create_group("Config").attrs["VORONOI"] = ""
