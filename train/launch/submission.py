"""Fits as jobs of Slurm or as processes of this machine. The one file that knows submitit.

A job runs `train.loop.fit.fit` in all its processes; the run folder is all that going on needs, so a job that Slurm
starts again and one that is launched again do the same.
"""

import ctypes
import fcntl
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from submitit.core.utils import FailedSubmissionError, UncompletedJobError
from submitit.local.local import Controller, LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from gen.storage import store
from train import distributed as ddp
from train.launch.resources import LaunchError, Resources
from train.launch.status import (
    ANOTHER,
    BUSY,
    absolute,
    ask,
    attempt,
    boot,
    error_in,
    leave_mark,
    log_of,
    record_of,
    started,
    states,
    steps_of,
)
from train.loop.config import FitConfig
from train.loop.fit import Stopped, check, fit, without_each_suite
from train.run.checkpoint import member_folders, write_json

_NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")
#: After one process failed the others may wait for it in vain: they are ended this many seconds later.
_GRACE_S = 10


@dataclass(frozen=True)
class Run:
    """One fit and its run folder."""

    folder: Path
    config: FitConfig


def planned(
    maps: Path,
    out: Path,
    pairs: Sequence[tuple[str, tuple[str, ...]]],
    below: bool,
    filled: bool = True,
    **options: Any,
) -> list[Run]:
    """A run per (tracer, suites) and member of its ensemble; each in a folder of its own where `below` out.

    filled False: the store's galaxies are still to be mapped.
    Raises StoreError, ValueError or OSError with what is wrong with the store or the settings.
    """
    known = store.suites(maps)
    for suite in dict.fromkeys(suite for _, suites in pairs for suite in suites):
        group = store.open_suite(maps, suite)
        if filled and not (store.read_status(group) == store.DONE).any():
            raise store.StoreError(f"{maps}: no finished galaxy in {suite}; run `python -m gen maps` to its end")
    look = options.get("instrument", "")
    if look.endswith((".yaml", ".yml")):
        options["instrument"] = str(Path(look).absolute())
    seed, members, runs = options.pop("seed", 0), options.get("members", 1), []
    if members < 1:
        raise LaunchError(f"members must be at least 1, not {members}")
    for tracer, suites in pairs:
        name = tracer if set(suites) == set(known) else f"{tracer}-on-{'+'.join(suites)}"
        home = out / name if below else out
        for i, folder in enumerate(member_folders(home, members)):
            runs.append(Run(folder, FitConfig.asked(str(maps.absolute()), tracer, suites, seed=seed + i, **options)))
        first = FitConfig.asked(str(maps.absolute()), tracer, suites, seed=seed, **options)
        runs += [Run(folder, config) for folder, config in without_each_suite(first, home)]
    return runs


def refuse(runs: Sequence[Run], wanted: Resources, out: Path) -> list[str]:
    """Raise LaunchError or RunError for what cannot work; what may not work comes back as warnings."""
    for run in runs:
        if run.config.batch % wanted.world:
            raise LaunchError(
                f"batch {run.config.batch} does not divide by {wanted.nodes} nodes x {wanted.processes} processes"
            )
        if run.config.norm == "batch" and wanted.world > 1:
            raise LaunchError("norm batch would see each process' views apart; use group, or one process")
        check(run.config, run.folder, filled=wanted.after is None)
    if wanted.cluster != "slurm":
        return []
    largest = _largest_array(wanted.site)
    if largest is not None and len(runs) > largest:
        raise LaunchError(
            f"{len(runs)} jobs are more than the largest array here, {largest} (MAX_ARRAY); ask for fewer"
        )
    paths = {"--out": out.resolve(), "--store": Path(runs[0].config.store).resolve()}
    return [
        f"warning: {option} {path} is in {place}, which nodes do not share as a rule"
        for option, path in paths.items()
        for place in _NODE_LOCAL
        if path.is_relative_to(place)
    ]


def _largest_array(site: dict[str, str]) -> int | None:
    if site.get("MAX_ARRAY"):
        if not site["MAX_ARRAY"].isdecimal():
            raise LaunchError(f"MAX_ARRAY={site['MAX_ARRAY']} is no whole number")
        return int(site["MAX_ARRAY"])
    asked = ask("scontrol", "show", "config", timeout=5)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", asked.stdout, re.MULTILINE) if asked else None
    return int(found[1]) if found else None


# ---- the job


class FitJob(submitit.helpers.Checkpointable):
    """What every process of a job runs: one fit, stopped by SIGUSR2 or SIGTERM with a checkpoint.

    submitit's own handlers would start the job again at once from the last timed checkpoint, and would pass over
    SIGTERM, with which Slurm preempts. They serve only until the ones here are in place (there is nothing to
    save before), by way of the inherited `checkpoint`.
    """

    def __init__(self, config: dict[str, Any], out: str, cluster: str):
        self.config, self.out, self.cluster = config, out, cluster
        self.signum = 0

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        ddp.request_stop()

    def __call__(self) -> None:
        """Run the fit to its end or stop; what it raises ends the process with a traceback in the log."""
        signal.signal(signal.SIGUSR2, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        environment = submitit.JobEnvironment()
        logs, out = environment.paths.folder, Path(self.out)
        if self.cluster == "local":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphan goes on writing
        if environment.num_tasks > 1:
            # CUDA_VISIBLE_DEVICES stays as Slurm bound it: process_group counts the devices that it sees.
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
            if self.cluster == "local":
                os.environ["MASTER_ADDR"] = "127.0.0.1"
        if environment.global_rank == 0:
            for before in range(attempt()):
                (logs / f"ended-{before}.json").unlink(missing_ok=True)
        begun_at = steps_of(out)[0]
        try:
            fit(FitConfig(**self.config), out)
        except Stopped as stop:
            print(stop, flush=True)
            if environment.global_rank == 0:
                why = self._not_again(steps_of(out)[0] > begun_at) if self.cluster == "slurm" else "as asked"
                if why:
                    leave_mark(logs, "stopped", why)
                print(f"not queued again: {why}" if why else "queued again", flush=True)
        except BaseException as error:
            text = _first_line(error)
            if ANOTHER.search(text):
                time.sleep(2)  # that other one, or the lane, may say why
                text = f"another process of the job died, out of memory or killed? ({text})"
            leave_mark(logs, "failed", text)
            raise

    def _not_again(self, went_on: bool) -> str:
        """Have Slurm queue this job again; why not, where it ends the job for good or queues it again by itself."""
        job = os.environ["SLURM_JOB_ID"]
        shown = ask("scontrol", "show", "job", "--oneliner", job)
        state = re.search(r"\bJobState=(\w+)", shown.stdout) if shown else None
        if shown is None or state is None:
            return "scontrol does not answer on the node"
        if state[1] != "RUNNING":  # cancelled, or preempted with Slurm queueing it again
            return f"Slurm itself ended the job ({state[1].lower()})"
        if self.signum == signal.SIGUSR2 and not went_on:
            return "the time limit leaves no time for a single step; give more --time"
        asked = ask("scontrol", "requeue", job, timeout=60)
        if asked is None or asked.returncode:
            why = asked.stderr.strip() if asked else "no answer"
            return f"scontrol refused ({why})"
        return ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


# ---- jobs of this machine


class _LocalExecutor(LocalExecutor):
    """Writes a job as submitit does, but leaves starting it to a lane: several jobs may share one."""

    def __init__(self, folder: Path, job_id: str):
        super().__init__(folder)
        self._id = job_id

    def _submit_command(self, command: str) -> LocalJob[Any]:
        return LocalJob(self.folder, self._id)


class _Lane(Controller):
    """Runs the processes of one job of this machine."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.pid = folder.name  # the job's name in submitit's paths
        self.asked_to_stop = False
        self.codes: Sequence[int | None] = ()
        signal.signal(signal.SIGTERM, self._ask_to_stop)

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True

    def wait(self, freq: int = 10) -> Sequence[int | None]:
        """Exit codes, once all have ended, or soon after one failed or the time was over."""
        began, failed, asked = time.monotonic(), 0.0, 0.0
        while True:
            now = time.monotonic()
            self.codes = [task.poll() for task in self.tasks]
            if any(self.codes) and not failed:
                failed = now
                self._say_why()
            late = self.timeout_s and now - began > self.timeout_s
            if None not in self.codes or late or (failed and now - failed > _GRACE_S):
                return self.codes
            over = self.timeout_s and now - began > self.timeout_s - self.signal_delay_s
            if (self.asked_to_stop or over) and now - asked > 1:  # again and again: not all may listen yet
                self._forward_signal(signal.SIGTERM)
                asked = now
            time.sleep(1 / freq)

    def _say_why(self) -> None:
        for k, code in enumerate(self.codes):
            if code is not None and code < 0:
                leave_mark(
                    self.folder, "failed", f"process {k} was killed by {signal.Signals(-code).name}, out of memory?"
                )

    def end(self) -> None:
        """Say how the job ended where its processes could not."""
        if any(self.codes):
            leave_mark(self.folder, "failed", error_in(self.folder) or "a process ended without a word, out of memory?")
        if None in self.codes:
            leave_mark(self.folder, "failed", "ended at its time limit")


def _lane(folders: Sequence[str]) -> None:
    """Run jobs one after the other; a process of its own, which `launch` leaves behind."""
    for folder in map(Path, folders):
        lane = _Lane(folder)
        lane.command = [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)]
        # A port of its own: the one that submitit would draw may be taken on a machine with other jobs.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
        lane.run(max_retry=1)
        lane.end()
        if lane.asked_to_stop:
            break


def _start_lanes(folders: Sequence[Path], wanted: Resources) -> list[int]:
    """Start as many lanes as jobs may run at once, in sessions of their own; the process number of each job's lane."""
    n = min(wanted.at_once or 1, len(folders))
    seen = [x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x]
    limit_s = 60 * (wanted.minutes or 0)
    lanes = []
    for lane in range(n):
        environment = os.environ | {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(wanted.processes),
            "SUBMITIT_LOCAL_COMMAND": "",
            "SUBMITIT_LOCAL_TIMEOUT_S": str(limit_s),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(_signal_delay_s(limit_s)),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(wanted.cpus)),
            "TQDM_MININTERVAL": "30",
        }
        if wanted.gpus is not None:
            mine = range(lane * wanted.gpus, (lane + 1) * wanted.gpus)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(seen[i] if i < len(seen) else str(i) for i in mine)
        process = subprocess.Popen(
            [sys.executable, "-m", "train.launch.submission", *map(str, folders[lane::n])],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        process.returncode = 0  # left behind on purpose: no warning that it still runs
        lanes.append(process.pid)
    return [lanes[i % n] for i in range(len(folders))]


# ---- submitting


def _signal_delay_s(limit_s: int) -> int:
    """How long before its time limit a job is told to stop; Slurm may tell it up to 60 s earlier."""
    return min(120, max(10, limit_s // 10))


def sbatch_parameters(wanted: Resources, jobs: int) -> dict[str, Any]:
    """The job as submitit's parameters: none of its defaults that bite (5 minutes, a wckey) is left."""
    site, gpus = wanted.site, wanted.gpus
    extra: dict[str, Any] = {}
    for word in shlex.split(site.get("SBATCH_EXTRA", "")):
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"--[a-z][a-z-]*", name):
            raise LaunchError(f"SBATCH_EXTRA: {word!r} is no option of sbatch; write it like --mem=64G --exclusive")
        extra[name[2:]] = value if equals else True
    limit_s = 60 * (wanted.minutes or 0)
    parameters = {
        "job_name": "kinmass", "time": wanted.minutes, "nodes": wanted.nodes, "ntasks_per_node": wanted.processes,
        "cpus_per_task": wanted.cpus, "account": site.get("ACCOUNT"), "qos": site.get("QOS"),
        "partition": (site.get("GPU_PARTITION") if gpus else None) or site.get("PARTITION"),
        "constraint": site.get("CONSTRAINT"), "wckey": site.get("WCKEY"),
        "signal_delay_s": _signal_delay_s(limit_s), "stderr_to_stdout": True,
        "array_parallelism": wanted.at_once or jobs,
        "setup": [*filter(None, [site.get("SETUP")]), f"export OMP_NUM_THREADS={wanted.cpus} TQDM_MININTERVAL=30"],
        # srun does not take --cpus-per-task over from sbatch; one process that fails ends them all.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={wanted.cpus}"],
        # On hold until its folder and record are there; again in the queue after preemption or a node's failure.
        "additional_parameters": {"hold": True, "requeue": True, "kill-on-invalid-dep": "yes"} | extra,
    }  # fmt: skip
    if wanted.after:
        parameters["dependency"] = f"afterok:{wanted.after}"
    if gpus:
        parameters |= {"gres": f"{site['GPU_GRES']}:{gpus}"} if site.get("GPU_GRES") else {"gpus_per_node": gpus}
    return parameters


def _python(site: dict[str, str]) -> str:
    return site.get("PYTHON") or shlex.quote(sys.executable)


def sbatch_script(wanted: Resources, jobs: int, out: Path) -> str:
    """The script that sbatch would get."""
    folder = out.absolute() / "logs" / "%j"
    command = f"{_python(wanted.site)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return _make_sbatch_string(command, folder, **sbatch_parameters(wanted, jobs), map_count=jobs if jobs > 1 else None)


def _fit_job(run: Run, cluster: str) -> FitJob:
    plain = {name: getattr(run.config, name) for name in FitConfig.__dataclass_fields__}
    return FitJob(plain, str(run.folder.absolute()), cluster)


def _to_slurm(runs: Sequence[Run], wanted: Resources, out: Path) -> list[dict[str, Any]]:
    logs = out.absolute() / "logs"
    executor = SlurmExecutor(logs / "%j", python=_python(wanted.site))
    executor.update_parameters(**sbatch_parameters(wanted, len(runs)))
    try:
        # submitit prints what sbatch says, which is in the error too.
        where = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CONF_SERVER") if name in os.environ}
        with submitit.helpers.clean_env(), redirect_stderr(io.StringIO()):
            os.environ.update(where)  # which Slurm, not which job of it
            jobs = executor.submit_array([_fit_job(run, "slurm") for run in runs])
    except (UncompletedJobError, FailedSubmissionError, OSError) as error:
        for left in logs.glob("*.pkl*"):
            left.unlink()
        who = f"{logs} cannot be written" if isinstance(error, OSError) else "sbatch refused the job"
        raise LaunchError(f"{who}: {' '.join(str(error).split())}") from error
    finally:
        for left in logs.glob(".submission_file_*"):
            left.unlink()
    return [{"job": job.job_id} for job in jobs]


def _release(jobs: Sequence[str]) -> None:
    main = jobs[0].split("_")[0]
    asked = ask("scontrol", "release", main)
    if asked is None or asked.returncode:
        why = asked.stderr.strip() if asked else "no answer"
        raise LaunchError(f"job {main} is queued but held ({why}); give `scontrol release {main}`")


def _to_this_machine(runs: Sequence[Run], wanted: Resources, out: Path) -> list[dict[str, Any]]:
    logs, stamp = out.absolute() / "logs", time.strftime("%Y%m%d-%H%M%S")
    while (logs / f"local-{stamp}-0").exists():  # launched twice in a second
        stamp += "b"
    names = [f"local-{stamp}-{i}" for i in range(len(runs))]
    for run, name in zip(runs, names, strict=True):
        _LocalExecutor(logs / name, name).submit(_fit_job(run, "local"))
    lanes = _start_lanes([logs / name for name in names], wanted)
    return [
        {"job": name, "pid": pid, "started": started(pid), "boot": boot(), "host": socket.gethostname()}
        for name, pid in zip(names, lanes, strict=True)
    ]


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else launches into `out` meanwhile. Raises LaunchError where somebody does."""
    (out / "logs").mkdir(parents=True, exist_ok=True)
    with open(out / "logs" / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchError(f"another launch into {out} is at work; wait for it") from None
        except OSError:  # a file system without locks: nothing better to be had
            pass
        yield


def launch(runs: Sequence[Run], wanted: Resources, out: Path, dry_run: bool = False) -> int:
    """Start every run that is neither finished nor under way; says what it did and returns.

    Raises LaunchError, RunError with what cannot work, before anything is queued.
    """
    if wanted.cluster == "slurm" and not dry_run and not shutil.which("srun"):
        raise LaunchError("there is no srun here: launch from a login node of Slurm, or with --cluster local")
    for warning in refuse(runs, wanted, out):
        print(warning, file=sys.stderr)
    if dry_run:
        _announce(runs, wanted, out)
        if wanted.cluster == "slurm":
            print(sbatch_script(wanted, len(runs), out))
        return 0
    if wanted.cluster == "debug":
        for run in runs:
            fit(run.config, run.folder)
        return 0
    with _alone(out):
        standing = {absolute(state.run): state for state in states(out)}
        todo = []
        for run in runs:
            state = standing.get(absolute(run.folder))
            if state and state.name in ("finished", *BUSY):
                print(f"left alone: {state}")
            else:
                todo.append(run)
        if not todo:
            return 0
        jobs = (_to_slurm if wanted.cluster == "slurm" else _to_this_machine)(todo, wanted, out)
        record = record_of(out)
        for run, job in zip(todo, jobs, strict=True):
            record[os.path.relpath(run.folder, out)] = job | {"cluster": wanted.cluster, "at": time.time()}
        try:
            write_json(out / "logs" / "launched.json", {"jobs": record})
        except OSError:
            if wanted.cluster == "slurm":  # nobody would know of them, and they are on hold
                ask("scancel", *(job["job"] for job in jobs))
            raise
    if wanted.cluster == "slurm":
        _release([job["job"] for job in jobs])
    _announce(todo, wanted, out, [job["job"] for job in jobs])
    return 0


def _announce(runs: Sequence[Run], wanted: Resources, out: Path, jobs: Sequence[str] = ()) -> None:
    limit = f", at most {wanted.minutes} minutes" if wanted.minutes else ""
    print(f"{len(runs)} job(s) of {wanted.nodes} node(s) x {wanted.processes} process(es){limit}:")
    for run, job in zip(runs, jobs or [""] * len(runs), strict=True):
        print(f"  {job or 'would run'}  {run.folder}" + (f"  log {log_of(out, job)}" if job else ""))
    if jobs:
        print(f"curves: tensorboard --logdir {out}\nhow they stand: python -m train launch --status --out {out}")


if __name__ == "__main__":
    _lane(sys.argv[1:])
