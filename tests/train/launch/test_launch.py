"""Launching: jobs of this machine for real, what they leave behind, refusals, the script for Slurm."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import KEPT, ROOT, called, command, until

from kinmass.eval.__main__ import main as evaluate
from kinmass.gen.storage.lock import boot_id, hold
from kinmass.train.__main__ import main
from kinmass.train.launch.commands import refuse_without_slurm
from kinmass.train.launch.job import FitJob
from kinmass.train.launch.resources import LaunchError, combinations, minutes, read_site
from kinmass.train.launch.status import LaunchedJob, start_ticks, states, write_launched
from kinmass.train.launch.submission import _digest_of
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fit import Stopped, fit
from kinmass.train.run.checkpoint import load

SMALL = {"width": 4, "steps": 12, "round_steps": 4, "batch": 8}
SUITES = ("bursty", "middle", "quiet")


def flags(**options: object) -> list[str]:
    return [str(x) for k, v in (SMALL | options).items() for x in (f"--{k.replace('_', '-')}", v)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load(run)[0].state_dict()


def wait_for(out: Path, name: str, runs: int = 1, seconds: float = 200) -> list[str]:
    """The lines of `kinmass status`, once as many runs are in the state."""
    deadline_s = time.monotonic() + seconds
    while True:
        run_states = states(out)
        if sum(state.name == name for state in run_states) >= runs:
            return [str(state) for state in run_states]
        assert time.monotonic() < deadline_s, f"not {name}: {[str(state) for state in run_states]}"
        time.sleep(0.2)


def lane_of(out: Path, run: str = ".") -> int:
    return json.loads((out / "logs" / "launched.json").read_text())["jobs"][run]["pid"]


def children(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def launch(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    """What `kinmass launch --cluster local` says."""
    assert main(["launch", "--cluster", "local", *map(str, options)]) == 0
    return capsys.readouterr().out


def job_of_this_process() -> LaunchedJob:
    """A job that runs as long as this process, without a log: it is queued."""
    pid, host = os.getpid(), socket.gethostname()
    return LaunchedJob("8", "local", time.time(), pid, start_ticks(pid), boot_id(), host)


# ---- jobs of this machine


def test_an_array_of_two_processes_trains_what_fit_does(map_store, tmp_path, capsys):
    out = tmp_path / "runs"
    options = ("--processes-per-node", 2, "--at-once", 2, "--store", map_store, "--out", out, *flags())
    options = (*options, "--array", "gas,both", "x", "all")
    # Through the command: that it returns although its output is a pipe is part of what is tested.
    printed = command("train", "launch", "--cluster", "local", *options).stdout
    assert "tensorboard --logdir" in printed
    # Both see the same free memory, of which each takes half.
    environment = Path("/proc", str(lane_of(out, "gas")), "environ").read_bytes()
    assert b"KINMASS_JOBS_AT_ONCE=2" in environment.split(b"\0")
    fit(FitConfig(str(map_store), "both", SUITES, **SMALL), tmp_path / "plain", quiet=True)
    assert main(["status", str(out), "--wait"]) == 0
    changes = capsys.readouterr().out
    assert all(re.search(rf"{run}: finished, ", changes) for run in ("gas", "both"))
    assert {p.name for p in out.iterdir()} == {"gas", "both", "logs"}
    expected_weights, launched_weights = weights(tmp_path / "plain"), weights(out / "both")
    for name in expected_weights:
        # Sums in another order; twelve steps move a weight by a hundred times this.
        torch.testing.assert_close(launched_weights[name], expected_weights[name], rtol=0, atol=1e-4, msg=name)
    logs = [Path(x) for x in re.findall(r"log (\S+)", printed)]
    assert len(logs) == 2
    assert all("2 processes" in log.read_text() for log in logs)
    assert launch(capsys, *options).count("left alone") == 2
    assert sorted(out.glob("logs/local-*")) == sorted(log.parent for log in logs)


def test_debug_is_fit_here_and_now_and_members_differ_in_their_seed(map_store, tmp_path):
    options = ["--cluster", "debug", "--store", str(map_store), "--tracer", "gas", "--members", "2"]
    assert main(["launch", *options, "--out", str(tmp_path / "runs"), *flags(steps=4, seed=5)]) == 0
    fit(
        FitConfig(str(map_store), "gas", SUITES, **SMALL | {"steps": 4, "seed": 6, "members": 2}),
        tmp_path / "plain",
        quiet=True,
    )
    expected_weights, second_member = weights(tmp_path / "plain"), weights(tmp_path / "runs" / "member-1")
    assert all(torch.equal(expected_weights[name], second_member[name]) for name in expected_weights)
    first_member = weights(tmp_path / "runs" / "member-0")
    assert not all(torch.equal(expected_weights[name], first_member[name]) for name in expected_weights)


def test_a_killed_and_a_stopped_job_go_on_when_launched_again(map_store, tmp_path, capsys):
    out, config = tmp_path / "run", SMALL | {"steps": 160, "patience": 100}
    options = ("--store", map_store, "--tracer", "gas", "--out", out, *flags(**config))
    launch(capsys, *options)
    until((out / "last.pt").exists)
    assert "left alone" in launch(capsys, *options)  # never two writers in one folder
    lane = lane_of(out)
    (rank_pid,) = children(lane)
    os.kill(lane, signal.SIGKILL)
    (status_line,) = wait_for(out, "gone", seconds=100)
    assert f"process {lane} ended without a word" in status_line
    assert "launch it again" in status_line
    until(lambda: not start_ticks(rank_pid), 60)
    step = states(out)[0].step
    launch(capsys, *options)
    until(lambda: states(out)[0].step != step)
    os.kill(lane_of(out), signal.SIGTERM)
    wait_for(out, "stopped", seconds=200)
    assert step < states(out)[0].step < 160
    launch(capsys, *options)
    wait_for(out, "finished")
    fit(FitConfig(str(map_store), "gas", SUITES, **config), tmp_path / "plain", quiet=True)
    expected_weights, relaunched_weights = weights(tmp_path / "plain"), weights(out)
    assert all(torch.equal(expected_weights[name], relaunched_weights[name]) for name in expected_weights)


def test_one_process_that_dies_ends_the_job_and_is_named(map_store, tmp_path, capsys):
    out = tmp_path / "run"
    options = ("--processes-per-node", 2, "--store", map_store, "--tracer", "gas", "--out", out)
    launch(capsys, *options, *flags(steps=4000, patience=1000))
    until((out / "last.pt").exists)
    lane = lane_of(out)
    rank_pids = children(lane)
    os.kill(rank_pids[1], signal.SIGKILL)
    (status_line,) = wait_for(out, "failed", seconds=200)
    assert "process 1 was killed by SIGKILL" in status_line
    until(lambda: not start_ticks(rank_pids[0]), 60)


def test_a_traceback_is_in_the_log_that_status_names(own_store, tmp_path, capsys):
    for chunk in (own_store / "quiet" / "maps").glob("c.*"):
        chunk.write_bytes(b"damaged")
    launch(capsys, "--store", own_store, "--tracer", "gas", "--out", tmp_path / "run", *flags())
    assert main(["status", str(tmp_path / "run"), "--wait"]) == 1
    assert "failed" in capsys.readouterr().out
    printed = called("train", "status", tmp_path / "run").stdout
    assert "failed, StoreError" in printed
    assert "cannot be read" in printed
    log = re.search(r"log (\S+log\.out)", printed)
    assert log
    assert "Traceback" in Path(log[1]).read_text()


def test_status_does_not_walk_through_stores(tmp_path, monkeypatch):
    """Kept predictions have a folder per galaxy; whatever lies in a store is no run."""
    for folder in ("a", "a/predictions.zarr/0", "maps.zarr/quiet", "a/tensorboard/x"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.json").write_text("{}")
    visited, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: visited.append(Path(path).name) or scan(path))
    assert [state.run for state in states(tmp_path)] == [tmp_path / "a"]
    assert not {"predictions.zarr", "0", "maps.zarr", "quiet"} & set(visited)


@pytest.mark.parametrize("into", [".", "all", "all/gas"])
def test_a_launched_run_is_found_from_wherever_it_is_looked_for(runs, map_store, tmp_path, capsys, monkeypatch, into):
    """It was not seen, or not launched, where `launch` had been given another folder: --wait ended before it began."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs[0], tmp_path / "all" / "old", ignore=KEPT)
    job = job_of_this_process()
    (tmp_path / "logs").mkdir()
    (tmp_path / into / "logs" / "8").mkdir(parents=True)
    (tmp_path / into / "logs" / "8" / "8_0_log.out").write_text("begun\n")
    earlier = LaunchedJob("7", "local", time.time() - 60)
    write_launched(tmp_path, {"all/gas": earlier})
    write_launched(tmp_path / into, {os.path.relpath("all/gas", into): job})
    for out in (Path("all"), Path("all/gas"), tmp_path):
        state = {state.run.name: state for state in states(out)}["gas"]
        assert state.name == "running"
        log = Path(re.search(r"log (\S+)", state.text)[1])
        assert log.samefile(Path(into, "logs/8/8_0_log.out"))
    assert main(["launch", "--cluster", "local", "--tracer", "gas", "--store", str(map_store), "--out", "all/gas"]) == 0
    assert "left alone: all/gas: running" in capsys.readouterr().out
    # Tables without it could be taken for the whole.
    nothing = ["--store", str(tmp_path / "none.zarr"), "--out", "out"]
    for stage_command in ("tables", "conditions"):
        assert evaluate([stage_command, "all", *nothing]) == 2
        assert f"kinmass {stage_command}: {tmp_path}/all/gas was launched and has trained" in capsys.readouterr().err


def test_a_run_that_waits_with_other_settings_is_not_left_alone_without_a_word(map_store, tmp_path, capsys):
    """Only what has begun has a run.json that tells of its settings; who changed one would take the old run for new."""
    out = tmp_path / "gas"
    (out / "logs").mkdir(parents=True)
    waiting = job_of_this_process()
    config = FitConfig.from_options(str(map_store), "gas", SUITES, **SMALL)
    write_launched(out, {".": dataclasses.replace(waiting, settings=_digest_of(config))})
    line = ["launch", "--cluster", "local", "--tracer", "gas", "--store", str(map_store), "--out", str(out)]
    assert main([*line, *flags(memory_gb=3)]) == 0
    assert f"left alone: {out}: queued" in capsys.readouterr().out
    assert main([*line, *flags(steps=13)]) == 2
    assert re.search(r"gas: queued, .* was launched with other settings; wait for it", capsys.readouterr().err)


def test_two_launches_into_one_folder_do_not_meet(map_store, tmp_path, capsys):
    """From two login nodes, too: a lock of the system's own does not reach beyond one on many file systems."""
    command_line = ["launch", "--cluster", "local", "--store", str(map_store), "--tracer", "gas", "--out"]
    with hold(tmp_path / "logs" / ".launching", "logs"):
        assert main([*command_line, str(tmp_path), *flags()]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'logs'} is being written by process {os.getpid()}" in said
    assert not list(tmp_path.rglob("*"))


def test_where_there_is_no_run_not_all_are_finished(tmp_path, capsys):
    """A script that waits for the wrong folder would go on."""
    for out in (tmp_path, tmp_path / "none"):
        for wait in ([], ["--wait"]):
            assert main(["status", str(out), *wait]) == 2
            assert f"{out} holds no run, and nothing was launched into it" in capsys.readouterr().err
        assert main(["status", str(out), "--jobs"]) == 0


def test_a_damaged_record_above_is_somebody_elses(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "launched.json").write_text("[]")
    (tmp_path / "runs").mkdir()
    assert states(tmp_path / "runs") == []
    with pytest.raises(LaunchError, match=r"launched\.json cannot be read"):
        states(tmp_path)


def test_a_damaged_run_json_is_said(runs, tmp_path):
    """It was "not launched from here", as a run that is fine."""
    run = shutil.copytree(runs[0], tmp_path / "run", ignore=KEPT)
    (run / "run.json").write_text("")
    (state,) = states(tmp_path)
    assert "run.json is damaged" in str(state)
    assert state.name != "finished"


# ---- what is asked for


def test_time_limits():
    for text, expected in (("8h", 480), ("90m", 90), ("1h30m", 90), ("2d", 2880), ("1-12:00:00", 2160), ("90s", 2)):
        assert minutes(text) == expected
    assert minutes("08:00:00") == 480
    for text in ("", "8", "8 hours", "0m", "08:00", "-5m", "h"):
        with pytest.raises(LaunchError, match="not understood"):
            minutes(text)


def test_an_array_is_tracers_times_sets_of_suites():
    pairs = combinations("gas,both x bursty,bursty+quiet", SUITES)
    assert pairs == [
        ("gas", ("bursty",)), ("gas", ("bursty", "quiet")), ("both", ("bursty",)), ("both", ("bursty", "quiet"))
    ]  # fmt: skip
    assert combinations("gas", SUITES) == [("gas", SUITES)]
    assert combinations("gas x all", SUITES) == [("gas", SUITES)]
    with pytest.raises(LaunchError, match="twice"):
        combinations("gas,gas", SUITES)


def test_the_site_file_means_to_launch_what_it_means_to_bash(tmp_path, monkeypatch):
    example = (ROOT / "slurm" / "site.example.env").read_text()
    path = tmp_path / "site.env"
    path.write_text(example + 'SETUP=\'module load cuda\nexport A="$HOME b"\'\nQOS="long"  # why\nWCKEY=$KINMASS_KEY\n')
    monkeypatch.setenv("KINMASS_KEY", "k1")
    monkeypatch.chdir(tmp_path)
    site = read_site(path)
    script = f'set -eu; source {path}; for k in {" ".join(site)}; do printf "%s\\0" "${{!k}}"; done'
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.split("\0")[:-1] == list(site.values())
    assert len(site) > 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ACCOUNT=a b", "'b' is no KEY=value"),
        ("ACOUNT=a", "'ACOUNT=a' is no KEY=value"),
        ("ACCOUNT='a", "No closing quotation"),
        ("ACCOUNT=$(touch hacked)", "'touch' is no|not executed|no KEY=value"),
        ("ACCOUNT='$(touch hacked)'", "not executed"),
        ("ACCOUNT=$KINMASS_NOT_SET", "KINMASS_NOT_SET"),
    ],
)
def test_a_site_file_is_never_executed(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.env").write_text(text + "\n")
    with pytest.raises(LaunchError, match=words):
        read_site(tmp_path / "site.env")
    assert not (tmp_path / "hacked").exists()


def test_a_dry_run_shows_the_script_and_queues_nothing(map_store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "site.env").write_text(
        "ACCOUNT=astro\nPARTITION=cpu\nGPU_PARTITION=gpu\nSETUP='module load cuda'\nPYTHON=/shared/python\n"
        "SBATCH_EXTRA='--mem=64G --exclusive'\nQOS=low\n"
    )
    args = ["launch", "--dry-run", "--site", str(tmp_path / "site.env"), "--store", str(map_store), "--qos", "high"]
    args += ["--nodes", "4", "--gpus-per-node", "4", "--time", "8h", "--array", "gas,both", "x", "bursty,quiet"]
    assert main([*args, "--members", "5", "--batch", "64", "--out", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    sbatch_options = set(re.findall(r"#SBATCH --(\S+)", printed))
    assert sbatch_options >= {
        "account=astro", "partition=gpu", "qos=high", "nodes=4", "gpus-per-node=4", "ntasks-per-node=4", "time=480",
        "cpus-per-task=4", "mem=64G", "exclusive", "array=0-19%20", "requeue", "signal=USR2@120",
    }  # fmt: skip
    assert "wckey" not in printed
    assert "\nexport SLURM_EXPORT_ENV=ALL\nmodule load cuda\n" in printed
    assert re.search(r"^srun .*--kill-on-bad-exit=1 .*/shared/python -u -m submitit", printed, re.MULTILINE)
    for i in range(5):
        assert str(tmp_path / "runs" / "both-on-quiet" / f"member-{i}") in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--tracer", "both", "--batch", "64", "--nodes", "3"],
            "3 nodes x 1 processes cannot share a batch of 64 views evenly",
        ),
        (["--tracer", "dust"], "gas, stars, both"),
        (["--array", "gas x nosuch"], "it has bursty, middle, quiet"),
        (["--tracer", "gas", "--instrument", "hubble"], "clean, ifu"),
        (["--tracer", "gas", "--store", "nowhere.zarr"], "no map store"),
        (["--tracer", "gas", "--time", "soon"], "'soon' is not understood"),
        (["--tracer", "gas"], "no sbatch here"),
        (["--tracer", "gas", "--array", "gas"], "either --tracer or --array"),
        (["--tracer", "gas", "--site", "nosuch.env"], "nosuch.env cannot be read"),
        (["--tracer", "gas", "--gpus-per-node", "4", "--processes-per-node", "8"], "a GPU of its own"),
        (["--tracer", "gas", "--cluster", "local", "--nodes", "2"], "local has one node"),
        (["--tracer", "gas", "--cluster", "debug", "--processes-per-node", "2"], "runs in this process alone"),
        (["--tracer", "gas", "--members", "4", "--site", "SITE"], "4 jobs are more than the largest array here, 3"),
        (["--tracer", "gas", "--sbatch-extra", "mem=3G"], "'mem=3G' is no option of sbatch"),
        *(
            (["--tracer", "gas", f"--sbatch-extra=--mem=3G --{twice}"], f"--{twice.split('=')[0]} is set by launch")
            for twice in ("time=2:00:00", "cpus-per-task=8", "signal=USR1@60", "array=0-1")
        ),
        (["--tracer", "gas", "--members", "0"], "members must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_queued(options, words, map_store, tmp_path, capsys, monkeypatch):
    (tmp_path / "site.env").write_text("MAX_ARRAY=3\n")
    monkeypatch.setenv("PATH", "/nowhere")
    options = [str(tmp_path / "site.env") if x == "SITE" else x for x in options]
    # A dry run needs no Slurm: what it refuses is what there is to refuse.
    if words != "no sbatch here":
        options.append("--dry-run")
    assert main(["launch", "--store", str(map_store), "--out", str(tmp_path / "runs"), *options]) == 2
    messages = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("warning")]
    assert len(messages) == 1
    assert words in messages[0]
    assert not (tmp_path / "runs").exists()


def test_other_refusals(map_store, own_store, tmp_path, capsys):
    def refused(store: Path, **options: object) -> str:
        arguments = ["launch", "--cluster", "local", "--store", store, "--tracer", "gas", "--out", tmp_path / "run"]
        assert main([*map(str, arguments), *flags(**options)]) == 2
        return capsys.readouterr().err

    shutil.rmtree(own_store / "quiet" / "status" / "c")
    assert "no finished galaxy in quiet" in refused(own_store)
    fit(FitConfig(str(map_store), "gas", SUITES, **SMALL | {"steps": 4}), tmp_path / "run", quiet=True)
    assert "settings: steps" in refused(map_store)
    (state,) = states(tmp_path / "run")
    assert state.name == "finished"
    (tmp_path / "run" / "logs").mkdir()
    for damaged in ("{", "[]", '{"jobs": [1]}', '{"jobs": {".": 5}}', '{"jobs": {".": {"pid": 5}}}'):
        (tmp_path / "run" / "logs" / "launched.json").write_text(damaged)
        assert "launched.json cannot be read" in refused(map_store, steps=4)


def test_a_job_whose_ranks_nothing_can_start_says_what_to_set(tmp_path):
    for name in ("bash", "date", "dirname", "grep"):
        (tmp_path / name).symlink_to(shutil.which(name))
    (tmp_path / "python").write_text("#!/bin/sh\necho MPICH\n")  # which MPI the project's Python has
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "site.env").write_text(f"PYTHON={tmp_path / 'python'}\n")
    env = {"PATH": str(tmp_path), "SLURM_JOB_ID": "1", "KINMASS_SITE": str(tmp_path / "site.env")}
    done = subprocess.run(
        [tmp_path / "bash", "slurm/generate.sh", "a.yaml"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "neither srun --mpi=pmi2 nor mpiexec starts ranks here; set MPIRUN in " in done.stderr


@pytest.mark.parametrize(("reason", "words"), [("None", "queued again"), ("Priority", "queued again (Priority)")])
def test_a_job_that_is_queued_again_is_told_with_slurms_reason_if_it_has_one(tmp_path, monkeypatch, reason, words):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho '7|PENDING|{reason}'\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "logs" / "7").mkdir(parents=True)
    (tmp_path / "logs" / "7" / "7_0_log.out").write_text("begun\n")
    write_launched(tmp_path, {"run": LaunchedJob("7", "slurm", time.time())})
    (state,) = states(tmp_path)
    assert state.name == "going on"
    assert re.match(rf"{re.escape(words)}, last sign of life \d+ s ago, job 7, log ", state.text)


def test_without_a_slurm_that_answers_it_is_one_sentence_with_a_hint(map_store, tmp_path, capsys, monkeypatch):
    """Slurm's commands are installed, but no configuration leads to a Slurm. The job scripts say it, too."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("squeue", "sbatch"):
        said = [f"echo '{name}: {words}' >&2" for words in ("error: DNS SRV lookup failed", "fatal: no configuration")]
        (bin_folder / name).write_text("\n".join(["#!/bin/sh", *said, "exit 1", ""]))
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    line = ["--store", str(map_store), "--out", str(tmp_path / "runs")]
    assert main(["launch", "--tracer", "gas", *line]) == 2
    (said,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("warning")]
    assert "no Slurm answers here (squeue: fatal: no configuration)" in said
    assert "--cluster local" in said
    for script in (["generate.sh", "a.yaml"], ["evaluate.sh", "runs"], ["campaign.sh", tmp_path / "all", "a.yaml"]):
        done = subprocess.run(
            [f"slurm/{script[0]}", *script[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "no Slurm answers here" in done.stderr
        assert "--cluster local" in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name != "bin"]


# ---- jobs of Slurm, whose commands stand in for it here


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> Path:
    """Put shell scripts that stand in for commands on the path; return the file in which each writes its arguments."""
    log = folder / "log"
    log.touch()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\necho {name} \"$@\" >>'{log}'\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


#: What Slurm says of job 36: it is the last one of an array, and the whole array. The others have numbers of their own.
SCONTROL = """case "$*" in
  "show job --oneliner 36") echo JobId=37 ArrayJobId=36 ArrayTaskId=0 JobState=COMPLETED
                            echo JobId=36 ArrayJobId=36 ArrayTaskId=2 JobState=RUNNING;;
  "show job --oneliner 36_2") echo JobId=36 ArrayJobId=36 ArrayTaskId=2 JobState=RUNNING;;
esac"""
ARRAY = {"SLURM_ARRAY_JOB_ID": "36", "SLURM_ARRAY_TASK_ID": "2"}


@pytest.mark.parametrize(("variables", "job"), [(ARRAY, "36_2"), ({}, "36")])
def test_a_job_of_an_array_has_itself_alone_queued_again(tmp_path, monkeypatch, variables, job):
    """It also begins without what the shell that launched it had of torchrun or another launcher."""
    scontrol = SCONTROL if variables else "echo JobId=36 JobState=RUNNING"
    log = commands(tmp_path, monkeypatch, scontrol=scontrol)
    of_slurm = {"JOB_ID": "36", "NTASKS": "1", "JOB_NUM_NODES": "1", "NODEID": "0", "PROCID": "0", "LOCALID": "0"}
    of_shell = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "29500"}
    of_submitit = {"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(tmp_path / "%j")}
    for name, value in ({f"SLURM_{x}": y for x, y in of_slurm.items()} | variables | of_shell | of_submitit).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    seen = {}

    def stopped(*_: object) -> None:
        seen.update(os.environ)
        raise Stopped("stopped at step 3 of 12")

    monkeypatch.setattr("kinmass.train.launch.job.fit", stopped)
    FitJob({"store": "maps.zarr", "tracer": "gas", "suites": SUITES}, str(tmp_path / "run"), "slurm")()
    assert log.read_text().splitlines() == [f"scontrol show job --oneliner {job}", f"scontrol requeue {job}"]
    assert not seen.keys() & of_shell.keys()


@pytest.mark.parametrize(("variables", "job"), [(ARRAY, "36_0"), ({}, "36")])
def test_a_suites_job_of_an_array_has_itself_alone_queued_again(tmp_path, monkeypatch, variables, job):
    log = commands(tmp_path, monkeypatch, scontrol="", ranks="kill -USR1 $PPID; sleep 0.2")
    (tmp_path / "site.env").write_text("PYTHON=python\nMPIRUN=ranks\n")
    variables = {name: value.replace("2", "0") for name, value in variables.items()}
    env = os.environ | variables | {"SLURM_JOB_ID": "36", "KINMASS_SITE": str(tmp_path / "site.env")}
    subprocess.run(["slurm/generate.sh", "a.yaml", "--out", "maps.zarr"], cwd=ROOT, env=env, check=True)
    assert log.read_text().splitlines() == [
        "ranks python -m mpi4py -m kinmass maps a.yaml --out maps.zarr",
        f"scontrol requeue {job}",
    ]


def test_a_campaign_that_is_given_inside_a_job_is_queued_all_the_same(tmp_path, monkeypatch):
    """As on a node of an interactive job; what that one may take is nothing to the jobs that are queued."""
    python = """case "$*" in
      *--plan) echo room for 12 galaxies, 0 of them done;;
      *--jobs) echo 101;;
    esac"""
    sbatch = 'env | grep ^SLURM_ >>"$0.env"; echo 100'
    log = commands(tmp_path, monkeypatch, python=python, squeue="", sbatch=sbatch)
    (tmp_path / "site.env").write_text(f"PYTHON={tmp_path / 'python'}\n")
    (tmp_path / "a.yaml").touch()
    of_job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_MEM_PER_NODE": "4000", "SLURM_STEP_NUM_TASKS": "4"}
    env = os.environ | of_job | {"KINMASS_SITE": str(tmp_path / "site.env"), "SLURM_CONF": "/etc/slurm.conf"}
    line = ["slurm/campaign.sh", tmp_path / "out", tmp_path / "a.yaml"]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "maps        job 100" in done.stdout
    jobs = [words for words in log.read_text().splitlines() if words.startswith("sbatch")]
    assert [re.search(r"slurm/\w+\.sh", words)[0] for words in jobs] == ["slurm/generate.sh", "slurm/evaluate.sh"]
    assert "--dependency=afterok:100:101" in jobs[1]
    assert (tmp_path / "sbatch.env").read_text() == 2 * "SLURM_CONF=/etc/slurm.conf\n"


@pytest.mark.parametrize("options", [["--array=gas"], ["--array", "gas"], ["--tracer", "gas"], ["--tracer=gas"]])
def test_a_campaign_trains_what_it_is_told_to(tmp_path, monkeypatch, options):
    """`--array=gas` had all three trained; a tracer was refused once galaxies were being mapped."""
    python = 'case "$*" in *--plan) echo room for 12 galaxies, 0 of them done;; esac'
    log = commands(tmp_path, monkeypatch, python=python, squeue="", sbatch="echo 100")
    (tmp_path / "site.env").write_text(f"PYTHON={tmp_path / 'python'}\n")
    env = os.environ | {"KINMASS_SITE": str(tmp_path / "site.env")}
    line = ["slurm/campaign.sh", tmp_path / "out", tmp_path / "a.yaml", "--", *options]
    subprocess.run(line, cwd=ROOT, env=env, capture_output=True, check=True)
    (launch,) = [words for words in log.read_text().splitlines() if " launch " in words]
    assert launch.endswith(f"--after 100 {' '.join(options)}")


def test_a_site_file_that_is_not_there_is_no_site_without_settings(tmp_path, monkeypatch):
    """Jobs were queued without its account and modules; `kinmass launch` refuses it."""
    log = commands(tmp_path, monkeypatch, squeue="", sbatch="echo 100")
    env = os.environ | {"KINMASS_SITE": "mine.env"}
    for script in ("generate", "evaluate", "campaign"):
        line = [f"slurm/{script}.sh", tmp_path / "out", tmp_path / "a.yaml"]
        done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "there is no mine.env in " in done.stderr
    assert not log.read_text()


def test_users_and_machines_that_the_system_does_not_name(monkeypatch):
    """As in a container that is given a user's number alone, or one of gVisor."""
    asked = []

    def answer(*command: str) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    def no_name(*arguments: object) -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", no_name)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("kinmass.train.launch.commands.run_slurm_command", answer)
    refuse_without_slurm()
    assert asked == [("squeue", "--noheader", f"--user={os.getuid()}")]
    monkeypatch.setattr(Path, "read_text", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    assert boot_id() == ""
