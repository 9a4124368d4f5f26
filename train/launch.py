"""Fits as jobs of Slurm or as processes of this machine, and how each stands. The one file that knows submitit.

A job runs `train.fit.fit` in all its processes; the run folder is all that going on needs, so a job that Slurm
starts again and one that is launched again do the same. How a run stands is told by files (its run folder, the
record logs/launched.json, the marks that jobs leave in logs/<job id>/), by process numbers, and by squeue.
"""

import ctypes
import fcntl
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from submitit.core.utils import FailedSubmissionError, UncompletedJobError
from submitit.local.local import Controller, LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from gen import store
from train import distributed as ddp
from train.checkpoint import RunError, member_folders, read_config, read_tensors, write_json
from train.fit import FitConfig, Stopped, check, fit

#: What a site file may hold; slurm/site.example.env says what each is.
SITE_KEYS = (
    "ACCOUNT", "PARTITION", "GPU_PARTITION", "QOS", "CONSTRAINT", "WCKEY", "GPUS_PER_NODE", "GPU_GRES",
    "CPUS_PER_TASK", "MAX_ARRAY", "SBATCH_EXTRA", "SETUP", "PYTHON", "MPIRUN",
)  # fmt: skip
#: States in which a run has, or will have, somebody who writes in its folder.
BUSY = ("queued", "running", "going on", "ending", "unknown")
_NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")
#: After one process failed the others may wait for it in vain: they are ended this many seconds later.
_GRACE_S = 10
#: What a process says when it is not the cause.
_ANOTHER = re.compile(
    r"closed by peer|connection (reset|refused)|remote process exited|NCCL|Exited with exit code", re.IGNORECASE
)


class LaunchError(ValueError):
    """What cannot work, said before anything is queued."""


# ---- what is asked for


def minutes(text: str) -> int:
    """A time limit in minutes, rounded up: 8h, 90m, 2d, 1h30m, 08:00:00 or 1-12:00:00. Raises LaunchError."""
    units = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    found = units or clock
    days, hours, mins, seconds = (int(n or 0) for n in found.groups()) if found else (0, 0, 0, 0)
    total = -(-(((days * 24 + hours) * 60 + mins) * 60 + seconds) // 60)
    if total < 1:
        raise LaunchError(f"time limit {text!r} is not understood; write it like 8h, 90m, 08:00:00 or 1-12:00:00")
    return total


def read_site(path: Path) -> dict[str, str]:
    """The settings in a site file of bash assignments, which is read and never executed. Raises LaunchError."""
    try:
        words = shlex.split(path.read_text(), comments=True)
    except (OSError, ValueError) as error:
        raise LaunchError(f"{path} cannot be read as KEY=value lines: {error}") from error
    site = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in SITE_KEYS:
            raise LaunchError(
                f"{path}: {word!r} is no KEY=value that is known (values with spaces need quotes); "
                f"there are {', '.join(SITE_KEYS)}"
            )
        if key not in ("SETUP", "MPIRUN"):  # those are for bash
            try:
                value = string.Template(value).substitute(os.environ | {"PWD": os.getcwd()})
            except (KeyError, ValueError) as error:
                raise LaunchError(
                    f"{path}: {key}={value} cannot be used, it is not executed: only $NAME of variables that are set "
                    f"may stand in it ({type(error).__name__}: {error})"
                ) from error
        site[key] = value
    return site


@dataclass(frozen=True)
class Resources:
    """Where and on what every job runs."""

    cluster: str  # slurm, local or debug
    nodes: int = 1
    processes: int = 1  # per node
    gpus: int | None = None  # per node
    cpus: int = 1  # per process
    minutes: int | None = None  # time limit
    at_once: int | None = None  # jobs of the array that may run at the same time
    site: dict[str, str] = field(default_factory=dict)

    @property
    def world(self) -> int:
        """Processes of one job."""
        return self.nodes * self.processes


def resources(
    cluster: str, site: dict[str, str], nodes: int = 1, gpus: int | None = None, processes: int | None = None,
    time_limit: str | None = None, at_once: int | None = None,
) -> Resources:  # fmt: skip
    """What the options and the site file ask for together. Raises LaunchError with what cannot work."""

    def number(key: str) -> int | None:
        try:
            return int(site[key]) if site.get(key) else None
        except ValueError:
            raise LaunchError(f"{key}={site[key]} is no whole number") from None

    if cluster == "slurm" and gpus is None:
        gpus = number("GPUS_PER_NODE")
    asked = {"nodes": nodes, "processes per node": processes, "jobs at once": at_once}
    for name, value in asked.items():
        if value is not None and value < 1:
            raise LaunchError(f"{name} must be at least 1, not {value}")
    if gpus and processes not in (None, gpus):
        raise LaunchError(f"{processes} processes on {gpus} GPUs of a node: every process needs a GPU of its own")
    processes = processes or gpus or 1
    if cluster != "slurm" and nodes > 1:
        raise LaunchError(f"--cluster {cluster} has one node, not {nodes}")
    if cluster == "debug" and processes > 1:
        raise LaunchError(f"--cluster debug runs in this process alone, not in {processes}; take --cluster local")
    limit = minutes(time_limit) if time_limit else (8 * 60 if cluster == "slurm" else None)
    spare = 4 if gpus else max(1, (os.cpu_count() or 1) // processes) if cluster == "local" else 1
    return Resources(
        cluster, nodes, processes, gpus, number("CPUS_PER_TASK") or spare, limit, at_once,
        {k: v for k, v in site.items() if v},
    )  # fmt: skip


def combinations(array: str, known: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """(tracer, suites) of every job of an array such as "gas,stars,both x bursty,quiet,bursty+quiet".

    Without " x ..." each tracer is trained on all `known` suites, and so it is for a set called "all".
    """
    tracers, *sets = re.split(r"\s+x\s+", array.strip())
    if len(sets) > 1:
        raise LaunchError(f"--array {array!r} has more than one ' x '; write it like 'gas,both x bursty,bursty+quiet'")
    chosen = [tuple(known) if s == "all" else tuple(s.split("+")) for s in (sets[0] if sets else "all").split(",")]
    pairs = [(tracer.strip(), tuple(s.strip() for s in suites)) for tracer in tracers.split(",") for suites in chosen]
    if len(set(pairs)) < len(pairs):
        raise LaunchError(f"--array {array!r} names a combination twice")
    return pairs


@dataclass(frozen=True)
class Run:
    """One fit and its run folder."""

    folder: Path
    config: FitConfig


def planned(
    maps: Path, out: Path, pairs: Sequence[tuple[str, tuple[str, ...]]], below: bool, **options: Any
) -> list[Run]:
    """A run per (tracer, suites) and member of its ensemble; each in a folder of its own where `below` out.

    Raises StoreError, ValueError or OSError with what is wrong with the store or the settings.
    """
    known = store.suites(maps)
    for suite in dict.fromkeys(suite for _, suites in pairs for suite in suites):
        if not (store.read_status(store.open_suite(maps, suite)) == store.DONE).any():
            raise store.StoreError(f"{maps}: no finished galaxy in {suite}; run `python -m gen maps` to its end")
    look = options.get("instrument", "")
    if look.endswith((".yaml", ".yml")):
        options["instrument"] = str(Path(look).absolute())
    seed, members, runs = options.pop("seed", 0), options.get("members", 1), []
    if members < 1:
        raise LaunchError(f"members must be at least 1, not {members}")
    for tracer, suites in pairs:
        name = tracer if set(suites) == set(known) else f"{tracer}-on-{'+'.join(suites)}"
        for i, folder in enumerate(member_folders(out / name if below else out, members)):
            runs.append(Run(folder, FitConfig(str(maps.absolute()), tracer, suites, seed=seed + i, **options)))
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
        check(run.config, run.folder)
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
    asked = _ask("scontrol", "show", "config", timeout=5)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", asked.stdout, re.MULTILINE) if asked else None
    return int(found[1]) if found else None


def _ask(*line: str, timeout: float = 20) -> subprocess.CompletedProcess[str] | None:
    """What a command of Slurm says; None where there is no such command, or no answer in time."""
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


# ---- the job


def _attempt() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _mark(folder: Path, how: str, text: str) -> None:
    """Leave in a job's log folder how this attempt ended; the first to say so is right, the others follow from it."""
    content = {"how": how, "text": text, "rank": int(os.environ.get("RANK", 0))}
    try:
        with open(folder / f"ended-{_attempt()}.json", "x") as file:
            file.write(json.dumps(content))
    except OSError:  # said already, or the disk is full: then squeue must do
        return


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
            for attempt in range(_attempt()):
                (logs / f"ended-{attempt}.json").unlink(missing_ok=True)
        before = _steps(out)[0]
        try:
            fit(FitConfig(**self.config), out)
        except Stopped as stop:
            print(stop, flush=True)
            if environment.global_rank == 0:
                why = self._not_again(_steps(out)[0] > before) if self.cluster == "slurm" else "as asked"
                if why:
                    _mark(logs, "stopped", why)
                print(f"not queued again: {why}" if why else "queued again", flush=True)
        except BaseException as error:
            text = _first_line(error)
            if _ANOTHER.search(text):
                time.sleep(2)  # that other one, or the lane, may say why
                text = f"another process of the job died, out of memory or killed? ({text})"
            _mark(logs, "failed", text)
            raise

    def _not_again(self, went_on: bool) -> str:
        """Have Slurm queue this job again; why not, where it ends the job for good or queues it again by itself."""
        job = os.environ["SLURM_JOB_ID"]
        shown = _ask("scontrol", "show", "job", "--oneliner", job)
        state = re.search(r"\bJobState=(\w+)", shown.stdout) if shown else None
        if shown is None or state is None:
            return "scontrol does not answer on the node"
        if state[1] != "RUNNING":  # cancelled, or preempted with Slurm queueing it again
            return f"Slurm itself ended the job ({state[1].lower()})"
        if self.signum == signal.SIGUSR2 and not went_on:
            return "the time limit leaves no time for a single step; give more --time"
        asked = _ask("scontrol", "requeue", job, timeout=60)
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
                _mark(self.folder, "failed", f"process {k} was killed by {signal.Signals(-code).name}, out of memory?")

    def end(self) -> None:
        """Say how the job ended where its processes could not."""
        if any(self.codes):
            _mark(self.folder, "failed", _error_in(self.folder) or "a process ended without a word, out of memory?")
        if None in self.codes:
            _mark(self.folder, "failed", "ended at its time limit")


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
            [sys.executable, "-m", "train.launch", *map(str, folders[lane::n])],
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
        "additional_parameters": {"hold": True, "requeue": True} | extra,
    }  # fmt: skip
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
        with submitit.helpers.clean_env(), redirect_stderr(io.StringIO()):
            jobs = executor.submit_array([_fit_job(run, "slurm") for run in runs])
    except (UncompletedJobError, FailedSubmissionError, OSError) as error:
        for left in logs.glob("*.pkl"):
            left.unlink()
        raise LaunchError(f"sbatch refused the job: {' '.join(str(error).split())}") from error
    finally:
        for left in logs.glob(".submission_file_*"):
            left.unlink()
    return [{"job": job.job_id} for job in jobs]


def _release(jobs: Sequence[str]) -> None:
    main = jobs[0].split("_")[0]
    asked = _ask("scontrol", "release", main)
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
        {"job": name, "pid": pid, "started": _started(pid), "boot": _boot(), "host": socket.gethostname()}
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
        standing = {_absolute(state.run): state for state in states(out)}
        todo = []
        for run in runs:
            state = standing.get(_absolute(run.folder))
            if state and state.name in ("finished", *BUSY):
                print(f"left alone: {state}")
            else:
                todo.append(run)
        if not todo:
            return 0
        jobs = (_to_slurm if wanted.cluster == "slurm" else _to_this_machine)(todo, wanted, out)
        record = _record(out)
        for run, job in zip(todo, jobs, strict=True):
            record[os.path.relpath(run.folder, out)] = job | {"cluster": wanted.cluster, "at": time.time()}
        write_json(out / "logs" / "launched.json", {"jobs": record})
    if wanted.cluster == "slurm":
        _release([job["job"] for job in jobs])
    _announce(todo, wanted, out, [job["job"] for job in jobs])
    return 0


def _announce(runs: Sequence[Run], wanted: Resources, out: Path, jobs: Sequence[str] = ()) -> None:
    limit = f", at most {wanted.minutes} minutes" if wanted.minutes else ""
    print(f"{len(runs)} job(s) of {wanted.nodes} node(s) x {wanted.processes} process(es){limit}:")
    for run, job in zip(runs, jobs or [""] * len(runs), strict=True):
        print(f"  {job or 'would run'}  {run.folder}" + (f"  log {_log(out, job)}" if job else ""))
    if jobs:
        print(f"curves: tensorboard --logdir {out}\nhow they stand: python -m train launch --status --out {out}")


# ---- how they stand


@dataclass(frozen=True)
class State:
    """How one run stands; `str` is the line to show."""

    run: Path
    name: str  # finished, queued, running, going on, ending, stopped, failed, cancelled, gone, unknown
    step: int  # of the last checkpoint
    text: str

    def __str__(self) -> str:
        return f"{self.run}: {self.name}{', ' if self.text else ''}{self.text}"


def states(out: Path) -> list[State]:
    """How every run below `out` stands, launched or not. Needs no accounting, and waits for nobody."""
    record = _record(out)
    ids = {job["job"] for job in record.values() if job["cluster"] == "slurm"}
    slurm = _squeue(ids) if ids else {}
    begun = {os.path.relpath(path.parent, out) for path in out.glob("**/run.json")}
    return [_state(out, name, record.get(name), slurm) for name in sorted(begun | set(record))]


def _state(out: Path, name: str, job: dict[str, Any] | None, slurm: dict[str, tuple[str, str]] | None) -> State:
    run = Path(os.path.normpath(out / name))
    try:
        content = read_config(run)
    except RunError:
        content = {}
    step, best = _steps(run)
    if content.get("finished"):
        step, best = content["steps"], content["best"]
    words = []
    if content:
        words.append(f"step {step} of {content['fit']['steps']}")
    if best.get("step"):
        words.append(f"best validation {best['loss']:.3f} at step {best['step']}")
    if content.get("finished"):
        return State(run, "finished", step, ", ".join(words))
    if job is None:
        return State(run, "not launched from here", step, ", ".join(words))
    logs = out / "logs" / job["job"]
    state, why = _of_slurm(job, logs, slurm) if job["cluster"] == "slurm" else _of_this_machine(job, logs)
    if why:
        words.insert(0, why)
    seen = max(
        (p.stat().st_mtime for p in (*run.glob("*"), *run.glob("tensorboard/*"), *logs.glob("*_log.out"))), default=0
    )
    if seen:
        words.append(f"last sign of life {_ago(time.time() - seen)} ago")
    words.append(f"job {job['job']}, log {_log(out, job['job'], _mark_of(logs).get('rank', 0))}")
    if state in ("stopped", "failed", "cancelled", "gone"):
        words.append("launch it again to go on")
    return State(run, state, step, ", ".join(words))


def _of_slurm(job: dict[str, Any], logs: Path, slurm: dict[str, tuple[str, str]] | None) -> tuple[str, str]:
    """State and reason from what squeue says of the job and the marks that it left."""
    mark = _mark_of(logs)
    if slurm is None:
        return (mark["how"], mark["text"]) if mark else ("unknown", "squeue does not answer")
    word, reason = slurm.get(job["job"], ("", ""))
    log = logs / f"{job['job']}_0_log.out"
    if word in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"):
        return ("going on", f"queued again ({reason})") if log.exists() else ("queued", reason)
    if word in ("RUNNING", "CONFIGURING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"):
        return "running", "" if word == "RUNNING" else word.lower()
    if word == "COMPLETING":
        return "ending", ""
    if word == "CANCELLED":
        return "cancelled", ""
    last = _error_in(logs)
    if mark:
        return mark["how"], mark["text"]
    if "CANCELLED AT" in last and "DUE TO" not in last:
        return "cancelled", last
    if word and word != "COMPLETED":
        cause = last or ("a process ended without a word, out of memory?" if word == "FAILED" else "")
        return "failed", f"{word.lower().replace('_', ' ')}: {cause}".removeprefix("failed: ").rstrip(": ")
    return "gone", last or "Slurm no longer knows the job, and it left no word"


def _of_this_machine(job: dict[str, Any], logs: Path) -> tuple[str, str]:
    mark = _mark_of(logs)
    if mark:
        return mark["how"], mark["text"]
    if job["host"] != socket.gethostname():
        return "unknown", f"it runs on {job['host']}, ask there"
    log = logs / f"{job['job']}_0_log.out"
    if job["boot"] == _boot() and job["started"] and _started(job["pid"]) == job["started"]:
        return ("running" if log.exists() else "queued"), f"process {job['pid']}"
    return "gone", f"process {job['pid']} ended without a word (killed, or the machine started anew)"


def _squeue(ids: set[str]) -> dict[str, tuple[str, str]] | None:
    """{job: (state, reason)} of the jobs that Slurm still knows; None where it does not answer."""
    known = {}
    # One by one: of several jobs of which one is unknown, some versions say nothing about the others.
    for main in sorted({job.split("_")[0] for job in ids}):
        asked = _ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={main}")
        if asked is None or (asked.returncode and "Invalid job id" not in asked.stderr):
            return None
        for line in asked.stdout.splitlines():
            job, word, reason = line.strip().split("|", 2)
            known[job] = (word, reason)
    return known


def _record(out: Path) -> dict[str, dict[str, Any]]:
    path = out / "logs" / "launched.json"
    try:
        return dict(json.loads(path.read_text())["jobs"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"{path} cannot be read ({error}); remove it when nothing runs any more") from error


def _mark_of(logs: Path) -> dict[str, Any]:
    """How the latest attempt that said so ended; empty where none did."""
    marks = sorted(logs.glob("ended-*.json"), key=lambda path: int(path.stem.split("-")[1]))
    try:
        return dict(json.loads(marks[-1].read_text())) if marks else {}
    except (OSError, ValueError):
        return {}


def _steps(run: Path) -> tuple[int, dict[str, Any]]:
    """Steps done up to the last checkpoint, and the best validation so far; (0, {}) without a checkpoint."""
    try:
        state = read_tensors(run / "last.pt")
        return int(state["step"]), dict(state["best"])
    except (RunError, KeyError, TypeError):
        return 0, {}


def _log(out: Path, job: str, rank: int = 0) -> Path:
    return out / "logs" / job / f"{job}_{rank}_log.out"


def _error_in(logs: Path) -> str:
    """The line in the logs of a job's processes that says why it ended, as well as can be told; or nothing."""
    lines: list[str] = []
    for log in sorted(logs.glob("*_log.out")):
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            text = file.read().decode(errors="replace").replace("\r", "\n")
        lines += [line.strip() for line in text.splitlines() if not _ANOTHER.search(line)]
    for words in (r"^(\w+\.)*\w*(Error|NonFinite): ", r"killed|oom|out of memory", r"cancelled at", r"\berror\b"):
        found = [line for line in lines if re.search(words, line, 0 if "Error" in words else re.IGNORECASE)]
        if found:
            return found[-1]
    return ""


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int:
    """When a process began, in ticks since the machine did; 0 when it is none any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


if __name__ == "__main__":
    _lane(sys.argv[1:])
