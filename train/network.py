"""The network: one encoder per tracer, their features joined, a posterior on top."""

from dataclasses import asdict, dataclass

import torch
from torch import nn

from train.posterior import ProfilePosterior
from train.scaling import scale_free, tracers_of

# N views, P pixels along a side, K radii, S samples


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the network; saved beside its weights."""

    tracer: str
    radii_re: tuple[float, ...]
    pixels: int
    field_of_view_re: float
    head: str = "flow"
    width: int = 24
    n_features: int = 96

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self) | {"radii_re": list(self.radii_re)}


class Encoder(nn.Module):
    """(N, 4, P, P) dimensionless maps to (N, F) features: convolutions, halving the map three times.

    Group normalisation: its statistics are each view's own, the same on one process or many.
    """

    def __init__(self, width: int, n_features: int):
        super().__init__()

        def stage(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
            return [conv, nn.GroupNorm(4, c_out), nn.SiLU(inplace=True)]

        self.layers = nn.Sequential(
            *stage(4, width, 2),
            *stage(width, width, 1),
            *stage(width, 2 * width, 2),
            *stage(2 * width, 2 * width, 1),
            *stage(2 * width, 3 * width, 2),
            *stage(3 * width, 3 * width, 1),
        )
        self.out = nn.Linear(6 * width, n_features)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pooled over the sky by mean and by maximum, so that where a feature lies hardly matters."""
        x = self.layers(maps)
        return self.out(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))


class MassModel(nn.Module):
    """Posterior of log10 M(<x R_e) [Msun] at the configured radii x, from observed maps."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tracers = tracers_of(config.tracer)
        self.encoders = nn.ModuleDict({t: Encoder(config.width, config.n_features) for t in self.tracers})
        joined = config.n_features * len(self.tracers)
        self.join = nn.Sequential(nn.SiLU(), nn.Linear(joined, config.n_features), nn.SiLU())
        self.posterior = ProfilePosterior(config.n_features, len(config.radii_re), config.head)

    def features(self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, F) features of observed maps (N, 8, P, P), and (N,) log10 of the mass unit [Msun]."""
        inputs, log10_unit = scale_free(observed, half_mass_radius_kpc, self.tracers)
        encoded = [self.encoders[t](inputs[t]) for t in self.tracers]
        return self.join(torch.cat(encoded, dim=1)), log10_unit

    def forward(
        self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor, log10_menc: torch.Tensor
    ) -> torch.Tensor:
        """(N,) log posterior density per dex^K of the profiles log10_menc (N, K) [Msun]."""
        features, unit = self.features(observed, half_mass_radius_kpc)
        return self.posterior.log_prob(features, log10_menc - unit[:, None])

    @torch.no_grad()
    def sample(self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor, n: int) -> torch.Tensor:
        """(S, N, K) posterior samples of log10 M(<x R_e) [Msun]; each rises with radius."""
        features, unit = self.features(observed, half_mass_radius_kpc)
        return self.posterior.sample(features, n) + unit[:, None]
