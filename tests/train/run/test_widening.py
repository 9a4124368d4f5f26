"""Intervals that hold for suites of another store, too: a mean over suites, found once, of no test galaxies."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import zarr
from conftest import LOCKS, SUITES

from kinmass.gen.storage.store import DONE, StoreError
from kinmass.train.__main__ import main
from kinmass.train.data.dataset import concatenate, part_of, read_views, usable
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import fit
from kinmass.train.run.calibration import unseen_scale
from kinmass.train.run.checkpoint import RunError, working_in
from kinmass.train.run.derived import UNSEEN, is_calibrated_for_unseen, read_scales, record_of
from kinmass.train.run.posterior import Inference, load
from kinmass.train.run.widening import views_of, widen


@pytest.fixture(scope="module")
def middle_run(map_store, tmp_path_factory):
    """A run of one suite, which no fit without a suite belongs to."""
    out = tmp_path_factory.mktemp("widened") / "stars"
    fit(FitConfig(str(map_store), "stars", ("middle",), width=4, steps=20, round_steps=10, batch=8), out, quiet=True)
    return out


@pytest.fixture
def run(middle_run, tmp_path):
    return shutil.copytree(middle_run, tmp_path / "run")


def covariance(run):
    """L L^T of what the run keeps for suites that it was not trained on."""
    (scale,) = read_scales(run, UNSEEN)["stars"]
    return (scale @ scale.T).double()


def test_the_covariance_is_the_mean_over_suites_and_leaves_test_galaxies_alone(middle_run, run, map_store):
    assert widen(run, map_store, ["bursty"]) == ["bursty"]
    infer, of_suite = Inference(run, calibrated=False), {}
    for suite in ("bursty", "quiet"):
        views = views_of(infer, map_store, suite, "stars")
        expected = concatenate([read_views(map_store, suite, part) for part in ("train", "val")])
        expected = expected[usable(expected, "stars", infer.instrument)]
        np.testing.assert_array_equal(views.lineage, expected.lineages())
        torch.testing.assert_close(views.log10_menc, expected.log10_menc)
        scale = unseen_scale([views])
        of_suite[suite] = (scale @ scale.T).double()
    torch.testing.assert_close(covariance(run), of_suite["bursty"], rtol=1e-3, atol=1e-4)
    assert widen(run, map_store, ["quiet"]) == ["bursty", "quiet"]
    torch.testing.assert_close(covariance(run), sum(of_suite.values()) / 2, rtol=1e-3, atol=1e-4)
    content = (run / UNSEEN).read_bytes()
    assert widen(run, map_store, ["bursty", "quiet"]) == ["bursty", "quiet"]
    assert (run / UNSEEN).read_bytes() == content
    assert set(record_of(run, UNSEEN)["others"]) == {"bursty", "quiet"}
    assert is_calibrated_for_unseen(run, {})
    # The run uses it, for suites that it was not trained on alone.
    views = read_views(map_store, "bursty")
    assert not np.array_equal(load(run)(views).samples(50), load(middle_run)(views).samples(50))
    views = read_views(map_store, "middle")
    np.testing.assert_array_equal(load(run)(views).samples(50), load(middle_run)(views).samples(50))


def test_suites_that_were_trained_on_and_other_galaxies_of_a_name_are_refused(run, map_store, own_store, capsys):
    with pytest.raises(RunError, match="was trained on middle: name suites"):
        widen(run, map_store, SUITES)
    widen(run, map_store, ["bursty"])
    names = zarr.open_group(own_store / "bursty", mode="r+")["galaxy"]
    names[:] = np.array([f"x{name}" for name in names[:]])
    assert main(["widen", str(run), "--store", str(own_store), "--suites", "bursty"]) == 2
    assert "hold other galaxies of these names already: list of galaxies of bursty (12 there" in capsys.readouterr().err
    assert main(["widen", str(run), "--store", str(map_store), "--suites", "quiet"]) == 0
    assert "those that hold for bursty, quiet, taken alike" in capsys.readouterr().out
    damaged = json.loads((run / UNSEEN).read_text())
    (run / UNSEEN).write_text(json.dumps({"scale": damaged["scale"]}))
    with pytest.raises(RunError, match="does not say what it was made from"):
        widen(run, map_store, ["quiet"])


def test_each_tracer_has_the_mean_over_the_suites_in_which_it_is_seen(map_store, tmp_path, capsys):
    """A suite without gas says nothing of how far a network is off with gas, whenever it is held."""
    run, dry = tmp_path / "any", shutil.copytree(map_store, tmp_path / "dry.zarr", ignore=LOCKS)
    fit(FitConfig(str(map_store), "any", ("middle",), width=4, steps=20, round_steps=10, batch=8), run, quiet=True)
    group = zarr.open_group(dry / "quiet", mode="r+")
    group.attrs["suite"], maps = "dry", group["maps"]
    maps[:, :, 4:] = 0
    shutil.move(dry / "quiet", dry / "dry")
    shutil.copytree(map_store / "quiet", dry / "quiet")
    covariances = []
    for i, order in enumerate((("bursty", "quiet"), ("bursty", "quiet,dry"), ("bursty,dry", "quiet"))):
        widened = shutil.copytree(run, tmp_path / str(i))
        for suites in order:
            assert main(["widen", str(widened), "--store", str(dry), "--suites", suites]) == 0
        said = "no view of dry can be used with gas: its intervals" in capsys.readouterr().err
        assert said == (i > 0)
        scale = read_scales(widened, UNSEEN)["gas"][0].double()
        covariances.append(scale @ scale.T)
    for covariance_of_gas in covariances[1:]:
        torch.testing.assert_close(covariance_of_gas, covariances[0], rtol=1e-4, atol=1e-5)


def test_maps_of_another_field_of_view_are_refused(middle_run, own_store):
    group = zarr.open_group(own_store / "bursty", mode="r+")
    group.attrs["config"] = group.attrs["config"] | {"field_of_view_re": 12.0}
    with pytest.raises(RunError, match="was trained on maps with field_of_view_re = 6"):
        widen(middle_run, own_store, ["bursty"])


def test_two_that_widen_at_once_are_one_after_the_other(run, map_store, tmp_path, monkeypatch):
    """Each adds its suites to what it has read: the last would leave out those of the other."""
    monkeypatch.setattr("kinmass.train.run.checkpoint.PATIENCE_S", 0.1)
    with working_in(run), pytest.raises(StoreError, match="is being written by process"):
        widen(run, map_store, ["bursty"])
    with pytest.raises(RunError, match="is no run folder"):
        widen(tmp_path / "none", map_store, ["bursty"])
    assert not (tmp_path / "none").exists()


def test_a_run_that_was_trained_anew_is_widened_no_more_and_says_so(run, map_store, capsys):
    """What was widened is of other weights: no fit makes it anew, and nobody could use the run."""
    widen(run, map_store, ["bursty"])
    fit_again = partial(
        fit, FitConfig(str(map_store), "stars", ("middle",), width=4, steps=20, round_steps=10, batch=8)
    )
    fit_again(run, quiet=True)
    assert (run / UNSEEN).exists()
    content = json.loads((run / UNSEEN).read_text())
    content["made_from"]["weights"] = ["others"]
    (run / UNSEEN).write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"unseen\.json is of other weights than the run's; give the `kinmass fit`"):
        load(run)
    fit_again(run, quiet=True)
    assert "its intervals hold for bursty: they no longer do; give that command again" in capsys.readouterr().err
    assert load(run).unseen == {}


def test_galaxies_of_the_same_names_are_not_taken_for_those_held(run, map_store, own_store, capsys):
    """Names of mocks, and of most simulations' galaxies, say nothing: the intervals would be believed to hold."""
    widen(run, map_store, ["bursty"])
    assert widen(run, own_store, ["bursty"]) == ["bursty"]  # a store may lie anywhere
    content = (run / UNSEEN).read_bytes()
    status, sizes = (zarr.open_group(own_store / "bursty", mode="r+")[name] for name in ("status", "half_mass_radius"))
    status[0] = 0  # as before it was mapped
    with pytest.raises(RunError, match=r"already: mapped galaxies of bursty \(12 there, 11 now\); remove"):
        widen(run, own_store, ["bursty"])
    status[0] = DONE
    sizes[:] = 2 * sizes[:]
    assert main(["widen", str(run), "--store", str(own_store), "--suites", "bursty"]) == 2
    assert "already: R_e of" in capsys.readouterr().err
    assert (run / UNSEEN).read_bytes() == content


def test_suites_of_which_nothing_can_be_used_are_not_said_to_be_held(run, own_store):
    group = zarr.open_group(own_store / "bursty", mode="r+")
    group["status"][:] = np.where([part_of(lineage) == "test" for lineage in group["lineage"][:]], DONE, 0)
    with pytest.raises(RunError, match=r"has no view of bursty that .* can use, other than of the test part"):
        widen(run, own_store, ["quiet", "bursty"])
    assert not (run / UNSEEN).exists()
