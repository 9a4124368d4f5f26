"""Run tasks on Dask's workers on this machine, in Slurm jobs or at a running scheduler. No other file uses Dask."""

import contextlib
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import dask
import torch
from dask.distributed import Client, KilledWorker, LocalCluster, WorkerPlugin, as_completed
from dask.system import CPU_COUNT
from distributed.core import Status
from distributed.utils import get_mp_context

from kinmass.gen.bars import progress_bar
from kinmass.gen.command import imports_as_here
from kinmass.train.allotted import free_memory, slurm_cores
from kinmass.train.launch.commands import refuse_without_slurm
from kinmass.train.launch.resources import LaunchError, sbatch_extra

T = TypeVar("T")
#: How many results one worker adds up at a time. Partial sums stay on the workers; only the total is sent back.
FAN_IN = 8
#: Memory that a worker is given at least, unless their number is asked for: with .2 GiB it is ended, with .6 it is not.
WORKER_BYTES = 2**30
#: Environment of workers: freed arrays of up to 32 MB, and 64 MB in all, stay with the process (glibc's mallopt). Dask
#: would return every megabyte to the kernel, which clears it before the next array: a quarter of the measures' time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": 2**25, "MALLOC_TRIM_THRESHOLD_": 2**26}


@dataclass(frozen=True)
class Cluster:
    """Settings of the place where tasks run. where: local, slurm, or the address of a scheduler (tcp://...).

    workers: number of processes (local; None for one per GPU, or one per core where there is no GPU) or of jobs (slurm;
    None for 4). The others are used by slurm only: gpus of each job, hours (its time limit), memory of each job, logs
    (folder of the jobs' logs) and site (the settings in slurm/site.env). Raises ValueError for numbers that cannot be
    requested.
    """

    where: str = "local"
    workers: int | None = None
    gpus: int = 0
    hours: float = 2.0
    memory: str = "8GB"
    logs: Path = Path("dask-logs")
    site: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if self.gpus < 0 or not 0 < self.hours < 10_000:
            raise ValueError(
                f"--gpus must be at least 0 and --hours from 0 to 10000, not {self.gpus} and {self.hours:g}"
            )


def _slurm_cluster(settings: Cluster) -> Any:
    """Return a Dask cluster of Slurm jobs, one single-threaded worker each, with the site file's settings."""
    from dask_jobqueue import SLURMCluster

    refuse_without_slurm()
    site, gpus = settings.site, settings.gpus
    directives = [f"--{key.lower()}={site[key]}" for key in ("QOS", "CONSTRAINT", "WCKEY") if site.get(key)]
    logs = shlex.quote(f"{settings.logs}/dask-worker-%J")
    directives += [f"--error={logs}.err", f"--output={logs}.out"]
    for name, value in sbatch_extra(site).items():
        directives.append(f"--{name}" if value is True else f"--{name}={shlex.quote(str(value))}")
    minutes = max(1, round(60 * settings.hours))
    if gpus:
        directives.append(f"--gres={site['GPU_GRES']}:{gpus}" if site.get("GPU_GRES") else f"--gpus-per-node={gpus}")
    cluster = SLURMCluster(
        queue=(site.get("GPU_PARTITION") if gpus else None) or site.get("PARTITION") or None,
        account=site.get("ACCOUNT") or None,
        cores=1,
        processes=1,
        memory=settings.memory,
        walltime=f"{minutes // 60:02d}:{minutes % 60:02d}:00",
        job_script_prologue=[
            *[line for line in (site.get("SETUP"), f"cd {shlex.quote(os.getcwd())}") if line],
            *[f"export {name}={value}" for name, value in KEEP_MEMORY.items()],
        ],
        job_extra_directives=directives,
        python=site.get("PYTHON") or shlex.quote(sys.executable),
        log_directory=str(settings.logs),
        job_directives_skip=["#SBATCH -e ", "#SBATCH -o "],  # which are not quoted
    )
    _submit_one(cluster)
    jobs = settings.workers or 4
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # submits a new job when one is lost
    return cluster


def _submit_one(cluster: Any) -> None:
    """Submit a first job; close the cluster and raise LaunchError with what sbatch says where it refuses.

    The refusals of later ones are only logged: no job would ever come, and who waits for tasks would wait for ever.
    """
    cluster.worker_spec.update(cluster.new_worker_spec())

    async def submitted() -> None:
        """Wait until the job is in the queue."""
        await cluster

    try:
        cluster.sync(submitted)
    except RuntimeError as error:
        for job in cluster.workers.values():
            job.status = Status.failed  # which dask-jobqueue forgets, and closing asks for it
        cluster.close()
        reasons = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if "sbatch: error:" in line]
        raise LaunchError(
            f"sbatch refused the job ({'; '.join(reasons) or error}): correct the site file, or --memory, --hours and "
            "--gpus"
        ) from error


class OneGpu(WorkerPlugin):
    """Let each worker see one of this machine's GPUs, by turns, so that no GPU has the contexts of all workers.

    gpus: what CUDA_VISIBLE_DEVICES calls them.
    """

    def __init__(self, gpus: list[str]):
        self.gpus = gpus

    def setup(self, worker: Any) -> None:
        """Choose a worker's GPU by its name, which is its number; called before the worker's first task."""
        os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[int(worker.name) % len(self.gpus)]


def visible_gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls each GPU that this process sees."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(i) for i in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


def _one_per_core() -> int:
    """Return how many workers this machine is good for: one for each core, as far as there is memory for them.

    Dask ends workers that go beyond their share of it, and those it starts in their place, too.
    """
    fitting = int(free_memory() // WORKER_BYTES)
    return max(1, min(slurm_cores() or CPU_COUNT, CPU_COUNT, fitting))


def _fork_workers() -> None:
    """Make Dask fork this machine's workers from one process that has already imported what tasks need.

    If every worker imported torch and the other libraries from a shared disk, the start would take minutes on a node
    with many cores.
    """
    environment = {**KEEP_MEMORY, **imports_as_here()}
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in environment.items()})
    get_mp_context().set_forkserver_preload(["distributed", "kinmass.eval.tables.compare"])


def _require_home() -> None:
    """Give this process and its workers a home folder where there is none, as in containers under a number of no user.

    Bokeh, which Dask's dashboard loads, ends with an error without one.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = tempfile.gettempdir()


@contextlib.contextmanager
def connected(settings: Cluster) -> Iterator[Client]:
    """Give a Dask client of the cluster; the cluster is shut down at the end, unless it was running before.

    Raises OSError if no scheduler answers at the address, ValueError for an unknown kind of cluster.
    """
    if settings.where.startswith(("tcp://", "tls://")):
        try:
            client = Client(settings.where, timeout=20)
        except (OSError, TimeoutError) as error:
            raise OSError(
                f"no Dask scheduler answers at {settings.where} ({error}); start one, or use --cluster local"
            ) from error
        with client:
            yield client
        return
    _require_home()
    gpus = visible_gpus() if settings.where == "local" else []
    if settings.where == "slurm":
        cluster = _slurm_cluster(settings)
    elif settings.where == "local":
        _fork_workers()
        cluster = LocalCluster(
            n_workers=settings.workers or len(gpus) or _one_per_core(),
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )
    else:
        raise ValueError(
            f"unknown cluster {settings.where!r}; there are local, slurm, or an address like tcp://node:8786"
        )
    with cluster, Client(cluster) as client:
        if gpus:
            client.register_plugin(OneGpu(gpus))
        yield client


def _sum_by_key(*dictionaries: dict[object, T]) -> dict[object, T]:
    """Add up the values of each key, in the order of the arguments."""
    values_of_key: dict[object, list[T]] = {}
    for dictionary in dictionaries:
        for key, value in dictionary.items():
            values_of_key.setdefault(key, []).append(value)
    return {key: reduce(add, values) for key, values in values_of_key.items()}


def sum_of_tasks(task: Callable[..., dict], arguments: list[tuple], settings: Cluster, unit: str = "block") -> dict:
    """Call task(*a) for each a in arguments on the workers, and add up the dictionaries they return, key by key.

    Workers add up FAN_IN results at a time in the order of the arguments, so that the sum does not depend on the
    number of workers or on which task ends first. A task whose worker dies is repeated on another worker. Exceptions
    of a task are raised here; raises OSError if workers die again and again. Prints the dashboard's address.
    """
    if not arguments:
        return {}
    with connected(settings) as client, progress_bar(total=len(arguments), desc="blocks", unit=unit) as bar:
        print(f"Dask's dashboard: {client.dashboard_link}", file=sys.stderr)
        partial_sums = []
        for start in range(0, len(arguments), FAN_IN):
            task_futures = [client.submit(task, *a, pure=False, retries=2) for a in arguments[start : start + FAN_IN]]
            # Sums have priority over further blocks, so that few results wait in the workers' memory.
            partial_sums.append(client.submit(_sum_by_key, *task_futures, pure=False, priority=1))
        n_blocks = {future.key: min(FAN_IN, len(arguments) - FAN_IN * i) for i, future in enumerate(partial_sums)}
        try:
            for future in as_completed(list(partial_sums)):
                if future.status == "error":
                    future.result()
                bar.update(n_blocks[future.key])
            while len(partial_sums) > 1:
                chunks = [partial_sums[i : i + FAN_IN] for i in range(0, len(partial_sums), FAN_IN)]
                partial_sums = [client.submit(_sum_by_key, *chunk, pure=False, priority=2) for chunk in chunks]
            return partial_sums[0].result()  # type: ignore[no-any-return]
        except (KilledWorker, CancelledError) as error:
            raise OSError(
                f"workers ended again and again while they worked ({error}): give them more memory (--memory), or use "
                "fewer (--workers)"
            ) from error
