"""Measures recover planted residuals, sums add up in any order, intervals are as wide as experiments scatter."""

import itertools
from functools import reduce
from operator import add

import numpy as np
import pandas as pd
import pytest
from reference import held
from scipy.stats import norm

from kinmass.eval.tables.metrics import (
    BIN_DEX,
    PLAIN,
    WITH_INTERVAL,
    Estimates,
    Sums,
    add_up,
    coverage_by_level,
    crps_of_samples,
    distance_from_uniform,
    joint_log_prob,
    mean_over_radii,
    measures,
    over_seeds,
    per_view,
    percentile,
    probability_above,
    ratio,
    replicates,
    where_both_answer,
)
from kinmass.eval.tables.tables import main_rows, shown, to_beside, to_closed, to_gap, to_summary, to_table
from kinmass.eval.tables.tasks import Group
from kinmass.train.data.dataset import RADII_RE

K = len(RADII_RE)


def planted(
    n_galaxies: int, bias: float, scatter: float, seed: int = 0, views: int = 4, width: float = 1.0, samples: int = 0
) -> Estimates:
    """Return estimates with a known bias and scatter [dex], whose errors are independent between radii.

    Half of the errors' variance is shared by all views of a galaxy. Posteriors have `samples` samples and are `width`
    times as wide as they should be; 0 samples give a point estimate.
    """
    rng = np.random.default_rng(seed)
    galaxy = np.repeat(np.array([f"g{i}" for i in range(n_galaxies)], dtype=object), views)
    truth = rng.normal(10, 1, (len(galaxy), 1)) + np.linspace(0, 1, K)
    shared = np.repeat(rng.normal(size=(n_galaxies, K)), views, axis=0)
    error = scatter * np.sqrt(0.5) * (shared + rng.normal(size=truth.shape))
    view = np.tile(np.arange(views), n_galaxies)
    if not samples:
        return Estimates(galaxy, view, galaxy, truth, truth + bias + error)
    sigma = scatter * width
    drawn = truth + error + sigma * rng.standard_normal((samples, *truth.shape))
    joint = norm(scale=sigma).logpdf(error).sum(1)
    return Estimates(galaxy, view, galaxy, truth, np.median(drawn, axis=0), drawn.astype(np.float32), joint)


def sums_of(estimates: Estimates) -> Sums:
    return add_up(per_view(estimates))


@pytest.mark.parametrize(("bias", "scatter"), [(0.1, 0.2), (-0.05, 0.03), (0.0, 0.5)])
def test_planted_bias_and_dispersion_come_back(bias, scatter):
    columns = measures(sums_of(planted(3000, bias, scatter)))
    np.testing.assert_allclose(columns["bias"], bias, atol=4 * scatter / np.sqrt(3000))
    np.testing.assert_allclose(columns["bias_median"], bias, atol=5 * scatter / np.sqrt(3000))
    np.testing.assert_allclose(columns["dispersion"], scatter, rtol=0.04)
    np.testing.assert_allclose(columns["dispersion_robust"], scatter, rtol=0.06)
    np.testing.assert_allclose(columns["rmse"], np.hypot(bias, scatter), rtol=0.04)
    np.testing.assert_allclose(columns["outliers"], 0.0027, atol=0.002)
    for name in ("bias", "dispersion", "rmse", "crps"):
        assert (columns[f"{name}_lo"] < columns[name]).all()
        assert (columns[name] < columns[f"{name}_hi"]).all()


@pytest.mark.parametrize(("width", "expected"), [(1.0, 0.683), (2.0, 0.954), (0.5, 0.383)])
def test_coverage_sharpness_and_density_of_right_wide_and_narrow_posteriors(width, expected):
    sums = sums_of(planted(700, 0.0, 0.2, width=width, samples=100))
    columns = measures(sums)
    np.testing.assert_allclose(columns["coverage_68"], expected, atol=0.05)
    np.testing.assert_allclose(columns["width_68"], 0.2 * width, rtol=0.03)
    np.testing.assert_allclose(columns["width_95"], 0.4 * width, rtol=0.05)
    # Expected log score and CRPS of N(0, sigma) forecasts of N(0, 0.2) errors, closed form.
    log_prob = -0.5 * np.log(2 * np.pi) - np.log(0.2 * width) - 0.5 / width**2
    if width >= 1:  # truths of narrow posteriors lie beyond the samples, where the kernel's tail decides
        np.testing.assert_allclose(columns["log_prob"], log_prob, atol=0.12)
    assert joint_log_prob(sums)[0] == pytest.approx(K * log_prob, abs=0.3)
    crps = 0.2 * (np.sqrt(2 / np.pi * (1 + width**2)) - width / np.sqrt(np.pi))
    np.testing.assert_allclose(columns["crps"], crps, rtol=0.06)
    coverage = coverage_by_level(sums.pit)
    nominal = norm.cdf(width * norm.ppf(0.5 + np.arange(2, 101, 2)[:-1] / 200)) * 2 - 1
    # Levels near 1 are left out: there the finite number of samples matters.
    np.testing.assert_allclose(coverage[:45].mean(1), nominal[:45], atol=0.02)
    distances = (distance_from_uniform(sums.pit).max(), distance_from_uniform(sums.tarp))
    assert max(distances) < 0.06 if width == 1 else min(distances) > 0.1


@pytest.mark.parametrize("samples", [50, 200])
def test_histograms_of_right_posteriors_are_filled_evenly(samples):
    """Also where there are fewer samples than bins, or one more value than bins."""
    sums = sums_of(planted(2500, 0.0, 0.2, samples=samples))
    for counts in (sums.tarp, sums.pit[:, 0]):
        assert counts.min() > 0.5 * counts.mean()
        assert np.std(counts) < 1.35 * np.sqrt(counts.mean())


def test_bootstrap_intervals_are_over_galaxies_not_views():
    """The interval of the mean is as wide as repeated experiments scatter, views of a galaxy being alike."""
    means, widths = [], []
    for seed in range(60):
        columns = measures(sums_of(planted(100, 0.0, 0.2, seed)))
        means.append(columns["bias"])
        widths.append(0.5 * (columns["bias_hi"] - columns["bias_lo"]))
    assert np.mean(widths) == pytest.approx(np.std(means, axis=0).mean(), rel=0.15)


def test_a_network_of_several_seeds_has_their_mean_and_an_interval_that_holds_their_scatter():
    """Intervals are as wide as experiments scatter that draw galaxies and train anew; with one seed they are not."""
    training_scatter, means, one_seed, three_seeds = 0.05, [], [], []
    rng = np.random.default_rng(5)
    for seed in range(40):
        galaxies, sums = planted(100, 0.0, 0.2, seed), []
        for bias in rng.normal(0, training_scatter, 3):
            shifted = planted(100, 0.0, 0.2, seed)
            shifted.median = galaxies.median + bias
            sums.append(sums_of(shifted))
        together = over_seeds("both", sums)
        columns, first = measures(together), measures(sums[0])
        of_seeds = [measures(s) for s in sums]
        for name in ("bias", "dispersion", *PLAIN):  # none is that of all seeds' errors together
            np.testing.assert_allclose(columns[name], np.mean([m[name] for m in of_seeds], axis=0), atol=1e-12)
        np.testing.assert_allclose(columns["dispersion"], first["dispersion"], rtol=1e-10)
        assert (together.n_seeds, together.views, together.galaxies) == (3, 400, 100)
        means.append(columns["bias"])
        three_seeds.append(0.5 * (columns["bias_hi"] - columns["bias_lo"]))
        one_seed.append(0.5 * (first["bias_hi"] - first["bias_lo"]))
    scatter = np.std(means, axis=0).mean()
    # Three seeds tell their scatter to some 40 %, and draws with replacement make it sqrt(2 / 3) of what it is.
    assert np.mean(three_seeds) == pytest.approx(scatter, rel=0.25)
    assert np.mean(one_seed) < 0.75 * scatter


def test_seeds_and_blocks_and_suites_add_up_in_any_order():
    a, b = (planted(40, bias, 0.2, seed, samples=40) for seed, bias in enumerate((0.0, 0.1)))
    halves = [np.arange(80), np.arange(80, 160)]
    by_block = reduce(add, [over_seeds("x", [sums_of(e[half]) for e in (a, b)]) for half in halves])
    by_seed = over_seeds("x", [reduce(add, [sums_of(e[half]) for half in halves]) for e in (a, b)])
    for name, values in measures(by_seed).items():
        np.testing.assert_allclose(measures(by_block)[name], values, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(joint_log_prob(by_block), joint_log_prob(by_seed), rtol=1e-10)
    alone = over_seeds("x", [sums_of(a)])
    for name, values in measures(sums_of(a)).items():
        np.testing.assert_array_equal(measures(alone)[name], values)


def test_sums_add_up_in_any_blocks():
    estimates = planted(50, 0.1, 0.2, samples=40)
    sums_at_once = sums_of(estimates)
    for edges in ([0, 200], [0, 4, 40, 120, 200], list(range(0, 201, 4))):
        parts = [sums_of(estimates[np.arange(a, b)]) for a, b in itertools.pairwise(edges)]
        total = reduce(add, parts[::-1])
        for name, values in measures(sums_at_once).items():
            np.testing.assert_allclose(measures(total)[name], values, rtol=1e-10, atol=1e-12)
        for name in ("pit", "tarp", "missing", "galaxies", "views"):
            np.testing.assert_array_equal(getattr(total, name), getattr(sums_at_once, name))


def test_numpy_agrees():
    estimates = planted(80, 0.1, 0.2, samples=60)
    columns, residual = measures(sums_of(estimates)), estimates.median - estimates.truth
    low, high = np.quantile(estimates.samples, [0.15865, 0.84135], axis=0, method="weibull")
    inside = held(estimates.samples, estimates.truth, 0.6827)
    expected = {
        "bias": residual.mean(0), "dispersion": residual.std(0), "rmse": np.sqrt((residual**2).mean(0)),
        "coverage_68": inside.mean(0), "width_68": 0.5 * (high - low).mean(0),
    }  # fmt: skip
    for name, values in expected.items():
        np.testing.assert_allclose(columns[name], values, rtol=1e-6 if name == "width_68" else 1e-10)
    np.testing.assert_allclose(columns["bias_median"], np.median(residual, axis=0), atol=0.004)
    robust = 0.5 * (np.percentile(residual, 84.13, axis=0) - np.percentile(residual, 15.87, axis=0))
    np.testing.assert_allclose(columns["dispersion_robust"], robust, atol=0.006)


def test_a_single_galaxy_has_no_dispersion_and_what_is_not_finite_is_counted():
    assert np.isnan(measures(sums_of(planted(1, 0.1, 0.2)))["dispersion"]).all()
    point_estimate = planted(50, 0.1, 0.2)
    point_estimate.median[3, 2] = np.nan
    sums = sums_of(point_estimate)
    assert sums.missing.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert np.isfinite(measures(sums)["bias"]).all()
    posterior = planted(50, 0.1, 0.2, samples=40)
    posterior.samples[7, 3, 2] = np.inf  # one bad sample spoils a view, and only that view
    sums = sums_of(posterior)
    assert sums.missing.tolist() == [1] * K
    without_that_view = measures(sums_of(posterior[np.arange(200) != 3]))
    for name in WITH_INTERVAL:
        np.testing.assert_allclose(measures(sums)[name], without_that_view[name], rtol=1e-10)


def test_a_radius_at_which_one_galaxy_is_answered_is_one_of_a_single_galaxy():
    """As the innermost of tilted rings, which are resolved in a galaxy or two alone."""
    rings = planted(50, 0.1, 0.2)
    rings.lineage = rings.galaxy.copy()
    rings.lineage[rings.galaxy == "g1"] = "g0"
    rings.median[1:, 0] = np.nan  # a view
    rings.median[4:, 1] = np.nan  # a galaxy
    rings.median[8:, 2] = np.nan  # two galaxies of one lineage
    one, parts = sums_of(rings), [sums_of(rings[rings.galaxy == f"g{i}"]) for i in range(50)]
    error = rings.median - rings.truth
    for sums in (one, reduce(add, parts), over_seeds("twice", [one, one])):
        columns, replicate = measures(sums), replicates(sums)
        for name in ("dispersion", "dispersion_robust", "outliers"):
            assert np.isnan(columns[name]).tolist() == [True, True] + [False] * (K - 2)
        np.testing.assert_allclose(columns["bias"][:3], [error[0, 0], error[:4, 1].mean(), error[:8, 2].mean()])
        assert columns["dispersion"][2] == pytest.approx(error[:8, 2].std())
        for name in ("bias", "rmse", "crps"):
            assert np.isnan(columns[f"{name}_lo"]).tolist() == [True] * 3 + [False] * (K - 3)
        assert mean_over_radii(replicate["dispersion"])[0] == pytest.approx(columns["dispersion"][2:].mean())
    (row,) = to_summary({Group("rotation_curve", "ifu", "gas", "", "a"): one}).itertuples()
    assert row.dispersion == pytest.approx(error[:, 2:].std(0, where=np.isfinite(error[:, 2:])).mean())
    # So are those without intervals, which were empty.
    for name in ("dispersion_robust", "outliers"):
        assert getattr(row, name) == pytest.approx(measures(one)[name][2:].mean())


def test_nothing_gives_nothing():
    sums = sums_of(planted(3, 0.1, 0.2, samples=40)[np.zeros(0, dtype=int)])
    assert sums.views == sums.galaxies == 0
    assert all(np.isnan(values).all() for values in measures(sums).values())


def test_paired_ratio_of_a_planted_gain():
    single = planted(400, 0.0, 0.2)

    def scaled(factor: float) -> Sums:
        estimates = planted(400, 0.0, 0.2)
        estimates.median = estimates.truth + (estimates.median - estimates.truth) * factor
        return sums_of(estimates)

    gain = ratio([sums_of(single), scaled(1.5)], scaled(1 / 1.3))
    assert gain["ratio"] == pytest.approx(1.3, rel=1e-6)
    assert gain["lo"] == pytest.approx(1.3, rel=1e-6)  # the same galaxies are drawn: no scatter is left
    assert gain["above_1"] == 1.0


def test_networks_stand_beside_classical_estimators_on_what_both_answer():
    """A classical estimator that answers at one radius for half of the views, the better half for the network."""
    network, classical = planted(300, 0.0, 0.1, samples=60), planted(300, 0.0, 0.1)
    hard = np.arange(1200) % 4 >= 2
    network.median[hard] += 5 * (network.median - network.truth)[hard]
    network.median[:, 4:] = network.truth[:, 4:] + 3 * (network.median - network.truth)[:, 4:]
    network.samples[:, 8] = np.nan  # a view that the network does not answer
    classical.median = classical.truth + 2 * (classical.median - classical.truth)
    classical.median[hard] = np.nan
    classical.median[:, np.arange(K) != 3] = np.nan
    one, other = where_both_answer(per_view(network), per_view(classical))
    cnn, wolf = Group("cnn", "ifu", "both", "a", "a"), Group("wolf2010", "ifu", "stars", "", "a")
    sums = {
        cnn: add_up(per_view(network), left_out=400),
        wolf: add_up(per_view(classical), left_out=400),
        Group("cnn", "ifu", "both", "a", "a", "beside wolf2010", 0): add_up(one),
        Group("cnn", "ifu", "both", "a", "a", "beside wolf2010", 1): add_up(other),
    }
    (row,) = to_beside(sums).itertuples()
    assert (row.beside, row.radius_min, row.radius_max) == ("wolf2010", RADII_RE[3], RADII_RE[3])
    assert row.answered_min == row.answered_max == pytest.approx(599 / 1600)
    easy = ~hard & (np.arange(1200) != 8)
    for estimates, value in ((network, row.dispersion), (classical, row.dispersion_beside)):
        assert value == pytest.approx((estimates.median - estimates.truth)[easy, 3].std(), rel=1e-9)
    assert row.ratio == pytest.approx(2.0, abs=0.15)
    assert row.lo < row.ratio < row.hi
    table, summary = to_table(sums), to_summary(sums).set_index("estimator")
    assert table[table.estimator == "wolf2010"][["n_views", "n_missing", "answered"]].values.tolist() == [
        [600, 600, 600 / 1600]
    ]
    assert summary.loc["wolf2010"][["n_views", "n_missing", "answered_min"]].tolist() == [600, 600, 600 / 1600]
    assert summary.loc["cnn"][["n_views", "answered_max"]].tolist() == [1199, 1199 / 1600]
    assert shown(to_summary(sums)).set_index("estimator").loc["wolf2010", ["radii", "answered"]].tolist() == [
        f"{RADII_RE[3]:.3g}",
        "38%",
    ]


def test_the_summary_counts_where_the_fewest_views_are_answered():
    rings = planted(100, 0.0, 0.2)
    rings.median[:300, 0] = np.nan
    rings.median[:20, 1:] = np.nan
    (row,) = to_summary({Group("rotation_curve", "ifu", "gas", "", "a"): sums_of(rings)}).itertuples()
    assert (row.n_views, row.n_missing, row.answered_min, row.answered_max) == (100, 300, 0.25, 0.95)
    for n_missing, words in ((0, "100%"), (1, "99%"), (200, "50%"), (398, "1%")):  # of 400
        rings = planted(100, 0.0, 0.2)
        rings.median[:n_missing] = np.nan
        summary = to_summary({Group("rotation_curve", "ifu", "gas", "", "a"): sums_of(rings)})
        assert shown(summary).answered.tolist() == [words], "100 % is all of them"


def test_what_a_change_of_suite_costs_is_told_pair_by_pair():
    home, foreign = planted(300, 0.0, 0.1, samples=60), planted(300, 0.0, 0.1, samples=60)
    foreign.median = foreign.truth + 3 * (foreign.median - foreign.truth)
    foreign.ood_score, home.ood_score = np.full(1200, 0.99), np.linspace(0, 1, 1200)
    foreign.log_prob_joint = foreign.log_prob_joint - 2.0
    gap = to_gap(
        {
            Group("cnn", "ifu", "both", "a", "a"): sums_of(home),
            Group("cnn", "ifu", "both", "b", "a"): sums_of(foreign),
            Group("cnn", "ifu", "both", "a+b", "a"): sums_of(foreign),
            Group("cnn", "ifu", "both", "b", "c"): sums_of(foreign),
            Group("wolf2010", "ifu", "stars", "", "a"): sums_of(home),
        }
    )
    (row,) = gap.itertuples()  # neither suites of its training set count, nor suites that no run was trained on alone
    assert (row.train, row.test, row.ood_share) == ("b", "a", 1.0)
    assert row.rmse_ratio == pytest.approx(3.0, rel=1e-6)
    assert row.rmse_ratio_hi - row.rmse_ratio_lo < 1e-6  # the same galaxies are drawn
    assert row.log_prob_loss == pytest.approx(2.0, abs=1e-6)


def test_what_closes_the_gap_is_told_with_its_interval():
    """RMSE .3 plain, .1 at home, .15 varied: three quarters; both tracers .12 against .15 for the better single one."""

    def sums_with_error(factor: float) -> Sums:
        estimates = planted(300, 0.0, 0.1, samples=60)
        estimates.median = estimates.truth + factor * (estimates.median - estimates.truth)
        return sums_of(estimates)

    sums = {}
    for test, others in (("a", "b+c"), ("b", "a+c")):
        for tracer, factor_varied in (("gas", 1.5), ("stars", 2.0), ("both", 1.2)):
            sums[Group("cnn", "ifu", tracer, test, test)] = sums_with_error(1.0)
            sums[Group("cnn", "ifu", tracer, others, test)] = sums_with_error(3.0)
            # Trained on one suite only: to_closed must not use it.
            sums[Group("cnn", "ifu", tracer, "c", test)] = sums_with_error(9.0)
            sums[Group("cnn+scale", "ifu", tracer, others, test)] = sums_with_error(factor_varied)
    closed = to_closed(sums).set_index(["estimator", "tracer"])
    assert set(closed.index.get_level_values(0)) == {"cnn", "cnn+scale"}
    np.testing.assert_allclose(closed.loc["cnn"][["closed", "closed_lo", "closed_hi"]], 0, atol=1e-9)
    row = closed.loc["cnn+scale", "gas"]
    np.testing.assert_allclose(row[["closed", "closed_lo", "closed_hi"]].astype(float), 0.75, atol=1e-6)
    assert row.suites == "a+b"
    np.testing.assert_allclose(
        closed.loc["cnn+scale", "both"][["gain", "gain_lo", "gain_hi"]].astype(float), 1.5 / 1.2, atol=1e-6
    )
    assert np.isnan(row.gain)
    # Of gas there is one suite less: the best single tracer on that one is nothing beside both on two.
    fewer = {group: total for group, total in sums.items() if (group.tracer, group.test) != ("gas", "b")}
    closed = to_closed(fewer).set_index(["estimator", "tracer"])
    assert closed.loc["cnn+scale", "gas"].suites == "a"
    assert np.isnan(closed.loc["cnn+scale", "both"].gain)


def test_main_rows_are_of_every_instrument():
    """Networks that see through another instrument may have been trained on fewer suites."""
    rows = pd.DataFrame(
        {
            "instrument": ["ifu", "ifu", "far", "far", "far"],
            "train": ["a+b", "a", "a", "a", ""],
            "test": ["all", "all", "all", "a", "all"],
        }
    )
    assert main_rows(rows).index.tolist() == [0, 2, 4]
    assert main_rows(rows[:0]).empty


def test_nothing_is_closed_where_there_is_no_gap_or_no_suite_was_left_out():
    """A network that errs more than plain ones, which err less than those at home, would have closed 200 % of the gap.

    Of networks of one suite each of three none was trained on all suites but one; of two, each was.
    """

    def sums_with_error(factor: float) -> Sums:
        return sums_of(planted(50, 0.0, 0.1 * factor))

    def sums_at_home(home: float, suites: str) -> dict[Group, Sums]:
        sums = {Group("cnn", "ifu", "both", test, test): sums_with_error(home) for test in suites}
        for train in suites:
            for test in set(suites) - {train}:
                sums[Group("cnn", "ifu", "both", train, test)] = sums_with_error(2.0)
                sums[Group("cnn+scale", "ifu", "both", train, test)] = sums_with_error(2.5)
        return sums

    closed = to_closed(sums_at_home(1.0, "ab")).set_index("estimator")
    assert closed.loc["cnn+scale"].suites == "a+b"
    np.testing.assert_allclose(closed.loc["cnn+scale"][["closed", "closed_lo"]].astype(float), -0.5, atol=1e-6)
    without_gap = to_closed(sums_at_home(2.2, "ab")).set_index("estimator")
    assert without_gap[["closed", "closed_lo", "closed_hi"]].isna().to_numpy().all()
    assert without_gap.loc["cnn+scale"].rmse == closed.loc["cnn+scale"].rmse
    assert to_closed(sums_at_home(1.0, "abc")).empty


def test_lineages_are_drawn_whole():
    """Galaxies of one lineage count as one: the interval is that of as many galaxies as there are lineages."""
    estimates = planted(40, 0.0, 0.2, views=8)
    split_galaxies = planted(40, 0.0, 0.2, views=8)
    split_galaxies.galaxy = np.array(
        [f"{g}.{v // 2}" for g, v in zip(estimates.galaxy, estimates.view, strict=True)], dtype=object
    )
    of_galaxies, of_split_galaxies = (replicates(sums_of(x))["bias"] for x in (estimates, split_galaxies))
    np.testing.assert_allclose(of_split_galaxies, of_galaxies, rtol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 400])
def test_percentiles_of_few_views_are_those_of_numpy(n):
    """Between two residuals far from each other there is much room."""
    views = per_view(planted(n, 0.1, 0.3, views=1))
    for share in (0.0, 0.1587, 0.5, 0.8413, 1.0):
        expected = np.quantile(views.values[:, 1], share, axis=0)
        np.testing.assert_allclose(percentile(add_up(views).residual[0], share), expected, atol=0.51 * BIN_DEX)


@pytest.mark.parametrize(("bias", "scatter"), [(0.1, 0.2), (1.2, 0.3), (1.5, 0.5), (0.0, 0.7), (3.0, 0.5), (-3.0, 0.1)])
def test_errors_beyond_what_is_counted_are_no_percentile(bias, scatter):
    """What two dex or more decide is left out, and what they do not is numpy's."""
    estimates = planted(400, bias, scatter, views=1)
    columns, residual = measures(sums_of(estimates)), estimates.median - estimates.truth
    low, median, high = np.quantile(residual, [0.1587, 0.5, 0.8413], axis=0)
    robust = 0.5 * (high - low)
    outliers = (np.abs(residual - median) > 3 * robust).mean(0)
    is_known = {"bias_median": np.abs(median) < 1.99, "dispersion_robust": np.maximum(-low, high) < 1.99}
    is_known["outliers"] = is_known["dispersion_robust"] & (
        (np.abs(median) + 3 * robust < 1.99) | (np.abs(residual).max(0) < 1.99)
    )
    for name, expected in (("bias_median", median), ("dispersion_robust", robust), ("outliers", outliers)):
        known = np.isfinite(columns[name])
        np.testing.assert_allclose(columns[name][known], expected[known], atol=0.01)
        assert known[is_known[name]].all(), name
    if abs(bias) == 3:
        assert np.isnan([columns[name] for name in is_known]).all()


def test_of_a_single_lineage_nothing_is_said_of_the_scatter_between_lineages():
    """Galaxies of one lineage have a dispersion; an interval of no width would claim that it is known exactly."""
    estimates = planted(4, 0.1, 0.2, samples=40)
    estimates.lineage = np.full(len(estimates.galaxy), "one", dtype=object)
    one, parts = sums_of(estimates), [sums_of(estimates[rows]) for rows in np.split(np.arange(16), 4)]
    assert one.lineages == reduce(add, parts).lineages == ("one",)
    for sums in (one, reduce(add, parts), over_seeds("twice", [one, one])):
        columns = measures(sums)
        assert np.isfinite([columns[name] for name in WITH_INTERVAL]).all()
        assert all(np.isnan(columns[f"{name}_{end}"]).all() for name in WITH_INTERVAL for end in ("lo", "hi"))
        assert np.isfinite(joint_log_prob(sums)[0])
        assert np.isnan(joint_log_prob(sums)[1:]).all()
    gain = ratio([one], one)
    assert gain["ratio"] == 1
    assert np.isnan([gain["lo"], gain["hi"], gain["above_1"]]).all()
    estimates.lineage[0] = "other"
    assert np.isfinite(measures(sums_of(estimates))["bias_lo"]).all()
    better = planted(6, 0.1, 0.2, samples=40)
    better.median = better.truth + 0.8 * (better.median - better.truth)
    for n in (2, 5, 6):  # lineages: of few, chance alone favours the same side in each
        chosen = np.isin(better.galaxy, np.unique(better.galaxy)[:n])
        pair = [sums_of(estimates[chosen]) for estimates in (planted(6, 0.1, 0.2, samples=40), better)]
        gains = [ratio(pair[:1], pair[1]), ratio(pair[:1], pair[1], slice(2, 3))]
        np.testing.assert_array_equal([gain["above_1"] for gain in gains], 1.0 if n == 6 else np.nan)
        assert all(gain["ratio"] == pytest.approx(1.25) for gain in gains)
    many = planted(9, 0.1, 0.2)
    assert sums_of(many).lineages == reduce(add, [sums_of(many[many.galaxy == f"g{i}"]) for i in range(9)]).lineages


def test_a_replicate_that_draws_nothing_says_nothing():
    nothing = np.array([np.nan, np.nan, 0.2, 0.3, 0.0, -0.1])
    assert probability_above(nothing, 0.0) == 0.625
    assert probability_above(-nothing, 0.0) == 1 - 0.625
    assert np.isnan(probability_above(nothing[:2], 0.0))


def test_crps_does_not_depend_on_the_number_of_samples():
    """It is that of a Gaussian, sigma (2 phi(0) - 1/sqrt(pi)) at the centre (Gneiting & Raftery 2007, eq. 21).

    Of five samples on average; the mean over all pairs would be a quarter too high.
    """
    for n, views in ((5, 40_000), (20_000, 1)):
        samples = np.random.default_rng(0).normal(0, 0.2, (n, views, 1))
        expected = 0.2 * (2 / np.sqrt(2 * np.pi) - 1 / np.sqrt(np.pi))
        assert crps_of_samples(samples, np.zeros((views, 1))).mean() == pytest.approx(expected, rel=0.02)


def test_compiled_crps_and_pit_agree_with_plain_numpy():
    """From all pairs of samples; views that are not finite are missing, and the samples given are left as they were."""
    estimates = planted(3, 0.0, 0.2, samples=30)
    assert estimates.samples is not None
    estimates.samples[4, 2, 1], estimates.samples[5, 3, 0] = np.nan, -np.inf
    samples = estimates.samples.copy()
    views = per_view(estimates)
    np.testing.assert_array_equal(estimates.samples, samples)
    finite = [0, 1, *range(4, 12)]
    samples, truth = samples[:, finite].astype(float), estimates.truth[finite]
    spread = np.abs(samples[:, None] - samples).sum((0, 1)) / (30 * 29)
    values, pit = views.values[finite], views.pit[finite]
    np.testing.assert_allclose(values[:, 3], np.abs(samples - truth).mean(0) - spread / 2, rtol=1e-4)
    np.testing.assert_array_equal(np.floor(pit * 31), (samples < truth).sum(0))
    assert np.isnan(views.values[2:4, 1:]).all()
    assert (views.values[2:4, 0] == 0).all()
    assert np.isnan([views.pit[2:4].max(1), views.tarp[2:4, None].max(1)]).all()
