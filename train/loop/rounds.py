"""The rounds of a fit: steps, a validation at the end of each round, and checkpoints."""

import sys
import time
from pathlib import Path

from tqdm import tqdm

from kinmass.train import distributed as ddp
from kinmass.train.loop.fitter import Fitter
from kinmass.train.loop.monitor import Monitor
from kinmass.train.run.checkpoint import write_last
from kinmass.train.run.records import Checkpoint, FixedState


class Saver:
    """Writes checkpoints: every process has to call it, the first one writes."""

    def __init__(self, out: Path, fixed_state: FixedState, interval_minutes: float):
        self._out, self._fixed_state, self._interval_minutes = out, fixed_state, interval_minutes
        self._last_save_s = time.monotonic()
        self._is_saved = True

    def due(self) -> bool:
        """Whether a checkpoint inside a round is due, by the first process's clock."""
        return ddp.rank() == 0 and time.monotonic() - self._last_save_s >= 60 * self._interval_minutes

    def save(self, fitter: Fitter) -> None:
        """Write a checkpoint. Where the disk is full the run goes on, and the checkpoint before this one stays."""
        state: Checkpoint = {**fitter.state(), **self._fixed_state}
        is_full = False
        if ddp.rank() == 0:
            try:
                write_last(self._out, state)
            except OSError as error:
                is_full = True
                print(
                    f"kinmass fit: no checkpoint at step {fitter.step} ({error}); the one before stays, training goes "
                    "on",
                    file=sys.stderr,
                )
        self._is_saved = not ddp.any_rank(is_full)[0]
        self._last_save_s = time.monotonic()

    def how_to_go_on(self) -> str:
        """Return in words what follows a stop, after a last call of `save`."""
        if self._is_saved:
            return "the same command goes on from there"
        return "no checkpoint of it could be written: the same command goes on from the one before, if there is one"


def train_until_done(fitter: Fitter, monitor: Monitor, saver: Saver, bar: tqdm) -> None:
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
            bar.set_postfix(fitter.summary(values), refresh=False)
            checkpoint_due = True
        if checkpoint_due or stop:
            saver.save(fitter)
        if stop or fitter.finished():
            return
        bar.update(fitter.advance())
