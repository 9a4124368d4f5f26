"""The one file that knows DDP: who am I, how do ranks agree, where does the model live, how does a job end.

Talk between processes goes over gloo on CPU; gradients on GPUs over nccl. A process that dies takes its
connections with it, so that the others notice when they next talk; one that hangs, or a node that loses its
power, is given up after TIMEOUT_MINUTES.
"""

import contextlib
import os
import re
import secrets
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kinmass.train.allotted import whole_number

T = TypeVar("T")
#: How long a process waits for the others. KINMASS_TIMEOUT_MINUTES overrides it.
TIMEOUT_MINUTES = 20.0
#: Asks for a checkpoint and an end: time limits and preemption (Slurm's --signal, submitit), a person.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)

_stop = threading.Event()


class Agreed(RuntimeError):
    """Raised by every process at the same point: nobody is left waiting."""


@contextlib.contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the other processes that torchrun (or a launcher) started; alone without one.

    Yields the device to compute on; inside another one it only does that. An error that is not `Agreed` on one
    of several processes is written with its traceback and ends this process at once, with exit code 1: cleaning
    up could wait for the others for ever.
    Raises ValueError when the launcher says otherwise than the environment.
    """
    local = whole_number("LOCAL_RANK", whole_number("SLURM_LOCALID", 0))
    device = (
        torch.device("cuda", local % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    )
    if dist.is_initialized():
        yield device
        return
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not ("RANK" in os.environ and "WORLD_SIZE" in os.environ):
        if tasks != "1":
            raise ValueError(
                f"srun started {tasks} processes but RANK and WORLD_SIZE are not set, so each would train alone; "
                "start torchrun, or `kinmass launch`"
            )
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    minutes = _timeout_minutes()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=minutes)
    )
    try:
        there = sorted(gather(rank()))
        if there != list(range(int(os.environ["WORLD_SIZE"]))):
            raise ValueError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the processes that came are {there}")
        yield device
    except Exception as error:
        if isinstance(error, Agreed) or world_size() == 1:
            dist.destroy_process_group()
        elif not isinstance(error, ValueError | OSError):  # those are sentences, which the command prints
            traceback.print_exc()
            print(f"process {rank()} of {world_size()} on {socket.gethostname()} ends the job", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        raise
    dist.destroy_process_group()


def _timeout_minutes() -> float:
    text = os.environ.get("KINMASS_TIMEOUT_MINUTES") or str(TIMEOUT_MINUTES)
    if not re.fullmatch(r"\d+\.?\d*", text) or not 0 < float(text) < 1e6:
        raise ValueError(f"KINMASS_TIMEOUT_MINUTES={text!r} is no number of minutes above 0")
    return float(text)


def rank() -> int:
    """This process among all, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@dataclass(frozen=True)
class Crew:
    """Some of the processes: all of them, those of this node, or this one alone."""

    rank: int
    size: int
    group: Any = None


def everyone() -> Crew:
    """All processes."""
    return Crew(rank(), world_size())


def neighbours() -> Crew:
    """The processes of this node. Every process has to call it."""
    hosts = gather(socket.gethostname())
    mine = Crew(0, 1)
    for host in dict.fromkeys(hosts):
        ranks = [i for i, h in enumerate(hosts) if h == host]
        group = dist.new_group(ranks, backend="gloo") if len(hosts) > 1 else None
        if rank() in ranks:
            mine = Crew(ranks.index(rank()), len(ranks), group)
    return mine


def describe_processes() -> str:
    """How many processes there are, and where."""
    hosts = sorted(set(gather(socket.gethostname())))
    return f"{world_size()} process(es) on {', '.join(hosts[:4])}{', ...' if len(hosts) > 4 else ''}"


def wrap(model: nn.Module) -> nn.Module:
    """The model with its gradients averaged over processes."""
    if not dist.is_initialized():
        return model
    with warnings.catch_warnings():
        # Buffers never change: all processes computed the same ones. torch 2.13 has a new name for the option.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def gather(value: T, crew: Crew | None = None) -> list[T]:
    """Every process's value, in order of rank, on every process (of a crew)."""
    size = crew.size if crew else world_size()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value, group=crew.group if crew else None)
    return values


def from_first(call: Callable[[], T]) -> T:
    """What rank 0 gets from the call, on every process; its error too."""
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = call()
        except (ValueError, OSError) as error:
            box[1] = error
    if world_size() > 1:
        dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]  # type: ignore[no-any-return]


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is up on any process."""
    if world_size() == 1:
        return flags
    tensor = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tuple(bool(x) for x in tensor)


def node_memory(shape: tuple[int, ...], crew: Crew) -> torch.Tensor | None:
    """A float32 tensor of zeros that the processes of a node share; None where they cannot.

    It has no name in any file system: it goes when the last process goes, however that ends. Pages that
    nobody writes take no memory.
    """
    name = f"kinmass-{secrets.token_hex(8)}"
    count = int(torch.Size(shape).numel())
    path, fd = "", -1
    if crew.rank == 0:
        fd = os.memfd_create(name)
        with contextlib.suppress(OSError):  # a limit on the size of files holds for it too
            os.ftruncate(fd, max(4 * count, 1))
            path = f"/proc/{os.getpid()}/fd/{fd}"
    name, path = gather((name, path), crew)[0]
    try:
        # In another container the same number may be another process.
        same = os.readlink(path).startswith(f"/memfd:{name}")
        tensor = torch.from_file(path, shared=True, size=count) if same and count else None
    except (OSError, RuntimeError):
        tensor = None
    everywhere = all(gather(tensor is not None, crew))
    if crew.rank == 0:
        os.close(fd)
    return tensor.reshape(shape) if everywhere and tensor is not None else None


def request_stop() -> None:
    """Ask for a checkpoint and `Stopped` after the steps under way. Safe in a signal handler."""
    _stop.set()


def stop_requested() -> bool:
    """Whether this process was asked to stop."""
    return _stop.is_set()


def forget_stop() -> None:
    """The request has been met."""
    _stop.clear()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """The first of STOP_SIGNALS asks for a stop, one that comes a second or more later ends the process at once.

    torchrun and Slurm pass one signal on by two ways, hence the second. Handlers that somebody else has set are
    left alone, and outside the main thread nothing can be set.
    """
    first: list[float] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        now = os.times().elapsed
        if first and now - first[0] >= 1.0:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not first:
            first.append(now)
            name = signal.Signals(number).name
            os.write(2, f"\ntrain: {name}: stopping with a checkpoint; once more ends at once\n".encode())
            request_stop()

    old = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                old[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)
