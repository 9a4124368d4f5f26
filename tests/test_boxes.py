"""Wherever a file's particles lie and whatever box it claims: what is read is what a plain sum over it finds."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import h5py
import layouts
import numpy as np
import pytest

from gen.formats import FORMATS, tipsy
from gen.particles import Galaxy, Particles, empty
from gen.snapshot import Snapshot

BOX, A, H = layouts.BOX, layouts.A, layouts.H
LENGTHS = {"gadget": layouts.KPC_H, "arepo": layouts.KPC_H, "gizmo": layouts.KPC_H, "swift": layouts.MPC}
LAYOUTS = {"gadget": layouts.gadget4, "arepo": layouts.tng, "gizmo": layouts.fire, "swift": layouts.swift}
KINDS = {"dark": ("PartType1", "DarkMatter"), "stars": ("PartType4", "Stars"), "gas": ("PartType0", "Gas")}


def _inside(rng: np.random.Generator, n: int) -> np.ndarray:
    pos = rng.uniform(0, BOX, (n, 3))
    pos[: n // 2] = np.mod(rng.normal(0, 100, (n // 2, 3)), BOX)  # a galaxy on the corner
    return pos


def _on_faces(rng: np.random.Generator, n: int) -> np.ndarray:
    """On the faces to the last bit, and off them by what single precision and a drift make of it."""
    pos = rng.normal(0, 50, (n, 3)) + rng.integers(0, 2, (n, 3)) * BOX
    faces = np.array([0.0, BOX, np.nextafter(BOX, 0), BOX * (1 + 6e-8), -1e-9, -3.0, BOX + 3.0])
    return np.where(rng.random((n, 3)) < 0.5, rng.choice(faces, (n, 3)), np.clip(pos, -15, BOX + 15))


PLACES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "inside": _inside,
    "centred on 0": lambda rng, n: rng.normal(0, 100, (n, 3)),
    "shifted by a box": lambda rng, n: _inside(rng, n) + BOX * np.array([1, -1, 0]),
    "on the faces": _on_faces,
    "across one face": lambda rng, n: rng.normal(0, 100, (n, 3)) + np.array([BOX, 0.5 * BOX, 0]),
    "no box": lambda rng, n: rng.normal(0, 300, (n, 3)) + np.array([9000.0, -300, 2.5e4]),
}


def placed(place: str, n: int = 150, seed: int = 5) -> Galaxy:
    """Particles of three types, sorted so that the parts of a snapshot hold separate places."""
    rng, written = np.random.default_rng(seed), layouts.galaxy(n, seed)

    def moved(p: Particles) -> Particles:
        pos = PLACES[place](rng, n)
        return Particles(pos[np.argsort(pos[:, 0])], p.vel_kms, p.mass_msun, p.support_kpc)

    return Galaxy(moved(written.stars), moved(written.gas), moved(written.dark), empty())


def write(folder: Path, form: str, galaxy: Galaxy, files: int = 1, box_kpc: float = BOX) -> Path:
    """A snapshot whose positions are the galaxy's as they are, about a corner of the box in Tipsy as elsewhere."""
    if form == "tipsy":
        path = folder / "run.00128"
        tipsy.write(path, [(galaxy, np.zeros(3), np.zeros(3))], BOX, A, H)
        head, rows = path.read_bytes()[:32], [galaxy.gas, galaxy.dark, galaxy.stars]
        tables = [t.copy() for t in tipsy_tables(path)]
        for table, p in zip(tables, rows, strict=True):
            table[:, 1:4] = p.pos_kpc / BOX - (0.5 if box_kpc else 0)
        path.write_bytes(head + b"".join(t.tobytes() for t in tables))
        if not box_kpc:
            param = path.with_suffix(".param")
            param.write_text(param.read_text().replace("bPeriodic = 1", "bPeriodic = 0"))
        return path
    path = LAYOUTS[form](folder / "snap_028.hdf5", galaxy, files)
    cut = {kind: np.array_split(p.pos_kpc, files) for kind, p in galaxy.components().items()}
    for i, part in enumerate(layouts._names(folder / "snap_028.hdf5", files)):
        with h5py.File(part, "r+") as file:
            for number, kind in layouts.TYPES.items():
                file[f"PartType{number}/Coordinates"][...] = cut[kind][i] / LENGTHS[form]
            file["Header"].attrs["BoxSize"] = np.asarray(file["Header"].attrs["BoxSize"]) * (box_kpc / BOX)
    return path


def tipsy_tables(path: Path) -> list[np.ndarray]:
    """Gas, dark matter and stars as rows of big-endian floats: mass, x, y, z and so on."""
    raw = path.read_bytes()
    counts = np.frombuffer(raw[16:28], ">i4")
    widths = 12, 9, 11
    ends = 32 + 4 * np.cumsum(np.multiply(counts, widths))
    return [
        np.frombuffer(raw[end - 4 * n * w : end], ">f4").reshape(n, w)
        for n, w, end in zip(counts, widths, ends, strict=True)
    ]


def on_disk(path: Path, form: str, files: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Component -> positions [kpc] and masses [Msun] by h5py or numpy alone."""
    if form == "tipsy":
        units = FORMATS["tipsy"].units(path, {})
        tables = dict(zip(("gas", "dark", "stars"), tipsy_tables(path), strict=True))
        return {
            k: (t[:, 1:4].astype(float) * units.length_kpc, t[:, 0].astype(float) * units.mass_msun)
            for k, t in tables.items()
        }
    mass = 1e10 if form == "swift" else layouts.MASS_H
    found = {}
    for number, kind in layouts.TYPES.items():
        pos, weights = [], []
        for part in layouts._names(path.with_name("snap_028.hdf5"), files):
            with h5py.File(part) as file:
                group = file[f"PartType{number}"]
                pos.append(group["Coordinates"][:] * LENGTHS[form])
                default = np.full(len(pos[-1]), file["Header"].attrs.get("MassTable", np.zeros(6))[number])
                weights.append(mass * (group["Masses"][:].astype(float) if "Masses" in group else default))
        found[kind] = np.concatenate(pos), np.concatenate(weights)
    return found


def wrapped(offset: np.ndarray, box_kpc: float) -> np.ndarray:
    return offset - box_kpc * np.round(offset / box_kpc) if box_kpc else offset


def assert_true_sums(snapshot: Snapshot, disk: dict, box_kpc: float, spheres: list[tuple[np.ndarray, float]]) -> int:
    """Counts and masses of every sphere; how many particles there were in all."""
    seen = 0
    for centre, radius in spheres:
        found = snapshot.galaxy(centre, radius).components()
        for kind, (pos, mass) in disk.items():
            offset = wrapped(pos - centre, box_kpc)
            inside = np.linalg.norm(offset, axis=1) <= radius
            assert len(found[kind]) == inside.sum(), (kind, centre, radius)
            assert found[kind].mass_msun.sum() == pytest.approx(mass[inside].sum(), rel=1e-12)
            seen += inside.sum()
            order, other = (np.lexsort(np.round(p, 6).T) for p in (found[kind].pos_kpc, offset[inside]))
            np.testing.assert_allclose(found[kind].pos_kpc[order], offset[inside][other], atol=1e-6)
    return seen


def spheres_in(box_kpc: float, galaxy: Galaxy, corner: float) -> list[tuple[np.ndarray, float]]:
    """About corners, faces, middles, particles, in other images of the box, small and as large as may be."""
    rng = np.random.default_rng(8)
    middle = np.median(galaxy.stars.pos_kpc, axis=0) + corner
    if not box_kpc:
        return [
            (middle, 200.0),
            (middle + np.array([250, 0, 0]), 600.0),
            (galaxy.gas.pos_kpc[3] + corner, 50.0),
            (middle, 1e5),
        ]
    places = [np.zeros(3), np.array([box_kpc, 0.5 * box_kpc, 0]), rng.uniform(0, box_kpc, 3), np.full(3, 0.5 * box_kpc)]
    return [
        *((c + corner, r) for c, r in product(places, (30.0, 400.0))),
        (np.full(3, box_kpc) * [1, 1, -0.01] + corner, 150.0),
        (galaxy.gas.pos_kpc[3] + corner, 500.0),
        (middle, 0.499 * box_kpc),
    ]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("form", "files"), [("tipsy", 1), ("gadget", 1), ("gadget", 3), ("arepo", 3), ("gizmo", 3), ("swift", 3)]
)
def test_a_sphere_holds_what_a_sum_over_the_file_finds(place, form, files, tmp_path, monkeypatch):
    galaxy, box = placed(place), 0.0 if place == "no box" else BOX
    path = write(tmp_path, form, galaxy, files, box)
    disk = on_disk(path, form, files)
    corner = -0.5 * BOX if form == "tipsy" and box else 0.0
    for whole in (10, 10**9):
        monkeypatch.setattr("gen.snapshot.READ_WHOLE", whole)
        with Snapshot(path, form, {"dark": ["PartType1"]} if form != "tipsy" else None) as snapshot:
            assert snapshot.units.box_kpc == (pytest.approx(BOX) if box else None)
            assert assert_true_sums(snapshot, disk, box, spheres_in(box, galaxy, corner)) > 300
