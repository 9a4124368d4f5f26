"""Small outputs of the codes of adaptive grids, and plain readers of them, by their own documents and without yt."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from kinmass.gen.formats import ramses_files
from kinmass.gen.physics.particles import Galaxy

A, H, BOX = 0.6, 0.7, 4000.0  # BOX: physical kpc
DOMAINS, LEVELS = 3, (3, 9)


def ramses(folder: Path, galaxy: Galaxy, centre: np.ndarray, velocity: np.ndarray, **options: object) -> Path:
    path = folder / "output_00099" / "info_00099.txt"
    settings = {"domains": DOMAINS, "levels": LEVELS, **options}
    ramses_files.write(path, [(galaxy, centre, velocity)], BOX, A, H, **settings)  # type: ignore[arg-type]
    return path


def old_ramses(folder: Path, galaxy: Galaxy, centre: np.ndarray, velocity: np.ndarray, **options: object) -> Path:
    return ramses(folder, galaxy, centre, velocity, families=False, **options)


def isolated_ramses(folder: Path, galaxy: Galaxy, centre: np.ndarray, velocity: np.ndarray, **options: object) -> Path:
    return ramses(folder, galaxy, centre, velocity, boxlen=250.0, **options)


def records(path: Path) -> list[bytes]:
    """All records of a Fortran file."""
    raw, at, found = path.read_bytes(), 0, []
    while at < len(raw):
        (n,) = struct.unpack("<i", raw[at : at + 4])
        assert 0 <= n <= len(raw) - at - 8
        assert struct.unpack("<i", raw[at + 4 + n : at + 8 + n]) == (n,)
        found.append(raw[at + 4 : at + 4 + n])
        at += 8 + n
    return found


Plain = dict[str, np.ndarray]


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
    rows = {kind: np.concatenate(of) for kind, of in parts.items()}
    return {
        kind: {"pos_kpc": r[:, :3], "vel_kms": r[:, 3:6], "mass_msun": r[:, 6], "side_kpc": r[:, 7:].ravel()}
        for kind, r in rows.items()
    }, length


def steps_of_mass(galaxy: Galaxy) -> Galaxy:
    """Give the dark matter two masses, 1e6 and 8e6 Msun, every fourth particle the heavier."""
    heavy = np.arange(len(galaxy.dark)) % 4 == 0
    return replace(galaxy, dark=replace(galaxy.dark, mass_msun=np.where(heavy, 8e6, 1e6)))


WRITERS = {"ramses": ramses, "old ramses": old_ramses}
PLAIN = {"ramses": plain_ramses}
