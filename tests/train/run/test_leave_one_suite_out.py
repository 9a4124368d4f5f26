"""Posteriors for suites that a network has not seen: fits without each suite, and what they say of the widths."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import SUITES

from kinmass.eval.__main__ import main as evaluate
from kinmass.eval.tables.calibration import coverage
from kinmass.train.__main__ import _fit_options, main, parser
from kinmass.train.data.dataset import read_views, usable
from kinmass.train.loop.config import ROBUST, FitConfig
from kinmass.train.run import calibration
from kinmass.train.run.calibration import InferredViews, unseen_scale
from kinmass.train.run.checkpoint import RunError, read_config
from kinmass.train.run.derived import without_unseen
from kinmass.train.run.intervals import LEVELS
from kinmass.train.run.posterior import Inference, load


@pytest.fixture(scope="module")
def left_out_run(map_store, tmp_path_factory):
    """A run of two suites with a fit without each of them."""
    out = tmp_path_factory.mktemp("left-out") / "stars"
    options = {"--tracer": "stars", "--suites": "bursty,middle", "--steps": 20, "--round-steps": 10, "--batch": 8}
    options |= {"--width": 4, "--scale-dex": 0.3, "--light-dex": 0.3, "--heat": 0.3}
    arguments = ["fit", "--store", str(map_store), "--out", str(out), "--leave-one-suite-out"]
    assert main(arguments + [str(x) for pair in options.items() for x in pair]) == 0
    return out


@pytest.fixture
def run(left_out_run, tmp_path):
    return shutil.copytree(left_out_run, tmp_path / "stars")


def test_every_suite_is_left_out_once(left_out_run):
    left_out = {folder.name: json.loads((folder / "run.json").read_text()) for folder in left_out_run.glob("without-*")}
    assert {name: run["fit"]["suites"] for name, run in left_out.items()} == {
        "without-bursty": ["middle"], "without-middle": ["bursty"],
    }  # fmt: skip
    assert all(run["finished"] and run["fit"]["steps"] == 10 for run in left_out.values())
    assert json.loads((left_out_run / "unseen.json").read_text())["scale"].keys() == {"stars"}


def test_families_are_left_out_together(map_store, tmp_path):
    """Each suite is judged by the fit that has seen none of its family, and counts as one suite."""
    small = ["--tracer", "gas", "--steps", "4", "--round-steps", "2", "--batch", "8", "--width", "4"]
    arguments = ["fit", "--store", str(map_store), "--out", str(tmp_path / "run"), *small, "--leave-one-suite-out"]
    assert main([*arguments, "--families", "bursty+quiet"]) == 0
    suites_of = {path.name: read_config(path)["fit"]["suites"] for path in (tmp_path / "run").glob("without-*")}
    assert suites_of == {"without-bursty+quiet": ["middle"], "without-middle": ["bursty", "quiet"]}
    together = json.loads((tmp_path / "run" / "unseen.json").read_text())
    without = together["made_from"]["without"]
    assert set(without) == set(SUITES)
    assert without["bursty"] == without["quiet"] != without["middle"]
    parts = []
    for name, suites in (("bursty+quiet", ("bursty", "quiet")), ("middle", ("middle",))):
        infer = Inference(tmp_path / "run" / f"without-{name}", calibrated=False)
        for suite in suites:  # a suite without a validation galaxy that can be used has others that the fit never saw
            blocks = [
                calibration.blocks_of(map_store, (suite,), part, calibration.MOST_GALAXIES) for part in ("val", "train")
            ]
            parts.append(next(filter(len, (calibration.inferred_views(infer, own, "gas") for own in blocks))))
    assert together["scale"]["gas"] == [unseen_scale(parts).tolist()]
    assert set(together["made_from"]["measured"]["gas"]) == set(SUITES)
    # Fits without single suites, made later, know more of what they left out.
    assert main(arguments) == 0
    assert len(list((tmp_path / "run").glob("without-*"))) == 4
    assert json.loads((tmp_path / "run" / "unseen.json").read_text()) == together


@pytest.mark.parametrize(
    ("families", "words"),
    [
        (["bursty+fiery"], "'fiery', which is none of the suites"),
        (["bursty+quiet", "middle+quiet"], "names a suite twice"),
        (["bursty+quiet+middle"], "leaves no suite to train on"),
        (["bursty+"], "names ''"),
    ],
)
def test_families_that_cannot_be(map_store, tmp_path, capsys, families, words):
    arguments = ["fit", "--store", str(map_store), "--tracer", "gas", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--leave-one-suite-out", "--families", *families]) == 2
    assert words in capsys.readouterr().err
    assert main([*arguments, "--families", "bursty+quiet"]) == 2
    assert "--leave-one-suite-out" in capsys.readouterr().err


def test_it_is_used_for_suites_that_were_not_trained_on(left_out_run, map_store):
    infer = load(left_out_run)
    views = {suite: read_views(map_store, suite) for suite in SUITES}
    for suite, suite_views in views.items():
        samples, other_samples = infer(suite_views).samples(50), infer(suite_views, unseen=suite != "quiet").samples(50)
        np.testing.assert_array_equal(infer(suite_views, unseen=suite == "quiet").samples(50), samples)
        assert not np.array_equal(samples, other_samples)
    with pytest.raises(ValueError, match="call it once for each kind"):
        infer.foreign(np.array(["bursty", "quiet"]))


def test_no_posterior_is_without_calibration(left_out_run, run, map_store):
    """A tracer that no validation galaxy of a suite left out shows has the widths of the suites trained on."""
    views = read_views(map_store, "quiet")
    unseen = json.loads((run / "unseen.json").read_text())
    (run / "unseen.json").write_text(json.dumps(unseen | {"scale": {"gas": unseen["scale"]["stars"]}}))
    np.testing.assert_array_equal(load(run)(views).samples(50), load(left_out_run)(views, unseen=False).samples(50))
    known = json.loads((run / "calibration.json").read_text())
    for scale, words in (({}, "not calibrated for stars"), ({"stars": [[[1.0]]]}, r"calibration\.json is damaged")):
        (run / "calibration.json").write_text(json.dumps(known | {"scale": scale}))
        with pytest.raises(RunError, match=words):
            load(run)


def test_what_was_missed_is_held(left_out_run, map_store):
    """With the scale found, intervals on the suites left out hold what they promise."""
    pairs = []
    for suite in ("bursty", "middle"):
        infer = Inference(left_out_run / f"without-{suite}", calibrated=False)
        views = read_views(map_store, suite)
        pairs.append((infer, views[usable(views, "stars", infer.instrument)]))

    def covered():
        samples = np.concatenate([infer(views, unseen=False).samples(300) for infer, views in pairs], axis=1)
        truth = np.concatenate([views.log10_menc.numpy() for _, views in pairs])
        return [coverage(samples, truth, level).mean() for level in LEVELS]

    uncalibrated = covered()
    scale = unseen_scale([InferredViews.of(infer, views, "stars") for infer, views in pairs])
    for infer, _ in pairs:
        infer.scales["stars"] = [scale]
    calibrated = covered()
    np.testing.assert_allclose(calibrated, LEVELS, atol=0.08)
    assert abs(calibrated[0] - LEVELS[0]) < abs(uncalibrated[0] - LEVELS[0])
    assert torch.equal(scale, scale.tril())


def test_one_suite_cannot_be_left_out(map_store, tmp_path, capsys):
    args = ["fit", "--store", str(map_store), "--tracer", "gas", "--suites", "quiet", "--out", str(tmp_path / "run")]
    assert main([*args, "--leave-one-suite-out"]) == 2
    assert "needs at least two" in capsys.readouterr().err


@pytest.mark.parametrize("tracer", ["gas", "stars", "both", "any"])
def test_robust_is_a_set_of_options_each_of_which_can_be_chosen(tracer):
    arguments = ["fit", "--store", "maps.zarr", "--tracer", tracer, "--out", "run"]

    def config(*extra_arguments):
        return FitConfig.from_options(
            "maps.zarr", tracer, SUITES, **_fit_options(parser().parse_args([*arguments, *extra_arguments]))
        )

    plain, robust = asdict(config()), asdict(config("--robust"))
    expected = ROBUST["gas" if tracer == "gas" else "stars"]
    assert {name: value for name, value in robust.items() if plain[name] != value} == {
        **expected,
        "leave_one_suite_out": True,
    }
    chosen = asdict(config("--robust", "--scale-dex", "0.1", "--inputs", "raw"))
    assert {name: value for name, value in chosen.items() if robust[name] != value} == {
        "scale_dex": 0.1,
        "inputs": "raw",
    }
    # Options that are named keep their values, even where these are the defaults.
    default_arguments = [word for name in expected for word in (f"--{name.replace('_', '-')}", str(plain[name]))]
    assert asdict(config("--robust", *default_arguments)) == plain | {"leave_one_suite_out": True}


def test_fits_of_other_settings_do_not_say_how_wide_intervals_are(run, map_store, capsys):
    """As where a run was removed and trained otherwise, and its folder kept the fits without each suite."""
    content = json.loads((run / "run.json").read_text())
    calibration.calibrate_all(run, map_store)
    assert not capsys.readouterr().err
    for change in ({"heat": 0.0, "leave_one_suite_out": False}, {"steps": 40}):
        (run / "run.json").write_text(json.dumps(content | {"fit": content["fit"] | change}))
        calibration.calibrate_all(run, map_store)
        assert f"{run} has without-bursty, without-middle" in capsys.readouterr().err
        assert not (run / "unseen.json").exists()
        assert load(run).unseen == {}


@pytest.mark.parametrize("change", [{"version": 0}, {"settings": "0"}, {"without": {"bursty": ["0"]}}])
def test_what_was_made_otherwise_is_made_anew(left_out_run, run, map_store, change):
    content = json.loads((run / "unseen.json").read_text())
    (run / "unseen.json").write_text(json.dumps(content | {"made_from": content["made_from"] | change}))
    if "without" not in change:  # a run without one suite that was trained anew leaves the widths usable
        with pytest.raises(RunError, match=r"unseen\.json"):
            load(run)
    assert calibration.waiting(run) == [run]
    calibration.calibrate_all(run, map_store)
    assert (run / "unseen.json").read_bytes() == (left_out_run / "unseen.json").read_bytes()


def test_tables_say_where_the_widths_for_unseen_suites_are_still_to_come(run, map_store, capsys):
    assert without_unseen([run], SUITES) == []
    (run / "unseen.json").unlink()
    assert without_unseen([run], ("bursty", "middle")) == []
    (sentence,) = without_unseen([run], SUITES)
    assert "its intervals on quiet are those of suites that it was trained on" in sentence
    assert evaluate(["predict", str(run), "--store", str(map_store), "--suite", "quiet"]) == 0
    assert sentence.split(" on quiet")[0] in capsys.readouterr().err
