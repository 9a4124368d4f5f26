"""The training loop: it lowers the negative log-likelihood, validates in rounds and keeps the best weights.

The views, turns and noise of a step depend only on (seed, step, place in the batch). Two processes with half a batch
each therefore do what one process does with the whole batch, and a run that was stopped, killed or preempted goes on
with the same bits.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from kinmass.gen.bars import progress_bar
from kinmass.gen.code import provenance
from kinmass.gen.storage import store
from kinmass.gen.storage.files import clear_left_behind, make_folder
from kinmass.train import distributed as ddp
from kinmass.train.loop.begun import Start, read_start, settings_by_name, with_batch_for
from kinmass.train.loop.config import VIEWS_FOR_A_GPU, FitConfig
from kinmass.train.loop.fitter import Fitter, NonFinite
from kinmass.train.loop.monitor import Monitor
from kinmass.train.loop.prepare import prepare
from kinmass.train.loop.rounds import Saver, train_until_done
from kinmass.train.run.calibration import calibrate_all
from kinmass.train.run.checkpoint import (
    RUN_SCHEMA,
    RunError,
    digest_of,
    member_folders,
    read_config,
    remove_last,
    working_in,
    write_json,
    write_tensors,
)
from kinmass.train.run.derived import is_calibrated
from kinmass.train.run.records import FixedState, RunRecord
from kinmass.train.run.trained_on import seen_of


class Stopped(ddp.Agreed):
    """The run was asked to stop; the same call goes on from its last checkpoint, as the message says."""


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
            config = ddp.from_first(lambda: with_batch_for(config, out, ddp.world_size(), device.type))
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


def _calibrate(config: FitConfig, out: Path) -> None:
    clear_left_behind(out)
    calibrate_all(out, Path(config.store))


@dataclass(frozen=True)
class _Begun:
    """A fit that is about to take its next step, and what is kept of it. fixed_state: of its checkpoints."""

    fitter: Fitter
    content: RunRecord
    fixed_state: FixedState


def _begin(
    config: FitConfig,
    out: Path,
    start: Start,
    device: torch.device,
    say: Callable[[str], None],
    fitter_class: type[Fitter],
    opened: contextlib.ExitStack,
) -> _Begun:
    """Make the fit of a start that is not finished, and bring it to where its checkpoint is; `opened` closes it."""
    for remark in _remarks(config, start, device):
        say(remark)
    # A run that moves to another machine streams and validates the same views as before. One that is given less memory
    # than it had streams others from there on, or it could not go on at all.
    memory_gb, window = (start.state["memory_gb"], start.state["window"]) if start.state else (None, None)
    if memory_gb is not None and 0 < config.memory_gb < memory_gb:
        window = None
    # Where it goes on, weights are the checkpoint's.
    begun_with = dataclasses.replace(config, start_from=()) if start.state else config
    prepared = prepare(begun_with, device, start.status, memory_gb, window, fitter_class)
    fitter = prepared.fitter
    opened.callback(fitter.loader.close)
    for line in prepared.describe():
        say(line)
    content: RunRecord = {
        "schema": RUN_SCHEMA, "model": fitter.model.config.to_json(), "fit": settings_by_name(config),
        "instrument": config.instrument_model.model_dump(mode="json"), "store": start.identity,
        "training": prepared.training(), "seen": prepared.seen, **provenance(), "finished": False,
    }  # fmt: skip
    if start.state:
        content["seen"] = seen_of(start.state["run"])  # with what the weights that it began with have seen
        try:
            fitter.load_state(start.state)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"{out}: its checkpoint is of another network ({error}); remove it to begin anew") from error
        say(f"going on from step {fitter.step}")
    fixed_state: FixedState = {
        "galaxies": start.status, "memory_gb": prepared.memory_gb, "window": prepared.window, "run": content.copy()
    }  # fmt: skip
    return _Begun(fitter, content, fixed_state)


def _fit(
    config: FitConfig,
    out: Path,
    device: torch.device,
    quiet: bool,
    fitter_class: type[Fitter],
    opened: contextlib.ExitStack,
) -> RunRecord:
    """Do what `fit` does, without the calibration; `opened` closes what has threads, also after an error."""
    config.refuse_processes(ddp.world_size(), device.type == "cuda")
    is_first_rank = ddp.rank() == 0

    def say(text: str) -> None:
        """Print a line to stderr on the first rank, unless `quiet`."""
        if is_first_rank and not quiet:
            print(text, file=sys.stderr)

    start = ddp.from_first(lambda: read_start(config, out))
    if start.finished:
        if start.remark:
            say(start.remark)
        return start.finished
    begun = _begin(config, out, start, device, say, fitter_class, opened)
    fitter = begun.fitter
    if is_first_rank:
        make_folder(out)
        write_json(out / "run.json", begun.content)
    monitor = Monitor(out / "tensorboard", is_first_rank, fitter.step, begun.content["fit"])
    opened.callback(monitor.close)
    saver = Saver(out, begun.fixed_state, config.checkpoint_minutes)
    with progress_bar(
        total=config.steps, initial=fitter.step, desc=config.tracer, unit="step", disable=quiet or not is_first_rank
    ) as bar:
        train_until_done(fitter, monitor, saver, bar)
    if not fitter.finished():
        ddp.forget_stop()
        raise Stopped(f"stopped at step {fitter.step} of {config.steps}; {saver.how_to_go_on()}")
    return _finish(fitter, begun.content, out)


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


def _remarks(config: FitConfig, start: Start, device: torch.device) -> Iterator[str]:
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
