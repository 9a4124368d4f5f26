"""Runs jobs on this machine, in lanes: background processes that each run their jobs one after the other."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.local.local import Controller, LocalExecutor, LocalJob

from kinmass.gen.command import imports_as_here
from kinmass.gen.storage.lock import boot_id
from kinmass.train.allotted import AT_ONCE
from kinmass.train.launch.job import Run, job_of, signal_delay_s
from kinmass.train.launch.ports import free_port
from kinmass.train.launch.resources import Resources
from kinmass.train.launch.status import LaunchedJob, error_in, leave_mark, start_ticks

#: Once one process has failed, the others may wait for it for ever: they are ended this many seconds later.
_GRACE_S = 10


class _LocalExecutor(LocalExecutor):
    """Writes a job as submitit does, but leaves its start to a lane, which several jobs may share."""

    def __init__(self, folder: Path, job_id: str):
        super().__init__(folder)
        self._id = job_id

    def _submit_command(self, command: str) -> LocalJob[Any]:
        return LocalJob(self.folder, self._id)


class _Lane(Controller):
    """Runs the processes of one job on this machine."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.pid = folder.name  # the job's name in submitit's paths
        self.asked_to_stop = False
        self.exit_codes: Sequence[int | None] = ()
        signal.signal(signal.SIGTERM, self._ask_to_stop)

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True

    def wait(self, freq: int = 10) -> Sequence[int | None]:
        """Wait until all processes have ended, or until soon after one failed or the time limit; return exit codes."""
        began_s, failed_s, signalled_s = time.monotonic(), 0.0, 0.0
        while True:
            now_s = time.monotonic()
            self.exit_codes = [task.poll() for task in self.tasks]
            if any(self.exit_codes) and not failed_s:
                failed_s = now_s
                self._mark_killed()
            past_limit = self.timeout_s and now_s - began_s > self.timeout_s
            if None not in self.exit_codes or past_limit or (failed_s and now_s - failed_s > _GRACE_S):
                return self.exit_codes
            time_is_up = self.timeout_s and now_s - began_s > self.timeout_s - self.signal_delay_s
            if (
                self.asked_to_stop or time_is_up
            ) and now_s - signalled_s > 1:  # Repeated, as some may have no handler yet.
                self._forward_signal(signal.SIGTERM)
                signalled_s = now_s
            time.sleep(1 / freq)

    def _mark_killed(self) -> None:
        for process_number, code in enumerate(self.exit_codes):
            if code is not None and code < 0:
                leave_mark(
                    self.folder,
                    "failed",
                    f"process {process_number} was killed by {signal.Signals(-code).name}, out of memory?",
                )

    def end(self) -> None:
        """Leave a mark how the job ended, where its processes could not leave one."""
        if any(self.exit_codes):
            leave_mark(self.folder, "failed", error_in(self.folder) or "a process ended without a word, out of memory?")
        if None in self.exit_codes:
            leave_mark(self.folder, "failed", "ended at its time limit")


def _run_lane(folders: Sequence[str]) -> None:
    """Run jobs one after the other. It is the main function of the background process that `launch` starts."""
    for folder in map(Path, folders):
        lane = _Lane(folder)
        lane.command = [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)]
        # Each job gets a free port, because the one that submitit would choose may be taken by another job.
        os.environ["MASTER_PORT"] = str(free_port())
        lane.run(max_retry=1)
        lane.end()
        if lane.asked_to_stop:
            break


def _start_lanes(folders: Sequence[Path], resources: Resources) -> list[int]:
    """Start as many lanes as jobs may run at once, in their own sessions; return the process id of each job's lane."""
    n_lanes = min(resources.at_once or 1, len(folders))
    visible_gpus = [x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x]
    limit_s = 60 * (resources.minutes or 0)
    lanes = []
    for lane in range(n_lanes):
        environment = os.environ | {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(resources.processes),
            "SUBMITIT_LOCAL_COMMAND": "",
            "SUBMITIT_LOCAL_TIMEOUT_S": str(limit_s),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(signal_delay_s(limit_s)),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(resources.cpus)),
            AT_ONCE: str(n_lanes),
            **imports_as_here(),
        }
        if resources.gpus is not None:  # An empty list hides all GPUs.
            gpu_numbers = range(lane * resources.gpus, (lane + 1) * resources.gpus)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(
                visible_gpus[i] if i < len(visible_gpus) else str(i) for i in gpu_numbers
            )
        process = subprocess.Popen(
            [sys.executable, "-m", "kinmass.train.launch.lanes", *map(str, folders[lane::n_lanes])],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        process.returncode = 0  # It is left running on purpose: this avoids Popen's warning.
        lanes.append(process.pid)
    return [lanes[i % n_lanes] for i in range(len(folders))]


def to_this_machine(runs: Sequence[Run], resources: Resources, out: Path) -> list[LaunchedJob]:
    """Start jobs in the background of this machine and return their records."""
    logs, stamp = out.absolute() / "logs", time.strftime("%Y%m%d-%H%M%S")
    while (logs / f"local-{stamp}-0").exists():  # where two launches come within a second
        stamp += "b"
    names = [f"local-{stamp}-{i}" for i in range(len(runs))]
    for run, name in zip(runs, names, strict=True):
        _LocalExecutor(logs / name, name).submit(job_of(run, "local"))
    lane_pids = _start_lanes([logs / name for name in names], resources)
    return [
        LaunchedJob(name, "local", time.time(), pid, start_ticks(pid), boot_id(), socket.gethostname())
        for name, pid in zip(names, lane_pids, strict=True)
    ]


if __name__ == "__main__":
    _run_lane(sys.argv[1:])
