"""Is a view like those a network was trained on? Planted clouds, and networks on galaxies that are none like those."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import KEPT, SUITES

from kinmass.eval.tables.metrics import RANK_BINS, ood
from kinmass.train.data.dataset import concatenate, read_views, usable
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import fit
from kinmass.train.run.calibration import _seen_as_trained
from kinmass.train.run.checkpoint import RunError, read_tensors, write_tensors
from kinmass.train.run.out_of_distribution import (
    FEWEST_DISTANCES,
    OOD_THRESHOLD,
    SeenViews,
    TrainingFeatures,
    learn_training_features,
)
from kinmass.train.run.posterior import load

F = 12


def cloud(n: int, seed: int, shift: float = 0.0, wide: float = 1.0) -> torch.Tensor:
    """Correlated Gaussian features of very different scales."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.tril(torch.randn(F, F, generator=torch.Generator().manual_seed(99))) * torch.logspace(-3, 2, F)[:, None]
    return (wide * torch.randn(n, F, generator=generator) + shift) @ mix.T


def seen(*features: torch.Tensor) -> SeenViews:
    """Features of each member, of views of which nothing is told."""
    return SeenViews(features, torch.zeros(len(features[0]), 0))


def test_what_is_like_the_training_set_is_uniform_and_what_is_not_is_far_out():
    training_features = learn_training_features(seen(cloud(4000, 0)), seen(cloud(3000, 1)))
    scores = training_features.ood_score(seen(cloud(3000, 2))).numpy()
    np.testing.assert_allclose(np.quantile(scores, [0.05, 0.5, 0.95]), [0.05, 0.5, 0.95], atol=0.03)
    assert (training_features.ood_score(seen(cloud(500, 3, shift=3.0))) > OOD_THRESHOLD).double().mean() > 0.95
    assert (training_features.ood_score(seen(cloud(500, 3, wide=3.0))) > OOD_THRESHOLD).double().mean() > 0.95


def test_from_few_validation_views_nothing_is_told():
    """No view is farther than 95 % of nine: none was ever out of distribution, and no verdict doubted any."""
    training, far_out = seen(cloud(400, 0)), seen(cloud(20, 3, shift=100.0))
    enough, few = (
        learn_training_features(training, seen(cloud(n, 1))).ood_score(far_out)
        for n in (FEWEST_DISTANCES, FEWEST_DISTANCES - 1)
    )
    assert (enough > OOD_THRESHOLD).all()
    assert few.isnan().all()


def test_it_does_not_depend_on_how_features_are_written_down():
    a, b, c = cloud(2000, 0).double(), cloud(1000, 1).double(), cloud(300, 2, wide=1.5).double()
    scale = torch.logspace(-2, 2, F)
    scores = learn_training_features(seen(a), seen(b)).ood_score(seen(c))
    scores_of_scaled = learn_training_features(seen(a * scale + 5), seen(b * scale + 5)).ood_score(seen(c * scale + 5))
    torch.testing.assert_close(scores, scores_of_scaled, atol=2e-3, rtol=0)


def test_members_of_an_ensemble_are_taken_together():
    training, validation = (seen(*(cloud(2000, seed + 10 * member) for member in range(2))) for seed in (0, 1))
    training_features = learn_training_features(training, validation)
    foreign_scores = training_features.ood_score(seen(cloud(300, 5), cloud(300, 5, shift=3.0)))  # to one of the two
    assert (foreign_scores > OOD_THRESHOLD).double().mean() > 0.9
    assert learn_training_features(seen(cloud(1, 0)), seen(cloud(50, 1))) is None


def told_cloud(n: int, seed: int, errors: torch.Tensor | None = None) -> SeenViews:
    """Features of which the middle and the width follow a number that is told, as errors do (N,)."""
    generator = torch.Generator().manual_seed(seed)
    errors = 4 * torch.rand(n, generator=generator) - 2 if errors is None else errors
    features = cloud(n, seed + 100) * (1 + 0.5 * errors[:, None] ** 2) + errors[:, None]
    return SeenViews([features], torch.stack([errors, torch.ones(n)], dim=1))


def test_views_are_compared_with_those_that_were_seen_alike():
    """Those with the largest errors of all in training are no more often strange than others; without, each was."""
    training, validation = told_cloud(4000, 0), told_cloud(3000, 1)
    told = learn_training_features(training, validation)
    plain = learn_training_features(seen(*training.features), seen(*validation.features))
    for error in (-2.0, -1.0, 0.0, 1.5, 2.0):
        views = told_cloud(2000, 2, torch.full((2000,), error))
        assert (told.ood_score(views) > OOD_THRESHOLD).double().mean() < 0.1
        if error == 2.0:
            assert (plain.ood_score(seen(*views.features)) > OOD_THRESHOLD).double().mean() > 0.15
        # Three times as far out is noticed wherever a view lies, also where the plain distance does not.
        others = SeenViews([3 * (views.features[0] - error) + error], views.how_seen)
        assert (told.ood_score(others) > OOD_THRESHOLD).double().mean() > 0.8
    middle = told_cloud(2000, 3, torch.zeros(2000))
    wide = SeenViews([3 * middle.features[0]], middle.how_seen)
    assert (plain.ood_score(seen(*wide.features)) > OOD_THRESHOLD).double().mean() < 0.5
    # What was told of no training view excuses nothing.
    far = told_cloud(2000, 2, torch.full((2000,), 6.0))
    assert (told.ood_score(far) > OOD_THRESHOLD).double().mean() > 0.95
    assert torch.equal(told.ood_score(views), told.ood_score(SeenViews.joined([views, far]))[: len(views)])


@pytest.mark.parametrize("n", [50, 200])
def test_few_validation_views_call_no_more_strange_than_they_should(n):
    """What is expected of a distance is made of these views, and is nearer to them than to new ones."""
    shares = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        told = [torch.randn(size, 16, generator=generator) for size in (2000, n, 2000)]
        training, validation, new = (SeenViews([cloud(len(x), seed) * (1 + x[:, :1].abs())], x) for x in told)
        scores = learn_training_features(training, validation).ood_score(new)
        shares.append((scores > OOD_THRESHOLD).double().mean())
    assert np.mean(shares) < 0.07


def test_rounding_of_what_is_told_alike_of_all_views_says_nothing():
    """As of an instrument of one PSF: its last digit differs between machines, and moved scores by a fifth."""
    rounded = [
        0.3 + 3e-8 * torch.randint(-1, 2, (n, 8), generator=torch.Generator().manual_seed(n)) for n in (2000, 60)
    ]
    known = learn_training_features(*map(SeenViews, ([cloud(2000, 0)], [cloud(60, 1)]), rounded))
    scores = [known.ood_score(SeenViews([cloud(500, 2)], torch.full((500, 8), x))) for x in (0.3, 0.3000004)]
    torch.testing.assert_close(*scores, rtol=0, atol=1.5 / 61)
    plain = learn_training_features(seen(cloud(2000, 0)), seen(cloud(60, 1))).ood_score(seen(cloud(500, 2)))
    torch.testing.assert_close(scores[0], plain, rtol=0, atol=3.5 / 61)


def test_of_views_of_which_nothing_is_told_the_share_is_that_of_plain_distances():
    training, validation, views = cloud(2000, 0), cloud(700, 1), cloud(300, 2, wide=1.3)
    found = learn_training_features(seen(training), seen(validation)).ood_score(seen(views))
    spread = training.double().std(0)
    inverse = torch.linalg.inv(torch.cov((training.double() / spread).T) + 1e-4 * torch.eye(F, dtype=torch.float64))
    distances = []
    for features in (validation, views):
        apart = (features.double() - training.double().mean(0)) / spread
        distances.append((apart @ inverse * apart).sum(1))
    expected = (distances[0] < distances[1][:, None]).sum(1)
    torch.testing.assert_close(found, (expected + 0.5) / 701, rtol=0, atol=3e-3)


def test_records_of_before_tell_the_same():
    """They have plain distances, of whatever network, and nothing of how views were seen."""
    now = learn_training_features(seen(cloud(2000, 0)), seen(cloud(700, 1)))
    level, log_scatter = now.expected[0]
    before = {"mean": now.mean, "whiten": now.whiten, "distances": (now.distances * log_scatter.exp() + level).exp()}
    read = TrainingFeatures.as_kept(before)
    assert read.is_of(1, F, 0)
    assert read.is_of(1, F, 16)
    views = cloud(300, 2, wide=1.3)
    expected = now.ood_score(seen(views))
    torch.testing.assert_close(read.ood_score(seen(views)), expected, rtol=0, atol=2 / 701)
    told = SeenViews([views], torch.randn(300, 16, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(read.ood_score(told), expected, rtol=0, atol=2 / 701)
    assert TrainingFeatures.as_kept(vars(now)) == now


def test_share_and_area_from_counts():
    uniform = np.full(RANK_BINS, 7)
    np.testing.assert_allclose(ood(uniform), [1 - OOD_THRESHOLD, 0.5])
    all_foreign = np.zeros(RANK_BINS, int)
    all_foreign[-1] = 40
    np.testing.assert_allclose(ood(all_foreign), [1.0, 1.0], atol=0.5 / RANK_BINS + 1e-9)
    assert np.isnan(ood(np.zeros(RANK_BINS, int))).all()


def test_views_varied_as_in_training_are_told_as_in_training(map_store, tmp_path):
    # By strengths that change nothing, features are those that the network sees of a view.
    fit(FitConfig(str(map_store), "any", SUITES, instrument="survey", steps=2, no_dispersion=1e-12), tmp_path / "run")
    infer = load(tmp_path / "run")
    assert infer.told
    assert {t: len(features.middle) for t, features in infer.training_features.items()} == {
        "gas": 8, "stars": 8, "both": 16,
    }  # fmt: skip
    views = concatenate([read_views(map_store, suite) for suite in ("bursty", "quiet")])
    for tracer in infer.answers():
        usable_views = views[usable(views, tracer, infer.instrument)][np.arange(20)]
        found = _seen_as_trained(infer, usable_views, tracer, 0).features
        for member, expected in zip(found, infer(usable_views, tracer=tracer, unseen=False).features, strict=True):
            torch.testing.assert_close(member, expected)


def test_a_run_knows_its_suites_and_kept_predictions_say_so(runs, map_store, results):
    infer = load(next(run for run in runs if run.name == "both"))
    views = concatenate([read_views(map_store, suite) for suite in ("bursty", "middle", "quiet")])
    views = views[usable(views, "both", infer.instrument)]
    observed = views.observed(infer.instrument)
    # Of the four validation views of this run the farthest is no farther out than 90 % of galaxies.
    assert np.isnan(infer(views).ood_score()).all()
    known = infer.training_features["both"]
    infer.training_features["both"] = replace(
        known, distances=torch.linspace(float(known.distances[0]), float(known.distances[-1]), 20).double()
    )
    posterior = infer(views)
    assert posterior.ood_score().shape == (len(views),)
    scores_of_three = infer(views[np.arange(3)]).ood_score()
    # A view may itself be one of the distances; rounding then decides whether it counts.
    one_place = 1.001 / (1 + len(infer.training_features["both"].distances))
    np.testing.assert_allclose(scores_of_three, posterior.ood_score()[:3], atol=one_place)
    swapped = torch.cat([observed[:, 4:], observed[:, :4]], dim=1)
    assert infer(swapped, views.half_mass_radius_kpc).ood_score().mean() > posterior.ood_score().mean() + 0.1
    summary = pd.read_csv(results / "summary.csv")
    networks = summary[summary.train.notna()]
    assert networks[["ood_share", "ood_auc"]].isna().all(axis=None)
    assert summary[summary.train.isna()].ood_share.isna().all()


def test_a_damaged_record_is_an_error_of_one_sentence(runs, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "run", ignore=KEPT)
    (copy / "ood.pt").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"ood\.pt: cannot be read"):
        load(copy)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("mean", lambda mean: mean[0]),
        ("mean", lambda mean: [*mean, *mean]),
        ("mean", lambda mean: [x[:-1] for x in mean]),
        ("whiten", lambda whiten: [x[0] for x in whiten]),
        ("whiten", lambda whiten: [x * torch.nan for x in whiten]),
        ("slope", lambda slope: slope[:-1]),
        ("expected", lambda expected: expected[:-1]),
        ("unit", lambda unit: torch.ones(3)),
        ("distances", lambda distances: distances.flip(0)),  # by which every view would be strange
        ("distances", lambda distances: distances[:0]),
        ("distances", lambda distances: distances.tolist()),
    ],
)
def test_a_record_of_other_numbers_is_refused(runs, tmp_path, field, change):
    copy = shutil.copytree(runs[0], tmp_path / "run", ignore=KEPT)
    content = read_tensors(copy / "ood.pt")
    for tracer in set(content) - {"made_from"}:
        content[tracer][field] = change(content[tracer][field])
    write_tensors(copy / "ood.pt", content)
    with pytest.raises(RunError, match=r"ood\.pt is damaged; remove it and give the `kinmass fit`"):
        load(copy)


def test_widths_that_are_no_triangle_are_refused(runs, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "run", ignore=KEPT)
    content = json.loads((copy / "calibration.json").read_text())
    for change in (lambda scale: scale.T, lambda scale: -scale, lambda scale: 0 * scale):
        scales = {t: [change(np.array(s)).tolist() for s in of_t] for t, of_t in content["scale"].items()}
        (copy / "calibration.json").write_text(json.dumps(content | {"scale": scales}))
        with pytest.raises(RunError, match=r"calibration\.json is damaged"):
            load(copy)
