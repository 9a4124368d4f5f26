"""The training loop: negative log-likelihood, validated in rounds, best weights kept.

Random numbers follow (seed, step) and are drawn for the whole batch on every rank, of which each
takes its share: two processes with half a batch each do what one does with all of it.
"""

import dataclasses
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from gen import store
from gen.instrument import Instrument, instrument, observe
from train import distributed as ddp
from train.checkpoint import (
    RUN_SCHEMA,
    RunError,
    instrument_of,
    member_folders,
    read_config,
    read_tensors,
    write_json,
    write_tensors,
)
from train.dataset import RADII_RE, Views, concatenate, read_views, usable
from train.monitor import Monitor
from train.network import MassModel, ModelConfig
from train.scaling import drop_tracers, flip_sky, tracers_of


@dataclass(frozen=True)
class FitConfig:
    """One fit, checked on creation. Raises ValueError with what is wrong."""

    store: str
    tracer: str
    suites: tuple[str, ...]
    instrument: str = "ifu"  # a built-in name, or a YAML file
    encoder: str = "polar"
    head: str = "flow"
    norm: str = "group"
    inputs: str = "scale_free"
    width: int = 16
    galaxies: int = 0  # training galaxies at most, 0 for all: the first in the order of a hash of their names
    views: int = 0  # views per galaxy at most, 0 for all
    members: int = 1  # of the deep ensemble this network belongs to
    steps: int = 1000  # optimiser steps at most
    round_steps: int = 100  # steps between validations
    patience: int = 8  # rounds without a better validation before stopping
    batch: int = 64  # views per step, over all processes
    learning_rate: float = 1.5e-3  # at the peak of a one-cycle schedule
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        tracers_of(self.tracer)
        _ = self.look
        for name in ("width", "steps", "round_steps", "patience", "batch", "members"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4, not {self.width}")
        if not self.suites:
            raise ValueError("no suites to train on")

    @cached_property
    def look(self) -> Instrument:
        """The instrument, read once."""
        return instrument(self.instrument)


class NonFinite(RuntimeError):
    """The loss is no number: the message names the views of that step."""


def _read(config: FitConfig, part: str) -> Views:
    path = Path(config.store)
    return concatenate([read_views(path, suite, part) for suite in config.suites])


def _prepare(config: FitConfig, part: str) -> tuple[Views, int]:
    """The usable views of a part of the split, and how many were left out."""
    views = _read(config, part)
    if part == "train" and config.views:
        views = views[views.view < config.views]
    if part == "train" and config.galaxies:
        chosen = sorted(set(views.lineage), key=lambda name: blake2b(str(name).encode()).digest())[: config.galaxies]
        views = views[np.isin(views.lineage, chosen)]
    keep = usable(views, config.tracer, config.look)
    if not keep.any():
        raise store.StoreError(
            f"{config.store}: no finished galaxy with usable {config.tracer} maps in the {part} part "
            f"of {', '.join(config.suites)}; run `python -m gen maps` to its end, or map more galaxies"
        )
    return views[keep], int((~keep).sum())


def fit_ensemble(config: FitConfig, out: Path, quiet: bool = False) -> list[dict[str, Any]]:
    """Train every member of a deep ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474), one after another.

    Member i has the seed seed + i and a folder of its own in `out`; a single network lives in `out`
    itself. Returns each member's run.json. Raises as `fit`.
    """
    folders = member_folders(out, config.members)
    return [fit(dataclasses.replace(config, seed=config.seed + i), f, quiet) for i, f in enumerate(folders)]


def fit(config: FitConfig, out: Path, quiet: bool = False) -> dict[str, Any]:
    """Train, keep the best weights in the run folder `out`, and return its run.json.

    Call it on every process. A run that was stopped goes on from its last round; a finished one
    is left alone. Raises StoreError, RunError (another run lives there) or NonFinite.
    """
    with ddp.process_group() as device:
        return _fit(config, out, device, quiet)


def _fit(config: FitConfig, out: Path, device: torch.device, quiet: bool) -> dict[str, Any]:
    if config.batch % ddp.world_size():
        raise ValueError(f"batch {config.batch} does not divide by {ddp.world_size()} processes")
    if config.norm == "batch" and ddp.world_size() > 1:
        raise ValueError("norm batch would see each process' views apart; use group, or one process")
    plain = dataclasses.asdict(config) | {"suites": list(config.suites), "instrument": config.look.name}
    if (out / "run.json").exists():
        known = read_config(out)
        different = sorted(k for k in plain if known["fit"].get(k) != plain[k] and k != "store")
        if "instrument" not in different and instrument_of(out) != config.look:
            different.append("instrument of that name")
        if different:
            raise RunError(f"{out} holds a run with another {', '.join(different)}; choose another --out")
        if known["finished"]:
            return known
    train, skipped = _prepare(config, "train")
    val, _ = _prepare(config, "val")
    pixels, field_of_view_re = config.look.grid(train.maps.shape[-1], train.field_of_view_re)
    first = ddp.rank() == 0
    if first and not quiet:
        print(
            f"{config.tracer} on {', '.join(config.suites)} through {config.look.name} ({pixels} x {pixels} pixels "
            f"over {field_of_view_re:.3g} R_e): {len(train)} views of {len(set(train.galaxy))} galaxies to train, "
            f"{len(val)} to validate, {skipped} unusable left out; "
            f"{ddp.world_size()} process(es) on {device.type}",
            file=sys.stderr,
        )
    torch.manual_seed(config.seed)
    shared = {name: getattr(config, name) for name in ("head", "encoder", "norm", "inputs", "width")}
    model_config = ModelConfig(config.tracer, RADII_RE, pixels, field_of_view_re, **shared)
    content: dict[str, Any] = {
        "schema": RUN_SCHEMA, "model": model_config.to_json(), "fit": plain,
        "instrument": config.look.model_dump(mode="json"),
        "training": {"views": len(train), "galaxies": len(set(train.galaxy)), "left_out": skipped},
        **store.provenance(), "finished": False,
    }  # fmt: skip
    fitter = Fitter(config, MassModel(model_config), train, val, device)
    if first:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "run.json", content)
    if (out / "last.pt").exists():
        fitter.load_state(read_tensors(out / "last.pt"))
    monitor = Monitor(out / "tensorboard", first, fitter.step)
    bar = tqdm(total=config.steps, initial=fitter.step, desc=config.tracer, unit="step", disable=quiet or not first)
    while not fitter.finished():
        before = fitter.step
        values = fitter.round()
        monitor.scalars(fitter.step, values)
        bar.set_postfix(loss=f"{values['loss/val']:.2f}", dispersion=f"{values['dispersion/mean']:.3f}", refresh=False)
        bar.update(fitter.step - before)
        if first:
            write_tensors(out / "last.pt", fitter.state())
    bar.close()
    monitor.profiles(fitter.step, *fitter.examples())
    monitor.close()
    content |= {"finished": True, "steps": fitter.step, "best": fitter.best}
    if first:
        write_tensors(out / "model.pt", fitter.best_weights)
        write_json(out / "run.json", content)
        (out / "last.pt").unlink(missing_ok=True)
    return content


class Fitter:
    """State of one fit: network, optimiser, schedule, and the best weights so far."""

    def __init__(self, config: FitConfig, model: MassModel, train: Views, val: Views, device: torch.device):
        self.config, self.device = config, device
        self.look = config.look
        self._pixels = model.config.pixels
        self.model = model.to(device)
        self.train, self.val = train, val
        self._maps = train.maps.to(device)
        self._r_e = train.half_mass_radius_kpc.to(device)
        self._truth = train.log10_menc.to(device)
        mine = slice(ddp.rank(), None, ddp.world_size())
        self._val = val[np.arange(len(val))[mine]]
        self._val_observed = self._val.observed(self.look).to(device)
        if config.tracer == "any":  # a third of the views each: gas, stars, both
            self._val_observed = drop_tracers(self._val_observed, torch.arange(len(val))[mine].to(device) % 3)
        self._fit_whitening()
        self.wrapped = ddp.wrap(self.model)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            # Above the rounding of gradients that are nil, which Adam would blow up to full steps.
            eps=1e-6,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.15
        )
        self.step, self.stale = 0, 0
        self.best: dict[str, Any] = {"loss": float("inf")}
        self.best_weights: dict[str, torch.Tensor] = {}

    def _fit_whitening(self) -> None:
        profiles = []
        for start in range(0, len(self.train), 512):
            v = self.train[np.arange(start, min(start + 512, len(self.train)))]
            observed = v.observed(self.look, noisy=False)
            _, unit = self.model.inputs(observed, v.half_mass_radius_kpc)
            profiles.append(v.log10_menc - unit[:, None])
        self.model.density.fit_whitening(torch.cat(profiles))

    def finished(self) -> bool:
        """Out of steps, or of patience."""
        return self.step >= self.config.steps or self.stale >= self.config.patience

    def round(self) -> dict[str, float]:
        """Some steps and a validation; the scalars to show."""
        began, losses = time.perf_counter(), []
        steps = min(self.config.round_steps, self.config.steps - self.step)
        self.model.train()
        for _ in range(steps):
            losses.append(self._one_step())
        seconds = time.perf_counter() - began
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
        rate = float(self.schedule.get_last_lr()[0])
        speed = steps * self.config.batch / seconds
        return {"loss/train": float(np.mean(losses)), "learning_rate": rate, "samples_per_second": speed, **values}

    def _one_step(self) -> float:
        config = self.config
        draw = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        rows = torch.randint(len(self.train), (config.batch,), generator=draw)
        maps = flip_sky(self._maps[rows.to(self.device)], draw)
        noise = torch.randn(config.batch, 4, self._pixels, self._pixels, generator=draw)
        mine = slice(ddp.rank(), None, ddp.world_size())
        rows = rows[mine].to(self.device)
        noise = noise[mine].to(self.device)
        observed = observe(maps[mine], self.look, noise, self.train.field_of_view_re, self._r_e[rows])
        if config.tracer == "any":
            observed = drop_tracers(observed, torch.randint(3, (config.batch,), generator=draw)[mine].to(self.device))
        loss = -self.wrapped(observed, self._r_e[rows], self._truth[rows]).mean()
        if ddp.any_rank(not bool(torch.isfinite(loss)), self.device):
            ids = ", ".join(self.train[rows.cpu().numpy()].ids()[:8])
            raise NonFinite(f"loss is not finite at step {self.step}; views of this rank: {ids}, ...")
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self.model.eval()
        torch_state = torch.random.get_rng_state()
        torch.manual_seed(self.config.seed)
        r_e, truth = self._val.half_mass_radius_kpc.to(self.device), self._val.log10_menc.to(self.device)
        loss = -self.model(self._val_observed, r_e, truth)
        # Few samples: the curves need the median to a few hundredths of its width, no better.
        median = self.model.sample(self._val_observed, r_e, 16).median(0).values
        torch.random.set_rng_state(torch_state)
        parts = ddp.gather((loss.cpu().numpy(), (median - truth).cpu().numpy()))
        losses, residual = (np.concatenate(p) for p in zip(*parts, strict=True))
        values = {
            "loss/val": float(losses.mean()),
            "dispersion/mean": float(residual.std(0).mean()),
            "bias/mean": float(residual.mean()),
        }
        for x, d, b in zip(RADII_RE, residual.std(0), residual.mean(0), strict=True):
            values |= {f"dispersion/{x:.2f}_Re": float(d), f"bias/{x:.2f}_Re": float(b)}
        return values

    def examples(self, n: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Observed maps, radii, truth, samples and names of a few validation views, for a picture."""
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        few = np.linspace(0, len(self._val) - 1, min(n, len(self._val))).astype(int)
        v, observed = self._val[few], self._val_observed[torch.as_tensor(few)]
        samples = self.model.sample(observed, v.half_mass_radius_kpc.to(self.device), 200)
        return observed.cpu().numpy(), np.array(RADII_RE), v.log10_menc.numpy(), samples.cpu().numpy(), v.ids()

    def state(self) -> dict[str, Any]:
        """Everything that going on needs."""
        return {
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(), "step": self.step, "stale": self.stale,
            "best": self.best, "best_weights": self.best_weights,
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.stale, self.best = state["step"], state["stale"], state["best"]
        self.best_weights = state["best_weights"]
