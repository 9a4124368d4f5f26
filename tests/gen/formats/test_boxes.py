"""What is read equals a sum over the file, wherever the particles lie and whatever box a header claims."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import layouts
import numpy as np
import pytest
import yaml

from kinmass.gen.campaign.plan import list_tasks
from kinmass.gen.formats import FORMATS, CodeUnits, SnapshotError, domain, tipsy
from kinmass.gen.formats.base import settled_box
from kinmass.gen.formats.domain import domain_of
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate, empty
from kinmass.gen.snapshots.snapshot import Snapshot, images
from kinmass.gen.suite import SuiteError, Units, load_suite

BOX, A, H = layouts.BOX, layouts.A, layouts.H
LENGTHS = {"gadget": layouts.KPC_H, "arepo": layouts.KPC_H, "gizmo": layouts.KPC_H, "swift": layouts.MPC}
LAYOUTS = {"gadget": layouts.gadget4, "arepo": layouts.tng, "gizmo": layouts.fire, "swift": layouts.swift}
KINDS = {"dark": ("PartType1", "DarkMatter"), "stars": ("PartType4", "Stars"), "gas": ("PartType0", "Gas")}


def _inside(rng: np.random.Generator, n: int) -> np.ndarray:
    pos = rng.uniform(0, BOX, (n, 3))
    pos[: n // 2] = np.mod(rng.normal(0, 100, (n // 2, 3)), BOX)  # a galaxy on the corner
    return pos


def _on_faces(rng: np.random.Generator, n: int) -> np.ndarray:
    """Positions exactly on the faces, and off them by rounding to single precision and by a drift."""
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
    """Make particles of three types, sorted so that the files of a snapshot hold separate regions."""
    rng, written = np.random.default_rng(seed), layouts.galaxy(n, seed)

    def moved(p: Particles) -> Particles:
        pos = PLACES[place](rng, n)
        return Particles(pos[np.argsort(pos[:, 0])], p.vel_kms, p.mass_msun, p.support_kpc)

    return Galaxy(moved(written.stars), moved(written.gas), moved(written.dark), empty())


def write(folder: Path, form: str, galaxy: Galaxy, files: int = 1, box_kpc: float = BOX) -> Path:
    """Write a snapshot with the galaxy's positions unwrapped, in Tipsy too relative to a corner of the box."""
    if form == "tipsy":
        path = folder / "run.00128"
        tipsy.write(path, [(galaxy, np.zeros(3), np.zeros(3))], BOX, A, H)
        header_bytes, parts = path.read_bytes()[:32], [galaxy.gas, galaxy.dark, galaxy.stars]
        tables = [t.copy() for t in tipsy_tables(path)]
        for table, p in zip(tables, parts, strict=True):
            table[:, 1:4] = p.pos_kpc / BOX - (0.5 if box_kpc else 0)
        path.write_bytes(header_bytes + b"".join(t.tobytes() for t in tables))
        if not box_kpc:
            param = path.with_suffix(".param")
            param.write_text(param.read_text().replace("bPeriodic = 1", "bPeriodic = 0"))
        return path
    path = LAYOUTS[form](folder / "snap_028.hdf5", galaxy, files)
    positions_by_file = {kind: np.array_split(p.pos_kpc, files) for kind, p in galaxy.components().items()}
    for i, part in enumerate(layouts.file_paths(folder / "snap_028.hdf5", files)):
        with h5py.File(part, "r+") as file:
            for number, kind in layouts.TYPES.items():
                file[f"PartType{number}/Coordinates"][...] = positions_by_file[kind][i] / LENGTHS[form]
            file["Header"].attrs["BoxSize"] = np.asarray(file["Header"].attrs["BoxSize"]) * (box_kpc / BOX)
    return path


def tipsy_tables(path: Path) -> list[np.ndarray]:
    """Read gas, dark matter and stars as rows of big-endian floats: mass, x, y, z and so on."""
    raw = path.read_bytes()
    counts = np.frombuffer(raw[16:28], ">i4")
    widths = 12, 9, 11
    ends = 32 + 4 * np.cumsum(np.multiply(counts, widths))
    return [
        np.frombuffer(raw[end - 4 * n * w : end], ">f4").reshape(n, w)
        for n, w, end in zip(counts, widths, ends, strict=True)
    ]


def on_disk(path: Path, form: str, files: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return positions [kpc] and masses [Msun] of each component, read by h5py or numpy alone."""
    if form == "tipsy":
        units = FORMATS["tipsy"].units(path, {})
        tables = dict(zip(("gas", "dark", "stars"), tipsy_tables(path), strict=True))
        return {
            k: (t[:, 1:4].astype(float) * units.length_kpc, t[:, 0].astype(float) * units.mass_msun)
            for k, t in tables.items()
        }
    mass = 1e10 if form == "swift" else layouts.MASS_H
    positions_and_masses = {}
    for number, kind in layouts.TYPES.items():
        pos, weights = [], []
        for part in layouts.file_paths(path.with_name("snap_028.hdf5"), files):
            with h5py.File(part) as file:
                group = file[f"PartType{number}"]
                pos.append(group["Coordinates"][:] * LENGTHS[form])
                table_masses = np.full(len(pos[-1]), file["Header"].attrs.get("MassTable", np.zeros(6))[number])
                weights.append(mass * (group["Masses"][:].astype(float) if "Masses" in group else table_masses))
        positions_and_masses[kind] = np.concatenate(pos), np.concatenate(weights)
    return positions_and_masses


def wrapped(offset: np.ndarray, box_kpc: float) -> np.ndarray:
    return offset - box_kpc * np.round(offset / box_kpc) if box_kpc else offset


def assert_true_sums(
    snapshot: Snapshot, expected: dict, box_kpc: float, spheres: list[tuple[np.ndarray, float]]
) -> int:
    """Compare counts, masses and positions in every sphere; return the number of particles compared."""
    n_inside = 0
    for centre, radius in spheres:
        components_read = snapshot.galaxy(centre, radius).components()
        for kind, (pos, mass) in expected.items():
            offset = wrapped(pos - centre, box_kpc)
            inside = np.linalg.norm(offset, axis=1) <= radius
            assert len(components_read[kind]) == inside.sum(), (kind, centre, radius)
            assert components_read[kind].mass_msun.sum() == pytest.approx(mass[inside].sum(), rel=1e-12)
            n_inside += inside.sum()
            read_order, expected_order = (
                np.lexsort(np.round(p, 6).T) for p in (components_read[kind].pos_kpc, offset[inside])
            )
            np.testing.assert_allclose(
                components_read[kind].pos_kpc[read_order], offset[inside][expected_order], atol=1e-6
            )
    return n_inside


def spheres_in(box_kpc: float, galaxy: Galaxy, corner: float) -> list[tuple[np.ndarray, float]]:
    """Return spheres about a corner, a face, an edge from outside and a particle, and the largest that is allowed."""
    middle = np.median(galaxy.stars.pos_kpc, axis=0) + corner
    if not box_kpc:
        return [(middle, 200.0), (middle + np.array([250, 0, 0]), 600.0), (middle, 1e5)]
    return [
        (np.zeros(3) + corner, 400.0),
        (np.array([box_kpc, 0.5 * box_kpc, 0]) + corner, 150.0),
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
    expected = on_disk(path, form, files)
    spheres = spheres_in(box, galaxy, -0.5 * BOX if form == "tipsy" and box else 0.0)
    spheres = spheres if files == 1 else spheres[::2]
    if files == 1:  # so that yt's index divides the file into parts
        monkeypatch.setattr("yt.geometry.particle_geometry_handler.ParticleIndex.chunksize", 60)
    for read_whole_below in (10, 10**9) if files == 1 else (10,):
        monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", read_whole_below)
        with Snapshot(path, form, layouts.DARK if form != "tipsy" else None) as snapshot:
            assert snapshot.units.box_kpc == (pytest.approx(BOX) if box else None)
            assert assert_true_sums(snapshot, expected, box, spheres) > 200


@pytest.mark.parametrize("box", [None, 7.0])
def test_images_are_those_whose_spheres_reach_the_particles(box):
    rng = np.random.default_rng(1)
    for _ in range(50):
        pos = rng.uniform(-1, 1, (300, 3)) * rng.uniform(0.1, 6, 3) + rng.uniform(-20, 20, 3)
        extent, centre, radius = np.array([pos.min(0), pos.max(0)]), rng.uniform(-30, 30, 3), rng.uniform(0.1, 3.4)
        image_centres = images(centre, radius, extent, box)
        indices_near = [np.flatnonzero(np.linalg.norm(pos - c, axis=1) <= radius) for c in image_centres]
        expected = np.flatnonzero(np.linalg.norm(wrapped(pos - centre, box or 0), axis=1) <= radius)
        assert sorted(np.concatenate([[], *indices_near])) == sorted(expected)
        assert len(image_centres) <= 27


def test_a_domain_holds_its_particles_well_inside():
    rng = np.random.default_rng(2)
    for scale, shift in ((1, 0), (1e-3, 1e5), (1e6, -3), (0, 0), (0, -7)):
        pos = scale * rng.normal(0, 1, (50, 3)) + shift
        left, right = domain_of({"a": np.array([pos.min(0), pos.max(0)]), "b": np.full((2, 3), pos[0])})
        assert (left < pos - 1e-6 * np.abs(pos)).all()
        assert (right > pos + 1e-6 * np.abs(pos)).all()
    assert np.isfinite(domain_of({"a": np.array([[0, 0, np.nan], [1, 1, np.nan]])})).all()
    assert np.isfinite(domain_of({})).all()


@pytest.mark.parametrize("form", ["tipsy", "gizmo"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_positions_that_are_no_numbers_are_missed_by_no_region(form, bad, tmp_path, monkeypatch):
    galaxy = placed("inside", 60)
    galaxy.stars.pos_kpc[7, 1] = bad
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", 10)
    monkeypatch.setattr("yt.geometry.particle_geometry_handler.ParticleIndex.chunksize", 20)
    with np.errstate(invalid="ignore"):
        path = write(tmp_path, form, galaxy)
    with (
        Snapshot(path, form) as snapshot,
        pytest.raises(SnapshotError, match=f"NaN or infinite values in ({'|'.join(KINDS['stars'])})/Coordinates"),
    ):
        snapshot.galaxy(np.full(3, 300.0), 10.0)


def isolated(path: Path, box: float, reach: float = 60.0, shift: float = 0.0, **header: object) -> tuple[Path, Galaxy]:
    """Write a run without expansion, its dark matter in a ball, with Header entries as a parameter file leaves them."""
    rng, cloud = np.random.default_rng(4), layouts.galaxy(400)
    ball = rng.normal(0, 1, (400, 3))
    ball *= (reach * rng.random(400) ** (1 / 3) / np.linalg.norm(ball, axis=1))[:, None]
    galaxy = Galaxy(cloud.stars, cloud.gas, Particles(ball, cloud.dark.vel_kms, cloud.dark.mass_msun), empty())
    layouts.fire(path, galaxy)
    with h5py.File(path, "r+") as file:
        for number, kind in layouts.TYPES.items():
            file[f"PartType{number}/Coordinates"][...] = galaxy.components()[kind].pos_kpc + shift
        attributes = {
            "OmegaLambda": 0.0,
            "Omega0": 0.0,
            "Redshift": 0.0,
            "Time": 0.5,
            "HubbleParam": 1.0,
            "BoxSize": box,
        }
        for key in attributes.keys() | header.keys():
            file["Header"].attrs.pop(key, None)
        file["Header"].attrs.update({key: value for key, value in (attributes | header).items() if value is not None})
    return path, galaxy


def enclosed(path: Path, radius: float = 30.0, shift: float = 0.0, units: dict | None = None) -> float:
    """Dark mass within the radius [1e10 Msun of the file]."""
    with Snapshot(path, "gizmo", units=units) as snapshot:
        return snapshot.galaxy(np.full(3, shift), radius).dark.mass_msun.sum() / snapshot.units.mass_msun


def true_mass(galaxy: Galaxy, radius: float = 30.0) -> float:
    inside = np.linalg.norm(galaxy.dark.pos_kpc, axis=1) <= radius
    return galaxy.dark.mass_msun[inside].sum() / layouts.MASS_H


@pytest.mark.parametrize(
    ("box", "read_whole_below"), [(0.0, 10), (1.0, 10), (80.0, 10), (80.0, 10**9), (119.0, 10**9), (1e3, 10)]
)
def test_a_run_that_is_not_cosmological_and_leaves_its_box_is_not_wrapped(box, read_whole_below, tmp_path, monkeypatch):
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", read_whole_below)
    path, galaxy = isolated(tmp_path / "snap.hdf5", box)
    with Snapshot(path, "gizmo") as snapshot:
        for radius in (30.0, 39.0, 55.0):
            dark_mass = snapshot.galaxy(np.zeros(3), radius).dark.mass_msun.sum() / snapshot.units.mass_msun
            assert dark_mass == pytest.approx(true_mass(galaxy, radius), rel=1e-6)
        assert snapshot.units.box_kpc is None
        assert box == 0 or f"its box of {box:g} kpc is left by positions" in snapshot.units.source


def test_a_box_that_is_not_left_stays_one(tmp_path):
    """The box is the suite file's or the header's: a run may be periodic without being cosmological."""
    path, galaxy = isolated(tmp_path / "snap.hdf5", 200.0, shift=100.0)
    with h5py.File(path, "r+") as file:
        for number in layouts.TYPES:
            pos = file[f"PartType{number}/Coordinates"]
            pos[...] = np.where((moved := np.mod(pos[...] + 90, 200)) > 199.9, 200.0, moved)  # on the face itself
    assert enclosed(path, 50.0, 190.0) == pytest.approx(true_mass(galaxy, 50.0), rel=0.02)
    with h5py.File(path, "r+") as file:
        file["PartType1/Coordinates"][...] -= 10
    assert enclosed(path, 50.0, 180.0, {"box": 200.0}) > 2 * enclosed(path, 50.0, 180.0)


def test_positions_wider_than_a_cosmological_box_are_refused_until_the_suite_file_says_what_it_is(tmp_path):
    path, galaxy = isolated(tmp_path / "snap.hdf5", 80.0, OmegaLambda=0.7, Time=1.0)
    with pytest.raises(
        SnapshotError, match=r"PartType1/Coordinates span 1\d\d.* kpc in a box of 80 kpc.*`units: {box: none}"
    ):
        enclosed(path)
    for units in ({"box": "none"}, {"cosmological": False}):
        assert enclosed(path, 39.0, units=units) == pytest.approx(true_mass(galaxy, 39.0), rel=1e-6)
    assert enclosed(path, 39.0, units={"box": 80.0}) > 1.01 * true_mass(galaxy, 39.0)


@pytest.mark.parametrize(
    "header", [{"BoxSize": 8.0}, {"BoxSize": [1.0, 2.0, 3.0]}, {"BoxSize": np.nan}, {"BoxSize": -5.0}]
)
def test_a_wrong_box_is_refused_or_overruled(header, tmp_path):
    """A BoxSize in Mpc/h beside positions in kpc/h, and what is no box at all."""
    path = layouts.fire(tmp_path / "snap.hdf5", layouts.galaxy())
    layouts.edit(path, layouts.set_attrs(**header))
    with pytest.raises(SnapshotError, match=r"more than a box|span|unequal sides|its box side"):
        enclosed(path)
    written = layouts.galaxy()
    for units in ({"box": BOX / A}, {"box": BOX / A, "length_kpc": 1.0}):
        with Snapshot(path, "gizmo", units=units) as snapshot:
            assert snapshot.units.box_kpc == pytest.approx(BOX)
            assert "box: 6666.6" in snapshot.units.source
            assert len(snapshot.galaxy(np.zeros(3), 100.0).stars) == len(written.stars)
    assert 0 < len(layouts.read(path, "gizmo", units={"box": "none"}).stars) < len(written.stars)


@pytest.mark.parametrize("factor", [1000.0, 1 / H, 1 / A])
def test_a_box_that_is_not_filled_by_particles_that_fill_one_is_refused(factor, tmp_path):
    """BoxSize is in another unit than positions: nothing would be wrapped, and a galaxy on a face would lose a half."""
    galaxy = placed("inside", 2000)
    path = write(tmp_path, "gadget", galaxy, box_kpc=factor * BOX)
    layouts.assert_refused(path, "gadget", r"positions fill a cube of 39\d\d.* kpc from the corner of a box of")
    with Snapshot(path, "gadget", units={"box": BOX / A}) as snapshot:
        assert assert_true_sums(snapshot, on_disk(path, "gadget", 1), BOX, [(np.zeros(3), 300.0)]) > 2000


def test_a_given_box_begins_where_the_format_lets_it(tmp_path):
    path = write(tmp_path, "tipsy", placed("inside"))
    for suite_units, box, corner in (
        ({}, BOX, -0.5 * BOX),
        ({"box": 1e4}, 1e4 * A, -5e3 * A),
        ({"box": "none"}, None, -0.5 * BOX),
    ):
        units_read = FORMATS["tipsy"].units(path, suite_units)
        assert units_read.box_kpc == (None if box is None else pytest.approx(box))
        assert units_read.corner_kpc == pytest.approx(corner)


@pytest.mark.parametrize(
    ("param", "box"),
    [
        ("bPeriodic = 0", None),
        ("dxPeriod = 2\ndyPeriod = 2\ndzPeriod = 2", 2 * BOX),
        ("dyPeriod = 2", "unequal periods"),
    ],
)
def test_tipsy_is_as_periodic_as_its_param_says(param, box, tmp_path):
    path = write(tmp_path, "tipsy", placed("inside"))
    lines = path.with_suffix(".param").read_text().splitlines()
    others = [line for line in lines if line.split("=")[0].strip() not in param]
    path.with_suffix(".param").write_text("\n".join([*others, param, ""]))
    if isinstance(box, str):
        with pytest.raises(SnapshotError, match=box):
            FORMATS["tipsy"].units(path, {})
        assert FORMATS["tipsy"].units(path, {"box": "none"}).box_kpc is None
    else:
        assert FORMATS["tipsy"].units(path, {}).box_kpc == (box and pytest.approx(box))


def test_a_param_of_an_expanding_run_that_does_not_say_comoving_is_asked(tmp_path):
    """Lengths would be 1 / a too large: .param files that are made by hand have only units and cosmology."""
    path = layouts.tipsy(tmp_path / "run.00128", layouts.galaxy())
    param = path.with_suffix(".param")
    text = param.read_text()
    param.write_text(text.replace("bComove = 1", "dOmega0 = 0.3\ndLambda = 0.7"))
    with pytest.raises(SnapshotError, match=r"dOmega0 or dLambda, and no bComove.*`units: {cosmological: true}`"):
        FORMATS["tipsy"].units(path, {})
    assert FORMATS["tipsy"].units(path, {"cosmological": True}).length_kpc == pytest.approx(layouts.BOX)
    assert FORMATS["tipsy"].units(path, {"cosmological": False}).length_kpc == pytest.approx(layouts.BOX / layouts.A)
    param.write_text(text.replace("bComove = 1", ""))  # as Gasoline takes it
    assert not FORMATS["tipsy"].units(path, {}).cosmological


def test_a_param_of_a_comoving_run_without_its_hubble_constant_is_refused(tmp_path):
    """Catalogues in kpc/h were read as in kpc; one that does not expand has no need of it."""
    path = layouts.tipsy(tmp_path / "run.00128", layouts.galaxy())
    param = path.with_suffix(".param")
    param.write_text(re.sub("dHubble0 .*\n", "", param.read_text()))
    with pytest.raises(SnapshotError, match=r"run.param is a comoving run's and has no dHubble0"):
        FORMATS["tipsy"].units(path, {})
    assert FORMATS["tipsy"].units(path, {"cosmological": False}).hubble == 1


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"Redshift": 0.0}, "contradicts itself"),
        ({"Redshift": None}, "has no Redshift, so Time = 0.5 may be a scale factor or a time"),
        ({"Redshift": None, "Time": 0.0}, "no Redshift and no scale factor"),
        ({"Redshift": None, "Time": 60.0, "ExpansionFactor": 60.0}, "scale factor a = 60"),
    ],
)
def test_dark_energy_in_the_header_of_an_isolated_run_is_overruled_by_the_suite_file(header, words, tmp_path):
    path, galaxy = isolated(tmp_path / "snap.hdf5", 0.0, OmegaLambda=0.7, HubbleParam=0.7, **header)
    with pytest.raises(SnapshotError, match=rf"{words}.*`units: {{cosmological: "):
        FORMATS["gizmo"].units(path, {})
    said = {"cosmological": False, "length_kpc": 1.0, "mass_msun": 1e10}
    units = FORMATS["gizmo"].units(path, said)
    assert (units.scale_factor, units.length_kpc, units.cosmological) == (1, pytest.approx(1 / 0.7), False)
    assert "cosmological: false by the suite file" in units.source
    dark_mass = enclosed(path, 30.0 / 0.7, units=said)
    assert dark_mass == pytest.approx(true_mass(galaxy, 30.0), rel=1e-6)


@pytest.mark.parametrize("group", [None, "Header"])
@pytest.mark.parametrize("form", ["gadget", "arepo", "gizmo"])
def test_whether_an_isolated_runs_units_have_factors_of_h_is_asked(form, group, tmp_path):
    """Its numbers run the same either way; the answers that the message shows make lengths and masses 1 / h apart."""
    path, _ = isolated(tmp_path / "snap.hdf5", 0.0, HubbleParam=0.7)
    words = {"UnitLength_in_cm": layouts.KPC, "UnitMass_in_g": 1e10 * layouts.MSUN, "UnitVelocity_in_cm_per_s": 1e5}
    layouts.edit(path, lambda file: file["Header"].attrs.update(words if group else {}))
    with pytest.raises(SnapshotError, match=r"HubbleParam = 0\.7 in a run that is not cosmol.*`units: .*else") as asked:
        FORMATS[form].units(path, {})
    answers = [yaml.safe_load(text)["units"] for text in re.findall(r"`(units: {.*?})`", str(asked.value))]
    found = [FORMATS[form].units(path, {key: float(value) for key, value in said.items()}) for said in answers]
    assert [units.length_kpc for units in found] == pytest.approx([1 / 0.7, 1])
    assert [units.mass_msun for units in found] == pytest.approx([1e10 / 0.7, 1e10])
    with pytest.raises(SnapshotError, match=r"give `units: \{mass_msun: 1e"):
        FORMATS[form].units(path, {"length_kpc": 1.0})
    with h5py.File(path, "r+") as file:  # GIZMO's newer headers say that they have them
        for key, name in (
            ("Length", "UnitLength_in_cm"),
            ("Mass", "UnitMass_in_g"),
            ("Velocity", "UnitVelocity_in_cm_per_s"),
        ):
            file["Header"].attrs.pop(name, None)
            file["Header"].attrs[f"Unit{key}_In_CGS"] = words[name] / (1.0 if key == "Velocity" else 0.7)
    assert FORMATS[form].units(path, {}).length_kpc == pytest.approx(1 / 0.7)


def test_a_cosmological_run_may_be_said_to_be_one(tmp_path):
    path, _ = isolated(tmp_path / "snap.hdf5", 0.0, Redshift=None, Omega0=1.0)  # an Einstein-de Sitter universe
    assert FORMATS["gizmo"].units(path, {}).scale_factor == 1
    assert FORMATS["gizmo"].units(path, {"cosmological": True}).scale_factor == 0.5
    path = write(tmp_path, "tipsy", placed("inside"))
    for cosmological, a, box in ((None, A, BOX), (True, A, BOX), (False, 1.0, BOX / A)):
        units = FORMATS["tipsy"].units(path, {} if cosmological is None else {"cosmological": cosmological})
        assert (units.scale_factor, units.box_kpc) == pytest.approx((a, box))


@pytest.mark.parametrize("z", [0.0, 4.44e-16, -2e-16, 1e-9])
@pytest.mark.parametrize("cosmological_flag", [None, 0, 1])
def test_a_redshift_that_is_rounding_is_none(z, cosmological_flag, tmp_path):
    path = layouts.swift(tmp_path / "snap.hdf5", layouts.galaxy())
    with h5py.File(path, "r+") as file:
        file["Header"].attrs["Redshift"] = z
        for group in [file["Header"].attrs, file["Cosmology"].attrs]:
            for key in {"Scale-factor", "Cosmological run"} & group.keys():
                del group[key]
        if cosmological_flag is None:  # a cutout that lost the flag for a cosmological run
            del file["Cosmology"]
        else:
            file["Cosmology"].attrs["Cosmological run"] = [cosmological_flag]
            file["Cosmology"].attrs["Redshift"] = z
    assert FORMATS["swift"].units(path, {}).scale_factor == pytest.approx(1, abs=2e-9)
    path, _ = isolated(tmp_path / "other.hdf5", 0.0, Redshift=z, Time=1.0, ComovingIntegrationOn=cosmological_flag or 0)
    assert FORMATS["gadget"].units(path, {}).scale_factor == pytest.approx(1, abs=2e-9)


def test_a_swift_cutout_without_its_cosmology_is_taken_at_its_redshift(tmp_path):
    written = layouts.galaxy()
    path = layouts.swift(tmp_path / "snap.hdf5", written)
    with h5py.File(path, "r+") as file:
        del file["Cosmology"], file["Header"].attrs["Scale-factor"]
    with Snapshot(path, "swift") as snapshot:
        assert snapshot.units.scale_factor == pytest.approx(A)
        assert snapshot.galaxy(np.zeros(3), 100.0).stars.mass_msun.sum() == pytest.approx(written.stars.mass_msun.sum())


def test_swift_groups_of_two_snapshots_are_refused(tmp_path):
    path = layouts.swift(tmp_path / "snap.hdf5", layouts.galaxy())
    layouts.edit(path, lambda file: file["Cosmology"].attrs.update({"Scale-factor": [0.3], "Redshift": [1 / 0.3 - 1]}))
    with pytest.raises(SnapshotError, match=r"a = 0\.6 by its Header, and 0\.3 by its Cosmology group; is one of them"):
        FORMATS["swift"].units(path, {})


def test_the_box_of_the_parameters_is_that_of_a_header_that_has_lost_it(tmp_path):
    """Of a galaxy on a corner seven eighths were lost."""
    written = layouts.galaxy()
    path = layouts.gadget4(tmp_path / "snap.hdf5", written)
    with h5py.File(path, "r+") as file:
        file["Parameters"].attrs["BoxSize"] = file["Header"].attrs.pop("BoxSize")
    assert layouts.read(path, "gadget").stars.mass_msun.sum() == pytest.approx(written.stars.mass_msun.sum())


def test_a_box_is_settled_by_positions_alone():
    units = CodeUnits(1, 1, 1, 100.0, corner_kpc=-50.0)
    inside, outside = np.array([[-50.0] * 3, [50.0] * 3]), np.array([[-50.0] * 3, [50.0, 50.0, 50.01]])
    assert settled_box(Path("x"), units, {"a": inside}) == units
    assert settled_box(Path("x"), units, {"a": outside}) == units
    assert settled_box(Path("x"), units, {}) == units
    for extent, box in ((inside, 100.0), (outside, None), (inside + 5e-5, 100.0)):
        static = CodeUnits(1, 1, 1, 100.0, corner_kpc=-50.0, cosmological=False)
        assert settled_box(Path("x"), static, {"a": extent}).box_kpc == box


@pytest.mark.parametrize("damage", ["no", "index", "extents"])
def test_an_index_is_kept_with_its_digest_and_made_anew_where_it_is_damaged(damage, tmp_path, monkeypatch):
    indexes_made, measure = [], domain.measured
    monkeypatch.setattr(domain, "measured", lambda *args, **kw: indexes_made.append(1) or measure(*args, **kw))
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", 10)
    path = write(tmp_path, "gizmo", placed("across one face"), files=3)
    expected, spheres = on_disk(path, "gizmo", 3), [(np.array([BOX, 0.5 * BOX, 0]), 150.0)]
    for attempt in (1, 2):
        with Snapshot(path, "gizmo", indexes=tmp_path / "indexes") as snapshot:
            assert assert_true_sums(snapshot, expected, BOX, spheres) > 200
        assert len(indexes_made) == (1 if damage == "no" else attempt)
        (index,), (extents,) = ((tmp_path / "indexes").glob(f"*.{end}") for end in ("blocks", "json"))
        if damage == "index":  # one bit, in a place that HDF5 does not check
            raw = bytearray(index.read_bytes())
            raw[-1] ^= 1
            index.write_bytes(raw)
        if damage == "extents":
            extents.write_text(extents.read_text()[:-9])


@pytest.mark.parametrize("kind", ["virtual", "linked"])
def test_an_index_is_not_that_of_parts_that_were_replaced(kind, tmp_path, monkeypatch):
    """Two clouds in another order: by an index of the files before, each would be looked for where the other one is."""
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", 10)
    monkeypatch.setattr("yt.geometry.particle_geometry_handler.ParticleIndex.chunksize", 40)
    clouds = [(layouts.galaxy(seed=seed), np.full(3, place)) for seed, place in ((3, 1000.0), (4, 3000.0))]
    for order in (1, -1):
        parts = [
            concatenate([replace(g.components()[name], pos_kpc=g.components()[name].pos_kpc + x) for g, x in clouds])
            for name in ("stars", "gas", "dark")
        ]
        both = Galaxy(*parts, empty())
        if kind == "virtual":
            path = layouts.swift_virtual(tmp_path / "snap_028.hdf5", both, files=2)
        else:
            target, path = layouts.swift(tmp_path / "whole.hdf5", both), tmp_path / "snap_028.hdf5"
            if order == 1:
                with h5py.File(target) as whole, h5py.File(path, "w") as link:
                    for name in whole:
                        link[name] = h5py.ExternalLink(target.name, name)
                    del link["Header"]
                    whole.copy("Header", link)
        if order == 1:
            before = path.stat()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with Snapshot(path, "swift", indexes=tmp_path / "indexes") as snapshot:
            for cloud, place in clouds:
                inside = np.linalg.norm(cloud.stars.pos_kpc, axis=1) < 100
                assert len(snapshot.galaxy(place, 100.0).stars) == np.count_nonzero(inside) == 40
        clouds.reverse()
    assert len(FORMATS["swift"].listed_files(path)) == (3 if kind == "virtual" else 2)


def test_values_that_yt_does_not_return_are_missed(tmp_path, monkeypatch):
    from yt.frontends.gadget.io import IOHandlerGadgetHDF5

    read_all = IOHandlerGadgetHDF5._read_particle_selection

    def read_all_but_last(self, chunks, selector, fields):
        return {field: values[:-1] for field, values in read_all(self, chunks, selector, fields).items()}

    monkeypatch.setattr(IOHandlerGadgetHDF5, "_read_particle_selection", read_all_but_last)
    path = write(tmp_path, "gizmo", placed("inside"))
    with Snapshot(path, "gizmo") as snapshot, pytest.raises(SnapshotError, match="149 of the 150 values of PartType"):
        snapshot.galaxy(np.zeros(3), 100.0)


def suite_file(folder: Path, **further_keys: object) -> Path:
    content = {"name": "mine", "format": "gizmo", "snapshots": "*.hdf5", "aperture": {"kpc": 39}} | further_keys
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return folder / "mine.yaml"


@pytest.mark.parametrize(
    ("written", "box"), [("none", "none"), ("None", "none"), (None, None), (100000, 1e5), (5e4, 5e4)]
)
def test_a_suite_file_says_what_the_box_is(written, box, tmp_path):
    units = load_suite(suite_file(tmp_path, units={"box": written, "cosmological": False})).units
    assert units.box == box  # a null counts as a key that is left out, in a suite file and in a store's copy of it
    assert units.cosmological is False
    assert Units().model_dump(exclude_none=True) == {}


@pytest.mark.parametrize("box", ["nothing", 0, -3.0, float("inf"), True, [1, 1, 1]])
def test_a_box_that_is_neither_none_nor_a_side_is_refused(box, tmp_path):
    with pytest.raises(SuiteError, match=r"`units.box.*comoving kpc"):
        load_suite(suite_file(tmp_path, units={"box": box}))


def test_snapshots_that_do_not_belong_together_are_named(tmp_path, capsys):
    for i in range(4):
        layouts.fire(tmp_path / f"snap_{i}.hdf5", layouts.galaxy(seed=i))
    suite = load_suite(suite_file(tmp_path))
    assert len(list_tasks(suite)) == 4
    assert capsys.readouterr().err == ""
    with h5py.File(tmp_path / "snap_2.hdf5", "r+") as file:
        file["Header"].attrs["HubbleParam"] = 1.0
        file["Header"].attrs["NumPart_Total"] = [40, 40, 7, 0, 40, 0]
    with h5py.File(tmp_path / "snap_3.hdf5", "r+") as file:
        file.create_group("Units").attrs.update(
            UnitLength_in_cm=layouts.KPC, UnitMass_in_g=layouts.MSUN * 1e10, UnitVelocity_in_cm_per_s=1e5
        )
    assert len(list_tasks(suite)) == 4
    (warning,) = capsys.readouterr().err.splitlines()
    for words in (
        r"h: 0.7 in 3 (",
        r"1 in 1 (",
        "snap_2.hdf5",
        "the file's Units group in 1 (",
        "PartType2, PartType4 in 1",
    ):
        assert words in warning
    assert len(list_tasks(suite.model_copy(update={"snapshots": "snap_[01].hdf5"}))) == 2
    assert capsys.readouterr().err == ""
