"""`kinmass check`: a file in words with a verdict, a suite with its galaxies, a draft that maps what it says."""

import shutil
from pathlib import Path

import h5py
import layouts
import numpy as np
import pytest
from conftest import SHARED, SUITES

from kinmass.gen.campaign.maps import generate
from kinmass.gen.campaign.plan import list_tasks
from kinmass.gen.campaign.record import Settings
from kinmass.gen.formats import FORMATS, SnapshotError, gadget
from kinmass.gen.formats.sample import Sample, blocks
from kinmass.gen.look.check import describe
from kinmass.gen.look.draft import draft
from kinmass.gen.look.sketch import sketch
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.physics.particles import Galaxy
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.suite import Tracers, load_suite


@pytest.fixture(scope="module")
def a_galaxy() -> Galaxy:
    return make_galaxy("middle", 0, 1, 1000, 500, 1000)[0]


def snapshot(path: Path, galaxy: Galaxy, a: float = 1.0, **header: object) -> Path:
    """A galaxy in the middle of a box of 4 Mpc, as GIZMO writes it; header entries that are None are taken out."""
    gadget.write(path, [(galaxy, np.full(3, 2000.0), np.zeros(3))], 4000.0, a, 0.7, "gizmo")
    with h5py.File(path, "r+") as file:
        for key, value in header.items():
            if value is None:
                del file["Header"].attrs[key]
            else:
                file["Header"].attrs[key] = value
    return path


def move(path: Path, old: str, new: str, lighter: float = 1.0) -> Path:
    """Rename a particle type, and divide its masses."""
    with h5py.File(path, "r+") as file:
        file.move(old, new)
        file[new]["Masses"][...] /= lighter
        counts = file["Header"].attrs["NumPart_ThisFile"][...]
        counts[int(new[-1])], counts[int(old[-1])] = counts[int(old[-1])], 0
        file["Header"].attrs["NumPart_ThisFile"] = file["Header"].attrs["NumPart_Total"] = counts
    return path


def mapped(text: str, folder: Path) -> tuple[int, int]:
    """Galaxies done and failed by a suite file's text, as `kinmass maps` would."""
    suite = load_suite(written(folder, text))
    return generate([suite], folder / "maps.zarr", Settings(views=1, pixels=8), quiet=True)


@pytest.mark.parametrize(("isolated", "lighter", "is_disc"), [(True, 1, True), (True, 1e-4, True), (False, 1e3, True),
                                                              (False, 1e-3, False)])  # fmt: skip
def test_a_disc_is_not_dark_matter(isolated, lighter, is_disc, a_galaxy, tmp_path):
    """Types 2 and 3 are stars in isolated runs and where they are lighter than dark matter; nobody guesses for maps."""
    header = {"OmegaLambda": 0.0, "HubbleParam": 1.0} if isolated else {}
    path = move(snapshot(tmp_path / "snap.hdf5", a_galaxy, **header), "PartType4", "PartType2", lighter)
    description, text = "\n".join(describe(path, "gizmo")), draft(path, "gizmo")
    if is_disc:
        assert "wrong       PartType2: a disc and a bulge of stars, or dark matter of low resolution?" in description
        with pytest.raises(SnapshotError, match="PartType2: a disc and a bulge of stars, or"):
            Snapshot(path, "gizmo")
        assert load_suite(written(tmp_path, text)).particles.stars == ["PartType2", "PartType4"]
        zoom = written(
            tmp_path, text.replace("stars: [PartType2, PartType4], dark", "low_resolution: [PartType2], dark")
        )
        if not isolated:
            assert "odd         PartType2 is said to be of low resolution, and" in "\n".join(describe(zoom))
        with Snapshot(path, "gizmo", {"stars": ["PartType2"], "dark": ["PartType1"]}) as opened:
            assert len(opened.everything("stars")) == 1000
    else:
        assert load_suite(written(tmp_path, text)).particles.low_resolution == ["PartType2"]
        with Snapshot(path, "gizmo") as opened:
            assert len(opened.everything("dark")) == 2000


def written(folder: Path, text: str) -> Path:
    (folder / "draft.yaml").write_text(text)
    return folder / "draft.yaml"


def test_the_draft_of_a_disc_galaxy_maps_it(a_galaxy, tmp_path):
    path = move(snapshot(tmp_path / "snap.hdf5", a_galaxy, OmegaLambda=0.0, HubbleParam=1.0), "PartType4", "PartType3")
    assert mapped(draft(path), tmp_path) == (1, 0)


def catalogue(path: Path, z: float, n: int = 1) -> None:
    """SUBFIND's of one galaxy in the middle of the box."""
    with h5py.File(path, "w") as file:
        length = 0.7 * (1 + z)
        file["Group/Group_R_Crit200"], file["Group/GroupFirstSub"] = np.full(n, 200 * length), np.arange(n)
        file["Subhalo/SubhaloPos"] = np.full((n, 3), 2000 * length)
        file["Subhalo/SubhaloLenType"] = np.tile([500, 1000, 0, 0, 1000, 0], (n, 1))
        file.create_group("Header").attrs.update({"Redshift": z, "Nsubgroups_Total": n})


def test_a_draft_takes_the_snapshots_own_catalogue(a_galaxy, tmp_path):
    """By its number, which may be 000 and is not the 5 of hdf5; and by its time, to 1e-4."""
    for number, z in (("000", 0.05), ("098", 0.0095), ("099", 0.0)):
        snapshot(tmp_path / f"snap_{number}.hdf5", a_galaxy, 1 / (1 + z))
        catalogue(tmp_path / f"fof_subhalo_tab_{number}.hdf5", z)
    for number in ("000", "098", "099"):
        text = draft(tmp_path / f"snap_{number}.hdf5")
        assert f'catalogue: {{format: subfind, path: "fof_subhalo_tab_{number}.hdf5"}}' in text
    (tmp_path / "fof_subhalo_tab_098.hdf5").rename(tmp_path / "fof_subhalo_tab_99.hdf5")
    (tmp_path / "fof_subhalo_tab_099.hdf5").rename(tmp_path / "fof_subhalo_tab_5.hdf5")
    text = draft(tmp_path / "snap_099.hdf5")
    assert "# fof_subhalo_tab_99.hdf5 is of another time" in text
    assert "no catalogue found" in text


def test_a_draft_takes_the_first_part_of_a_catalogue(a_galaxy, tmp_path):
    snapshot(tmp_path / "snap_099.hdf5", a_galaxy, 1.0)
    for part in ("0000", "0001"):
        (tmp_path / f"snap_099.{part}.z0.000.AHF_halos").write_text("#ID(1) hostHalo(2) Xc(3) Yc(4) Zc(5) Rvir(6)\n")
    text = draft(tmp_path / "snap_099.hdf5")
    assert 'catalogue: {format: ahf, path: "snap_099.0000.z0.000.AHF_halos"}' in text
    assert "0001" not in text


def test_a_draft_takes_no_other_runs_catalogue(a_galaxy, tmp_path):
    """Of runs in folders beside each other, all with a snapshot 099 at z = 0."""
    for name in ("run1", "run2", "run3"):
        (tmp_path / name).mkdir()
        snapshot(tmp_path / name / "snap_099.hdf5", a_galaxy, 1.0)
        if name != "run3":
            catalogue(tmp_path / name / "fof_subhalo_tab_099.hdf5", 0.0)
    for name, path in (("run1", "fof_"), ("run2", "fof_")):
        assert f'catalogue: {{format: subfind, path: "{path}' in draft(tmp_path / name / "snap_099.hdf5")
    assert "no catalogue found" in draft(tmp_path / "run3" / "snap_099.hdf5")
    (tmp_path / "groups_099").mkdir()
    catalogue(tmp_path / "groups_099" / "fof_subhalo_tab_099.hdf5", 0.0)
    text = draft(tmp_path / "run3" / "snap_099.hdf5")
    assert 'catalogue: {format: subfind, path: "../groups_099/fof_subhalo_tab_099.hdf5"}' in text
    (tmp_path / "again").mkdir()
    catalogue(tmp_path / "again" / "fof_subhalo_tab_099.hdf5", 0.0)
    text = draft(tmp_path / "run3" / "snap_099.hdf5")
    assert "\ncatalogue:" not in text
    assert "another run's: \"../again/fof_" in text


def test_a_draft_finds_the_catalogues_beside_the_folder_of_all_snapshots(a_galaxy, tmp_path):
    """As FLAMINGO and COLIBRE have them, where each snapshot has a folder of its own; but not another run's."""
    for run in ("run1", "run2"):
        (tmp_path / run / "snapshots" / "flamingo_0077").mkdir(parents=True)
        (tmp_path / run / "SOAP-HBT").mkdir()
        path = snapshot(tmp_path / run / "snapshots" / "flamingo_0077" / "flamingo_0077.hdf5", a_galaxy, 1.0)
        if run == "run1":
            catalogue(tmp_path / run / "SOAP-HBT" / "fof_subhalo_tab_0077.hdf5", 0.0)
            catalogue(tmp_path / run / "SOAP-HBT" / "fof_subhalo_tab_0076.hdf5", 0.0)
            assert 'path: "../../SOAP-HBT/fof_subhalo_tab_0077.hdf5"}' in draft(path)
    assert "no catalogue found" in draft(path)
    (tmp_path / "run1" / "fof_subhalo_tab_0077.hdf5").touch()
    (tmp_path / "run2" / "snapshots" / "flamingo_0077").rename(tmp_path / "run2" / "flamingo_0077")
    assert "no catalogue found" in draft(tmp_path / "run2" / "flamingo_0077" / path.name)


def test_a_draft_finds_a_catalogue_in_a_folder_that_is_named_by_number(a_galaxy, tmp_path):
    """As HBT writes them; another run's snapshot of this number is no catalogue's folder."""
    for folder in ("snapshots", "HBT/033", "HBT/034", "other/034"):
        (tmp_path / folder).mkdir(parents=True)
        if folder != "snapshots":
            catalogue(tmp_path / folder / f"fof_subhalo_tab_{folder[-3:]}.hdf5", 0.0)
    path, _ = (snapshot(tmp_path / folder / "snap_034.hdf5", a_galaxy, 1.0) for folder in ("snapshots", "other/034"))
    assert 'path: "../HBT/034/fof_subhalo_tab_034.hdf5"}' in draft(path)


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("LH_0/snapshot_090.hdf5", "groups_090.hdf5"),
        ("snapdir_135/snap_135.hdf5", "../groups_135/groups_135.0.hdf5"),
        ("s50/snap_m25n512_151.hdf5", "Groups/m25n512_151.hdf5"),
        ("s50/snap_m25n512_078.hdf5", "Groups/fof_subhalo_tab_078_z2.333.hdf5"),
    ],
)
def test_a_draft_knows_a_catalogue_of_another_name_by_its_content(own, other, a_galaxy, tmp_path):
    """CAMELS, Illustris-1 and SIMBA call them so: a box was taken for a snapshot of one galaxy."""
    path = tmp_path / own
    path.parent.mkdir()
    place = path.parent / other
    place.parent.resolve().mkdir(exist_ok=True)
    snapshot(path, a_galaxy, 1.0)
    catalogue(place, 0.0)
    shutil.copy(place, place.with_name("groups_135.1.hdf5"))  # of another number, or a later part
    path.with_name(f"density_{path.name[-8:]}").write_bytes(b"")
    (path.parent / "other" / "snapshots").mkdir(parents=True)  # another run
    shutil.copy(path, path.parent / "other" / "snapshots")
    catalogue(path.parent / "other" / place.name, 0.0)
    assert f'\ncatalogue: {{format: subfind, path: "{other}"}}\naperture: {{r200' in draft(path)


@pytest.mark.parametrize("form", ["gadget", "arepo", "gizmo", "simba", "eagle", "swift"])
def test_a_drafts_assumed_units_are_the_formats_own(form, a_galaxy, tmp_path):
    """Uncommented they change nothing."""
    path = snapshot(tmp_path / "snap.hdf5", a_galaxy, 0.5)
    with h5py.File(path, "r+") as file:
        if form == "swift":  # whose cosmology has a group of its own
            file["Header"].attrs["Scale-factor"] = 0.5
            file.create_group("Cosmology").attrs.update({"Scale-factor": 0.5, "h": 0.7, "Redshift": 1.0})
    text = draft(path, form)
    (line,) = (line for line in text.splitlines() if line.startswith("# units: {"))
    units = load_suite(written(tmp_path, text + line[2:] + "\n")).units.model_dump(exclude_none=True)
    from_file, from_draft = FORMATS[form].units(path, {}), FORMATS[form].units(path, units)
    for key in ("length_kpc", "mass_msun", "velocity_kms"):
        assert getattr(from_file, key) == pytest.approx(getattr(from_draft, key), rel=1e-12)


@pytest.mark.parametrize(("side", "units", "odd"), [(None, {}, True), (0.0, {}, True), (None, {"box": "none"}, False)])
def test_a_box_whose_side_nobody_says_is_odd(side, units, odd, a_galaxy, tmp_path):
    path = snapshot(tmp_path / "snap.hdf5", a_galaxy, BoxSize=side)
    assert any("without the side of a box" in words for words in sketch(path, "gizmo", units=units).odd) == odd


def test_a_kernel_that_swift_does_not_name_is_odd_and_an_unknown_one_wrong(tmp_path):
    path = layouts.swift(tmp_path / "s.hdf5", layouts.galaxy())
    assert not any("kernel" in words for words in [*sketch(path, "swift").odd, *sketch(path, "swift").wrong])
    layouts.edit(path, lambda file: file["HydroScheme"].attrs.update({"Kernel function": "Top hat"}))
    assert any("unknown kernel 'Top hat'" in words for words in sketch(path, "swift").wrong)
    layouts.edit(path, lambda file: file["HydroScheme"].attrs.pop("Kernel function"))
    assert any("quartic spline of COLIBRE" in words for words in sketch(path, "swift").odd)
    layouts.edit(path, lambda file: file.pop("HydroScheme"))
    assert any("quartic spline of COLIBRE" in words for words in sketch(path, "swift").odd)


def test_who_maps_is_told_of_a_kernel_that_is_assumed(tmp_path, capsys):
    (tmp_path / "centres.csv").write_text("id,x,y,z\n0,0,0,0\n")
    suite = tmp_path / "s.yaml"
    suite.write_text(
        "name: s\nformat: swift\nsnapshots: '*.hdf5'\naperture: {kpc: 20}\n"
        "catalogue: {format: table, path: centres.csv}\n"
    )
    paths = [layouts.swift(tmp_path / f"{name}.hdf5", layouts.galaxy(seed=seed)) for seed, name in enumerate("ab")]
    assert len(list_tasks(load_suite(suite))) == 2
    assert capsys.readouterr().err == ""
    layouts.edit(paths[1], lambda file: file.pop("HydroScheme"))
    assert len(list_tasks(load_suite(suite))) == 2
    said = capsys.readouterr().err
    assert "/b.hdf5): no HydroScheme group that names the kernel" in said
    assert said.count("\n") == 1


def test_who_maps_is_told_of_a_tipsy_run_that_does_not_say_its_neighbours(tmp_path, capsys):
    """ChaNGa takes 32 where its .param has no nSmooth, Gasoline 64: 32 were taken without a word."""
    path = layouts.tipsy(tmp_path / "run.00512", layouts.galaxy())
    suite = written(tmp_path, "name: s\nformat: tipsy\nsnapshots: run.00512\naperture: {kpc: 20}\n")
    list_tasks(load_suite(suite))
    assert capsys.readouterr().err == ""
    param = path.with_suffix(".param")
    param.write_text(param.read_text().replace("nSmooth = 32", ""))
    list_tasks(load_suite(suite))
    words = "no nSmooth in its .param: kernels of the gas are taken to have 32 neighbours"
    assert words in capsys.readouterr().err
    assert words in "".join(describe(suite))


def test_who_maps_is_told_of_types_that_count_nowhere(tmp_path, capsys):
    """Coarse dark matter of a zoom, where a template for a box says that type 1 is all; tracers have no mass."""
    (tmp_path / "centres.csv").write_text("id,x,y,z\n0,0,0,0\n")
    text = "name: s\nformat: arepo\nsnapshots: snap.hdf5\naperture: {kpc: 20}\nparticles: {dark: [PartType1]}\n"
    suite = written(tmp_path, text + "catalogue: {format: table, path: centres.csv}\n")
    layouts.tng(tmp_path / "snap.hdf5", layouts.galaxy())
    layouts.edit(tmp_path / "snap.hdf5", layouts.set_attrs(NumPart_Total=[40, 40, 0, 5, 40, 0]))
    list_tasks(load_suite(suite))
    assert capsys.readouterr().err == ""
    layouts.auriga(tmp_path / "snap.hdf5", layouts.galaxy())
    layouts.edit(tmp_path / "snap.hdf5", layouts.set_attrs(NumPart_Total=[40, 40, 2, 2, 40, 0]))
    list_tasks(load_suite(suite))
    assert "snap.hdf5): particles of PartType2 and PartType3 are in no component, so" in capsys.readouterr().err
    assert len([line for line in describe(suite) if "in no component" in line]) == 2


def _put(name, value, rows=...):
    return lambda file: file[name].__setitem__(rows, value)


DAMAGED = {
    "a star nowhere": (_put("PartType4/Coordinates", np.nan, 0), "NaN or infinite values among stars"),
    "a star of no mass that is a number": (_put("PartType4/Masses", np.nan, 5), "NaN or infinite values among stars"),
    "dark matter at infinity": (_put("PartType1/Coordinates", np.inf, 5), "NaN or infinite values among dark"),
    "no masses of stars": (_put("PartType4/Masses", 0.0), "masses of stars: only zeros"),
    "no masses of dark matter": (_put("PartType1/Masses", 0.0), "masses of dark: only zeros"),
    "most masses of stars": (_put("PartType4/Masses", 0.0, slice(20, None)), "masses of stars: 980 of 1000 masses are"),
    "a negative mass": (_put("PartType0/Masses", -1.0, 3), "masses of gas: negative masses"),
    "no masses": (
        lambda file: [file[f"PartType{n}/Masses"].__setitem__(..., 0.0) for n in (0, 1, 4)],
        "masses of stars: only zeros",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_described_and_drafted_all_the_same(damage, a_galaxy, tmp_path):
    """It is what somebody looks at who wonders why his file cannot be mapped."""
    path, (change, words) = snapshot(tmp_path / "snap.hdf5", a_galaxy), DAMAGED[damage]
    layouts.edit(path, change)
    described = describe(path)
    assert any(line.startswith("  wrong") and words in line for line in described)
    assert described[-1].startswith("  verdict     cannot be mapped")
    assert "aperture: {kpc: " in draft(path)


def test_an_attribute_that_is_null_says_nothing(a_galaxy, tmp_path):
    path = snapshot(tmp_path / "snap.hdf5", a_galaxy)
    whole = describe(path)
    for name in ("MassTable", "NumPart_ThisFile", "NumFilesPerSnapshot"):
        with h5py.File(path, "r+") as file:
            file["Header"].attrs[name] = h5py.Empty("f8")
        assert describe(path) == whole


def test_what_check_advises_can_be_tried(a_galaxy, tmp_path):
    """A file in Msun that does not say so: described, not refused, and right with `units` in a suite file."""
    path = snapshot(tmp_path / "snap.hdf5", a_galaxy, OmegaLambda=0.0, HubbleParam=1.0)
    with h5py.File(path, "r+") as file:
        for number in (0, 1, 4):
            file[f"PartType{number}/Masses"][...] *= 1e10
    description = "\n".join(describe(path))
    assert "check the mass unit" in description
    assert description.splitlines()[-1].startswith("  verdict     cannot be mapped as it is")
    suite = written(tmp_path, draft(path) + "units: {length_kpc: 1, mass_msun: 1, velocity_kms: 1}\n")
    description = "\n".join(describe(suite))
    assert "from the suite file" in description
    assert "galaxies    1 of 1 pass `selection`" in description
    assert "verdict     can be mapped" in description


def test_a_suite_says_which_galaxies_would_be_mapped_and_why_others_not(a_galaxy, tmp_path):
    path = snapshot(tmp_path / "snap_7.hdf5", a_galaxy)
    rows = "a,2000,2000,2000,900,True\nb,1,1,1,900,True\nc,1,1,1,900,False\nd,1,1,1,5,True\n"
    (tmp_path / "t.csv").write_text(f"id,x,y,z,n_stars,central\n{rows}")
    text = f"name: s\nformat: gizmo\nsnapshots: {path.name}\naperture: {{kpc: 30}}\n"
    description = "\n".join(describe(written(tmp_path, text + "catalogue: {format: table, path: t.csv}\n")))
    assert "galaxies    2 of 4 pass `selection`" in description
    assert "1 not: which: central" in description
    assert "1 not: min_stars: 200" in description
    assert "snap_7:a  ok" in description
    assert "snap_7:b  no star lies within its aperture of 30 kpc, the nearest" in description
    assert "cannot be mapped as it is" in description
    (tmp_path / "t.csv").write_text("id,x,y,z,snapshot\na,1,1,1,snap_8\n")
    description = "\n".join(describe(written(tmp_path, text + "catalogue: {format: table, path: t.csv}\n")))
    assert "suite s: 1 snapshot, of which" in description
    assert "the catalogue lists no galaxy of this snapshot; check `catalogue`" in description


def _at_rest(file: h5py.File) -> None:
    file["PartType4/Velocities"][:20] = 0


def _hazy(file: h5py.File) -> None:
    file["PartType0/SmoothingLength"][...] *= 1e5


def _as_it_is(file: h5py.File) -> None:
    """Change nothing."""


def _unlit(file: h5py.File) -> None:
    """Give all stars no light, light in odd units, and none but one of them, which has much."""
    file["PartType4"]["L"] = np.zeros(len(file["PartType4/Masses"]))
    solar_masses = 1e10 * file["PartType4/Masses"][...].astype(float)
    file["PartType4"]["ErgPerS"], file["PartType4"]["Flux"] = 4e33 * solar_masses, 1e-38 * solar_masses
    file["PartType4"]["Marked"] = np.where(np.arange(len(file["PartType4/Masses"])) == 0, 1e30, 1.0)


@pytest.mark.parametrize(
    ("change", "keys", "words"),
    [
        (_at_rest, "", "galaxy 0: 20 of 1000 particles at rest in PartType4/Velocities"),
        (_hazy, "", "times the distance of the 32nd neighbour"),
        (_as_it_is, "aperture: {kpc: 2}", "in the aperture, fewer than min_stars = 200"),
        (
            _as_it_is,
            "aperture: {kpc: 2001}",
            "galaxy 0: the aperture of 2001 kpc does not fit into the box of 4000 kpc",
        ),
        (_as_it_is, "tracers: {gas: hi}", "PartType0: `gas: hi` needs NeutralHydrogenAbundance"),
        (_as_it_is, "tracers: {stars: light, light_field: L}", "PartType4: no dataset for `light_field: L`"),
        (_unlit, "tracers: {stars: light, light_field: L}", "its stars have no light: L is 0 for all of them"),
        (
            _unlit,
            "tracers: {stars: light, light_field: ErgPerS}",
            "of ErgPerS per kpc^2 within R_e, and maps are in sin",
        ),
        (_unlit, "tracers: {stars: light, light_field: Flux}", "of Flux per kpc^2 within R_e, and maps are in single"),
        (_unlit, "tracers: {stars: light, light_field: Marked}", "998 stars has 100.00% of their light; is its Marked"),
    ],
)
def test_check_finds_what_maps_would_refuse(change, keys, words, a_galaxy, tmp_path, monkeypatch):
    """In a snapshot that is sampled whole; missing fields and boxes that are too small also in another."""
    path = snapshot(tmp_path / "snap.hdf5", a_galaxy)
    layouts.edit(path, change)
    aperture = "" if "aperture" in keys else "aperture: {kpc: 60}\n"
    text = f"name: s\nformat: gizmo\nsnapshots: snap.hdf5\n{aperture}{keys}\n"
    said = describe(written(tmp_path, text))
    assert len([line for line in said if line.startswith("  wrong")]) == 1
    assert words in "\n".join(said)
    if "fit" in words or words.startswith("PartType"):
        monkeypatch.setattr("kinmass.gen.look.sketch.MOST", 64)
        assert words in "\n".join(describe(tmp_path / "draft.yaml"))
    assert mapped(text, tmp_path) == (0, 1)


def test_one_galaxy_that_fails_is_odd_where_others_do_not(a_galaxy, tmp_path):
    path = snapshot(tmp_path / "snap.hdf5", a_galaxy)
    (tmp_path / "t.csv").write_text("id,x,y,z\na,2000,2000,2000\nb,2030,2000,2000\n")
    text = f"name: s\nformat: gizmo\nsnapshots: {path.name}\naperture: {{kpc: 60}}\n"
    *_, said, verdict = describe(written(tmp_path, text + "catalogue: {format: table, path: t.csv}\n"))
    assert said.startswith("  odd         galaxy b: the catalogue's centre lies ")
    assert "can be mapped; look at what is odd" in verdict


def test_check_knows_the_temperatures_of_tipsy(tmp_path):
    path = layouts.tipsy(tmp_path / "g1.00512", layouts.galaxy(300))
    assert sketch(path, "tipsy", tracers=Tracers(gas="cold")).wrong == []
    assert any("NeutralHydrogenAbundance" in words for words in sketch(path, "tipsy", tracers=Tracers(gas="hi")).wrong)


def test_check_reads_headers_and_a_bounded_sample(a_galaxy, tmp_path, monkeypatch):
    monkeypatch.setattr("kinmass.gen.look.sketch.MOST", 64)
    path = snapshot(tmp_path / "snap.hdf5", a_galaxy)
    read: list[int] = []
    read_item = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: _counted(read_item(self, key), read))
    contents = sketch(path, "gizmo")
    assert contents.count("stars") == 1000
    assert not any(sample.is_whole for sample in contents.samples.values())
    assert sum(read) < 3 * 8 * (64 + 16) * 8
    assert contents.particles("stars").mass_msun.sum() == pytest.approx(a_galaxy.stars.mass_msun.sum(), rel=0.2)


def _counted(values: np.ndarray, read: list[int]) -> np.ndarray:
    read.append(np.asarray(values).nbytes)
    return values


@pytest.mark.parametrize(
    ("n", "max_items"), [(0, 10), (5, 10), (10, 10), (1000, 10), (1001, 640), (17, 16), (10**9, 10**5)]
)
def test_blocks_are_bounded_and_apart(n, max_items):
    slices = blocks(n, max_items)
    ends = [0, *(end for b in slices for end in (b.start, b.stop))]
    assert ends == sorted(ends)
    assert ends[-1] <= n
    assert sum(b.stop - b.start for b in slices) <= min(n, max_items + 16)
    assert sum(b.stop - b.start for b in slices) >= min(n, max_items)


@pytest.mark.parametrize("name", ["099.hdf5", "snap #1: a.hdf5", "snap[1].hdf5", "yes.hdf5", "{x}.hdf5", "é.hdf5"])
def test_a_draft_is_a_suite_file_whatever_the_files_name(name, a_galaxy, tmp_path):
    folder = tmp_path / "a folder: with # [signs]"
    folder.mkdir()
    path = snapshot(folder / name, a_galaxy)
    catalogue(folder / f"{name}.hdf5", 0.0)
    shutil.move(folder / f"{name}.hdf5", folder / f"{name}.z0.000.AHF_halos")  # found by its name, read by no one here
    suite = load_suite(written(tmp_path, draft(path)))
    assert suite.snapshot_paths() == [path]
    assert suite.catalogue_path(path) == folder / f"{name}.z0.000.AHF_halos"


def test_hidden_files_are_neither_snapshots_nor_catalogues(a_galaxy, tmp_path):
    """A Mac leaves `._snap_099.hdf5` beside each file that it copies to another disk, and a disk has its .Trash."""
    (tmp_path / "run").mkdir()
    path = snapshot(tmp_path / "run" / "snap_099.hdf5", a_galaxy)
    catalogue(path.with_name("fof_subhalo_tab_099.hdf5"), 0.0)
    for name in (path.name, "fof_subhalo_tab_099.hdf5"):
        path.with_name(f"._{name}").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    shutil.copytree(path.parent, tmp_path / ".Trash")
    text = draft(path)
    assert 'path: "fof_subhalo_tab_099.hdf5"' in text
    assert "._" not in text
    for root, pattern in ((path.parent, "*.hdf5"), (tmp_path, "*/snap*.hdf5"), (tmp_path, "**/*snap*.hdf5")):
        suite = load_suite(written(tmp_path, text)).model_copy(update={"root": root, "snapshots": pattern})
        assert [p for p in suite.snapshot_paths() if "fof" not in p.name] == [path]
    hidden = suite.model_copy(update={"snapshots": ".Trash/snap_*.hdf5"})
    assert hidden.snapshot_paths() == [tmp_path / ".Trash" / path.name]


@pytest.mark.parametrize("linked", ["file", "folder", "both"])
def test_a_draft_of_what_is_linked_finds_it(linked, a_galaxy, tmp_path):
    """A link to a file may have another name than that; catalogues lie beside the link, or beside the file's folder."""
    archive, work = tmp_path / "archive" / "snapshots", tmp_path / "work"
    (tmp_path / "archive" / "haloes").mkdir(parents=True)
    archive.mkdir()
    work.mkdir()
    path = snapshot(archive / "snap_099.hdf5", a_galaxy)
    catalogue(tmp_path / "archive" / "haloes" / "snap_099.hdf5", 0.0)
    halos = tmp_path / "archive" / "haloes" / "snap_099.hdf5.z0.000.AHF_halos"
    shutil.move(tmp_path / "archive" / "haloes" / "snap_099.hdf5", halos)
    if linked in ("folder", "both"):
        (work / "snapshots").symlink_to(archive)
        (work / "haloes").symlink_to(halos.parent)
        path = work / "snapshots" / path.name
    if linked in ("file", "both"):
        (work / "mine.hdf5").symlink_to(path)
        (work / "mine.hdf5.z0.000.AHF_halos").symlink_to(halos)
        path = work / "mine.hdf5"
    suite = load_suite(written(tmp_path, draft(path)))
    (found,) = suite.snapshot_paths()
    assert found.name == path.name
    assert found.samefile(path)
    assert suite.catalogue_path(found).samefile(halos)


PATTERNS = ("*.hdf5", "*.binary", "*/*.000???", "*/*/*.0.hdf5")
REAL = [path for pattern in PATTERNS for path in sorted((SHARED / "snapshots").glob(pattern))]


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_a_real_files_draft_maps_it_or_says_why_not(path, tmp_path):
    text = draft(path)
    done = mapped(text, tmp_path)
    if "# look at this first:" in text:
        assert "verdict     cannot be mapped as it is" in "\n".join(describe(tmp_path / "draft.yaml"))
    elif "catalogue:" not in text:
        assert done == (1, 0)


@pytest.mark.parametrize("suite", SUITES)
def test_check_agrees_with_what_maps_would_do(suite, mocks):
    description = describe(mocks / suite / f"{suite}.yaml")
    assert description[0].startswith(f"suite {suite}: ")
    assert "verdict     can be mapped" in description[-1]
    assert not any("wrong" in line for line in description)


def test_a_sample_knows_whether_it_is_whole():
    some = Sample(3, np.zeros((2, 3)), np.zeros((2, 3)), np.ones(2))
    assert not some.is_whole
