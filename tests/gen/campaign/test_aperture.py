"""The truth's aperture has no say in the maps: they follow from the galaxy's own stars."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from conftest import ROOT, SUITES

from kinmass.gen.campaign import worker
from kinmass.gen.campaign.plan import list_tasks
from kinmass.gen.campaign.record import Refused, Settings, at_rest, frame_of, spin
from kinmass.gen.campaign.worker import Worker
from kinmass.gen.formats import gadget
from kinmass.gen.mock.galaxy import sersic_radius
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.physics.extent import edge
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate, empty
from kinmass.gen.physics.profile import half_mass_radius
from kinmass.gen.physics.projection import views
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.storage import store
from kinmass.gen.suite import Suite, load_suite

SETTINGS = Settings(views=2, pixels=16)
#: What a galaxy's truth is measured in, and so may differ.
TRUTH = {"radius", "mass", "reach"}
TEMPLATES = [
    yaml.safe_load(path.read_text())["aperture"] for path in sorted((ROOT / "gen" / "templates").glob("*.yaml"))
]


def record(suite: Suite, worker: Worker | Path, **changes) -> dict[str, np.ndarray]:
    """What the store would keep of a suite's first galaxy, the suite file changed."""
    task = list_tasks(Suite(**(suite.model_dump() | changes)))[0]
    if isinstance(worker, Worker):
        return worker.record(task, task.halo)
    with closing(Worker(worker, SETTINGS)) as own_worker:
        return own_worker.record(task, task.halo)


def assert_same_maps(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert (a["maps"][:, 0] > 0).any()
    assert a.keys() == b.keys() == store.ARRAYS.keys() - {"status"}
    for name in a.keys() - TRUTH:
        # Sums in another order leave a dispersion of 1e-6 km/s where a single particle is.
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("suite", "field"), list(zip(SUITES, (6.0, 6.0, 12.0), strict=True)))
def test_maps_are_the_same_in_every_aperture(suite, field, mocks, tmp_path):
    described = load_suite(mocks / suite / f"{suite}.yaml")
    worker = Worker(tmp_path, replace(SETTINGS, field_of_view_re=field))
    wide = record(described, worker, aperture={"r200": 0.4})
    r_e = float(wide["half_mass_radius"].max())
    accepted = 0
    for aperture in [{"kpc": x * r_e} for x in (3.001, 3.5, 4.3, 6.0, 20.0)] + TEMPLATES:
        try:
            other = record(described, worker, aperture=aperture)
        except Refused:
            continue
        accepted += 1
        assert_same_maps(wide, other)
        inside = wide["radius"] < other["radius"][-1]
        for component, mass in zip(wide["mass"], other["mass"], strict=True):  # the same truth, as far as both know it
            at = np.interp(wide["radius"][inside], other["radius"], mass)
            np.testing.assert_allclose(at, component[inside], rtol=0.1, atol=0.01 * component[-1])
    assert accepted >= 5 + len(TEMPLATES) // 2
    with pytest.raises(Refused, match="ends before 3 R_e"):
        record(described, worker, aperture={"kpc": 2.99 * r_e})
    worker.close()


def test_also_when_regions_are_read_and_kernels_come_from_neighbours(mocks, tmp_path, monkeypatch):
    suite = load_suite(mocks / "middle" / "middle.yaml")
    path = suite.snapshot_paths()[0]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "snapshot_600.hdf5").write_bytes(path.read_bytes())
    (tmp_path / "a" / "galaxies.ecsv").write_bytes((path.parent / "galaxies.ecsv").read_bytes())
    with h5py.File(tmp_path / "a" / "snapshot_600.hdf5", "r+") as file:
        for name in {"Density", "SmoothingLength"} & set(file["PartType0"]):
            del file["PartType0"][name]
    bare = Suite(**(suite.model_dump() | {"root": tmp_path, "snapshots": "a/*.hdf5"}))
    records = [record(bare, tmp_path, aperture={"r200": r}) for r in (0.2, 0.5)]
    assert records[0]["map_radius"] < records[1]["radius"][-1]
    assert_same_maps(*records)
    monkeypatch.setattr("kinmass.gen.snapshots.snapshot.READ_WHOLE", 10)
    for r in (0.2, 0.5):
        assert_same_maps(record(bare, tmp_path, aperture={"r200": r}), records[0])


@pytest.mark.parametrize("suite", SUITES)
def test_maps_show_the_whole_column(suite, mocks, tmp_path):
    """All particles of the file add no more than a few per cent of the gas to the faintest part of the field."""
    described = load_suite(mocks / suite / f"{suite}.yaml")
    mapped = record(described, tmp_path)
    with Snapshot(described.snapshot_paths()[0], described.format) as snapshot:
        whole = snapshot.galaxy(mapped["centre"], 0.4 * snapshot.half_box_kpc)
    half = 3 * mapped["half_mass_radius"].astype(float)
    all_maps = views(whole, mapped["sightline"], half, SETTINGS.pixels, mapped["bulk_velocity"])
    x = (np.arange(16) + 0.5) / 16 * 6 - 3
    outer = np.hypot(x[:, None], x[None, :]) > 2.5
    for channel in (0, 4):
        shown, total = mapped["maps"][:, channel][:, outer].sum(), all_maps[:, channel][:, outer].sum()
        assert 0.97 < shown / total <= 1 + 1e-6


def sphere(n: int, scale: float, seed: int, centre: tuple[float, float, float] = (0, 0, 0)) -> Particles:
    """A Plummer sphere of n stars of 1e6 Msun at rest; its half-mass radius is 1.305 scales."""
    rng = np.random.default_rng(seed)
    r = scale / np.sqrt(rng.uniform(0, 1, n) ** (-2 / 3) - 1)
    way = rng.standard_normal((n, 3))
    return Particles(centre + r[:, None] * way / np.linalg.norm(way, axis=1)[:, None], 0 * way, np.full(n, 1e6))


def own(stars: Particles, known_kpc: float, is_central: bool = False) -> tuple[float, float]:
    """Where a galaxy ends, and the half-mass radius of its stars."""
    end = edge(stars, known_kpc, is_central=is_central)
    assert end is not None
    r = np.linalg.norm(stars.pos_kpc, axis=1)
    return end, half_mass_radius(r[r <= end], stars.mass_msun[r <= end])


@pytest.mark.parametrize("n", [60, 300, 5000])
def test_a_galaxy_ends_where_it_says_itself(n):
    for seed in range(5):
        stars = sphere(n, 2.0, seed)
        r = np.linalg.norm(stars.pos_kpc, axis=1)
        end, half = own(stars, 1e4)
        assert half == pytest.approx(2.61, rel=5 / np.sqrt(n))
        assert 3.1 < end / half < 11.3
        for known_kpc in (0.3 * end, 0.99 * end, 1.3 * end, 30 * end):
            known_end = edge(stars[r <= known_kpc], known_kpc)
            assert known_end == end or (known_end is None and known_kpc < 1.3 * end)
            assert known_end == edge(stars, known_kpc)  # what lies beyond makes no difference
        massless = Particles(1e-3 * stars.pos_kpc, stars.vel_kms, 0 * stars.mass_msun)
        assert edge(concatenate([massless, stars]), 1e4) == end


@pytest.mark.parametrize(
    ("mass", "scale", "distance"), [(1, 1, 10), (1, 1, 6.5), (0.1, 0.5, 8), (10, 3, 14), (30, 5, 25), (3, 0.5, 60)]
)
def test_neighbours_are_not_part_of_it(mass, scale, distance):
    """Companions and hosts at distances [kpc] from a galaxy of 1.3 kpc, whatever is known of the sky around it."""
    alone = sphere(3000, 1.0, 1)
    pair = concatenate([alone, sphere(int(3000 * mass), scale, 2, (0.6 * distance, 0, 0.8 * distance))])
    for is_central in (False, True):
        end, half = own(pair, 300.0, is_central)
        assert half == pytest.approx(own(alone, 300.0, is_central)[1], rel=0.08)
        assert end < distance
        assert edge(pair, 1.3 * end, is_central=is_central) == end


@pytest.mark.parametrize(
    ("index", "is_central", "least", "most_of_20"),
    [(4.0, True, 0.75, 1), (6.0, True, 0.6, 2), (4.0, False, 0.7, 1), (6.0, False, 0.6, 6)],
)
def test_a_lone_star_in_the_outskirts_is_no_neighbour(index, is_central, least, most_of_20):
    """Early types of 200 stars, the fewest that are mapped by default: R_e was that of their inner part in many.

    Of those that no catalogue calls centrals, too, as in a table without that column.
    """
    too_small = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        r, way = sersic_radius(rng.random(200), 3.0, index), rng.standard_normal((200, 3))
        stars = Particles(r[:, None] * way / np.linalg.norm(way, axis=1)[:, None], 0 * way, np.full(200, 1e6))
        too_small += own(stars, 1000.0, is_central)[1] < least * half_mass_radius(r, stars.mass_msun)
    assert too_small <= most_of_20


@pytest.mark.parametrize(("n", "n_host"), [(200, 20_000), (500, 20_000), (200, 5_000)])
def test_a_satellite_ends_where_its_hosts_stars_begin(n, n_host):
    """At 30 kpc from the centre of a host whose stars are spread evenly around it."""
    ratios = []
    for seed in range(8):
        satellite = sphere(n, 1.0, seed)
        host = sphere(n_host, 12.0, 100 + seed, (18.0, 0, 24.0))
        half = half_mass_radius(np.linalg.norm(satellite.pos_kpc, axis=1), satellite.mass_msun)
        ratios.append(own(concatenate([satellite, host]), 100.0)[1] / half)
    assert 0.95 < np.median(ratios) < 1.15
    assert np.sort(ratios)[-2] < 1.4  # one has more of its host


def test_a_compact_bulge_is_not_the_whole_galaxy():
    rng = np.random.default_rng(0)
    R, turn = 3.0 * rng.gamma(2, 1, 6000), rng.uniform(0, 2 * np.pi, 6000)  # an exponential disc
    disc = np.stack([R * np.cos(turn), R * np.sin(turn), rng.normal(0, 0.2, 6000)], axis=1)
    stars = concatenate([sphere(4000, 0.3, 1), Particles(disc, 0 * disc, np.full(6000, 1e6))])
    end, half = own(stars, 300.0)
    assert half == pytest.approx(half_mass_radius(np.linalg.norm(stars.pos_kpc, axis=1), stars.mass_msun), rel=0.02)
    assert end > 25


@pytest.mark.parametrize(("share", "scale"), [(0.02, 0.02), (0.1, 0.02), (0.3, 0.1)])
def test_a_nucleus_is_not_the_whole_galaxy_but_a_small_neighbour_of_one_is(share, scale):
    """A nuclear cluster, or dense core, of a disc; the same in its outskirts is a galaxy of its own."""
    rng, n = np.random.default_rng(0), 6000
    R, turn = 3.0 * rng.gamma(2, 1, n), rng.uniform(0, 2 * np.pi, n)
    disc = np.stack([R * np.cos(turn), R * np.sin(turn), rng.normal(0, 0.3, n)], axis=1)
    nucleus = sphere(int(n * share / (1 - share)), scale, 1)
    whole = concatenate([nucleus, Particles(disc, 0 * disc, np.full(n, 1e6))])
    true = half_mass_radius(np.linalg.norm(whole.pos_kpc, axis=1), whole.mass_msun)
    assert own(whole, 300.0)[1] == pytest.approx(true, rel=0.02)
    assert edge(replace(whole, pos_kpc=whole.pos_kpc[:, [1, 2, 0]]), 8.0) is None  # of which too little is known
    for beside in ([4.0, 0, 0], [8.0, 0, 0], [0, 12.0, 6.0]):
        away = concatenate([nucleus, Particles(disc + np.array(beside), 0 * disc, np.full(n, 1e6))])
        for known_kpc in (5.0, 30.0, 300.0):
            assert own(away, known_kpc)[1] == pytest.approx(1.305 * scale, rel=0.25)


@pytest.mark.parametrize(("half", "share"), [(0.5, 0.6), (1.5, 0.6), (2.0, 0.3), (3.0, 0.6)])
def test_a_ring_is_part_of_its_galaxy(half, share):
    """A bulge in a ring of 15 kpc, apart from each other, whose density rises as that of a neighbour does."""
    rng, n = np.random.default_rng(0), 4000
    R, turn = rng.normal(15, 1.5, n), rng.uniform(0, 2 * np.pi, n)
    ring = np.stack([R * np.cos(turn), R * np.sin(turn), rng.normal(0, 0.3, n)], axis=1)
    bulge = sphere(int(n * (1 - share) / share), half / 1.305, 1)
    whole = concatenate([bulge, Particles(ring, 0 * ring, np.full(n, 1e6))])
    true = half_mass_radius(np.linalg.norm(whole.pos_kpc, axis=1), whole.mass_msun)
    assert own(whole, 300.0)[1] == pytest.approx(true, rel=0.02)


def write(folder: Path, galaxy: Galaxy, box_kpc: float = 1000.0, place: float = 0.5, **keys) -> Suite:
    centre = np.full(3, place * box_kpc)
    gadget.write(folder / "snap.hdf5", [(galaxy, centre, np.zeros(3))], box_kpc, 1.0, 0.7, "gizmo")
    (folder / "centres.csv").write_text("id,x,y,z\n0," + ",".join(map(str, centre)) + "\n")
    table = {"format": "table", "path": "centres.csv"}
    return Suite(**({"name": "x", "format": "gizmo", "snapshots": "snap.hdf5", "catalogue": table, "root": folder,
                     "aperture": {"kpc": 60}} | keys))  # fmt: skip


@pytest.fixture(scope="module")
def galaxy() -> Galaxy:
    return make_galaxy("middle", 1, 1, 1000, 500, 1000)[0]


def test_what_is_no_satellite_is_told_where_stars_end(galaxy, tmp_path, monkeypatch):
    suite, told = write(tmp_path, galaxy), []
    monkeypatch.setattr(worker, "edge", lambda *args: (told.append(args[3]), edge(*args))[1])
    task = list_tasks(suite)[0]
    centre = task.halo.centre_kpc
    with closing(Worker(tmp_path, SETTINGS)) as own_worker:
        for central, place in ((True, centre), (False, centre), (None, centre), (None, None)):
            own_worker.record(task, task.halo._replace(central=central, centre_kpc=place))
    assert told == [True, False, False, True]


def test_a_neighbour_in_a_large_aperture_changes_nothing_of_the_galaxy(galaxy, tmp_path):
    alone = record(write(tmp_path, galaxy), tmp_path, aperture={"kpc": 25})
    offset_kpc = 36 * alone["sightline"][0, 2]  # right behind it
    with_neighbour = {
        name: concatenate([p, replace(p, pos_kpc=p.pos_kpc + offset_kpc, vel_kms=p.vel_kms + 300.0)])
        for name, p in galaxy.components().items()
        if name != "dark"
    }
    pair = replace(galaxy, **with_neighbour)
    small, large = (record(write(tmp_path, pair), tmp_path, aperture={"kpc": r}) for r in (25, 80))
    assert_same_maps(small, large)
    np.testing.assert_allclose(small["half_mass_radius"], alone["half_mass_radius"], rtol=0.05)
    np.testing.assert_allclose(small["bulk_velocity"], alone["bulk_velocity"], atol=5)
    assert large["mass"][2, -1] > 1.8 * small["mass"][2, -1]  # the truth is all that is in its aperture


def test_a_file_that_ends_early_is_owned_up_to(galaxy, tmp_path):
    def cut(r: float) -> Galaxy:
        return Galaxy(**{k: p[np.linalg.norm(p.pos_kpc, axis=1) <= r] for k, p in galaxy.components().items()})

    whole = record(write(tmp_path, galaxy), tmp_path)
    assert whole["reach"] > 0.97 * max(60, whole["map_radius"])
    r_e = float(whole["half_mass_radius"].max())
    short = record(write(tmp_path, cut(4 * r_e)), tmp_path)
    assert short["reach"] < 4 * r_e < 0.8 * short["map_radius"]
    pos = np.random.default_rng(0).uniform(-5, 5, (1000, 3))
    pos = pos[np.linalg.norm(pos, axis=1) <= 5]
    with pytest.raises(Refused, match=r"its file ends .* before 3 R_e"):
        record(write(tmp_path, replace(cut(5), stars=Particles(pos, pos, np.full(len(pos), 1e6)))), tmp_path)


def test_a_box_smaller_than_the_maps_is_refused_or_its_half_is_shown(galaxy, tmp_path):
    r_e = float(record(write(tmp_path, galaxy), tmp_path)["half_mass_radius"].max())
    half = 6 * r_e
    inner = Galaxy(**{k: p[np.abs(p.pos_kpc).max(1) < half] for k, p in galaxy.components().items()})
    suite = write(tmp_path, inner, 2 * half, aperture={"kpc": 4 * r_e})
    assert record(suite, tmp_path)["map_radius"] == pytest.approx(half)
    with (
        closing(Worker(tmp_path, replace(SETTINGS, field_of_view_re=10))) as wide,
        pytest.raises(Refused, match=r"out of the box of .* lower --field-of-view"),
    ):
        record(suite, wide)


def test_no_dark_matter_is_refused_unless_it_is_meant(galaxy, tmp_path):
    bare = replace(galaxy, dark=empty())
    suite = write(tmp_path, bare)
    for types in (None, ["PartType1"]):
        with pytest.raises(Refused, match=r"no dark matter in it \(no PartType1.*`particles: {dark: \[\]}`"):
            record(suite, tmp_path, particles={"dark": types})
    mapped = record(suite, tmp_path, particles={"dark": []})
    assert mapped["has_dark"] == 0
    np.testing.assert_array_equal(mapped["mass"][1], 0)
    assert record(write(tmp_path, galaxy), tmp_path)["has_dark"] == 1
    far = replace(galaxy, dark=replace(galaxy.dark, pos_kpc=galaxy.dark.pos_kpc * 0.01 + 300.0))
    with pytest.raises(Refused, match="no dark matter in the aperture"):
        record(write(tmp_path, far), tmp_path)


def shells(vel_inner: np.ndarray, vel_outer: np.ndarray, outer_kpc: float) -> Particles:
    """60 stars of a unit ring in the x-y plane, 40 of as many Msun each on a ring of outer_kpc in the y-z plane."""
    inner, outer = np.linspace(0, 2 * np.pi, 61)[:-1], np.linspace(0, 2 * np.pi, 41)[:-1]
    near = np.stack([np.cos(inner), np.sin(inner), 0 * inner], axis=1)
    far = outer_kpc * np.stack([0 * outer, np.cos(outer), np.sin(outer)], axis=1)
    turn_near, turn_far = np.cross([0, 0, 1.0], near), np.cross([1.0, 0, 0], far / outer_kpc)
    vel = np.concatenate([vel_inner[:3] + vel_inner[3] * turn_near, vel_outer[:3] + vel_outer[3] * turn_far])
    # No two radii are the same, as in a real galaxy.
    pos = np.concatenate([near, far]) * (1 + 1e-6 * np.arange(100))[:, None]
    return Particles(pos, vel, np.ones(100))


def test_a_star_that_outweighs_all_others_is_none():
    stars = sphere(300, 1.0, 1)
    stars.mass_msun[7] = 2.9e8
    frame_of(stars, 10.0, "", Settings(views=1))
    stars.mass_msun[7] = 3.1e8
    with pytest.raises(Refused, match=r"one of its star particles has 50.9 % of the mass of all"):
        frame_of(stars, 10.0, "", Settings(views=1))


def test_a_galaxys_motion_is_that_of_the_inner_half_of_its_stars():
    stars = shells(np.array([10.0, 20, 30, 0]), np.array([-500.0, 400, 300, 0]), 8.0)
    np.testing.assert_allclose(at_rest(stars), [10, 20, 30], rtol=1e-12)


@pytest.mark.parametrize("outer", [2.1, 8.0])
def test_its_axis_is_that_of_the_stars_within_two_half_mass_radii(outer):
    stars = shells(np.array([10.0, 20, 30, 100]), np.array([10.0, 20, 30, 900]), outer)
    np.testing.assert_allclose(spin(stars, np.array([10.0, 20, 30])), [0, 0, 1], atol=1e-5)
    near = shells(np.array([10.0, 20, 30, 100]), np.array([10.0, 20, 30, 900]), 1.9)
    assert abs(spin(near, np.array([10.0, 20, 30]))[0]) > 0.9


@pytest.mark.parametrize(
    ("box_kpc", "place", "shape"),
    [(1000.0, 0.5, "cube"), (0.0, 0.5, "cube"), (1000.0, 0.01, "cube"), (1000.0, 0.5, "sphere")],
)
@pytest.mark.parametrize("shift_re", [0.0, 1.5, 2.5, 5.0])
def test_a_galaxy_at_the_side_of_a_region_is_refused(box_kpc, place, shape, shift_re, galaxy, tmp_path):
    """A region is cut out of a simulation, and one of its galaxies lies near its side: some of it is not there.

    The region may lie across the face of the box, and its side in any direction.
    """
    towards = {"cube": np.array([1.0, 0, 0]), "sphere": np.full(3, 3**-0.5)}[shape]
    whole = record(write(tmp_path, galaxy), tmp_path)
    r_e = float(whole["half_mass_radius"].max())

    def cut(p: Particles) -> Particles:
        x = p.pos_kpc + (100 - shift_re * r_e if shift_re else 0.0) * towards
        return p[(np.abs(x).max(axis=1) if shape == "cube" else np.linalg.norm(x, axis=1)) < 100]

    region = Galaxy(**{name: cut(p) for name, p in galaxy.components().items()})
    suite = write(tmp_path, region, place=place)
    if not box_kpc:
        suite = Suite(**(suite.model_dump() | {"units": {"box": "none"}}))
    if shift_re in (1.5, 2.5):
        with pytest.raises(Refused, match=r"dark matter ends .* kpc from its centre on one side, before 3 R_e"):
            record(suite, tmp_path)
    else:
        cut_off, r_kpc = record(suite, tmp_path), whole["radius"][(whole["radius"] > r_e) & (whole["radius"] < 3 * r_e)]
        masses = [np.interp(r_kpc, of["radius"], of["mass"][0]) for of in (cut_off, whole)]
        np.testing.assert_allclose(*masses, rtol=0.02)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_file_without_units_in_others_than_assumed_is_refused(factor, galaxy, tmp_path):
    """Positions in Mpc/h that are taken for kpc/h, or the reverse: galaxies of a few parsecs or of megaparsecs."""
    suite = write(tmp_path, galaxy)
    assert record(suite, tmp_path)["maps"].any()
    with h5py.File(tmp_path / "snap.hdf5", "r+") as file:
        for name in ("PartType0", "PartType1", "PartType4"):
            file[name]["Coordinates"][...] *= factor
        file["PartType0/SmoothingLength"][...] *= factor
        file["Header"].attrs["BoxSize"] *= factor
    found = {"catalogue": {"format": "none"}, "aperture": {"kpc": 60 * factor}}
    with pytest.raises(Refused, match=r"its stars move at .*assumed kpc/h.*give `units: {length_kpc"):
        record(suite, tmp_path, **found)
    right = {"length_kpc": 1 / factor, "mass_msun": 1e10, "velocity_kms": 1.0}
    assert record(suite, tmp_path, units=right, catalogue={"format": "none"})["maps"].any()
