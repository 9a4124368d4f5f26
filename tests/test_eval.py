"""Evaluation: planted residuals come back, sums add up in any order, the report stands alone."""

import itertools
import re
import shutil
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import command

from eval.estimators import ESTIMATORS
from eval.inference import Group, evaluate_block
from eval.metrics import add_up, crps_of_samples, measures, ratio
from eval.tables import COLUMNS, to_table
from train import load
from train.checkpoint import RunError
from train.config import FitConfig
from train.dataset import RADII_RE, read_views
from train.fit import fit, fit_ensemble
from train.posterior import Inference

SUITES = ("bursty", "quiet", "middle")
K = len(RADII_RE)


def planted(n_galaxies: int, bias: float, scatter: float, seed: int = 0, views: int = 4, width: float = 1.0):
    """Galaxies, truths, medians and interval ends of an estimator that errs as told.

    Half of the scatter's variance is shared by a galaxy's views. width: of its intervals over the right ones.
    """
    rng = np.random.default_rng(seed)
    galaxy = np.repeat([f"g{i}" for i in range(n_galaxies)], views)
    truth = rng.normal(10, 1, (len(galaxy), 1)) + np.linspace(0, 1, K)
    shared = np.repeat(rng.normal(size=(n_galaxies, K)), views, axis=0)
    error = bias + scatter * np.sqrt(0.5) * (shared + rng.normal(size=truth.shape))
    median = truth + error
    half = scatter * width
    ends = np.stack([median - bias - half, median - bias + half, median - bias - 2 * half, median - bias + 2 * half])
    return galaxy, truth, median, ends


@pytest.mark.parametrize(("bias", "scatter"), [(0.1, 0.2), (-0.05, 0.03), (0.0, 0.5)])
def test_planted_bias_and_dispersion_come_back(bias, scatter):
    found = measures(add_up(*planted(3000, bias, scatter)))
    np.testing.assert_allclose(found["bias"], bias, atol=4 * scatter / np.sqrt(3000))
    np.testing.assert_allclose(found["bias_median"], bias, atol=5 * scatter / np.sqrt(3000))
    np.testing.assert_allclose(found["dispersion"], scatter, rtol=0.04)
    np.testing.assert_allclose(found["dispersion_robust"], scatter, rtol=0.06)
    assert (found["bias_lo"] < found["bias"]).all()
    assert (found["dispersion"] < found["dispersion_hi"]).all()


@pytest.mark.parametrize(("width", "expected"), [(1.0, 0.683), (2.0, 0.954), (0.5, 0.383)])
def test_coverage_of_right_wide_and_narrow_intervals(width, expected):
    found = measures(add_up(*planted(3000, 0.1, 0.2, width=width)))
    np.testing.assert_allclose(found["coverage_68"], expected, atol=0.03)


def test_bootstrap_intervals_are_over_galaxies_not_views():
    """The interval of the mean is as wide as repeated experiments scatter, views of a galaxy being alike."""
    means, widths = [], []
    for seed in range(60):
        found = measures(add_up(*planted(100, 0.0, 0.2, seed)))
        means.append(found["bias"])
        widths.append(0.5 * (found["bias_hi"] - found["bias_lo"]))
    assert np.mean(widths) == pytest.approx(np.std(means, axis=0).mean(), rel=0.15)


def test_sums_add_up_in_any_blocks():
    galaxy, truth, median, ends = planted(50, 0.1, 0.2)
    whole = measures(add_up(galaxy, truth, median, ends))
    for edges in ([0, 200], [0, 4, 40, 120, 200], list(range(0, 201, 4))):
        parts = [add_up(galaxy[a:b], truth[a:b], median[a:b], ends[:, a:b]) for a, b in itertools.pairwise(edges)]
        total = measures(reduce(add, parts[::-1]))
        for name in whole:
            np.testing.assert_allclose(total[name], whole[name], rtol=1e-10, atol=1e-12)


def test_numpy_agrees():
    galaxy, truth, median, ends = planted(80, 0.1, 0.2)
    found, d = measures(add_up(galaxy, truth, median, ends)), median - truth
    np.testing.assert_allclose(found["bias"], d.mean(0))
    np.testing.assert_allclose(found["dispersion"], d.std(0))
    np.testing.assert_allclose(found["bias_median"], np.median(d, axis=0), atol=0.004)
    robust = 0.5 * (np.percentile(d, 84.13, axis=0) - np.percentile(d, 15.87, axis=0))
    np.testing.assert_allclose(found["dispersion_robust"], robust, atol=0.006)


def test_a_single_galaxy_has_no_dispersion_and_nan_is_counted():
    assert np.isnan(measures(add_up(*planted(1, 0.1, 0.2)))["dispersion"]).all()
    galaxy, truth, median, ends = planted(50, 0.1, 0.2)
    median[3, 2] = np.nan
    sums = add_up(galaxy, truth, median, ends)
    assert sums.other[4].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert np.isfinite(measures(sums)["bias"]).all()


def test_paired_ratio_of_a_planted_gain():
    galaxy, truth, median, ends = planted(400, 0.0, 0.2)
    both = truth + (median - truth) / 1.3
    worse = truth + (median - truth) * 1.5
    found = ratio(
        [add_up(galaxy, truth, median, ends), add_up(galaxy, truth, worse, ends)], add_up(galaxy, truth, both, ends)
    )
    assert found["ratio"] == pytest.approx(1.3, rel=1e-6)
    assert found["lo"] == pytest.approx(1.3, rel=1e-6)  # the same galaxies are drawn: no scatter is left
    assert found["above_1"] == 1.0


def test_crps_of_a_gaussian():
    """sigma (2 phi(0) - 1/sqrt(pi)) at the centre (Gneiting & Raftery 2007, eq. 21)."""
    samples = np.random.default_rng(0).normal(0, 0.2, (20_000, 1, 1))
    expected = 0.2 * (2 / np.sqrt(2 * np.pi) - 1 / np.sqrt(np.pi))
    assert crps_of_samples(samples, np.zeros((1, 1)))[0, 0] == pytest.approx(expected, rel=0.02)


@pytest.fixture(scope="module")
def runs(map_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three tracers on all suites and one on a single suite, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"width": 4, "steps": 20, "round_steps": 10, "batch": 8}
    for tracer in ("gas", "stars", "both"):
        fit(FitConfig(str(map_store), tracer, SUITES, **small), folder / tracer, quiet=True)
    fit(FitConfig(str(map_store), "both", ("middle",), **small), folder / "middle", quiet=True)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def results(runs: list[Path], map_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    said = command("eval", "tables", *runs, "--store", map_store, "--out", out, "--part", "all", "--workers", 2).stdout
    assert str(out / "table.csv") in said
    return out


def test_dask_makes_the_table_that_numpy_makes(results, runs, map_store):
    """One block after the other in this process, in other blocks: the same table to 1e-6."""
    found: dict[Group, list] = {}
    for suite in SUITES:
        for rows in ((0, 5), (5, 12)):
            for group, sums in evaluate_block([str(r) for r in runs], str(map_store), suite, rows, None).items():
                found.setdefault(group, []).append(sums)
    here = to_table({group: reduce(add, parts) for group, parts in found.items()})
    table = pd.read_parquet(results / "table.parquet")
    assert list(table.columns) == COLUMNS
    table = table[table.test != "all"].reset_index(drop=True)
    assert len(table) == len(here)
    assert (table.estimator == "cnn").sum() == 4 * 3 * K
    assert set(table.estimator) == {"cnn", *ESTIMATORS}
    # Convolutions round by batch size, which moves a median by 1e-6.
    pd.testing.assert_frame_equal(here, table, rtol=1e-3, atol=1e-3)
    assert (table.n_galaxies == 12).all()


def test_pooled_rows_hold_every_suite(results):
    table = pd.read_csv(results / "table.csv", dtype={"train": str}, keep_default_na=False, na_values=["nan"])
    pooled = table[(table.test == "all") & (table.tracer == "gas") & (table.estimator == "cnn")]
    assert (pooled.n_galaxies == 36).all()
    single = table[(table.test != "all") & (table.tracer == "gas") & (table.estimator == "cnn")]
    for radius, rows in single.groupby("radius"):
        whole = pooled[pooled.radius == radius].iloc[0]
        assert np.average(rows.bias.astype(float), weights=rows.n_views) == pytest.approx(float(whole.bias), abs=1e-9)
    assert len(pd.read_csv(results / "ratios.csv")) == 4


def test_report_stands_alone(results):
    command("eval", "report", results)
    html = (results / "report.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,[A-Za-z0-9+/=]{5000,}"', html)) >= 7
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert "https://" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert "Best single tracer / both" in html
    assert "wolf2010" in html
    assert (results / "figures" / "matrix_ifu.pdf").stat().st_size > 5000
    shown = command("eval", "show", results).stdout
    assert "Best single tracer / both" in shown


def test_predict_covers_every_view(runs, map_store, tmp_path):
    run = next(r for r in runs if r.name == "both")
    command("eval", "predict", run, "--store", map_store, "--suite", "quiet", "--out", tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv")
    assert len(table) == 12 * 2 * K
    assert (table.lo_68 < table.hi_68).all()


@pytest.fixture(scope="module")
def many(map_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two that answer for any tracer, beside each other in one run folder."""
    run = tmp_path_factory.mktemp("many") / "any"
    small = {"width": 4, "steps": 10, "round_steps": 10, "batch": 8, "members": 2}
    fit_ensemble(FitConfig(str(map_store), "any", SUITES, **small), run, quiet=True)
    return run


def test_one_network_answers_for_any_tracer(many, map_store, tmp_path):
    command("eval", "tables", many, "--store", map_store, "--out", tmp_path / "out", "--part", "all", "--workers", 1)
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert set(table[table.estimator == "cnn-any"].tracer) == {"gas", "stars", "both"}
    command("eval", "report", tmp_path / "out")
    infer, views = Inference(many, calibrated=False), read_views(map_store, "middle")
    stars, both = infer(views, tracer="stars"), infer(views)
    assert np.abs(stars.quantiles(0.5) - both.quantiles(0.5)).max() > 1e-4
    views.maps[:, 4:] = 0
    np.testing.assert_allclose(infer(views).samples(8), stars.samples(8), atol=1e-3)


def test_an_ensemble_is_the_mean_of_its_members_densities(many, map_store):
    views = read_views(map_store, "middle")
    members = [Inference(many / f"member-{i}", calibrated=False)(views) for i in range(2)]
    mixed, truth = Inference(many, calibrated=False)(views), views.log10_menc
    each = np.stack([m.log_prob(truth) for m in members])
    np.testing.assert_allclose(mixed.log_prob(truth), np.logaddexp(*each) - np.log(2), rtol=1e-5)
    np.testing.assert_allclose(mixed.samples(10)[0::2], members[0].samples(10)[0::2], atol=1e-3)
    assert np.abs(each[0] - each[1]).max() > 1e-3


def test_part_of_an_ensemble_is_no_ensemble(many, tmp_path):
    shutil.copytree(many, tmp_path / "any")
    shutil.rmtree(tmp_path / "any" / "member-1")
    with pytest.raises(RunError, match="1 of 2 members"):
        load(tmp_path / "any")


def test_maps_of_another_shape_are_refused(runs, many, map_store):
    views = read_views(map_store, "middle")
    infer = load(runs[0])
    pixels = views.maps.shape[-1]
    with pytest.raises(ValueError, match=rf"takes maps \(N, 8, {pixels}, {pixels}\)"):
        infer(np.zeros((2, 8, pixels + 2, pixels + 2)), np.ones(2))
    with pytest.raises(ValueError, match="half_mass_radius_kpc"):
        infer(views.maps)
    with pytest.raises(ValueError, match="cannot infer from"):
        load(next(r for r in runs if r.name == "stars"))(views, tracer="gas")


def test_what_is_not_there_is_said(tmp_path, runs, map_store, mocks):
    command("gen", "maps", mocks / "quiet" / "quiet.yaml", "--out", tmp_path / "other.zarr", "--views", 1)
    for arguments, words in (
        (("tables", tmp_path / "norun", "--store", map_store, "--out", tmp_path), "no run folder"),
        (("tables", runs[0], "--store", tmp_path / "no.zarr", "--out", tmp_path), "no map store"),
        (("tables", runs[0], "--store", map_store, "--out", tmp_path, "--suites", "eagle"), "no suite 'eagle'"),
        (("report", tmp_path / "nothing"), "holds no tables"),
        (("predict", runs[0], "--store", tmp_path / "other.zarr", "--suite", "quiet"), "pixels = 16, "),
    ):
        done = command("eval", *arguments, check=False)
        assert done.returncode == 2
        assert words in done.stderr


def test_sampling_follows_the_view(runs, map_store):
    infer, views = load(runs[0]), read_views(map_store, "middle")
    state = torch.random.get_rng_state()
    whole = infer(views).samples(16)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_allclose(infer(views[np.arange(3, 8)]).samples(16), whole[:, 3:8], atol=1e-4)
