"""Tells the state of launched runs from files, process numbers and squeue, without accounting and without waiting.

The files are the run folders, the record logs/launched.json of what was launched, and the marks that jobs leave in
logs/<job id>/ when they end.
"""

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kinmass.gen.storage.files import sync_folder
from kinmass.gen.storage.lock import began, boot_id
from kinmass.train.allotted import whole_number
from kinmass.train.launch.commands import run_slurm_command
from kinmass.train.launch.resources import LaunchError
from kinmass.train.run.calibration import waiting
from kinmass.train.run.checkpoint import RunError, read_config, read_tensors, write_json
from kinmass.train.run.derived import is_calibrated
from kinmass.train.run.records import Best

#: States in which a process writes, or will write, in the run's folder.
BUSY = ("queued", "running", "going on", "ending", "unknown")
#: State of a trained run whose calibration is missing, or of an older version or other settings.
UNCALIBRATED = "not calibrated"
_LACKING = "what its calibration makes is missing or out of date"
#: Errors of a process that only follow from the end of another process.
NOT_THE_CAUSE = re.compile(
    r"closed by peer|connection (reset|refused)|remote process exited|ncclRemoteError|communicator was aborted"
    r"|watchdog caught|exited with exit code",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LaunchedJob:
    """What is kept of a job that was launched: Slurm's number or a local job's name, where, and when [s since 1970].

    Of a local one also its process number, when that process began [ticks since boot], which boot, and the host.
    settings: a digest of those of its fit.
    """

    job: str
    cluster: str
    at: float
    pid: int = 0
    started: int = 0
    boot: str = ""
    host: str = ""
    settings: str = ""


@dataclass(frozen=True)
class Mark:
    """How an attempt of a job ended: a state's name, the reason in words, and the rank that left the mark."""

    how: str
    text: str
    rank: int = 0


@dataclass(frozen=True)
class State:
    """The state of one run; `str` of it is the line to show."""

    run: Path
    # finished, not calibrated, queued, running, going on, ending, stopped, failed, cancelled, gone, unknown,
    # not launched from here
    name: str
    step: int  # of the last checkpoint
    text: str

    def __str__(self) -> str:
        return f"{self.run}: {self.name}{', ' if self.text else ''}{self.text}"


def states(out: Path) -> list[State]:
    """Return the state of every run in `out`, launched or not; empty without any.

    Raises LaunchError for a damaged record.
    """
    launches, here = launches_in(out), absolute_path(out)
    slurm_ids = {job.job for _, job in launches.values() if job.cluster == "slurm"}
    slurm_states = _squeue(slurm_ids) if slurm_ids else {}
    runs = {absolute_path(folder) for folder in _folders_with(out, "run.json")} | set(launches)
    names = sorted(os.path.relpath(run, here) for run in runs)
    found = [_state(out, name, launches.get(absolute_path(out / name)), slurm_states) for name in names]
    busy_folders = {folder for state in found if state.name in BUSY for folder in (state.run, state.run.parent)}
    return [_calibrated_by_another(state, busy_folders) if state.name == UNCALIBRATED else state for state in found]


def _calibrated_by_another(state: State, busy_folders: set[Path]) -> State:
    """Return as finished a run that is calibrated itself, and whose ensemble is in the hands of another's job."""
    is_done = is_calibrated(state.run) and busy_folders.issuperset(waiting(state.run))
    return replace(state, name="finished", text="another job is calibrating its ensemble") if is_done else state


def require_any(found: list[State], out: Path) -> list[State]:
    """Return the states that were found in `out`. Raises LaunchError without any, which would pass for well."""
    if not found:
        raise LaunchError(f"{out} holds no run, and nothing was launched into it; is it the right folder?")
    return found


def wait(out: Path, say: Callable[[str], None]) -> list[State]:
    """Return the state of every run below `out` once none is queued or runs; `say` is told of what has changed.

    One whose state is not known counts as one that runs. Raises as `states`, and LaunchError where there is no run.
    """
    names_before: dict[Path, str] = {}
    pause_s = 0.5
    while True:
        found = require_any(states(out), out)
        for state in found:
            if names_before.get(state.run) != state.name:
                say(str(state))
        names_before = {state.run: state.name for state in found}
        if not any(state.name in BUSY for state in found):
            return found
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 30.0)


def _folders_with(out: Path, file: str) -> Iterator[Path]:
    """Yield the folders, from `out` on, that hold a file. Folders of stores, TensorBoard and logs are skipped."""
    for folder, subfolders, _ in os.walk(out):
        subfolders[:] = [
            name for name in subfolders if not name.endswith(".zarr") and name not in ("tensorboard", "logs")
        ]
        if Path(folder, file).exists():
            yield Path(folder)


def launches_in(out: Path) -> dict[Path, tuple[Path, LaunchedJob]]:
    """Return the latest launch of every run in `out`, by its absolute path: the folder of its record, and its job.

    That is the folder that it was launched into: the run's own, or one above. Raises LaunchError for a damaged record,
    unless it is above `out`, where it may be of something else.
    """
    here, launches = absolute_path(out), dict[Path, tuple[Path, LaunchedJob]]()
    below = _folders_with(out, str(launched_file(Path())))
    for folder in (*here.parents, *below):
        try:
            record = read_launched(folder)
        except LaunchError:
            if folder not in here.parents:
                raise
            continue
        for name, job in record.items():
            run = absolute_path(folder / name)
            if run.is_relative_to(here) and (run not in launches or launches[run][1].at <= job.at):
                launches[run] = Path(os.path.normpath(out / os.path.relpath(folder, here))), job
    return launches


def not_begun(out: Path) -> list[Path]:
    """Return the runs in `out` that were launched and have no run.json: they wait, failed or were removed.

    Raises LaunchError.
    """
    return [run for run in sorted(launches_in(out)) if not (run / "run.json").exists()]


def under_way(out: Path) -> list[str]:
    """Return the numbers of Slurm's jobs that are queued or run, one for all jobs of an array.

    Each its own where some of the array were launched again since: who waits for the array would wait for the
    cancelled ones in it.
    """
    launches = launches_in(out)
    busy = [launches.get(absolute_path(state.run)) for state in states(out) if state.name in BUSY]
    recorded = {job.job for _, job in launches.values()}

    def shortest(folder: Path, job: str) -> str:
        """Return the array's number where all of its jobs are still those of the record, else the job's own."""
        array_job = job.split("_")[0]
        return array_job if {path.name for path in (folder / "logs").glob(f"{array_job}_*")} <= recorded else job

    jobs = [shortest(launch[0], launch[1].job) for launch in busy if launch and launch[1].cluster == "slurm"]
    return list(dict.fromkeys(jobs))


def _state(
    out: Path, name: str, launch: tuple[Path, LaunchedJob] | None, slurm_states: dict[str, tuple[str, str]] | None
) -> State:
    run = Path(os.path.normpath(out / name))
    launched_into, job = launch or (out, None)
    words, content = [], None
    try:
        content = read_config(run)
    except RunError as error:
        if (run / "run.json").exists():  # damaged, or of another schema
            words.append(str(error))
    is_trained = content is not None and content["finished"]
    step, best = (content["steps"], content["best"]) if content and is_trained else steps_of(run)
    if content:
        words.append(f"step {step} of {content['fit']['steps']}")
    if best and "step" in best:
        words.append(f"best validation loss {best['loss']:.3f} at step {best['step']}")
    if is_trained and is_calibrated(run) and not waiting(run):
        return State(run, "finished", step, ", ".join(words))
    if job is None and is_trained:
        return State(run, UNCALIBRATED, step, ", ".join([*words, f"{_LACKING}: give its `kinmass fit` command again"]))
    if job is None:
        return State(run, "not launched from here", step, ", ".join(words))
    logs = launched_into / "logs" / job.job
    state, reason = (
        _state_of_slurm_job(job, logs, slurm_states) if job.cluster == "slurm" else _state_of_local_job(job, logs)
    )
    if is_trained:
        words.append("trained, and being calibrated" if state in BUSY else _LACKING)
        state, reason = (
            (UNCALIBRATED, "") if state == "gone" else (state, reason)
        )  # a job that ended well leaves no mark
    if reason:
        words.insert(0, reason)
    last_write_s = max(
        map(_touched, (*run.glob("[!.]*"), *run.glob("tensorboard/*"), *logs.glob("*_log.out"))), default=0
    )
    if last_write_s:
        words.append(f"last sign of life {_ago(time.time() - last_write_s)} ago")
    mark = mark_of(logs)
    words.append(f"job {job.job}, log {log_of(launched_into, job.job, mark.rank if mark else 0)}")
    if state in ("stopped", "failed", "cancelled", "gone", UNCALIBRATED):
        words.append("launch it again to go on")
    return State(run, state, step, ", ".join(words))


def _touched(path: Path) -> float:
    """Return when a file was last written [s since 1970], 0 for one that has just been renamed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0


def _state_of_slurm_job(
    job: LaunchedJob, logs: Path, slurm_states: dict[str, tuple[str, str]] | None
) -> tuple[str, str]:
    """Return a job's state and the reason for it, from what squeue says and from the marks that the job left."""
    mark = mark_of(logs)
    if slurm_states is None:
        return (mark.how, mark.text) if mark else ("unknown", "squeue does not answer")
    slurm_state, reason = slurm_states.get(job.job, ("", ""))
    reason = reason.removeprefix("None")  # Slurm has not considered the job yet.
    log = logs / f"{job.job}_0_log.out"
    if slurm_state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"):
        again = f"queued again ({reason})" if reason else "queued again"
        return ("going on", again) if log.exists() else ("queued", reason)
    if slurm_state in ("RUNNING", "CONFIGURING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"):
        return "running", "" if slurm_state == "RUNNING" else slurm_state.lower()
    if slurm_state == "COMPLETING":
        return "ending", ""
    if slurm_state == "CANCELLED":
        return "cancelled", ""
    last_error = error_in(logs)
    if mark:
        return mark.how, mark.text
    if "CANCELLED AT" in last_error and "DUE TO" not in last_error:
        return "cancelled", last_error
    if slurm_state and slurm_state != "COMPLETED":
        cause = last_error or ("a process ended without a word, out of memory?" if slurm_state == "FAILED" else "")
        return "failed", f"{slurm_state.lower().replace('_', ' ')}: {cause}".removeprefix("failed: ").rstrip(": ")
    if not log.exists():
        return "cancelled", "before it started"
    return "gone", last_error or "Slurm no longer knows the job, and it left no word"


def _state_of_local_job(job: LaunchedJob, logs: Path) -> tuple[str, str]:
    mark = mark_of(logs)
    if mark:
        return mark.how, mark.text
    if job.host != socket.gethostname():
        return "unknown", f"it runs on {job.host}, ask there"
    log = logs / f"{job.job}_0_log.out"
    if job.boot == boot_id() and job.started and start_ticks(job.pid) == job.started:
        return ("running" if log.exists() else "queued"), f"process {job.pid}"
    return "gone", f"process {job.pid} ended without a word (killed, or the machine started anew)"


def _squeue(job_ids: set[str]) -> dict[str, tuple[str, str]] | None:
    """Return {job: (state, reason)} of the jobs that Slurm still knows; None where it does not answer."""
    states_by_job = {}
    # One by one: where one of several jobs is unknown, some versions of squeue say nothing about the others.
    for array_job in sorted({job.split("_")[0] for job in job_ids}):
        answer = run_slurm_command(
            "squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={array_job}"
        )
        if answer is None or (answer.returncode and "Invalid job id" not in answer.stderr):
            return None
        for line in answer.stdout.splitlines():
            job, state, reason = line.strip().split("|", 2)
            states_by_job[job] = (state, reason)
    return states_by_job


def read_launched(out: Path) -> dict[str, LaunchedJob]:
    """Return the record of what was launched into `out`: {run, relative to out: job}. Raises LaunchError if damaged."""
    path = launched_file(out)
    try:
        return {name: LaunchedJob(**job) for name, job in json.loads(path.read_text())["jobs"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LaunchError(f"{path} cannot be read ({error}); remove it when nothing runs any more") from error


def write_launched(out: Path, jobs: dict[str, LaunchedJob]) -> None:
    """Write the record that `read_launched` reads. Raises OSError."""
    write_json(launched_file(out), {"jobs": {name: asdict(job) for name, job in jobs.items()}})


def launched_file(out: Path) -> Path:
    """Return the file with the record of what was launched into `out`."""
    return out / "logs" / "launched.json"


def mark_of(logs: Path) -> Mark | None:
    """Return the mark of the latest attempt that left one, which says how it ended; None without any."""
    marks = sorted(logs.glob("ended-*.json"), key=lambda path: int(path.stem.split("-")[1]))
    try:
        return Mark(**json.loads(marks[-1].read_text())) if marks else None
    except (OSError, ValueError, TypeError):
        return None


def steps_of(run: Path) -> tuple[int, Best | None]:
    """Return the steps up to the last checkpoint, and the best validation so far; (0, None) without a checkpoint."""
    try:
        state = read_tensors(run / "last.pt")
        best: Best = dict(state["best"])  # type: ignore[assignment]
        return int(state["step"]), best
    except (RunError, KeyError, TypeError):
        return 0, None


def log_of(out: Path, job: str, rank: int = 0) -> Path:
    """Return the log file of one process of a job."""
    return out / "logs" / job / f"{job}_{rank}_log.out"


def error_in(logs: Path) -> str:
    """Return the line in the logs of a job's processes that most probably says why it ended; "" for none."""
    lines: list[str] = []
    for log in sorted(logs.glob("*_log.out")):
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            text = file.read().decode(errors="replace").replace("\r", "\n")
        lines += [line.strip() for line in text.splitlines() if not NOT_THE_CAUSE.search(line)]
    for words in (r"^(\w+\.)*\w*(Error|NonFinite): ", r"killed|oom|out of memory", r"cancelled at", r"\berror\b"):
        matching = [line for line in lines if re.search(words, line, 0 if "Error" in words else re.IGNORECASE)]
        if matching:
            return matching[-1]
    return ""


def absolute_path(path: Path) -> Path:
    """Return the absolute path, without `..` and with links as they are."""
    return Path(os.path.normpath(path.absolute()))


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def start_ticks(pid: int) -> int:
    """Return when a process began, in clock ticks since the machine was started; 0 where it has ended."""
    return int(began(pid) or 0)


def attempt() -> int:
    """Return how often Slurm has started this job again."""
    return whole_number("SLURM_RESTART_COUNT", 0)


def leave_mark(folder: Path, how: str, text: str) -> None:
    """Leave in a job's log folder a mark how this attempt ended.

    Only the first mark of an attempt is kept, because later errors follow from the first.
    """
    content = asdict(Mark(how, text, whole_number("RANK", 0)))
    try:
        with open(folder / f"ended-{attempt()}.json", "x") as file:
            file.write(json.dumps(content))
            file.flush()
            sync_folder(Path(file.name))
    except OSError:  # There is a mark already, or the disk is full, and then only squeue can tell.
        return
