"""A conditional density over monotone mass profiles."""

import math

import torch
import zuko
from torch import nn

# N views, F features, K radii, S samples
HEADS = ("flow", "mixture", "gaussian")
#: Smallest step between radii that is told apart [dex]; profiles rise by 0.05 to 0.5.
_MIN_STEP = 1e-4


def unconstrained(profile: torch.Tensor) -> torch.Tensor:
    """(..., K) rising log10 profile -> first value and logarithms of the steps, free to be anything."""
    steps = torch.diff(profile, dim=-1).clamp(min=_MIN_STEP)
    return torch.cat([profile[..., :1], torch.log(steps)], dim=-1)


def monotone(free: torch.Tensor) -> torch.Tensor:
    """Inverse of `unconstrained`: every result rises with radius."""
    return torch.cumsum(torch.cat([free[..., :1], torch.exp(free[..., 1:])], dim=-1), dim=-1)


class _Gaussian(nn.Module):
    """Mean and inverse Cholesky factor of a Gaussian, or of C of them, as a function of the features.

    The last layer starts near zero: every view begins with the whitened training set's unit Gaussian.
    """

    at: torch.Tensor

    def __init__(self, n_features: int, n: int, components: int = 1):
        super().__init__()
        self.n, self.components = n, components
        self.below = n * (n - 1) // 2
        outputs = components * (2 * n + self.below + 1)
        last = nn.Linear(96, outputs)
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(n_features, 96), nn.SiLU(), last)
        rows, columns = torch.tril_indices(n, n, offset=-1)
        self.register_buffer("at", rows * n + columns, persistent=False)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log weights (N, C), means (N, C, K), inverse Cholesky factors (N, C, K, K), their log determinants (N, C)."""
        out = self.network(features).unflatten(-1, (self.components, -1))
        weight, mean, log_diagonal, below = out.split((1, self.n, self.n, self.below), dim=-1)
        log_diagonal = log_diagonal.clamp(-5, 7)
        factor = torch.diag_embed(log_diagonal.exp()).flatten(-2)
        factor = factor.index_add(-1, self.at, below).unflatten(-1, (self.n, self.n))
        return torch.log_softmax(weight[..., 0], -1), mean, factor, log_diagonal.sum(-1)


class ProfileDensity(nn.Module):
    """p(profile | features) over whitened, unconstrained profiles.

    Profiles are (..., K) log10 masses in the view's own unit, rising with radius. `fit_whitening`
    takes the training profiles' mean and covariance out first: neighbouring radii are almost
    the same number, and no density copes with that unaided. Heads: `gaussian` with a full covariance
    that follows the features; `flow`, that Gaussian bent by a neural spline flow (Durkan et al. 2019,
    arXiv:1906.04032, from zuko); `mixture` of six Gaussians.
    """

    whitening: torch.Tensor
    centre: torch.Tensor

    def __init__(self, n_features: int, n_radii: int = 10, head: str = "flow"):
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"unknown head {head!r}; there are {', '.join(HEADS)}")
        self.n_radii = n_radii
        self.gaussian = _Gaussian(n_features, n_radii, 6 if head == "mixture" else 1)
        self.bend = (
            zuko.flows.NSF(n_radii, n_features, transforms=2, hidden_features=(64, 64), passes=2)
            if head == "flow"
            else None
        )
        self.register_buffer("centre", torch.zeros(n_radii))
        self.register_buffer("whitening", torch.eye(n_radii))

    def fit_whitening(self, profiles: torch.Tensor) -> None:
        """Set the linear map that gives the training profiles (N, K) zero mean and unit covariance."""
        free = unconstrained(profiles.double())
        covariance = torch.cov(free.T) + 1e-8 * torch.eye(free.shape[1], dtype=free.dtype)
        inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
        self.centre.copy_(free.mean(0))
        self.whitening.copy_(inverse)

    def latent(self, features: torch.Tensor, profile: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers (N, C, K) that profiles (N, K) stand for in each component, and log weights with dz/dprofile (N, C).

        A density that is right makes them standard normal, each component's by its share.
        """
        free = unconstrained(profile)
        white = (free - self.centre) @ self.whitening.T
        jacobian = torch.log(torch.diagonal(self.whitening)).sum() - free[..., 1:].sum(-1)
        weight, mean, factor, log_det = self.gaussian(features)
        unit = (factor @ (white[..., None, :] - mean)[..., None])[..., 0]
        if self.bend is not None:
            straight, bent = self.bend(features).transform.call_and_ladj(unit[..., 0, :])
            unit, jacobian = straight[..., None, :], jacobian + bent
        return unit, weight + log_det + jacobian[..., None]

    def log_prob(
        self, features: torch.Tensor, profile: torch.Tensor, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(N,) log density per dex^K of profiles (N, K) given features (N, F).

        scale (K, K), lower triangular, is that of the latent numbers where they are not standard normal
        (`train.run.calibration`).
        """
        unit, weight = self.latent(features, profile)
        if scale is not None:
            unit = torch.linalg.solve_triangular(scale, unit.flatten(0, 1).T, upper=False).T.reshape(unit.shape)
            weight = weight - torch.log(torch.diagonal(scale)).sum()
        log_unit = -0.5 * (unit**2).sum(-1) - 0.5 * self.n_radii * math.log(2 * math.pi)
        return torch.logsumexp(weight + log_unit, dim=-1)

    def from_normal(
        self, features: torch.Tensor, normal: torch.Tensor, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(S, N, K) profiles that standard normal numbers (S, N, K + 1) stand for, given features (N, F).

        The last number chooses among components; `scale` as in `log_prob`. What is drawn follows the numbers
        alone, view by view.
        """
        weight, mean, factor, _ = self.gaussian(features)
        unit, choice = normal[..., :-1], normal[..., -1:]
        if scale is not None:
            unit = unit @ scale.T
        if self.bend is not None:
            unit = self.bend(features).transform.inv(unit)
        at = (torch.special.ndtr(choice) > weight.exp().cumsum(-1)[..., :-1]).sum(-1)  # (S, N)
        rows = torch.arange(len(features), device=features.device)
        white = mean[rows, at] + torch.linalg.solve_triangular(factor[rows, at], unit[..., None], upper=False)[..., 0]
        free = torch.linalg.solve_triangular(self.whitening, white.flatten(0, 1).T, upper=False).T
        return monotone(free.reshape(white.shape) + self.centre)

    def normal(self, features: torch.Tensor, n: int) -> torch.Tensor:
        """(S, N, K + 1) standard normal numbers for `from_normal`."""
        return torch.randn(n, len(features), self.n_radii + 1, device=features.device, dtype=features.dtype)

    def sample(self, features: torch.Tensor, n: int) -> torch.Tensor:
        """(S, N, K) profiles drawn given features (N, F)."""
        return self.from_normal(features, self.normal(features, n))
