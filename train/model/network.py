"""The network: one encoder per tracer, a layer that joins their features, and the density of the profile."""

from dataclasses import asdict, dataclass

import torch
from torch import nn

from kinmass.gen.instruments.looks import leaves_out
from kinmass.train.model.density import ProfileDensity
from kinmass.train.model.encoders import ENCODERS, RINGS, RingEncoder
from kinmass.train.model.join import JOINS, AttentionJoin, ConcatJoin, GatedJoin
from kinmass.train.model.scaling import Inputs, clip_to_mass_limits, flip_sky, raw, scale_free, tracers_of

# N views, P pixels along a side, K radii, S samples
INPUTS = ("scale_free", "relative", "raw")


@dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to build the network; saved beside its weights."""

    tracer: str
    radii_re: tuple[float, ...]
    pixels: int
    field_of_view_re: float
    head: str = "flow"
    encoder: str = "polar"
    norm: str = "group"
    inputs: str = "scale_free"
    width: int = 16
    n_features: int = 96
    join: str = "concat"
    told: bool = False  # whether it sees how a view was taken, beside what was seen

    def to_json(self) -> dict[str, object]:
        """Return the configuration as plain values for JSON."""
        return asdict(self) | {"radii_re": list(self.radii_re)}


class MassModel(nn.Module):
    """Posterior of log10 M(<x R_e) [Msun] at the configured radii x, from observed maps.

    Raises ValueError for an unknown tracer, encoder, norm, head, inputs or join, or some that do not go together.
    """

    log10_radii_re: torch.Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tracers = tracers_of(config.tracer)
        if config.encoder not in ENCODERS:
            raise ValueError(f"unknown encoder {config.encoder!r}; there are {', '.join(ENCODERS)}")
        if config.inputs not in INPUTS:
            raise ValueError(f"unknown inputs {config.inputs!r}; there are {', '.join(INPUTS)}")
        if config.join not in JOINS:
            raise ValueError(f"unknown join {config.join!r}; there are {', '.join(JOINS)}")
        attends = config.join == "attention"
        if attends and (config.encoder != "polar" or config.inputs == "raw"):
            raise ValueError(
                "--join attention works on rings of pixels; take --encoder polar with it, and no --inputs raw"
            )
        if config.told and config.inputs == "raw":
            raise ValueError(
                "--inputs raw does not go with a network that is told a view's errors in units of its velocity "
                "scale; take other --inputs, or --no-told"
            )
        sizes = config.width, config.n_features, config.norm, config.pixels, config.field_of_view_re
        encoder = RingEncoder if attends else ENCODERS[config.encoder]
        self.encoders = nn.ModuleDict({t: encoder(*sizes, config.told) for t in self.tracers})
        # What the maps themselves do not show: lengths.
        parts = [config.n_features] * len(self.tracers) + [1] * (config.inputs == "raw")
        self.join: nn.Module
        if attends:
            self.join = AttentionJoin(RINGS, 4 * config.width, len(self.tracers), config.n_features)
        else:
            self.join = (GatedJoin if config.join == "gated" else ConcatJoin)(parts, config.n_features)
        self.register_buffer("log10_radii_re", torch.tensor(config.radii_re).log10(), persistent=False)
        self.density = ProfileDensity(config.n_features, config.radii_re, config.head)

    def inputs(
        self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor
    ) -> tuple[dict[str, Inputs], torch.Tensor]:
        """Return the encoders' inputs, {tracer: (maps, numbers told)}, and log10 (N,) of the mass unit [Msun]."""
        if self.config.inputs == "raw":
            return raw(observed, self.tracers)
        return scale_free(observed, half_mass_radius_kpc, self.tracers, self.config.inputs == "relative")

    def features(self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (N, F) of observed maps (N, 8, P, P), and log10 (N,) of the mass unit [Msun]."""
        feature_sets, log10_unit = self.feature_sets(observed, half_mass_radius_kpc)
        return feature_sets[0], log10_unit

    def feature_sets(
        self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor, alone: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (C, N, F) of all tracers and, with `alone`, of each tracer by itself after them (C = 3).

        A tracer by itself has zeros in the place of what the other's encoder gives. The log10 of the mass unit (N,)
        [Msun] is the same for all.
        """
        inputs, log10_unit = self.inputs(observed, half_mass_radius_kpc)
        encoded = [self._encoded(t, *inputs[t]) for t in self.tracers]
        lengths = [torch.log10(half_mass_radius_kpc)[:, None]] if self.config.inputs == "raw" else []
        sets = [[*encoded, *lengths]]
        if alone and len(encoded) > 1:
            for kept in range(len(encoded)):
                sets.append([x if i == kept else torch.zeros_like(x) for i, x in enumerate(encoded)] + lengths)
        joined = self.join([torch.cat(parts) for parts in zip(*sets, strict=True)])
        return joined.unflatten(0, (len(sets), len(observed))), log10_unit

    def _encoded(self, tracer: str, maps: torch.Tensor, told: torch.Tensor | None) -> torch.Tensor:
        """Return an encoder's output (N, ...) for its inputs. Of many views that show nothing one stands for all."""
        encoder = self.encoders[tracer]
        if not leaves_out(maps.device) or self.config.norm == "batch":
            return encoder(maps, told)
        is_seen = maps[:, 3].amax((1, 2)) > 0
        rows = torch.nonzero(is_seen)[:, 0]
        if len(rows) > 7 * len(maps) // 8:
            return encoder(maps, told)
        padded = torch.cat([rows, torch.nonzero(~is_seen)[:1, 0]])
        place = torch.where(is_seen, is_seen.cumsum(0) - 1, len(rows))
        return encoder(maps[padded], None if told is None else told[padded])[place]

    def symmetric_features(
        self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `features` as the mean over mirror images of each view on the sky and along the line of sight.

        A posterior from them is the same for a view and its mirror images: training shows these at random, which a
        network learns in part only. Encoders that are not equal under quarter turns have those averaged too: of maps
        with a pixel in the middle, which lies at an angle of its own, that is every one.
        """
        turns_alike = self.config.encoder == "polar" and self.config.pixels % 2 == 0
        choices = range(0, 16, 4 if turns_alike else 1)
        images = [
            flip_sky(observed, torch.full((len(observed),), choice, device=observed.device)) for choice in choices
        ]
        features, log10_unit = zip(*(self.features(image, half_mass_radius_kpc) for image in images), strict=True)
        return torch.stack(features).mean(0), log10_unit[0]

    def forward(
        self,
        observed: torch.Tensor,
        half_mass_radius_kpc: torch.Tensor,
        log10_menc: torch.Tensor,
        alone: bool = False,
    ) -> torch.Tensor:
        """Return the log posterior density (C, N) per dex^K of the profiles log10_menc (N, K) [Msun].

        C is 1 or, with `alone`, 3: from all tracers, and from each by itself (`feature_sets`).
        """
        return self.log_probs(*self.feature_sets(observed, half_mass_radius_kpc, alone), log10_menc)

    def log_probs(self, features: torch.Tensor, log10_unit: torch.Tensor, log10_menc: torch.Tensor) -> torch.Tensor:
        """Return the log posterior density (C, N) per dex^K of profiles (N, K) [Msun] from `feature_sets`."""
        profiles = (log10_menc - log10_unit[:, None]).expand(len(features), -1, -1)
        return self.density.log_prob(features.flatten(0, 1), profiles.flatten(0, 1)).unflatten(0, features.shape[:2])

    def profiles(
        self,
        features: torch.Tensor,
        log10_unit: torch.Tensor,
        half_mass_radius_kpc: torch.Tensor,
        normal: torch.Tensor,
        scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return profiles (S, N, K) of log10 M(<x R_e) [Msun], each rising, from normal numbers (S, N, K + 1).

        By `density.from_normal`; features (N, F) and log10_unit (N,) are of `features`. They are clipped to masses
        that a galaxy can have (`scaling.mass_limits`), which a well trained network's samples do not reach.
        """
        log10_radius = torch.log10(half_mass_radius_kpc)[:, None] + self.log10_radii_re.to(log10_unit)
        return clip_to_mass_limits(
            self.density.from_normal(features, normal, scale) + log10_unit[:, None], log10_radius
        )

    @torch.no_grad()
    def sample(self, observed: torch.Tensor, half_mass_radius_kpc: torch.Tensor, n_samples: int) -> torch.Tensor:
        """Return posterior samples (S, N, K) of log10 M(<x R_e) [Msun]; each rises with radius."""
        features, log10_unit = self.features(observed, half_mass_radius_kpc)
        return self.profiles(features, log10_unit, half_mass_radius_kpc, self.density.normal(features, n_samples))
