"""Objectives that compare suites, to see whether they help on a suite that is not trained on.

  python -m bench.align --way mmd --target bursty fit --store maps.zarr --tracer both --suites middle,quiet ...

After `fit` come the options of `kinmass fit`. Ways: coral, mmd, dann bring the features of the training
suites and of the target's maps, whose masses are never looked at, together - their covariances (Sun & Saenko 2016,
arXiv:1607.01719), their distributions under Gaussian kernels (Long et al. 2015, arXiv:1502.02791), or both by an
adversary (Ganin et al. 2016, arXiv:1505.07818); worst puts weight on the training suite that is inferred worst (group
DRO: Sagawa et al. 2020, arXiv:1911.08731). One process only.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kinmass.gen.instruments.observe import observe
from kinmass.train import __main__ as command
from kinmass.train.data import loader
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import fit
from kinmass.train.loop.fitter import Fitter

WEIGHTS = {"coral": 1.0, "mmd": 1.0, "dann": 0.3, "worst": 0.01}


def coral(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of features (N, F), (M, F): of covariances over 4 F^2 (eq. 1), and of means."""
    return (torch.cov(a.T) - torch.cov(b.T)).square().mean() / 4 + (a.mean(0) - b.mean(0)).square().mean()


def mmd(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of features (N, F), (M, F), for kernels of 1/2, 1 and 2 median distances."""
    features = torch.cat([a, b])
    distance2 = torch.cdist(features, features).square()
    median = distance2.detach().median().clamp(min=1e-6)
    kernel = torch.stack([torch.exp(-distance2 / (width * median)) for width in (0.25, 1.0, 4.0)]).mean(0)
    n = len(a)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient has the opposite sign: encoders then work against the adversary."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Return x unchanged."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient with its sign changed."""
        return -gradient


def aligned(way: str, weight: float, target: Path, suite: str) -> type[Fitter]:
    """Return the Fitter class of one of the objectives, `way`, with its weight.

    target: the store; suite: the target suite in it.
    """

    class Aligned(Fitter):
        """A Fitter whose loss has one more term."""

        def __init__(self, config: FitConfig, model: nn.Module, *others: Any):
            features = int(model.config.n_features)  # type: ignore[union-attr, arg-type]
            # The adversary is not part of the model, so that it is not saved; the optimiser gets its parameters below.
            self._judge = nn.Sequential(nn.Linear(features, 64), nn.SiLU(), nn.Linear(64, 1)) if way == "dann" else None
            super().__init__(config, model, *others)  # type: ignore[arg-type]
            if self._judge is not None:
                self.optimiser.add_param_group({"params": self._judge.parameters(), "lr": 1e-3})
                self.schedule = torch.optim.lr_scheduler.OneCycleLR(
                    self.optimiser, [config.learning_rate, 1e-3], total_steps=config.steps, pct_start=0.15
                )
            self._seen: list[torch.Tensor] = []
            self.model.join.register_forward_hook(lambda _, __, output: self._seen.append(output))
            if way == "worst":
                galaxies = self.loader.galaxies
                self._group = torch.from_numpy(galaxies.suite[self.loader.table.place // galaxies.shape[0]])
                self._share = torch.full((len(galaxies.suites),), 1 / len(galaxies.suites))
            else:
                galaxies = loader.galaxies_of(target, loader.done_galaxies(target, (suite,)), "train")
                self._target = galaxies.read(np.arange(len(galaxies)))

        def loss(self, log_prob: torch.Tensor) -> torch.Tensor:
            """The usual loss and the term of this objective; for `worst` the weighted loss of the suites."""
            source_features = self._seen[-1][: len(log_prob)]  # of both tracers; those of each by itself follow
            self._seen.clear()
            if way == "worst":
                group = self._group[self.batch_rows]
                group_loss = torch.stack(
                    [-log_prob[group == g].sum() / max(1, int((group == g).sum())) for g in range(len(self._share))]
                )
                self._share *= torch.exp(weight * group_loss.detach())
                self._share /= self._share.sum()
                return (self._share * group_loss).sum()
            rng = np.random.default_rng((self.config.seed, self.step))
            target_views = self._target[
                np.sort(rng.choice(len(self._target), len(self.batch_rows) // 2, replace=False))
            ]
            pixels = self.model.config.pixels
            noise = torch.from_numpy(rng.standard_normal((len(target_views), 4, pixels, pixels), np.float32))
            r_e = target_views.half_mass_radius_kpc
            observed = observe(target_views.maps, self.instrument, noise, target_views.field_of_view_re, r_e)
            target_features = self.model.features(observed, r_e)[0]
            self._seen.clear()
            if self._judge is not None:
                logits = self._judge(_Reversed.apply(torch.cat([source_features, target_features])))[:, 0]
                is_target = torch.cat([torch.zeros(len(source_features)), torch.ones(len(target_features))])
                term = nn.functional.binary_cross_entropy_with_logits(logits, is_target)
            else:
                term = {"coral": coral, "mmd": mmd}[way](source_features, target_features)
            # The weight grows from zero in the first third of the steps, as in Ganin et al.
            return -log_prob.mean() + weight * min(1.0, 3 * self.step / self.config.steps) * term

    return Aligned


def main() -> int:
    """Fit one network with one of the objectives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WEIGHTS, required=True, help="the objective")
    parser.add_argument("--weight", type=float, help=f"weight of its term (default: {WEIGHTS})")
    parser.add_argument("--target", required=True, help="the suite whose maps are looked at")
    parser.add_argument("fit", nargs=argparse.REMAINDER, help="`fit` and options of `kinmass fit`")
    args = parser.parse_args()
    options = command.parser().parse_args(args.fit)
    if not options.suites:
        parser.error("name the suites to train on by --suites, without the target")
    suites = tuple(options.suites.split(","))
    fit_options = command._fit_options(options) | {"cuda_graph": False}
    config = FitConfig.from_options(str(options.store), options.tracer, suites, **fit_options)
    weight = WEIGHTS[args.way] if args.weight is None else args.weight
    fit(config, options.out, fitter_class=aligned(args.way, weight, options.store, args.target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
