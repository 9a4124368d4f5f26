"""A real Slurm of two nodes (slurm/testbed.sh, or whatever $SLURM_CONF leads to): what is queued, stopped, killed.

The nodes have to see the folder of the tests: give pytest a --basetemp on a shared disk where they are machines of
their own. Tests that kill a node's daemon want the testbed. Skipped where no Slurm answers, unless
KINMASS_NEED_SLURM is set.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import KEPT, ROOT, command, tree, until
from test_fit import same, weights_of
from test_launch import SMALL, flags, wait_for

from kinmass.train.launch.ports import free_port
from kinmass.train.launch.status import states, under_way

TESTBED = Path(os.environ.get("KINMASS_TESTBED", "/tmp/kinmass-testbed"))
VIEWS = ("--views", 2, "--pixels", 16)
ANSWERS = bool(shutil.which("sinfo")) and not subprocess.run(["sinfo"], capture_output=True, check=False).returncode
pytestmark = [
    pytest.mark.skipif(not ANSWERS and not os.environ.get("KINMASS_NEED_SLURM"), reason="no Slurm"),
    pytest.mark.timeout(600),  # most of the time passes in Slurm's queue
]


def shell(*line: object, check: bool = True) -> str:
    """Run a command and return what it prints. Raises AssertionError if it fails and check is set."""
    done = subprocess.run([*map(str, line)], cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    if check and done.returncode:
        raise AssertionError(f"{line} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout + ("" if check else done.stderr)


def accounting() -> bool:
    return "slurmdbd" in shell("scontrol", "show", "config")


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A site file for this Slurm."""
    assert ANSWERS, "no Slurm answers"
    path = tmp_path_factory.mktemp("site") / "site.env"
    account = "astro" if accounting() else ""
    path.write_text(
        f"PYTHON={sys.executable}\nCPUS_PER_TASK=1\nNODES=2\nTASKS_PER_NODE=2\nTIME=10\nACCOUNT={account}\n"
        "EVALUATE_TIME=10\nSETUP='export KINMASS_SETUP=done'\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINMASS_SITE", str(path))
        if account:
            patch.setenv("SBATCH_ACCOUNT", account)
        yield path
    # Only what was queued from here: the Slurm may be one on which other jobs of yours wait.
    queued = [line.split(maxsplit=1) for line in shell("squeue", "--me", "--noheader", "--format=%A %Z").splitlines()]
    if own := {job for job, folder in queued if folder == str(ROOT)}:
        shell("scancel", *own, check=False)


@pytest.fixture(scope="module")
def suites(mocks: Path) -> list[Path]:
    return sorted(mocks.glob("*/*.yaml"))


def sbatch(script: str, *arguments: object, logs: Path, **options: object) -> str:
    """The number of a queued script."""
    slurm_options = [
        f"--{k.replace('_', '-')}={v}" for k, v in ({"time": 10, "output": logs / "%x-%A_%a.log"} | options).items()
    ]
    return shell("sbatch", "--parsable", *slurm_options, f"slurm/{script}.sh", *arguments).strip()


def job_fields(job: str) -> dict[str, str]:
    """The fields of `scontrol show job` of a job."""
    return dict(re.findall(r"(\w+)=(\S*)", shell("scontrol", "show", "job", "--oneliner", job).splitlines()[0]))


def wait_state(job: str, *names: str, seconds: float = 150) -> dict[str, str]:
    deadline = time.monotonic() + seconds
    while (fields := job_fields(job))["JobState"] not in names:
        assert fields["JobState"] in (*names, "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"), fields
        assert time.monotonic() < deadline, fields
        time.sleep(0.3)
    return fields


def mapped(out: Path) -> int:
    return len(list(out.glob("*/status/c/*")))


def assert_same_store(one: Path, two: Path) -> None:
    files_a, files_b = tree(one), tree(two)
    assert files_a.keys() == files_b.keys()
    assert not [name for name in files_a if files_a[name] != files_b[name]]


def submitted(*options: object) -> str:
    """The number of the job, or of the array, that `kinmass launch` queues."""
    output = command("train", "launch", *options).stdout
    job = re.search(r"^  (\d+)(_\d+)?  ", output, re.MULTILINE)
    assert job, output
    return job[1]


# ---- generation


def test_two_nodes_map_what_one_rank_does(suites, map_store, tmp_path):
    out = tmp_path / "maps.zarr"
    job = sbatch("generate", *suites, "--out", out, *VIEWS, logs=tmp_path, nodes=2, ntasks_per_node=2)
    assert wait_state(job, "COMPLETED")["ExitCode"] == "0:0"
    (log,) = tmp_path.glob("*.log")
    assert "4 tasks on kin[1-2]" in log.read_text()
    assert_same_store(out, map_store)


def test_a_job_per_suite(suites, map_store, tmp_path):
    out = tmp_path / "maps.zarr"
    arguments = (*suites, "--out", out, *VIEWS)
    jobs = sbatch("generate", *arguments, logs=tmp_path, nodes=1, ntasks_per_node=2, array="0-3")
    for task in range(3):
        wait_state(f"{jobs}_{task}", "COMPLETED")
    assert wait_state(f"{jobs}_3", "FAILED")
    assert (
        "this job of the array has no suite: --array=0-2" in (tmp_path / f"kinmass-generate-{jobs}_3.log").read_text()
    )
    assert_same_store(out, map_store)


def test_near_its_time_limit_it_is_queued_again_and_goes_on(suites, map_store, tmp_path):
    out = tmp_path / "maps.zarr"
    job = sbatch("generate", *suites, "--out", out, *VIEWS, logs=tmp_path, nodes=2, ntasks_per_node=2)
    until(lambda: mapped(out) > 3)
    shell("scancel", "--batch", "--signal=USR1", job)  # what Slurm sends two minutes before the limit
    assert wait_state(job, "COMPLETED")["Restarts"] == "1"
    (log,) = tmp_path.glob("*.log")
    assert "the time limit is near" in log.read_text()
    assert_same_store(out, map_store)


def fail_node(name: str) -> None:
    """Kill a node's daemon and the processes of jobs on it."""
    os.kill(int((TESTBED / f"slurmd-{name}.pid").read_text()), signal.SIGKILL)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURMD_NODENAME={name}".encode() in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


@pytest.mark.skipif(not TESTBED.exists(), reason="only the testbed's nodes may be killed")
def test_a_node_fails_and_nothing_is_lost(suites, map_store, tmp_path):
    out = tmp_path / "maps.zarr"
    job = sbatch("generate", *suites, "--out", out, *VIEWS, logs=tmp_path, nodes=2, ntasks_per_node=2)
    until(lambda: mapped(out) > 3)
    fail_node("kin2")
    try:
        until(lambda: job_fields(job)["JobState"] == "PENDING")
        assert mapped(out) < 36
    finally:
        shell(ROOT / "slurm" / "testbed.sh", "up")
    assert int(wait_state(job, "COMPLETED")["Restarts"]) >= 1
    assert_same_store(out, map_store)


def test_a_rank_that_is_killed_ends_the_job(suites, tmp_path, monkeypatch):
    """As for want of memory. The others would wait for it until the time limit."""
    out = tmp_path / "maps.zarr"
    monkeypatch.setenv("SLURM_WAIT", "5")
    job = sbatch("generate", *suites, "--out", out, *VIEWS, logs=tmp_path, ntasks=2)
    until(lambda: mapped(out) > 3)
    of_rank_1 = {f"SLURM_JOB_ID={job}".encode(), b"SLURM_PROCID=1"}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if of_rank_1 <= {*(process / "environ").read_bytes().split(b"\0")}:
                os.kill(int(process.name), signal.SIGKILL)
    assert wait_state(job, "FAILED", seconds=60)["Restarts"] == "0"
    assert mapped(out) < 36


def test_processes_that_mpi_does_not_join_are_refused(suites, tmp_path, site, monkeypatch):
    other = tmp_path / "site.env"
    other.write_text(site.read_text() + "MPIRUN='srun --mpi=none'\n")
    monkeypatch.setenv("KINMASS_SITE", str(other))
    job = sbatch("generate", suites[0], "--out", tmp_path / "maps.zarr", logs=tmp_path, ntasks=2)
    wait_state(job, "FAILED")
    (log,) = tmp_path.glob("*.log")
    assert "srun started 2 processes, and each is alone in its MPI: set MPIRUN" in log.read_text()
    assert not (tmp_path / "maps.zarr").exists()


# ---- training


def test_two_nodes_stopped_in_every_way_end_with_the_weights_of_an_unbroken_fit(map_store, tmp_path):
    """scontrol requeue, USR2 as before a time limit, and a job of higher priority: SIGTERM, then SIGKILL."""
    out, config = tmp_path / 'it\'s a "run" $(touch hacked)', SMALL | {"steps": 800, "round_steps": 20, "patience": 99}
    line = ("--store", map_store, "--tracer", "both", *flags(**config))
    job = submitted(*line, "--out", out, "--nodes", 2, "--time", "10m", "--partition", "low")

    def moved(by: int = 20) -> None:
        before = states(out)[0].step
        until(lambda: states(out)[0].step >= before + by)

    until((out / "last.pt").exists)
    shell("scontrol", "requeue", job)
    moved()
    shell("scancel", "--signal=USR2", job)
    until(lambda: int(job_fields(job)["Restarts"]) == 2)
    moved()
    other = shell(
        "sbatch", "--parsable", "--partition=debug", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"
    )
    until(lambda: int(job_fields(job)["Restarts"]) == 3)
    wait_state(other.strip(), "COMPLETED")
    wait_for(out, "finished", seconds=200)
    log = next((out / "logs" / job).glob("*_0_log.out")).read_text()
    assert "2 processes on" in log
    assert "queued again" in log
    command("train", "launch", "--cluster", "local", "--processes-per-node", 2, *line, "--out", tmp_path / "whole")
    wait_for(tmp_path / "whole", "finished", seconds=200)
    assert same(weights_of(out), weights_of(tmp_path / "whole"))
    assert not (ROOT / "hacked").exists()


def test_a_time_limit_of_one_minute(map_store, tmp_path):
    out = tmp_path / "run"
    line = ("--store", map_store, "--tracer", "gas", "--out", out, "--time", "1m", "--nodes", 2)
    job = submitted(*line, *flags(steps=100_000, round_steps=50, patience=10_000))
    until(lambda: int(job_fields(job)["Restarts"]) == 1, seconds=180)
    step_before = states(out)[0].step
    assert step_before > 0
    until(lambda: states(out)[0].step > step_before, seconds=180)
    shell("scancel", job)
    wait_for(out, "cancelled", seconds=15)


def test_three_tracers_one_cancelled(map_store, tmp_path):
    out, options = tmp_path / "runs", flags(steps=60, round_steps=20)
    line = ("--store", map_store, "--out", out, "--time", "10m", "--array", "gas,stars,both", *options)
    job = submitted(*line, "--at-once", 1)
    assert under_way(out) == [job]
    shell("scancel", f"{job}_2")
    output = wait_for(out, "cancelled", seconds=15)
    assert next(x for x in output if "cancelled" in x).startswith(str(out / "both"))
    again = submitted(*line)
    # Who waits for the whole array would wait for the cancelled one.
    assert again in under_way(out)
    assert {*under_way(out)} <= {f"{job}_0", f"{job}_1", again}
    wait_for(out, "finished", runs=3, seconds=200)


def test_gpus_bound_to_tasks_and_a_home_that_cannot_be_written(map_store, tmp_path, site, monkeypatch):
    """The testbed's GPUs are none: what is asked for and what processes see of it is what can be tried."""
    other = tmp_path / "site.env"
    setup = f"export HOME=/proc XDG_CACHE_HOME=/proc TMPDIR={tmp_path}/local; echo GPUs $CUDA_VISIBLE_DEVICES"
    other.write_text(site.read_text() + f"SETUP='{setup}'\nGPU_PARTITION=debug\nSBATCH_EXTRA=--gpus-per-task=1\n")
    monkeypatch.setenv("KINMASS_SITE", str(other))
    line = ("--store", map_store, "--tracer", "gas", "--out", tmp_path / "run", "--nodes", 2, "--gpus-per-node", 1)
    job = submitted(*line, *flags())
    assert job_fields(job)["TresPerNode"] == "gres:gpu:1"
    assert job_fields(job)["TresPerTask"] == "gres:gpu:1"
    wait_for(tmp_path / "run", "finished", seconds=200)
    logs = (tmp_path / "run" / "logs" / job).glob("*.out")
    assert "GPUs 0\n" in "".join(log.read_text() for log in logs)


def test_more_gpus_than_a_node_has(map_store, tmp_path):
    """Slurm takes the job, which waits for ever; whether it says so at once depends on what else runs."""
    line = ("--store", map_store, "--tracer", "gas", "--out", tmp_path / "run", *flags())
    launched = command("train", "launch", *line, "--gpus-per-node", 4, check=False)
    job = json.loads((tmp_path / "run" / "logs" / "launched.json").read_text())["jobs"]["."]["job"]
    assert (launched.returncode == 2) == (f"`scancel {job}` and launch with less" in launched.stderr)
    until(lambda: re.search("PartitionConfig|BadConstraints", str(states(tmp_path / "run")[0])), seconds=150)
    shell("scancel", job, check=False)
    until(lambda: states(tmp_path / "run")[0].name in ("cancelled", "failed"), seconds=10)
    assert submitted(*line) != job


def test_it_waits_for_nobody_and_says_what_slurm_says(map_store, tmp_path):
    line = ("--store", map_store, "--tracer", "gas", "--out", tmp_path / "run", *flags())
    began = time.monotonic()
    job = submitted(*line, "--partition", "off")
    assert time.monotonic() - began < 30
    until(lambda: "run: queued, Partition" in str(states(tmp_path / "run")[0]), seconds=10)
    shell("scancel", job)
    wait_for(tmp_path / "run", "cancelled", seconds=5)
    wrong = [("--partition", "nosuch", "invalid partition")]
    wrong += [("--account", "nosuch", "Invalid account")] if accounting() else []
    for option, value, words in wrong:
        done = command("train", "launch", *line[: -len(flags())], option, value, *flags(), check=False)
        assert done.returncode == 2
        assert "sbatch refused the job" in done.stderr
        assert words in done.stderr
        (state,) = states(tmp_path / "run")
        assert state.name == "cancelled"  # of the first: nothing is left of what was refused


def test_a_full_log_folder_queues_nothing(map_store, tmp_path):
    line = ["train", "launch", "--store", map_store, "--tracer", "gas", "--out", tmp_path / "run", *flags()]
    before = shell("squeue", "--noheader", "--states=all", "--format=%i").split()
    output = shell("bash", "-c", 'ulimit -f 0; exec "$@"', "_", sys.executable, "-m", *line, check=False)
    assert "kinmass launch:" in output
    assert "File too large" in output
    assert "Traceback" not in output
    assert set(shell("squeue", "--noheader", "--states=all", "--format=%i").split()) <= set(before)
    assert not list((tmp_path / "run" / "logs").iterdir())


def test_a_training_job_that_lost_what_it_waited_for(map_store, tmp_path):
    failing = shell("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=false").strip()
    submitted("--store", map_store, "--tracer", "gas", "--out", tmp_path / "run", "--after", failing, *flags())
    until(lambda: "run: queued, Dependency" in str(states(tmp_path / "run")[0]), seconds=10)
    shell("scontrol", "release", failing)
    (output,) = wait_for(tmp_path / "run", "cancelled", seconds=200)
    assert "launch it again to go on" in output


def test_tensorboard_sees_curves_grow_while_the_job_runs(map_store, tmp_path):
    out = tmp_path / "runs"
    line = ("--store", map_store, "--array", "gas", "--out", out, "--time", "10m", "--nodes", 2)
    job = submitted(*line, *flags(steps=100_000, round_steps=20, patience=10_000))
    port = free_port()
    board = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", out, "--port", str(port), "--reload_interval", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def ask(path: str) -> object:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/plugin/scalars/{path}", timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return {}

    def points() -> list[int]:
        (run,) = ask("tags") or ("",)
        values = ask(f"scalars?run={run.replace('/', '%2F')}&tag=loss%2Fval") if run else []
        return [step for _, step, _ in values]

    try:
        until(lambda: len(points()) >= 2)
        before = points()
        until(lambda: len(points()) > len(before))
        assert job_fields(job)["JobState"] == "RUNNING"
        after = points()
        assert after[: len(before)] == before
        assert after == sorted(set(after))
    finally:
        board.terminate()
        board.wait(20)
        shell("scancel", job)


# ---- evaluation, and all of it


def test_dask_workers_as_jobs_one_of_them_cancelled(runs, results, map_store, tmp_path):
    out = tmp_path / "results"
    line = [sys.executable, "-m", "eval", "tables", *runs, "--store", map_store, "--out", out, "--part", "all"]
    copies = [shutil.copytree(run, tmp_path / run.name, ignore=KEPT) for run in runs]
    line[4 : 4 + len(runs)] = copies
    line += ["--cluster", "slurm", "--workers", "2", "--memory", "2GB"]
    began = subprocess.Popen([*map(str, line)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def workers() -> list[str]:
        return shell("squeue", "--noheader", "--name=dask-worker", "--states=RUNNING", "--format=%i").split()

    until(lambda: len(workers()) == 2 and list(tmp_path.glob("*/predictions.zarr")))
    shell("scancel", workers()[0])
    output, _ = began.communicate(timeout=200)
    assert began.returncode == 0, output
    here, there = pd.read_csv(results / "table.csv"), pd.read_csv(out / "table.csv")
    pd.testing.assert_frame_equal(here, there, rtol=1e-6, atol=1e-6)
    assert list((tmp_path / "results" / "logs").iterdir())


def test_the_whole_campaign_by_one_command(suites, map_store, tmp_path):
    line = ["slurm/campaign.sh", tmp_path / "all", *suites, "--", "--nodes", "2", *flags(steps=20, round_steps=10)]
    output = shell(*line)
    assert re.search(r"maps +job \d+ ", output)
    assert "training    job" in output
    training, waiting = re.findall(r"(?:training|evaluation) +job (\d+) ", output)
    shell("scontrol", "hold", training)
    maps = re.search(r"maps +job (\d+) ", output)[1]
    until(lambda: job_fields(maps)["JobState"] in ("RUNNING", "COMPLETED"), seconds=180)
    # Nothing is queued twice, also while galaxies are mapped; a stage that has ended since has no job any more.
    again = shell(*line)
    assert set(re.findall(r"job (\d+) ", again)) <= set(re.findall(r"job (\d+) ", output))
    shell("scancel", f"{training}_1")  # the report waits for the one that takes its place
    again = shell(*line)
    job = re.findall(r"evaluation +job (\d+) ", again)[0]
    assert job != waiting
    assert job_fields(waiting)["JobState"] == "CANCELLED"
    shell("scontrol", "release", training)
    until(lambda: job_fields(job)["JobState"] in ("RUNNING", "COMPLETED"), seconds=200)
    wait_state(job, "COMPLETED", seconds=200)
    assert (tmp_path / "all" / "results" / "report.html").exists()
    assert {path.name for path in (tmp_path / "all" / "runs").iterdir()} == {"gas", "stars", "both", "logs"}
    assert "4 tasks on kin[1-2]" in next((tmp_path / "all" / "logs").glob("kinmass-generate*.log")).read_text()
    done = shell(*line)
    assert all(f"{stage} done" in re.sub(" +", " ", done) for stage in ("maps", "training", "evaluation"))
    output = shell("slurm/campaign.sh", tmp_path / "other", tmp_path / "nosuch.yaml", check=False)
    assert "nosuch.yaml" in output
    assert "job" not in output
