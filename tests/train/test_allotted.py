"""What Slurm and the kernel give: odd values are no error, and limit nothing."""

import math
import os

import pytest
import torch

from kinmass.train.allotted import (
    cores,
    free_memory,
    group_cores,
    group_memory,
    share_cores,
    slurm_cores,
    slurm_memory,
    whole_number,
)
from kinmass.train.distributed import process_group
from kinmass.train.launch.resources import on_this_machine, resources
from kinmass.train.run.posterior import Inference

GB = 1024**3


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, math.inf),
        ({"SLURM_MEM_PER_NODE": "4096"}, 4 * GB),
        ({"SLURM_MEM_PER_NODE": "0"}, math.inf),  # all there is
        ({"SLURM_MEM_PER_NODE": ""}, math.inf),
        ({"SLURM_MEM_PER_NODE": "4G"}, 4 * GB),
        ({"SLURM_MEM_PER_NODE": "4GB"}, 4 * GB),
        ({"SLURM_MEM_PER_NODE": "1t"}, 1024 * GB),
        ({"SLURM_MEM_PER_NODE": "all of it"}, math.inf),
        ({"SLURM_MEM_PER_NODE": "-1"}, math.inf),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "2"}, 12 * GB),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_JOB_CPUS_PER_NODE": "2(x3)"}, 4 * GB),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_JOB_CPUS_PER_NODE": "72(x2),8", "SLURM_NODEID": "2"}, 16 * GB),
        ({"SLURM_MEM_PER_CPU": "2048"}, math.inf),
        ({"SLURM_MEM_PER_CPU": "0", "SLURM_CPUS_ON_NODE": "6"}, math.inf),
        ({"SLURM_MEM_PER_NODE": "0", "SLURM_MEM_PER_CPU": "1G", "SLURM_CPUS_ON_NODE": "2"}, 2 * GB),
        ({"SLURM_MEM_PER_GPU": "8G", "SLURM_GPUS_ON_NODE": "4"}, 32 * GB),
        ({"SLURM_MEM_PER_GPU": "8G", "SLURM_GPUS_ON_NODE": "a100:4"}, math.inf),
    ],
)
def test_memory_of_a_job(environment, expected):
    assert slurm_memory(environment) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "6"}, 3),
        ({"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "6"}, 6),
        ({"SLURM_CPUS_PER_TASK": "0"}, 0),
        ({"SLURM_CPUS_PER_TASK": "four", "SLURM_JOB_CPUS_PER_NODE": "2(x3),5"}, 2),
        ({"SLURM_JOB_CPUS_PER_NODE": "2(x3),5", "SLURM_NODEID": "3"}, 5),
        ({"SLURM_JOB_CPUS_PER_NODE": "9,2(x3)", "SLURM_NODEID": "77"}, 2),
        ({"SLURM_JOB_CPUS_PER_NODE": "2(x999999999999)"}, 2),
    ],
)
def test_cores_of_a_job(environment, expected):
    assert slurm_cores(environment) == expected


@pytest.mark.parametrize("text", ["", " ", "x", "-3", "1.5", "1e3"])
def test_what_is_no_number_is_the_default(text):
    assert whole_number("N", 7, {"N": text}) == 7
    assert whole_number("N", 7, {"N": " 12 "}) == 12


def test_limits_of_control_groups(tmp_path):
    """Of version 2 and 1; the narrowest of a group and those above it, and none at all."""
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    for folder, text in (
        ("a/b", "max\n"),
        ("a", "5000\n"),
        ("memory/c", "3000\n"),
        ("memory", "9223372036854771712\n"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        name = "memory.limit_in_bytes" if folder.startswith("memory") else "memory.max"
        (root / folder / name).write_text(text)
    assert group_memory(groups, root) == math.inf
    for lines, expected in (
        ("0::/a/b\n", 5000),
        ("0::/elsewhere\n", math.inf),
        ("12:cpu,cpuacct:/a\n4:memory:/c\n0::/elsewhere\n", 3000),
        ("4:memory:/c\n0::/a/b\n", 3000),
        ("nonsense\n\n", math.inf),
    ):
        groups.write_text(lines)
        assert group_memory(groups, root) == expected, lines
    # What is taken already, but for files that the kernel keeps in memory as long as there is room.
    (root / "a" / "memory.current").write_text("4100\n")
    (root / "a" / "memory.stat").write_text("anon 3000\ninactive_file 700\nactive_file 100\nshmem 300\n")
    (root / "memory" / "c" / "memory.usage_in_bytes").write_text("2500\n")
    (root / "memory" / "c" / "memory.stat").write_text("inactive_file 9\ntotal_inactive_file 400\n")
    for lines, expected in (("0::/a/b\n", 1700), ("4:memory:/c\n", 900)):
        groups.write_text(lines)
        assert group_memory(groups, root) == expected, lines
    (root / "a" / "memory.current").write_text("9999\n")
    groups.write_text("0::/a/b\n")
    assert group_memory(groups, root) == 0
    assert 0 < free_memory() < math.inf


def test_cores_of_control_groups(tmp_path):
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    for name, text in (
        ("a/b/cpu.max", "max 100000\n"), ("a/cpu.max", "250000 100000\n"), ("cpu/c/cpu.cfs_quota_us", "-1\n"),
        ("cpu/c/cpu.cfs_period_us", "100000\n"), ("cpu/cpu.cfs_quota_us", "300000\n"),
        ("cpu/cpu.cfs_period_us", "100000\n"),
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert group_cores(groups, root) == math.inf
    for lines, expected in (("0::/a/b\n", 2.5), ("0::/elsewhere\n", math.inf), ("5:cpu,cpuacct:/c\n0::/\n", 3.0)):
        groups.write_text(lines)
        assert group_cores(groups, root) == expected, lines


@pytest.mark.parametrize(
    ("affinity", "variables", "expected"),
    [(16, {}, 16), (16, {"SLURM_CPUS_ON_NODE": "4"}, 4), (2, {"SLURM_CPUS_ON_NODE": "4"}, 2),
     (16, {"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "1"}, 8)],
)  # fmt: skip
def test_fits_on_this_machine_share_the_cores_that_are_theirs(monkeypatch, affinity, variables, expected):
    """A job of a few cores, on a node of many, would have as many threads as the node has cores."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
    monkeypatch.setattr("kinmass.train.allotted.group_cores", lambda: math.inf)
    assert cores() == expected
    assert resources("local", {}, processes=2).cpus == expected // 2
    assert resources("local", {}, processes=64).cpus == 1
    # Jobs that run at once had all cores each, and their threads waited for each other.
    assert on_this_machine(resources("local", {}, at_once=4), 3, 0).cpus == max(1, expected // 3)
    assert on_this_machine(resources("local", {}, at_once=4, processes=2), 1, 0).cpus == expected // 2
    assert on_this_machine(resources("local", {"CPUS_PER_TASK": "5"}, at_once=4), 3, 0).cpus == 5


def test_fits_and_predictions_take_no_more_threads_than_the_job_has_cores(monkeypatch, runs):
    """Torch itself sees all cores of the node, or of the machine that a container has a share of."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr("kinmass.train.allotted.cores", lambda: 8)
        share_cores(4)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr("kinmass.train.allotted.cores", lambda: 1)
        with process_group():
            assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        Inference(runs[0])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_a_job_that_may_take_all_memory_has_some(monkeypatch):
    monkeypatch.delenv("KINMASS_JOBS_AT_ONCE", raising=False)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")
    assert free_memory() > 1e6
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    assert free_memory() == 1024**2


def test_jobs_at_the_same_time_share_what_is_free(monkeypatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "8")
    for at_once, memory_bytes in (("4", 2 * 1024**2), ("1", 8 * 1024**2), ("0", 8 * 1024**2), ("many", 8 * 1024**2)):
        monkeypatch.setenv("KINMASS_JOBS_AT_ONCE", at_once)
        assert free_memory() == memory_bytes
