"""Small outputs of the codes of adaptive grids, and plain readers of them, by their own documents and without yt."""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from kinmass.gen.formats import art_files, enzo_files, ramses_files
from kinmass.gen.formats.fortran import record
from kinmass.gen.physics.particles import Galaxy

A, H, BOX = 0.6, 0.7, 4000.0  # BOX: physical kpc
DOMAINS, LEVELS = 3, (3, 9)


def ramses(folder: Path, galaxy: Galaxy, centre: np.ndarray, velocity: np.ndarray, **options: object) -> Path:
    path = folder / "output_00099" / "info_00099.txt"
    settings = {"domains": DOMAINS, "levels": LEVELS, **options}
    ramses_files.write(path, [(galaxy, centre, velocity)], BOX, A, H, **settings)  # type: ignore[arg-type]
    return path


old_ramses, isolated_ramses = partial(ramses, families=False), partial(ramses, boxlen=250.0)


def records(path: Path, order: str = "<") -> list[bytes]:
    """All records of a Fortran file."""
    raw, at, found = path.read_bytes(), 0, []
    while at < len(raw):
        (n,) = struct.unpack(order + "i", raw[at : at + 4])
        assert 0 <= n <= len(raw) - at - 8
        assert struct.unpack(order + "i", raw[at + 4 + n : at + 8 + n]) == (n,)
        found.append(raw[at + 4 : at + 4 + n])
        at += 8 + n
    return found


Plain = dict[str, np.ndarray]


def change_records(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Write a Fortran file of RAMSES anew, with its records changed."""
    path.write_bytes(b"".join(record(data) for data in change(records(path))))


def without_descriptors(path: Path, more_fields: int = 0) -> None:
    """Make of an output one that does not name its fields, with further ones after the usual six."""
    for file in path.parent.glob("hydro_file_descriptor.txt"):
        file.unlink()

    def more(found: list[bytes]) -> list[bytes]:
        n_fields = struct.unpack("<i", found[1])[0]
        out, at = [found[0], struct.pack("<i", n_fields + more_fields), *found[2:6]], 6
        while at < len(found):
            out += found[at : at + 2]
            n, at = struct.unpack("<i", found[at + 1])[0], at + 2
            for _ in range(8 if n else 0):
                out += found[at : at + n_fields] + [np.full(n, 7.0).tobytes()] * more_fields
                at += n_fields
        return out

    for file in path.parent.glob("hydro_*.out*"):
        change_records(file, more)


def with_boundary(path: Path, side: int = 3) -> None:
    """Surround the box of an output with boundaries: a coarse grid of 3^3, and one oct outside the box a level."""

    def tree(found: list[bytes]) -> list[bytes]:
        n_cpu, n_levels = (struct.unpack("<i", found[i])[0] for i in (0, 3))
        ones = np.ones(n_levels, "<i4").tobytes()
        coarse = np.zeros(side**3, "<i4").tobytes()
        out = [*found[:2], struct.pack("<3i", side, side, side), *found[3:5], struct.pack("<i", 1), *found[6:23]]
        out += [ones, ones, ones, *found[23:26], coarse, coarse, coarse]
        counts, at = np.frombuffer(found[21], "<i4").reshape(n_levels, n_cpu), 29
        for level, of_level in enumerate(counts):
            for _ in np.flatnonzero(of_level):
                octs = found[at : at + 37]
                places = [(np.frombuffer(x, "<f8") + (side - 1) / 2).tobytes() for x in octs[3:6]]
                out += [*octs[:3], *places, *octs[6:]]
                at += 37
            zero, outside = struct.pack("<i", 0), struct.pack("<d", 0.5**level / 2)
            out += [zero] * 3 + [outside] * 3 + [zero] * 31
        return out

    def gas(found: list[bytes]) -> list[bytes]:
        n_cpu, n_fields = (struct.unpack("<i", found[i])[0] for i in (0, 1))
        out, at, domain = [*found[:4], struct.pack("<i", 1), found[5]], 6, 0
        while at < len(found):
            n = struct.unpack("<i", found[at + 1])[0]
            size = 2 + (8 * n_fields if n else 0)
            out += found[at : at + size]
            domain += 1
            if domain % n_cpu == 0:
                out += [found[at], struct.pack("<i", 1), *[struct.pack("<d", 99.0)] * (8 * n_fields)]
            at += size
        return out

    for file in path.parent.glob("amr_*.out*"):
        change_records(file, tree)
    for file in path.parent.glob("hydro_*.out*"):
        change_records(file, gas)


def as_plain(rows: dict[str, np.ndarray]) -> dict[str, Plain]:
    """Name the columns of particles' and cells' rows: place, velocity, mass, and side of cells alone."""
    return {
        kind: {"pos_kpc": r[:, :3], "vel_kms": r[:, 3:6], "mass_msun": r[:, 6], "side_kpc": r[:, 7:].ravel()}
        for kind, r in rows.items()
    }


def plain_ramses(path: Path) -> tuple[dict[str, Plain], float]:
    """Cells that have no sons, and particles by family or birth, in kpc, km/s and Msun; and the box's side."""
    info = {k: float(v) for k, v in re.findall(r"^(\w+) *= *([-+\d.E]+)$", path.read_text(), re.M)}
    length, velocity = info["unit_l"] / 3.0856775814913673e21, info["unit_l"] / info["unit_t"] / 1e5
    mass = info["unit_d"] * info["unit_l"] ** 3 / 1.988409870698051e33
    number, folder, n_cpu = path.stem[-5:], path.parent, int(info["ncpu"])
    parts: dict[str, list[np.ndarray]] = {"gas": [], "dark": [], "stars": []}
    with_families = (folder / "part_file_descriptor.txt").exists()
    for cpu in range(1, n_cpu + 1):
        amr, hydro = (iter(records(folder / f"{kind}_{number}.out{cpu:05d}")) for kind in ("amr", "hydro"))
        head = [next(amr) for _ in range(29)]
        n_levels = struct.unpack("<i", head[3])[0]
        counts = np.frombuffer(head[21], "<i4").reshape(n_levels, n_cpu)
        n_fields = struct.unpack("<i", [next(hydro) for _ in range(6)][1])[0]
        for level in range(n_levels):
            for owner in range(n_cpu):
                n = counts[level, owner]
                next(hydro)
                assert struct.unpack("<i", next(hydro))[0] == n
                if n == 0:
                    continue
                tree = [next(amr) for _ in range(37)]
                pos = np.stack([np.frombuffer(x, "<f8") for x in tree[3:6]], axis=-1)
                for corner in range(8):
                    fields = [np.frombuffer(next(hydro), "<f8") for _ in range(n_fields)]
                    leaf = (
                        (np.frombuffer(tree[13 + corner], "<i4") == 0)
                        & (owner + 1 == cpu)
                        & (level + 1 >= info["levelmin"])
                    )
                    side = 0.5 ** (level + 1)
                    shift = (np.array([corner & 1, (corner >> 1) & 1, corner >> 2]) - 0.5) * side
                    columns = [(pos + shift) * length, np.stack(fields[1:4], axis=-1) * velocity]
                    columns += [(fields[0] * side**3 * mass)[:, None], np.full((n, 1), side * length)]
                    parts["gas"].append(np.hstack(columns)[leaf])
        part = records(folder / f"part_{number}.out{cpu:05d}")[8:]
        values = np.stack([np.frombuffer(x, "<f8") for x in part[:7]], axis=-1)
        row = np.hstack([values[:, :3] * length, values[:, 3:6] * velocity, values[:, 6:] * mass])
        born = np.frombuffer(part[11 if with_families else 9], "<f8") != 0
        family = np.where(np.frombuffer(part[7], "<i4") > 0, np.where(born, 2, 1), 0)
        family = np.frombuffer(part[9], "i1") if with_families else family
        for kind, code in (("dark", 1), ("stars", 2)):
            parts[kind].append(row[(family == code) & (row[:, 6] != 0)])
    return as_plain({kind: np.concatenate(of) for kind, of in parts.items()}), length


def steps_of_mass(galaxy: Galaxy) -> Galaxy:
    """Give the dark matter two masses, 1e6 and 8e6 Msun, every fourth particle the heavier."""
    heavy = np.arange(len(galaxy.dark)) % 4 == 0
    return replace(galaxy, dark=replace(galaxy.dark, mass_msun=np.where(heavy, 8e6, 1e6)))


def enzo(folder: Path, galaxy: Galaxy, centre: np.ndarray, velocity: np.ndarray, **options: object) -> Path:
    path = folder / "DD0099" / "DD0099"
    settings = {"root": 8, "finest": 6, **options}
    enzo_files.write(path, [(galaxy, centre, velocity)], BOX, A, H, **settings)  # type: ignore[arg-type]
    return path


def plain_enzo(path: Path) -> tuple[dict[str, Plain], float]:
    """Cells that no grid of the next level covers, and particles by type, in kpc, km/s and Msun; and the box's side."""
    words = {k: v.split() for k, v in re.findall(r"^(\w+) *= *(.+)$", path.read_text(), re.M)}
    keys = ("HubbleConstantNow", "OmegaMatterNow", "ComovingBoxSize", "CurrentRedshift")
    h, omega_m, box, z = (float(words[f"Cosmology{key}"][0]) for key in keys)
    first_z = float(words["CosmologyInitialRedshift"][0])
    length = box * 1000 / h / (1 + z)
    # Bryan & Norman 1997, section 2, and Enzo's CosmologyGetUnits.
    mass = omega_m * 1.8788e-29 * h**2 * (1 + z) ** 3 * (length * 3.0856775814913673e21) ** 3 / 1.988409870698051e33
    velocity = 1.22475e7 * box * np.sqrt(omega_m * (1 + first_z)) / 1e5
    top = np.array([int(n) for n in words["TopGridDimensions"]])
    grids = []
    for block in re.split(r"^Grid = ", path.with_name(f"{path.name}.hierarchy").read_text(), flags=re.M)[1:]:
        row = {k: v.split() for k, v in re.findall(r"^(\w+) *= *(.+)$", block, re.M)}
        low, high = (np.array(row[f"Grid{side}Edge"], dtype=float) for side in ("Left", "Right"))
        n = np.array(row["GridEndIndex"], dtype=int) - np.array(row["GridStartIndex"], dtype=int) + 1
        level = round(float(np.log2(n[0] / (high - low)[0] / top[0])))
        grids.append((int(block.split()[0]), level, low, high, n, row))
    parts: dict[str, list[np.ndarray]] = {"gas": [], "dark": [], "stars": []}
    for number, level, low, high, n, row in grids:
        with h5py.File(path.with_name(Path(row["BaryonFileName"][0]).name)) as file:
            group = {name: dataset[()] for name, dataset in file[f"Grid{number:08d}"].items()}
        side = (high - low) / n
        x = np.stack(np.meshgrid(*(low[i] + (np.arange(n[i]) + 0.5) * side[i] for i in range(3)), indexing="ij"), -1)
        open_cells = np.ones(n, dtype=bool)
        for _, other_level, other_low, other_high, _, _ in grids:
            if other_level == level + 1:
                open_cells &= ~((x > other_low) & (x < other_high)).all(axis=-1)
        v = np.stack([group[f"{axis}-velocity"].T for axis in "xyz"], -1)[open_cells]
        m = (group["Density"].T * np.prod(side))[open_cells]
        columns = [x[open_cells] * length, v * velocity, m[:, None] * mass, np.full((len(m), 1), side[0] * length)]
        parts["gas"].append(np.hstack(columns))
        if int(row["NumberOfParticles"][0]):
            pos, vel = (
                np.stack([group[f"particle_{kind}_{axis}"] for axis in "xyz"], -1) for kind in ("position", "velocity")
            )
            m = group["particle_mass"] * np.prod(side) * mass
            rows = np.hstack([pos * length, vel * velocity, m[:, None]])
            for kind, codes in (("dark", (1, 4)), ("stars", (2, 5, 7))):
                parts[kind].append(rows[np.isin(group["particle_type"], codes) & (m != 0)])
    return as_plain({kind: np.concatenate(of) for kind, of in parts.items()}), length


def art(folder: Path, galaxy: Galaxy, centre: np.ndarray, velocity: np.ndarray, **options: object) -> Path:
    path = folder / "VELA99" / "10MpcBox_csf512_a0.600.d"
    art_files.write(path, [(galaxy, centre, velocity)], BOX, A, H, **{"levels": LEVELS, **options})  # type: ignore[arg-type]
    return path


def plain_art(path: Path) -> tuple[dict[str, Plain], float]:
    """Cells without a child, and particles by species, in kpc, km/s and Msun; and the box's side."""
    raw, at = path.read_bytes(), 0

    def following() -> bytes:
        nonlocal at
        (n,) = struct.unpack_from(">i", raw, at)
        assert 0 <= n <= len(raw) - at - 8
        assert struct.unpack_from(">i", raw, at + 4 + n) == (n,)
        at += n + 8
        return raw[at - n - 4 : at - 4]

    head = [following() for _ in range(17)]
    a = struct.unpack(">iddff", head[1])[3]
    box, omega_m, _, _, h = struct.unpack(">5f", head[2])
    (n_cells,), (_, deepest) = struct.unpack(">i", head[12]), struct.unpack(">2i", head[6])
    n_side = round(n_cells ** (1 / 3))
    length, velocity = box * 1000 * a / h, 50 * box / n_side * omega_m**0.5 / a
    mass = 2.776e11 * 1.98892e33 / 1.988409870698051e33 * h**2 * omega_m * (box / h) ** 3

    def rows(values: np.ndarray, x: np.ndarray, side: float) -> np.ndarray:
        v, m = values[:, 2:5] / values[:, :1] * velocity, values[:, :1] * side**3 * mass
        return np.hstack([x * length, v, m, np.full((len(x), 1), side * length)])

    leaf = np.frombuffer(head[13], ">i4") <= 0
    z, y, x = np.unravel_index(np.arange(n_cells), (n_side,) * 3)
    values = np.frombuffer(head[14], ">f4").reshape(-1, 10).astype(float)
    gas = [rows(values[leaf], (np.stack([x, y, z], -1)[leaf] + 0.5) / n_side, 1 / n_side)]
    for level in range(1, deepest + 1):
        _, n, _ = struct.unpack(">3i", following())
        place = np.array([struct.unpack(">13i", following())[:3] for _ in range(n)])
        cells = [following() for _ in range(8 * n)]
        leaf = np.array([struct.unpack_from(">i", cell, 4)[0] <= 0 for cell in cells])
        values = np.array([struct.unpack_from(">10f", cell, 8) for cell in cells])
        corner = np.array([[i & 1, (i >> 1) & 1, i >> 2] for i in range(8)]) - 0.5
        side = 1 / n_side / 2**level
        x = ((place / 2**12 - 1) / n_side)[:, None, :] + corner * side
        gas.append(rows(values[leaf], x.reshape(-1, 3)[leaf], side))
    number = path.stem[-6:]
    header = path.with_name(f"PMcrd{number}.DAT").read_bytes()
    n_row, _, n_species = struct.unpack_from(">3i", header, 4 + 45 + 12 * 4)
    weights, last = struct.unpack_from(">10f", header, 137), struct.unpack_from(">10i", header, 177)
    pages = np.frombuffer(path.with_name(f"PMcrs0{number}.DAT").read_bytes(), ">f4").reshape(-1, 6, n_row**2)
    p = np.concatenate(pages.astype(float), axis=-1).T[: last[n_species - 1]]
    m = np.repeat(weights[:n_species], np.diff((0, *last[:n_species])))
    stars = records(path.with_name(f"stars_{number}.dat"), ">")
    first_star = last[n_species - 2]
    m[first_star:] = np.frombuffer(stars[3], ">f4")
    p = np.hstack([(p[:, :3] - 1) / n_side % 1.0 * length, p[:, 3:] * velocity, m[:, None] * mass / n_cells])
    return as_plain({"gas": np.concatenate(gas), "dark": p[:first_star], "stars": p[first_star:]}), length


WRITERS = {"ramses": ramses, "old ramses": old_ramses, "enzo": enzo, "art": art}
#: Relative precision of masses and velocities: Enzo's constants and yt's agree to it.
PRECISION = {"ramses": 1e-9, "enzo": 4e-4, "art": 1e-9}
#: Precision of what is written, relative and in kpc: that of the numbers in the files, which ART's has in four bytes.
STORED = {"ramses": (1e-9, 1e-7), "enzo": (1e-9, 1e-7), "art": (1e-6, 5e-4)}
PLAIN = {"ramses": plain_ramses, "enzo": plain_enzo, "art": plain_art}
