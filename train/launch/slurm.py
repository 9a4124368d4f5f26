"""Jobs of Slurm: what sbatch is told, and submitting it."""

import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedSubmissionError, UncompletedJobError
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from kinmass.train.launch.job import Run, job_of, signal_delay_s
from kinmass.train.launch.resources import LaunchError, Resources
from kinmass.train.launch.status import (
    ask,
)


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
        "signal_delay_s": signal_delay_s(limit_s), "stderr_to_stdout": True,
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


def to_slurm(runs: Sequence[Run], wanted: Resources, out: Path) -> list[dict[str, Any]]:
    """Queue an array of jobs, on hold: their records. Raises LaunchError with what sbatch says."""
    logs = out.absolute() / "logs"
    executor = SlurmExecutor(logs / "%j", python=_python(wanted.site))
    executor.update_parameters(**sbatch_parameters(wanted, len(runs)))
    try:
        # submitit prints what sbatch says, which is in the error too.
        where = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CONF_SERVER") if name in os.environ}
        with submitit.helpers.clean_env(), redirect_stderr(io.StringIO()):
            os.environ.update(where)  # which Slurm, not which job of it
            jobs = executor.submit_array([job_of(run, "slurm") for run in runs])
    except (UncompletedJobError, FailedSubmissionError, OSError) as error:
        for left in logs.glob("*.pkl*"):
            left.unlink()
        who = f"{logs} cannot be written" if isinstance(error, OSError) else "sbatch refused the job"
        raise LaunchError(f"{who}: {' '.join(str(error).split())}") from error
    finally:
        for left in logs.glob(".submission_file_*"):
            left.unlink()
    return [{"job": job.job_id} for job in jobs]


def release(jobs: Sequence[str]) -> None:
    """Let jobs that were queued on hold start. Raises LaunchError where Slurm does not."""
    main = jobs[0].split("_")[0]
    asked = ask("scontrol", "release", main)
    if asked is None or asked.returncode:
        why = asked.stderr.strip() if asked else "no answer"
        raise LaunchError(f"job {main} is queued but held ({why}); give `scontrol release {main}`")
