"""A trained run as a function: it takes maps and gives posteriors of mass profiles. For `eval` and for notebooks.

posterior = train.load("runs/both")(maps, half_mass_radius_kpc)
posterior.quantiles([0.16, 0.5, 0.84])  # (3, N, K) log10 M(<r) [Msun]
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinmass.gen.instruments.model import Instrument
from kinmass.gen.instruments.observe import CHANNELS, CHANNELS_TOLD, with_told
from kinmass.gen.physics.sightline import view_rng
from kinmass.train.allotted import share_cores
from kinmass.train.data.dataset import Views
from kinmass.train.model.network import MassModel
from kinmass.train.model.scaling import SPEEDS_KMS, at_mass_limits, has_motion, only, tracers_of
from kinmass.train.run.checkpoint import RunError, instrument_of, load_members, read_config
from kinmass.train.run.derived import CALIBRATION, OOD, REMEDY, UNSEEN, read_scales, read_training_features
from kinmass.train.run.ensemble import Members
from kinmass.train.run.intervals import quantiles
from kinmass.train.run.out_of_distribution import HOW_SEEN, SeenViews, TrainingFeatures, how_seen
from kinmass.train.run.records import RunRecord

# N views, K radii, S samples, F features, M members
#: Views that go through a network at once.
VIEWS_PER_BLOCK = 256
#: Samples that are drawn at once on a CPU and on a GPU: few enough for a CPU's caches, enough to fill a GPU.
SAMPLES_PER_DRAW = (4_096, 262_144)


class Posterior:
    """Posterior of log10 M(<r) [Msun] of N views at K radii; the members of an ensemble have equal weights.

    radii_re (K,) are in units of each view's R_e; half_mass_radius_kpc (N,); features (N, F) per member. The random
    numbers of a view depend on its name in `names` alone, so that samples do not depend on which views share a call.
    is_answered (N,) is False for views from which no mass follows: samples and all that is made of them are NaN.

    >>> from kinmass.train.data.dataset import read_views
    >>> views = read_views(Path("maps.zarr"), "quiet")
    >>> posterior = load("runs/both")(views)
    >>> posterior.samples(100).shape  # draws, views, radii
    (100, 24, 10)
    >>> low, median, high = posterior.quantiles([0.16, 0.5, 0.84])
    >>> bool((low <= high).all()), posterior.log_prob(views.log10_menc).shape
    (True, (24,))
    """

    def __init__(
        self,
        models: list[MassModel],
        features: list[torch.Tensor],
        log10_unit: torch.Tensor,
        half_mass_radius_kpc: torch.Tensor,
        names: list[tuple[str, int]],
        scales: list[torch.Tensor] | None = None,
        training_features: TrainingFeatures | None = None,
        is_answered: np.ndarray | None = None,
        how_seen: torch.Tensor | None = None,
    ):
        self._given_scales = scales
        self.is_answered = np.ones(len(names), dtype=bool) if is_answered is None else is_answered
        self._scales: Sequence[torch.Tensor | None] = scales or [None] * len(models)
        self._models, self.features, self._log10_unit, self._names = models, features, log10_unit[:, None], names
        self._how_seen = torch.zeros(len(names), 0) if how_seen is None else how_seen
        self._training_features = training_features
        self.radii_re = np.array(models[0].config.radii_re)
        self.half_mass_radius_kpc = half_mass_radius_kpc.numpy()
        self._samples_by_count: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._names)

    @staticmethod
    def joined(parts: Sequence["Posterior"]) -> "Posterior":
        """Return the posterior of all views of several posteriors by the same networks, with the first one's scales."""
        first = parts[0]
        return Posterior(
            first._models,
            [torch.cat(features) for features in zip(*(part.features for part in parts), strict=True)],
            torch.cat([part._log10_unit[:, 0] for part in parts]),
            torch.cat([torch.from_numpy(part.half_mass_radius_kpc) for part in parts]),
            [name for part in parts for name in part._names],
            first._given_scales,
            first._training_features,
            np.concatenate([part.is_answered for part in parts]),
            torch.cat([part._how_seen for part in parts]),
        )

    def with_scales(self, scales: list[torch.Tensor] | None) -> "Posterior":
        """Return the posterior with other scales (K, K) of the members' latent numbers; None for those of a network."""
        r_e = torch.from_numpy(self.half_mass_radius_kpc)
        return Posterior(
            self._models, self.features, self._log10_unit[:, 0], r_e, self._names, scales, self._training_features,
            self.is_answered, self._how_seen,
        )  # fmt: skip

    def _standard_normal(self, n_samples: int, rows: slice) -> torch.Tensor:
        n_numbers = len(self.radii_re) + 1
        normals = [
            view_rng(2_000_003, name, view).standard_normal((n_samples, n_numbers), np.float32)
            for name, view in self._names[rows]
        ]
        return torch.from_numpy(np.stack(normals, axis=1))

    def _or_nan(self, values: np.ndarray) -> np.ndarray:
        """Return values (N,) of views that are answered, NaN for the others."""
        return np.where(self.is_answered, values, np.nan)

    def _members(self) -> list[tuple[MassModel, torch.Tensor, torch.Tensor | None]]:
        return list(zip(self._models, self.features, self._scales, strict=True))

    @torch.no_grad()
    def latent(self, log10_menc: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return, per member, `density.latent` of profiles (N, K) of log10 M(<r) [Msun], without any calibration."""
        profile = log10_menc.to(self._log10_unit.device) - self._log10_unit
        return [model.density.latent(features, profile) for model, features, _ in self._members()]

    def samples(self, n: int = 1000) -> np.ndarray:
        """Return n profiles (S, N, K) drawn from the posterior; each rises with radius.

        They are clipped to masses that a galaxy can have (`scaling.mass_limits`); `beyond` says how many were clipped.
        Raises ValueError for none.
        """
        return self._kept_samples(n).copy()  # Whoever changes them does not change what is made of them here.

    @torch.no_grad()
    def _kept_samples(self, n: int) -> np.ndarray:
        """Return `samples`, of which the latest ones are kept."""
        if n < 1:
            raise ValueError(f"{n} samples of a posterior; ask for one or more")
        if n not in self._samples_by_count:
            profiles = np.empty((n, len(self), len(self.radii_re)), np.float32)
            rows_at_once = max(1, SAMPLES_PER_DRAW[self._log10_unit.device.type == "cuda"] // n)
            for start in range(0, len(self), rows_at_once):
                rows = slice(start, start + rows_at_once)
                normal = self._standard_normal(n, rows).to(self._log10_unit.device)
                log10_unit, r_e = (
                    self._log10_unit[rows, 0],
                    torch.from_numpy(self.half_mass_radius_kpc[rows]).to(normal.device),
                )
                for member, (model, features, scale) in enumerate(self._members()):
                    member_samples = slice(member, None, len(self._models))
                    profiles[member_samples, rows] = model.profiles(
                        features[rows], log10_unit, r_e, normal[member_samples], scale
                    ).cpu()
            profiles[:, ~self.is_answered] = np.nan
            self._samples_by_count = {n: profiles}
        return self._samples_by_count[n]

    def member_medians(self, n: int = 1000) -> np.ndarray:
        """Return the medians (M, N, K) of each member's own posterior, from its share of n samples."""
        members = len(self._models)
        return np.stack([np.median(self._kept_samples(n)[member::members], axis=0) for member in range(members)])

    def beyond(self, n: int = 1000) -> np.ndarray:
        """Return the share (N,) of n samples that were clipped at any radius to masses that a galaxy can have.

        It is near 0 for a network that is well trained.
        """
        log10_radius = np.log10(np.outer(self.half_mass_radius_kpc, self.radii_re))
        return self._or_nan(at_mass_limits(self._kept_samples(n), log10_radius).mean(0))

    def quantiles(self, q: float | Sequence[float] | np.ndarray, n: int = 1000) -> np.ndarray:
        """Return the quantiles q (Q,) per radius as (Q, N, K), or (N, K) for a single q, from n samples."""
        return quantiles(self._kept_samples(n), q)

    def mean(self, n: int = 1000) -> np.ndarray:
        """Return means (N, K) of log10 M(<r), from n samples."""
        return np.asarray(self._kept_samples(n).mean(0, dtype=float))

    def covariance(self, n: int = 1000) -> np.ndarray:
        """Return covariances (N, K, K) between radii [dex^2], from n samples."""
        deviation = self._kept_samples(n) - self.mean(n)
        return np.asarray(np.einsum("snk,snl->nkl", deviation, deviation) / (n - 1))

    @torch.no_grad()
    def log_prob(self, log10_menc: np.ndarray | torch.Tensor) -> np.ndarray:
        """Return the exact log (N,) of the joint density per dex^K at profiles (N, K) of log10 M(<r) [Msun].

        Slopes beyond those of a posterior, 0 to 3, as of profiles that fall, count as the nearest that it has.
        Raises ValueError for profiles of another shape.
        """
        profile = self._checked_profiles(log10_menc).to(self._log10_unit.device) - self._log10_unit
        log_probs = [model.density.log_prob(features, profile, scale) for model, features, scale in self._members()]
        return self._or_nan(torch.logsumexp(torch.stack(log_probs), 0).cpu().numpy() - math.log(len(log_probs)))

    def _checked_profiles(self, log10_menc: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return profiles (N, K). Raises ValueError unless there is one of each view: one for all would be of each."""
        profiles = _plain(log10_menc, "profiles", "log10 M(<r) [Msun], NaN where there is none")
        if tuple(profiles.shape) != (len(self), len(self.radii_re)):
            raise ValueError(
                f"profiles {tuple(profiles.shape)} for {len(self)} views at {len(self.radii_re)} radii; give log10 "
                "M(<r) [Msun] of each"
            )
        return profiles

    def seen_and_answered(self) -> SeenViews:
        """Return features, and how views were seen, of those views that are answered."""
        is_answered = torch.from_numpy(self.is_answered)
        return SeenViews([features[is_answered] for features in self.features], self._how_seen[is_answered])

    def ood_score(self) -> np.ndarray:
        """Return the share (N,) of validation views that are more like the training views than each view here is.

        Uniform between 0 and 1 for galaxies of the training suites; near 1 the posterior is not to be trusted. NaN
        where the run has too few validation views for it. See `train.run.out_of_distribution`.
        """
        if self._training_features is None:
            return np.full(len(self), np.nan)
        seen = SeenViews(self.features, self._how_seen)
        return self._or_nan(self._training_features.ood_score(seen).numpy())

    def log_prob_per_radius(self, log10_menc: np.ndarray | torch.Tensor, n: int = 1000) -> np.ndarray:
        """Return the log (N, K) of the marginal density per dex at each radius of profiles (N, K).

        Estimated from n samples by a Gaussian kernel of Scott's width (Scott 1992, eq. 6.44), good to some
        hundredths within the samples' range; outside of it the value is that of the kernel's tail. Raises ValueError
        for profiles of another shape.
        """
        profiles = self._checked_profiles(log10_menc).cpu().double().numpy()
        return kernel_log_prob(np.moveaxis(self._kept_samples(n), 0, -1) - profiles[..., None])


def _plain(given: Any, what: str, how: str) -> torch.Tensor:
    """Return numbers as a tensor in single precision. Raises ValueError for masks and units, which torch drops."""
    if np.ma.is_masked(given) or getattr(given, "unit", None) is not None:
        raise ValueError(f"{what} must be plain numbers, neither masked nor with a unit: {how}")
    # torch cannot read a table of pandas.
    return torch.as_tensor(given if isinstance(given, torch.Tensor) else np.array(given, np.float32)).float()


def beyond_limits_message(share: float) -> str:
    """Return the message for users that a share (above 0) of the samples was clipped to masses a galaxy can have."""
    low, high = SPEEDS_KMS
    return (
        f"{100 * share:.3g} % of the samples were masses that no galaxy has, held at circular speeds of {low:g} or "
        f"{high:,.0f} km/s: the network is hardly trained, or knows nothing like these maps"
    )


def kernel_log_prob(offset: np.ndarray) -> np.ndarray:
    """Return the log density (...) per dex at a point from samples' offsets (..., S) [dex] from that point.

    By a Gaussian kernel of Scott's width (Scott 1992, eq. 6.44).
    """
    n = offset.shape[-1]
    variance = np.einsum("...s,...s->...", offset, offset) / n - offset.mean(-1) ** 2
    width = np.maximum(np.sqrt(np.maximum(variance, 0)) * n**-0.2, 1e-6)
    squares = offset * (math.sqrt(0.5) / width)[..., None]
    squares *= squares  # in place from here on: new memory would take as long as the exponentials
    nearest = squares.min(-1)
    np.subtract(nearest[..., None], squares, out=squares)
    total = np.exp(squares, out=squares).sum(-1)
    return np.asarray(np.log(total) - nearest - np.log(n * width * math.sqrt(2 * math.pi)))


class Inference:
    """A finished run, ready to infer. `run` is the content of its run.json, `instrument` that of its training views.

    Networks are on the GPU where there is one. Posteriors have the widths that calibration found, or (calibrated
    False) those that the networks give. Raises RunError for a run that is unfinished, damaged or not calibrated.
    """

    def __init__(self, path: Path, calibrated: bool = True):
        share_cores()
        self.path = path
        self.run: RunRecord = read_config(path)
        self.instrument: Instrument = instrument_of(path)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.models = [model.to(self.device) for model in load_members(path)]
        self._members = Members(self.models)
        self.scales: dict[str, list[torch.Tensor]] = {}
        if calibrated:
            self.scales = self._read_scales(CALIBRATION)
            if missing := ", ".join(tracer for tracer in self.answers() if tracer not in self.scales):
                raise RunError(f"{path} is not calibrated for {missing}; {REMEDY}")
        self.training_features: dict[str, TrainingFeatures] = read_training_features(path) if calibrated else {}
        n_features = self.models[0].config.n_features
        if not all(
            features.is_of(len(self.models), n_features, HOW_SEEN * len(tracers_of(tracer)) if self.told else 0)
            for tracer, features in self.training_features.items()
        ):
            raise RunError(f"{path / OOD} is damaged; remove it and {REMEDY}")
        self.unseen: dict[str, list[torch.Tensor]] = {}
        if calibrated and (path / UNSEEN).exists():
            self.unseen = self._read_scales(UNSEEN)

    def _read_scales(self, name: str) -> dict[str, list[torch.Tensor]]:
        """Return the scales in a file of the run. Raises RunError also where they are not those of its networks."""
        scales, n_radii = read_scales(self.path, name), len(self.models[0].config.radii_re)
        for of_members in scales.values():
            is_triangular = all(
                scale.shape == (n_radii, n_radii)
                and scale.isfinite().all()
                and torch.equal(scale, scale.tril())
                and (scale.diagonal() > 0).all()
                for scale in of_members
            )
            if len(of_members) != len(self.models) or not is_triangular:
                raise RunError(f"{self.path / name} is damaged; remove it and {REMEDY}")
        return {tracer: [scale.to(self.device) for scale in of_members] for tracer, of_members in scales.items()}

    @property
    def tracer(self) -> str:
        """The tracer that the run was trained on: gas, stars, both, or any, which infers from each of these."""
        return str(self.run["fit"]["tracer"])

    @property
    def told(self) -> bool:
        """Whether the networks see how a view was taken (`gen.instruments.observe.TOLD`)."""
        return self.models[0].config.told

    def answers(self) -> list[str]:
        """Return the tracers that the run can infer from."""
        return ["gas", "stars", "both"] if self.tracer == "any" else [self.tracer]

    def foreign(self, suites: np.ndarray) -> bool:
        """Whether the run was trained on none of the suites (N,).

        Raises ValueError where it was trained on some of them only, and has posteriors of its own for the others.
        """
        is_known = np.isin(suites, self.run["fit"]["suites"])
        if self.unseen and is_known.any() and not is_known.all():
            raise ValueError(
                f"{self.path} is asked for suites that it was trained on and for others in one call; call it once "
                "for each kind"
            )
        return bool(len(is_known)) and not is_known.any()

    def __call__(
        self,
        maps: Views | torch.Tensor | np.ndarray,
        half_mass_radius_kpc: torch.Tensor | np.ndarray | None = None,
        tracer: str | None = None,
        names: list[tuple[str, int]] | None = None,
        unseen: bool | None = None,
    ) -> Posterior:
        """Return the posteriors of all views: NaN for a view without any valid pixel, motion, R_e or finite maps.

        maps: Views of a store, which are observed through the run's instrument with each view's own noise; or observed
        maps (N, 8, Q, Q): density [Msun/kpc^2], V [km/s], sigma [km/s] and the mask of valid pixels (1, else 0), of
        stars and then of gas; what stands in other pixels does not count; a network that is told how a view was taken
        takes (N, 18, Q, Q), with the channels of `gen.instruments.observe.TOLD`, and of eight alone knows neither
        errors nor PSF. Observed maps need half_mass_radius_kpc (N,), and take names (galaxy, view), on which a view's
        random numbers depend. tracer: the one to use, for a run trained on `any`. unseen: True for galaxies of a suite
        that the run was not trained on,
        or of no suite: their posteriors have the widths that
        `--leave-one-suite-out` found, where the run has these; for Views it is known. Raises ValueError for maps of
        another size than the run's, maps whose masks are no masks, and a tracer that it cannot use.
        """
        tracer = tracer or self.answers()[-1]
        if tracer not in self.answers():
            raise ValueError(
                f"{self.path} was trained on {self.tracer} and cannot infer from {tracer}; take "
                f"tracer={self.answers()[-1]!r}, or "
                f"a run that was trained on {tracer} or any"
            )
        if isinstance(maps, Views):
            if names is not None or half_mass_radius_kpc is not None:
                raise ValueError(
                    "Views of a store have names and half-mass radii of their own; to infer with others give "
                    "views.observed(infer.instrument, told=infer.told) in their place"
                )
            self.check_size(maps)
            names, half_mass_radius_kpc = maps.names(), maps.half_mass_radius_kpc
            unseen = self.foreign(maps.suite) if unseen is None else unseen
            maps = maps.observed(self.instrument, told=self.told)
        if half_mass_radius_kpc is None:
            raise ValueError("observed maps need half_mass_radius_kpc, the projected stellar R_e of each view")
        how = "Msun/kpc^2, km/s and kpc, and 0 in the channel of the mask where nothing is valid"
        r_e = _plain(half_mass_radius_kpc, "half_mass_radius_kpc", how).reshape(-1)
        maps = _plain(maps, "maps", how)
        names = [("", i) for i in range(len(maps))] if names is None else names
        observed = self._for_networks(maps, len(r_e), len(names))
        observed = observed if tracer == "both" else only(observed, tracer)
        is_answered = has_motion(observed, tracers_of(self.tracer)) & torch.isfinite(observed).all(-1).all(-1).all(-1)
        is_answered &= (r_e > 0) & torch.isfinite(r_e)
        r_e = torch.where(r_e > 0, r_e, torch.nan)
        observed = torch.where(is_answered[:, None, None, None], observed, 0.0)
        features, log10_unit = self._features(observed, torch.where(is_answered, r_e, 1.0))
        return Posterior(
            self.models, features, log10_unit, r_e, names,
            (unseen and self.unseen.get(tracer)) or self.scales.get(tracer), self.training_features.get(tracer),
            is_answered.numpy(), how_seen(observed, tracers_of(tracer)),
        )  # fmt: skip

    def check_size(self, views: Views) -> None:
        """Raise ValueError for views that have another size through the run's instrument than those trained on."""
        config = self.models[0].config
        seen = self.instrument.grid(views.maps.shape[-1], views.field_of_view_re)
        if seen != (config.pixels, config.field_of_view_re):
            raise ValueError(
                f"{self.path} was trained on maps of {config.pixels} pixels over {config.field_of_view_re:.6g} R_e, "
                f"these have {seen[0]} over {seen[1]:.6g} R_e through its instrument; map them with the same settings"
            )

    def _for_networks(self, observed: torch.Tensor, n_radii: int, n_names: int) -> torch.Tensor:
        """Return observed maps with the channels that the networks take, zero where a pixel is not valid.

        Raises ValueError for maps of another size than theirs, for what is no mask, density or dispersion, and where
        there is no radius and name for each.
        """
        shape, pixels = tuple(observed.shape), self.models[0].config.pixels
        if observed.ndim == 4 and shape[1] in (CHANNELS, CHANNELS_TOLD):
            observed = with_told(observed) if self.told else observed[:, :CHANNELS]
        channels = CHANNELS_TOLD if self.told else CHANNELS
        if observed.ndim != 4 or observed.shape[1:] != (channels, pixels, pixels) or n_radii != len(observed):
            raise ValueError(
                f"{self.path} takes maps (N, 8, {pixels}, {pixels}) and N half-mass radii, not {shape} and "
                f"{n_radii}; observe views through the run's own instrument, and give a radius for each"
            )
        if n_names != len(observed):
            raise ValueError(f"{n_names} names for {len(observed)} views; give a name (galaxy, view) for each")
        parts, told = [], []
        for t, tracer in enumerate(("stars", "gas")):
            channel = 4 * t
            maps, mask = observed[:, channel : channel + 3], observed[:, channel + 3 : channel + 4]
            if bool(((mask != 0) & (mask != 1) & ~mask.isnan()).any()):
                raise ValueError(
                    f"channel {channel + 3} is the mask of the {tracer}, 1 where a pixel is valid and 0 elsewhere, and "
                    f"is {float(mask[(mask != 0) & (mask != 1)][0]):.6g} in a pixel; a store's own maps have counts "
                    "there: give its Views (train.data.dataset.read_views)"
                )
            maps = torch.where(mask == 0, 0.0, maps)
            if bool((maps[:, ::2] < 0).any()):
                raise ValueError(f"the density or dispersion of the {tracer} is negative in a valid pixel; mask it")
            parts += [maps, mask]
            # Networks were trained with zeros there; whoever tells one PSF tells it of all pixels.
            told.append(torch.where(mask == 0, 0.0, observed[:, CHANNELS:].unflatten(1, (2, -1))[:, t]))
        return torch.cat([*parts, *told], dim=1)

    def _features(self, observed: torch.Tensor, r_e: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return each member's features (N, F) and log10 (N,) of the mass unit, of all views, block by block."""
        blocks = [
            self._members.features(observed_block.to(self.device), r_e_block.to(self.device))
            for observed_block, r_e_block in zip(
                observed.split(VIEWS_PER_BLOCK), r_e.split(VIEWS_PER_BLOCK), strict=True
            )
        ]
        features = [torch.cat(of_blocks) for of_blocks in zip(*(features for features, _ in blocks), strict=True)]
        return features, torch.cat([block_unit for _, block_unit in blocks])


def load(run: Path | str) -> Inference:
    """Load the trained run in a folder, a single network or an ensemble. Nothing in the folder is executed.

    Raises RunError for a run that is unfinished, damaged, not calibrated or of another schema.

    >>> infer = load("runs/gas")
    >>> infer.tracer, infer.instrument.name
    ('gas', 'ifu')
    """
    return Inference(Path(run))
