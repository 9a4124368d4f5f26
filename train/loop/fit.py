"""The training loop: it lowers the negative log-likelihood, validates in rounds and keeps the best weights.

The views, turns and noise of a step depend only on (seed, step, place in the batch). Two processes with half a batch
each therefore do what one process does with the whole batch, and a run that was stopped, killed or preempted goes on
with the same bits.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kinmass.gen.code import provenance
from kinmass.gen.storage import store
from kinmass.gen.storage.files import clear_left_behind, make_folder
from kinmass.train import distributed as ddp
from kinmass.train.data import loader
from kinmass.train.loop.config import VIEWS_FOR_A_GPU, FitConfig
from kinmass.train.loop.fitter import Fitter, NonFinite
from kinmass.train.loop.monitor import Monitor
from kinmass.train.loop.prepare import prepare, refuse_processes
from kinmass.train.run.calibration import calibrate_all
from kinmass.train.run.checkpoint import (
    FREE_SETTINGS,
    RUN_SCHEMA,
    RunError,
    digest_of,
    instrument_in,
    load,
    member_folders,
    read_begun,
    read_config,
    read_last,
    remove_last,
    with_later_settings,
    working_in,
    write_json,
    write_last,
    write_tensors,
)
from kinmass.train.run.derived import is_calibrated
from kinmass.train.run.records import Checkpoint, FixedState, RunRecord, SuiteIdentity
from kinmass.train.run.trained_on import difference, store_differences, store_identity


class Stopped(ddp.Agreed):
    """The run was asked to stop and has written a checkpoint; the same call goes on from there."""


def fit_ensemble(config: FitConfig, out: Path, quiet: bool = False) -> list[RunRecord]:
    """Train every member of a deep ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474), one after another.

    Member i has the seed `seed + i` and a folder of its own in `out`; a single network lives in `out`
    itself. Returns the content of each member's run.json. Raises as `fit`.
    """
    folders = member_folders(out, config.members)
    # Made before the first fit, so that what is wrong with any of them is said at once.
    members = [dataclasses.replace(config, seed=config.seed + i) for i in range(config.members)]
    with ddp.process_group():
        contents = [fit(member, run, quiet) for member, run in zip(members, folders, strict=True)]
        for folder, left_out in without_each_suite(config, out):
            fit(left_out, folder, quiet)
        return contents


def without_each_suite(config: FitConfig, out: Path) -> list[tuple[Path, FitConfig]]:
    """Return the fits that leave out one suite, or one family of suites, each, as (folder in `out`, settings).

    They calibrate a run or an ensemble for suites that it was not trained on. Empty unless the configuration's
    `leave_one_suite_out` is set.
    """
    fits = []
    for family in config.left_out_together() if config.leave_one_suite_out else ():
        others = tuple(suite for suite in config.suites if suite not in family)
        steps = max(1, round(config.steps * len(others) / len(config.suites)))
        fit_without_suite = dataclasses.replace(
            config, suites=others, steps=steps, members=1, leave_one_suite_out=False, families=()
        )
        fits.append((out / f"without-{'+'.join(family)}", fit_without_suite))
    return fits


def fit(config: FitConfig, out: Path, quiet: bool = False, fitter_class: type[Fitter] = Fitter) -> RunRecord:
    """Train a network, keep its best weights in the run folder `out`, and return the content of its run.json.

    Call it on every process. A run that was stopped goes on from its last checkpoint; a finished run is left
    alone. Raises StoreError (also where another fit is at work in `out`), RunError (`out` holds another run),
    NonFinite, Stopped (after `request_stop`, with a checkpoint) or OSError where the finished run cannot be written.
    """
    with ddp.process_group() as device, ddp.stop_on_signals(), contextlib.ExitStack() as held:
        ddp.from_first(lambda: _hold(out, held))
        if not config.batch:
            config = ddp.from_first(lambda: _with_batch_for(config, out, ddp.world_size(), device.type))
        with contextlib.ExitStack() as opened:
            content = _fit(config, out, device, quiet, fitter_class, opened)
        ddp.from_first(lambda: _calibrate(config, out))
        return content


def _hold(out: Path, held: contextlib.ExitStack) -> None:
    """Hold the lock of a run folder, unless its run is done and nothing will be written.

    Two fits at work in one folder would write over each other's checkpoints, and keep one's weights beside the
    other's calibration. Raises Busy, a StoreError, where another process holds it; StoreError in a map store.
    """
    store.refuse_inside(out)
    with contextlib.suppress(RunError):
        if read_config(out)["finished"] and is_calibrated(out):
            return
    held.enter_context(working_in(out))


def _with_batch_for(config: FitConfig, out: Path, processes: int, device_type: str) -> FitConfig:
    """Return the settings with the batch of the run that was begun in `out`, or with one for these processes."""
    begun = read_begun(out)[0]
    if begun:
        return config.with_batch(begun["fit"]["batch"])
    views = VIEWS_FOR_A_GPU * processes if device_type == "cuda" else FitConfig.batch
    return config.with_batch(-(-views // processes) * processes)


def _calibrate(config: FitConfig, out: Path) -> None:
    clear_left_behind(out)
    calibrate_all(out, Path(config.store))


@dataclass
class _Start:
    """What rank 0 read from the run folder and the store: `finished` is the run.json of a run that is done.

    identity: of `store_identity`; status: per suite the galaxies' status; state: the checkpoint, if there is one;
    remark: a line for the user about files that could not be read.
    """

    finished: RunRecord | None
    identity: dict[str, SuiteIdentity]
    status: dict[str, torch.Tensor]
    state: Checkpoint | None
    remark: str


def _read_begun_run(config: FitConfig, settings: dict[str, Any], out: Path) -> tuple[RunRecord | None, str]:
    """Return what `read_begun` does. Raises RunError where the folder holds a run with other settings."""
    _refuse_another_kind(config, out)
    begun, remark = read_begun(out)
    if begun:
        earlier_settings = begun["fit"]
        # One that changes no result may have come or gone since the run began.
        if names := ", ".join(sorted((earlier_settings.keys() ^ settings.keys()) - set(FREE_SETTINGS))):
            raise RunError(
                f"{out / 'run.json'} is of another version, which differs in the settings {names}; choose another --out"
            )
        _refuse(
            out,
            [
                difference(name, earlier_settings[name], settings[name])
                for name in sorted(settings)
                if name not in FREE_SETTINGS and not _is_same(name, earlier_settings[name], settings[name])
            ],
        )
        if instrument_in(begun, out) != config.instrument_model:
            _refuse(out, ["the instrument of that name"])
    return begun, remark


def _read_start(config: FitConfig, settings: dict[str, Any], out: Path) -> _Start:
    begun, remark = _read_begun_run(config, settings, out)
    if begun:
        _refuse(out, store_differences(Path(config.store), begun["store"]))
    if begun and begun["finished"]:
        load(out)  # Raises RunError where the weights are damaged.
        return _Start(begun, {}, {}, None, "")
    identity = store_identity(Path(config.store), config.suites)
    status = loader.done_galaxies(Path(config.store), config.suites)
    state, checkpoint_remark = read_last(out)
    remark = "; ".join(filter(None, (remark, checkpoint_remark)))
    if state:
        _refuse_foreign(state, settings, out, Path(config.store))
        # The run goes on with the galaxies it began with: galaxies that were finished later are not added to it.
        for suite, status_before in state["galaxies"].items():
            lost = int(((status_before == store.DONE) & (status[suite][: len(status_before)] != store.DONE)).sum())
            if lost:
                galaxies_are = "galaxy that is" if lost == 1 else "galaxies that are"
                raise RunError(
                    f"{out} was trained on {lost} {galaxies_are} no longer done in {suite} of {config.store}; "
                    "give the command that made the store again, or choose another --out"
                )
        status = state["galaxies"]
        identity = begun["store"] if begun else identity
    return _Start(None, identity, status, state, remark)


def _refuse_another_kind(config: FitConfig, out: Path) -> None:
    """Raise RunError where a single network would be trained among an ensemble's members, or these beside one.

    Who reads the folder could use one of them only.
    """
    if config.members == 1 and any(out.glob("member-*/run.json")):
        raise RunError(f"{out} holds an ensemble; choose another --out for a single network, or give its --members")
    if config.members > 1 and (out.parent / "run.json").exists():
        raise RunError(f"{out.parent} holds a single network; choose another --out for an ensemble")


def _refuse_foreign(state: Checkpoint, settings: dict[str, Any], out: Path, store_path: Path) -> None:
    """Raise RunError for a checkpoint that another run has written: it would go on under this run's name."""
    earlier = with_later_settings(state["run"])["fit"]
    different = [
        difference(name, earlier.get(name), value)
        for name, value in sorted(settings.items())
        if name not in FREE_SETTINGS and not _is_same(name, earlier.get(name), value)
    ] or store_differences(store_path, state["run"]["store"])
    if different:
        raise RunError(f"{out}: its checkpoint is of another run: {', '.join(different)}; remove it to begin anew")


def _is_same(name: str, earlier: Any, requested: Any) -> bool:
    """Whether a setting is what it was. Runs whose weights were begun with may have moved, as the run itself may."""
    if name == "start_from" and earlier and requested:
        return [Path(run).name for run in earlier] == [Path(run).name for run in requested]
    return bool(earlier == requested)


def _settings_of(config: FitConfig) -> dict[str, Any]:
    lists = {"suites": list(config.suites), "start_from": list(config.start_from), "families": list(config.families)}
    return dataclasses.asdict(config) | lists | {"instrument": config.instrument_model.name}


def check(config: FitConfig, out: Path, filled: bool = True) -> None:
    """Raise StoreError or RunError where `fit` could not start, or could not go on with the run in `out`.

    filled: False where the store's galaxies are still to be mapped, so that only the settings are compared.
    """
    if not config.batch:
        config = _with_batch_for(config, out, 1, "cpu")
    (_read_start if filled else _read_begun_run)(config, _settings_of(config), out)


def _refuse(out: Path, different: list[str]) -> None:
    if different:
        raise RunError(f"{out} holds a run with other settings: {', '.join(different)}; choose another --out")


def _fit(
    config: FitConfig,
    out: Path,
    device: torch.device,
    quiet: bool,
    fitter_class: type[Fitter],
    opened: contextlib.ExitStack,
) -> RunRecord:
    """Do what `fit` does, without the calibration; `opened` closes what has threads, also after an error."""
    refuse_processes(config, device)
    is_first_rank = ddp.rank() == 0

    def say(text: str) -> None:
        """Print a line to stderr on the first rank, unless `quiet`."""
        if is_first_rank and not quiet:
            print(text, file=sys.stderr)

    settings = _settings_of(config)
    start = ddp.from_first(lambda: _read_start(config, settings, out))
    if start.finished:
        return start.finished
    for remark in _remarks(config, start, device):
        say(remark)
    # A run that moves to another machine streams and validates the same views as before.
    memory_gb, window = (start.state["memory_gb"], start.state["window"]) if start.state else (None, None)
    # Where it goes on, weights are the checkpoint's.
    begun_with = dataclasses.replace(config, start_from=()) if start.state else config
    prepared = prepare(begun_with, device, start.status, memory_gb, window, fitter_class)
    opened.callback(prepared.fitter.loader.close)
    for line in prepared.describe():
        say(line)
    fitter = prepared.fitter
    content: RunRecord = {
        "schema": RUN_SCHEMA, "model": fitter.model.config.to_json(), "fit": settings,
        "instrument": config.instrument_model.model_dump(mode="json"), "store": start.identity,
        "training": prepared.training(), **provenance(), "finished": False,
    }  # fmt: skip
    if start.state:
        try:
            fitter.load_state(start.state)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise RunError(f"{out}: its checkpoint is of another network ({error}); remove it to begin anew") from error
        say(f"going on from step {fitter.step}")
    if is_first_rank:
        make_folder(out)
        write_json(out / "run.json", content)
    monitor = Monitor(out / "tensorboard", is_first_rank, fitter.step, settings)
    opened.callback(monitor.close)
    fixed_state: FixedState = {
        "galaxies": start.status, "memory_gb": prepared.memory_gb, "window": prepared.window, "run": content.copy()
    }  # fmt: skip
    saver = _Saver(out, fixed_state, config.checkpoint_minutes)
    with tqdm(
        total=config.steps, initial=fitter.step, desc=config.tracer, unit="step", disable=quiet or not is_first_rank
    ) as progress_bar:
        _train_until_done(fitter, monitor, saver, progress_bar)
    if not fitter.finished():
        ddp.forget_stop()
        raise Stopped(f"stopped at step {fitter.step} of {config.steps}; the same command goes on from there")
    return _finish(fitter, content, out)


def _finish(fitter: Fitter, content: RunRecord, out: Path) -> RunRecord:
    """Write the best weights and the finished run.json; return its content. Raises NonFinite where none are best."""
    if not fitter.best_weights:
        raise NonFinite(
            f"{out}: the validation loss was not finite after any of {fitter.step} steps, so there are no weights to "
            "keep; lower --learning-rate, and choose another --out"
        )
    content |= {"finished": True, "steps": fitter.step, "best": fitter.best, "weights": digest_of(fitter.best_weights)}
    if ddp.rank() == 0:
        write_tensors(out / "model.pt", fitter.best_weights)
        write_json(out / "run.json", content)
        remove_last(out)
    return content


def _remarks(config: FitConfig, start: _Start, device: torch.device) -> Iterator[str]:
    """Yield what there is to say before a fit begins or goes on."""
    for remark in (start.remark, small_batch_remark(config.batch, ddp.world_size(), device.type)):
        if remark:
            yield remark
    for suite, status in start.status.items():
        if pending := int((status == store.PENDING).sum()):
            are = "is" if pending == 1 else "are"
            yield f"{suite}: {pending} of {len(status)} galaxies {are} not mapped yet; using those that are done"
    yield from store.without_dark_matter(Path(config.store), config.suites)


def small_batch_remark(batch: int, processes: int, device_type: str) -> str:
    """Return a warning that a GPU has too few views of a batch to be busy; "" on CPUs and for larger batches."""
    if device_type != "cuda" or batch >= VIEWS_FOR_A_GPU * processes:
        return ""
    return (
        f"warning: {batch // processes} views of each batch for a GPU take about as long as {VIEWS_FOR_A_GPU} would; "
        "take fewer GPUs, a larger --batch or --batch auto (which train another network)"
    )


def _train_until_done(fitter: Fitter, monitor: Monitor, saver: "_Saver", progress_bar: tqdm) -> None:
    """Take steps, validate and write checkpoints until the fit is finished or asked to stop."""
    while True:
        stop, checkpoint_due = fitter.agree_to_stop(saver.due())
        if fitter.round_over():
            values = fitter.end_round()
            monitor.scalars(fitter.step, values)
            rounds = -(-fitter.step // fitter.config.round_steps)
            show_examples = fitter.finished() or rounds & (rounds - 1) == 0  # after 1, 2, 4, 8, ... rounds
            if ddp.rank() == 0 and show_examples and fitter.has_validation():
                monitor.profiles(fitter.step, *fitter.examples())
            progress_bar.set_postfix(fitter.summary(values), refresh=False)
            checkpoint_due = True
        if checkpoint_due or stop:
            saver.save(fitter)
        if stop or fitter.finished():
            return
        progress_bar.update(fitter.advance())


class _Saver:
    """Writes checkpoints: every process has to call it, the first one writes."""

    def __init__(self, out: Path, fixed_state: FixedState, interval_minutes: float):
        self._out, self._fixed_state, self._interval_minutes = out, fixed_state, interval_minutes
        self._last_save_s = time.monotonic()

    def due(self) -> bool:
        """Whether a checkpoint inside a round is due, by the first process's clock."""
        return ddp.rank() == 0 and time.monotonic() - self._last_save_s >= 60 * self._interval_minutes

    def save(self, fitter: Fitter) -> None:
        """Write a checkpoint. Where the disk is full the run goes on, and the checkpoint before this one stays."""
        state: Checkpoint = {**fitter.state(), **self._fixed_state}
        if ddp.rank() == 0:
            try:
                write_last(self._out, state)
            except OSError as error:
                print(
                    f"kinmass fit: no checkpoint at step {fitter.step} ({error}); the one before stays, training goes "
                    "on",
                    file=sys.stderr,
                )
        self._last_save_s = time.monotonic()
