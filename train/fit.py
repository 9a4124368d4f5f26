"""The training loop: negative log-likelihood, validated in rounds, best weights kept.

What a step sees follows (seed, step, place in the batch): two processes with half a batch each do what one does
with all of it, and a run that was stopped, killed or preempted goes on to the bit.
"""

import dataclasses
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from gen import store
from gen.instrument import Instrument, instrument, observe
from train import distributed as ddp
from train import feed as feeds
from train.calibrate import misses, temperature
from train.checkpoint import (
    FREE,
    RUN_SCHEMA,
    RunError,
    instrument_of,
    member_folders,
    read_config,
    read_last,
    remove_last,
    write_json,
    write_last,
    write_tensors,
)
from train.dataset import RADII_RE, Views
from train.monitor import Monitor
from train.network import MassModel, ModelConfig
from train.sampler import draws, normal
from train.scaling import drop_tracers, flip_sky, tracers_of

PRECISIONS = ("auto", "float32", "bf16", "float64")
#: Samples per validation view. The truth's rank among them is in the middle 17 of 25 places for 68 % of good ones.
SAMPLES, INSIDE_68 = 24, (4, 20)
VALIDATION_SEED = 1_000_003


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
    precision: str = "auto"  # of the encoders: bf16 on GPUs and float32 else; the density has float32 or float64
    compile: bool = False  # torch.compile, on GPUs only
    checkpoint_minutes: float = 5.0  # between checkpoints inside a round; each round ends with one
    memory_gb: float = 0.0  # for maps, per node; more of them are streamed. 0: half of what is free

    def __post_init__(self) -> None:
        tracers_of(self.tracer)
        _ = self.look
        for name in ("width", "steps", "round_steps", "patience", "batch", "members"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4, not {self.width}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; there are {', '.join(PRECISIONS)}")
        for name in ("checkpoint_minutes", "memory_gb"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")
        if not self.suites:
            raise ValueError("no suites to train on")

    @cached_property
    def look(self) -> Instrument:
        """The instrument, read once."""
        return instrument(self.instrument)


class NonFinite(ddp.Agreed):
    """The loss is no number: the message names the views."""


class Stopped(ddp.Agreed):
    """The run was asked to stop and has a checkpoint; the same call goes on."""


def fit_ensemble(config: FitConfig, out: Path, quiet: bool = False) -> list[dict[str, Any]]:
    """Train every member of a deep ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474), one after another.

    Member i has the seed seed + i and a folder of its own in `out`; a single network lives in `out`
    itself. Returns each member's run.json. Raises as `fit`.
    """
    folders = member_folders(out, config.members)
    with ddp.process_group():
        return [fit(dataclasses.replace(config, seed=config.seed + i), f, quiet) for i, f in enumerate(folders)]


def fit(config: FitConfig, out: Path, quiet: bool = False) -> dict[str, Any]:
    """Train, keep the best weights in the run folder `out`, and return its run.json.

    Call it on every process. A run that was stopped goes on from its last checkpoint; a finished one is left
    alone. Raises StoreError, RunError (another run lives there), NonFinite, Stopped (after `request_stop`,
    with a checkpoint) or OSError where the finished run cannot be written.
    """
    with ddp.process_group() as device, ddp.stop_on_signals():
        return _fit(config, out, device, quiet)


@dataclass
class _Start:
    """What rank 0 found in the run folder and the store."""

    finished: dict[str, Any] | None
    identity: dict[str, Any]
    status: dict[str, torch.Tensor]
    state: dict[str, Any] | None
    remark: str


def _start(config: FitConfig, plain: dict[str, Any], out: Path) -> _Start:
    known = read_config(out) if (out / "run.json").exists() else None
    if known:
        was = {f.name: f.default for f in dataclasses.fields(config)} | known["fit"]
        _refuse(out, [_differs(k, was[k], plain[k]) for k in sorted(plain) if k not in FREE and was[k] != plain[k]])
        if instrument_of(out) != config.look:
            _refuse(out, ["instrument of that name"])
        if known["finished"]:
            return _Start(known, {}, {}, None, "")
    identity = store_identity(Path(config.store), config.suites)
    if known and "store" in known:
        _refuse(out, other_store(Path(config.store), known["store"], identity))
    status = feeds.done_galaxies(Path(config.store), config.suites)
    state, remark = read_last(out)
    if state:
        # Galaxies that are finished since then wait for the next run: this one goes on with those it began with.
        for suite, before in state["galaxies"].items():
            lost = int(((before == store.DONE) & (status[suite][: len(before)] != store.DONE)).sum())
            if lost:
                raise RunError(
                    f"{out} was trained on {lost} galaxies of {suite} that are no longer done in {config.store}; "
                    "give the command that made the store again, or choose another --out"
                )
        status = state["galaxies"]
    return _Start(None, identity, status, state, remark)


def _plain(config: FitConfig) -> dict[str, Any]:
    return dataclasses.asdict(config) | {"suites": list(config.suites), "instrument": config.look.name}


def check(config: FitConfig, out: Path) -> None:
    """Raise StoreError or RunError where `fit` could not start, or not go on with what is in `out`."""
    _start(config, _plain(config), out)


def _differs(name: str, there: object, asked: object) -> str:
    return f"{name} ({there} there, {asked} asked for)"


def _refuse(out: Path, different: list[str]) -> None:
    if different:
        raise RunError(f"{out} holds a run with another {', '.join(different)}; choose another --out")


def store_identity(path: Path, suites: tuple[str, ...]) -> dict[str, Any]:
    """What tells one store from another wherever it lies: per suite its schema, its settings and its galaxies."""
    found = {}
    for suite in suites:
        group = store.open_suite(path, suite)
        names = group["galaxy"][:]
        found[suite] = {
            "schema_version": group.attrs["schema_version"],
            "config": group.attrs["config"],
            "galaxies": len(names),
            "names": _digest(names),
        }
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def _digest(names: np.ndarray) -> str:
    return hashlib.blake2b("\0".join(map(str, names)).encode(), digest_size=8).hexdigest()


def other_store(path: Path, was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In what a store differs from the one a run was trained on, as words; galaxies may have come to it."""
    words = []
    for suite, before in was.items():
        after = now[suite]
        pairs = {"schema": (before["schema_version"], after["schema_version"])} | {
            key: (before["config"].get(key), after["config"].get(key))
            for key in sorted(before["config"].keys() | after["config"].keys())
        }
        words += [_differs(f"{key} of {suite}", a, b) for key, (a, b) in pairs.items() if a != b]
        names = store.open_suite(path, suite)["galaxy"][: before["galaxies"]]
        if _digest(names) != before["names"]:
            words.append(f"list of galaxies of {suite} ({before['galaxies']} there, {after['galaxies']} asked for)")
    return words


def _fit(config: FitConfig, out: Path, device: torch.device, quiet: bool) -> dict[str, Any]:
    if config.batch % ddp.world_size():
        raise ValueError(f"batch {config.batch} does not divide by {ddp.world_size()} processes")
    if config.norm == "batch" and ddp.world_size() > 1:
        raise ValueError("norm batch would see each process' views apart; use group, or one process")
    first = ddp.rank() == 0

    def say(text: str) -> None:
        if first and not quiet:
            print(text, file=sys.stderr)

    plain = _plain(config)
    start = ddp.from_first(lambda: _start(config, plain, out))
    if start.finished:
        return start.finished
    if start.remark:
        say(start.remark)
    for suite, status in start.status.items():
        if pending := int((status == store.PENDING).sum()):
            say(f"{suite}: {pending} of {len(status)} galaxies are not mapped yet; using those that are done")
    train = feeds.galaxies_of(Path(config.store), start.status, "train", config.galaxies)
    val = feeds.galaxies_of(Path(config.store), start.status, "val")
    look = config.look
    pixels, field_of_view_re = look.grid(train.shape[-1], train.field_of_view_re)
    torch.manual_seed(config.seed)
    shared = {name: getattr(config, name) for name in ("head", "encoder", "norm", "inputs", "width")}
    model_config = ModelConfig(config.tracer, RADII_RE, pixels, field_of_view_re, **shared)
    model = MassModel(model_config)
    if start.state:  # what is streamed and validated stays the same on another machine
        memory_gb, window = start.state["memory_gb"], start.state["window"]
    else:
        memory_gb = min(ddp.gather(config.memory_gb or feeds.default_memory_gb()))
        window = feeds.window_for(train, memory_gb, config.batch)
    wanted = feeds.Wanted(config.tracer, look, config.views, lambda observed, r_e: model.inputs(observed, r_e)[1])
    feed = feeds.open_feed(train, wanted, config.batch, config.seed, window, device)
    table = feed.table
    validation = feeds.validation_views(val, config.tracer, look, 0.25 * memory_gb)
    n_galaxies = len(np.unique(table.place // train.shape[0]))
    left_out = {reason: n for reason, (n, _) in table.left_out.items()}
    n_val = sum(ddp.gather(len(validation[2])))
    say(
        f"{config.tracer} on {', '.join(config.suites)} through {look.name} ({pixels} x {pixels} pixels "
        f"over {field_of_view_re:.3g} R_e): {len(table)} views of {n_galaxies} galaxies to train, "
        f"{n_val} to validate, {sum(left_out.values())} unusable left out; "
        f"{ddp.place()}, {device.type}; {f'streamed, {window} steps at a time' if window else 'maps in memory'}"
    )
    for reason, (n, places) in table.left_out.items():
        say(f"left out {n} with {reason}: {', '.join(map(train.id, places))}{', ...' if n > len(places) else ''}")
    content: dict[str, Any] = {
        "schema": RUN_SCHEMA, "model": model_config.to_json(), "fit": plain,
        "instrument": look.model_dump(mode="json"), "store": start.identity,
        "training": {
            "views": len(table), "galaxies": n_galaxies, "left_out": sum(left_out.values()), "left_out_why": left_out,
        },
        **store.provenance(), "finished": False,
    }  # fmt: skip
    fitter = Fitter(config, model, feed, validation, device)
    if start.state:
        fitter.load_state(start.state)
        say(f"going on from step {fitter.step}")
    if first:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "run.json", content)
    monitor = Monitor(out / "tensorboard", first, fitter.step, plain)
    fixed = {"galaxies": start.status, "memory_gb": memory_gb, "window": window}
    saver = _Saver(out, fixed, config.checkpoint_minutes)
    bar = tqdm(total=config.steps, initial=fitter.step, desc=config.tracer, unit="step", disable=quiet or not first)
    while True:
        stop, due = fitter.look(saver.due())
        if fitter.round_over():
            values = fitter.end_round()
            monitor.scalars(fitter.step, values)
            rounds = -(-fitter.step // config.round_steps)
            now = fitter.finished() or rounds & (rounds - 1) == 0  # after 1, 2, 4, 8, ... rounds
            if first and now and len(validation[2]):
                monitor.profiles(fitter.step, *fitter.examples())
            bar.set_postfix(fitter.summary(values), refresh=False)
            due = True
        if due or stop:
            saver.save(fitter)
        if fitter.finished():
            break
        if stop:
            ddp.forget_stop()
            monitor.close()
            feed.close()
            raise Stopped(f"stopped at step {fitter.step} of {config.steps}; the same command goes on from there")
        bar.update(fitter.advance())
    bar.close()
    monitor.close()
    feed.close()
    content |= {"finished": True, "steps": fitter.step, "best": fitter.best}
    fitter.calibrate()
    content["temperature"] = float(fitter.best_weights["density.temperature"])
    if first:
        write_tensors(out / "model.pt", fitter.best_weights)
        write_json(out / "run.json", content)
        remove_last(out)
    return content


class _Saver:
    """Writes checkpoints; every process takes part, the first one writes."""

    def __init__(self, out: Path, fixed: dict[str, Any], minutes: float):
        self._out, self._fixed, self._minutes = out, fixed, minutes
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for one inside a round, by the first process's clock."""
        return ddp.rank() == 0 and time.monotonic() - self._last >= 60 * self._minutes

    def save(self, fitter: "Fitter") -> None:
        """Write one. A disk without room costs the checkpoint, not the run: the one before stays."""
        state = fitter.state() | self._fixed
        if ddp.rank() == 0:
            try:
                write_last(self._out, state)
            except OSError as error:
                print(
                    f"train fit: no checkpoint at step {fitter.step} ({error}); the one before stays, training goes on",
                    file=sys.stderr,
                )
        self._last = time.monotonic()


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
        feed: feeds.Feed,
        validation: tuple[Views, torch.Tensor, np.ndarray],
        device: torch.device,
    ):
        self.config, self.device, self.feed = config, device, feed
        self.look_at = config.look
        gpu = device.type == "cuda"
        self._dtype = torch.float64 if config.precision == "float64" else torch.float32
        mixed = config.precision == "bf16" or (config.precision == "auto" and gpu and torch.cuda.is_bf16_supported())
        self._pixels = model.config.pixels
        table = feed.table
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
        rows, maps = self.feed.next(self.step)
        self._waited += time.perf_counter() - began
        at = torch.from_numpy(rows[ddp.rank() :: ddp.world_size()]).to(self.device, non_blocking=True)
        bits, noise = draws(self._places + self.step * config.batch, self._pixels, config.seed)
        r_e = self._r_e[at]
        observed = observe(
            flip_sky(maps, bits & 15), self.look_at, noise, self.feed.galaxies.field_of_view_re, r_e.float()
        ).to(self._dtype)
        if config.tracer == "any":
            observed = drop_tracers(observed, ((bits >> 8) & 0xFFFF) % 3)
        log_prob = self.wrapped(observed, r_e, self._truth[at])
        loss = -log_prob.mean()
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
                ids = ", ".join(self.feed.galaxies.id(self.feed.table.place[row]) for row in views[:8])
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
            "epoch": f"{self.step * self.config.batch / len(self.feed.table):.1f}",
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
            samples = self.model.density.from_normal(features, self._val_normal[:, part]) + unit[:, None]
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
    def calibrate(self, n: int = 200) -> None:
        """Give the best weights the temperature at which validation views are covered as they should be."""
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        found = [np.empty((0, len(RADII_RE), 2))]
        width = n * (len(RADII_RE) + 1) // 2
        for part in torch.arange(len(self._val_place)).split(64) if len(self._val_place) else ():
            place = torch.from_numpy(self._val_place)[part].to(self.device)
            numbers = normal(place[:, None] * width + torch.arange(width, device=self.device), VALIDATION_SEED + 1)
            shaped = numbers.reshape(len(place), n, len(RADII_RE) + 1).transpose(0, 1).to(self._dtype)
            r_e, truth = (
                x[part].to(self.device, self._dtype) for x in (self._val.half_mass_radius_kpc, self._val.log10_menc)
            )
            features, unit = self.model.features(self._val_observed[part], r_e)
            samples = self.model.density.from_normal(features, shaped)
            found.append(misses(samples.double().cpu().numpy(), (truth - unit[:, None]).double().cpu().numpy()))
        chosen = temperature(np.concatenate(ddp.gather(np.concatenate(found))))
        self.best_weights["density.temperature"] = torch.tensor(chosen, dtype=self._dtype)

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
