"""The job that the processes of a launch run: one fit, which Slurm or a user may stop and start again.

A fit goes on from its run folder alone, so that a job that Slurm starts again does the same as one launched again.
"""

import ctypes
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import submitit

from kinmass.train import distributed as ddp
from kinmass.train.launch.commands import run_slurm_command
from kinmass.train.launch.status import (
    NOT_THE_CAUSE,
    attempt,
    leave_mark,
    steps_of,
)
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import Stopped, fit


@dataclass(frozen=True)
class Run:
    """One fit and its run folder."""

    folder: Path
    config: FitConfig


class FitJob(submitit.helpers.Checkpointable):
    """The function that every process of a job runs: one fit, which SIGUSR2 or SIGTERM stops with a checkpoint.

    It replaces submitit's handlers, which would start the job again at once from the last timed checkpoint, and would
    ignore SIGTERM, with which Slurm preempts. These serve, by the inherited `checkpoint`, only until the handlers here
    are set, and until then there is nothing to save.
    """

    def __init__(self, config: dict[str, Any], out: str, cluster: str):
        self.config, self.out, self.cluster = config, out, cluster
        self.signum = 0

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        ddp.request_stop()

    def __call__(self) -> None:
        """Run the fit until it ends or stops. An error it raises ends the process, with a traceback in the log."""
        signal.signal(signal.SIGUSR2, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        environment = submitit.JobEnvironment()
        logs, out = environment.paths.folder, Path(self.out)
        _forget_another_launcher(self.cluster)
        if self.cluster == "local":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: the process dies with its lane.
        if environment.num_tasks > 1:
            # CUDA_VISIBLE_DEVICES stays as Slurm set it, because process_group counts the devices that it sees.
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
            if self.cluster == "local":
                os.environ["MASTER_ADDR"] = "127.0.0.1"
        if environment.global_rank == 0:
            for earlier_attempt in range(attempt()):
                (logs / f"ended-{earlier_attempt}.json").unlink(missing_ok=True)
        steps_before = steps_of(out)[0]
        try:
            fit(FitConfig(**self.config), out)
        except Stopped as stop:
            print(stop, flush=True)
            if environment.global_rank == 0:
                made_progress = steps_of(out)[0] > steps_before
                reason = self._requeue(environment.job_id, made_progress) if self.cluster == "slurm" else "as asked"
                if reason:
                    leave_mark(logs, "stopped", reason)
                print(f"not queued again: {reason}" if reason else "queued again", flush=True)
        except BaseException as error:
            cause = cause_of(error)
            if NOT_THE_CAUSE.search(cause):
                time.sleep(2)  # until the process that is the cause, or the lane, has left its mark
            leave_mark(logs, "failed", cause)
            raise

    def _requeue(self, job_id: str, made_progress: bool) -> str:
        """Have Slurm queue this job again; return "" or why it was not asked to or refused.

        It is not asked where Slurm itself ended the job, or where the job made no progress before its time limit.
        job_id: of one in an array 36_2. By its SLURM_JOB_ID the last one would stand for the whole array: Slurm would
        tell of all its jobs, and end and queue all of them again.
        """
        job_shown = run_slurm_command("scontrol", "show", "job", "--oneliner", job_id)
        state = re.search(r"\bJobState=(\w+)", job_shown.stdout) if job_shown else None
        if job_shown is None or state is None:
            return "scontrol does not answer on the node"
        if state[1] != "RUNNING":  # It was cancelled, or preempted, and then Slurm itself queues it again.
            return f"Slurm itself ended the job ({state[1].lower()})"
        if self.signum == signal.SIGUSR2 and not made_progress:
            return "the time limit leaves no time for a single step; give more --time"
        answer = run_slurm_command("scontrol", "requeue", job_id, timeout=60)
        if answer is None or answer.returncode:
            reason = answer.stderr.strip() if answer else "no answer"
            return f"scontrol refused ({reason})"
        return ""


def _forget_another_launcher(cluster: str) -> None:
    """Remove what the shell that a job was launched from had of another launcher: sbatch passes on its environment.

    A job of one process would wait for the others that WORLD_SIZE counts, and jobs on one node would meet at one port.
    """
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        os.environ.pop(name, None)
    if cluster == "slurm":  # A lane has chosen a port for its job.
        os.environ.pop("MASTER_PORT", None)


def cause_of(error: BaseException) -> str:
    """Return in one line why a job failed: the first line of an error, or that another process of the job died.

    Of an error of NCCL it is all lines, because the last ones say what was wrong.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()]
    words = " ".join(lines if "NCCL" in str(error) else lines[:1])
    text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if NOT_THE_CAUSE.search(text):
        return f"another process of the job died, out of memory or killed? ({text})"
    return text


def job_of(run: Run, cluster: str) -> FitJob:
    """Return the job of a run, for the cluster `slurm` or `local` (this machine)."""
    plain = {name: getattr(run.config, name) for name in FitConfig.__dataclass_fields__}
    return FitJob(plain, str(run.folder.absolute()), cluster)


def signal_delay_s(limit_s: int) -> int:
    """Return how long before its time limit [s] a job is told to stop; Slurm may tell it up to 60 s earlier."""
    return min(120, max(10, limit_s // 10))
