"""Public snapshot files nobody here made: truth summed independently with h5py, and a prediction."""

import h5py
import numpy as np
import pytest
from conftest import ROOT, command

from gen import store
from gen.profile import enclosed_mass

FILES = {
    "tng_cutout": ("tng100_394242.hdf5", 1.0, 1e10),
    "arepo_isolated": ("arepo_isolated.hdf5", 1.0, 1e10),
    "eagle_cutout": ("eagle_cutout.hdf5", 1000 / 0.6777, 1e10 / 0.6777),
}


def particles(path, length_kpc: float, mass_msun: float) -> tuple[np.ndarray, np.ndarray]:
    """Every particle of a file, with the units its README gives."""
    pos, mass = [], []
    with h5py.File(path) as file:
        table = file["Header"].attrs["MassTable"]
        for number in range(6):
            if (group := file.get(f"PartType{number}")) is not None:
                n = len(group["Coordinates"])
                pos.append(group["Coordinates"][()] * length_kpc)
                own = group["Masses"] if "Masses" in group else group.get("Mass")
                mass.append((own[()] if own is not None else np.full(n, table[number])).astype(float) * mass_msun)
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
    for name, known in (("tng_cutout", 50.0), ("arepo_isolated", 1000.0)):
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
        np.testing.assert_allclose(centre, known, atol=0.3)


def test_a_trained_model_predicts_a_profile_for_each(real_files, map_store, tmp_path):
    from eval.predict import predict
    from train.fit import FitConfig, fit

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
