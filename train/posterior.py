"""A conditional density over monotone mass profiles."""

import torch
import zuko
from torch import nn

# N views, F features, K radii, S samples
#: Smallest step between radii that is told apart [dex]; profiles rise by 0.05 to 0.5.
_MIN_STEP = 1e-4


def unconstrained(profile: torch.Tensor) -> torch.Tensor:
    """(..., K) rising log10 profile -> first value and logarithms of the steps, free to be anything."""
    steps = torch.diff(profile, dim=-1).clamp(min=_MIN_STEP)
    return torch.cat([profile[..., :1], torch.log(steps)], dim=-1)


def monotone(free: torch.Tensor) -> torch.Tensor:
    """Inverse of `unconstrained`: every result rises with radius."""
    return torch.cumsum(torch.cat([free[..., :1], torch.exp(free[..., 1:])], dim=-1), dim=-1)


class ProfilePosterior(nn.Module):
    """p(profile | features): a zuko flow or Gaussian mixture over whitened, unconstrained profiles.

    Profiles are (..., K) log10 masses in the view's own unit, rising with radius. `fit_whitening`
    takes the training profiles' mean and covariance out first: neighbouring radii are almost
    the same number, and no density copes with that unaided.
    """

    whitening: torch.Tensor
    centre: torch.Tensor

    def __init__(self, n_features: int, n_radii: int = 10, head: str = "flow"):
        super().__init__()
        if head == "flow":
            self.density = zuko.flows.NSF(n_radii, n_features, transforms=3, hidden_features=(96, 96), passes=2)
        elif head == "mixture":
            self.density = zuko.mixtures.GMM(n_radii, n_features, components=6, hidden_features=(96, 96))
        else:
            raise ValueError(f"unknown head {head!r}; there are flow, mixture")
        self.register_buffer("centre", torch.zeros(n_radii))
        self.register_buffer("whitening", torch.eye(n_radii))

    def fit_whitening(self, profiles: torch.Tensor) -> None:
        """Set the linear map that gives the training profiles (N, K) zero mean and unit covariance."""
        free = unconstrained(profiles.double())
        covariance = torch.cov(free.T) + 1e-8 * torch.eye(free.shape[1], dtype=free.dtype)
        inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
        self.centre.copy_(free.mean(0))
        self.whitening.copy_(inverse)

    def log_prob(self, features: torch.Tensor, profile: torch.Tensor) -> torch.Tensor:
        """(N,) log density per dex^K of profiles (N, K) given features (N, F)."""
        free = unconstrained(profile)
        white = (free - self.centre) @ self.whitening.T
        jacobian = torch.log(torch.diagonal(self.whitening)).sum() - free[..., 1:].sum(-1)
        return self.density(features).log_prob(white) + jacobian

    def sample(self, features: torch.Tensor, n: int) -> torch.Tensor:
        """(S, N, K) profiles drawn given features (N, F)."""
        white = self.density(features).sample((n,))
        free = torch.linalg.solve_triangular(self.whitening, white.flatten(0, 1).T, upper=False).T
        return monotone(free.reshape(white.shape) + self.centre)
