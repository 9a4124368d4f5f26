"""Launching fits: what is refused before anything is queued, what is left alone, what is submitted."""

import fcntl
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinmass.gen.storage import store
from kinmass.train.launch import slurm
from kinmass.train.launch.job import Run
from kinmass.train.launch.lanes import to_this_machine
from kinmass.train.launch.resources import LaunchError, Resources
from kinmass.train.launch.status import (
    BUSY,
    absolute,
    ask,
    log_of,
    record_of,
    states,
)
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import check, fit, without_each_suite
from kinmass.train.run.checkpoint import member_folders, write_json

_NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")


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
            raise store.StoreError(f"{maps}: no finished galaxy in {suite}; run `kinmass maps` to its end")
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
            runs.append(Run(folder, FitConfig.from_options(str(maps.absolute()), tracer, suites, seed=seed + i, **options)))
        first = FitConfig.from_options(str(maps.absolute()), tracer, suites, seed=seed, **options)
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
            print(slurm.sbatch_script(wanted, len(runs), out))
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
        jobs = (slurm.to_slurm if wanted.cluster == "slurm" else to_this_machine)(todo, wanted, out)
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
        slurm.release([job["job"] for job in jobs])
    _announce(todo, wanted, out, [job["job"] for job in jobs])
    return 0


def _announce(runs: Sequence[Run], wanted: Resources, out: Path, jobs: Sequence[str] = ()) -> None:
    limit = f", at most {wanted.minutes} minutes" if wanted.minutes else ""
    print(f"{len(runs)} job(s) of {wanted.nodes} node(s) x {wanted.processes} process(es){limit}:")
    for run, job in zip(runs, jobs or [""] * len(runs), strict=True):
        print(f"  {job or 'would run'}  {run.folder}" + (f"  log {log_of(out, job)}" if job else ""))
    if jobs:
        print(f"curves: tensorboard --logdir {out}\nhow they stand: kinmass status {out}")
