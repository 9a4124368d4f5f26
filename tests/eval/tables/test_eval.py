"""Evaluation: the table is the same for any blocks and workers, and predictions are kept until something changes."""

import contextlib
import copy
import json
import os
import pickle
import re
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray
import zarr
from astropy import units
from conftest import KEPT, LOCKS, assert_same_posterior, command, tables_here
from dask.distributed import LocalCluster
from reference import held

from kinmass.eval.__main__ import _cluster_settings, main, parser
from kinmass.eval.gallery.stored import contents
from kinmass.eval.report.page import read_results, write_report
from kinmass.eval.tables import cluster, predictions, tasks
from kinmass.eval.tables.cluster import Cluster, connected, sum_of_tasks
from kinmass.eval.tables.compare import MEASURES, _score, compare, measure_pair, not_compared, verdicts
from kinmass.eval.tables.metrics import Estimates, Sums, add_up, per_view
from kinmass.eval.tables.predict import predict
from kinmass.eval.tables.predictions import Damaged, KeptPredictions, Part, prepare
from kinmass.eval.tables.tables import (
    KEYS,
    collect,
    nothing_tested,
    pooled,
    to_table,
    without_answer,
    write_tables,
)
from kinmass.eval.tables.tasks import (
    Group,
    _bins,
    _refuse_shared_members,
    evaluate_block,
    measure_block,
    predict_block,
    sources_of,
)
from kinmass.gen.code import code_key, imports
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.model import Instrument, PsfFwhm, TracerNoise
from kinmass.gen.instruments.observe import CHANNELS, TOLD
from kinmass.gen.options import OptionError
from kinmass.gen.storage import store, suite_group, writer
from kinmass.gen.storage.chunks import fingerprint
from kinmass.train import load
from kinmass.train.data.dataset import RADII_RE, part_of, read_views, usable
from kinmass.train.data.loader import done_galaxies, galaxies_of
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import fit_ensemble
from kinmass.train.model.network import MassModel
from kinmass.train.run.checkpoint import (
    RunError,
    instrument_of,
    read_tensors,
    runs_in,
    runs_in_all,
    write_json,
    write_tensors,
)
from kinmass.train.run.derived import CALIBRATION, OOD, UNSEEN, made_from, write_scales
from kinmass.train.run.ensemble import Members
from kinmass.train.run.posterior import Inference
from kinmass.train.run.trained_on import check_maps, seen_in_training

SUITES = ("bursty", "quiet", "middle")
K = len(RADII_RE)


def sums_by_blocks(runs, map_store, out, size: int) -> dict[Group, Sums]:
    """Measure kept predictions in this process, one block after the other."""
    parts_of_group: dict[Group, list] = {}
    sources = sources_of(runs, out)
    for suite in SUITES:
        part = Part(map_store, suite, None)
        for start in range(0, 12, size):
            for group, sums in measure_block(sources, part, slice(start, min(start + size, 12))).items():
                parts_of_group.setdefault(group, []).append(sums)
    return pooled({group: reduce(add, parts) for group, parts in parts_of_group.items()})


@pytest.mark.parametrize("size", [5, 1])
def test_any_blocks_make_the_same_table(results, runs, map_store, size):
    """To 1e-10, in this process and, in blocks of all twelve galaxies, by two workers."""
    table = to_table(sums_by_blocks(runs, map_store, results, size))
    expected = pd.concat([pd.read_parquet(results / f"{name}.parquet") for name in ("table", "bins")])
    expected["column"] = expected["column"].fillna("")
    keys = [*KEYS, "column", "low", "radius"]
    expected = expected.sort_values(keys, kind="stable", ignore_index=True)[table.columns]
    pd.testing.assert_frame_equal(table, expected, rtol=1e-10, atol=1e-10)
    assert (table[table.column.eq("") & table.test.ne("all")].n_galaxies == 12).all()


def test_numpy_makes_the_same_table_from_kept_predictions(results, runs, map_store):
    """Predictions opened with xarray; every column that is a mean or a standard deviation, to 1e-10."""
    run = next(r for r in runs if r.name == "stars")
    tree = xarray.open_datatree(run / f"predictions.zarr/{map_store.stem}/quiet/all/stars", engine="zarr")
    data, samples = tree["constant_data"], tree["posterior"].log10_menc[0].to_numpy()
    assert tree["posterior"].log10_menc.dims == ("chain", "draw", "view", "radius")
    assert samples.shape == (200, 24, K)
    assert (np.diff(samples, axis=-1) >= 0).all()
    truth = data["log10_menc_true"].to_numpy().astype(float)
    np.testing.assert_allclose(truth, read_views(map_store, "quiet").log10_menc, rtol=1e-6)
    d = np.median(samples, axis=0).astype(float) - truth
    table = pd.read_parquet(results / "table.parquet")
    rows = table[(table.estimator == "cnn") & (table.tracer == "stars") & (table.test == "quiet")].sort_values("radius")
    for name, values in {
        "bias": d.mean(0), "dispersion": d.std(0), "rmse": np.sqrt((d**2).mean(0)),
        "coverage_95": held(samples, truth, 0.9545).mean(0),
    }.items():  # fmt: skip
        np.testing.assert_allclose(rows[name], values, rtol=1e-10)
    assert data["inclination"].attrs["units"] == "deg"
    assert np.isfinite(data["rotation_support"]).all()


def test_pooled_rows_hold_every_suite(results):
    table = pd.read_csv(results / "table.csv", keep_default_na=False, na_values=[""])
    pooled_rows = table[(table.test == "all") & (table.estimator == "cnn") & (table.tracer == "gas")]
    assert (pooled_rows.n_galaxies == 36).all()
    single = table[(table.test != "all") & (table.estimator == "cnn") & (table.tracer == "gas")]
    for radius, rows in single.groupby("radius"):
        pooled_row = pooled_rows[pooled_rows.radius == radius].iloc[0]
        assert np.average(rows.bias, weights=rows.n_views) == pytest.approx(pooled_row.bias, abs=1e-9)
    assert len(pd.read_csv(results / "ratios.csv")) == 4
    bins = pd.read_csv(results / "bins.csv")
    inclination_bins = bins[(bins.column == "inclination") & (bins.estimator == "cnn") & (bins.test == "all")]
    assert (inclination_bins.groupby(["tracer", "train", "radius"]).n_views.sum() == 72).all()
    tex = (results / "summary.tex").read_text()
    assert tex.count(r" \\") == len(pd.read_csv(results / "summary.csv")) + 1


def test_where_two_tracers_gain_is_what_numpy_finds(results, runs, map_store):
    """At every radius and in every bin, on the views that all three networks use."""
    trees = {
        name: xarray.open_datatree(run / f"predictions.zarr/{map_store.stem}/quiet/all/{name}", engine="zarr")
        for run in runs
        if (name := run.name) in ("gas", "stars", "both")
    }
    data = trees["both"]["constant_data"]
    used = np.all([tree["constant_data"].state.to_numpy() == 1 for tree in trees.values()], axis=0)
    errors = {
        name: np.median(tree["posterior"].log10_menc[0].to_numpy(), axis=0).astype(float)
        - data.log10_menc_true.to_numpy()
        for name, tree in trees.items()
    }
    gains = pd.read_csv(results / "gains.csv")
    gains = gains[(gains.test == "quiet") & (gains.train == "bursty+middle+quiet")]
    assert set(gains.column) == {"radius", "log10_stellar_mass", "inclination", "gas_fraction", "rotation_support"}
    assert list(gains.low[gains.column == "radius"]) == pytest.approx(RADII_RE)
    for row in gains.itertuples():
        if row.column == "radius":
            views, radii = used, [RADII_RE.index(pytest.approx(row.low))]
        else:
            views = used & np.asarray((data[row.column] >= row.low) & (data[row.column] < row.high))
            radii = list(range(K))
        spread = {name: np.std(error[views][:, radii], axis=0).mean() for name, error in errors.items()}
        assert row.n_galaxies == len(set(data.galaxy.to_numpy()[views].tolist()))
        assert row.ratio == pytest.approx(min(spread["gas"], spread["stars"]) / spread["both"], rel=1e-9), row
        assert row.lo <= row.hi


def test_only_what_changed_is_inferred_again(runs, map_store, tmp_path):
    """Told by the time at which each block was written; a new calibration makes all blocks of its run stale."""
    copies = [tmp_path / run.name for run in runs[:2]]
    for run, target in zip(runs, copies, strict=False):
        shutil.copytree(run, target, ignore=KEPT)

    def write_times() -> dict[str, int]:
        tables_here(copies, map_store, tmp_path / "out", classical=True)
        token_paths = tmp_path.glob("*/*.zarr/maps/*/all/*/token/c/0")
        return {str(path.relative_to(tmp_path)): path.stat().st_mtime_ns for path in token_paths}

    first_times = write_times()
    assert len(first_times) > 6
    assert write_times() == first_times
    table = (tmp_path / "out" / "table.csv").read_text()
    calibration = json.loads((copies[0] / "calibration.json").read_text())
    tracer = next(iter(calibration["scale"]))
    calibration["scale"][tracer] = [(2 * np.array(member)).tolist() for member in calibration["scale"][tracer]]
    (copies[0] / "calibration.json").write_text(json.dumps(calibration))
    second_times = write_times()
    changed = {path for path in first_times if second_times[path] != first_times[path]}
    assert changed == {path for path in first_times if path.startswith(copies[0].name)}
    assert (tmp_path / "out" / "table.csv").read_text() != table


def test_a_worker_that_is_killed_changes_nothing(runs, map_store, results, tmp_path):
    """The task itself kills its worker; another worker repeats the block."""
    sources, instruments = sources_of(runs, results), {"ifu": instrument_of(runs[0])}
    arguments = [(sources, instruments, Part(map_store, suite, None), slice(0, 12)) for suite in SUITES]
    arguments_with_marker = [(str(tmp_path / "once"), *a) for a in arguments]
    sums = sum_of_tasks(kill_then_evaluate, arguments_with_marker, Cluster(workers=2))
    assert (tmp_path / "once").exists()
    pd.testing.assert_frame_equal(to_table(pooled(sums)), to_table(sums_by_blocks(runs, map_store, results, 12)))


def kill_then_evaluate(marker: str, *arguments):
    if arguments[2].suite == "quiet" and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate_block(*arguments)


def test_workers_share_the_gpus_by_turns(tmp_path, monkeypatch):
    """One worker for each, which sees no other, also when it is started again."""
    monkeypatch.setattr(cluster, "visible_gpus", lambda: ["3", "5"])
    seen = sum_of_tasks(gpus_of_worker, [(str(tmp_path), i) for i in range(12)], Cluster())
    assert set(seen) == {"3", "5"}
    assert sum(seen.values()) == 12


def gpus_of_worker(folder: str, i: int):
    killed = Path(folder) / "killed"
    if i == 0 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    gpu, deadline = os.environ.get("CUDA_VISIBLE_DEVICES", ""), time.monotonic() + 60
    # On a busy machine one worker would do all the tasks before the other has started again.
    (Path(folder) / f"gpu-{gpu}").touch()
    while not killed.exists() or len(list(Path(folder).glob("gpu-*"))) < 2:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return {gpu: 1}


def test_jobs_of_dask_have_every_setting_of_the_site(tmp_path, monkeypatch):
    """Told from the scripts that an sbatch in the path is given."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/script\necho Submitted batch job 1\n')
    sbatch.chmod(0o755)
    for name in ("scancel", "squeue"):
        shutil.copy("/bin/true", tmp_path / name)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    site = {"SBATCH_EXTRA": "--exclusive --comment='my maps'", "PARTITION": "cpu", "GPU_PARTITION": "gpu", "QOS": "low"}
    monkeypatch.setattr("sys.executable", "/my python/python")
    with connected(Cluster("slurm", 1, gpus=1, logs=tmp_path / "my logs", site=site)):
        pass
    script = (tmp_path / "script").read_text()
    output = f"--output='{tmp_path}/my logs/dask-worker-%J'.out"
    for directive in ("--exclusive", "--comment='my maps'", "-p gpu", "--qos=low", "--gpus-per-node=1", output):
        assert f"#SBATCH {directive}\n" in script
    assert "\n'/my python/python' -m distributed" in script
    assert "#SBATCH -o" not in script
    with (
        pytest.raises(ValueError, match="'64G' is no option of sbatch"),
        connected(Cluster("slurm", 1, site={"SBATCH_EXTRA": "--mem 64G"})),
    ):
        pass


def test_a_job_of_dask_that_sbatch_refuses_ends_the_command(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho sbatch: error: invalid partition specified: nope >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    for name in ("scancel", "squeue"):
        shutil.copy("/bin/true", tmp_path / name)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with (
        pytest.raises(ValueError, match=r"sbatch refused the job \(invalid partition specified: nope\): correct"),
        connected(Cluster("slurm", 2, logs=tmp_path / "logs", site={"PARTITION": "nope"})),
    ):
        pass


def test_workers_have_a_home_where_the_user_has_none(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)  # of nobody
    with pytest.raises(ValueError, match="unknown cluster"), connected(Cluster("pbs")):
        pass
    assert Path.home() == Path(tempfile.gettempdir())  # what bokeh asks for


def test_a_running_scheduler_serves_too_and_its_errors_are_ours(runs, map_store, results):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as running:
        scheduler = Cluster(running.scheduler_address)
        with pytest.raises(RunError, match="cannot be read"):
            sum_of_tasks(
                measure_block,
                [(sources_of(runs, results / "no"), Part(map_store, "quiet", None), slice(0, 12))],
                scheduler,
            )
    with pytest.raises(OSError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        sum_of_tasks(measure_block, [()], Cluster("tcp://127.0.0.1:1"))
    with pytest.raises(ValueError, match="unknown cluster"):
        sum_of_tasks(measure_block, [()], Cluster("pbs"))


def test_a_suite_that_no_run_knows_is_evaluated_and_said(runs, map_store, tmp_path):
    run = next(r for r in runs if r.name == "middle")
    options = ("--part", "all", "--no-classical", "--workers", 1)
    stdout = command("eval", "tables", run, "--store", map_store, "--out", tmp_path, *options).stdout
    assert "quiet: no run was trained on it" in stdout
    assert "middle: no run" not in stdout
    assert "\nmiddle: galaxies that networks were trained on are among those tested (75 % train" in stdout
    assert "n_missing" in (tmp_path / "table.csv").read_text()


def as_of_another_seed(run):
    """Have a run, and what was made from it, say that it is of the next seed."""
    with_settings(run, seed=json.loads((run / "run.json").read_text())["fit"]["seed"] + 1)


def with_settings(run, **fit):
    """Have a run, and what was made from it, say that it was trained with other settings."""
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | {"fit": content["fit"] | fit}))
    calibration, features = json.loads((run / CALIBRATION).read_text()), read_tensors(run / OOD)
    (run / CALIBRATION).write_text(json.dumps(calibration | {"made_from": made_from(run, CALIBRATION)}))
    write_tensors(run / OOD, features | {"made_from": made_from(run, OOD)})


def test_runs_that_a_table_cannot_tell_apart_are_refused_and_compared(runs, map_store, tmp_path):
    both = next(r for r in runs if r.name == "both")
    shutil.copytree(both, tmp_path / "twin", ignore=KEPT)
    arguments = ("--store", map_store, "--part", "all", "--workers", 1)
    refused = command("eval", "tables", both, tmp_path / "twin", "--out", tmp_path / "out", *arguments, check=False)
    assert refused.returncode == 2
    assert "cannot tell them apart" in refused.stderr
    comparison = command("eval", "compare", both, tmp_path / "twin", *arguments, "--out", tmp_path / "c.csv").stdout
    assert comparison.endswith("A and B are the same run\n")
    assert "better" not in comparison.replace("b_better", "")
    table = pd.read_csv(tmp_path / "c.csv")
    assert (table["b-a"] == 0).all()
    assert not_compared(table, ["quiet", "tiny"]) == [
        "tiny: fewer than two galaxies that both can use; not compared by itself"
    ]
    # Nor is one of two runs with the same figures.
    assert all(": neither is better, both have the same CRPS" in line for line in verdicts(table))
    as_of_another_seed(tmp_path / "twin")
    for runs_of_table, folder in (([both], "one"), ([both, tmp_path / "twin"], "two")):
        command("eval", "tables", *runs_of_table, "--out", tmp_path / folder, "--no-classical", *arguments)
    one, two = (pd.read_csv(tmp_path / folder / "table.csv") for folder in ("one", "two"))
    assert (set(one.n_seeds), set(two.n_seeds)) == ({1}, {2})  # trained twice it is one network
    pd.testing.assert_series_equal(one.dispersion, two.dispersion)
    comparison_with_stars = command(
        "eval", "compare", both, next(r for r in runs if r.name == "stars"), *arguments
    ).stdout
    assert f"A is {both}, B is " in comparison_with_stars
    assert "A sees gas and stars through ifu, B stars through ifu" in comparison_with_stars
    assert "A sees" not in comparison
    assert "is the better one with a probability of" in comparison_with_stars


def test_why_nothing_was_tested_is_said_as_it_is():
    nobody, nothing = np.zeros(0, dtype=object), np.zeros((0, K))
    unusable = add_up(per_view(Estimates(nobody, np.zeros(0, int), nobody, nothing, nothing)), left_out=3)
    group = Group("cnn", "ifu", "gas", "quiet", "quiet")
    said = nothing_tested({group: unusable}, "test", ["quiet"])
    assert "no view of quiet shows enough of a tracer that these runs infer from, and has a true mass at all" in said
    assert nothing_tested({}, "test", ["a", "b"]).endswith(
        "in the test part of a, b; map more galaxies, or try --part all"
    )
    assert nothing_tested({}, None, ["a"]) == "no finished galaxy in a; run `kinmass maps` to its end"


def test_predict_covers_every_view_that_can_be_used_and_counts_the_others(runs, map_store, tmp_path):
    run, out = next(r for r in runs if r.name == "both"), tmp_path / "p.csv"
    done = command("eval", "predict", run, "--store", map_store, "--suite", "quiet", "--out", out)
    assert done.stdout == f"{out}\n"
    stderr = done.stderr
    table = pd.read_csv(out)
    assert len(table) == 12 * 2 * K
    assert (table.lo_68 < table.hi_68).all()
    assert "left out" not in stderr
    group = zarr.open_group(map_store / "quiet")
    part_of_galaxy = {g: part_of(lineage) for g, lineage in zip(group["galaxy"][:], group["lineage"][:], strict=True)}
    assert table.part.tolist() == [part_of_galaxy[galaxy] for galaxy in table.galaxy]
    assert f"was trained on {(table.part == 'train').sum() // K} of these 24 views (part = train)" in stderr
    quiet = ("--store", map_store, "--suite", "quiet")
    damaged = shutil.copytree(map_store, tmp_path / "maps.zarr", ignore=LOCKS)
    group = zarr.open_group(damaged / "quiet", mode="r+")
    group["maps"][3, 1] = np.nan
    few = shutil.copytree(run, tmp_path / "few", ignore=KEPT)
    of_few = json.loads((few / "run.json").read_text())
    of_three = galaxies_of(map_store, done_galaxies(map_store, SUITES), "train", 3)
    of_few["seen"] = {"views": 1, "lineages": of_three.lineage_keys()}  # as if it had been trained on so few
    (few / "run.json").write_text(json.dumps(of_few))
    expected = sum(of_three.suites[i] == "quiet" for i in of_three.suite)
    seen = seen_in_training(few, read_views(map_store, "quiet"))
    assert seen.sum() == expected < 9
    assert not seen[1::2].any()
    of_all = {name: value for name, value in of_few.items() if name != "seen"}  # of before that was kept: it may be all
    (few / "run.json").write_text(json.dumps(of_all))
    assert seen_in_training(few, read_views(map_store, "quiet")).sum() == (table.part == "train").sum() // K
    foreign = command("eval", "predict", next(r for r in runs if r.name == "middle"), *quiet)
    assert "(part = train)" not in foreign.stderr
    assert "quiet is foreign to it" in foreign.stderr
    stderr = command("eval", "predict", run, "--store", damaged, "--suite", "quiet", "--out", out).stderr
    galaxy = group["galaxy"][3]
    assert f"1 of 24 views has no usable maps of gas or stars through ifu and is left out: view 1 of {galaxy}" in stderr
    pd.testing.assert_frame_equal(
        pd.read_csv(out), table[(table.galaxy != galaxy) | (table["view"] != 1)].reset_index(drop=True), rtol=1e-5
    )


def test_predict_leaves_out_views_of_which_a_look_shows_nothing(runs, map_store, monkeypatch, capsys):
    """They had rows without a mass."""
    infer = load(next(run for run in runs if run.name == "gas"))
    infer.instrument = Instrument(
        name="beams", psf_fwhm=PsfFwhm(re=(0.01, 30.0)), gas=TracerNoise(mask_below_msun_kpc2=2e7)
    )
    monkeypatch.setattr("kinmass.eval.tables.predict.load", lambda _: infer)
    views = read_views(map_store, "bursty")
    is_usable, is_answered = usable(views, "gas", infer.instrument), infer(views).is_answered
    table = predict(infer.path, map_store, "bursty")
    assert np.isfinite(table.log10_menc).all()
    n_seen = len(table) // K
    assert n_seen == np.count_nonzero(is_usable & is_answered) < is_usable.sum()
    assert f"{24 - n_seen} of 24 views have no usable maps of gas through beams" in capsys.readouterr().err


def test_tables_of_several_runs_are_printed_with_their_names(monkeypatch, capsys):
    tables = {name: pd.DataFrame({"galaxy": [f"as {name} says"], "log10_menc": [10.0]}) for name in ("gas", "both")}
    monkeypatch.setattr("kinmass.eval.tables.predict.predict", lambda run, store, suite: tables[run.name])
    for names, expected in (
        (["both", "gas"], ["runs/both:", "galaxy", "as both says", "runs/gas:", "galaxy", "as gas says"]),
        (["gas"], ["galaxy", "as gas says"]),
    ):
        line = ["predict", *(f"runs/{name}" for name in names), "--store", "no.zarr", "--suite", "quiet"]
        assert main(line) == 0
        printed = capsys.readouterr().out.splitlines()
        assert [words in text for words, text in zip(expected, printed, strict=True)] == [True] * len(expected)


@pytest.fixture(scope="module")
def ensemble(map_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an ensemble of two networks, each of which answers for any tracer."""
    run = tmp_path_factory.mktemp("many") / "any"
    options = {"width": 4, "steps": 10, "round_steps": 10, "batch": 8, "members": 2}
    fit_ensemble(FitConfig(str(map_store), "any", SUITES, **options), run, quiet=True)
    return run


def test_one_network_answers_for_any_tracer(ensemble, map_store, tmp_path):
    tables_here([ensemble], map_store, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert set(table[table.estimator == "cnn-any"].tracer) == {"gas", "stars", "both"}
    write_report(tmp_path / "out")
    infer, views = Inference(ensemble, calibrated=False), read_views(map_store, "middle")
    stars, both = infer(views, tracer="stars"), infer(views)
    assert np.abs(stars.quantiles(0.5) - both.quantiles(0.5)).max() > 1e-4
    views.maps[:, 4:] = 0
    assert_same_posterior(infer(views).samples(8), stars.samples(8))


def test_an_ensemble_is_the_mean_of_its_members_densities(ensemble, map_store):
    views = read_views(map_store, "middle")
    members = [Inference(ensemble / f"member-{i}", calibrated=False)(views) for i in range(2)]
    mixture, truth = Inference(ensemble, calibrated=False)(views), views.log10_menc
    log_prob_of_member = np.stack([m.log_prob(truth) for m in members])
    np.testing.assert_allclose(
        mixture.log_prob(truth), np.logaddexp(*log_prob_of_member) - np.log(2), rtol=1e-5, atol=1e-4
    )
    assert_same_posterior(mixture.samples(10)[0::2], members[0].samples(10)[0::2])
    assert np.abs(log_prob_of_member[0] - log_prob_of_member[1]).max() > 1e-3


def test_part_of_an_ensemble_is_no_ensemble(ensemble, tmp_path):
    shutil.copytree(ensemble, tmp_path / "any")
    shutil.rmtree(tmp_path / "any" / "member-1")
    with pytest.raises(RunError, match="1 of 2 members"):
        load(tmp_path / "any")
    shutil.copytree(ensemble / "member-0", tmp_path / "any" / "member-1")  # nor is one network, twice
    with pytest.raises(RunError, match="member-1 has the seed of another member"):
        load(tmp_path / "any")


def test_maps_of_another_shape_are_refused(runs, ensemble, map_store):
    views = read_views(map_store, "middle")
    infer = load(runs[0])
    pixels = views.maps.shape[-1]
    with pytest.raises(ValueError, match=rf"takes maps \(N, 8, {pixels}, {pixels}\)"):
        infer(np.zeros((2, 8, pixels + 2, pixels + 2)), np.ones(2))
    with pytest.raises(ValueError, match="half_mass_radius_kpc"):
        infer(views.maps)
    with pytest.raises(ValueError, match="cannot infer from"):
        load(next(r for r in runs if r.name == "stars"))(views, tracer="gas")
    with pytest.raises(ValueError, match=rf"{pixels} pixels over 6 R_e, these have {pixels} over 12 R_e .*; map them"):
        infer(replace(views, field_of_view_re=12.0))
    for more in ({"half_mass_radius_kpc": views.half_mass_radius_kpc}, {"names": views.names()}):
        with pytest.raises(ValueError, match="Views of a store have names and half-mass radii of their own"):
            infer(views, **more)
    with pytest.raises(ValueError, match="2 names for 24 views"):
        infer(views.observed(infer.instrument), views.half_mass_radius_kpc, names=views.names()[:2])
    with pytest.raises(ValueError, match="no part 'validation' of a split; there are train, val, test"):
        read_views(map_store, "middle", "validation")
    posterior = infer(views)
    for of_truth in (posterior.log_prob, posterior.log_prob_per_radius):
        with pytest.raises(ValueError, match=r"profiles \(1, 10\) for 24 views at 10 radii"):
            of_truth(views.log10_menc[:1])
        table = pd.DataFrame(views.log10_menc.numpy(), columns=[f"{x} R_e" for x in RADII_RE])
        np.testing.assert_array_equal(of_truth(table), of_truth(views.log10_menc))
        with pytest.raises(ValueError, match="profiles must be plain numbers, neither masked nor with a unit"):
            of_truth(np.ma.masked_less(views.log10_menc.numpy(), 9.0))
    with pytest.raises(ValueError, match="0 samples of a posterior"):
        posterior.samples(0)


def test_maps_that_are_not_as_networks_know_them_are_refused_or_made_so(runs, map_store):
    """A store's own maps have counts where observed ones have masks: masses were a factor of ten off, and sure."""
    infer, views = load(next(run for run in runs if run.name == "both")), read_views(map_store, "middle")
    observed, r_e = views.observed(infer.instrument), views.half_mass_radius_kpc
    expected = infer(observed, r_e).samples(16)
    for channel in (3, 7):
        images = observed.clone()
        images[:, channel] *= 255
        with pytest.raises(ValueError, match=rf"channel {channel} is the mask of the \w+, 1 where .* and is 255 in a"):
            infer(images, r_e)
    with pytest.raises(ValueError, match="a store's own maps have counts there: give its Views"):
        infer(views.maps, r_e)
    for channel, value in ((0, 1e7), (1, -99.0), (2, np.nan), (5, np.inf)):  # what stands where nothing is seen
        filled = observed.clone()
        filled[:, channel][observed[:, channel // 4 * 4 + 3] == 0] = value
        assert not torch.equal(filled, observed)
        assert_same_posterior(infer(filled, r_e).samples(16), expected)
    for channel in (2, 4):
        negative = observed.clone()
        negative[0, channel, 8, 8], negative[0, channel // 4 * 4 + 3, 8, 8] = -1.0, 1.0
        with pytest.raises(ValueError, match="is negative in a valid pixel; mask it"):
            infer(negative, r_e)
    masked = np.ma.masked_array(observed.numpy(), observed.numpy() > 1e7)
    for maps, radius in ((masked, r_e), (observed, 1e3 * r_e.numpy() * units.pc)):
        with pytest.raises(ValueError, match="must be plain numbers, neither masked nor with a unit"):
            infer(maps, radius)
    by_name = pd.Series(r_e.numpy(), index=[f"galaxy {i}" for i in range(len(r_e))])
    assert_same_posterior(infer(observed, by_name).samples(16), expected)


def test_what_is_told_of_pixels_that_are_not_valid_does_not_count(runs, map_store):
    """One PSF and one error told of a whole map are those of its valid pixels."""
    infer, views = load(next(run for run in runs if run.name == "both")), read_views(map_store, "middle")
    model = MassModel(replace(infer.models[0].config, told=True)).eval()
    model.density.load_state_dict(infer.models[0].density.state_dict())
    infer.models, infer._members = [model], Members([model])
    observed, r_e = views.observed(INSTRUMENTS["survey"], told=True), views.half_mass_radius_kpc
    expected = infer(observed, r_e).samples(16)
    assert np.isfinite(expected).all()
    valid = torch.cat([observed[:, mask : mask + 1].expand(-1, len(TOLD), -1, -1) for mask in (3, 7)], 1)
    for value in (5.0, np.nan):
        filled = observed.clone()
        filled[:, CHANNELS:][valid == 0] = value
        np.testing.assert_array_equal(infer(filled, r_e).samples(16), expected)


def test_what_is_not_there_is_said(tmp_path, runs, map_store, mocks):
    command("gen", "maps", mocks / "quiet" / "quiet.yaml", "--out", tmp_path / "other.zarr", "--views", 1)
    for arguments, message in (
        (("tables", tmp_path / "norun", "--store", map_store, "--out", tmp_path), "no run folder"),
        (("tables", runs[0], "--store", tmp_path / "no.zarr", "--out", tmp_path), "no map store"),
        (("tables", runs[0], "--store", map_store, "--out", tmp_path, "--suites", "eagle"), "no suite 'eagle'"),
        (("report", tmp_path / "nothing"), "holds no tables"),
        (("show", tmp_path / "nothing"), "neither a map store nor a folder of tables"),
        (("predict", runs[0], "--store", tmp_path / "other.zarr", "--suite", "quiet"), "pixels = 16, "),
    ):
        process = command("eval", *arguments, check=False)
        assert process.returncode == 2
        assert message in process.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tables run --store s --out o --gpus 1", "--gpus is for the jobs of --cluster slurm"),
        ("tables run --store s --out o --cluster tcp://node:1 --hours 2", "--hours is for the jobs"),
        ("compare a b --store s --site x.env", "--site is for the jobs"),
        ("compare a b --store s --cluster tcp://node:1 --workers 2", "--workers does nothing with tcp://node:1"),
        ("predict run --store s --suite mine --inside-kpc 2", "--inside-kpc is for observed galaxies"),
        ("show s --out a.png", "name the GALAXY to draw"),
        ("show s --view 0", "name the GALAXY to draw"),
        ("show results --view 1", "results is no map store"),
    ],
)
def test_options_that_would_do_nothing_are_refused(line, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "zarr.json").write_text("{}")
    if line.startswith(("tables", "compare")):
        with pytest.raises(OptionError, match=words):
            _cluster_settings(parser().parse_args(line.split()))
    else:
        assert main(line.split()) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(("free_gib", "workers"), [(3.5, 3), (0.2, 1), (1000, 64)])
def test_workers_are_no_more_than_there_is_memory_for(monkeypatch, free_gib, workers):
    """On a node of many cores, in a container with little memory, Dask ended one after the other."""
    monkeypatch.setattr(cluster, "CPU_COUNT", 64)
    monkeypatch.setattr(cluster, "free_memory", lambda: free_gib * 2**30)
    monkeypatch.setattr(cluster, "slurm_cores", lambda: 0)
    assert cluster._one_per_core() == workers


def test_where_tasks_run_is_as_the_options_say():
    line = ["compare", "a", "b", "--store", "s", "--workers", "3"]
    assert _cluster_settings(parser().parse_args(line)) == Cluster(workers=3, logs=Path("dask/logs"))
    tables = _cluster_settings(parser().parse_args(["tables", "r", "--store", "s", "--out", "results.v2"]))
    assert tables.logs == Path("results.v2/logs")  # not those of `results`
    slurm = _cluster_settings(parser().parse_args([*line, "--cluster", "slurm", "--gpus", "1", "--memory", "9GB"]))
    assert (slurm.where, slurm.workers, slurm.gpus, slurm.hours, slurm.memory) == ("slurm", 3, 1, 2.0, "9GB")


def test_runs_of_another_making_are_refused(runs, map_store, tmp_path):
    for change, message in (
        ({"schema": 1}, "has schema 1, this code reads"),
        ({"model": {"radii_re": [1.0, 2.0]}}, "infers masses at the radii"),
    ):
        run = tmp_path / next(iter(change))
        shutil.copytree(runs[0], run, ignore=KEPT)
        content = json.loads((run / "run.json").read_text())
        for key, value in change.items():
            content[key] = content[key] | value if isinstance(value, dict) else value
        (run / "run.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match=message):
            check_maps(run, map_store, "quiet")


def test_sampling_follows_the_view(runs, map_store):
    infer, views = load(runs[0]), read_views(map_store, "middle")
    state = torch.random.get_rng_state()
    samples = infer(views).samples(16)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same_posterior(infer(views[np.arange(3, 8)]).samples(16), samples[:, 3:8])


@pytest.mark.parametrize("name", ["both", "gas"])
def test_views_that_show_nothing_or_no_motion_have_no_mass(runs, map_store, name):
    """The others' posteriors stay as they are; a mass that is not known is no number, nor is anything said of it."""
    infer, views = load(next(run for run in runs if run.name == name)), read_views(map_store, "middle")
    observed, r_e = views.observed(infer.instrument), views.half_mass_radius_kpc.clone()
    expected, names = infer(observed, r_e, names=views.names()).samples(16), views.names()
    observed[0] = 0
    observed[1, [1, 2, 5, 6]] = 0
    observed[2, [1, 5]], observed[2, [2, 6]] = 150.0 * observed[2, [3, 7]], 0  # all of it recedes alike
    observed[3, 4, 5, 5] = np.nan
    r_e[4] = 0
    posterior = infer(observed, r_e, names=names)
    assert np.isnan(posterior.samples(16)[:, :5]).all()
    assert_same_posterior(posterior.samples(16)[:, 5:], expected[:, 5:])
    truth = views.log10_menc
    for values in (posterior.log_prob(truth), posterior.beyond(16), posterior.log_prob_per_radius(truth, 16)):
        assert np.isnan(values[:5]).all()
        assert np.isfinite(values[5:]).all()
    assert np.isnan(posterior.quantiles([0.16, 0.5], 16)[:, :5]).all()
    assert np.isnan(posterior.ood_score()[:5]).all()


# ---- for which maps and code predictions are kept


def kept_truth(run: Path, store_path: Path) -> np.ndarray:
    part = Part(store_path, "quiet", None)
    return KeptPredictions(sources_of([run], run, False)[0], part).read(slice(0, len(part)))[0].truth


@pytest.fixture
def two_stores(runs, map_store, tmp_path):
    """A run and two stores of the same name, suites and galaxies; masses in the second are ten times as large."""
    stores = [shutil.copytree(map_store, tmp_path / name / "maps.zarr", ignore=LOCKS) for name in "ab"]
    for suite in SUITES:
        group = zarr.open_group(stores[1] / suite, mode="r+")
        group["mass"][:] = 10 * group["mass"][:]
    run = tmp_path / "run"
    shutil.copytree(runs[0], run, ignore=KEPT)
    return run, *stores


def test_stores_of_one_name_have_predictions_of_their_own(two_stores, tmp_path):
    run, a, b = two_stores
    for path in (a, b):
        tables_here([run], path, tmp_path / "out", ("quiet",))
    np.testing.assert_allclose(kept_truth(run, b), kept_truth(run, a) + 1, atol=1e-5)
    assert {path.name.split("-")[0] for path in (run / "predictions.zarr").glob("maps*")} == {"maps"}
    shutil.rmtree(a)  # a later store may reuse the name of one that is gone, but not its predictions
    c = shutil.copytree(b, tmp_path / "c" / "maps.zarr")
    tables_here([run], c, tmp_path / "out", ("quiet",))
    np.testing.assert_array_equal(kept_truth(run, c), kept_truth(run, b))


@pytest.mark.parametrize("name", ["maps", "mass", "status"])
def test_predictions_are_never_read_for_other_maps(two_stores, tmp_path, name):
    """One galaxy's array is changed in place, and changed back."""
    run, path, _ = two_stores
    tables_here([run], path, tmp_path / "out", ("quiet",))
    truth = kept_truth(run, path)
    array = zarr.open_group(path / "quiet", mode="r+")[name]
    original = array[:]
    array[7:8] = original[7:8] + 1
    with pytest.raises(RunError, match="older than its maps, the run or the code"):
        kept_truth(run, path)
    with pytest.raises(RunError, match="older than its maps"):
        measure_block(sources_of([run], run, False), Part(path, "quiet", None), slice(7, 8))
    array[7:8] = original[7:8]
    np.testing.assert_array_equal(kept_truth(run, path), truth)


def test_galaxies_that_are_packed_have_checksums_of_their_own(tmp_path):
    group = suite_group.create_suite(tmp_path / "maps.zarr", "s", list("abcdef"), list("abcdef"), PACKED_CONFIG)
    rng = np.random.default_rng(0)
    shapes = {name: group[name].shape[1:] for name in store.ARRAYS if name != "status"}
    records = [{name: rng.integers(0, 9, s).astype(group[name].dtype) for name, s in shapes.items()} for _ in range(3)]
    writer.write_galaxies(group, range(3), records)
    original = fingerprint(group, np.arange(3))
    assert fingerprint(group, np.arange(3)) == original != fingerprint(group, np.arange(6))
    assert fingerprint(group, np.array([4])) == fingerprint(group, np.array([3, 4, 5]))
    for name in shapes:
        changed = [dict(record) for record in records]
        changed[1][name] = 9 - changed[1][name]
        writer.write_galaxies(group, range(3), changed)
        assert fingerprint(group, np.arange(3)) != original, name
    writer.write_galaxies(group, range(3), records)
    assert fingerprint(group, np.arange(3)) == original


PACKED_CONFIG = {"views": 1, "pixels": 4, "galaxies_per_shard": 3, "seed": 0}


def test_code_that_answers_is_in_every_key(runs, tmp_path, monkeypatch):
    """Keys depend on every module that estimators or networks import, directly or not."""
    modules = set(imports("kinmass.eval.tables.tasks"))
    assert modules >= {
        "kinmass.eval.classical.rotation", "kinmass.eval.classical.jeans", "kinmass.eval.classical.estimators",
        "kinmass.eval.classical.noise",
        "kinmass.train.model.density", "kinmass.train.model.encoders",
        "kinmass.train.model.scaling", "kinmass.gen.instruments.observe", "kinmass.gen.physics.profile",
        "kinmass.gen.constants",
    }  # fmt: skip
    assert not modules & {"kinmass.eval.report.page", "kinmass.gen.campaign.maps", "kinmass.train.launch.submission"}
    before = {source.label: source.key for source in sources_of(runs[:1], tmp_path)}
    read_bytes = Path.read_bytes
    for name in ("rotation", "density"):
        code_key.cache_clear()
        monkeypatch.setattr(Path, "read_bytes", lambda p, n=name: read_bytes(p) + (b"\n#" if p.stem == n else b""))
        after = {source.label: source.key for source in sources_of(runs[:1], tmp_path)}
        assert len(before) > 3
        assert all(after[label] != key for label, key in before.items())
    monkeypatch.undo()
    code_key.cache_clear()
    assert {source.label: source.key for source in sources_of(runs[:1], tmp_path)} == before


def test_runs_of_one_name_that_cannot_be_written_to_are_kept_apart(runs, tmp_path, monkeypatch):
    copies = [shutil.copytree(run, tmp_path / run.name / "run", ignore=KEPT) for run in runs[:2]]
    monkeypatch.setattr(os, "access", lambda *_: False)
    roots = [source.root for source in sources_of(copies, tmp_path / "out", False)]
    assert len(set(roots)) == 2
    assert all(root.is_relative_to(tmp_path / "out" / "predictions") for root in roots)


def test_runs_that_cannot_be_written_to_are_compared(runs, map_store, tmp_path, monkeypatch):
    a, b = (shutil.copytree(run, tmp_path / run.name, ignore=KEPT) for run in runs[:2])
    monkeypatch.setattr(os, "access", lambda *_: False)
    out = tmp_path / "out"
    table = compare(a, b, map_store, ["quiet"], None, None, Cluster(workers=1), out)
    assert set(table.measure) == set(MEASURES)
    assert not list(tmp_path.glob("*/predictions.zarr"))
    assert len(list(out.glob("predictions/*/predictions.zarr"))) == 2


def test_a_worker_of_old_sees_a_store_that_is_new(two_stores):
    """A process keeps a Part, and may still run when the store from which it was read has changed."""
    _, a, _ = two_stores
    old = pickle.loads(pickle.dumps(Part(a, "quiet", None)))
    names = old.names[1][:2].tolist()
    assert pickle.loads(pickle.dumps(Part(a, "quiet", None))) is old
    group = zarr.open_group(a / "quiet", mode="r+")
    group.attrs["config"] = group.attrs["config"] | {"seed": 7}
    group["galaxy"][:2] = group["galaxy"][:2][::-1]
    new = pickle.loads(pickle.dumps(Part(a, "quiet", None)))
    assert new.group.attrs["config"]["seed"] == 7
    assert new.names[1][:2].tolist() == names[::-1]


@pytest.mark.parametrize(
    ("name", "content"),
    [("tables.json", b""), ("tables.json", b"[]"), ("summary.parquet", b""), ("summary.parquet", None)],
)
def test_results_that_are_damaged_are_said_to_be(results, tmp_path, name, content):
    folder = shutil.copytree(results, tmp_path / "results")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="results holds no tables that can be read"):
        read_results(folder)


def test_tables_of_two_commands_are_never_taken_for_one(results, runs, tmp_path, monkeypatch):
    """A table of other runs, or one written when the command was killed before the next."""
    folder = shutil.copytree(results, tmp_path / "results")
    table = pd.read_parquet(folder / "summary.parquet")
    (table * 1).to_parquet(folder / "summary.parquet", index=False)
    read_results(folder)  # the same content
    table.assign(bias=table.bias + 0.1).to_parquet(folder / "summary.parquet", index=False)
    with pytest.raises(ValueError, match=r"summary\.parquet is not the one that tables\.json tells of"):
        read_results(folder)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kinmass.eval.tables.tables.to_summary", lambda sums: table)
    monkeypatch.setattr("kinmass.eval.tables.tables.to_latex", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tables(folder, Path("maps.zarr"), runs, {}, None, {})
    with pytest.raises(ValueError, match="holds no tables; make them"):
        read_results(folder)


def test_a_run_counts_once_whatever_paths_lead_to_it(runs, tmp_path):
    everything = tmp_path / "runs"
    for name in ("a", "b/c"):
        shutil.copytree(runs[0], everything / name, ignore=KEPT)
    (everything / "0-latest").symlink_to(everything / "a")
    (everything / "b" / "back").symlink_to(everything)
    assert runs_in(everything) == [everything / "a", everything / "b" / "c"]
    assert runs_in(everything / "0-latest") == [everything / "0-latest"]
    given = [everything / "b" / "c", everything, everything / "0-latest"]
    assert runs_in_all(given) == [everything / "b" / "c", everything / "a"]


def test_seeds_that_were_trained_on_other_galaxies_are_not_one_network(runs, tmp_path):
    both = next(r for r in runs if r.name == "both")
    twin = shutil.copytree(both, tmp_path / "twin", ignore=KEPT)
    as_of_another_seed(twin)
    content = json.loads((twin / "run.json").read_text())
    assert len(sources_of([both, twin], tmp_path, classical=False)) == 2
    galaxies = content["store"]["quiet"]
    others = [{key: {n: 2 * x for n, x in galaxies[key].items()}} for key in ("sizes", "masses")]
    for change in ({"names": "0"}, {"lineages": "0"}, *others, {"galaxies": 13}):
        changed = content["store"] | {"quiet": galaxies | change}
        training = content["training"] | ({"views": 1} if "galaxies" in change else {})
        (twin / "run.json").write_text(json.dumps(content | {"store": changed, "training": training}))
        with pytest.raises(RunError, match="or the galaxies they were trained on"):
            sources_of([both, twin], tmp_path, classical=False)
    # As many of --galaxies, and others, which were mapped later.
    write_json(twin / "run.json", content | {"seen": {"views": 0, "lineages": ["0123456789ab"]}})
    with pytest.raises(RunError, match="or the galaxies they were trained on"):
        sources_of([both, twin], tmp_path, classical=False)


def test_runs_whose_intervals_are_set_otherwise_are_not_seeds_of_one_network(runs, tmp_path):
    """Those that suites left out, or `kinmass widen`, have made wider elsewhere; or that began with other tracers."""
    both, stars = (next(r for r in runs if r.name == name) for name in ("both", "stars"))
    first, twin = (shutil.copytree(both, tmp_path / name, ignore=KEPT) for name in ("a", "b"))
    as_of_another_seed(twin)

    def are_one_network():
        try:
            return len(sources_of([first, twin], tmp_path, classical=False)) == 2
        except RunError as error:
            if "in the suites that widen their intervals" in str(error):
                return False
            raise

    assert are_one_network()
    with_settings(twin, leave_one_suite_out=True)
    assert not are_one_network()
    with_settings(twin, leave_one_suite_out=False, start_from=[str(both)])
    assert not are_one_network()
    with_settings(first, start_from=[str(stars)])
    assert not are_one_network()
    for same in (stars, tmp_path / "no more"):
        with_settings(twin, start_from=[str(same)])
        assert are_one_network()
    record = made_from(twin, UNSEEN) | {"without": {}, "others": {"other": {}}}
    write_scales(twin, UNSEEN, {"both": Inference(twin).scales["both"]}, record)
    assert not are_one_network()


def test_every_two_ensembles_are_compared(runs, tmp_path, monkeypatch):
    """Of three, the last two may have members in common that neither has with the first."""
    infer, ensembles = Inference(next(r for r in runs if r.name == "both")), {}
    for seed in (0, 2, 3):
        ensembles[tmp_path / str(seed)] = copy.copy(infer)
        ensembles[tmp_path / str(seed)].run = infer.run | {"fit": infer.run["fit"] | {"seed": seed, "members": 2}}
    monkeypatch.setattr(tasks, "load", ensembles.__getitem__)
    monkeypatch.setattr(tasks, "digest_of_files", str)
    assert len(sources_of([tmp_path / "0", tmp_path / "2"], tmp_path, classical=False)) == 2
    with pytest.raises(RunError, match=r"/2 and .*/3 are ensembles of 2 that share members"):
        sources_of(list(ensembles), tmp_path, classical=False)


def test_ensembles_that_share_members_are_not_two_trainings():
    """Ensembles of three with seeds 0 and 1 have two networks in common, so that they scatter too little."""
    records = [{"fit": {"members": 3, "seed": seed}} for seed in (0, 1, 3)]
    with pytest.raises(RunError, match=r"b are ensembles of 3 that share members .* with --seed 3"):
        _refuse_shared_members(Path("a"), records[0], Path("b"), records[1])
    _refuse_shared_members(Path("a"), records[0], Path("b"), records[2])
    _refuse_shared_members(Path("a"), records[0], Path("b"), records[0])  # refused as the same, in other words


def test_a_network_without_any_view_to_use_is_named():
    nothing = add_up(per_view(Estimates(*np.zeros((3, 0), object), *np.zeros((2, 0, K)))), left_out=7)
    group = Group("cnn", "ifu", "gas", "quiet", "early")
    assert without_answer({group: nothing, replace(group, test="all"): nothing}) == [
        "gas, quiet on early: none of 7 views shows enough, and has a true mass at all radii; not in the tables"
    ]
    names, truth = np.array(["a", "b"], dtype=object), np.ones((2, K))
    nowhere = add_up(per_view(Estimates(names, np.zeros(2, int), names, truth, np.nan * truth)))
    assert without_answer({group: nowhere}) == [
        "gas, quiet on early: none of 2 predictions is finite; not in the tables"
    ]
    assert "none of the predictions for 2 views of early is finite" in nothing_tested({group: nowhere}, None, ["early"])


def test_blocks_in_which_nothing_is_finished_yet_have_no_views(runs, map_store, tmp_path):
    path = shutil.copytree(map_store, tmp_path / "begun.zarr", ignore=LOCKS)  # a name that no other store here has
    group = zarr.open_group(path / "quiet", mode="r+")
    group["status"][:] = store.PENDING
    tables_here([run for run in runs if run.name == "gas"], path, tmp_path / "out", ("quiet", "middle"))
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert set(table.test) == {"middle", "all"}
    assert set(table.n_galaxies) == {12}


def test_every_view_is_in_a_bin_of_what_it_is():
    """Stars without any dispersion have a rotation support without end; what is no number is in no bin."""
    ends = {name: np.array([*edges[:-1], edges[-1], np.nan]) for name, (_, edges) in predictions.COLUMNS.items()}
    for name, (_, edges) in predictions.COLUMNS.items():
        data = {other: np.full(len(edges) + 1, np.nan) for other in ends} | {name: ends[name]}
        bins = [(column, i, np.flatnonzero(rows)) for column, i, rows in _bins(data, np.ones(len(edges) + 1, bool))]
        assert [column for column, *_ in bins] == [name] * (len(edges) - 1)
        rows = np.concatenate([rows for *_, rows in bins])
        assert rows.tolist() == list(range(len(edges)))


def test_predictions_are_kept_on_a_file_system_without_links(runs, map_store, tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: exec("raise OSError(95, 'Operation not supported')"))
    run = shutil.copytree(next(r for r in runs if r.name == "gas"), tmp_path / "gas", ignore=KEPT)
    sources, part = sources_of([run], tmp_path, classical=False), Part(map_store, "quiet", None)
    prepare(sources[0], part)
    assert not KeptPredictions(sources[0], part).is_current(part.blocks()[0], 1)


def test_a_run_that_is_trained_anew_under_the_tables_is_noticed(runs, map_store, tmp_path):
    """Its predictions would be kept, and shown, as those of the weights that were there before."""
    run = shutil.copytree(next(r for r in runs if r.name == "gas"), tmp_path / "gas", ignore=KEPT)
    sources, part = sources_of([run], tmp_path, classical=False), Part(map_store, "quiet", None)
    prepare(sources[0], part)
    scales = json.loads((run / "calibration.json").read_text())
    scales["scale"]["gas"][0][0][0] *= 2
    (run / "calibration.json").write_text(json.dumps(scales))
    with pytest.raises(RunError, match="gas has changed since the tables were begun"):
        evaluate_block(sources, {"ifu": instrument_of(run)}, part, part.blocks()[0])


def test_tables_are_of_what_runs_were_when_they_were_begun(runs, map_store, tmp_path, monkeypatch):
    """A run that was trained or calibrated anew since: tables.json would say that they are of the new one."""
    run = shutil.copytree(runs[0], tmp_path / "run", ignore=KEPT)

    def anew(*arguments):
        sums = sum_of_tasks(*arguments)
        (run / "calibration.json").write_text((run / "calibration.json").read_text() + "\n")
        return sums

    for module in ("tables", "compare"):
        monkeypatch.setattr(f"kinmass.eval.tables.{module}.sum_of_tasks", anew)
    with pytest.raises(RunError, match="run has changed since the tables were begun"):
        collect(map_store, [run], ["quiet"], None, tmp_path / "out", Cluster())
    with pytest.raises(RunError, match="run has changed since the tables were begun"):
        compare(run, runs[1], map_store, ["quiet"], None, None, Cluster(), tmp_path)


def test_commands_at_the_same_time_make_room_once(runs, map_store, tmp_path, monkeypatch):
    """Of two that find none, the second would replace what the first writes into and reads by an empty one."""
    real, made, both_look = predictions._create_group, [], threading.Barrier(2)
    attributes = predictions._attributes

    def look(path):
        found = attributes(path)
        if not made and not found:
            with contextlib.suppress(threading.BrokenBarrierError):
                both_look.wait(timeout=1)
        return found

    monkeypatch.setattr(predictions, "_create_group", lambda *arguments: (made.append(arguments), real(*arguments)))
    monkeypatch.setattr(predictions, "_attributes", look)
    run = shutil.copytree(runs[0], tmp_path / "run", ignore=KEPT)
    (source,), part = sources_of([run], tmp_path, classical=False), Part(map_store, "quiet", None)
    threads = [threading.Thread(target=prepare, args=(source, part)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert not list(run.glob(".lock*"))


def test_a_block_is_written_by_one_command_at_a_time(runs, map_store, tmp_path, monkeypatch):
    """Else the numbers of a run as it was would come under the token of the run as it is now."""
    run = shutil.copytree(runs[0], tmp_path / "run", ignore=KEPT)
    (source,), part = sources_of([run], tmp_path, classical=False), Part(map_store, "quiet", None)
    prepare(source, part)
    write_array, rng = KeptPredictions._write_array, np.random.default_rng(0)

    def slowly(self, name, block, values):
        time.sleep(rng.uniform(0, 0.02))
        write_array(self, name, block, values)

    monkeypatch.setattr(KeptPredictions, "_write_array", slowly)
    (block,), n = part.blocks(), len(part) * part.views

    def write(value: int) -> None:
        constant = {name: np.full(n, value) for name in ("state", *predictions.COLUMNS)}
        constant["log10_menc_true"] = np.full((n, K), value)
        samples, each = np.full((predictions.N_SAMPLES, n, K), value, np.float32), np.full(n, float(value))
        KeptPredictions(source, part).write(block, value, constant, np.full((n, K), np.nan), samples, each, each, each)

    threads = [threading.Thread(target=write, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = KeptPredictions(source, part)
    estimates, data = kept.read(block, checked=True)
    numbers = (estimates.samples, estimates.median, estimates.truth, estimates.ood_score, *data.values())
    assert {float(number) for array in numbers for number in np.ravel(array)} == {float(kept.kept_token(block))}
    assert not list(run.glob(".lock*"))


def test_workers_answer_with_the_code_of_the_command(runs, map_store, tmp_path, monkeypatch):
    """Those of a running scheduler may have been started before the code, or a package, was another."""
    sources, part = sources_of(runs[:1], tmp_path), Part(map_store, "quiet", None)
    arguments = {"ifu": instrument_of(runs[0])}, part, part.blocks()[0]
    for source in sources:
        prepare(source, part)
    predict_block(sources, *arguments)
    monkeypatch.setattr("kinmass.eval.tables.tasks.code_key", lambda *_: "of another version")
    for source in sources:  # also of kept predictions: it would measure otherwise
        with pytest.raises(RunError, match=r"the worker .* runs other code or packages"):
            predict_block([source], *arguments)


@pytest.mark.parametrize("names", ["quiet,quiet", " quiet , middle,", "quiet"])
def test_a_suite_that_is_named_twice_counts_once(runs, map_store, tmp_path, names):
    assert store.named_suites(map_store, names) == list(dict.fromkeys(names.replace(" ", "").strip(",").split(",")))
    with pytest.raises(ValueError, match="a suite is named twice: quiet, quiet"):
        collect(map_store, runs[:1], ["quiet", "quiet"], None, tmp_path, Cluster())
    with pytest.raises(ValueError, match="the suite 'all' has the name"):
        collect(map_store, runs[:1], ["quiet", "all"], None, tmp_path, Cluster())
    with pytest.raises(store.StoreError, match="has no suite 'quite'; it has bursty, middle, quiet"):
        store.named_suites(map_store, "quite")


def test_a_suite_that_may_not_be_looked_into_is_not_left_out_in_silence(map_store, tmp_path, monkeypatch):
    """One that a colleague has mapped with a umask of 077: what is made of all suites was of the others."""
    copied = shutil.copytree(map_store, tmp_path / "maps.zarr", ignore=LOCKS)
    shutil.rmtree(copied / "quiet")  # root sees what is in a closed folder
    (copied / "quiet").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "quiet")
    for names in (None, "middle, quiet"):
        with pytest.raises(store.StoreError, match=r"maps.zarr/quiet may not be looked into .*, of bursty, middle$"):
            store.named_suites(copied, names)
    assert store.named_suites(copied, "middle") == ["middle"]
    assert contents(copied)[-1].startswith("quiet: may not be looked into")
    with pytest.raises(ValueError, match="a suite is named twice"):
        FitConfig(str(map_store), "gas", ("quiet", "quiet"))


def test_errors_of_opposite_signs_do_not_make_up_for_each_other_over_radii():
    rng = np.random.default_rng(0)
    names, truth = np.arange(40).astype(str).astype(object), np.full((40, K), 10.0)
    off = np.where(np.arange(K) % 2, 0.1, -0.1)
    noise = rng.normal(0, 0.01, truth.shape)
    drawn = [rng.normal(0, 0.1, (50, *truth.shape)).astype(np.float32) + truth + bias for bias in (off, 0 * off)]
    tilted, right = (
        add_up(per_view(Estimates(names, np.zeros(40, int), names, truth, truth + bias + noise, samples, np.zeros(40))))
        for bias, samples in zip((off, 0 * off), drawn, strict=True)
    )
    assert _score(tilted, "bias")[0] == pytest.approx(0.1, abs=0.01)
    assert _score(right, "bias")[0] < 0.005


def test_few_galaxies_of_one_opinion_are_not_beyond_chance():
    row = {"test": "quiet", "measure": "crps", "n_galaxies": 4, "a": 0.2, "b": 0.1, "b-a": -0.1, "b_better": 1.0}
    tables = [pd.DataFrame([row | {"few_lineages": few}]) for few in (True, False)]
    assert ["beyond chance" in verdicts(table)[0] for table in tables] == [False, True]
    one_lineage = pd.DataFrame([row | {"few_lineages": True, "b_better": np.nan}])
    assert "which may be chance (of a single lineage there is nothing to draw; 4 galaxies)" in verdicts(one_lineage)[0]


def test_folders_without_a_run_are_none(runs, tmp_path, capsys):
    shutil.copytree(runs[0], tmp_path / "all" / "a", ignore=KEPT)
    (tmp_path / "all" / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "all" / "predictions.zarr" / "run").mkdir(parents=True)
    assert runs_in(tmp_path / "all") == [tmp_path / "all" / "a"]
    assert runs_in(tmp_path / "all" / "notes") == []
    assert main(["tables", str(tmp_path / "all" / "notes"), "--store", "s", "--suites", "x", "--out", "o"]) == 2
    assert "notes is no run folder and holds none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [("[]", "is damaged"), ("{}", "is damaged"), ('{"finished": false}', "has not finished training")],
)
def test_a_run_that_cannot_be_used_is_named_and_not_left_out(runs, map_store, tmp_path, capsys, content, words):
    """What holds no run is named and left out; but a table without one of its networks could be taken for the whole."""
    everything = tmp_path / "runs"
    for run in runs[:2]:
        shutil.copytree(run, everything / run.name, ignore=KEPT)
    (everything / "notes").mkdir()
    (everything / "notes.txt").touch()
    odd = everything / runs[1].name / "run.json"
    odd.write_text(json.dumps(json.loads(odd.read_text()) | json.loads(content)) if "finished" in content else content)
    paths = [str(path) for path in sorted(everything.iterdir())]
    assert main(["tables", *paths, "--store", str(map_store), "--out", str(tmp_path / "out")]) == 2
    stderr = capsys.readouterr().err
    assert f"{everything / 'notes'} holds no run; left out" in stderr
    assert f"{everything / 'notes.txt'} holds no run; left out" in stderr
    assert re.search(rf"^kinmass tables: .*{runs[1].name}.* {words}", stderr, re.MULTILINE)
    assert not (tmp_path / "out" / "table.csv").exists()


def _flip(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _cut(content: bytes) -> bytes:
    return b""


def _remove(content: bytes) -> None:
    return None


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("posterior/log10_menc", _flip),
        ("summary/median", _cut),
        ("constant_data/log10_menc_true", _flip),
        ("token", _cut),
        ("posterior/log10_menc", _remove),
        ("constant_data/state", _remove),
        ("constant_data/inclination", _remove),
        ("constant_data/lineage", _remove),
        ("constant_data/galaxy", _flip),
    ],
)
def test_damaged_predictions_are_made_again(runs, map_store, tmp_path, name, damage):
    run = shutil.copytree(next(run for run in runs if run.name == "middle"), tmp_path / "run", ignore=KEPT)

    def table():
        tables_here([run], map_store, tmp_path / "out", ("middle",))
        return (tmp_path / "out" / "table.csv").read_text()

    def better():
        sources = (sources_of([run], tmp_path, classical=False)[0],) * 2
        part = Part(map_store.absolute(), "middle", None)
        prepare(sources[0], part)
        return measure_pair(sources, {"ifu": instrument_of(run)}, part, part.blocks()[0])["middle", 0]

    expected, expected_sums = table(), better()
    group = next(run.glob("predictions.zarr/*/middle/all/both"))
    (chunk,) = [path for path in (group / name / "c").rglob("*") if path.is_file()]
    for measured in (table, better):
        content = damage(chunk.read_bytes())
        if content is None:
            chunk.unlink()
        else:
            chunk.write_bytes(content)
        if name != "token":
            with pytest.raises(Damaged, match="are damaged"):
                KeptPredictions(sources_of([run], tmp_path, False)[0], Part(map_store, "middle", None)).read(
                    slice(0, 12), checked=True
                )
        if measured is table:
            assert measured() == expected
        else:
            np.testing.assert_array_equal(measured().residual, expected_sums.residual)


def test_a_run_that_lies_above_others_hides_none_of_them(runs, tmp_path):
    """`kinmass fit --out runs`, given by mistake, makes a run of the folder of all runs."""
    above = tmp_path / "runs"
    shutil.copytree(runs[0], above, ignore=KEPT)
    for name in ("a", "ensemble/member-0", "member-0", "without-quiet"):
        shutil.copytree(runs[0], above / name, ignore=KEPT)
    shutil.copytree(runs[0], above / "ensemble" / "without-quiet", ignore=KEPT)
    assert runs_in(above) == [above, above / "a", above / "ensemble"]
