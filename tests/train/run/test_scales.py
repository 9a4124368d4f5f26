"""How calibration works: on blocks of views, and once for each network and ensemble."""

import dataclasses
import shutil
import weakref

import numpy as np
import pytest
import torch
from conftest import KEPT, SUITES

from kinmass.gen.instruments.model import Instrument, PsfFwhm, TracerNoise
from kinmass.train.data.dataset import concatenate, read_views, usable
from kinmass.train.data.loader import Galaxies
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import fit, fit_ensemble
from kinmass.train.run import calibration
from kinmass.train.run.calibration import calibrate, inferred_views, scales_of
from kinmass.train.run.derived import read_scales, read_training_features
from kinmass.train.run.posterior import load


def test_few_maps_are_in_memory_at_once_and_the_calibration_is_the_same(runs, map_store, tmp_path, monkeypatch):
    run = shutil.copytree(next(run for run in runs if run.name == "both"), tmp_path / "run", ignore=KEPT)
    scales, features = read_scales(run)["both"], read_training_features(run)["both"]
    read_whole, galaxies_at_once, living_maps = Galaxies.read, [], weakref.WeakSet()
    blocks_alive = []

    def read(self, galaxy_rows):
        views = read_whole(self, galaxy_rows)
        galaxies_at_once.append(len(galaxy_rows))
        living_maps.add(views.maps)
        blocks_alive.append(len(living_maps))
        return views

    monkeypatch.setattr(Galaxies, "read", read)
    monkeypatch.setattr(calibration, "VIEWS_PER_BLOCK", 4, raising=False)
    for name in ("calibration.json", "ood.pt"):
        (run / name).unlink()
    calibrate(run, map_store)
    assert max(galaxies_at_once) == 2
    assert len(galaxies_at_once) > 10
    assert max(blocks_alive) <= 2  # the block that was worked on, and the next
    torch.testing.assert_close(read_scales(run)["both"], scales, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(read_training_features(run)["both"].distances, features.distances, rtol=1e-3, atol=1e-3)


def test_an_ensemble_is_calibrated_once_by_the_last_member_that_is(map_store, tmp_path):
    """Jobs of members that end at the same time: all weights are there before any calibration is."""
    run = tmp_path / "run"
    config = FitConfig(str(map_store), "stars", SUITES, width=4, steps=4, round_steps=4, batch=8, members=2)
    fit_ensemble(config, run, quiet=True)
    expected = {path.relative_to(run): path.read_bytes() for path in run.rglob("calibration.json")}
    assert len(expected) == 3
    for name in ("calibration.json", "ood.pt"):
        for path in run.rglob(name):
            path.unlink()
    fit(config, run / "member-0", quiet=True)
    assert [path.parent.name for path in run.rglob("calibration.json")] == ["member-0"]
    fit(dataclasses.replace(config, seed=1), run / "member-1", quiet=True)
    assert {path.relative_to(run): path.read_bytes() for path in run.rglob("calibration.json")} == expected
    scales = np.array(read_scales(run)["stars"])
    assert len(scales) == 2


def test_widths_are_those_for_observers_who_err_in_r_e_as_in_training(runs, map_store):
    infer = load(next(run for run in runs if run.name == "both"))
    views = read_views(map_store, "quiet")
    exact = inferred_views(infer, iter([views]), "both")
    fit_settings = infer.run["fit"] | {"radius_dex": 0.1}
    infer.run = infer.run | {"fit": fit_settings}
    erring = inferred_views(infer, iter([views]), "both")
    assert len(erring) == len(exact) == len(views)
    # Masses inside of radii that err by a tenth of a dex differ by as much as profiles rise over it.
    differs = (erring.log10_menc - exact.log10_menc).numpy()
    slope = (views.log10_menc[:, -1] - views.log10_menc[:, 0]).numpy()  # over one dex
    assert differs.std() == pytest.approx(0.1 * slope.mean(), rel=0.4)
    assert abs(np.median(differs)) < 0.5 * differs.std()
    # Each view has the same error in every calibration, whatever is calibrated beside it.
    again = inferred_views(infer, iter([views[np.array([3])]]), "both")
    torch.testing.assert_close(again.log10_menc[0], erring.log10_menc[3])


def test_a_look_that_shows_nothing_calibrates_nothing(runs, map_store):
    """Views have no posterior where a wide PSF leaves all below what is seen: a fit ended in torch's own error."""
    infer = load(next(run for run in runs if run.name == "gas"))
    infer.instrument = Instrument(
        name="beams", psf_fwhm=PsfFwhm(re=(0.01, 30.0)), gas=TracerNoise(mask_below_msun_kpc2=2e7)
    )
    views = concatenate([read_views(map_store, suite) for suite in SUITES])
    inferred = inferred_views(infer, iter([views]), "gas")
    assert 0 < len(inferred) < usable(views, "gas", infer.instrument).sum()
    assert inferred.posterior.is_answered.all()
    assert all(scale.isfinite().all() for scale in scales_of(inferred))
    seen = calibration._seen_as_trained(infer, views[usable(views, "gas", infer.instrument)], "gas", 0)
    assert len(seen) == len(seen.features[0]) == len(inferred)
