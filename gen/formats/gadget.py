"""The Gadget HDF5 family: GADGET, EAGLE, AREPO (AURIGA, IllustrisTNG), GIZMO (FIRE) and SIMBA."""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.formats.base import NOT_COSMOLOGICAL, CodeUnits, Format, Slot, SnapshotError, check_cosmology, reading
from kinmass.gen.formats.frontends import open_raw
from kinmass.gen.formats.once import names_in, once
from kinmass.gen.formats.sample import Sample, from_hdf5
from kinmass.gen.formats.stored import checked, link_dataset
from kinmass.gen.formats.together import check_copies, check_one_unit, check_together
from kinmass.gen.physics.particles import Galaxy

#: One code unit in kpc, Msun or km/s, without factors of a and h, and the powers of a and of h that multiply it.
UnitScaling = tuple[float, float, float]

#: Per quantity: its field, the attributes with its unit in a Units, Parameters or Header group, and one kpc, Msun or
#: km/s in cgs, without factors of a and h. GIZMO since November 2020 writes `_In_CGS` into the Header, with those of h
#: (its allvars.h: UNIT_LENGTH_IN_CGS is All.UnitLength_in_cm / All.HubbleParam).
QUANTITIES = {
    "length_kpc": ("Coordinates", ("UnitLength_in_cm", "UnitLength_In_CGS"), KPC_CM),
    "mass_msun": ("Masses", ("UnitMass_in_g", "UnitMass_In_CGS"), MSUN_G),
    "velocity_kms": ("Velocities", ("UnitVelocity_in_cm_per_s", "UnitVelocity_In_CGS"), KMS_CM_S),
}

#: Fields of the gas that may be in a unit of their own: the quantities of which their code unit is made, and one kpc,
#: Msun/kpc^3, (km/s)^2 or K in cgs.
_GAS_FIELDS = {
    "SmoothingLength": ({"length_kpc"}, KPC_CM),
    "Density": ({"length_kpc", "mass_msun"}, MSUN_G / KPC_CM**3),
    "InternalEnergy": ({"velocity_kms"}, KMS_CM_S**2),
    "Temperature": (set(), 1.0),
}

#: Attributes of a dataset with its unit in cgs, its power of a and its power of h.
_UNIT_ATTRIBUTES = (
    ("CGSConversionFactor", "aexp-scale-exponent", "h-scale-exponent"),  # EAGLE: arXiv:1706.09899, section 3
    ("to_cgs", "a_scaling", "h_scaling"),  # AREPO: TNG's data specifications; to_cgs is 0 without a unit
    (
        "Conversion factor to CGS (not including cosmological corrections)",  # SWIFT's documentation, Snapshots
        "a-scale exponent",
        "h-scale exponent",
    ),
)

# Fields that yt shall see, and the names under which gen.snapshots.snapshot reads them: EAGLE and SWIFT use other
# names. All other fields are hidden from yt (EAGLE's element abundances would make it download tables).
_LINKED_FIELDS = {
    name: name
    for name in (
        "Coordinates", "Velocities", "Masses", "Density", "SmoothingLength", "GFM_StellarFormationTime",
        "InternalEnergy", "ElectronAbundance", "StarFormationRate", "Temperature", "NeutralHydrogenAbundance",
        "FractionH2",
    )
} | {
    "Velocity": "Velocities", "Mass": "Masses", "DynamicalMasses": "Masses", "Densities": "Density",
    "SmoothingLengths": "SmoothingLength", "Temperatures": "Temperature", "StarFormationRates": "StarFormationRate",
}  # fmt: skip
#: Fields that no code writes as whole numbers: these are steps of a length that only their writer knows.
_CONTINUOUS = {"Coordinates", "Velocities", *_GAS_FIELDS}
_PHOTOMETRIC_BANDS = ("U", "B", "V", "K", "g", "r", "i", "z")  # columns of GFM_StellarPhotometrics (TNG)
_SHAPES = {"Coordinates": (3,), "Velocities": (3,)}  # shape of one particle's entry; all other fields have one number
#: A redshift below this is a rounding error: SWIFT and EAGLE write 1 / a - 1 at z = 0.
NO_REDSHIFT = 1e-6
_TYPES = range(6)  # the particle types that yt reads; SWIFT's PartType6 are neutrinos


def in_round_units(unit: float) -> float:
    """Round a unit within 1e-3 of a power of ten to it: 1.989e43 g is 1e10 Msun, for any value of the solar mass."""
    power = 10.0 ** round(np.log10(unit))
    return power if abs(unit / power - 1) < 1e-3 else unit


def scalar(value: Any, name: str = "an attribute") -> float:
    """Return an attribute, often an array of one element, as a number. Raises SnapshotError naming it if it is none."""
    try:
        first = np.ravel(np.asarray(value))[0]
        return float(first if np.isrealobj(first) else "complex")
    except (ValueError, TypeError, IndexError) as error:
        raise SnapshotError(f"{name} is {str(value)[:40]!r}, no number; damaged? Get it again") from error


@once
def header(path: Path) -> dict[str, Any]:
    """Read the Header attributes of one file. Raises SnapshotError if it is no HDF5 file or has no Header."""
    with reading(path, " as HDF5"), h5py.File(path, "r") as file:
        if "Header" not in file:
            raise SnapshotError(f"{path}: no Header group, so no Gadget-type snapshot; is `format:` right?")
        return dict(file["Header"].attrs)


def files_of(path: Path) -> list[Path]:
    """Return all files of a snapshot from its first: `snap.0.hdf5`, `snap.1.hdf5` and so on.

    A cutout in one file may still have the NumFilesPerSnapshot of the snapshot it was cut from. Raises
    SnapshotError when a file is missing or the path is not the first.
    """
    match = re.fullmatch(r"(.*)\.(\d+)\.(hdf5|h5)", path.name)
    if not match:
        return [path]
    pattern = re.compile(re.escape(match[1]) + r"\.(\d+)\." + match[3])
    numbered = {int(m[1]): path.parent / m[0] for n in names_in(path.parent) if (m := pattern.fullmatch(n))}
    if int(match[2]) and 0 in numbered:
        raise SnapshotError(
            f"{path}: not the first file of its snapshot; let `snapshots` match only {numbered[0].name}"
        )
    if int(match[2]) or not numbered:
        return [path]
    attrs = header(path)
    with reading(path):
        n_claimed = int(scalar(attrs.get("NumFilesPerSnapshot", len(numbered)), "NumFilesPerSnapshot"))
    is_complete = np.array_equal(attrs.get("NumPart_ThisFile", 0), attrs.get("NumPart_Total", 0))
    n_expected = max(numbered) + 1 if len(numbered) == 1 and is_complete else max(n_claimed, max(numbered) + 1)
    missing = next((i for i in range(n_expected) if i not in numbered), None)
    if missing is not None:
        raise SnapshotError(
            f"{path}: file number {missing} of this snapshot is missing ({n_expected:.9g} in all); get it, too"
        )
    return [numbered[i] for i in sorted(numbered)]


def dataset_unit(dataset: h5py.Dataset, cgs: float) -> UnitScaling | None:
    """Read a dataset's unit from its attributes; cgs is one kpc, Msun or km/s in cgs.

    None unless all attributes are there and finite.
    """
    for names in _UNIT_ATTRIBUTES:
        values = [scalar(dataset.attrs.get(name, np.nan), f"{dataset.name}: {name}") for name in names]
        if np.isfinite(values).all() and values[0] > 0:
            physical = scalar(dataset.attrs.get("Value stored as physical", 0))
            return in_round_units(values[0] / cgs), 0.0 if physical else values[1], values[2]
    return None


def _from_datasets(path: Path, file: h5py.File) -> dict[str, UnitScaling]:
    """Return the units of length, mass and velocity, and of fields of the gas, that the datasets' attributes give.

    Raises SnapshotError where datasets of one quantity disagree.
    """
    unit_by_quantity: dict[str, UnitScaling] = {}
    groups = particle_groups(path, file)
    wanted = [(key, field, cgs, list(groups.values())) for key, (field, _, cgs) in QUANTITIES.items()]
    gas = [groups[0]] if isinstance(groups.get(0), h5py.Group) else []  # stars have smoothing lengths, too
    for key, field, cgs, of in [*wanted, *((field, field, cgs, gas) for field, (_, cgs) in _GAS_FIELDS.items())]:
        datasets = [group.get(name) for group in of for name in group if _LINKED_FIELDS.get(name) == field]
        unit_by_dataset = {
            dataset.name: unit for dataset in datasets if dataset is not None and (unit := dataset_unit(dataset, cgs))
        }
        for name, unit in unit_by_dataset.items():
            first, first_unit = next(iter(unit_by_dataset.items()))
            if not np.allclose(unit, first_unit, rtol=1e-4):
                raise SnapshotError(f"{path}: {name} and {first} claim different units; give `units` and repair them")
            unit_by_quantity[key] = first_unit
    return unit_by_quantity


def first_claims(parts: Iterable[tuple[dict[str, UnitScaling], set[str]]], types: set[str]) -> dict[str, UnitScaling]:
    """Return the units that hold for a snapshot in several files: of each quantity those of the first that has any.

    parts: of each file what `_from_datasets` gives, and the types of which it has particles. Files are looked at until
    particles of all `types` were found: the first may have no gas.
    """
    claims: dict[str, UnitScaling] = {}
    for claimed, found in parts:
        claims = claimed | claims
        types = types - found
        if not types:
            break
    return claims


def _factors(
    claims: dict[str, UnitScaling], scalings: dict[str, UnitScaling], overruled: Collection[str], a: float, h: float
) -> dict[str, float]:
    """Return by what gas fields have to be multiplied to be in code units, where their own attributes say so.

    Newer versions of SWIFT store single fields in physical units, while positions are comoving. overruled: the
    quantities whose unit the suite file says. A field follows them: its factor is that between its own attributes and
    those that are overruled.
    """
    own = [claims[key] if key in overruled and key in claims else scalings[key] for key in QUANTITIES]
    length, mass, _ = (value * a**a_power * h**h_power for value, a_power, h_power in own)
    code_units = {
        "SmoothingLength": length, "Density": mass / length**3, "InternalEnergy": own[2][0] ** 2,
        "Temperature": 1.0,
    }  # fmt: skip
    factor_by_field = {}
    for field, (quantities, _) in _GAS_FIELDS.items():
        if field in claims and quantities & set(overruled) <= claims.keys():
            value, a_power, h_power = claims[field]
            factor = value * a**a_power * h**h_power / code_units[field]
            factor_by_field[field] = 1.0 if abs(factor - 1) < 1e-3 else factor
    return factor_by_field


class Gadget(Format):
    """GADGET HDF5: PartType0 gas, 1 dark, 4 stars, 5 black holes; lengths comoving with h, velocities with sqrt(a)."""

    name = "gadget"
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
        files = self.files(path)
        names = [f"snapshot.{i}.hdf5" for i in range(len(files))] if len(files) > 1 else ["snapshot.hdf5"]
        headers = [self._header(file) for file in files]
        check_together(files, headers)
        staged_files = [
            self._stage_file(file, attrs, scratch / name, light)
            for file, attrs, name in zip(files, headers, names, strict=True)
        ]
        held = first_claims([(u, _types_of(n)) for n, _, u in staged_files], self._types_with_units(path))
        check_one_unit(files, [units for _, _, units in staged_files], held)
        check_copies(files, [scratch / name for name in names], [counts for counts, _, _ in staged_files])
        counts_and_masses = [(counts, masses) for counts, masses, _ in staged_files]
        if not any(sum(counts) for counts, _ in counts_and_masses):
            raise SnapshotError(f"{path}: holds no particles; check the snapshot pattern")
        mass_table = _common_mass_table(path, counts_and_masses)
        for original, name, (counts, _) in zip(files, names, counts_and_masses, strict=True):
            with h5py.File(scratch / name, "r+") as staged:
                staged_header = staged.create_group("Header").attrs
                staged_header["NumPart_ThisFile"] = staged_header["NumPart_Total"] = counts
                staged_header["NumPart_Total_HighWord"] = 0 * counts
                staged_header["NumFilesPerSnapshot"] = len(files)
                staged_header["MassTable"] = mass_table
                # yt's cosmology is not used; without dark energy and redshift yt sets none up.
                cosmology = {"Redshift": 0.0, "Time": 1.0, "HubbleParam": 1.0, "Omega0": 0.0, "OmegaLambda": 0.0}
                for key, value in {**cosmology, "BoxSize": 1.0}.items():
                    staged_header[key] = value
            # yt recognises the files of an index by their times.
            os.utime(scratch / name, ns=(original.stat().st_atime_ns, original.stat().st_mtime_ns))
        return scratch / names[0]

    def _header(self, path: Path) -> dict[str, Any]:
        return header(path)

    def _stage_file(
        self, path: Path, attrs: dict[str, Any], staged: Path, light: str | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, UnitScaling]]:
        """Link the particles of one file for yt; return counts (6,), MassTable masses (6,) and its datasets' units.

        A mass is NaN where each particle of the type has its own. Units are those of `_from_datasets`.
        """
        type_masses = np.zeros(6)
        mass_table = np.ravel(attrs.get("MassTable", type_masses)).astype(float)[:6]
        type_masses[: len(mass_table)] = mass_table
        counts = np.zeros(6, dtype=np.int64)
        with h5py.File(path, "r") as source, h5py.File(staged, "w") as staged_file:
            units = _from_datasets(path, source)
            _check_no_other_types(path, source, self.left_out)
            for number, group in particle_groups(path, source).items():
                if not _holds_particles(path, group):
                    continue
                counts[number] = group["Coordinates"].shape[0]
                if "Masses" in self._link(path, name := f"PartType{number}", group, staged_file, light):
                    type_masses[number] = np.nan
                elif counts[number] and not (np.isfinite(type_masses[number]) and type_masses[number] != 0):
                    raise SnapshotError(f"{path}: {name} has neither Masses nor a MassTable entry; write either")
        return counts, type_masses, units

    def _link(self, path: Path, ptype: str, group: h5py.Group, staged: h5py.File, light: str | None) -> set[str]:
        """Link the fields of one particle type for yt, and return the names of the linked fields."""
        linked: set[str] = set()
        n = group["Coordinates"].shape[0]
        for name in group:
            field = _LINKED_FIELDS.get(name)
            if field is None or field in linked:
                continue
            dataset = checked(path, group, name)
            if dataset.shape != (shape := (n, *_SHAPES.get(field, ()))):
                raise SnapshotError(
                    f"{path}: {group.name}/{name} has shape {dataset.shape}, not {shape}; damaged? Get it again"
                )
            too_coarse = field == "Coordinates" and dataset.dtype.itemsize < 4
            if too_coarse or (field in _CONTINUOUS and dataset.dtype.kind != "f"):
                raise SnapshotError(
                    f"{path}: {group.name}/{name} are {dataset.dtype}, too coarse for positions or steps of no known "
                    "length; write them as floats of 32 or 64 bits in the file's unit"
                )
            link_dataset(staged, f"{ptype}/{field}", dataset)
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

    def load(self, staged: Path, slot: Slot = nullcontext) -> Any:
        """Open the staged snapshot with the format's yt frontend, as `Format.load` says."""
        return open_raw(*self.frontend, str(staged), slot=slot)

    def files(self, path: Path) -> list[Path]:
        """Return all files of a snapshot, as `files_of` does."""
        return files_of(path)

    def promised(self, path: Path) -> dict[str, int]:
        """Return the particle count of each type, summed over NumPart_ThisFile of all files."""
        files = [np.ravel(header(file).get("NumPart_ThisFile", [])) for file in self.files(path)]
        return {f"PartType{i}": sum(int(scalar(n[i])) for n in files if i < len(n)) for i in _TYPES}

    def known_types(self) -> list[str]:
        """Return the names of all particle types that yt reads, those of no component too, and of AREPO's wind."""
        return [*(f"PartType{number}" for number in _TYPES), self.disguised]

    def types(self, path: Path) -> set[str]:
        """Return the particle types that NumPart_Total of the first file counts, or its NumPart_ThisFile."""
        attrs = header(path)
        counts = np.ravel(attrs.get("NumPart_Total", attrs.get("NumPart_ThisFile", [])))
        return {f"PartType{i}" for i, n in enumerate(counts) if scalar(n) > 0}

    def _units(self, path: Path, suite_units: dict[str, Any]) -> CodeUnits:
        """Take units from the suite file, the datasets, a Units, Parameters or Header group, else `default`."""
        with h5py.File(path, "r") as file:
            a, h, cosmological = self._cosmology(path, file, suite_units.get("cosmological"))
            claims = first_claims(self._claims(path, file), self._types_with_units(path))
            scalings, source = self._scalings(path, file, claims, suite_units)
            check_cosmology(path, a, h, f"Time and Redshift{NOT_COSMOLOGICAL}", "HubbleParam")
            knows_h = np.isfinite(_run_parameter(file, "HubbleParam", np.nan))
            if cosmological and not knows_h and any(scalings[key][2] for key in scalings.keys() - suite_units.keys()):
                raise SnapshotError(
                    f"{path}: a cosmological run without HubbleParam, and its units have factors of h; write it into "
                    "the Header, or give `units: {length_kpc: ..., mass_msun: ...}` with these factors in the suite "
                    "file"
                )
            if not cosmological and not source.startswith("the attributes"):
                _check_h_is_meant(path, h, {key: scalings[key] for key in scalings.keys() - suite_units.keys()})
            code_units = {key: value * a**a_power * h**h_power for key, (value, a_power, h_power) in scalings.items()}
            box = 0.0 if "box" in suite_units else _box_side(path)
            if box and cosmological and a != 1 and not scalings["length_kpc"][1]:
                raise SnapshotError(
                    f"{path}: its positions are physical, and its BoxSize may be comoving; give `units: {{box: ...}}`, "
                    "the side in comoving kpc, in the suite file"
                )
            return CodeUnits(
                **code_units,
                box_kpc=box * code_units["length_kpc"] or None,
                scale_factor=a,
                hubble=h,
                source=source,
                energy_kms2=scalings["velocity_kms"][0] ** 2,
                cosmological=cosmological,
                factors=_factors(claims, scalings, suite_units.keys() & scalings.keys(), a, h),
            )

    def _types_with_units(self, path: Path) -> set[str]:
        """Return the types of a snapshot whose datasets say the units of all that is read."""
        return self.types(path) & {"PartType0", "PartType4"}

    def _claims(self, path: Path, file: h5py.File) -> Iterator[tuple[dict[str, UnitScaling], set[str]]]:
        """Give what each file of a snapshot says of units, and its types, one file after the other; `file` is open."""
        yield _from_datasets(path, file), _types_in(path, file)
        for part in self.files(path)[1:]:
            with reading(part, " as HDF5"), h5py.File(part, "r") as other:
                yield _from_datasets(part, other), _types_in(part, other)

    def _scalings(
        self, path: Path, file: h5py.File, claims: dict[str, UnitScaling], suite_units: dict[str, Any]
    ) -> tuple[dict[str, UnitScaling], str]:
        """Return how each quantity scales, and the words for where that is from."""
        claimed = {key: claims[key] for key in QUANTITIES if key in claims}
        scalings, source = claimed, "the attributes of its datasets"
        if len(claimed) < len(QUANTITIES):
            scalings, source = self._from_groups(file)
        if not scalings:
            scalings, source = self.default, f"assumed {self.default_words}: no units in the file"
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

    def _from_groups(self, file: h5py.File) -> tuple[dict[str, UnitScaling], str]:
        """Return units from a Units, Parameters or Header group and the words for their source; empty without any."""
        h = _run_parameter(file, "HubbleParam", 1.0) or 1.0
        for group in ("Units", "Parameters", "Header"):
            attrs = file[group].attrs if group in file else {}
            scalings = {}
            for key, (_, names, one) in QUANTITIES.items():
                _, a_power, h_power = self.default[key]
                for name in [name for name in names if name in attrs][:1]:
                    cgs = scalar(attrs[name], name) / (h**h_power if name.endswith("_In_CGS") else 1.0)
                    if np.isfinite(cgs) and cgs > 0:
                        scalings[key] = in_round_units(cgs / one), a_power, h_power
            if len(scalings) == len(QUANTITIES):
                return scalings, f"the file's {group} group"
        return {}, ""

    def _cosmology(self, path: Path, file: h5py.File, cosmological: bool | None) -> tuple[float, float, bool]:
        """Return the scale factor, h, and whether the run is cosmological; None leaves that to the file.

        Raises SnapshotError where the Header contradicts itself.
        """
        h, z = _run_parameter(file, "HubbleParam", 1.0), _run_parameter(file, "Redshift", 0.0)
        attrs = dict(file["Header"].attrs)
        if cosmological is None:
            # An old Header has no flag: a run without dark energy and redshift is not cosmological.
            dark_energy = _run_parameter(file, "OmegaLambda", _run_parameter(file, "Omega_Lambda", 0.0)) != 0
            comoving_flag = _run_parameter(file, "ComovingIntegrationOn", np.nan)
            cosmological = dark_energy or z != 0 if np.isnan(comoving_flag) else comoving_flag != 0
            if not cosmological:
                check_no_redshift(path, z)
            elif np.isnan(comoving_flag):
                check_time_is_a(path, attrs)
        if not cosmological:
            return 1.0, h or 1.0, False
        return scale_factor(path, attrs, self.expansion), h, True


def _box_side(path: Path) -> float:
    """Return the side of the box in the file's unit, 0 where it says none."""
    sides = np.ravel(header(path).get("BoxSize", 0.0)).astype(float)
    if np.isfinite(sides).all() and not np.allclose(sides, sides[0], rtol=1e-6):
        raise SnapshotError(
            f"{path}: its BoxSize has unequal sides {sides.tolist()}; only cubic boxes can be wrapped: "
            "if it is no box give `units: {box: none}` in the suite file"
        )
    return float(sides[0])


def _run_parameter(file: h5py.File, name: str, default: float) -> float:
    """Read an attribute of the Header or, as in GADGET-4 and EAGLE, of the groups with the run's parameters."""
    for group in ("Header", "Parameters", "RuntimePars"):
        if group in file and name in file[group].attrs:
            return scalar(file[group].attrs[name], f"{group}: {name}")
    return default


def scale_factor(path: Path, attrs: dict[str, Any], names: tuple[str, ...]) -> float:
    """Return a from the attributes `names` (0 means not set) and from Redshift, which must agree to 1e-3.

    Raises SnapshotError where they disagree or none is there.
    """
    a_by_attribute = {name: scalar(attrs[name], name) for name in names if scalar(attrs.get(name, 0.0), name) != 0}
    if "Redshift" in attrs:
        z = scalar(attrs["Redshift"], "Redshift")
        a_by_attribute["Redshift"] = 1 / (1 + z) if z > -1 else z
    if not a_by_attribute:
        raise SnapshotError(
            f"{path}: a cosmological run whose Header has no Redshift and no scale factor; repair it{NOT_COSMOLOGICAL}"
        )
    values = list(a_by_attribute.values())
    if not np.allclose(values, values[0], rtol=1e-3):
        words = ", ".join(f"{name} a = {value:.6g}" for name, value in a_by_attribute.items())
        raise SnapshotError(
            f"{path}: its Header contradicts itself on the scale factor ({words}); repair it{NOT_COSMOLOGICAL}"
        )
    return values[0]


def check_no_redshift(path: Path, z: float) -> None:
    """Raise SnapshotError for a redshift in a run that is not cosmological, where codes write 0 or nearly 0."""
    if not abs(z) < NO_REDSHIFT:
        raise SnapshotError(
            f"{path}: its Header has Redshift = {z:.4g} in a run that is not cosmological; repair it, or say in the "
            "suite file which is true: `units: {cosmological: true}` or false"
        )


def check_time_is_a(path: Path, attrs: dict[str, Any]) -> None:
    """Raise SnapshotError where only Time could be the scale factor.

    A run that is not cosmological, but has dark energy in its Header, stores a time there.
    """
    if not {"Redshift", "ExpansionFactor"} & attrs.keys() and scalar(attrs.get("Time", 1.0), "Time") not in (0.0, 1.0):
        raise SnapshotError(
            f"{path}: its Header has no Redshift, so Time = {scalar(attrs['Time']):.4g} may be a scale factor or a "
            "time; say in the suite file which: `units: {cosmological: true}` or false"
        )


def particle_groups(path: Path, file: h5py.File) -> dict[int, h5py.Group]:
    """Return the particle groups of a file by their number. Raises SnapshotError for a link to nothing."""
    groups = {}
    for number in _TYPES:
        if (name := f"PartType{number}") in set(file):  # `name in file` is not reliable for broken links
            groups[number] = file.get(name)
            if groups[number] is None:
                raise SnapshotError(f"{path}: {name} is a link to nothing; put the file that it names beside it")
    return groups


def _check_h_is_meant(path: Path, h: float, scalings: dict[str, UnitScaling]) -> None:
    """Raise SnapshotError where a run without expansion has an h, and its units may be with or without factors of h.

    Codes read the same numbers either way: no dynamics changes with h. GIZMO's newer headers say that they have them.
    """
    unsaid = {key: (value, h_power) for key, (value, _, h_power) in sorted(scalings.items()) if h_power}
    if abs(h - 1) < 1e-3 or not unsaid or "UnitLength_In_CGS" in header(path):
        return
    with_h, without_h = (
        ", ".join(f"{key}: {value * factor**-h_power:.6g}" for key, (value, h_power) in unsaid.items())
        for factor in (1.0, h)
    )
    raise SnapshotError(
        f"{path}: HubbleParam = {h:g} in a run that is not cosmological: do its units have factors of 1 / h? If so "
        f"give `units: {{{with_h}}}` in the suite file, else `units: {{{without_h}}}`"
    )


def _check_no_other_types(path: Path, file: h5py.File, left_out: Collection[str]) -> None:
    """Raise SnapshotError for particles of a type that is not read, and not in left_out: they would have no mass."""
    for name in set(file) - set(left_out):
        if (match := re.fullmatch(r"PartType(\d+)", name)) and int(match[1]) not in _TYPES:
            pos = file[name].get("Coordinates") if isinstance(file.get(name), h5py.Group) else None
            if isinstance(pos, h5py.Dataset) and pos.size:
                raise SnapshotError(
                    f"{path}: {len(pos)} particles of {name}, and types above 5 are not read: their mass would be "
                    "nobody's; write them as one of the types 0 to 5"
                )


def _types_of(counts: np.ndarray) -> set[str]:
    return {f"PartType{number}" for number in np.flatnonzero(counts)}


def _types_in(path: Path, file: h5py.File) -> set[str]:
    """Return the types of which a file has particles."""
    rows = {number: group.get("Coordinates") for number, group in particle_groups(path, file).items()
            if isinstance(group, h5py.Group)}  # fmt: skip
    return {f"PartType{n}" for n, pos in rows.items() if isinstance(pos, h5py.Dataset) and pos.size}


def _common_mass_table(path: Path, counts_and_masses: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the masses (6,) of the types without a dataset of masses, 0 for the others.

    yt reads those of the first file for all files. Raises SnapshotError where files of one snapshot differ.
    """
    mass_table = np.zeros(6)
    for number in _TYPES:
        file_masses = np.array([masses[number] for counts, masses in counts_and_masses if counts[number]])
        if len(file_masses) and not (np.isnan(file_masses).all() or (file_masses == file_masses[0]).all()):
            raise SnapshotError(f"{path}: the files of this snapshot give PartType{number} different masses; repair it")
        mass_table[number] = np.nan_to_num(file_masses[0]) if len(file_masses) else 0.0
    return mass_table


def _holds_particles(path: Path, group: h5py.Group) -> bool:
    """Tell whether a group holds particles. Raises SnapshotError when it does, but lacks positions or velocities."""
    if not isinstance(group, h5py.Group):
        raise SnapshotError(f"{path}: {group.name} is no group of datasets; damaged? Get it again")
    if "Coordinates" not in group and ("TracerID" in group or len(group) == 0):
        return False  # TNG's Monte Carlo tracers have neither positions nor masses
    if all(isinstance(item, h5py.Dataset) and not item.size for item in map(group.get, group)):
        return False  # codes write empty datasets of any shape, or without one, for types without particles
    if "Coordinates" not in group or not ({"Velocities", "Velocity"} & set(group)):
        raise SnapshotError(f"{path}: {group.name} lacks Coordinates or Velocities; cut it out with both")
    if not checked(path, group, "Coordinates").shape:
        raise SnapshotError(f"{path}: {group.name}/Coordinates is a single number; damaged? Get it again")
    return True


def find_column(path: Path, group: h5py.Group, selector: str) -> tuple[h5py.Dataset | None, int | None]:
    """Return the dataset and column that `Name` or `Name[column]` selects; (None, None) without such a dataset.

    Columns are given by number, by TNG's bands, or by the names in SWIFT's NamedColumns group. Raises
    SnapshotError for a column that is not there.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[(.+)\])?", selector)
    if match is None or not isinstance(group.get(match[1]), h5py.Dataset):
        return None, None
    dataset, column = group[match[1]], match[2]
    if dataset.ndim == 1 and column is None:
        return dataset, None
    columns = group.file.get(f"SubgridScheme/NamedColumns/{match[1]}")
    names = list(_PHOTOMETRIC_BANDS) if columns is None else [str(n, "utf-8").strip("\0 ") for n in columns[()]]
    index = int(column) if column and column.isdigit() else names.index(column) if column in names else -1
    if dataset.ndim != 2:
        raise SnapshotError(f"{path}: {dataset.name} of shape {dataset.shape} has no columns; give `{match[1]}` alone")
    if not 0 <= index < dataset.shape[1]:
        what = "several columns, and one is needed" if column is None else f"no column {column}"
        raise SnapshotError(
            f"{path}: {dataset.name} of shape {dataset.shape} has {what}; give `{match[1]}[column]` with its number"
            + (f" or {', '.join(names)}" if columns is not None or "Photometrics" in match[1] else "")
        )
    return dataset, index


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


class Gizmo(Gadget):
    """GIZMO (FIRE): the same layout as Gadget, read by yt's GIZMO frontend."""

    name = "gizmo"
    frontend = ("yt.frontends.gizmo.api", "GizmoDataset")


class Simba(Gizmo):
    """SIMBA (Davé et al. 2019): GIZMO with 64 neighbours."""

    name = "simba"


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
