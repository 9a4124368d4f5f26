"""State of a fit: the network on its way, what a step does, and what validation says."""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from kinmass.gen.instrument import observe
from kinmass.train import distributed as ddp
from kinmass.train.data import loader
from kinmass.train.data.dataset import RADII_RE, Views
from kinmass.train.data.sampler import draws, normal
from kinmass.train.loop.config import FitConfig
from kinmass.train.model.network import MassModel
from kinmass.train.model.scaling import drop_tracers, flip_sky

#: Samples per validation view. The truth's rank among them is in the middle 17 of 25 places for 68 % of good ones.
SAMPLES, INSIDE_68 = 24, (4, 20)
VALIDATION_SEED = 1_000_003


class NonFinite(ddp.Agreed):
    """The loss is no number: the message names the views."""


class _Mixed(nn.Module):
    """The model with its encoders in bfloat16 and its density in float32."""

    def __init__(self, model: MassModel):
        super().__init__()
        self.model = model

    def forward(self, observed: torch.Tensor, r_e: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """As MassModel's."""
        with torch.autocast(observed.device.type, dtype=torch.bfloat16):
            features, unit = self.model.features(observed, r_e)
        return self.model.density.log_prob(features.float(), truth - unit[:, None])


class Fitter:
    """State of one fit: network, optimiser, schedule, the best weights so far, and the round under way.

    Nothing in a step waits for a GPU: losses add up there, and `look` finds what is not finite afterwards.
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
        self.look_at = config.look
        gpu = device.type == "cuda"
        self._dtype = torch.float64 if config.precision == "float64" else torch.float32
        mixed = config.precision == "bf16" or (config.precision == "auto" and gpu and torch.cuda.is_bf16_supported())
        self._pixels = model.config.pixels
        table = batches.table
        model.density.fit_whitening(table.log10_menc - table.log10_unit[:, None])
        self.model = model.to(device, self._dtype)
        if gpu:
            for parameter in self.model.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self._r_e = table.half_mass_radius_kpc.to(device, self._dtype)
        self._truth = table.log10_menc.to(device, self._dtype)
        self._val, seen, self._val_place = validation
        seen = seen.to(device, self._dtype)
        place = torch.from_numpy(self._val_place).to(device)
        # A third of the views each: gas, stars, both.
        self._val_observed = drop_tracers(seen, place % 3) if config.tracer == "any" else seen
        half = SAMPLES * (len(RADII_RE) + 1) // 2
        numbers = normal(place[:, None] * half + torch.arange(half, device=device), VALIDATION_SEED)
        self._val_normal = numbers.reshape(len(place), SAMPLES, len(RADII_RE) + 1).transpose(0, 1).to(self._dtype)
        network: nn.Module = _Mixed(self.model) if mixed else self.model
        self.wrapped = ddp.wrap(torch.compile(network) if config.compile and gpu else network)  # type: ignore[arg-type]
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            # Above the rounding of gradients that are nil, which Adam would blow up to full steps.
            eps=1e-6,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.15
        )
        self.step, self.stale = 0, 0
        self.best: dict[str, Any] = {"loss": float("inf")}
        self.best_weights: dict[str, torch.Tensor] = {}
        self._every = 16 if gpu else 1  # steps between looks
        self._places = torch.arange(ddp.rank(), config.batch, ddp.world_size(), device=device)
        self._recent: list[tuple[int, np.ndarray, torch.Tensor, torch.Tensor]] = []
        self._begin_round()

    def _begin_round(self) -> None:
        self.round_step = 0
        self._sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self._clock, self._timed, self._waited = 0.0, 0, 0.0

    def finished(self) -> bool:
        """Out of steps, or of patience."""
        return self.step >= self.config.steps or self.stale >= self.config.patience

    def has_validation(self) -> bool:
        """Whether this process has views to validate on."""
        return len(self._val_place) > 0

    def round_over(self) -> bool:
        """Whether a validation is due."""
        return self.round_step > 0 and self._left() == 0

    def _left(self) -> int:
        return min(self.config.round_steps - self.round_step, self.config.steps - self.step)

    def advance(self) -> int:
        """Some steps, up to the next look or the round's end; how many."""
        self.model.train()
        if not self._timed:
            self._clock = time.perf_counter()
        steps = min(self._every, self._left())
        for _ in range(steps):
            self._one_step()
        return steps

    def _one_step(self) -> None:
        config = self.config
        # For layers that draw, should there be any: as every other number, from the step.
        torch.manual_seed((config.seed * 1_000_003 + self.step) * 65_537 + ddp.rank())
        began = time.perf_counter()
        rows, maps = self.loader.next(self.step)
        self._waited += time.perf_counter() - began
        at = torch.from_numpy(rows[ddp.rank() :: ddp.world_size()]).to(self.device, non_blocking=True)
        samples = self._places + self.step * config.batch
        bits, noise = draws(samples, self._pixels, config.seed)
        maps, r_e, truth = flip_sky(maps, bits & 15), self._r_e[at], self._truth[at]
        numbers = config.augmentation.numbers(samples, config.seed)
        field_of_view_re = self.loader.galaxies.field_of_view_re
        if numbers is not None:
            maps, r_e, truth = config.augmentation.vary(maps, r_e, truth, field_of_view_re, numbers)
        observed = observe(maps, self.look_at, noise, field_of_view_re, r_e.float()).to(self._dtype)
        if numbers is not None:
            observed = config.augmentation.look(observed, numbers)
        if config.tracer == "any":
            observed = drop_tracers(observed, ((bits >> 8) & 0xFFFF) % 3)
        log_prob = self.wrapped(observed, r_e, truth)
        loss = self.loss(log_prob, rows)
        self.optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        self.schedule.step()
        self._sums += torch.stack([loss.detach(), norm]).double()
        self._recent.append((self.step, rows, torch.isfinite(log_prob.detach()), torch.isfinite(norm)))
        self.step += 1
        self.round_step += 1
        self._timed += 1

    def loss(self, log_prob: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """What a step lowers, from the log densities of this process's views of a batch of views `rows`."""
        return -log_prob.mean()

    def look(self, due: bool = False) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due: on any process. Raises NonFinite with the views.

        Weights that a bad step spoilt are never saved: every checkpoint follows a look.
        """
        if self.device.type == "cuda":
            ddp.any_rank(False)  # a process that died is noticed here; waiting for the GPU would go on
        finite = [torch.stack([ok.all() & norm for _, _, ok, norm in self._recent]).all()] if self._recent else []
        stop, due, bad = ddp.any_rank(ddp.stop_requested(), due, not all(bool(x) for x in finite))
        if bad:
            self._name_views()
        self._recent.clear()
        return stop, due

    def _name_views(self) -> None:
        share = slice(ddp.rank(), None, ddp.world_size())
        mine = [(step, rows[share][~ok.cpu().numpy()].tolist(), bool(norm)) for step, rows, ok, norm in self._recent]
        for (step, rows, _, _), found in zip(self._recent, zip(*ddp.gather(mine), strict=True), strict=True):
            views = sorted(row for _, bad, _ in found for row in bad)
            if views or not all(norm for _, _, norm in found):
                what = "loss" if views else "gradient"
                views = views or rows.tolist()
                ids = ", ".join(self.loader.galaxies.id(self.loader.table.place[row]) for row in views[:8])
                more = f" and {len(views) - 8} more" if len(views) > 8 else ""
                raise NonFinite(f"{what} is not finite at step {step}; views: {ids}{more}")

    def end_round(self) -> dict[str, float]:
        """Validate, keep the weights if they are the best; the scalars to show."""
        loss, norm = np.mean(ddp.gather(self._sums.tolist()), axis=0) / self.round_step
        seconds = time.perf_counter() - self._clock
        values = self._validate()
        if values["loss/val"] < self.best["loss"]:
            self.best = {
                "loss": values["loss/val"], "step": self.step,
                "dispersion": values["dispersion/mean"], "bias": values["bias/mean"],
            }  # fmt: skip
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            self.stale = 0
        else:
            self.stale += 1
        values |= {
            "loss/train": float(loss), "gradient_norm": float(norm),
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "samples_per_second": self._timed * self.config.batch / seconds, "data_wait": self._waited / seconds,
        }  # fmt: skip
        if self.device.type == "cuda":
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        self._begin_round()
        return values

    def summary(self, values: dict[str, float]) -> dict[str, str]:
        """What the progress line shows."""
        return {
            "epoch": f"{self.step * self.config.batch / len(self.loader.table):.1f}",
            "loss": f"{values['loss/val']:.2f}",
            "dispersion": f"{values['dispersion/mean']:.3f}",
            "views/s": f"{values['samples_per_second']:.0f}",
        }

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self.model.eval()
        losses, ranks, residuals = [], [], []
        r_e, truth = (x.to(self.device, self._dtype) for x in (self._val.half_mass_radius_kpc, self._val.log10_menc))
        for part in torch.arange(len(r_e), device=self.device).split(512) if len(r_e) else ():
            observed = self._val_observed[part]
            features, unit = self.model.features(observed, r_e[part])
            losses.append(-self.model.density.log_prob(features, truth[part] - unit[:, None]))
            # Few samples: the curves need the median to a few hundredths of its width, no better.
            samples = self.model.profiles(features, unit, r_e[part], self._val_normal[:, part])
            residuals.append(samples.median(0).values - truth[part])
            ranks.append((samples < truth[part]).sum(0))
        mine = [torch.cat(x).cpu().numpy() for x in (losses, residuals, ranks) if x]
        parts = [p for p in ddp.gather([self._val_place, *mine]) if len(p) == 4]
        place, loss, residual, rank = (np.concatenate(p) for p in zip(*parts, strict=True))
        order = np.argsort(place)  # the same sums for any number of processes
        loss, residual, rank = loss[order], residual[order], rank[order]
        inside = (rank >= INSIDE_68[0]) & (rank <= INSIDE_68[1])
        values = {
            "loss/val": float(loss.mean()), "dispersion/mean": float(residual.std(0).mean()),
            "bias/mean": float(residual.mean()), "coverage/mean": float(inside.mean()),
        }  # fmt: skip
        columns = zip(RADII_RE, residual.std(0), residual.mean(0), inside.mean(0), strict=True)
        for x, d, b, c in columns:
            values |= {
                f"dispersion/{x:.2f}_Re": float(d), f"bias/{x:.2f}_Re": float(b), f"coverage/{x:.2f}_Re": float(c),
            }  # fmt: skip
        return values

    @torch.no_grad()
    def examples(self, n: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Observed maps, radii, truth, samples and names of a few validation views, for a picture."""
        self.model.eval()
        few = np.unique(np.linspace(0, len(self._val) - 1, min(n, len(self._val))).astype(int))
        v, observed = self._val[few], self._val_observed[torch.as_tensor(few)]
        samples = self.model.sample(observed, v.half_mass_radius_kpc.to(self.device, self._dtype), 200)
        return observed.cpu().numpy(), np.array(RADII_RE), v.log10_menc.numpy(), samples.cpu().numpy(), v.ids()

    def state(self) -> dict[str, Any]:
        """Everything that going on needs. Every process has to call it."""
        return {
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(), "step": self.step, "stale": self.stale,
            "best": self.best, "best_weights": self.best_weights,
            "round_step": self.round_step, "sums": ddp.gather(self._sums.tolist()),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`, of any number of processes."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.stale, self.best = state["step"], state["stale"], state["best"]
        self.best_weights = state["best_weights"]
        self.round_step, sums = state["round_step"], state["sums"]
        mine = sums[ddp.rank()] if len(sums) == ddp.world_size() else np.mean(sums, axis=0)
        self._sums = torch.as_tensor(mine, dtype=torch.float64, device=self.device)
