"""The state of a fit: network, optimiser and best weights; one training step; one validation."""

import time

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kinmass.gen.instruments.observe import observe
from kinmass.train import distributed as ddp
from kinmass.train.data import loader
from kinmass.train.data.dataset import RADII_RE, Views
from kinmass.train.data.sampler import draws, looks, normal
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.recorded import Recorded
from kinmass.train.loop.turns import observe_by_turns
from kinmass.train.model.density import latent_log_prob
from kinmass.train.model.network import MassModel
from kinmass.train.model.scaling import drop_tracers, flip_sky, has_motion
from kinmass.train.run.calibration import latent_scale
from kinmass.train.run.records import Best, FitState

#: Samples per validation view, and the ranks of the truth among them that count as inside the 68 % interval: the
#: middle 17 of the 25 possible ranks, which hold 68 % of the views of a calibrated network.
SAMPLES, INSIDE_68 = 24, (4, 20)
VALIDATION_SEED = 1_000_003


class NonFinite(ddp.Agreed):
    """The loss, its gradient or every validation is not finite; the message says where, and what to do."""


def in_bf16(precision: str, gpu_capability: tuple[int, int] | None) -> bool:
    """Return whether encoders compute in bfloat16, with the precision asked for on a GPU of that compute capability.

    gpu_capability: None on a CPU. Older GPUs than (8, 0) only emulate bfloat16, which is slower than float32.
    """
    return precision == "bf16" or (precision == "auto" and gpu_capability is not None and gpu_capability >= (8, 0))


class _Mixed(nn.Module):
    """The model with its encoders in bfloat16 and its density in float32."""

    def __init__(self, model: MassModel):
        super().__init__()
        self.model = model

    def forward(
        self, observed: torch.Tensor, r_e: torch.Tensor, truth: torch.Tensor, alone: bool = False
    ) -> torch.Tensor:
        """Return what `MassModel.forward` does, with features computed in bfloat16."""
        with torch.autocast(observed.device.type, dtype=torch.bfloat16):
            features, unit = self.model.feature_sets(observed, r_e, alone)
        return self.model.log_probs(features.float(), unit, truth)


class Fitter:
    """The state of one fit: network, optimiser, schedule, the best weights so far, and the current round.

    Nothing in a step waits for a GPU: losses are summed there, and `agree_to_stop` checks afterwards that they are
    finite. validation: of `loader.validation_views`; n_val_lineages: independent galaxies among them, of all processes.
    """

    def __init__(
        self,
        config: FitConfig,
        model: MassModel,
        batches: loader.Loader,
        validation: tuple[Views, torch.Tensor, np.ndarray],
        device: torch.device,
    ):
        self.config, self.device, self.loader = config, device, batches
        self.instrument = config.instrument_model
        on_gpu = device.type == "cuda"
        self._dtype = torch.float64 if config.precision == "float64" else torch.float32
        mixed = in_bf16(config.precision, torch.cuda.get_device_capability(device) if on_gpu else None)
        self._pixels = model.config.pixels
        table = batches.table
        model.density.fit_whitening(table.log10_menc - table.log10_unit[:, None])
        self.model = model.to(device, self._dtype)
        self._r_e = table.half_mass_radius_kpc.to(device, self._dtype)
        self._truth = table.log10_menc.to(device, self._dtype)
        self._val_views, observed, self._val_places = validation
        observed = observed.to(device, self._dtype)
        self.n_val_lineages = len(set().union(*ddp.gather(set(self._val_views.lineages()))))
        self.n_val_galaxies = len(set().union(*ddp.gather({galaxy for galaxy, _ in self._val_views.names()})))
        places = torch.from_numpy(self._val_places).to(device)
        # Of the views, a third is validated with gas alone, a third with stars alone and a third with both.
        self._val_observed = drop_tracers(observed, places % 3) if config.tracer == "any" else observed
        half = SAMPLES * (len(RADII_RE) + 1) // 2
        numbers = normal(places[:, None] * half + torch.arange(half, device=device), VALIDATION_SEED)
        self._val_normal = numbers.reshape(len(places), SAMPLES, len(RADII_RE) + 1).transpose(0, 1).to(self._dtype)
        network: nn.Module = _Mixed(self.model) if mixed else self.model
        self.wrapped = ddp.wrap(torch.compile(network) if config.compile and on_gpu else network)  # type: ignore[arg-type]
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            # Larger than the rounding errors of gradients that are zero: Adam would make full steps of these.
            eps=1e-6,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.15
        )
        # A network for any tracer sees each by itself anyway, and one tracer has no other.
        self._alone_weight = config.alone_weight if config.tracer == "both" else 0.0
        self.step, self.stale = 0, 0
        self.best: Best = {"loss": float("inf")}
        self.best_weights: dict[str, torch.Tensor] = {}
        self._check_every_steps = 16 if on_gpu else 1  # steps between calls of `agree_to_stop`
        # Places in the batch of this process's views.
        self._batch_places = torch.arange(ddp.rank(), config.batch, ddp.world_size(), device=device)
        # Of every step not checked yet: number, rows of the batch, which losses are finite, whether the gradient is.
        self._unchecked_steps: list[tuple[int, np.ndarray, torch.Tensor, torch.Tensor]] = []
        self.batch_rows = np.zeros(0, dtype=np.int64)
        recorded = on_gpu and config.cuda_graph
        self._gradient = Recorded(self._gradient_of, list(self.model.parameters())) if recorded else self._gradient_anew
        # The network that is validated and kept: the mean over steps, or the one that is trained.
        self._mean = (
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / config.ema)) if config.ema else None
        )
        self.kept: MassModel = self._mean.module if self._mean else self.model  # type: ignore[assignment]
        self._begin_round()

    def _gradient_anew(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.optimiser.zero_grad()
        return self._gradient_of(*arguments)

    def _begin_round(self) -> None:
        self.round_step = 0
        self._round_sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self._round_began_s, self._timed_steps, self._waited_s = 0.0, 0, 0.0

    def finished(self) -> bool:
        """Whether all steps are done, or validation has not improved for `patience` rounds, unless that is 0."""
        return self.step >= self.config.steps or 0 < self.config.patience <= self.stale

    def has_validation(self) -> bool:
        """Whether this process has views to validate on."""
        return len(self._val_places) > 0

    def round_over(self) -> bool:
        """Whether a validation is due."""
        return self.round_step > 0 and self._steps_left() == 0

    def _steps_left(self) -> int:
        return min(self.config.round_steps - self.round_step, self.config.steps - self.step)

    def advance(self) -> int:
        """Take steps up to the next call of `agree_to_stop` or the round's end; return how many."""
        self.model.train()
        if not self._timed_steps:
            self._round_began_s = time.perf_counter()
        steps = min(self._check_every_steps, self._steps_left())
        for _ in range(steps):
            self._take_step()
        return steps

    def _take_step(self) -> None:
        config = self.config
        # For layers that draw random numbers, should a network have any: these too follow seed and step.
        torch.manual_seed((config.seed * 1_000_003 + self.step) * 65_537 + ddp.rank())
        began_s = time.perf_counter()
        self.batch_rows, maps = self.loader.next(self.step)
        self._waited_s += time.perf_counter() - began_s
        local_rows = torch.from_numpy(self.batch_rows[ddp.rank() :: ddp.world_size()])
        samples = self._batch_places + self.step * config.batch
        loss, is_finite = self._gradient(maps, local_rows.to(self.device, non_blocking=True), samples)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        self.schedule.step()
        if self._mean:
            self._mean.update_parameters(self.model)
        self._round_sums += torch.stack([loss, norm]).double()
        self._unchecked_steps.append((self.step, self.batch_rows, is_finite.clone(), torch.isfinite(norm)))
        self.step += 1
        self.round_step += 1
        self._timed_steps += 1

    def _gradient_of(
        self, maps: torch.Tensor, rows: torch.Tensor, samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Leave the loss's gradient in the parameters; return the loss, and of which views (n,) it is finite.

        maps (n, 8, P, P) as stored; rows (n,) of the table; samples (n,) number the views that the run has drawn. All
        that is drawn depends on these tensors alone, so that a GPU's work can be recorded (`Recorded`).
        """
        config = self.config
        bits, noise = draws(samples, self._pixels, config.seed)
        maps, r_e, truth = flip_sky(maps, bits & 15), self._r_e[rows], self._truth[rows]
        numbers = config.augmentation.numbers(samples, config.seed)
        field_of_view_re = self.loader.galaxies.field_of_view_re
        if numbers is not None:
            maps, r_e, truth = config.augmentation.vary(maps, r_e, truth, field_of_view_re, numbers)
        look = looks(samples, maps.shape[-1], config.seed) if self.instrument.varies() else None
        seen_as = self.instrument, noise, field_of_view_re, r_e.float(), look, config.is_told
        if config.tracer == "any":
            observed = observe_by_turns(((bits >> 8) & 0xFFFF) % 3, maps, *seen_as)
        else:
            observed = observe(maps, *seen_as, self.model.tracers)
        observed = observed.to(self._dtype)
        if numbers is not None:
            observed = config.augmentation.vary_observed(observed, numbers)
        log_probs = self.wrapped(observed, r_e, truth, self._alone_weight > 0)
        if self.instrument.varies():
            # Of a look that shows nothing, as where a wide PSF leaves all below what is seen, nothing is learnt.
            log_probs = torch.where(has_motion(observed, self.model.tracers), log_probs, 0.0)
        loss = self.loss(log_probs[0]) - self._alone_weight * log_probs[1:].mean(1).sum()
        loss.backward()
        return loss.detach(), torch.isfinite(log_probs.detach()).all(0)

    def loss(self, log_prob: torch.Tensor) -> torch.Tensor:
        """Return the loss that a step lowers.

        log_prob (n,) are log densities of this process's views of the batch; `batch_rows` (batch,) are all its views.
        """
        return -log_prob.mean()

    def agree_to_stop(self, checkpoint_due: bool = False) -> tuple[bool, bool]:
        """Return whether any process was asked to stop, and whether any has a checkpoint due. Every process calls it.

        Raises NonFinite, which names the views, where a step since the last call was not finite. As every checkpoint
        follows a call, weights that such a step spoilt are never saved.
        """
        if self.device.type == "cuda":
            ddp.any_rank(False)  # Notices a process that died, before waiting for the GPU, which would never end.
        finite_steps = (
            [
                torch.stack(
                    [finite.all() & gradient_finite for _, _, finite, gradient_finite in self._unchecked_steps]
                ).all()
            ]
            if self._unchecked_steps
            else []
        )
        stop, checkpoint_due, not_finite = ddp.any_rank(
            ddp.stop_requested(), checkpoint_due, not all(bool(x) for x in finite_steps)
        )
        if not_finite:
            self._name_views()
        self._unchecked_steps.clear()
        return stop, checkpoint_due

    def _name_views(self) -> None:
        share = slice(ddp.rank(), None, ddp.world_size())
        local_faults = [
            (step, rows[share][~is_finite.cpu().numpy()].tolist(), bool(gradient_finite))
            for step, rows, is_finite, gradient_finite in self._unchecked_steps
        ]
        for (step, rows, _, _), faults in zip(
            self._unchecked_steps, zip(*ddp.gather(local_faults), strict=True), strict=True
        ):
            views = sorted(row for _, bad_rows, _ in faults for row in bad_rows)
            if views or not all(gradient_finite for _, _, gradient_finite in faults):
                culprit = "loss" if views else "gradient"
                views = views or rows.tolist()
                ids = ", ".join(self.loader.galaxies.id(self.loader.table.place[row]) for row in views[:8])
                and_more = f" and {len(views) - 8} more" if len(views) > 8 else ""
                raise NonFinite(
                    f"{culprit} is not finite at step {step}; views: {ids}{and_more}; look at them with "
                    "`kinmass show`, and map again what is wrong; where nothing is, lower --learning-rate"
                )

    def end_round(self) -> dict[str, float]:
        """Validate, keep the weights if they are the best so far, and return the scalars for TensorBoard.

        The best are those with the lowest validation loss after the widths of posteriors are calibrated, as a
        finished run's are. A network that is too sure of itself loses nothing by that; judged by its own widths, it
        would be stopped while the learning rate is still high, long before it is best.
        """
        loss, gradient_norm = np.mean(ddp.gather(self._round_sums.tolist()), axis=0) / self.round_step
        seconds = time.perf_counter() - self._round_began_s
        values = self._validate()
        if values["loss/val_calibrated"] < self.best["loss"]:
            self.best = {
                "loss": values["loss/val_calibrated"], "step": self.step, "bias": values["bias/mean"],
            }  # fmt: skip
            if "dispersion/mean" in values:
                self.best["dispersion"] = values["dispersion/mean"]
            self.best_weights = {name: weight.detach().cpu().clone() for name, weight in self.kept.state_dict().items()}
            self.stale = 0
        else:
            self.stale += 1
        values |= {
            "loss/train": float(loss), "gradient_norm": float(gradient_norm),
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "samples_per_second": self._timed_steps * self.config.batch / seconds,
            "data_wait": self._waited_s / seconds,
        }  # fmt: skip
        if self.device.type == "cuda":
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        self._begin_round()
        return values

    def summary(self, values: dict[str, float]) -> dict[str, str]:
        """Return the words of the progress line from the scalars of `end_round`."""
        return {
            "epoch": f"{self.step * self.config.batch / len(self.loader.table):.1f}",
            "loss": f"{values['loss/val_calibrated']:.2f}",
            "dispersion": f"{values['dispersion/mean']:.3f}" if "dispersion/mean" in values else "-",
            "views/s": f"{values['samples_per_second']:.0f}",
        }

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self.kept.eval()
        latents, weights, ranks, residuals = [], [], [], []
        r_e, truth = (
            x.to(self.device, self._dtype) for x in (self._val_views.half_mass_radius_kpc, self._val_views.log10_menc)
        )
        for view_rows in torch.arange(len(r_e), device=self.device).split(512) if len(r_e) else ():
            observed = self._val_observed[view_rows]
            features, unit = self.kept.features(observed, r_e[view_rows])
            latent, weight = self.kept.density.latent(features, truth[view_rows] - unit[:, None])
            latents.append(latent)
            weights.append(weight)
            # Few samples suffice: the curves need the median to a few hundredths of the posterior's width only.
            samples = self.kept.profiles(features, unit, r_e[view_rows], self._val_normal[:, view_rows])
            # torch's median is the lower one of the two in the middle.
            residuals.append(samples.quantile(0.5, dim=0) - truth[view_rows])
            ranks.append((samples < truth[view_rows]).sum(0))
        local_results = [torch.cat(x).cpu().numpy() for x in (latents, weights, residuals, ranks) if x]
        parts = [p for p in ddp.gather([self._val_places, *local_results]) if len(p) == 5]
        place, *results = (np.concatenate(p) for p in zip(*parts, strict=True))
        order = np.argsort(place)  # so that sums are the same for any number of processes
        latent, weight = (torch.from_numpy(x[order]).double() for x in results[:2])
        residual, rank = (x[order] for x in results[2:])
        is_finite = bool(torch.isfinite(latent).all())  # a network that has run away has no widths to calibrate
        scale = latent_scale(latent, weight, self.n_val_lineages).double() if is_finite else None
        inside = (rank >= INSIDE_68[0]) & (rank <= INSIDE_68[1])
        values = {
            "loss/val": -float(latent_log_prob(latent, weight).mean()),
            "loss/val_calibrated": -float(latent_log_prob(latent, weight, scale).mean()),
            "bias/mean": float(residual.mean()), "coverage/mean": float(inside.mean()),
        }  # fmt: skip
        for radius_re, bias, coverage in zip(RADII_RE, residual.mean(0), inside.mean(0), strict=True):
            values |= {f"bias/{radius_re:.2f}_Re": float(bias), f"coverage/{radius_re:.2f}_Re": float(coverage)}
        if self.n_val_galaxies > 1:  # views of one galaxy do not tell how galaxies scatter
            dispersion = residual.std(0)
            values["dispersion/mean"] = float(dispersion.mean())
            values |= {f"dispersion/{r:.2f}_Re": float(x) for r, x in zip(RADII_RE, dispersion, strict=True)}
        return values

    @torch.no_grad()
    def examples(self, n: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Return what `Monitor.profiles` draws of n validation views: observed maps, radii, truth, samples and names.

        Shapes are (n, 8, Q, Q), (K,), (n, K) and (200, n, K).
        """
        self.kept.eval()
        rows = np.unique(np.linspace(0, len(self._val_views) - 1, min(n, len(self._val_views))).astype(int))
        views, observed = self._val_views[rows], self._val_observed[torch.as_tensor(rows)]
        samples = self.kept.sample(observed, views.half_mass_radius_kpc.to(self.device, self._dtype), 200)
        return observed.cpu().numpy(), np.array(RADII_RE), views.log10_menc.numpy(), samples.cpu().numpy(), views.ids()

    def state(self) -> FitState:
        """Return everything that `load_state` needs to go on. Every process has to call it."""
        return {
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(), "step": self.step, "stale": self.stale,
            "best": self.best, "best_weights": self.best_weights, "mean": self._mean.state_dict() if self._mean else {},
            "round_step": self.round_step, "sums": ddp.gather(self._round_sums.tolist()),
        }  # fmt: skip

    def load_state(self, state: FitState) -> None:
        """Go on from a `state()` of any number of processes. Raises RuntimeError or KeyError for another network."""
        self.model.load_state_dict(state["model"])
        if self._mean:
            self._mean.load_state_dict(state["mean"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.stale, self.best = state["step"], state["stale"], state["best"]
        self.best_weights = state["best_weights"]
        self.round_step, sums = state["round_step"], state["sums"]
        local_sums = sums[ddp.rank()] if len(sums) == ddp.world_size() else np.mean(sums, axis=0)
        self._round_sums = torch.as_tensor(local_sums, dtype=torch.float64, device=self.device)
