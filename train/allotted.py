"""Reads how much memory and how many cores Slurm and the kernel give this process. What cannot be read is no limit."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

#: Variable that says how many jobs, all of which see the same free memory, run on this machine at the same time.
AT_ONCE = "KINMASS_JOBS_AT_ONCE"
_UNITS = {"": 1024**2, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def whole_number(name: str, default: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return a variable's whole number, like 4; the default where it is something else or not set."""
    text = environment.get(name, "").strip()
    return int(text) if re.fullmatch(r"\d{1,18}", text) else default


def slurm_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Return the cores of this node that the task has, or else the job; 0 where Slurm does not say."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if cores := whole_number(name, 0, environment):
            return cores
    # One number per node, with equal ones in a row written once: 72(x2),36
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_JOB_CPUS_PER_NODE", ""))
    cores_of_nodes = [int(node_cores) for node_cores, repeats in runs for _ in range(min(int(repeats or 1), 100_000))]
    node = whole_number("SLURM_NODEID", 0, environment)
    return cores_of_nodes[node] if node < len(cores_of_nodes) else min(cores_of_nodes, default=0)


def slurm_memory(environment: Mapping[str, str] = os.environ) -> float:
    """Return the memory of this node that the job has [bytes], infinite where Slurm sets no limit (0 means all)."""
    on_node = {**environment, "SLURM_CPUS_PER_TASK": ""}
    for name, factor in (
        ("SLURM_MEM_PER_NODE", 1),
        ("SLURM_MEM_PER_CPU", slurm_cores(on_node) or slurm_cores(environment)),
        ("SLURM_MEM_PER_GPU", whole_number("SLURM_GPUS_ON_NODE", 0, environment)),
    ):
        amount = re.fullmatch(r"(\d+)\s*([kmgt]?)b?", environment.get(name, "").strip().lower())
        if amount and int(amount[1]) and factor:
            return int(amount[1]) * _UNITS[amount[2]] * factor
    return float("inf")


#: What memory.stat of a control group says of files in memory that no process writes to.
_OF_FILES = ("active_file", "inactive_file")
_GROUPS, _GROUPS_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def _group_folders(controller: str, groups: Path, root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of this process's control groups and those above them, and whether they are of version 1."""
    for line in _lines(groups):
        _, controllers, group_path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        folder = (root / controller if controllers else root) / group_path.lstrip("/")
        for parent in (folder, *folder.parents):
            yield parent, bool(controllers)


def group_memory(groups: Path = _GROUPS, root: Path = _GROUPS_ROOT) -> float:
    """Return the memory [bytes] that this process's control groups leave free, version 1 or 2; infinite if unlimited.

    What a group keeps of files counts as free: the kernel gives it up when it is asked for more.
    """
    free = [float("inf")]
    for folder, is_old in _group_folders("memory", groups, root):
        limit = _number_in(folder / ("memory.limit_in_bytes" if is_old else "memory.max"))
        if limit is None:
            continue
        used = _number_in(folder / ("memory.usage_in_bytes" if is_old else "memory.current")) or 0
        kept = dict(words for line in _lines(folder / "memory.stat") if len(words := line.split()) == 2)
        of_files = sum(whole_number(("total_" if is_old else "") + name, 0, kept) for name in _OF_FILES)
        free.append(limit - max(0, used - of_files))
    return max(0.0, min(free))


def group_cores(groups: Path = _GROUPS, root: Path = _GROUPS_ROOT) -> float:
    """Return how many cores' time this process's control groups allow, version 1 or 2; infinite without a limit."""
    limits = [float("inf")]
    for folder, is_old in _group_folders("cpu", groups, root):
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if is_old else ("cpu.max",)
        words = " ".join(line for name in files for line in _lines(folder / name)[:1]).split()
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            limits.append(int(words[0]) / int(words[1]))
    return min(limits)


def cores() -> int:
    """Return how many cores this process may use, at least one: those of the machine may be others' for the most."""
    of_slurm = slurm_cores({**os.environ, "SLURM_CPUS_PER_TASK": ""}) or slurm_cores() or float("inf")
    return max(1, int(min(len(os.sched_getaffinity(0)), of_slurm, group_cores())))


def share_cores(processes: int = 1) -> None:
    """Have torch take no more threads than the cores are that each of so many processes of this machine may use.

    By itself it takes one for each core that it sees. Of those a job, or a container, may have few, which its threads
    would then wait for, and for each other.
    """
    import torch  # A command's --help does not need it.

    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // processes)))


def free_memory() -> float:
    """Return the memory [bytes] that this machine, the job and its control group leave free.

    Where several processes of other work have been started beside this one, as AT_ONCE says, it is one's share.
    """
    lines = [line.split() for line in _lines(Path("/proc/meminfo"))]
    bytes_by_name = {words[0]: 1024 * int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
    free = bytes_by_name.get(
        "MemAvailable:", bytes_by_name.get("MemFree:", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    )
    return min(free, slurm_memory(), group_memory()) / max(whole_number(AT_ONCE, 1), 1)


def _number_in(path: Path) -> int | None:
    """Return the whole number in a file, None where there is none."""
    text = "".join(_lines(path)[:1]).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
