"""The one file that knows Dask: tasks on the workers of this machine, of Slurm or of a running scheduler."""

import contextlib
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import dask
from dask.distributed import Client, KilledWorker, LocalCluster, as_completed
from dask.system import CPU_COUNT
from distributed.utils import get_mp_context
from tqdm import tqdm

from kinmass.train.allotted import slurm_cores

T = TypeVar("T")
#: Results that one worker adds up at a time: they stay on the workers, a single one comes back.
FAN_IN = 8


@dataclass(frozen=True)
class Cluster:
    """Where tasks run. where: local, slurm, or the address of a scheduler (tcp://...).

    workers: processes (local; None for one per core) or jobs (slurm; None for 4). gpus of each job, hours of its
    time limit, memory and where their logs go are of slurm alone; site holds the settings of slurm/site.env.
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
            raise ValueError(f"{self.gpus} GPUs for {self.hours} hours are nothing that can be asked for")


def _slurm(wanted: Cluster) -> Any:
    """A cluster of Slurm jobs, one single-threaded worker each, as the site file says."""
    from dask_jobqueue import SLURMCluster

    if not shutil.which("sbatch"):
        raise ValueError("there is no sbatch here: start from a login node of Slurm, or with --cluster local")
    site, gpus = wanted.site, wanted.gpus
    extra = [f"--{key.lower()}={site[key]}" for key in ("QOS", "CONSTRAINT", "WCKEY") if site.get(key)]
    extra += shlex.split(site.get("SBATCH_EXTRA", ""))
    minutes = max(1, round(60 * wanted.hours))
    if gpus:
        extra.append(f"--gres={site['GPU_GRES']}:{gpus}" if site.get("GPU_GRES") else f"--gpus-per-node={gpus}")
    cluster = SLURMCluster(
        queue=(site.get("GPU_PARTITION") if gpus else None) or site.get("PARTITION") or None,
        account=site.get("ACCOUNT") or None,
        cores=1,
        processes=1,
        memory=wanted.memory,
        walltime=f"{minutes // 60:02d}:{minutes % 60:02d}:00",
        job_script_prologue=[line for line in (site.get("SETUP"), f"cd {shlex.quote(os.getcwd())}") if line],
        job_extra_directives=extra,
        python=site.get("PYTHON") or sys.executable,
        log_directory=str(wanted.logs),
    )
    jobs = wanted.workers or 4
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # a job that is lost is queued anew
    return cluster


def _fork_workers() -> None:
    """Have workers of this machine forked from one process that has imported what tasks need.

    A worker per core that reads torch and the rest from a shared disk by itself takes minutes on a large node.
    """
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    get_mp_context().set_forkserver_preload(["distributed", "kinmass.eval.tables.compare"])


@contextlib.contextmanager
def connected(wanted: Cluster) -> Iterator[Client]:
    """A client of the cluster, which ends with it unless it ran before. Says where its dashboard is."""
    if wanted.where.startswith(("tcp://", "tls://")):
        try:
            client = Client(wanted.where, timeout=20)
        except (OSError, TimeoutError) as error:
            raise OSError(
                f"no Dask scheduler answers at {wanted.where} ({error}); start one, or use --cluster local"
            ) from error
        with client:
            yield client
        return
    if wanted.where == "slurm":
        cluster = _slurm(wanted)
    elif wanted.where == "local":
        _fork_workers()
        cluster = LocalCluster(
            n_workers=wanted.workers or min(slurm_cores() or CPU_COUNT, CPU_COUNT),
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )
    else:
        raise ValueError(
            f"unknown cluster {wanted.where!r}; there are local, slurm, or an address like tcp://node:8786"
        )
    with cluster, Client(cluster) as client:
        yield client


def _total(*parts: dict[object, T]) -> dict[object, T]:
    """Sums by key, added in the order given."""
    found: dict[object, list[T]] = {}
    for part in parts:
        for key, value in part.items():
            found.setdefault(key, []).append(value)
    return {key: reduce(add, values) for key, values in found.items()}


def sum_of_tasks(task: Callable[..., dict], arguments: list[tuple], wanted: Cluster, unit: str = "block") -> dict:
    """The sum by key of the dictionaries that task(*a) gives for a in arguments.

    Sums are made on the workers, FAN_IN at a time in the order of the arguments: the same for any number of
    workers, whatever ends first; a task whose worker dies is done again elsewhere. What a task raises is raised here.
    """
    if not arguments:
        return {}
    with connected(wanted) as client, tqdm(total=len(arguments), desc="blocks", unit=unit) as bar:
        print(f"Dask's dashboard: {client.dashboard_link}", file=sys.stderr)
        level = []
        for start in range(0, len(arguments), FAN_IN):
            some = [client.submit(task, *a, pure=False, retries=2) for a in arguments[start : start + FAN_IN]]
            # Sums go before further blocks, so that few results lie about.
            level.append(client.submit(_total, *some, pure=False, priority=1))
        sizes = {future.key: min(FAN_IN, len(arguments) - FAN_IN * i) for i, future in enumerate(level)}
        try:
            for future in as_completed(list(level)):
                if future.status == "error":
                    future.result()
                bar.update(sizes[future.key])
            while len(level) > 1:
                pieces = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
                level = [client.submit(_total, *piece, pure=False, priority=2) for piece in pieces]
            return level[0].result()  # type: ignore[no-any-return]
        except (KilledWorker, CancelledError) as error:
            raise OSError(
                f"workers ended again and again while they worked ({error}): give them more memory (--memory), or use "
                "fewer (--workers)"
            ) from error
