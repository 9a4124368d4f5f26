"""Reads what `kinmass launch` is given: site file, time limit, processes, array of fits. Needs no scheduler."""

import os
import re
import shlex
import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kinmass.train.allotted import cores

#: Keys that a site file may hold; slurm/site.example.env explains each.
SITE_KEYS = (
    "ACCOUNT", "PARTITION", "GPU_PARTITION", "QOS", "CONSTRAINT", "WCKEY", "GPUS_PER_NODE", "GPU_GRES",
    "CPUS_PER_TASK", "MAX_ARRAY", "SBATCH_EXTRA", "SETUP", "PYTHON", "MPIRUN", "NODES", "TASKS_PER_NODE", "TIME",
    "EVALUATE_TIME",
)  # fmt: skip


class LaunchError(ValueError):
    """Something about a launch cannot work; raised before anything is queued where that is possible."""


def minutes(text: str) -> int:
    """Return a time limit in minutes, rounded up, from text like 8h, 90m, 2d, 1h30m, 08:00:00 or 1-12:00:00.

    Raises LaunchError for other text.
    """
    with_units = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    as_clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    match = with_units or as_clock
    days, hours, clock_minutes, seconds = (int(number or 0) for number in match.groups()) if match else (0, 0, 0, 0)
    total = -(-(((days * 24 + hours) * 60 + clock_minutes) * 60 + seconds) // 60)
    if total < 1:
        raise LaunchError(f"time limit {text!r} is not understood; write it like 8h, 90m, 08:00:00 or 1-12:00:00")
    return total


def read_site(path: Path | None = None) -> dict[str, str]:
    """Return the settings in a site file of bash assignments, which is read but never executed. Raises LaunchError.

    Without a path the file is that of $KINMASS_SITE, or slurm/site.env if there is one.
    """
    if path is None:
        path = Path(os.environ.get("KINMASS_SITE", "slurm/site.env"))
        if "KINMASS_SITE" not in os.environ and not path.exists():
            return {}
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
        if key not in ("SETUP", "MPIRUN"):  # Bash evaluates these two in the job.
            try:
                value = string.Template(value).substitute(os.environ | {"PWD": os.getcwd()})
            except (KeyError, ValueError) as error:
                raise LaunchError(
                    f"{path}: {key}={value} cannot be used, it is not executed: only $NAME of variables that are set "
                    f"may stand in it ({type(error).__name__}: {error})"
                ) from error
        site[key] = value
    return site


def sbatch_extra(site: dict[str, str]) -> dict[str, str | bool]:
    """Return the options of SBATCH_EXTRA by name, True for one without a value. Raises LaunchError for other words."""
    options: dict[str, str | bool] = {}
    for word in shlex.split(site.get("SBATCH_EXTRA", "")):
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"--[a-z][a-z-]*", name):
            raise LaunchError(f"SBATCH_EXTRA: {word!r} is no option of sbatch; write it like --mem=64G --exclusive")
        options[name[2:]] = value if equals else True
    return options


@dataclass(frozen=True)
class Resources:
    """Where every job runs, and with which processes, GPUs and limits."""

    cluster: str  # slurm, local or debug
    nodes: int = 1
    processes: int = 1  # per node
    gpus: int | None = None  # per node
    cpus: int = 1  # per process
    minutes: int | None = None  # time limit
    at_once: int | None = None  # jobs of the array that may run at the same time
    after: str | None = None  # Slurm's number of a job that has to end well before
    site: dict[str, str] = field(default_factory=dict)

    @property
    def world(self) -> int:
        """Processes of one job."""
        return self.nodes * self.processes


def resources(
    cluster: str, site: dict[str, str], nodes: int = 1, gpus: int | None = None, processes: int | None = None,
    time_limit: str | None = None, at_once: int | None = None, after: str | None = None,
) -> Resources:  # fmt: skip
    """Return what the options and the site file ask for together. Raises LaunchError with what cannot work."""

    def number(key: str) -> int | None:
        """Return the whole number of a key of the site file, None where it is not set. Raises LaunchError."""
        try:
            return int(site[key]) if site.get(key) else None
        except ValueError:
            raise LaunchError(f"{key}={site[key]} is no whole number; correct it in the site file") from None

    if cluster == "slurm" and gpus is None:
        gpus = number("GPUS_PER_NODE")
    counts = {"--nodes": nodes, "--processes-per-node": processes, "--at-once": at_once}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise LaunchError(f"{name} must be at least 1, not {value}")
    if gpus is not None and gpus < 0:
        raise LaunchError(f"--gpus-per-node must be 0 or more, not {gpus}")
    cpus = number("CPUS_PER_TASK")
    if cpus is not None and cpus < 1:
        raise LaunchError(f"CPUS_PER_TASK must be at least 1, not {cpus}")
    if gpus and processes not in (None, gpus):
        raise LaunchError(
            f"{processes} processes on {gpus} GPUs of a node: every process needs a GPU of its own; leave "
            "--processes-per-node out"
        )
    processes = processes or gpus or 1
    if after is not None and not (cluster == "slurm" and re.fullmatch(r"\d+(_\d+)?", after)):
        raise LaunchError(f"--after takes the number of a job of Slurm, with --cluster slurm, not {after!r}")
    if cluster != "slurm" and nodes > 1:
        raise LaunchError(f"--cluster {cluster} has one node, not {nodes}")
    if cluster == "debug" and processes > 1:
        raise LaunchError(f"--cluster debug runs in this process alone, not in {processes}; take --cluster local")
    limit_minutes = minutes(time_limit) if time_limit else (8 * 60 if cluster == "slurm" else None)
    default_cpus = 4 if gpus else max(1, cores() // processes) if cluster == "local" else 1
    return Resources(
        cluster, nodes, processes, gpus, cpus or default_cpus, limit_minutes, at_once, after,
        {key: value for key, value in site.items() if value},
    )  # fmt: skip


def on_this_machine(resources: Resources, n_jobs: int, n_gpus: int) -> Resources:
    """Return the resources of jobs on this machine, which has n_gpus, with a GPU for every process that runs at once.

    Where GPUs were not asked for, every process gets one if there are any. Jobs that run at once share the cores,
    unless the site file says how many each process has: threads that outnumber them wait for each other without end.
    Raises LaunchError where there are too few GPUs.
    """
    gpus = resources.gpus if resources.gpus is not None else (resources.processes if n_gpus else 0)
    jobs_at_once = min(resources.at_once or 1, n_jobs)
    needed, cpus = gpus * jobs_at_once, resources.cpus
    if not resources.site.get("CPUS_PER_TASK"):
        cpus = min(cpus, max(1, cores() // (resources.processes * jobs_at_once)))
    if needed > n_gpus:
        raise LaunchError(
            f"{needed} processes would run at once and need a GPU each, but this machine has {n_gpus}; ask for less, "
            "or for --gpus-per-node 0, which computes on its processors"
        )
    return replace(resources, gpus=gpus, cpus=cpus)


def combinations(array: str, store_suites: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return (tracer, suites) of every job of an array such as "gas,stars,both x bursty,quiet,bursty+quiet".

    Without " x ...", and for a set called "all", a tracer is trained on all `store_suites`. Raises LaunchError.
    """
    tracers, *suite_sets = re.split(r"\s+x\s+", array.strip())
    if len(suite_sets) > 1:
        raise LaunchError(f"--array {array!r} has more than one ' x '; write it like 'gas,both x bursty,bursty+quiet'")
    chosen_sets = [
        tuple(store_suites) if names == "all" else tuple(names.split("+"))
        for names in (suite_sets[0] if suite_sets else "all").split(",")
    ]
    pairs = [
        (tracer.strip(), tuple(names.strip() for names in suites))
        for tracer in tracers.split(",")
        for suites in chosen_sets
    ]
    if len(set(pairs)) < len(pairs):
        raise LaunchError(f"--array {array!r} names a combination twice; leave one of them out")
    return pairs
