"""Slurm's commands, and whether a Slurm answers at all."""

import os
import shutil
import subprocess

from kinmass.train.launch.resources import LaunchError


def run_slurm_command(*command: str, timeout: float = 20) -> subprocess.CompletedProcess[str] | None:
    """Run a command of Slurm and return its result; None where there is no such command, or no answer in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def refuse_without_slurm() -> None:
    """Raise LaunchError, with what to do instead, where Slurm is not installed or does not answer."""
    instead = "give this command on a login node of Slurm, or with --cluster local"
    if not shutil.which("sbatch"):
        raise LaunchError(f"there is no sbatch here: {instead}")
    answer = run_slurm_command("squeue", "--noheader", f"--user={os.getuid()}")
    if answer is None or answer.returncode:  # which may be at once, or after a minute of retries
        last_line = answer.stderr.strip().rpartition("\n")[2] if answer else "squeue waits in vain"
        raise LaunchError(f"no Slurm answers here ({last_line}): {instead}")
