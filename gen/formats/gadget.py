"""The Gadget HDF5 family: GADGET and EAGLE, AREPO (AURIGA, IllustrisTNG), GIZMO (FIRE, SIMBA)."""

import re
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from gen.constants import KMS_CM_S, KPC_CM, MSUN_G
from gen.formats.base import CodeUnits, Format, SnapshotError
from gen.formats.frontends import open_raw
from gen.particles import Galaxy

_UNIT_NAMES = {
    "length_kpc": ("UnitLength_in_cm", KPC_CM),
    "mass_msun": ("UnitMass_in_g", MSUN_G),
    "velocity_kms": ("UnitVelocity_in_cm_per_s", KMS_CM_S),
}
# Gadget-2 users' guide, section 6: kpc/h, 1e10 Msun/h, km/s sqrt(a).
_GADGET_DEFAULT = {"length_kpc": 1.0, "mass_msun": 1e10, "velocity_kms": 1.0}


# Fields that are read, under the name yt expects; EAGLE's own names are the odd ones. Whatever else
# a file holds is kept from yt (EAGLE's element abundances would make it download tables).
_NAMES = {
    "Coordinates": "Coordinates", "Velocities": "Velocities", "Velocity": "Velocities",
    "Masses": "Masses", "Mass": "Masses", "Density": "Density", "SmoothingLength": "SmoothingLength",
}  # fmt: skip


def _in_round_units(worth: float) -> float:
    """A unit meant as a power of ten: 1.989e43 g is 1e10 Msun, whichever solar mass was meant."""
    power = 10.0 ** round(np.log10(worth))
    return power if abs(worth / power - 1) < 1e-3 else worth


def _scalar(value: Any) -> float:
    return float(np.ravel(np.asarray(value))[0])


def header(path: Path) -> dict[str, Any]:
    """The Header attributes of one file, one-element arrays made scalars. Raises SnapshotError."""
    try:
        with h5py.File(path, "r") as file:
            if "Header" not in file:
                raise SnapshotError(f"{path}: no Header group, so no Gadget-type snapshot; is `format:` right?")
            return dict(file["Header"].attrs)
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be opened as HDF5 ({error}); missing or cut short?") from error


def files_of(path: Path) -> list[Path]:
    """All files of a snapshot, given its first: `snap.0.hdf5` brings `snap.1.hdf5` and so on along."""
    match = re.fullmatch(r"(.*)\.0\.(hdf5|h5)", path.name)
    if not match:
        return [path]
    pattern = re.compile(re.escape(match[1]) + r"\.(\d+)\." + match[2])
    found = {int(m[1]): p for p in path.parent.iterdir() if (m := pattern.fullmatch(p.name))}
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise SnapshotError(f"{path}: file number {missing[0]} of this snapshot is missing")
    return [found[i] for i in sorted(found)]


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
    # The stored SmoothingLength is the radius where the spline vanishes (Springel 2005, eq. 4).
    smoothing: ClassVar[str | None] = "SmoothingLength"
    support_volumes = 32.0

    def stage(self, path: Path, scratch: Path) -> Path:
        """A scratch file per snapshot file: a clean Header, and links to the particles where they lie."""
        files = files_of(path)
        for number, original in enumerate(files):
            attrs = header(original)
            name = f"snapshot.{number}.hdf5" if len(files) > 1 else "snapshot.hdf5"
            with h5py.File(original, "r") as source, h5py.File(scratch / name, "w") as staged:
                counts = np.zeros(6, dtype=np.int64)
                for group in source:
                    if match := re.fullmatch(r"PartType(\d)", group):
                        self._check_fields(original, source[group])
                        counts[int(match[1])] = len(source[group]["Coordinates"])
                        for name in source[group]:
                            if (said := _NAMES.get(name)) is not None:
                                staged[f"{group}/{said}"] = h5py.ExternalLink(
                                    str(original.resolve()), f"{group}/{name}"
                                )
                if len(files) == 1 and counts.sum() == 0:
                    raise SnapshotError(f"{path}: holds no particles")
                clean = staged.create_group("Header").attrs
                clean["NumPart_ThisFile"] = counts
                clean["NumPart_Total"] = counts
                clean["NumPart_Total_HighWord"] = 0 * counts
                clean["NumFilesPerSnapshot"] = len(files)
                clean["MassTable"] = np.asarray(attrs.get("MassTable", np.zeros(6)), dtype=float)
                for key in ("Redshift", "Time", "HubbleParam", "Omega0", "OmegaLambda", "BoxSize"):
                    clean[key] = _scalar(attrs.get(key, 0.0))
        return scratch / ("snapshot.0.hdf5" if len(files) > 1 else "snapshot.hdf5")

    def _check_fields(self, path: Path, group: h5py.Group) -> None:
        if "Coordinates" not in group or not ({"Velocities", "Velocity"} & set(group)):
            raise SnapshotError(f"{path}: {group.name} lacks Coordinates or Velocities")
        n = len(group["Coordinates"])
        for name in ("Velocities", "Velocity", "Masses", "Mass"):
            if name in group and len(group[name]) != n:
                raise SnapshotError(f"{path}: {group.name}/{name} has {len(group[name])} rows for {n} particles")

    def load(self, staged: Path) -> Any:
        return open_raw(*self.frontend, str(staged))

    def units(self, path: Path, given: dict[str, float]) -> CodeUnits:
        """From the Units, Parameters or Header group, else Gadget's own; a and h from the Header."""
        attrs = header(path)
        h = _scalar(attrs.get("HubbleParam", 1.0)) or 1.0
        cosmological = _scalar(attrs.get("OmegaLambda", attrs.get("Omega_Lambda", 0.0))) != 0.0
        a = 1.0 / (1.0 + _scalar(attrs.get("Redshift", 0.0))) if cosmological else 1.0
        worth = dict(_GADGET_DEFAULT)
        source = "assumed kpc/h, 1e10 Msun/h, km/s sqrt(a): no Units in the file"
        with h5py.File(path, "r") as file:
            for group in ("Units", "Parameters", "Header"):
                if group in file and "UnitLength_in_cm" in file[group].attrs:
                    for key, (name, cgs) in _UNIT_NAMES.items():
                        worth[key] = _in_round_units(_scalar(file[group].attrs[name]) / cgs)
                    source = f"the file's {group} group"
                    break
        worth.update({key: value for key, value in given.items() if key in worth})
        if given:
            source = "the suite file"
        scale = {"length_kpc": a / h, "mass_msun": 1 / h, "velocity_kms": np.sqrt(a)}
        if not cosmological:
            scale = {"length_kpc": 1 / h, "mass_msun": 1 / h, "velocity_kms": 1.0}
        worth = {key: worth[key] * scale[key] for key in worth}
        box = _scalar(attrs.get("BoxSize", 0.0)) * worth["length_kpc"]
        return CodeUnits(**worth, box_kpc=box or None, scale_factor=a, hubble=h, source=source)


class Arepo(Gadget):
    """AREPO: Voronoi cells carry mass and density instead of a smoothing length."""

    name = "arepo"
    frontend = ("yt.frontends.arepo.api", "ArepoHDF5Dataset")
    smoothing = None
    # Twice the radius of a sphere of the cell's volume: yt's own choice for AREPO (smoothing_factor).
    support_volumes = 8.0


class Gizmo(Gadget):
    """GIZMO: like Gadget; the SmoothingLength is the kernel's support (Hopkins 2015, section 2)."""

    name = "gizmo"
    frontend = ("yt.frontends.gizmo.api", "GizmoDataset")


def write(
    path: Path,
    galaxies: list[tuple[Galaxy, np.ndarray, np.ndarray]],
    box_kpc: float,
    scale_factor: float,
    hubble: float,
    flavour: str,
) -> None:
    """A snapshot as AREPO or GIZMO writes it: comoving kpc/h, 1e10 Msun/h, km/s sqrt(a).

    galaxies: (galaxy, centre_kpc (3,), velocity_kms (3,)), physical, in a periodic physical box.
    flavour: `arepo` (densities, Config, Parameters) or `gizmo` (smoothing lengths, bare header).
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
            group["Coordinates"] = np.mod(pos, box_kpc) / length
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
