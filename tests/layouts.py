"""Small snapshots in the layouts of the archives, written from physical particles as the archives' documents say.

Sources: TNG's data specifications; EAGLE's particle data release (arXiv:1706.09899); SWIFT's documentation,
Snapshots; GIZMO's users' guide and the FIRE-2 release (arXiv:2202.06969); SIMBA (Davé et al. 2019); GADGET-2's users'
guide; ChaNGa's wiki, Tipsy format.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kinmass.gen.constants import G
from kinmass.gen.formats import SnapshotError
from kinmass.gen.physics.particles import Galaxy, Particles, empty
from kinmass.gen.snapshots.snapshot import Snapshot

A, H, BOX = 0.6, 0.7, 4000.0  # BOX: physical kpc
KPC, MSUN = 3.085678e21, 1.989e33  # rounded as in the codes
MPC_H, KPC_H, MPC = 1000 * A / H, A / H, 1000 * A
MASS_H, ROOT_A = 1e10 / H, np.sqrt(A)
DARK_MSUN, GAMMA_QUARTIC = 5e6, 2.018932
DARK, ORIGIN = {"dark": ["PartType1"]}, np.zeros(3)


def galaxy(n: int = 40, seed: int = 3) -> Galaxy:
    """Make a cloud of n particles of each component, 30 kpc wide; all dark particles have one mass."""
    rng = np.random.default_rng(seed)

    def cloud(mass: np.ndarray, support: np.ndarray | None = None) -> Particles:
        return Particles(rng.normal(0, 10, (n, 3)), rng.normal(50, 120, (n, 3)), mass, support)

    stars, gas = (cloud(rng.uniform(1e5, 1e6, n)) for _ in range(2))
    gas = Particles(gas.pos_kpc, gas.vel_kms, gas.mass_msun, rng.uniform(0.2, 2, n))
    return Galaxy(stars, gas, cloud(np.full(n, DARK_MSUN)), empty())


def read(
    path: Path,
    form: str,
    parts: dict[str, list[str]] | None = None,
    centre: np.ndarray = ORIGIN,
    radius: float = 100.0,
    **options: Any,
) -> Galaxy:
    """Return what a newly opened snapshot has around a place."""
    with Snapshot(path, form, parts, **options) as snapshot:
        return snapshot.galaxy(centre, radius)


def assert_refused(path: Path, form: str, words: str) -> None:
    """A snapshot is refused in these words when it is opened."""
    with pytest.raises(SnapshotError, match=words):
        Snapshot(path, form)


def edit(path: Path, change: Callable[[h5py.File], object]) -> Path:
    """Change an HDF5 file, and return its path."""
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def set_attrs(**attrs: object) -> Callable[[h5py.File], None]:
    """Return the change of entries of a Header."""
    return lambda file: file["Header"].attrs.update(attrs)


def bound(galaxy: Galaxy) -> Galaxy:
    """Slow the particles of `galaxy` down to speeds at which its mass holds them; maps are not made of others."""
    slow = {name: replace(p, vel_kms=p.vel_kms / 40) for name, p in galaxy.components().items()}
    return replace(galaxy, **slow)


def attributes(dataset: h5py.Dataset, names: tuple[str, str, str], values: tuple[float, float, float]) -> None:
    """Write a dataset's unit in cgs, its power of a and its power of h as attributes."""
    for name, value in zip(names, values, strict=True):
        dataset.attrs[name] = np.array([value])


def _counts(galaxy: Galaxy) -> list[int]:
    return [len(galaxy.components()[TYPES[i]]) if i in TYPES else 0 for i in range(6)]


def _files(path: Path, written: Galaxy, files: int, **header: object) -> Iterator[tuple[h5py.File, Galaxy]]:
    """Open the files of a snapshot one after another, each with its Header, with the part of `written` for it."""
    for name, part in zip(file_paths(path, files), _split(written, files), strict=True):
        with h5py.File(name, "w") as file:
            attrs = file.create_group("Header").attrs
            attrs["NumPart_ThisFile"], attrs["NumPart_Total"] = _counts(part), _counts(written)
            attrs["NumPart_Total_HighWord"], attrs["NumFilesPerSnapshot"] = [0] * 6, files
            for key, value in header.items():
                attrs[key] = value
            yield file, part


def _opened(path: Path, files: int) -> Iterator[h5py.File]:
    """Open the files of a snapshot that is there one after another, to change them."""
    for name in file_paths(path, files):
        with h5py.File(name, "r+") as file:
            yield file


def _code(p: Particles, length: float, mass: float, velocity: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions wrapped into the box, velocities and masses in code units."""
    return np.mod(p.pos_kpc, BOX) / length, np.float32(p.vel_kms / velocity), np.float32(p.mass_msun / mass)


def _split(galaxy: Galaxy, n_files: int) -> list[Galaxy]:
    cuts = {k: np.array_split(np.arange(len(p)), n_files) for k, p in galaxy.components().items()}
    return [Galaxy(**{k: p[cuts[k][i]] for k, p in galaxy.components().items()}) for i in range(n_files)]


def file_paths(path: Path, files: int) -> list[Path]:
    return [path.with_name(f"{path.stem}.{i}.hdf5") for i in range(files)] if files > 1 else [path]


TYPES = {0: "gas", 1: "dark", 4: "stars"}
COSMOLOGY = {"Redshift": 1 / A - 1, "HubbleParam": H, "Omega0": 0.3, "OmegaLambda": 0.7}


def eagle(path: Path, written: Galaxy, files: int = 1) -> Path:
    """Write EAGLE: Mpc/h, `Mass`, `Velocity`; no mass dataset for dark matter; element abundances; a hash table."""
    names = "CGSConversionFactor", "aexp-scale-exponent", "h-scale-exponent"
    table = [0, DARK_MSUN / MASS_H, 0, 0, 0, 0]
    header = {"MassTable": table, "BoxSize": BOX / MPC_H, "Time": A, "ExpansionFactor": A} | COSMOLOGY
    for file, part in _files(path, written, files, **header):
        for number, kind in TYPES.items():
            p = part.components()[kind]
            pos, vel, mass = _code(p, MPC_H, MASS_H, ROOT_A)
            group = file.create_group(f"PartType{number}")
            attributes(group.create_dataset("Coordinates", data=pos), names, (KPC * 1e3, 1, -1))
            attributes(group.create_dataset("Velocity", data=vel), names, (1e5, 0.5, 0))
            if number != 1:
                attributes(group.create_dataset("Mass", data=mass), names, (MSUN * 1e10, 0, -1))
                group["ElementAbundance/Hydrogen"] = np.full(len(p), 0.75, np.float32)
            if number == 0:
                h = np.float32(p.support_kpc / MPC_H)
                attributes(group.create_dataset("SmoothingLength", data=h), names, (KPC * 1e3, 1, -1))
                group["Temperature"] = np.geomspace(1e3, 1e6, len(p))
                group["StarFormationRate"] = np.zeros(len(p))
        file.create_group("HashTable").attrs["HashBits"] = 6
    return file_paths(path, files)[0]


def tng(path: Path, written: Galaxy, files: int = 1) -> Path:
    """Write TNG: cells in ckpc/h with densities, massless tracers as type 3, stars with the field that tells wind."""
    names = "to_cgs", "a_scaling", "h_scaling"
    table = [0, DARK_MSUN / MASS_H, 0, 4.7e-5, 0, 0]
    for file, part in _files(path, written, files, MassTable=table, BoxSize=BOX / KPC_H, Time=A, **COSMOLOGY):
        for number, kind in TYPES.items():
            p = part.components()[kind]
            pos, vel, mass = _code(p, KPC_H, MASS_H, ROOT_A)
            group = file.create_group(f"PartType{number}")
            attributes(group.create_dataset("Coordinates", data=pos), names, (KPC, 1, -1))
            attributes(group.create_dataset("Velocities", data=vel), names, (1e5, 0.5, 0))
            if number != 1:
                attributes(group.create_dataset("Masses", data=mass), names, (MSUN * 1e10, 0, -1))
            if number == 0:
                volume = 4 / 3 * np.pi * (p.support_kpc / 2) ** 3
                group["Density"] = np.float32(p.mass_msun / volume / MASS_H * KPC_H**3)
                attributes(group["Density"], names, (MSUN * 1e10 / KPC**3, -3, 2))
                group["InternalEnergy"] = np.geomspace(10, 1e5, len(p))
                group["ElectronAbundance"] = np.full(len(p), 1.0)
                group["NeutralHydrogenAbundance"] = np.linspace(0, 1, len(p))
                group["StarFormationRate"] = np.zeros(len(p))
                attributes(group["ElectronAbundance"], names, (0, 0, 0))
            if number == 4:
                group["GFM_StellarFormationTime"] = np.full(len(p), 0.3)
                group["GFM_StellarPhotometrics"] = np.linspace(-8, -2, 8 * len(p)).reshape(len(p), 8)
        tracers = file.create_group("PartType3")
        tracers["TracerID"] = tracers["ParentID"] = np.arange(5)
    return file_paths(path, files)[0]


def auriga(path: Path, written: Galaxy, files: int = 1) -> Path:
    """Write AURIGA: TNG's cells and stars in a zoom, without attributes of datasets; units in AREPO's Header."""
    first = tng(path, written, files)
    for file in _opened(path, files):
        del file["PartType3"]
        for group in ("PartType0", "PartType1", "PartType4"):
            for dataset in file[group].values():
                for attribute in list(dataset.attrs):
                    del dataset.attrs[attribute]
        file["Header"].attrs["MassTable"] = [0, DARK_MSUN / MASS_H, 0, 0, 0, 0]
        file["Header"].attrs["UnitLength_in_cm"] = KPC * 1e3  # AURIGA counts in Mpc/h
        file["Header"].attrs["UnitMass_in_g"] = MSUN * 1e10
        file["Header"].attrs["UnitVelocity_in_cm_per_s"] = 1e5
        for group in ("PartType0", "PartType1", "PartType4"):
            file[group]["Coordinates"][...] /= 1000
        file["PartType0/Density"][...] *= 1e9
        file["Header"].attrs["BoxSize"] /= 1000
        for low in (2, 3):
            far = file.create_group(f"PartType{low}")
            far["Coordinates"], far["Velocities"] = np.full((2, 3), 0.005), np.zeros((2, 3))
            far["Masses"] = np.full(2, 2 * DARK_MSUN / MASS_H)
    return first


def fire(path: Path, written: Galaxy, files: int = 1) -> Path:
    """Write FIRE (GIZMO): kpc/h without any attributes for units, smoothing lengths, masses for every type."""
    for file, part in _files(path, written, files, MassTable=np.zeros(6), BoxSize=BOX / KPC_H, Time=A, **COSMOLOGY):
        for number, kind in TYPES.items():
            p = part.components()[kind]
            group = file.create_group(f"PartType{number}")
            group["Coordinates"], group["Velocities"], group["Masses"] = _code(p, KPC_H, MASS_H, ROOT_A)
            group["ParticleIDs"] = np.arange(len(p))
            if number in (0, 4):
                group["Metallicity"] = np.full((len(p), 11), 0.02, np.float32)
            if number == 0:
                group["SmoothingLength"] = np.float32(p.support_kpc / KPC_H)
                group["InternalEnergy"] = np.geomspace(10, 1e5, len(p))
                group["ElectronAbundance"] = np.full(len(p), 1.0)
                group["NeutralHydrogenAbundance"] = np.linspace(0, 1, len(p))
            if number == 4:
                group["StellarFormationTime"] = np.full(len(p), 0.3)
    return file_paths(path, files)[0]


def gizmo_2020(path: Path, written: Galaxy, files: int = 1) -> Path:
    """Write GIZMO since November 2020: other names of cosmological parameters, and units in the Header, here Mpc/h.

    They have the factor of h in them (its allvars.h: UNIT_LENGTH_IN_CGS is All.UnitLength_in_cm / All.HubbleParam).
    """
    first = fire(path, written, files)
    for file in _opened(path, files):
        attrs = file["Header"].attrs
        for key in ("Omega0", "OmegaLambda"):
            del attrs[key]
        attrs["ComovingIntegrationOn"], attrs["Omega_Lambda"], attrs["Omega_Matter"] = 1, 0.7, 0.3
        attrs["Omega_Baryon"], attrs["Omega_Radiation"], attrs["GIZMO_version"] = 0.05, 0.0, 2021
        attrs["UnitLength_In_CGS"], attrs["UnitMass_In_CGS"] = KPC * 1e3 / H, MSUN * 1e10 / H
        attrs["UnitVelocity_In_CGS"] = 1e5
        attrs["BoxSize"] /= 1000
        for group in ("PartType0", "PartType1", "PartType4"):
            file[group]["Coordinates"][...] /= 1000
        file["PartType0/SmoothingLength"][...] /= 1000
    return first


def gizmo_newer(path: Path, written: Galaxy, files: int = 1) -> Path:
    """Write what newer versions of GIZMO do: kernels have another name."""
    first = gizmo_2020(path, written, files)
    for file in _opened(path, files):
        file.move("PartType0/SmoothingLength", "PartType0/KernelMaxRadius")
    return first


def gadget4(path: Path, written: Galaxy, files: int = 1) -> Path:
    """Write GADGET-4: a short Header, cosmology and units in the Parameters group (users' guide, Snapshot format)."""
    first = fire(path, written, files)
    for file in _opened(path, files):
        attrs, parameters = file["Header"].attrs, file.create_group("Parameters").attrs
        for key in ("Omega0", "OmegaLambda", "HubbleParam"):
            parameters[key] = attrs.pop(key)
        parameters["ComovingIntegrationOn"], parameters["UnitVelocity_in_cm_per_s"] = 1, 1e5
        parameters["UnitLength_in_cm"], parameters["UnitMass_in_g"] = KPC, MSUN * 1e10
        for group in ("PartType0", "PartType4"):
            del file[group]["Metallicity"]
    return first


def simba(path: Path, written: Galaxy, files: int = 1) -> Path:
    """Write SIMBA: FIRE's layout with dust, winds and molecular fractions."""
    first = fire(path, written, files)
    for file in _opened(path, files):
        n = len(file["PartType0/Coordinates"])
        for field in ("Dust_Masses", "FractionH2", "DelayTime", "NWindLaunches", "StarFormationRate"):
            file[f"PartType0/{field}"] = np.zeros(n, np.float32)
    return first


def swift(path: Path, written: Galaxy, files: int = 1, kernel: str = "Quartic spline (M5)") -> Path:
    """Write SWIFT: comoving Mpc, peculiar velocities, the kernel's h, vectors and one-element arrays in the Header."""
    names = (
        "Conversion factor to CGS (not including cosmological corrections)",
        "a-scale exponent",
        "h-scale exponent",
    )
    header = {"Scale-factor": np.array([A]), "Redshift": np.array([1 / A - 1]), "Time": np.array([8e-3])}
    header |= {"BoxSize": np.full(3, BOX / MPC), "Code": np.bytes_("SWIFT"), "Dimension": np.array([3])}
    for file, part in _files(path, written, files, **header):
        for number, kind in TYPES.items():
            p = part.components()[kind]
            pos, vel, mass = _code(p, MPC, 1e10, 1.0)
            group = file.create_group(f"PartType{number}")
            attributes(group.create_dataset("Coordinates", data=pos), names, (KPC * 1e3, 1, 0))
            attributes(group.create_dataset("Velocities", data=vel), names, (1e5, 0, 0))
            attributes(group.create_dataset("Masses", data=mass), names, (MSUN * 1e10, 0, 0))
            if number == 0:
                group["SmoothingLengths"] = np.float32(p.support_kpc / MPC / GAMMA_QUARTIC)
                h = p.support_kpc / MPC / GAMMA_QUARTIC
                group["Densities"] = np.float32(p.mass_msun / 1e10 * (1.2348 / h) ** 3)
                group["Temperatures"] = np.geomspace(1e3, 1e6, len(p))
                # SWIFT writes minus the time at which a gas particle last formed stars.
                group["StarFormationRates"] = -0.5 * np.ones(len(p))
                group["SpeciesFractions"] = np.linspace(0, 1, 3 * len(p)).reshape(-1, 3)
                group["ElementMassFractions"] = np.full((len(p), 2), [0.7, 0.3])
            if number == 4:
                group["Luminosities"] = np.linspace(1, 2, 2 * len(p)).reshape(len(p), 2)
        swift_groups(file, kernel)
    return file_paths(path, files)[0]


def swift_groups(file: h5py.File, kernel: str = "Quartic spline (M5)") -> None:
    """Write SWIFT's groups of attributes: cosmology, kernel, units and names of columns."""
    for group, attrs in {
        "Cosmology": {"Cosmological run": [1], "h": [H], "Scale-factor": [A], "Redshift": [1 / A - 1]},
        "HydroScheme": {"Kernel function": np.bytes_(kernel), "Kernel eta": [1.2348]},
        "Units": {
            "Unit length in cgs (U_L)": [KPC * 1e3],
            "Unit mass in cgs (U_M)": [MSUN * 1e10],
            "Unit time in cgs (U_t)": [KPC * 1e3 / 1e5],
        },
    }.items():
        file.create_group(group).attrs.update({k: np.asarray(v) for k, v in attrs.items()})
    named = file.create_group("SubgridScheme/NamedColumns")
    named["SpeciesFractions"] = np.array([b"elec", b"HI", b"HII"], "S32")
    named["ElementMassFractions"] = np.array([b"Hydrogen", b"Helium"], "S32")
    named["Luminosities"] = np.array([b"GAMA_g", b"GAMA_r"], "S32")


def swift_virtual(path: Path, written: Galaxy, files: int = 3) -> Path:
    """Write SWIFT's meta-snapshot: virtual datasets over the files of a distributed snapshot, by relative names."""
    swift(path, written, files)
    parts = file_paths(path, files)
    with h5py.File(path, "w") as meta, h5py.File(parts[0]) as first:
        for number in TYPES:
            for field in first[f"PartType{number}"]:
                name = f"PartType{number}/{field}"
                sources = []
                for part in parts:
                    with h5py.File(part) as file:
                        sources.append(h5py.VirtualSource(part.name, name, shape=file[name].shape))
                ends = np.cumsum([source.shape[0] for source in sources])
                layout = h5py.VirtualLayout(shape=(ends[-1], *sources[0].shape[1:]), dtype=first[name].dtype)
                for end, source in zip(ends, sources, strict=True):
                    layout[end - source.shape[0] : end] = source
                meta.create_virtual_dataset(name, layout).attrs.update(first[name].attrs)
        swift_groups(meta)
        attrs = meta.create_group("Header").attrs
        attrs.update(first["Header"].attrs)
        attrs["NumPart_ThisFile"], attrs["NumFilesPerSnapshot"], attrs["Virtual"] = attrs["NumPart_Total"], [1], [1]
    return path


def gadget_binary(
    path: Path,
    written: Galaxy,
    files: int = 1,
    file_format: int = 1,
    order: str = "<",
    float_type: str = "f4",
    ids: str = "u4",
    **header: float,
) -> Path:
    """Write GADGET-2's binary formats (users' guide, section 6): records between their sizes, in format 2 named."""
    parts = _split(written, files)
    names = [path.with_name(f"{path.stem}.{i}") for i in range(files)] if files > 1 else [path.with_suffix("")]
    header_values = {"Time": A, "Redshift": 1 / A - 1, "OmegaLambda": 0.7} | header
    for name, part in zip(names, parts, strict=True):
        components = [part.components()[kind] for kind in TYPES.values()]
        code_arrays = [_code(p, KPC_H, MASS_H, ROOT_A) for p in components]
        gas = part.gas
        rho = 32 * gas.mass_msun / (4 / 3 * np.pi * gas.support_kpc**3) / MASS_H * KPC_H**3
        blocks = {
            "POS": np.concatenate([c[0] for c in code_arrays]),
            "VEL": np.concatenate([c[1] for c in code_arrays]),
            "ID": np.arange(sum(map(len, components)), dtype=ids),
            "MASS": np.concatenate([code_arrays[0][2], code_arrays[2][2]]),  # the header has the dark matter's
        }
        if len(gas):
            blocks |= {"U": np.full(len(gas), 100.0), "RHO": rho, "HSML": gas.support_kpc / KPC_H}
        head = struct.pack(
            order + "6i6ddd2i6I2i4d2i6I", *_counts(part), 0, DARK_MSUN / MASS_H, 0, 0, 0, 0,
            header_values["Time"], header_values["Redshift"], 0, 0, *_counts(written), 0, files, BOX / KPC_H,
            0.3, header_values["OmegaLambda"], H, 0, 0, *[0] * 6,
        )  # fmt: skip
        content = _record("HEAD", head.ljust(256, b"\0"), file_format, order)
        for block, values in blocks.items():
            kind = np.dtype(ids if block == "ID" else float_type).newbyteorder(order)
            content += _record(block, values.astype(kind).tobytes(), file_format, order) if values.size else b""
        name.write_bytes(content)
    return names[0]


def _record(name: str, data: bytes, file_format: int, order: str) -> bytes:
    mark = struct.pack(order + "I", len(data))
    label = name.ljust(4).encode() + struct.pack(order + "I", len(data) + 8)
    eight = struct.pack(order + "I", 8)
    return (eight + label + eight if file_format == 2 else b"") + mark + data + mark


def tipsy(path: Path, written: Galaxy, order: str = ">", float_type: str = "f4", comove: int = 1) -> Path:
    """Write ChaNGa's Tipsy: positions as fractions of the box about its middle, 1/sqrt(G rho) as the unit of time.

    Black holes are stars with a negative formation time.
    """
    length = BOX / A
    mass = 3 * (0.1 * H) ** 2 / (8 * np.pi * G) * length**3
    later_fields = {"gas": ("rho", "temp", "eps", "metals", "phi"), "dark": ("eps", "phi"),
            "stars": ("metals", "tform", "eps", "phi"), "black_holes": ("metals", "tform", "eps", "phi")}  # fmt: skip
    rows_written = b""
    for kind, fields in later_fields.items():
        p = written.components()[kind]
        columns = [("mass", "f4"), ("pos", float_type, 3), ("vel", float_type, 3), *((f, "f4") for f in fields)]
        rows = np.zeros(len(p), np.dtype(columns).newbyteorder(order))
        x = p.pos_kpc / BOX
        rows["mass"], rows["pos"] = p.mass_msun / mass, x - np.round(x)
        rows["vel"] = p.vel_kms / (np.sqrt(G * mass / length) * A)
        if kind == "gas":
            rows["rho"] = 3 * 32 * rows["mass"] / (4 * np.pi * (p.support_kpc / BOX) ** 3)
        elif kind != "dark":
            rows["tform"] = 0.2 if kind == "stars" else -0.2
        rows_written += rows.tobytes()
    n = [len(written.components()[kind]) for kind in later_fields]
    head = struct.pack(order + "d6i", A if comove else 0.0, sum(n), 3, n[0], n[1], n[2] + n[3], 0)
    path.write_bytes(head + rows_written)
    path.with_suffix(".param").write_text(
        f"bComove = {comove}\nbPeriodic = 1\ndPeriod = 1\ndKpcUnit = {length!r}\ndMsolUnit = {float(mass)!r}\n"
        f"dHubble0 = {float(np.sqrt(8 * np.pi / 3))!r}\nnSmooth = 32\n"
    )
    return path


def damage_bytes(path: Path, rng: np.random.Generator) -> str:
    """Change bits, blocks or the length of a file, as broken disks and transfers do."""
    raw = bytearray(path.read_bytes())
    kind = str(rng.choice(["header bits", "bits", "cut", "zeros", "repeat", "empty", "noise"]))
    at, n = int(rng.integers(len(raw))), int(rng.integers(1, 1024))
    if kind.endswith("bits"):
        for _ in range(int(rng.integers(1, 9))):
            raw[int(rng.integers(min(len(raw), 1500 if kind == "header bits" else len(raw))))] ^= 1 << rng.integers(8)
    elif kind == "repeat":
        raw[at:at] = raw[at : at + n]
    else:
        end = {"cut": len(raw), "empty": len(raw)}.get(kind, at + n)
        new = {"zeros": bytes(n), "noise": rng.bytes(n)}.get(kind, b"")
        raw[0 if kind == "empty" else at : end] = new
    path.write_bytes(raw)
    return kind
