"""Small `tree_bricks` of AdaptaHOP in the layouts of HaloMaker and GalaxyMaker, and a plain reader of its own."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grids
import numpy as np

from kinmass.gen.constants import KPC_CM
from kinmass.gen.formats.fortran import record

MPC_KPC = 3.08e24 / KPC_CM  # HaloMaker's megaparsec
BINS = 10


@dataclass
class Kind:
    """A version of the program: what it was run on, what it writes, and the bytes of its numbers."""

    of: str  # dark, stars or all
    new: bool = False  # since 2020
    sigma: bool = False
    flag: bool = False
    low_res: bool = False
    r_e: bool = False  # among the virial properties
    real: int = 4
    whole: int = 4  # of numbers of particles, and of members
    head_real: int = 0  # of the header, where it is another; aexp alone has `real`


KINDS = {
    "Horizon-AGN haloes": Kind("dark"),
    "haloes in double": Kind("dark", real=8),
    "flagged haloes": Kind("dark", flag=True),
    "NewHorizon haloes": Kind("dark", sigma=True, real=8, head_real=4),
    "flagged NewHorizon haloes": Kind("dark", sigma=True, flag=True, real=8, whole=8),
    "Horizon-AGN galaxies": Kind("stars"),
    "NewHorizon galaxies": Kind("stars", real=8, head_real=4),
    "galaxies with R_e": Kind("stars", r_e=True, real=8),
    "new haloes": Kind("dark", new=True, real=8, whole=8),
    "new haloes with low resolution": Kind("dark", new=True, low_res=True, real=8, whole=8),
    "new haloes, short": Kind("dark", new=True, low_res=True, real=8),
    "new galaxies": Kind("stars", new=True, real=8, whole=8),
    "all particles": Kind("all", new=True, real=8, whole=8),
    "all particles with low resolution": Kind("all", new=True, low_res=True, real=8, whole=8),
}


def write(
    path: Path, kind: Kind, side_kpc: float, a: float, centre_kpc: np.ndarray, central: np.ndarray, order: Any = "<",
    **columns: np.ndarray,
) -> Path:  # fmt: skip
    """Write entries at centres (n, 3). columns (n,): m_vir, r_vir_kpc, mass, stars, n, n_stars, low_res_share."""
    n, real, whole = len(centre_kpc), f"f{kind.real}", f"i{kind.whole}"
    rng = np.random.default_rng(3)

    def put(values: Any, numbers: str) -> bytes:
        return record(values, numbers, order)

    def noise(count: int) -> bytes:
        return put(rng.uniform(0.1, 2.0, count), real)

    members = columns["n_stars" if kind.of == "stars" else "n"]
    mass = columns["stars" if kind.of == "stars" else "mass"] / 1e11
    head = f"f{kind.head_real or kind.real}"
    out = [put(members.sum() + 5, whole), put(1e-5, head), put(a, real), put(0.3, head), put(9.9, head)]
    out.append(put([central.sum(), n - central.sum()], "i4"))
    for i in range(n):
        out += [put(members[i], whole), put(np.arange(members[i]) + 1, whole)]
        if kind.of == "all":
            out += [noise(members[i]), record(bytes(int(members[i])), order=order)]
        host = np.flatnonzero(central[: i + 1])[-1] + 1
        out += [put(i + 1, "i4"), put(99, "i4")]
        out += [put([1 if central[i] else 2, host, 0 if central[i] else host, 0, -1], "i4"), put(mass[i], real)]
        if kind.new:
            out += [put(members[i], whole), put(mass[i] * 1.1, real)]
        out.append(put((centre_kpc[i] - side_kpc / 2) / MPC_KPC, real))
        out += [noise(count) for count in (3, 3, 4, 3, 1)]
        if kind.new or kind.sigma:
            out.append(noise(1))
        elif kind.of == "stars":
            out.append(noise(3))
        virial = [columns["r_vir_kpc"][i] / MPC_KPC, columns["m_vir"][i] / 1e11, 1e5, 200.0]
        out.append(put(virial + [0.01] * kind.r_e, real))
        out += [noise(count) for count in ((2, 1, 2, 2, 13, 13, 2) if kind.new else (2,))]
        if kind.new and kind.of != "dark":
            out += [noise(count) for count in (1, 1, 1, 3, 2, 2, 2)]
        if kind.of != "dark":
            out += [put(BINS, "i4"), noise(BINS), noise(BINS)]
        if kind.of == "all":
            stars, n_stars = columns["stars"][i] / 1e11, columns["n_stars"][i]
            for factor in (1.0, 1.1):
                out.append(put([members[i] - n_stars, n_stars], whole))
                out.append(put([factor * (mass[i] - stars), factor * stars], real))
            out += [noise(count) for count in (3, 3, 3, 3, 3, 3, 4, 4, 2, 2, 13, 13, 13, 13, 2)]
        if kind.flag or kind.low_res:
            out.append(put(int(columns["low_res_share"][i] > 0), "i4"))
        if kind.low_res:
            low_res = columns["low_res_share"][i] * mass[i]
            out += [put([low_res, 1.2 * low_res], real), put([3, 4], whole)]
    path.write_bytes(b"".join(out))
    return path


def plain(path: Path, kind: Kind, side_kpc: float) -> list[dict[str, Any]]:
    """Read a file that was written as this kind, by the numbers of records. Raises whatever a wrong file brings about.

    Places are in kpc in a box of this side, masses in Msun.
    """
    every = grids.records(path)
    n = sum(struct.unpack("<2i", every[5]))
    assert n >= 0
    each = (len(every) - 6) // n if n else 0
    assert each * n == len(every) - 6
    skipped = 2 if kind.of == "all" else 0

    def reals(raw: bytes, count: int) -> np.ndarray:
        numbers = np.frombuffer(raw, f"<f{kind.real}").astype(float)
        assert len(numbers) == count
        return numbers

    rows = []
    for i in range(n):
        own = every[6 + each * i : 6 + each * (i + 1)]
        members = int.from_bytes(own[0], "little", signed=True)
        tail = own[2 + skipped :]
        at = 4 + 2 * kind.new
        virial = tail[at + 6 + (kind.new or kind.sigma or kind.of == "stars")]
        r_vir, m_vir = reals(virial, 5 if kind.r_e else 4)[:2]
        with np.errstate(all="ignore"):
            row = {
            "name": str(struct.unpack("<i", tail[0])[0]), "level": struct.unpack("<5i", tail[2])[0], "n": members,
            "mass": 1e11 * reals(tail[3], 1)[0], "centre": MPC_KPC * reals(tail[at], 3) + side_kpc / 2,
            "r_vir_kpc": MPC_KPC * r_vir, "m_vir": 1e11 * m_vir,
            }  # fmt: skip
            low_res = reals(own[-2], 2)[0] / row["mass"] * 1e11 if kind.low_res else np.nan
        if kind.of == "all":
            by_kind = own[-19 - 3 * kind.low_res :]
            n_stars = int.from_bytes(by_kind[0][kind.whole :], "little", signed=True)
            row |= {"n_stars": n_stars, "stars": reals(by_kind[1], 2)[1]}
        rows.append(row | {"high_res_fraction": 1 - low_res})
    return rows
