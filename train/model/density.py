"""A conditional probability density over mass profiles that gravity allows."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from kinmass.train.model.spline import SplineFlow

# N views, F features, K radii, S samples
HEADS = ("flow", "mixture", "gaussian")
#: The largest slope of log M against log r: that of a constant density. Where density does not rise outwards, as in
#: all galaxies, slopes are smaller; where it is not negative, they are above zero.
MAX_SLOPE = 3.0
#: Slopes nearer than this to either limit are set to it, as those of a few particles can be beyond.
_MIN_SLOPE = 1e-3


def max_steps(radii_re: Sequence[float]) -> torch.Tensor:
    """Return the largest rise (K - 1,) of log10 M [dex] between neighbouring radii (K,), in double precision."""
    return MAX_SLOPE * torch.diff(torch.tensor(radii_re, dtype=torch.float64).log10())


def unconstrained(profile: torch.Tensor, max_step: torch.Tensor) -> torch.Tensor:
    """Return a log10 profile (..., K) as K numbers that may be any: its first value, and the logits of its slopes.

    The logit is that of slope / MAX_SLOPE; max_step (K - 1,) is of `max_steps`.
    """
    share = (torch.diff(profile, dim=-1) / max_step).clamp(_MIN_SLOPE / MAX_SLOPE, 1 - _MIN_SLOPE / MAX_SLOPE)
    return torch.cat([profile[..., :1], torch.logit(share)], dim=-1)


def constrained(free: torch.Tensor, max_step: torch.Tensor) -> torch.Tensor:
    """Return the profile (..., K) of such numbers, the inverse of `unconstrained`, with slopes from 0 to MAX_SLOPE."""
    return torch.cumsum(torch.cat([free[..., :1], max_step * torch.sigmoid(free[..., 1:])], dim=-1), dim=-1)


def log_derivative(free: torch.Tensor, max_step: torch.Tensor) -> torch.Tensor:
    """Return log |d free / d profile| (...) of unconstrained numbers (..., K).

    Added to the log density of these numbers it gives that of their profiles.
    The derivative of the logit of s / m is 1 / (s (1 - s / m)) = 1 / (m sigmoid(x) sigmoid(-x)) where x is the logit.
    """
    logit = free[..., 1:]
    return -(functional.logsigmoid(logit) + functional.logsigmoid(-logit) + torch.log(max_step)).sum(-1)


def latent_log_prob(latent: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
    """Return the log density (N,) of profiles from `ProfileDensity.latent`: numbers (N, C, K), log weights (N, C).

    scale (K, K), lower triangular: that of the latent numbers, where they are not standard normal.
    """
    if scale is not None:
        latent = torch.linalg.solve_triangular(scale, latent.flatten(0, 1).T, upper=False).T.reshape(latent.shape)
        weight = weight - torch.log(torch.diagonal(scale)).sum()
    log_normal = -0.5 * (latent**2).sum(-1) - 0.5 * latent.shape[-1] * math.log(2 * math.pi)
    return torch.logsumexp(weight + log_normal, dim=-1)


class _Gaussian(nn.Module):
    """Means and inverse Cholesky factors of a mixture of C Gaussians (by default one), as a function of the features.

    The last layer starts near zero, so that every view begins with the unit Gaussian of the whitened training set.
    """

    below_diagonal: torch.Tensor

    def __init__(self, n_features: int, n_numbers: int, components: int = 1):
        super().__init__()
        self.n_numbers, self.components = n_numbers, components
        self.n_below = n_numbers * (n_numbers - 1) // 2
        outputs = components * (2 * n_numbers + self.n_below + 1)
        last_layer = nn.Linear(96, outputs)
        nn.init.normal_(last_layer.weight, std=1e-2)
        nn.init.zeros_(last_layer.bias)
        self.network = nn.Sequential(nn.Linear(n_features, 96), nn.SiLU(), last_layer)
        rows, columns = torch.tril_indices(n_numbers, n_numbers, offset=-1)
        self.register_buffer("below_diagonal", rows * n_numbers + columns, persistent=False)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return log weights (N, C), means (N, C, K), inverse Cholesky factors (N, C, K, K), log dets (N, C)."""
        out = self.network(features).unflatten(-1, (self.components, -1))
        weight, mean, log_diagonal, below_values = out.split((1, self.n_numbers, self.n_numbers, self.n_below), dim=-1)
        log_diagonal = log_diagonal.clamp(-5, 7)
        factor = torch.diag_embed(log_diagonal.exp()).flatten(-2)
        factor = factor.index_add(-1, self.below_diagonal, below_values).unflatten(-1, (self.n_numbers, self.n_numbers))
        return torch.log_softmax(weight[..., 0], -1), mean, factor, log_diagonal.sum(-1)


class ProfileDensity(nn.Module):
    """The density p(profile | features), over whitened and unconstrained profiles. Raises ValueError for other heads.

    Profiles (..., K) are log10 masses in the view's own unit at radii (K,) in units of its R_e, with slopes from 0 to
    MAX_SLOPE. `fit_whitening` removes the training
    profiles' mean and covariance first: masses at neighbouring radii are almost equal, which no density learns well
    by itself. Heads: `gaussian`, with a full covariance that depends on the features; `flow`, that Gaussian
    transformed by a neural spline flow (Durkan et al. 2019, arXiv:1906.04032, from zuko); `mixture` of six Gaussians.
    """

    whitening: torch.Tensor
    centre: torch.Tensor
    max_step: torch.Tensor

    def __init__(self, n_features: int, radii_re: Sequence[float], head: str = "flow"):
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"unknown head {head!r}; there are {', '.join(HEADS)}")
        n_radii = len(radii_re)
        self.gaussian = _Gaussian(n_features, n_radii, 6 if head == "mixture" else 1)
        self.bend = (
            SplineFlow(n_radii, n_features, transforms=2, hidden_features=(64, 64), passes=2)
            if head == "flow"
            else None
        )
        self.register_buffer("max_step", max_steps(radii_re).float(), persistent=False)
        self.register_buffer("centre", torch.zeros(n_radii))
        self.register_buffer("whitening", torch.eye(n_radii))

    def fit_whitening(self, profiles: torch.Tensor) -> None:
        """Set the linear map that gives the training profiles (N, K) zero mean and unit covariance."""
        free = unconstrained(profiles.double(), self.max_step.double())
        covariance = torch.cov(free.T) + 1e-8 * torch.eye(free.shape[1], dtype=free.dtype)
        inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
        self.centre.copy_(free.mean(0))
        self.whitening.copy_(inverse)

    def latent(self, features: torch.Tensor, profile: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latent numbers z (N, C, K) of profiles (N, K) in each component, and log weights (N, C).

        The log weights include log |dz/dprofile|. Where the density is right, z are standard normal, with each
        component weighted by its share.
        """
        free = unconstrained(profile, self.max_step)
        whitened = (free - self.centre) @ self.whitening.T
        log_jacobian = torch.log(torch.diagonal(self.whitening)).sum() + log_derivative(free, self.max_step)
        weight, mean, factor, log_det = self.gaussian(features)
        numbers = (factor @ (whitened[..., None, :] - mean)[..., None])[..., 0]
        if self.bend is not None:
            flow_numbers, log_flow_jacobian = self.bend(features).transform.call_and_ladj(numbers[..., 0, :])
            numbers, log_jacobian = flow_numbers[..., None, :], log_jacobian + log_flow_jacobian
        return numbers, weight + log_det + log_jacobian[..., None]

    def log_prob(
        self, features: torch.Tensor, profile: torch.Tensor, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the log density (N,) per dex^K of profiles (N, K) given features (N, F).

        scale (K, K), lower triangular: that of the latent numbers, where they are not standard normal
        (`train.run.calibration`).
        """
        return latent_log_prob(*self.latent(features, profile), scale)

    def from_normal(
        self, features: torch.Tensor, normal: torch.Tensor, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the profiles (S, N, K) of standard normal numbers (S, N, K + 1), given features (N, F).

        The last number chooses the component; `scale` as in `log_prob`. A view's profiles depend on its own numbers
        alone.
        """
        weight, mean, factor, _ = self.gaussian(features)
        numbers, choice = normal[..., :-1], normal[..., -1:]
        if scale is not None:
            numbers = numbers @ scale.T
        if self.bend is not None:
            numbers = self.bend(features).transform.inv(numbers)
        component = (torch.special.ndtr(choice) > weight.exp().cumsum(-1)[..., :-1]).sum(-1)  # (S, N)
        rows = torch.arange(len(features), device=features.device)
        whitened = (
            mean[rows, component]
            + torch.linalg.solve_triangular(factor[rows, component], numbers[..., None], upper=False)[..., 0]
        )
        free = torch.linalg.solve_triangular(self.whitening, whitened.flatten(0, 1).T, upper=False).T
        return constrained(free.reshape(whitened.shape) + self.centre, self.max_step)

    def normal(self, features: torch.Tensor, n_samples: int) -> torch.Tensor:
        """Return standard normal numbers (S, N, K + 1) for `from_normal`, for S = n_samples."""
        return torch.randn(n_samples, len(features), len(self.centre) + 1, device=features.device, dtype=features.dtype)

    def sample(self, features: torch.Tensor, n_samples: int) -> torch.Tensor:
        """Return profiles (S, N, K) drawn given features (N, F), for S = n_samples."""
        return self.from_normal(features, self.normal(features, n_samples))
