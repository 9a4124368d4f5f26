"""The one file that knows Dask: tasks on workers, results in the order of the tasks."""

import logging
import os
from collections.abc import Callable
from typing import Any

from dask.distributed import Client, LocalCluster, as_completed
from tqdm import tqdm


def run_tasks(task: Callable[..., Any], arguments: list[tuple[Any, ...]], workers: int | None = None) -> list[Any]:
    """[task(*a) for a in arguments], by single-threaded worker processes on this machine.

    Results come back in the order of the arguments whatever order they end in, so that sums over
    them are the same for any number of workers.
    """
    count = max(1, min(workers or os.cpu_count() or 1, len(arguments)))
    results: list[Any] = [None] * len(arguments)
    with (
        LocalCluster(
            n_workers=count, threads_per_worker=1, dashboard_address=None, silence_logs=logging.ERROR
        ) as cluster,
        Client(cluster) as client,
    ):
        futures = {client.submit(task, *a, pure=False): i for i, a in enumerate(arguments)}
        for future in tqdm(as_completed(list(futures)), total=len(futures), desc="blocks", unit="block"):
            results[futures[future]] = future.result()
    return results
