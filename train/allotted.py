"""What Slurm and the kernel give this process: memory and processor cores. What cannot be read limits nothing."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

_UNITS = {"": 1024**2, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def whole_number(name: str, default: int, environment: Mapping[str, str] = os.environ) -> int:
    """A variable that is a whole number, like 4; the default where it is something else, or not set."""
    text = environment.get(name, "").strip()
    return int(text) if re.fullmatch(r"\d{1,18}", text) else default


def slurm_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Processor cores of this node that the job has, 0 where Slurm does not say. The task's own where it has some."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if found := whole_number(name, 0, environment):
            return found
    # One number per node, runs of equal ones cut short: 72(x2),36
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_JOB_CPUS_PER_NODE", ""))
    each = [int(cores) for cores, times in runs for _ in range(min(int(times or 1), 100_000))]
    node = whole_number("SLURM_NODEID", 0, environment)
    return each[node] if node < len(each) else min(each, default=0)


def slurm_memory(environment: Mapping[str, str] = os.environ) -> float:
    """Memory of this node that the job has [bytes], infinite where Slurm does not limit it (0 is all there is)."""
    on_node = {**environment, "SLURM_CPUS_PER_TASK": ""}
    for name, times in (
        ("SLURM_MEM_PER_NODE", 1),
        ("SLURM_MEM_PER_CPU", slurm_cores(on_node) or slurm_cores(environment)),
        ("SLURM_MEM_PER_GPU", whole_number("SLURM_GPUS_ON_NODE", 0, environment)),
    ):
        found = re.fullmatch(r"(\d+)\s*([kmgt]?)b?", environment.get(name, "").strip().lower())
        if found and int(found[1]) and times:
            return int(found[1]) * _UNITS[found[2]] * times
    return float("inf")


def group_memory(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Memory that the control groups of this process allow [bytes], of either version; infinite without a limit."""
    limits = [float("inf")]
    for line in _lines(groups):
        _, controllers, place = [*line.split(":", 2), "", ""][:3]
        top, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = top / place.lstrip("/")
        for above in (folder, *folder.parents):
            limits += [int(text) for text in _lines(above / name)[:1] if text.strip().isdigit()]
    return min(limits)


def free_memory() -> float:
    """What this machine, the job and its control group leave free [bytes]."""
    found = [line.split() for line in _lines(Path("/proc/meminfo"))]
    known = {words[0]: 1024 * int(words[1]) for words in found if len(words) > 1 and words[1].isdigit()}
    free = known.get("MemAvailable:", known.get("MemFree:", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return min(free, slurm_memory(), group_memory())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
