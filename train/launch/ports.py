"""A TCP port for the processes of a job on this machine to meet at."""

import random
import socket
from pathlib import Path

_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: Ports below the kernel's own range among which one is drawn, and how many are tried.
_CANDIDATES, _TRIES = 12_000, 1000


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens.

    It is one that the kernel gives to nobody: between being chosen here and being taken by the job, which first has to
    start, a port of the kernel's own range may become the end of anybody's connection. Raises OSError where there is
    none.
    """
    try:
        first_of_kernel = int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first_of_kernel = 32_768
    draw = random.SystemRandom()
    for _ in range(_TRIES):
        port = draw.randrange(max(1024, first_of_kernel - _CANDIDATES), max(2048, first_of_kernel))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port below {first_of_kernel} on this machine")
