"""What was made from a run is used for that run alone, as it is and as the code makes it now; and who says so."""

import dataclasses
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import KEPT, SUITES
from test_launch import job_of_this_process

from kinmass.train.__main__ import main
from kinmass.train.launch.status import states, write_launched
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import fit, fit_ensemble
from kinmass.train.run import calibration
from kinmass.train.run.checkpoint import RunError, read_tensors, write_tensors
from kinmass.train.run.derived import is_calibrated, settings_of
from kinmass.train.run.posterior import load

SMALL = {"width": 4, "steps": 4, "round_steps": 4, "batch": 8}


@pytest.fixture(scope="module")
def ensemble(map_store, tmp_path_factory):
    """An ensemble of two networks; take copies."""
    out = tmp_path_factory.mktemp("ensemble") / "stars"
    fit_ensemble(FitConfig(str(map_store), "stars", SUITES, members=2, **SMALL), out, quiet=True)
    return out


@pytest.fixture
def gas(runs, tmp_path):
    return shutil.copytree(next(run for run in runs if run.name == "gas"), tmp_path / "runs" / "gas", ignore=KEPT)


def change_record(path, **change):
    """Change the record in a derived file; None removes a key of it, and `record=None` all of it."""
    content = read_tensors(path) if path.suffix == ".pt" else json.loads(path.read_text())
    record = content.pop("made_from") | change
    if "record" not in change:
        content["made_from"] = {key: value for key, value in record.items() if value is not None}
    write_tensors(path, content) if path.suffix == ".pt" else path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["calibration.json", "ood.pt"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"record": None}, "made by an older version"),
        ({"version": 0}, "made by an older version"),
        ({"version": 99}, "made by a newer version"),
        ({"settings": "0"}, "of other settings"),
        ({"weights": ["0"]}, "of other weights"),
    ],
)
def test_what_is_out_of_date_is_refused_and_made_anew(gas, map_store, name, change, words):
    before = (gas / name).read_bytes()
    change_record(gas / name, **change)
    with pytest.raises(RunError, match=f"{name} (was|is) {words}") as refused:
        load(gas)
    assert "\n" not in str(refused.value)
    assert [state.name for state in states(gas)] == ["not calibrated"]
    assert main(["status", str(gas), "--wait"]) == 1
    fit(FitConfig(str(map_store), "gas", SUITES, **SMALL | {"steps": 20, "round_steps": 10}), gas, quiet=True)
    assert (gas / name).read_bytes() == before
    load(gas)
    assert [state.name for state in states(gas)] == ["finished"]


def test_it_is_bound_to_every_setting_that_changes_what_is_learnt_and_to_no_other(gas):
    def with_change(section, change):
        (gas / "run.json").write_text(json.dumps(content | ({section: content[section] | change})))
        return settings_of(gas)

    content = json.loads((gas / "run.json").read_text())
    settings = settings_of(gas)
    for change in ({"store": "elsewhere"}, {"memory_gb": 3.0}, {"leave_one_suite_out": True}):
        assert with_change("fit", change) == settings
    for section, change in (
        ("fit", {"heat": 0.1}), ("fit", {"suites": ["quiet"]}), ("fit", {"told": True}), ("model", {"told": True}),
        ("instrument", {"name": "x"}),
    ):  # fmt: skip
        assert with_change(section, change) != settings
    # A setting that came later and is as if it were not there changes nothing.
    content["fit"] = {name: value for name, value in content["fit"].items() if name not in ("told", "ema")}
    assert with_change("fit", {}) == settings


def test_a_run_is_finished_once_it_is_calibrated(gas, map_store):
    """Who waits for a run finds all of it; one that was killed while it was calibrated goes on when launched again."""
    (gas / "calibration.json").unlink()
    job = job_of_this_process()
    (gas / "logs" / job.job).mkdir(parents=True)
    (gas / "logs" / job.job / f"{job.job}_0_log.out").touch()
    write_launched(gas, {".": job})
    (state,) = states(gas)
    assert state.name == "running"
    assert "being calibrated" in state.text
    write_launched(gas, {".": dataclasses.replace(job, pid=1)})
    (state,) = states(gas)
    assert state.name == "not calibrated"
    assert "launch it again" in state.text
    line = ["launch", "--cluster", "local", "--store", map_store, "--tracer", "gas", "--out", gas]
    line += ["--suites", ",".join(SUITES), "--width", 4, "--steps", 20, "--round-steps", 10, "--batch", 8]
    assert main([str(word) for word in line]) == 0
    assert main(["status", str(gas), "--wait"]) == 0
    assert is_calibrated(gas)


def test_members_are_finished_once_their_ensemble_is_calibrated(ensemble, tmp_path):
    out = shutil.copytree(ensemble, tmp_path / "stars")
    assert [state.name for state in states(out)] == ["finished"] * 2
    (out / "ood.pt").unlink()
    assert [state.name for state in states(out)] == ["not calibrated"] * 2
    # While the job of one of them is at work, it is this one's.
    job = job_of_this_process()
    (out / "logs" / job.job).mkdir(parents=True)
    write_launched(out, {"member-1": job})
    assert [state.name for state in states(out)] == ["finished", "queued"]
    (out / "member-0" / "calibration.json").unlink()
    assert [state.name for state in states(out)] == ["not calibrated", "finished"]


def test_jobs_that_end_at_the_same_time_calibrate_their_ensemble_once(ensemble, map_store, tmp_path, monkeypatch):
    copy = shutil.copytree(ensemble, tmp_path / "stars")
    (copy / "calibration.json").unlink()
    features_of, made = calibration.learn_training_features, []

    def slowly(*features):
        made.append(features)
        time.sleep(0.5)
        return features_of(*features)

    monkeypatch.setattr(calibration, "learn_training_features", slowly)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(calibration.calibrate_all, (copy / "member-0", copy / "member-1"), [map_store] * 2))
    assert is_calibrated(copy)
    assert len(made) == 1
    assert not list(copy.glob(".lock*"))


def test_a_folder_holds_one_network_or_one_ensemble(ensemble, gas, map_store):
    """With both in one folder, one of them would be used and the other never."""
    before = {path: path.read_bytes() for path in ensemble.rglob("*") if path.is_file()}
    stars = FitConfig(str(map_store), "stars", SUITES, **SMALL)
    with pytest.raises(RunError, match="holds an ensemble; choose another --out"):
        fit_ensemble(stars, ensemble, quiet=True)
    with pytest.raises(RunError, match="holds a single network; choose another --out"):
        fit_ensemble(dataclasses.replace(stars, tracer="gas", members=2), gas, quiet=True)
    line = ["launch", "--cluster", "local", "--store", map_store, "--tracer", "stars", "--out", ensemble]
    assert main([str(word) for word in line]) == 2
    assert {path: path.read_bytes() for path in ensemble.rglob("*") if path.is_file()} == before
    shutil.copytree(ensemble / "member-0", gas / "member-0")
    with pytest.raises(RunError, match="holds a single network and an ensemble"):
        load(gas)
