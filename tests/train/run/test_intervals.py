"""A right posterior is said to be right, however few samples stand for it."""

import numpy as np
import pytest
from scipy.stats import gumbel_r

from kinmass.eval.tables.calibration import coverage
from kinmass.eval.tables.metrics import Estimates, add_up, measures, per_view
from kinmass.train.run.calibration import SAMPLES, misses, widening
from kinmass.train.run.intervals import LEVELS, SHARES, quantile_of_sorted, quantiles

N, K = 4_000, 10


def right_posterior(n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return samples (S, N, K) and truths (N, K) of one distribution, which is not symmetric.

    Truths are spread evenly over its shares, so that their own scatter does not hide small differences.
    """
    rng = np.random.default_rng(7)
    truth = gumbel_r.ppf((np.arange(N * K) + 0.5) / (N * K)).reshape(N, K)
    return rng.gumbel(size=(n_samples, N, K)).astype(np.float32), truth.astype(np.float32)


@pytest.mark.parametrize("n_samples", [50, 200])
def test_a_right_posterior_covers_what_it_says(n_samples):
    samples, truth = right_posterior(n_samples)
    for level in LEVELS:
        assert coverage(samples, truth, level).mean() == pytest.approx(level, abs=0.002)
    names = np.arange(N).astype(str).astype(object)
    log_prob, median = np.zeros(N), np.median(samples, axis=0)
    estimates = Estimates(names, np.zeros(N, int), names, truth, median, samples, log_prob)
    columns = measures(add_up(per_view(estimates)))
    assert columns["coverage_68"].mean() == pytest.approx(LEVELS[0], abs=0.002)
    assert columns["coverage_95"].mean() == pytest.approx(LEVELS[1], abs=0.002)


def test_a_right_posterior_is_not_widened():
    samples, truth = right_posterior(SAMPLES)
    np.testing.assert_allclose(widening(misses(samples, truth), np.arange(N)).mean(), 1, atol=0.005)


@pytest.mark.parametrize("n_samples", [1, 2, 5, 42, 43, 200])
def test_sorted_or_not_quantiles_are_the_same_and_stay_within_the_samples(n_samples):
    samples = np.random.default_rng(n_samples).normal(size=(n_samples, 3))
    by_sorting = [quantile_of_sorted(np.sort(samples.T, axis=-1), share) for share in (0.0, *SHARES, 1.0)]
    np.testing.assert_allclose(by_sorting, quantiles(samples, (0.0, *SHARES, 1.0)), rtol=1e-12)
    assert np.min(by_sorting) == samples.min()
    assert np.max(by_sorting) == samples.max()
