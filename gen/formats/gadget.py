"""The Gadget HDF5 family: GADGET, EAGLE, AREPO (AURIGA, IllustrisTNG), GIZMO (FIRE) and SIMBA."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from kinmass.gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from kinmass.gen.formats.base import NOT_COSMOLOGICAL, CodeUnits, Format, SnapshotError, check_cosmology, reading
from kinmass.gen.formats.frontends import open_raw
from kinmass.gen.formats.sample import Sample, from_hdf5
from kinmass.gen.formats.stored import checked, show
from kinmass.gen.physics.particles import Galaxy

Worth = tuple[float, float, float]  # of one code unit in kpc, Msun or km/s, and its powers of a and of h

#: Per quantity: the field that has it, its unit's attributes in a Units, Parameters or Header group, and kpc, Msun
#: and km/s in cgs. GIZMO since 2020 writes `_In_CGS` into the Header.
QUANTITIES = {
    "length_kpc": ("Coordinates", ("UnitLength_in_cm", "UnitLength_In_CGS"), KPC_CM),
    "mass_msun": ("Masses", ("UnitMass_in_g", "UnitMass_In_CGS"), MSUN_G),
    "velocity_kms": ("Velocities", ("UnitVelocity_in_cm_per_s", "UnitVelocity_In_CGS"), KMS_CM_S),
}

#: Attributes of a dataset that tell its worth in cgs, its power of a and its power of h.
_ATTRIBUTES = (
    ("CGSConversionFactor", "aexp-scale-exponent", "h-scale-exponent"),  # EAGLE: arXiv:1706.09899, section 3
    ("to_cgs", "a_scaling", "h_scaling"),  # AREPO: TNG's data specifications; 0 for what has no unit
    (
        "Conversion factor to CGS (not including cosmological corrections)",  # SWIFT's documentation, Snapshots
        "a-scale exponent",
        "h-scale exponent",
    ),
)

# Fields that are linked, under the one name that gen.snapshots.snapshot knows; EAGLE and SWIFT have names of their own.
# Whatever else a file holds is kept from yt (EAGLE's element abundances would make it download tables).
_NAMES = {
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
_PHOTOMETRIC_BANDS = ("U", "B", "V", "K", "g", "r", "i", "z")  # columns of GFM_StellarPhotometrics (TNG)
_SHAPES = {"Coordinates": (3,), "Velocities": (3,)}  # of a particle's entry; a number in all others
#: A redshift below this is rounding: SWIFT and EAGLE write 1 / a - 1 at z = 0.
NO_REDSHIFT = 1e-6
_TYPES = range(6)  # yt's; SWIFT's PartType6 are neutrinos


def in_round_units(worth: float) -> float:
    """A unit meant as a power of ten: 1.989e43 g is 1e10 Msun, whichever solar mass was meant."""
    power = 10.0 ** round(np.log10(worth))
    return power if abs(worth / power - 1) < 1e-3 else worth


def scalar(value: Any) -> float:
    """An attribute as a number; one-element arrays are common. Raises SnapshotError where it is none."""
    try:
        first = np.ravel(np.asarray(value))[0]
        return float(first if np.isrealobj(first) else "complex")
    except (ValueError, TypeError, IndexError) as error:
        raise SnapshotError(f"an attribute says {str(value)[:40]!r} where a number belongs; damaged?") from error


def header(path: Path) -> dict[str, Any]:
    """The Header attributes of one file. Raises SnapshotError."""
    with reading(path, " as HDF5"), h5py.File(path, "r") as file:
        if "Header" not in file:
            raise SnapshotError(f"{path}: no Header group, so no Gadget-type snapshot; is `format:` right?")
        return dict(file["Header"].attrs)


def files_of(path: Path) -> list[Path]:
    """All files of a snapshot, given its first: `snap.0.hdf5` brings `snap.1.hdf5` and so on along.

    A cutout in one file may keep the NumFilesPerSnapshot of where it was cut from. Raises
    SnapshotError when a file is missing or the path is not the first.
    """
    match = re.fullmatch(r"(.*)\.(\d+)\.(hdf5|h5)", path.name)
    if not match:
        return [path]
    pattern = re.compile(re.escape(match[1]) + r"\.(\d+)\." + match[3])
    found = {int(m[1]): p for p in path.parent.iterdir() if (m := pattern.fullmatch(p.name))}
    if int(match[2]) and 0 in found:
        raise SnapshotError(f"{path}: not the first file of its snapshot; let `snapshots` match only {found[0].name}")
    if int(match[2]) or not found:
        return [path]
    attrs = header(path)
    with reading(path):
        said = int(scalar(attrs.get("NumFilesPerSnapshot", len(found))))
    whole = np.array_equal(attrs.get("NumPart_ThisFile", 0), attrs.get("NumPart_Total", 0))
    expected = max(found) + 1 if len(found) == 1 and whole else max(said, max(found) + 1)
    missing = next((i for i in range(expected) if i not in found), None)
    if missing is not None:
        raise SnapshotError(f"{path}: file number {missing} of this snapshot is missing ({expected:.9g} in all)")
    return [found[i] for i in sorted(found)]


def worth_of(dataset: h5py.Dataset, cgs: float) -> Worth | None:
    """What a dataset says of its own unit (cgs: that of kpc, Msun, km/s); None unless complete and finite."""
    for names in _ATTRIBUTES:
        values = [scalar(dataset.attrs.get(name, np.nan)) for name in names]
        if np.isfinite(values).all() and values[0] > 0:
            physical = scalar(dataset.attrs.get("Value stored as physical", 0))
            return in_round_units(values[0] / cgs), 0.0 if physical else values[1], values[2]
    return None


def _from_datasets(path: Path, file: h5py.File) -> dict[str, Worth]:
    """Units that the datasets agree on; empty unless all three quantities have theirs."""
    found: dict[str, Worth] = {}
    groups = particle_groups(path, file).values()
    for key, (field, _, cgs) in QUANTITIES.items():
        datasets = [group.get(name) for group in groups for name in group if _NAMES.get(name) == field]
        said = {
            dataset.name: worth for dataset in datasets if dataset is not None and (worth := worth_of(dataset, cgs))
        }
        for name, worth in said.items():
            first, known = next(iter(said.items()))
            if not np.allclose(worth, known, rtol=1e-4):
                raise SnapshotError(f"{path}: {name} and {first} claim different units; give `units` and repair them")
            found[key] = known
    return found if len(found) == len(QUANTITIES) else {}


class Gadget(Format):
    """PartType0 gas, 1 dark, 4 stars, 5 black holes; lengths comoving with h, velocities with sqrt(a)."""

    name = "gadget"
    frontend = ("yt.frontends.gadget.api", "GadgetHDF5Dataset")
    components: ClassVar[dict[str, list[str]]] = {
        "gas": ["PartType0"],
        "stars": ["PartType4"],
        "dark": ["PartType1", "PartType2", "PartType3"],
        "black_holes": ["PartType5"],
    }
    # Gadget-2 users' guide, section 6: kpc/h, 1e10 Msun/h, km/s sqrt(a).
    default: ClassVar[dict[str, Worth]] = {
        "length_kpc": (1.0, 1.0, -1.0),
        "mass_msun": (1e10, 0.0, -1.0),
        "velocity_kms": (1.0, 0.5, 0.0),
    }
    default_words = "kpc/h, 1e10 Msun/h, km/s sqrt(a)"
    expansion: ClassVar[tuple[str, ...]] = ("ExpansionFactor", "Time")  # Header attributes that are a

    def stage(self, path: Path, scratch: Path, light: str | None = None) -> Path:
        """A scratch file per snapshot file: a clean Header, and links to the particles where they lie."""
        files = self.files(path)
        names = [f"snapshot.{i}.hdf5" for i in range(len(files))] if len(files) > 1 else ["snapshot.hdf5"]
        headers = [self._header(file) for file in files]
        _check_one_epoch(files, headers)
        found = [
            self._stage_file(file, attrs, scratch / name, light)
            for file, attrs, name in zip(files, headers, names, strict=True)
        ]
        if not any(sum(counts) for counts, _ in found):
            raise SnapshotError(f"{path}: holds no particles")
        table = _one_table(path, found)
        for original, name, (counts, _) in zip(files, names, found, strict=True):
            with h5py.File(scratch / name, "r+") as staged:
                clean = staged.create_group("Header").attrs
                clean["NumPart_ThisFile"] = clean["NumPart_Total"] = counts
                clean["NumPart_Total_HighWord"] = 0 * counts
                clean["NumFilesPerSnapshot"] = len(files)
                clean["MassTable"] = table
                # yt's own cosmology is not used: any sound one keeps it from dividing by a damaged one's zero.
                for key, value in {"Redshift": 0.0, "Time": 1.0, "HubbleParam": 1.0, "Omega0": 0.3}.items():
                    clean[key] = value
                clean["OmegaLambda"], clean["BoxSize"] = 0.7, 1.0
            # yt knows an index's files by their times.
            os.utime(scratch / name, ns=(original.stat().st_atime_ns, original.stat().st_mtime_ns))
        return scratch / names[0]

    def _header(self, path: Path) -> dict[str, Any]:
        return header(path)

    def _stage_file(
        self, path: Path, attrs: dict[str, Any], staged: Path, light: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Show yt the particles of one file; counts (6,), and masses (6,) where all of a type weigh the same.

        A mass is NaN where the particles have their own.
        """
        own = np.zeros(6)
        table = np.ravel(attrs.get("MassTable", own)).astype(float)[:6]
        own[: len(table)] = table
        counts = np.zeros(6, dtype=np.int64)
        with h5py.File(path, "r") as source, h5py.File(staged, "w") as link:
            for number, group in particle_groups(path, source).items():
                if not _holds_particles(path, group):
                    continue
                counts[number] = group["Coordinates"].shape[0]
                if "Masses" in self._link(path, name := f"PartType{number}", group, link, light):
                    own[number] = np.nan
                elif counts[number] and not (np.isfinite(own[number]) and own[number] != 0):
                    raise SnapshotError(f"{path}: {name} has neither Masses nor a MassTable entry")
        return counts, own

    def _link(self, path: Path, ptype: str, group: h5py.Group, staged: h5py.File, light: str | None) -> set[str]:
        """Show yt the fields of one particle type where they lie; their names."""
        linked: set[str] = set()
        n = group["Coordinates"].shape[0]
        for name in group:
            said = _NAMES.get(name)
            if said is None or said in linked:
                continue
            dataset = checked(path, group, name)
            if dataset.shape != (shape := (n, *_SHAPES.get(said, ()))):
                raise SnapshotError(f"{path}: {group.name}/{name} has shape {dataset.shape}, not {shape}; damaged?")
            if said == "Coordinates" and (dataset.dtype.kind != "f" or dataset.dtype.itemsize < 4):
                raise SnapshotError(
                    f"{path}: {group.name}/{name} are {dataset.dtype}, too coarse for positions or steps of no known "
                    "length; write them as floats of 32 or 64 bits in the file's unit"
                )
            show(staged, f"{ptype}/{said}", dataset)
            linked.add(said)
        columns = self._columns(ptype, group) | ({"Light": light} if light else {})
        for said, wanted in columns.items():
            dataset, column = find_column(path, group, wanted)
            if dataset is not None and n and said not in linked:
                checked(path, group, wanted.partition("[")[0])
                if len(dataset) != n:
                    raise SnapshotError(f"{path}: {dataset.name} has {len(dataset)} rows for {n} particles")
                show(staged, f"{ptype}/{said}", dataset, column)
        return linked

    def _columns(self, ptype: str, group: h5py.Group) -> dict[str, str]:
        """Fields that are a column of a wider dataset: the name yt sees, and `Dataset[column]`."""
        return {}

    def sample(self, staged: Path, most: int, types: Collection[str] | None = None) -> dict[str, Sample]:
        return from_hdf5(sorted(staged.parent.glob("snapshot*.hdf5")), most, self.formed, types)

    def load(self, staged: Path) -> Any:
        return open_raw(*self.frontend, str(staged))

    def files(self, path: Path) -> list[Path]:
        """`snap.0.hdf5` brings `snap.1.hdf5` and so on along."""
        return files_of(path)

    def promised(self, path: Path) -> dict[str, int]:
        """Particles of each type by NumPart_ThisFile of all files."""
        files = [np.ravel(header(file).get("NumPart_ThisFile", [])) for file in self.files(path)]
        return {f"PartType{i}": sum(int(scalar(n[i])) for n in files if i < len(n)) for i in _TYPES}

    def types(self, path: Path) -> set[str]:
        """By NumPart_Total of the first file, or its NumPart_ThisFile."""
        attrs = header(path)
        counts = np.ravel(attrs.get("NumPart_Total", attrs.get("NumPart_ThisFile", [])))
        return {f"PartType{i}" for i, n in enumerate(counts) if scalar(n) > 0}

    def _units(self, path: Path, given: dict[str, Any]) -> CodeUnits:
        """The suite file's, else the datasets' own, else a Units, Parameters or Header group's, else the default."""
        attrs = header(path)
        with h5py.File(path, "r") as file:
            a, h, cosmological = self._cosmology(path, file, given.get("cosmological"))
            worth, source = _from_datasets(path, file), "the attributes of its datasets"
            if not worth:
                worth, source = self._from_groups(file)
            if not worth:
                worth, source = self.default, f"assumed {self.default_words}: no units in the file"
        check_cosmology(path, a, h)
        for key in given.keys() & worth.keys():
            worth = {**worth, key: (given[key], *worth[key][1:])}
            source = "the suite file"
        unit = {key: value * a**a_power * h**h_power for key, (value, a_power, h_power) in worth.items()}
        box = np.zeros(1) if "box" in given else np.ravel(attrs.get("BoxSize", 0.0)).astype(float)
        if np.isfinite(box).all() and not np.allclose(box, box[0], rtol=1e-6):
            raise SnapshotError(
                f"{path}: its BoxSize has unequal sides {box.tolist()}; only cubic boxes can be wrapped: "
                "if it is no box give `units: {box: none}` in the suite file"
            )
        side = float(box[0]) * unit["length_kpc"] or None
        energy = worth["velocity_kms"][0] ** 2
        return CodeUnits(
            **unit, box_kpc=side, scale_factor=a, hubble=h, source=source, energy_kms2=energy, cosmological=cosmological
        )

    def _from_groups(self, file: h5py.File) -> tuple[dict[str, Worth], str]:
        for group in ("Units", "Parameters", "Header"):
            attrs = file[group].attrs if group in file else {}
            cgs = {key: [scalar(attrs[n]) for n in names if n in attrs] for key, (_, names, _) in QUANTITIES.items()}
            if all(value and np.isfinite(value[0]) and value[0] > 0 for value in cgs.values()):
                worth = {
                    key: (in_round_units(value[0] / QUANTITIES[key][2]), *self.default[key][1:])
                    for key, value in cgs.items()
                }
                return worth, f"the file's {group} group"
        return {}, ""

    def _cosmology(self, path: Path, file: h5py.File, cosmological: bool | None) -> tuple[float, float, bool]:
        """Scale factor, h, and whether the run is cosmological (None: as the file says).

        Raises SnapshotError where the Header contradicts itself.
        """
        h, z = _said(file, "HubbleParam", 1.0), _said(file, "Redshift", 0.0)
        attrs = dict(file["Header"].attrs)
        if cosmological is None:
            # An old Header says only so: no dark energy and no redshift, no cosmology.
            dark_energy = _said(file, "OmegaLambda", _said(file, "Omega_Lambda", 0.0)) != 0
            said = _said(file, "ComovingIntegrationOn", np.nan)
            cosmological = dark_energy or z != 0 if np.isnan(said) else said != 0
            if not cosmological:
                check_no_redshift(path, z)
            elif np.isnan(said):
                check_time_is_a(path, attrs)
        if not cosmological:
            return 1.0, h or 1.0, False
        return scale_factor(path, attrs, self.expansion), h, True


def _said(file: h5py.File, name: str, default: float) -> float:
    """An attribute of the Header or, as in GADGET-4 and EAGLE, of the groups that repeat the run's parameters."""
    for group in ("Header", "Parameters", "RuntimePars"):
        if group in file and name in file[group].attrs:
            return scalar(file[group].attrs[name])
    return default


def scale_factor(path: Path, attrs: dict[str, Any], names: tuple[str, ...]) -> float:
    """a from the attributes that are a (names; 0 is not set) and from Redshift, which must agree to 1e-3."""
    said = {name: scalar(attrs[name]) for name in names if scalar(attrs.get(name, 0.0)) != 0}
    if "Redshift" in attrs:
        z = scalar(attrs["Redshift"])
        said["Redshift"] = 1 / (1 + z) if z > -1 else z
    if not said:
        raise SnapshotError(
            f"{path}: a cosmological run whose Header has no Redshift and no scale factor; repair it{NOT_COSMOLOGICAL}"
        )
    values = list(said.values())
    if not np.allclose(values, values[0], rtol=1e-3):
        words = ", ".join(f"{name} a = {value:.6g}" for name, value in said.items())
        raise SnapshotError(
            f"{path}: its Header contradicts itself on the scale factor ({words}); repair it{NOT_COSMOLOGICAL}"
        )
    return values[0]


def check_no_redshift(path: Path, z: float) -> None:
    """Raises SnapshotError for a redshift in a run that is not cosmological: codes write 0 there, or nearly."""
    if not abs(z) < NO_REDSHIFT:
        raise SnapshotError(
            f"{path}: its Header has Redshift = {z:.4g} in a run that is not cosmological; repair it, or say in the "
            "suite file which is true: `units: {cosmological: true}` or false"
        )


def check_time_is_a(path: Path, attrs: dict[str, Any]) -> None:
    """Raises SnapshotError where Time alone would be the scale factor: a run that is not cosmological but keeps dark
    energy in its Header has a time there."""
    if not {"Redshift", "ExpansionFactor"} & attrs.keys() and scalar(attrs.get("Time", 1.0)) not in (0.0, 1.0):
        raise SnapshotError(
            f"{path}: its Header has no Redshift, so Time = {scalar(attrs['Time']):.4g} may be a scale factor or a "
            "time; say in the suite file which: `units: {cosmological: true}` or false"
        )


def particle_groups(path: Path, file: h5py.File) -> dict[int, h5py.Group]:
    """The groups of particles that a file has, by their number. Raises SnapshotError for a link to nothing."""
    groups = {}
    for number in _TYPES:
        if (name := f"PartType{number}") in set(file):  # `in file` tells of links what h5py pleases
            groups[number] = file.get(name)
            if groups[number] is None:
                raise SnapshotError(f"{path}: {name} is a link to nothing; put the file that it names beside it")
    return groups


def _check_one_epoch(files: list[Path], headers: list[dict[str, Any]]) -> None:
    """Raises SnapshotError where files of one snapshot are of different times."""
    for key in ("Time", "Redshift"):
        for file, attrs in zip(files, headers, strict=True):
            if key in attrs and key in headers[0] and scalar(attrs[key]) != scalar(headers[0][key]):
                raise SnapshotError(f"{file}: its {key} is not that of {files[0].name}; do they belong together?")


def _one_table(path: Path, found: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Masses (6,) of the types that have no dataset of them, 0 for others: yt reads the first file's for all.

    Raises SnapshotError where files of one snapshot differ in them.
    """
    table = np.zeros(6)
    for number in _TYPES:
        said = np.array([masses[number] for counts, masses in found if counts[number]])
        if len(said) and not (np.isnan(said).all() or (said == said[0]).all()):
            raise SnapshotError(f"{path}: the files of this snapshot give PartType{number} different masses; repair it")
        table[number] = np.nan_to_num(said[0]) if len(said) else 0.0
    return table


def _holds_particles(path: Path, group: h5py.Group) -> bool:
    """Whether a group is particles. Raises SnapshotError when it is but lacks what they need."""
    if not isinstance(group, h5py.Group):
        raise SnapshotError(f"{path}: {group.name} is no group of datasets; damaged?")
    if "Coordinates" not in group and ("TracerID" in group or len(group) == 0):
        return False  # TNG's Monte Carlo tracers have neither place nor mass
    if "Coordinates" not in group or not ({"Velocities", "Velocity"} & set(group)):
        raise SnapshotError(f"{path}: {group.name} lacks Coordinates or Velocities")
    if not checked(path, group, "Coordinates").shape:
        raise SnapshotError(f"{path}: {group.name}/Coordinates is a single number; damaged?")
    return True


def find_column(path: Path, group: h5py.Group, wanted: str) -> tuple[h5py.Dataset | None, int | None]:
    """The dataset and column that `Name` or `Name[column]` means; (None, None) where the group has no such.

    Columns go by number, by TNG's bands, or by the names that SWIFT keeps. Raises SnapshotError
    for a column that is not there.
    """
    match = re.fullmatch(r"([^\[\]]+)(?:\[(.+)\])?", wanted)
    if match is None or not isinstance(group.get(match[1]), h5py.Dataset):
        return None, None
    dataset, column = group[match[1]], match[2]
    if dataset.ndim == 1 and column is None:
        return dataset, None
    named = group.file.get(f"SubgridScheme/NamedColumns/{match[1]}")
    names = list(_PHOTOMETRIC_BANDS) if named is None else [str(n, "utf-8").strip("\0 ") for n in named[()]]
    index = int(column) if column and column.isdigit() else names.index(column) if column in names else -1
    if dataset.ndim != 2 or not 0 <= index < dataset.shape[1]:
        raise SnapshotError(
            f"{path}: {dataset.name} of shape {dataset.shape} has no column {column}; its columns go by number"
            + (f" or {', '.join(names)}" if named is not None or "Photometrics" in match[1] else "")
        )
    return dataset, index


class Eagle(Gadget):
    """EAGLE (arXiv:1706.09899): GADGET-3 with its own names and Mpc/h; dark matter's mass is in the MassTable.

    Staged as plain Gadget: yt's own frontend for it would download ionisation tables.
    """

    name = "eagle"
    default: ClassVar[dict[str, Worth]] = Gadget.default | {"length_kpc": (1000.0, 1.0, -1.0)}
    default_words = "Mpc/h, 1e10 Msun/h, km/s sqrt(a)"


class Arepo(Gadget):
    """AREPO: Voronoi cells carry mass and density instead of a smoothing length."""

    name = "arepo"
    frontend = ("yt.frontends.arepo.api", "ArepoHDF5Dataset")


class Gizmo(Gadget):
    """GIZMO: like Gadget."""

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
    """A snapshot as AREPO or GIZMO writes it: comoving kpc/h, 1e10 Msun/h, km/s sqrt(a).

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
            here = [(g.components()[part], centre, bulk) for g, centre, bulk in galaxies]
            n = counts[number] = sum(len(p) for p, _, _ in here)
            if n == 0:
                continue
            group = file.create_group(f"PartType{number}")
            pos = np.concatenate([p.pos_kpc + centre for p, centre, _ in here])
            code = (np.mod(pos, box_kpc) / length).astype(np.float64 if double else np.float32)
            code[code >= code.dtype.type(box_kpc / length)] = 0  # rounded onto the far face
            group["Coordinates"] = code
            group["Velocities"] = np.float32(np.concatenate([p.vel_kms + v for p, _, v in here]) / velocity)
            masses = np.concatenate([p.mass_msun for p, _, _ in here])
            group["Masses"] = np.float32(masses / mass)
            group["ParticleIDs"] = np.arange(first_id, first_id + n, dtype=np.uint32)
            first_id += int(n)
            if number == 0:
                support = np.concatenate([p.support_kpc for p, _, _ in here if p.support_kpc is not None])
                if flavour == "arepo":
                    rho = 3 * 8 * masses / (4 * np.pi * support**3)
                    group["Density"] = np.float32(rho / mass * length**3)
                else:
                    group["SmoothingLength"] = np.float32(support / length)
                group["InternalEnergy"] = np.full(n, 100.0, dtype=np.float32)
            if number == 4 and flavour == "arepo":
                group["GFM_StellarFormationTime"] = np.full(n, 0.5 * scale_factor, dtype=np.float32)
        head = file.create_group("Header").attrs
        head["NumPart_ThisFile"] = head["NumPart_Total"] = counts
        head["NumPart_Total_HighWord"] = 0 * counts
        head["MassTable"] = np.zeros(6)
        head["NumFilesPerSnapshot"] = 1
        head["Time"], head["Redshift"] = scale_factor, 1 / scale_factor - 1
        head["HubbleParam"], head["Omega0"], head["OmegaLambda"] = hubble, 0.3089, 0.6911
        head["BoxSize"] = box_kpc / length
        if flavour == "arepo":
            head["UnitLength_in_cm"], head["UnitMass_in_g"] = KPC_CM, 1e10 * MSUN_G
            head["UnitVelocity_in_cm_per_s"] = KMS_CM_S
            file.create_group("Config").attrs["VORONOI"] = ""
