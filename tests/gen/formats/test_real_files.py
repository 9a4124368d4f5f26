"""Public snapshot files of other groups: the true mass is summed independently with h5py, and a model predicts."""

import h5py
import numpy as np
import pytest
from conftest import ROOT, command

from kinmass.gen.formats.recognise import recognised
from kinmass.gen.formats.tracers import temperature_k
from kinmass.gen.physics.profile import enclosed_mass
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.storage import store
from kinmass.gen.suite import Tracers

FILES = {
    "tng_cutout": ("tng100_394242.hdf5", 1.0, 1e10),
    "arepo_isolated": ("arepo_isolated.hdf5", 1.0, 1e10),
    "eagle_cutout": ("eagle_cutout.hdf5", 1000 / 0.6777, 1e10 / 0.6777),
}


def particles(path, length_kpc: float, mass_msun: float) -> tuple[np.ndarray, np.ndarray]:
    """Return positions [kpc] and masses [Msun] of all particles of a file, in the units of its README."""
    pos, mass = [], []
    with h5py.File(path) as file:
        table = file["Header"].attrs["MassTable"]
        for number in range(6):
            if (group := file.get(f"PartType{number}")) is not None:
                n = len(group["Coordinates"])
                pos.append(group["Coordinates"][()] * length_kpc)
                masses = group["Masses"] if "Masses" in group else group.get("Mass")
                mass.append((masses[()] if masses is not None else np.full(n, table[number])).astype(float) * mass_msun)
    return np.concatenate(pos), np.concatenate(mass)


@pytest.mark.parametrize("name", FILES)
def test_truth_equals_the_files_own_particles(name, real_files, tmp_path):
    file, length, mass = FILES[name]
    command(
        "gen", "maps", ROOT / "gen" / "templates" / f"{name}.yaml", "--root", real_files, "--out", tmp_path / "m.zarr"
    )
    group = store.open_suite(tmp_path / "m.zarr", name)
    pos, mass_msun = particles(real_files / file, length, mass)
    expected = enclosed_mass(pos - group["centre"][0], mass_msun, group["radius"][0])
    np.testing.assert_allclose(group["mass"][0, 0], expected, rtol=1e-6)
    assert bool(group["has_gas"][0]) == (name != "eagle_cutout")
    assert 0.5 < group["half_mass_radius"][0].min() < 10
    density = group["maps"][0, :, 0]
    assert density[:, 12:20, 12:20].mean() > 10 * density[:, :4].mean()


def test_centres_agree_with_what_is_known(real_files, tmp_path):
    """The cutout is centred on (50, 50, 50) kpc, the isolated galaxy on its black hole."""
    for name, expected_kpc in (("tng_cutout", 50.0), ("arepo_isolated", 1000.0)):
        command(
            "gen",
            "maps",
            ROOT / "gen" / "templates" / f"{name}.yaml",
            "--root",
            real_files,
            "--out",
            tmp_path / "m.zarr",
        )
        centre = store.open_suite(tmp_path / "m.zarr", name)["centre"][0]
        np.testing.assert_allclose(centre, expected_kpc, atol=0.3)


def test_an_eagle_cutout_without_units_of_its_own_is_in_mpc(real_files):
    """z = 0.27, only the datasets say their units; 4 kpc of a galaxy in a box of 100 comoving Mpc."""
    path = real_files / "eagle_simspin.hdf5"
    assert recognised(path) == "eagle"
    with Snapshot(path, "eagle", tracers=Tracers(gas="cold")) as snapshot, h5py.File(path) as file:
        stars, gas, units = snapshot.everything("stars"), snapshot.everything("gas"), snapshot.units
        a, h = (float(file["Header"].attrs[key][0]) for key in ("ExpansionFactor", "HubbleParam"))
        cold = (file["PartType0/Temperature"][()] < 2e4) | (file["PartType0/StarFormationRate"][()] > 0)
        np.testing.assert_allclose(stars.pos_kpc, file["PartType4/Coordinates"][()] * 1000 * a / h, rtol=1e-9)
        np.testing.assert_allclose(stars.vel_kms, file["PartType4/Velocity"][()] * np.sqrt(a), rtol=1e-9)
        np.testing.assert_allclose(stars.mass_msun, file["PartType4/Mass"][()] * 1e10 / h, rtol=1e-9)
        np.testing.assert_allclose(gas.support_kpc, file["PartType0/SmoothingLength"][()] * 1000 * a / h, rtol=1e-9)
    assert units.box_kpc == pytest.approx(1e5 * a, rel=1e-6)
    assert cold.sum() > 0
    np.testing.assert_array_equal(gas.weight, cold * gas.mass_msun)


def test_a_tng_cutout_with_the_counts_of_the_whole_galaxy_gives_up_its_wind(real_files):
    """Its NumPart_ThisFile says 123,468 stars; there are 2,000 rows, of which 4 are wind."""
    path = real_files / "tng100_simspin.hdf5"
    assert recognised(path) == "arepo"
    with Snapshot(path, "arepo", tracers=Tracers(gas="cold")) as snapshot, h5py.File(path) as file:
        stars, gas, h = snapshot.everything("stars"), snapshot.everything("gas"), snapshot.units.hubble
        wind = file["PartType4/GFM_StellarFormationTime"][()] <= 0
        all_gas = file["PartType0/Masses"][()].sum() + file["PartType4/Masses"][()][wind].sum()
        kelvin = temperature_k(file["PartType0/InternalEnergy"][()], file["PartType0/ElectronAbundance"][()])
        cold = (kelvin < 2e4) | (file["PartType0/StarFormationRate"][()] > 0)
    assert wind.sum() == 4
    assert len(stars) == 2000 - 4
    assert gas.mass_msun.sum() == pytest.approx(all_gas * 1e10 / h, rel=1e-6)
    np.testing.assert_array_equal(gas.weight > 0, np.append(cold, np.zeros(4, bool)))
    assert 0 < cold.sum() < 100
    assert 1e3 < kelvin.min() < kelvin.max() < 1e8


def test_fires_four_files_and_low_resolution_particles(real_files):
    path = real_files / "fire_m12i" / "snapdir_600" / "snapshot_600.0.hdf5"
    assert recognised(path) == "gizmo"
    parts = {"dark": ["PartType1"], "low_resolution": ["PartType2"]}
    with Snapshot(path, "gizmo", parts, tracers=Tracers(gas="hi")) as snapshot:
        galaxy_read = snapshot.galaxy(np.full(3, 0.5 * snapshot.units.box_kpc), 1e6)
    fine = low = 0.0
    neutral: list[float] = []
    for i in range(4):
        with h5py.File(path.with_name(f"snapshot_600.{i}.hdf5")) as file:
            fine += file["PartType1/Masses"][()].sum(dtype=float)
            low += file["PartType2/Masses"][()].sum(dtype=float)
            neutral += file["PartType0/NeutralHydrogenAbundance"][()].tolist()
    assert [len(p) for p in galaxy_read.components().values()] == [80, 40, 40, 0]
    assert galaxy_read.dark.mass_msun.sum() == pytest.approx((fine + low) * 1e10 / 0.702, rel=1e-6)
    assert galaxy_read.high_res_fraction == pytest.approx(fine / (fine + low), rel=1e-5)
    share = np.sort(galaxy_read.gas.weight / (0.76 * galaxy_read.gas.mass_msun))
    np.testing.assert_allclose(share, np.sort(neutral), rtol=1e-5)
    assert 0 < share[-1] <= 1


def test_gadgets_binary_file_of_a_disc_and_a_bulge(real_files):
    """Format 1: 1,000 particles of type 2, 1,500 of type 3, each with its own mass."""
    path = real_files / "gadget_simspin.binary"
    assert recognised(path) == "gadget_binary"
    raw = path.read_bytes()
    pos, vel = (np.frombuffer(raw, "<f4", 7500, at).reshape(2500, 3) for at in (268, 30276))
    mass = np.frombuffer(raw, "<f4", 2500, 70292).astype(float) * 1e10
    with Snapshot(path, "gadget_binary", {"stars": ["PartType2", "PartType3"], "dark": []}) as snapshot:
        stars = snapshot.everything("stars")
        assert (snapshot.units.box_kpc, snapshot.units.scale_factor) == (None, 1.0)
    np.testing.assert_array_equal(stars.pos_kpc, pos)
    np.testing.assert_array_equal(stars.vel_kms, vel)
    np.testing.assert_array_equal(stars.mass_msun, mass)
    assert np.median(np.linalg.norm(pos, axis=1)) < 30


def test_a_trained_model_predicts_a_profile_for_each(real_files, map_store, tmp_path):
    from kinmass.eval.tables.predict import predict
    from kinmass.train.loop.config import FitConfig
    from kinmass.train.loop.fit import fit

    suites = ("bursty", "quiet", "middle")
    run = tmp_path / "run"
    config = FitConfig(str(map_store), "stars", suites, width=4, steps=10, round_steps=10, batch=8)
    fit(config, run, quiet=True)
    for name in FILES:
        command(
            "gen", "maps", ROOT / "gen" / "templates" / f"{name}.yaml", "--root", real_files,
            "--out", tmp_path / "m.zarr", "--views", 2, "--pixels", 16,
        )  # fmt: skip
        table = predict(run, tmp_path / "m.zarr", name)
        assert len(table) == 2 * 10
        assert (np.diff(table.log10_menc.to_numpy().reshape(2, 10), axis=1) > 0).all()
        assert (table.lo_95 <= table.lo_68).all()
        assert (table.hi_68 <= table.hi_95).all()
