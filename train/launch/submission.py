"""Launches fits: refuses what cannot work before anything is queued, leaves running fits alone, submits the others."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kinmass.gen.storage import store
from kinmass.gen.storage.lock import hold
from kinmass.gen.words import counted
from kinmass.train.launch import slurm
from kinmass.train.launch.commands import refuse_without_slurm, run_slurm_command
from kinmass.train.launch.job import Run
from kinmass.train.launch.lanes import to_this_machine
from kinmass.train.launch.resources import LaunchError, Resources, on_this_machine
from kinmass.train.launch.status import (
    BUSY,
    LaunchedJob,
    State,
    absolute_path,
    launches_in,
    log_of,
    read_launched,
    states,
    write_launched,
)
from kinmass.train.loop.begun import check, settings_by_name
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import fit, without_each_suite
from kinmass.train.run.checkpoint import FREE_SETTINGS, member_folders
from kinmass.train.run.derived import digest_of_json

_NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm")


def plan_runs(
    maps: Path,
    out: Path,
    pairs: Sequence[tuple[str, tuple[str, ...]]],
    below: bool,
    filled: bool = True,
    **options: Any,
) -> list[Run]:
    """Return a run per pair (tracer, suites) and member of its ensemble, and the fits without each suite.

    below: whether each pair has a folder of its own below `out`. filled: False where the store's galaxies are still
    to be mapped. options are those of FitConfig.from_options.
    Raises StoreError, ValueError or OSError with what is wrong with the store or the settings.
    """
    store_suites = store.suites(maps)
    for suite in dict.fromkeys(suite for _, suites in pairs for suite in suites):
        group = store.open_suite(maps, suite)
        if filled and not (store.read_status(group) == store.DONE).any():
            raise store.StoreError(f"{maps}: no finished galaxy in {suite}; run `kinmass maps` to its end")
    instrument = options.get("instrument", "")
    if instrument.endswith((".yaml", ".yml")):
        options["instrument"] = str(Path(instrument).absolute())
    seed, members, runs = options.pop("seed", 0), options.get("members", 1), []
    if members < 1:
        raise LaunchError(f"--members must be at least 1, not {members}")
    for tracer, suites in pairs:
        run_name = tracer if set(suites) == set(store_suites) else f"{tracer}-on-{'+'.join(suites)}"
        run_folder = out / run_name if below else out
        for i, folder in enumerate(member_folders(run_folder, members)):
            runs.append(
                Run(folder, FitConfig.from_options(str(maps.absolute()), tracer, suites, seed=seed + i, **options))
            )
        first_member = FitConfig.from_options(str(maps.absolute()), tracer, suites, seed=seed, **options)
        runs += [Run(folder, config) for folder, config in without_each_suite(first_member, run_folder)]
    return runs


def refuse(runs: Sequence[Run], resources: Resources, out: Path) -> list[str]:
    """Raise ValueError, such as LaunchError, for what cannot work; return warnings of what may not work.

    Also those of runs that stay as they are though their store has changed.
    """
    remarks = []
    for run in runs:
        processes = f"{resources.nodes} nodes x {resources.processes} processes"
        has_gpus = bool(resources.gpus) or resources.cluster == "debug"  # which asks for none and takes what is here
        run.config.refuse_processes(resources.world, has_gpus, processes)
        remarks.append(check(run.config, run.folder, filled=resources.after is None))
    warnings = [remark for remark in remarks if remark]
    if resources.cluster != "slurm":
        return warnings
    slurm.sbatch_parameters(resources, len(runs))  # Raises LaunchError for what SBATCH_EXTRA must not say.
    largest = _largest_array(resources.site)
    if largest is not None and len(runs) > largest:
        raise LaunchError(
            f"{len(runs)} jobs are more than the largest array here, {largest} (MAX_ARRAY); ask for fewer"
        )
    paths = {"--out": out.resolve(), "--store": Path(runs[0].config.store).resolve()}
    return warnings + [
        f"warning: {option} {path} is in {node_local_folder}, which nodes do not share as a rule; take a folder that "
        "every node sees"
        for option, path in paths.items()
        for node_local_folder in _NODE_LOCAL
        if path.is_relative_to(node_local_folder)
    ]


def _largest_array(site: dict[str, str]) -> int | None:
    if site.get("MAX_ARRAY"):
        if not site["MAX_ARRAY"].isdecimal():
            raise LaunchError(f"MAX_ARRAY={site['MAX_ARRAY']} is no whole number; correct it in the site file")
        return int(site["MAX_ARRAY"])
    answer = run_slurm_command("scontrol", "show", "config", timeout=5)
    array_size = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE) if answer else None
    return int(array_size[1]) if array_size else None


def _digest_of(config: FitConfig) -> str:
    """Return a digest of the settings of a fit, without those that change no result."""
    settings = {name: value for name, value in settings_by_name(config).items() if name not in FREE_SETTINGS}
    settings["instrument"] = config.instrument_model.model_dump(mode="json")
    return digest_of_json(settings)


def _refuse_another(run: Run, job: LaunchedJob, state: State) -> None:
    """Raise LaunchError for a run whose job, which has not begun, was launched with other settings than now.

    What has begun is told by its run.json, in which settings.
    """
    if job.settings and job.settings != _digest_of(run.config):
        raise LaunchError(f"{state} was launched with other settings; wait for it, cancel it, or choose another --out")


def launch(runs: Sequence[Run], resources: Resources, out: Path, dry_run: bool = False) -> int:
    """Start every run that is neither finished nor under way, print what was done, and return the exit code 0.

    Raises ValueError, such as LaunchError or RunError, before anything is queued, with what cannot work.
    """
    if resources.cluster == "slurm" and not dry_run:
        refuse_without_slurm()
    if resources.cluster == "local":
        resources = on_this_machine(resources, len(runs), torch.cuda.device_count())
    for warning in refuse(runs, resources, out):
        print(warning, file=sys.stderr)
    if dry_run:
        _announce(runs, resources, out)
        if resources.cluster == "slurm":
            print(slurm.sbatch_script(resources, len(runs), out))
        return 0
    if resources.cluster == "debug":
        for run in runs:
            fit(run.config, run.folder)
        return 0
    with hold(out / "logs" / ".launching", f"{out / 'logs'}", patience_s=1):
        states_by_folder, launches = {absolute_path(state.run): state for state in states(out)}, launches_in(out)
        runs_to_start = []
        for run in runs:
            state = states_by_folder.get(absolute_path(run.folder))
            if state and state.name in BUSY and absolute_path(run.folder) in launches:
                _refuse_another(run, launches[absolute_path(run.folder)][1], state)
            if state and state.name in ("finished", *BUSY):
                print(f"left alone: {state}")
            else:
                runs_to_start.append(run)
        if not runs_to_start:
            return 0
        jobs = (slurm.to_slurm if resources.cluster == "slurm" else to_this_machine)(runs_to_start, resources, out)
        record = read_launched(out)
        for run, job in zip(runs_to_start, jobs, strict=True):
            record[os.path.relpath(run.folder, out)] = replace(job, settings=_digest_of(run.config))
        try:
            write_launched(out, record)
        except OSError:
            if resources.cluster == "slurm":  # Without the record nobody would know of these jobs on hold.
                run_slurm_command("scancel", *(job.job for job in jobs))
            raise
    if resources.cluster == "slurm":
        slurm.release([job.job for job in jobs])
    _announce(runs_to_start, resources, out, [job.job for job in jobs])
    return 0


def _announce(runs: Sequence[Run], resources: Resources, out: Path, jobs: Sequence[str] = ()) -> None:
    limit = f", at most {resources.minutes} minutes" if resources.minutes else ""
    jobs_of = "1 job of" if len(runs) == 1 else f"{len(runs)} jobs, each of"
    nodes, processes = counted(resources.nodes, "node"), counted(resources.processes, "process", "processes")
    print(f"{jobs_of} {nodes} x {processes}{limit}:")
    for run, job in zip(runs, jobs or [""] * len(runs), strict=True):
        print(f"  {job or 'would run'}  {run.folder}" + (f"  log {log_of(out, job)}" if job else ""))
    if jobs:
        print(f"curves: tensorboard --logdir {out}\nhow they stand: kinmass status {out}")
