"""A trained run as a function: maps in, posterior of the mass profile out. What `eval` and a notebook use alike.

posterior = train.load("runs/both")(maps, half_mass_radius_kpc)
posterior.quantiles([0.16, 0.5, 0.84])  # (3, N, K) log10 M(<r) [Msun]
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinmass.gen.instrument import Instrument
from kinmass.gen.physics.sightline import view_rng
from kinmass.train.data.dataset import Views
from kinmass.train.model.network import MassModel
from kinmass.train.model.scaling import SPEEDS_KMS, is_held, only
from kinmass.train.run.checkpoint import instrument_of, load_members, read_config, read_scales, read_training_features
from kinmass.train.run.out_of_distribution import TrainingFeatures

# N views, K radii, S samples, F features, M members
#: Views that go through the network at once.
BLOCK = 256
#: Samples drawn at a time: on a CPU few enough to stay in its caches, on a GPU enough to fill it.
DRAWS = (4_096, 262_144)
#: Where a run keeps how wide posteriors are to be for suites that it was not trained on.
UNSEEN = "unseen.json"


class Posterior:
    """Posterior of log10 M(<r) [Msun] of N views at K radii, each member of an ensemble having equal weight.

    radii_re (K,) in units of each view's R_e; half_mass_radius_kpc (N,). Random numbers belong to the
    view they are drawn for (`names`): the same for any grouping of views into calls. features: per member, (N, F).

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
    ):
        self._scales: Sequence[torch.Tensor | None] = scales or [None] * len(models)
        self._models, self.features, self._unit, self._names = models, features, log10_unit[:, None], names
        self._training_features = training_features
        self.radii_re = np.array(models[0].config.radii_re)
        self.half_mass_radius_kpc = half_mass_radius_kpc.numpy()
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._names)

    def _normal(self, n: int, rows: slice) -> torch.Tensor:
        width = len(self.radii_re) + 1
        drawn = [
            view_rng(2_000_003, name, view).standard_normal((n, width), np.float32) for name, view in self._names[rows]
        ]
        return torch.from_numpy(np.stack(drawn, axis=1))

    def _members(self) -> list[tuple[MassModel, torch.Tensor, torch.Tensor | None]]:
        return list(zip(self._models, self.features, self._scales, strict=True))

    @torch.no_grad()
    def latent(self, log10_menc: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per member, `density.latent` of profiles (N, K) of log10 M(<r) [Msun], before any calibration."""
        profile = log10_menc.to(self._unit.device) - self._unit
        return [m.density.latent(f, profile) for m, f, _ in self._members()]

    @torch.no_grad()
    def samples(self, n: int = 1000) -> np.ndarray:
        """(S, N, K) profiles drawn from the posterior; each rises with radius.

        Held between masses that a galaxy can have (`scaling.mass_limits`); `beyond` says how many were.
        """
        if n not in self._kept:
            out = np.empty((n, len(self), len(self.radii_re)), np.float32)
            at_once = max(1, DRAWS[self._unit.device.type == "cuda"] // n)
            for start in range(0, len(self), at_once):
                rows = slice(start, start + at_once)
                normal = self._normal(n, rows).to(self._unit.device)
                unit, r_e = self._unit[rows, 0], torch.from_numpy(self.half_mass_radius_kpc[rows]).to(normal.device)
                for i, (model, features, scale) in enumerate(self._members()):
                    mine = slice(i, None, len(self._models))
                    out[mine, rows] = model.profiles(features[rows], unit, r_e, normal[mine], scale).cpu()
            self._kept = {n: out}
        return self._kept[n]

    def beyond(self, n: int = 1000) -> np.ndarray:
        """(N,) share of n samples that were masses no galaxy has, somewhere: near 0 of a network that is trained."""
        log10_radius = np.log10(np.outer(self.half_mass_radius_kpc, self.radii_re))
        return np.asarray(is_held(self.samples(n), log10_radius).mean(0))

    def quantiles(self, q: float | Sequence[float] | np.ndarray, n: int = 1000) -> np.ndarray:
        """(Q, N, K) quantiles q (Q,) per radius, or (N, K) for one q, from n samples."""
        return np.asarray(np.quantile(self.samples(n), q, axis=0))

    def mean(self, n: int = 1000) -> np.ndarray:
        """(N, K) means, from n samples."""
        return np.asarray(self.samples(n).mean(0, dtype=float))

    def covariance(self, n: int = 1000) -> np.ndarray:
        """(N, K, K) covariances between radii [dex^2], from n samples."""
        off = self.samples(n) - self.mean(n)
        return np.asarray(np.einsum("snk,snl->nkl", off, off) / (n - 1))

    @torch.no_grad()
    def log_prob(self, log10_menc: np.ndarray | torch.Tensor) -> np.ndarray:
        """(N,) log of the joint density per dex^K at profiles (N, K) of log10 M(<r) [Msun]; exact."""
        profile = torch.as_tensor(log10_menc, dtype=torch.float32).to(self._unit.device) - self._unit
        each = [m.density.log_prob(f, profile, scale) for m, f, scale in self._members()]
        return np.asarray(torch.logsumexp(torch.stack(each), 0).cpu() - math.log(len(each)))

    def ood_score(self) -> np.ndarray:
        """(N,) share of validation views that are more like those trained on (`train.run.out_of_distribution`).

        Uniform in 0 to 1 for galaxies of the training suites; near 1 the posterior is not to be trusted. NaN where
        the run knows too few galaxies to tell.
        """
        if self._training_features is None:
            return np.full(len(self), np.nan)
        return np.asarray(self._training_features.ood_score(self.features))

    def log_prob_per_radius(self, log10_menc: np.ndarray | torch.Tensor, n: int = 1000) -> np.ndarray:
        """(N, K) log of each radius' own density per dex, all others integrated out.

        From n samples by a Gaussian kernel of Scott's width (Scott 1992, eq. 6.44), good to some
        hundredths within the samples' range; beyond it the kernel's tail decides.
        """
        return kernel_log_prob(np.moveaxis(self.samples(n), 0, -1) - np.asarray(log10_menc)[..., None])


def beyond_said(share: float) -> str:
    """What it means that a share of samples, above nil, was beyond what a galaxy can be."""
    low, high = SPEEDS_KMS
    return (
        f"{100 * share:.2g} % of the samples were masses that no galaxy has, held at circular speeds of {low:g} or "
        f"{high:,.0f} km/s: the network is hardly trained, or knows nothing like these maps"
    )


def kernel_log_prob(off: np.ndarray) -> np.ndarray:
    """(...) log density per dex, at nil, of samples (..., S), by a Gaussian kernel of Scott's width."""
    n = off.shape[-1]
    variance = np.einsum("...s,...s->...", off, off) / n - off.mean(-1) ** 2
    width = np.maximum(np.sqrt(np.maximum(variance, 0)) * n**-0.2, 1e-6)
    square = (off / width[..., None]) ** 2
    nearest = square.min(-1)
    total = np.exp(-0.5 * (square - nearest[..., None])).sum(-1)
    return np.asarray(np.log(total) - 0.5 * nearest - np.log(n * width * math.sqrt(2 * math.pi)))


class Inference:
    """A finished run, ready to infer. `run` is its run.json, `instrument` what it was trained to look through.

    Networks are on the GPU where there is one. Posteriors are as wide as validation found they should be, or
    (calibrated False) as the networks gave them.
    """

    def __init__(self, path: Path, calibrated: bool = True):
        self.path = path
        self.run: dict[str, Any] = read_config(path)
        self.instrument: Instrument = instrument_of(path)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.models = [model.to(self.device) for model in load_members(path)]
        self.scales: dict[str, list[torch.Tensor]] = {}
        if calibrated:
            self.scales = {t: [s.to(self.device) for s in each] for t, each in read_scales(path).items()}
        self.training_features: dict[str, TrainingFeatures] = {}
        if calibrated:
            self.training_features = {t: TrainingFeatures(**known) for t, known in read_training_features(path).items()}
        self.unseen: dict[str, list[torch.Tensor]] = {}
        if calibrated and (path / UNSEEN).exists():
            self.unseen = {t: [s.to(self.device) for s in each] for t, each in read_scales(path, UNSEEN).items()}

    @property
    def tracer(self) -> str:
        """gas, stars, both, or any: whichever is asked for."""
        return str(self.run["fit"]["tracer"])

    def answers(self) -> list[str]:
        """The tracers it can infer from."""
        return ["gas", "stars", "both"] if self.tracer == "any" else [self.tracer]

    def foreign(self, suites: np.ndarray) -> bool:
        """Whether the run was trained on none of the suites (N,). Raises ValueError for some of either kind."""
        known = np.isin(suites, self.run["fit"]["suites"])
        if self.unseen and known.any() and not known.all():
            raise ValueError(f"{self.path} is to infer suites it was trained on and others in one call; ask for each")
        return bool(len(known)) and not known.any()

    def __call__(
        self,
        maps: Views | torch.Tensor | np.ndarray,
        half_mass_radius_kpc: torch.Tensor | np.ndarray | None = None,
        tracer: str | None = None,
        names: list[tuple[str, int]] | None = None,
        unseen: bool | None = None,
    ) -> Posterior:
        """The posterior of every view.

        maps: Views of a store, which are observed through the run's instrument with each view's own
        noise; or observed maps (N, 8, Q, Q) - density [Msun/kpc^2], V [km/s], sigma [km/s] and the
        mask of valid pixels, of stars and then of gas, zero where invalid - with half_mass_radius_kpc (N,),
        and the (galaxy, view) names that random numbers follow if it matters. tracer: which one to use, for
        a run trained on `any`. unseen: galaxies of a suite that the run was not trained on, or of none, have posteriors
        as wide as `--across` found that they should be, where it was given; Views know it themselves. Raises
        ValueError for maps of another size than the run's, or a tracer that it cannot use.
        """
        tracer = tracer or self.answers()[-1]
        if tracer not in self.answers():
            raise ValueError(f"{self.path} was trained on {self.tracer}; it cannot infer from {tracer}")
        if isinstance(maps, Views):
            names, half_mass_radius_kpc = maps.names(), maps.half_mass_radius_kpc
            unseen = self.foreign(maps.suite) if unseen is None else unseen
            maps = maps.observed(self.instrument)
        if half_mass_radius_kpc is None:
            raise ValueError("observed maps need half_mass_radius_kpc, the projected stellar R_e of each view")
        observed = torch.as_tensor(maps, dtype=torch.float32)
        r_e = torch.as_tensor(half_mass_radius_kpc, dtype=torch.float32).reshape(-1)
        pixels = self.models[0].config.pixels
        if observed.ndim != 4 or observed.shape[1:] != (8, pixels, pixels) or len(r_e) != len(observed):
            raise ValueError(
                f"{self.path} takes maps (N, 8, {pixels}, {pixels}) and N half-mass radii, "
                f"not {tuple(observed.shape)} and {len(r_e)}"
            )
        observed = observed if tracer == "both" else only(observed, tracer)
        features = []
        with torch.no_grad():
            for model in self.models:
                pairs = zip(observed.split(BLOCK), r_e.split(BLOCK), strict=True)
                blocks = [model.features(o.to(self.device), r.to(self.device)) for o, r in pairs]
                features.append(torch.cat([f for f, _ in blocks]))
        unit = torch.cat([u for _, u in blocks])
        return Posterior(
            self.models, features, unit, r_e, names or [("", i) for i in range(len(observed))],
            (self.unseen if unseen and self.unseen else self.scales).get(tracer), self.training_features.get(tracer),
        )  # fmt: skip


def load(run: Path | str) -> Inference:
    """The trained run in a folder, a single network or an ensemble. Nothing in the folder is executed.

    Raises RunError for a run that is unfinished, damaged or of another schema.

    >>> infer = load("runs/gas")
    >>> infer.tracer, infer.instrument.name
    ('gas', 'ifu')
    """
    return Inference(Path(run))
