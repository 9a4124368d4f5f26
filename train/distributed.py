"""Runs a fit on several processes, the only file that uses DDP: ranks, exchange of values, shared memory, stopping.

Processes exchange values over gloo on the CPU, and gradients on GPUs over nccl. When a process dies its connections
close, and the others notice at their next exchange; for one that hangs, or a node that loses its power, they wait
TIMEOUT_MINUTES. What rank 0 does alone may take longer than that (`from_first`).
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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kinmass.gen.command import several_processes
from kinmass.gen.errors import interrupt
from kinmass.gen.words import counted, few
from kinmass.train.allotted import share_cores, whole_number

T = TypeVar("T")
#: How long a process waits for the others. KINMASS_TIMEOUT_MINUTES overrides it.
TIMEOUT_MINUTES = 20.0
#: Signals that ask for a checkpoint and an end: from Slurm or submitit (time limit, preemption), or from a person.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
#: How often rank 0 tells the others, which wait for what it does alone, that it lives [s].
_BEAT_S = 30.0

_stop_event = threading.Event()


class Agreed(RuntimeError):
    """An error that every process raises at the same point, so that no process is left waiting for another."""


@contextlib.contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the other processes that torchrun or another launcher started; without one this process is alone.

    Yields the device to compute on; inside another `process_group` it does nothing else. An error on one of several
    processes that is not `Agreed`, ValueError or OSError is printed with its traceback and ends this process at once,
    with exit code 1, because cleaning up could wait for the other processes for ever.
    Raises ValueError where the environment does not fit the processes that were started.
    """
    local_rank = whole_number("LOCAL_RANK", whole_number("SLURM_LOCALID", 0))
    device = (
        torch.device("cuda", local_rank % torch.cuda.device_count())
        if torch.cuda.device_count()
        else torch.device("cpu")
    )
    if dist.is_initialized():
        yield device
        return
    if not ("RANK" in os.environ and "WORLD_SIZE" in os.environ):
        if started := several_processes():
            raise ValueError(
                f"{started} but RANK and WORLD_SIZE are not set, so each would train alone; "
                "start torchrun, or `kinmass launch`"
            )
        share_cores()
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    minutes = _timeout_minutes()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=minutes)
    )
    try:
        ranks = sorted(gather(rank()))
        if ranks != list(range(int(os.environ["WORLD_SIZE"]))):
            raise ValueError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the processes that came are {ranks}; start them all "
                "anew, with a RANK of 0, 1, 2, ... each (torchrun and `kinmass launch` do)"
            )
        if device.type == "cuda":
            gpu = str(torch.cuda.get_device_properties(device).uuid)
            refuse_shared_gpus(gather((socket.gethostname(), gpu)))
        share_cores(gather(socket.gethostname()).count(socket.gethostname()))
        yield device
    except Exception as error:
        if isinstance(error, Agreed) or world_size() == 1:
            dist.destroy_process_group()
        elif not isinstance(error, ValueError | OSError):  # The command prints these as a sentence.
            traceback.print_exc()
            print(f"process {rank()} of {world_size()} on {socket.gethostname()} ends the job", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        raise
    dist.destroy_process_group()


def refuse_shared_gpus(gpu_of_each_process: Sequence[tuple[str, str]]) -> None:
    """Raise ValueError where several processes have the same (host, GPU): they would be slower than one."""
    shared = [(host, n) for (host, _), n in Counter(gpu_of_each_process).items() if n > 1]
    if shared:
        host, n = shared[0]
        raise ValueError(
            f"{n} processes share one GPU of {host}: start no more processes on a node than it has GPUs "
            "(`kinmass launch --gpus-per-node`, `torchrun --nproc-per-node`), or hide the GPUs (CUDA_VISIBLE_DEVICES=)"
        )


def _timeout_minutes() -> float:
    text = os.environ.get("KINMASS_TIMEOUT_MINUTES") or str(TIMEOUT_MINUTES)
    if not re.fullmatch(r"\d+\.?\d*", text) or not 0 < float(text) < 1e6:
        raise ValueError(
            f"KINMASS_TIMEOUT_MINUTES={text!r} is no number of minutes above 0; set it to one, or unset it"
        )
    return float(text)


def rank() -> int:
    """Return this process's number among all processes, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@dataclass(frozen=True)
class Crew:
    """Some of the processes: all of them, those of this node, or this one alone. `rank` is this process's in it."""

    rank: int
    size: int
    group: Any = None


def everyone() -> Crew:
    """Return the crew of all processes."""
    return Crew(rank(), world_size())


def neighbours() -> Crew:
    """Return the crew of this node's processes. Every process has to call it."""
    hosts = gather(socket.gethostname())
    crew = Crew(0, 1)
    for host in dict.fromkeys(hosts):
        ranks = [process_rank for process_rank, other_host in enumerate(hosts) if other_host == host]
        group = dist.new_group(ranks, backend="gloo") if len(hosts) > 1 else None
        if rank() in ranks:
            crew = Crew(ranks.index(rank()), len(ranks), group)
    return crew


def describe_processes() -> str:
    """Return how many processes there are and on which hosts, as text. Every process has to call it."""
    hosts, n = sorted(set(gather(socket.gethostname()))), world_size()
    return f"{counted(n, 'process', 'processes')} on {few(hosts, 4)}"


def wrap(model: nn.Module) -> nn.Module:
    """Return the model with its gradients averaged over all processes."""
    if not dist.is_initialized():
        return model
    with warnings.catch_warnings():
        # Buffers are not broadcast: they never change, and all processes have the same. torch 2.13 renames the option.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def gather(value: T, crew: Crew | None = None) -> list[T]:
    """Return every process's value, in order of rank, on every process (of a crew)."""
    size = crew.size if crew else world_size()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value, group=crew.group if crew else None)
    return values


def from_first(call: Callable[[], T]) -> T:
    """Call on rank 0 and return the result on every process; a ValueError or OSError is raised on every process.

    However long the call takes, the others wait for it while rank 0 lives: its main thread answers them, while the
    call runs in another thread.
    """
    if world_size() == 1:
        return call()
    result_and_error: list[Any] = [None, None]
    executor = ThreadPoolExecutor(1, "rank 0 alone")
    try:
        future = executor.submit(_in_device_of, _current_gpu(), call) if rank() == 0 else None
        while any_rank(future is not None and not _is_done_soon(future))[0]:
            pass
        if future is not None:
            try:
                result_and_error[0] = future.result()
            except (ValueError, OSError) as error:
                result_and_error[1] = error
    finally:
        executor.shutdown(wait=False)  # Where another process died, this one does not wait for the call.
    dist.broadcast_object_list(result_and_error)
    if result_and_error[1] is not None:
        raise result_and_error[1]
    return result_and_error[0]  # type: ignore[no-any-return]


def _current_gpu() -> int | None:
    return torch.cuda.current_device() if torch.cuda.is_available() else None


def _in_device_of(gpu: int | None, call: Callable[[], T]) -> T:
    """Call with a GPU as the current one, which is set per thread."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    return call()


def _is_done_soon(future: "Future[Any]") -> bool:
    """Wait for a call until it is done, or until the others have to hear that this process lives."""
    return bool(wait([future], timeout=min(_BEAT_S, 60 * _timeout_minutes() / 4)).done)


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """Return, for each flag, whether it is set on any process."""
    if world_size() == 1:
        return flags
    tensor = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tuple(bool(x) for x in tensor)


def node_memory(shape: tuple[int, ...], crew: Crew) -> torch.Tensor | None:
    """Return a float32 tensor of zeros that the crew's processes share; None where they cannot share memory.

    The memory has no name in any file system, so that it is freed when the last process ends, in whatever way. Pages
    that nobody writes take no memory.
    """
    name = f"kinmass-{secrets.token_hex(8)}"
    count = int(torch.Size(shape).numel())
    path, descriptor = "", -1
    if crew.rank == 0:
        descriptor = os.memfd_create(name)
        with contextlib.suppress(OSError):  # A limit on the size of files holds for this memory too.
            os.ftruncate(descriptor, max(4 * count, 1))
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
    name, path = gather((name, path), crew)[0]
    try:
        # In another container the same process number may belong to another process.
        is_same_memory = os.readlink(path).startswith(f"/memfd:{name}")
        tensor = torch.from_file(path, shared=True, size=count) if is_same_memory and count else None
    except (OSError, RuntimeError):
        tensor = None
    is_shared_by_all = all(gather(tensor is not None, crew))
    if crew.rank == 0:
        os.close(descriptor)
    return tensor.reshape(shape) if is_shared_by_all and tensor is not None else None


def request_stop() -> None:
    """Ask for a checkpoint and `Stopped` after the current steps. Safe in a signal handler."""
    _stop_event.set()


def stop_requested() -> bool:
    """Whether this process was asked to stop."""
    return _stop_event.is_set()


def forget_stop() -> None:
    """Forget the request to stop, as it has been met."""
    _stop_event.clear()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let the first of STOP_SIGNALS ask for a stop, and one that comes a second or more later end the process at once.

    The second is waited for because torchrun and Slurm may pass on one signal twice. Handlers that somebody else has
    set are left alone; outside the main thread no handler can be set.
    """
    first_signal_s: list[float] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        """Ask for a stop at the first signal; a later one acts as if nobody had handled it."""
        now_s = os.times().elapsed
        if first_signal_s and now_s - first_signal_s[0] >= 1.0:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not first_signal_s:
            first_signal_s.append(now_s)
            name = signal.Signals(number).name
            os.write(2, f"\nkinmass fit: {name}: stopping with a checkpoint; once more ends at once\n".encode())
            request_stop()

    old_handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, interrupt):
                old_handlers[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, old_handler in old_handlers.items():
            signal.signal(number, old_handler)
