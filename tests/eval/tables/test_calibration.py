"""Calibration measures are uniform for a correct posterior and show when it is wrong."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from kinmass.eval.tables.calibration import coverage, tarp
from kinmass.train.run.calibration import latent_scale, misses, stretched, weighted_quantile, widening
from kinmass.train.run.intervals import LEVELS

S, N, K = 400, 1500, 4


def ranks(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (samples < truth).mean(0)


def joint_rank(samples: np.ndarray, truth: np.ndarray, normal: np.ndarray | None = None) -> np.ndarray:
    normal = np.random.default_rng(0).standard_normal((len(truth), K + 1)) if normal is None else normal
    return tarp(np.moveaxis(samples, 0, -1) - truth[..., None], normal)


def posterior(width: float = 1.0, correlation: float = 0.9, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return samples and truths of K correlated Gaussians; arguments are of the samples."""
    rng = np.random.default_rng(0)

    def draw(rho: float, *shape: int) -> np.ndarray:
        covariance = rho * np.ones((K, K)) + (1 - rho) * np.eye(K)
        return rng.standard_normal((*shape, K)) @ np.linalg.cholesky(covariance).T

    centre = rng.normal(10, 1, (N, K))
    return centre + shift + width * draw(correlation, S, N), centre + draw(0.9, N)


def test_a_right_posterior_is_uniform_in_everything():
    samples, truth = posterior()
    rank = ranks(samples, truth)
    for level in LEVELS:
        np.testing.assert_allclose(coverage(samples, truth, level), level, atol=3.5 * np.sqrt(level * (1 - level) / N))
    assert kstest(rank, "uniform").pvalue.min() > 1e-3
    assert kstest(joint_rank(samples, truth), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(("width", "expected"), [(0.5, 0.383), (2.0, 0.954)])
def test_a_wrong_width_shows(width, expected):
    samples, truth = posterior(width)
    rank = ranks(samples, truth)
    np.testing.assert_allclose(coverage(samples, truth, LEVELS[0]), expected, atol=0.04)
    assert kstest(rank, "uniform").pvalue.max() < 1e-6
    assert kstest(joint_rank(samples, truth), "uniform").pvalue < 1e-6


def test_a_shift_shows_in_ranks():
    rank = ranks(*posterior(shift=0.3))
    assert rank.mean() < 0.45
    assert kstest(rank, "uniform").pvalue.max() < 1e-6


def test_a_lost_correlation_shows_in_the_joint_only():
    samples, truth = posterior(correlation=0.0)
    assert kstest(ranks(samples, truth), "uniform").pvalue.min() > 1e-3
    assert kstest(joint_rank(samples, truth), "uniform").pvalue < 1e-6


def test_compiled_tarp_agrees_with_plain_numpy():
    samples, truth = (x[..., :50, :] for x in posterior())
    normal = np.random.default_rng(1).standard_normal((50, K + 1))
    first, second = samples[: S // 2], samples[S // 2 :]
    expected = []
    for i in range(50):
        covariance = np.cov(first[:, i], rowvar=False, bias=True)
        whiten = np.linalg.inv(np.linalg.cholesky(covariance + 1e-9 * np.trace(covariance) * np.eye(K)))
        point = first[:, i].mean(0) + np.linalg.inv(whiten) @ normal[i, :K]
        n_closer = sum(
            np.linalg.norm(whiten @ (x - point)) < np.linalg.norm(whiten @ (truth[i] - point)) for x in second[:, i]
        )
        expected.append((n_closer + norm.cdf(normal[i, K])) / (len(second) + 1))
    np.testing.assert_allclose(joint_rank(samples, truth, normal), expected, rtol=1e-12)
    assert np.ptp(expected) > 0.8
    assert np.isnan(joint_rank(np.ones((10, 1, K)), np.zeros((1, K)))).all()


@pytest.mark.parametrize("width", [0.7, 1.0, 1.4])
def test_widening_finds_a_planted_width(width):
    samples, truth = posterior(width)
    np.testing.assert_allclose(widening(misses(samples, truth), np.arange(N)), 1 / width, rtol=0.05)


def test_widening_finds_a_slope_and_forgets_one_that_is_noise():
    samples, truth = posterior()
    width_of_radius = np.linspace(0.8, 1.2, K)
    samples = truth.mean() + (samples - truth.mean()) * 1.0
    deviations = samples - np.median(samples, axis=0)
    factors = widening(misses(np.median(samples, axis=0) + deviations / width_of_radius, truth), np.arange(N))
    np.testing.assert_allclose(factors, width_of_radius, rtol=0.06)
    few_misses = misses(samples, truth)[:40]
    assert (
        np.ptp(widening(few_misses, np.arange(40)))
        < 0.5
        * np.ptp(
            np.polyval(
                np.polyfit(
                    np.arange(K),
                    np.mean([np.quantile(few_misses[..., i], q, axis=0) for i, q in enumerate(LEVELS)], axis=0),
                    1,
                ),
                np.arange(K),
            )
        )
        + 0.02
    )


def test_of_a_single_history_no_slope_is_believed():
    samples, truth = posterior()
    few_misses = misses(samples, truth)[:8]
    assert np.ptp(widening(few_misses, np.zeros(8))) == 0 < np.ptp(widening(few_misses, np.arange(8) // 4))


def test_weights_count_views_as_often_as_they_say():
    values = np.random.default_rng(2).normal(size=(60, 3, 2))
    for share in (0.1, 0.5, 0.9545):
        np.testing.assert_allclose(
            weighted_quantile(values, share, np.full(60, 1 / 7)), np.quantile(values, share, axis=0)
        )
    weight = np.repeat([1, 50], [50, 10])
    often = np.quantile(values.repeat(weight, axis=0), 0.6827, axis=0)
    np.testing.assert_allclose(weighted_quantile(values, 0.6827, weight), often, atol=0.15)
    assert np.abs(np.quantile(values, 0.6827, axis=0) - often).max() > 0.3


def test_stretched_scales_widen_profiles_as_told():
    """The standard deviation of every y_k of Gaussian profiles y = J L z is multiplied by its factor, for any J."""
    rng = np.random.default_rng(0)
    response = torch.from_numpy(rng.standard_normal((K, K)))
    scale = torch.linalg.cholesky(torch.from_numpy(np.cov(rng.standard_normal((K, 50)))))
    factors = np.array([0.7, 1.0, 1.3, 2.0])
    stretched_scale = stretched(scale, response, factors)
    assert torch.equal(stretched_scale, stretched_scale.tril())
    width_before, width_after = (torch.linalg.norm(response @ s, dim=1) for s in (scale, stretched_scale))
    np.testing.assert_allclose(width_after / width_before, factors, rtol=1e-9)


def test_latent_scale_finds_a_planted_covariance():
    generator = torch.Generator().manual_seed(0)
    planted = torch.linalg.cholesky(torch.tensor([[1.4, 0.3], [0.3, 0.7]]))
    latent = torch.randn(100_000, 1, 2, generator=generator) @ planted.T
    scale = latent_scale(latent, torch.zeros(100_000, 1), 25_000)
    torch.testing.assert_close(scale, planted, atol=0.02, rtol=0)
    isotropic_scale = latent_scale(latent, torch.zeros(100_000, 1), 0)
    torch.testing.assert_close(isotropic_scale, isotropic_scale[0, 0] * torch.eye(2))
