"""The training loop: negative log-likelihood, validated in rounds, best weights kept.

What a step sees follows (seed, step, place in the batch): two processes with half a batch each do what one does
with all of it, and a run that was stopped, killed or preempted goes on to the bit.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from kinmass.gen.code import provenance
from kinmass.gen.storage import store
from kinmass.gen.storage.files import clear_left_behind, make_folder
from kinmass.train import distributed as ddp
from kinmass.train.data import loader
from kinmass.train.data.dataset import RADII_RE
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fitter import Fitter
from kinmass.train.loop.monitor import Monitor
from kinmass.train.model.network import MassModel, ModelConfig
from kinmass.train.run.calibration import calibrate, calibrate_across, is_calibrated
from kinmass.train.run.checkpoint import (
    FREE,
    RUN_SCHEMA,
    RunError,
    digest_of,
    instrument_in,
    is_finished,
    load,
    member_folders,
    read_begun,
    read_config,
    read_last,
    remove_last,
    write_json,
    write_last,
    write_tensors,
)


class Stopped(ddp.Agreed):
    """The run was asked to stop and has a checkpoint; the same call goes on."""


def fit_ensemble(config: FitConfig, out: Path, quiet: bool = False) -> list[dict[str, Any]]:
    """Train every member of a deep ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474), one after another.

    Member i has the seed seed + i and a folder of its own in `out`; a single network lives in `out`
    itself. Returns each member's run.json. Raises as `fit`.
    """
    folders = member_folders(out, config.members)
    with ddp.process_group():
        found = [fit(dataclasses.replace(config, seed=config.seed + i), f, quiet) for i, f in enumerate(folders)]
        for folder, left_out in without_each_suite(config, out):
            fit(left_out, folder, quiet)
        return found


def without_each_suite(config: FitConfig, out: Path) -> list[tuple[Path, FitConfig]]:
    """The fits, in folders of their own in `out`, that calibrate a run or an ensemble for suites it has not seen.

    None unless it is asked to look `across`.
    """
    fits = []
    for suite in config.suites if config.across else ():
        others = tuple(s for s in config.suites if s != suite)
        steps = max(1, round(config.steps * len(others) / len(config.suites)))
        one = dataclasses.replace(config, suites=others, steps=steps, members=1, across=False)
        fits.append((out / f"without-{suite}", one))
    return fits


def fit(config: FitConfig, out: Path, quiet: bool = False, kind: type[Fitter] = Fitter) -> dict[str, Any]:
    """Train, keep the best weights in the run folder `out`, and return its run.json.

    Call it on every process. A run that was stopped goes on from its last checkpoint; a finished one is left
    alone. Raises StoreError, RunError (another run lives there), NonFinite, Stopped (after `request_stop`,
    with a checkpoint) or OSError where the finished run cannot be written.
    """
    with ddp.process_group() as device, ddp.stop_on_signals():
        content = _fit(config, out, device, quiet, kind)
        ddp.from_first(lambda: _calibrate(config, out))
        return content


def _calibrate(config: FitConfig, out: Path) -> None:
    """Calibrate a trained network, and what it belongs to if it was the last: an ensemble, a look across suites."""
    clear_left_behind(out)
    store_path, all_of_it = Path(config.store), member_folders(out.parent, config.members)
    calibrate(out, store_path)
    if config.members > 1 and out in all_of_it and all(is_finished(folder) for folder in all_of_it):
        calibrate(out.parent, store_path)
    for run in (out, out.parent):
        without = {folder.name.removeprefix("without-"): folder for folder in run.glob("without-*")}
        if not without or not is_calibrated(run) or not all(map(is_finished, without.values())):
            continue
        if set(without) == set(read_config(run)["fit"]["suites"]):
            calibrate_across(run, store_path, without)


@dataclass
class _Start:
    """What rank 0 found in the run folder and the store."""

    finished: dict[str, Any] | None
    identity: dict[str, Any]
    status: dict[str, torch.Tensor]
    state: dict[str, Any] | None
    remark: str


def _known(config: FitConfig, plain: dict[str, Any], out: Path) -> tuple[dict[str, Any] | None, str]:
    """What `read_begun` says; raises RunError where it is another run's."""
    known, remark = read_begun(out)
    if known:
        was = {f.name: f.default for f in dataclasses.fields(config)} | known["fit"]
        _refuse(out, [_differs(k, was[k], plain[k]) for k in sorted(plain) if k not in FREE and was[k] != plain[k]])
        if instrument_in(known, out) != config.look:
            _refuse(out, ["instrument of that name"])
    return known, remark


def _start(config: FitConfig, plain: dict[str, Any], out: Path) -> _Start:
    known, remark = _known(config, plain, out)
    if known and known["finished"]:
        load(out)  # raises RunError for weights that are damaged
        return _Start(known, {}, {}, None, "")
    identity = store_identity(Path(config.store), config.suites)
    if known and "store" in known:
        _refuse(out, other_store(Path(config.store), known["store"], identity))
    status = loader.done_galaxies(Path(config.store), config.suites)
    state, more = read_last(out)
    remark = "; ".join(filter(None, (remark, more)))
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


def check(config: FitConfig, out: Path, filled: bool = True) -> None:
    """Raise StoreError or RunError where `fit` could not start, or not go on with what is in `out`.

    filled False: the store's galaxies are still to be mapped.
    """
    (_start if filled else _known)(config, _plain(config), out)


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


def _fit(config: FitConfig, out: Path, device: torch.device, quiet: bool, kind: type[Fitter]) -> dict[str, Any]:
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
    for line in store.without_dark_matter(Path(config.store), config.suites):
        say(line)
    train = loader.galaxies_of(Path(config.store), start.status, "train", config.galaxies)
    val = loader.galaxies_of(Path(config.store), start.status, "val")
    look = config.look
    pixels, field_of_view_re = look.grid(train.shape[-1], train.field_of_view_re)
    torch.manual_seed(config.seed)
    shared = {name: getattr(config, name) for name in ("head", "encoder", "norm", "inputs", "width")}
    model_config = ModelConfig(config.tracer, RADII_RE, pixels, field_of_view_re, **shared)
    model = MassModel(model_config)
    if start.state:  # what is streamed and validated stays the same on another machine
        memory_gb, window = start.state["memory_gb"], start.state["window"]
    else:
        memory_gb = min(ddp.gather(config.memory_gb or loader.default_memory_gb()))
        window = loader.window_for(train, memory_gb, config.batch)
    wanted = loader.Wanted(config.tracer, look, config.views, lambda observed, r_e: model.inputs(observed, r_e)[1])
    batches = loader.open_loader(train, wanted, config.batch, config.seed, window, device)
    table = batches.table
    validation = loader.validation_views(val, config.tracer, look, 0.25 * memory_gb)
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
        **provenance(), "finished": False,
    }  # fmt: skip
    fitter = kind(config, model, batches, validation, device)
    if start.state:
        try:
            fitter.load_state(start.state)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise RunError(f"{out}: its checkpoint is of another network ({error}); remove it to begin anew") from error
        say(f"going on from step {fitter.step}")
    if first:
        make_folder(out)
        write_json(out / "run.json", content)
    monitor = Monitor(out / "tensorboard", first, fitter.step, plain)
    fixed = {"galaxies": start.status, "memory_gb": memory_gb, "window": window, "run": content.copy()}
    saver = _Saver(out, fixed, config.checkpoint_minutes)
    with (
        contextlib.closing(batches),
        tqdm(
            total=config.steps, initial=fitter.step, desc=config.tracer, unit="step", disable=quiet or not first
        ) as bar,
    ):
        _carry_on(fitter, monitor, saver, bar)
    monitor.close()
    if not fitter.finished():
        ddp.forget_stop()
        raise Stopped(f"stopped at step {fitter.step} of {config.steps}; the same command goes on from there")
    content |= {"finished": True, "steps": fitter.step, "best": fitter.best, "weights": digest_of(fitter.best_weights)}
    if first:
        write_tensors(out / "model.pt", fitter.best_weights)
        write_json(out / "run.json", content)
        remove_last(out)
    return content


def _carry_on(fitter: Fitter, monitor: Monitor, saver: "_Saver", bar: tqdm) -> None:
    """Steps, validations and checkpoints until the fit is finished or asked to stop."""
    while True:
        stop, due = fitter.look(saver.due())
        if fitter.round_over():
            values = fitter.end_round()
            monitor.scalars(fitter.step, values)
            rounds = -(-fitter.step // fitter.config.round_steps)
            now = fitter.finished() or rounds & (rounds - 1) == 0  # after 1, 2, 4, 8, ... rounds
            if ddp.rank() == 0 and now and fitter.has_validation():
                monitor.profiles(fitter.step, *fitter.examples())
            bar.set_postfix(fitter.summary(values), refresh=False)
            due = True
        if due or stop:
            saver.save(fitter)
        if stop or fitter.finished():
            return
        bar.update(fitter.advance())


class _Saver:
    """Writes checkpoints; every process takes part, the first one writes."""

    def __init__(self, out: Path, fixed: dict[str, Any], minutes: float):
        self._out, self._fixed, self._minutes = out, fixed, minutes
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for one inside a round, by the first process's clock."""
        return ddp.rank() == 0 and time.monotonic() - self._last >= 60 * self._minutes

    def save(self, fitter: Fitter) -> None:
        """Write one. A disk without room costs the checkpoint, not the run: the one before stays."""
        state = fitter.state() | self._fixed
        if ddp.rank() == 0:
            try:
                write_last(self._out, state)
            except OSError as error:
                print(
                    f"kinmass fit: no checkpoint at step {fitter.step} ({error}); the one before stays, training goes "
                    "on",
                    file=sys.stderr,
                )
        self._last = time.monotonic()
