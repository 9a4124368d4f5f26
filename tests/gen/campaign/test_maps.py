"""`kinmass maps` from end to end: the store, ranks, resuming, failures."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import ROOT, called, command, tree

from kinmass.gen.campaign.plan import drawn, list_tasks
from kinmass.gen.campaign.record import Settings, frame_of, map_galaxy
from kinmass.gen.formats import gadget
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.physics.particles import Galaxy, Particles
from kinmass.gen.physics.profile import enclosed_mass, half_mass_radius, menc_at
from kinmass.gen.physics.sightline import sightlines
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.storage import store
from kinmass.gen.suite import Suite, SuiteError, load_suite
from kinmass.train.data.dataset import part_of


def maps(*arguments: object, ranks: int = 1):
    words = ("gen", "maps", *arguments, "--views", 2, "--pixels", 16)
    return command(*words, ranks=ranks, check=False) if ranks > 1 else called(*words, check=False)


def test_opens_in_xarray_with_names_and_units(map_store):
    with xr.open_zarr(map_store, group="middle", consolidated=False) as data:
        assert dict(data.maps.sizes) == {"galaxy": 12, "view": 2, "channel": 8, "y": 16, "x": 16}
        assert list(data.channel.values[:2]) == ["stars_density", "stars_velocity"]
        assert data.mass.attrs["units"] == "Msun"
        assert set(data.status.values) == {store.DONE}
        assert data.attrs["schema_version"] == store.SCHEMA_VERSION
        assert data.attrs["config"]["suite"]["format"] == "gizmo"


def test_mass_read_back_from_the_store(mocks, map_store):
    """Mass in a map = mass of the particles whose projection lies in the field, kernels' spill apart."""
    suite = load_suite(mocks / "middle" / "middle.yaml")
    group = store.open_suite(map_store, "middle")
    path = suite.snapshot_paths()[3]
    index = list(group["galaxy"][:]).index(suite.galaxy_name(path, "0"))
    with Snapshot(path, "gizmo") as snapshot:
        galaxy = snapshot.galaxy(group["centre"][index], group["radius"][index, -1])
    for view in range(2):
        turn, r_e = group["sightline"][index, view], group["half_mass_radius"][index, view]
        area = float(group["pixel_scale"][index, view]) ** 2
        for channel, particles in ((0, galaxy.stars), (4, galaxy.gas)):
            projected = particles.pos_kpc @ turn[:2].T
            inside = (np.abs(projected) < 3 * r_e).all(axis=1)
            mapped = group["maps"][index, view, channel].sum() * area
            tolerance = 1e-5 if channel == 0 else 0.05
            assert mapped == pytest.approx(particles.mass_msun[inside].sum(), rel=tolerance)
            assert group["maps"][index, view, channel + 3].sum() == inside.sum()


def test_truth_is_the_sum_over_the_files_particles(mocks, map_store):
    group = store.open_suite(map_store, "quiet")
    suite = load_suite(mocks / "quiet" / "quiet.yaml")
    with h5py.File(suite.snapshot_paths()[0]) as file:
        h, a = file["Header"].attrs["HubbleParam"], file["Header"].attrs["Time"]
        box = file["Header"].attrs["BoxSize"]
        pos = np.concatenate([file[f"PartType{t}/Coordinates"][()] for t in (0, 1, 4)])
        mass = np.concatenate([file[f"PartType{t}/Masses"][()] for t in (0, 1, 4)]).astype(float)
    for index in (0, 4):
        offset = pos - group["centre"][index] / (a / h)
        offset -= box * np.round(offset / box)
        expected = enclosed_mass(offset * a / h, mass * 1e10 / h, group["radius"][index])
        np.testing.assert_allclose(group["mass"][index, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(group["mass"][index, 0], group["mass"][index, 1:].sum(0), rtol=1e-12)


def test_a_galaxy_is_the_same_wherever_its_arrays_lie_in_memory():
    """Every array that is stored of it, to the last bit, whatever its rank has mapped before."""
    rng, settings = np.random.default_rng(4), Settings(views=2, pixels=16)

    def cloud(n: int, size_kpc: float, support_kpc: np.ndarray | None = None) -> Particles:
        pos, vel = rng.normal(0, size_kpc, (n, 3)), rng.normal(0, 100, (n, 3))
        return Particles(np.asfortranarray(pos), np.asfortranarray(vel), rng.uniform(1e5, 2e5, n), support_kpc)

    def moved(particles: Particles) -> Particles:
        """Copy particles to places that are a multiple of 8 bytes, as arrays may be, and no more."""
        copies = {}
        for name in ("pos_kpc", "vel_kms", "mass_msun", "support_kpc"):
            if (array := getattr(particles, name)) is not None:
                start = rng.integers(8)
                copies[name] = np.empty(array.size + 8)[start : start + array.size].reshape(array.shape, order="F")
                copies[name][...] = array
        return replace(particles, **copies)

    parts = cloud(3000, 2.0), cloud(2000, 3.0, rng.uniform(0.05, 2, 2000)), cloud(4000, 20.0)
    found: set[tuple[bytes, ...]] = set()
    for _ in range(50):
        stars, gas, dark = map(moved, parts)
        arrays = map_galaxy(Galaxy(stars, gas, dark, stars), frame_of(stars, 5.0, "x", settings), 30.0, settings)
        found.add(tuple(np.asarray(array).tobytes() for array in arrays.values()))
    assert len(found) == 1


@pytest.mark.parametrize("threads", ["multiple", "single"])  # of the MPI
def test_two_ranks_write_the_same_bytes_as_one(threads, mocks, map_store, tmp_path, monkeypatch):
    monkeypatch.setenv("MPI4PY_RC_THREAD_LEVEL", threads)
    done = maps(*sorted(mocks.glob("*/*.yaml")), "--out", tmp_path / "maps.zarr", ranks=2)
    assert done.returncode == 0, done.stderr
    assert "36 galaxies done, 0 failed" in done.stdout
    one, two = tree(map_store), tree(tmp_path / "maps.zarr")
    assert len(one) > 300
    assert one == two


def test_an_interrupted_run_goes_on_to_the_same_bytes(mocks, map_store, own_store):
    group = store.open_suite(own_store, "bursty")
    for index in (2, 5):  # as a kill would leave them: no status, and one with half its arrays
        (own_store / "bursty" / "status" / "c" / str(index)).unlink()
        (own_store / "bursty" / "maps" / f"c.{index}.0.0.0.0").unlink()
    assert (group["status"][:] == store.DONE).sum() == 10
    again = maps(*sorted(mocks.glob("*/*.yaml")), "--out", own_store)
    assert again.returncode == 0, again.stderr
    assert tree(own_store) == tree(map_store)


def test_other_settings_do_not_mix_into_a_store(mocks, map_store):
    before = tree(map_store)
    done = called("gen", "maps", mocks / "quiet" / "quiet.yaml", "--out", map_store, "--views", 3, check=False)
    assert done.returncode == 2
    assert "pixels: 16 -> 32; views: 2 -> 3" in done.stderr
    assert tree(map_store) == before


def write_zoo(folder: Path) -> None:
    """Galaxies that work, lack gas, lack stars, hold NaN, are cut short or are listed but not there."""
    good = make_galaxy("middle", 0, 1, 600, 300, 600)[0]
    bare = Galaxy(good.stars, good.gas[:0], good.dark, good.black_holes)
    starless = Galaxy(good.stars[:0], good.gas, good.dark, good.black_holes)
    centre, still = np.full(3, 500.0), np.zeros(3)
    for name, galaxy in (
        ("a_good", good),
        ("b_gasless", bare),
        ("c_starless", starless),
        ("d_nan", good),
        ("e_cut", good),
    ):
        gadget.write(folder / f"{name}.hdf5", [(galaxy, centre, still)], 1000.0, 1.0, 0.7, "gizmo")
    gadget.write(folder / "f_elsewhere.hdf5", [(good, centre * 0.2, still)], 1000.0, 1.0, 0.7, "gizmo")
    with h5py.File(folder / "d_nan.hdf5", "r+") as file:
        file["PartType4/Velocities"][3] = np.nan
    cut = folder / "e_cut.hdf5"
    cut.write_bytes(cut.read_bytes()[:20_000])
    (folder / "centres.csv").write_text("id,x,y,z,r200\n0,500,500,500,100\n")
    (folder / "zoo.yaml").write_text(
        "name: zoo\nformat: gizmo\nsnapshots: '*.hdf5'\naperture: {kpc: 80}\n"
        "catalogue: {format: table, path: centres.csv}\n"
    )


@pytest.mark.parametrize("ranks", [1, 2])
def test_bad_galaxies_fail_alone_and_say_why(ranks, tmp_path):
    write_zoo(tmp_path)
    done = maps(tmp_path / "zoo.yaml", "--out", tmp_path / "maps.zarr", ranks=ranks)
    assert done.returncode == 3
    assert "2 galaxies done, 4 failed" in done.stdout
    assert "failures.jsonl" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "maps.zarr" / "failures.jsonl").read_text().splitlines()]
    reasons = {line["galaxy"].split(":")[0]: line["reason"] for line in lines}
    assert set(reasons) == {"c_starless", "d_nan", "e_cut", "f_elsewhere"}
    assert "0 star particles" in reasons["c_starless"]
    assert "NaN" in reasons["d_nan"]
    assert "cut short" in reasons["e_cut"]
    assert "0 star particles" in reasons["f_elsewhere"]
    group = store.open_suite(tmp_path / "maps.zarr", "zoo")
    assert group["status"][:].tolist() == [1, 1, 2, 2, 2, 2]
    assert group["has_gas"][:2].tolist() == [1, 0]
    assert (group["maps"][1, :, 4:] == 0).all()
    assert (group["maps"][1, :, 0] > 0).any()
    # What failed is tried again, and only that.
    (tmp_path / "d_nan.hdf5").write_bytes((tmp_path / "a_good.hdf5").read_bytes())
    again = maps(tmp_path / "zoo.yaml", "--out", tmp_path / "maps.zarr", ranks=ranks)
    assert "3 galaxies done, 3 failed" in again.stdout


def test_dry_run_lists_and_writes_nothing(mocks, tmp_path):
    done = maps(mocks / "quiet" / "quiet.yaml", "--out", tmp_path / "maps.zarr", "--dry-run")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 12
    assert not (tmp_path / "maps.zarr").exists()


def test_max_galaxies_draws_by_name_and_keeps_what_it_has_drawn(mocks, tmp_path):
    suite = load_suite(mocks / "quiet" / "quiet.yaml")

    def names(max_galaxies: int | None, tasks_of: Suite = suite) -> list[str]:
        selection = tasks_of.selection.model_copy(update={"max_galaxies": max_galaxies})
        return [t.name for t in list_tasks(tasks_of.model_copy(update={"selection": selection}))]

    all_names = names(None)
    chosen = [names(max_galaxies) for max_galaxies in range(1, 13)]
    assert [len(c) for c in chosen] == list(range(1, 13))
    for fewer, more in itertools.pairwise(chosen):
        assert set(fewer) < set(more)
        assert more == [n for n in all_names if n in more]  # in the catalogue's order
    assert chosen[3] != all_names[:4]
    catalogue = [f"snap_099:{i}" for i in range(10_000)]  # by falling mass, as SUBFIND's are
    sample = drawn(catalogue, 1000)
    assert sample == drawn(catalogue[::-1], 1000)
    rank = np.array([int(name.split(":")[1]) for name in sample])
    assert rank.mean() == pytest.approx(5000, abs=4 * 2887 / 1000**0.5)
    assert len(sample - drawn([*catalogue, "snap_100:0"], 1000)) <= 1
    share = np.mean([part_of(name) == "train" for name in sample])
    assert share == pytest.approx(0.75, abs=0.05)  # the split does not follow from the draw
    # A snapshot without its catalogue takes no galaxy's place, and is not passed over.
    shutil.copytree(mocks / "quiet", tmp_path / "q")
    (tmp_path / "q" / "snap_000.hdf5").write_bytes(b"")
    assert names(2, suite.model_copy(update={"root": tmp_path / "q"}))[0].endswith(":?")
    assert len(names(2, suite.model_copy(update={"root": tmp_path / "q"}))) == 3


GOOD = {"name": "x", "format": "gizmo", "snapshots": "*.hdf5", "aperture": {"kpc": 10}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"snapshot": "x"},
            ["unknown key `snapshot`, did you mean `snapshots`?", "known keys: name, format, snapshots"],
        ),
        ({"aperture": {"kpc": 10, "mpc": 1}}, ["unknown key `aperture.mpc`", "known keys: kpc, r200"]),
        ({"kpc": 30}, ["key `kpc` belongs below `aperture`, indented"]),
        ({"aperture": {"kpc": 10, "lineage": "x"}}, ["key `aperture.lineage` belongs outside of `aperture`"]),
        ({"aperture": {}}, ["aperture", "exactly one"]),
        ({"aperture": {"kpc": -1}}, ["aperture.kpc", "greater than 0"]),
        ({"format": "flash"}, ["flash", "tipsy, arepo, gizmo, gadget"]),
        ({"name": None}, ["name"]),
        ({"name": "TNG50-1 z0.1"}, ["letters without accents, digits, _ and - alone, not 'TNG50-1 z0.1'"]),
        ({"catalog": {"format": "ahf", "path": "x"}}, ["unknown key `catalog`, did you mean `catalogue`?"]),
        ({"catalogue": {"format": "ahf"}}, ["path"]),
        ({"particles": {"gas": ["PartTypeO"]}}, ["particles.gas", "gizmo has no type 'PartTypeO'", "PartType0"]),
        ({"format": "tipsy", "particles": {"stars": ["Star"]}}, ["particles.stars", "'Star'", "Stars"]),
    ],
)
def test_wrong_suite_files_name_the_key(change, words, tmp_path):
    import yaml

    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(SuiteError) as error:
        load_suite(path)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_wrong_key_ends_with_2_before_anything_runs(tmp_path):
    (tmp_path / "x.yaml").write_text("name: x\nformat: gizmo\nsnapshotz: y\naperture: {kpc: 10}\n")
    done = maps(tmp_path / "x.yaml", "--out", tmp_path / "maps.zarr")
    assert done.returncode == 2
    assert "known keys" in done.stderr
    assert not (tmp_path / "maps.zarr").exists()


def test_a_section_without_lines_is_none(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "name: x\nformat: gizmo\nsnapshots: y\naperture: {kpc: 4e1}\nunits: {box: 1e4}\nselection:\n#  min_stars: 9\n"
    )
    suite = load_suite(tmp_path / "x.yaml")
    assert (suite.selection.min_stars, suite.aperture.kpc, suite.units.box) == (200, 40.0, 1e4)


def test_shipped_templates_are_valid():
    templates = sorted((ROOT / "gen" / "templates").glob("*.yaml"))
    assert len(templates) >= 6
    assert all(isinstance(load_suite(path), Suite) for path in templates)


def test_store_of_another_schema_is_refused(own_store):
    zarr.open_group(own_store / "quiet", mode="r+").attrs["schema_version"] = 99
    with pytest.raises(store.StoreError, match="schema version 99"):
        store.open_suite(own_store, "quiet")


def test_sightlines_are_rotations_that_follow_the_name():
    turns = sightlines(0, "a", 400)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (400, 3, 3)), atol=1e-12)
    np.testing.assert_array_equal(turns[:5], sightlines(0, "a", 5))
    assert np.abs(turns[0] - sightlines(0, "b", 1)[0]).max() > 0.1
    # Isotropic: mean of the sight's direction nil, of its square a third.
    assert np.abs(turns[:, 2].mean(0)).max() < 0.1
    np.testing.assert_allclose((turns[:, 2] ** 2).mean(0), 1 / 3, atol=0.06)


@pytest.mark.parametrize("n", [1, 2, 100, 20_000])
def test_half_mass_radius_is_that_of_all_particles_sorted(n):
    rng = np.random.default_rng(n)
    for mass in (np.ones(n), rng.pareto(1.0, n) + 1):
        radius = rng.pareto(1.5, n)
        order = np.argsort(radius)
        cumulative = np.cumsum(mass[order])
        expected = np.interp(0.5 * cumulative[-1], cumulative - 0.5 * mass[order], radius[order])
        assert half_mass_radius(radius, mass) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [3, 40, 3000])
def test_half_mass_radius_knows_neither_order_nor_parts_of_particles(n):
    """Some radii are shared by particles of very different mass, as on a grid, and some particles have no mass."""
    rng = np.random.default_rng(n)
    radius, mass = np.round(rng.pareto(1.5, n), 1), 10 ** rng.normal(0, 2, n)
    expected = half_mass_radius(radius, mass)
    for order in (rng.permutation(n) for _ in range(5)):
        assert half_mass_radius(radius[order], mass[order]) == pytest.approx(expected, rel=1e-12)
    halves = half_mass_radius(np.tile(radius, 2), np.tile(0.5 * mass, 2))
    with_massless = half_mass_radius(np.append(radius, expected * rng.uniform(0, 2, n)), np.append(mass, np.zeros(n)))
    assert halves == pytest.approx(expected, rel=1e-12)
    assert with_massless == pytest.approx(expected, rel=1e-12)
    assert half_mass_radius(np.zeros(n), mass) == 0


def test_inclination_is_kept_within_its_range_and_stored(mocks, map_store, tmp_path):
    maps(mocks / "quiet" / "quiet.yaml", "--out", tmp_path / "maps.zarr", "--inclination", 40, 60)
    group = store.open_suite(tmp_path / "maps.zarr", "quiet")
    tilt = group["inclination"][:]
    assert ((tilt >= 40) & (tilt <= 60)).all()
    assert tilt.std() > 3
    # A disc's flattening says the same: axis ratio of the stars' second moments falls with inclination.
    group = store.open_suite(map_store, "quiet")
    x = (np.arange(16) + 0.5) / 16 - 0.5
    density = group["maps"][:, :, 0].reshape(-1, 16, 16).astype(float)
    xx, yy, xy = (
        np.einsum("nij,ij->n", density, w)
        for w in (x[None, :] ** 2 + 0 * x[:, None], x[:, None] ** 2 + 0 * x[None, :], x[:, None] * x[None, :])
    )
    mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    ratio = np.sqrt((mean - spread) / (mean + spread))
    assert np.corrcoef(ratio, group["inclination"][:].ravel())[0, 1] < -0.6


def test_every_snapshot_gives_its_galaxies_names_of_their_own():
    suite = Suite(**GOOD, root=Path("/archive"))
    paths = ("g1/g8.26e11.01024", "g1/g8.26e11.00512", "snap_099/snap_099.0.hdf5", "snap_099/snap_098.0.hdf5", "x.h5")
    assert [suite.galaxy_name(Path("/archive", path), "7") for path in paths] == [
        "g1.g8.26e11.01024:7", "g1.g8.26e11.00512:7", "snap_099.snap_099:7", "snap_099.snap_098:7", "x:7",
    ]  # fmt: skip


def test_snapshots_of_one_history_share_their_lineage(tmp_path):
    suite = Suite(**GOOD, lineage=r"g\d\.\d+e\d+")
    assert suite.lineage_of("g8.26e11.01024:3", None) == suite.lineage_of("g8.26e11.00512:1", None) == "g8.26e11"
    assert suite.lineage_of("anything", "tree 7") == "tree 7"
    assert Suite(**GOOD).lineage_of("anything", None) == "anything"
    with pytest.raises(SuiteError, match="finds nothing in the name x"):
        suite.lineage_of("x", None)
    for lineage in (r"\d*", r"(halo\d+)?"):  # which find nothing at the first place
        with pytest.raises(SuiteError, match=r"finds nothing in the name run\.halo1:0"):
            Suite(**GOOD, lineage=lineage).lineage_of("run.halo1:0", None)
    assert Suite(**GOOD, lineage=r"(\w+)\.h(\d+)?").lineage_of("run.halo1:0", None) == "run-"
    with pytest.raises(ValueError, match="no regular expression"):
        Suite(**GOOD, lineage="(")


def test_spheres_hold_the_part_of_each_cell_that_lies_in_them():
    """A sphere in uniform gas holds its volume, though it be smaller than a cell, and wherever the cells lie.

    To the truth of a galaxy too, which is what `map_galaxy` keeps. By their centres alone, cells of 2 kpc have from
    none to nine times the mass.
    """
    stars, dark = (getattr(make_galaxy("quiet", 0, 1, 2000, 50, 2000)[0], name) for name in ("stars", "dark"))
    lattice = 2.0 * (np.indices((24, 24, 24)).reshape(3, -1).T - 11.5)
    settings, aperture_kpc = Settings(views=1, pixels=4), 20.0
    frame = frame_of(stars, aperture_kpc, "x", settings)
    rng = np.random.default_rng(2)
    for _ in range(3):
        pos = lattice + rng.uniform(-1, 1, 3)
        fine = np.linalg.norm(pos, axis=1) > 12  # of two levels
        halves = (pos[fine, None] + np.indices((2, 2, 2)).reshape(3, -1).T - 0.5).reshape(-1, 3)
        side = np.repeat([2.0, 1.0], [np.count_nonzero(~fine), len(halves)])
        pos = np.asfortranarray(np.concatenate([pos[~fine], halves]))
        gas = Particles(pos, np.zeros((len(pos), 3)), 1e3 * side**3, side_kpc=side)
        record = map_galaxy(Galaxy(stars, gas, dark, dark[:0]), frame, aperture_kpc, settings)
        mass = record["mass"][store.COMPONENTS.index("gas")]
        r = record["radius"]
        assert r[0] < 0.5 < 18.0 < r[-1]
        inside = r < aperture_kpc - 2
        np.testing.assert_allclose(mass[inside], 1e3 * 4 / 3 * np.pi * r[inside] ** 3, rtol=0.04)
        whole = gas.mass_msun[np.linalg.norm(pos, axis=1) <= aperture_kpc].sum()
        assert mass[-1] == pytest.approx(whole, rel=1e-12), (
            "what reaches beyond the last sphere belongs to it by its centre"
        )
    assert not enclosed_mass(np.zeros((0, 3)), np.zeros(0), r, np.zeros(0)).any()


def test_profiles():
    rng = np.random.default_rng(0)
    pos, mass = rng.normal(size=(300, 3)), rng.uniform(1, 2, 300)
    r = np.linalg.norm(pos, axis=1)
    radii = np.array([0.1, 1, 5])
    np.testing.assert_allclose(enclosed_mass(pos, mass, radii), [mass[r <= x].sum() for x in radii])
    half = half_mass_radius(r, mass)
    assert mass[r <= half].sum() == pytest.approx(0.5 * mass.sum(), rel=0.02)
    grid = np.geomspace(1, 10, 30)
    np.testing.assert_allclose(menc_at(grid, grid**2, np.array([2.0, 3.3])), 2 * np.log10([2.0, 3.3]))
    assert np.isnan(menc_at(grid, grid**2, np.array([0.5, 11.0]))).all()
    assert menc_at(np.ones((0, 30)), np.ones((0, 30)), np.ones((0, 2))).shape == (0, 2)
    holed = np.where(grid < 3, 0.0, grid**2)  # no mass inside 3: no logarithm, and nothing between nil and something
    first = grid[grid >= 3][0]
    log_mass = menc_at(grid, holed, np.array([1.5, 2.9, first * 0.999, first * 1.001, 9.0]))
    np.testing.assert_allclose(log_mass, [np.nan, np.nan, np.nan, *(2 * np.log10([first * 1.001, 9.0]))])
