"""Submits jobs to Slurm: the parameters of sbatch, the submission, and the release of jobs on hold."""

import io
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedSubmissionError, UncompletedJobError
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from kinmass.train.launch.commands import run_slurm_command
from kinmass.train.launch.job import Run, job_of, signal_delay_s
from kinmass.train.launch.resources import LaunchError, Resources, sbatch_extra
from kinmass.train.launch.status import LaunchedJob

#: Options of sbatch that follow from others: which jobs there are, their logs, and how they are told to stop.
_OWN_OPTIONS = {"array", "output", "error", "open-mode", "signal"}


def sbatch_parameters(resources: Resources, n_jobs: int) -> dict[str, Any]:
    """Return submitit's parameters of the job. They replace its defaults that do harm (5 minutes, a wckey).

    Raises LaunchError for options in SBATCH_EXTRA that are no options, or are among these.
    """
    site, gpus = resources.site, resources.gpus
    limit_s = 60 * (resources.minutes or 0)
    parameters = {
        "job_name": "kinmass", "time": resources.minutes, "nodes": resources.nodes,
        "ntasks_per_node": resources.processes,
        "cpus_per_task": resources.cpus, "account": site.get("ACCOUNT"), "qos": site.get("QOS"),
        "partition": (site.get("GPU_PARTITION") if gpus else None) or site.get("PARTITION"),
        "constraint": site.get("CONSTRAINT"), "wckey": site.get("WCKEY"),
        "signal_delay_s": signal_delay_s(limit_s), "stderr_to_stdout": True,
        "array_parallelism": resources.at_once or n_jobs,
        # Where sbatch's --export=NONE holds, srun would start processes without what SETUP and submitit set, too.
        "setup": [
            "export SLURM_EXPORT_ENV=ALL", *filter(None, [site.get("SETUP")]),
            f"export OMP_NUM_THREADS={resources.cpus}",
        ],
        # srun does not inherit --cpus-per-task from sbatch. When one process fails, all are ended.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={resources.cpus}"],
        # On hold until its folder and record are written; queued again after preemption or a node's failure.
        "additional_parameters": {"hold": True, "requeue": True, "kill-on-invalid-dep": "yes"} | sbatch_extra(site),
    }  # fmt: skip
    if resources.after:
        parameters["dependency"] = f"afterok:{resources.after}"
    if gpus:
        parameters |= {"gres": f"{site['GPU_GRES']}:{gpus}"} if site.get("GPU_GRES") else {"gpus_per_node": gpus}
    own = {name.replace("_", "-") for name, value in parameters.items() if value is not None} | _OWN_OPTIONS
    if twice := sorted(own & sbatch_extra(site).keys()):
        raise LaunchError(
            f"SBATCH_EXTRA: --{twice[0]} is set by launch itself, and of two one would not count; leave it out there, "
            "and give it as an option of launch or a key of the site file where there is one"
        )
    return parameters


def _python(site: dict[str, str]) -> str:
    return site.get("PYTHON") or shlex.quote(sys.executable)


def sbatch_script(resources: Resources, n_jobs: int, out: Path) -> str:
    """Return the script that sbatch would get."""
    folder = out.absolute() / "logs" / "%j"
    command = f"{_python(resources.site)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return _make_sbatch_string(
        command, folder, **sbatch_parameters(resources, n_jobs), map_count=n_jobs if n_jobs > 1 else None
    )


def to_slurm(runs: Sequence[Run], resources: Resources, out: Path) -> list[LaunchedJob]:
    """Queue an array of jobs on hold and return their records. Raises LaunchError with what sbatch says."""
    logs = out.absolute() / "logs"
    executor = SlurmExecutor(logs / "%j", python=_python(resources.site))
    executor.update_parameters(**sbatch_parameters(resources, len(runs)))
    try:
        # submitit prints what sbatch says; this is hidden here because the error has it too.
        slurm_settings = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CONF_SERVER") if name in os.environ}
        with submitit.helpers.clean_env(), redirect_stderr(io.StringIO()):
            os.environ.update(slurm_settings)  # clean_env removes these too, which say where Slurm is.
            jobs = executor.submit_array([job_of(run, "slurm") for run in runs])
    except (UncompletedJobError, FailedSubmissionError, OSError) as error:
        for leftover in logs.glob("*.pkl*"):
            leftover.unlink()
        problem = f"{logs} cannot be written" if isinstance(error, OSError) else "sbatch refused the job"
        raise LaunchError(f"{problem}: {' '.join(str(error).split())}") from error
    finally:
        for leftover in logs.glob(".submission_file_*"):
            leftover.unlink()
    return [LaunchedJob(job.job_id, "slurm", time.time()) for job in jobs]


def release(jobs: Sequence[str]) -> None:
    """Let an array's jobs, queued on hold, start. Raises LaunchError where Slurm refuses or does not answer."""
    array_job = jobs[0].split("_")[0]
    answer = run_slurm_command("scontrol", "release", array_job)
    if answer is None or answer.returncode:
        reason = (answer.stderr.strip() or "no reason given").splitlines()[0] if answer else "no answer"
        raise LaunchError(
            f"job {array_job} is queued, but Slurm does not let it start ({reason}): if it asks for more than a node "
            f"has, `scancel {array_job}` and launch with less; else `scontrol release {array_job}` later"
        )
