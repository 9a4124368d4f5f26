"""The only file that uses MPI: it gives items to ranks, one whenever a rank is free."""

import os
import pickle
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from kinmass.gen.errors import MissingMPIError, in_words
from kinmass.gen.options import OptionError

try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:
    raise MissingMPIError(
        "no MPI library can be loaded; load your cluster's MPI module, or `pip install 'kinmass[mpi]'`"
    ) from error

Item = TypeVar("Item")
_REQUEST, _ANSWER = 11, 12
_NEXT, _READ, _READ_DONE = "next", "read", "read enough"


def rank() -> int:
    """Number of this process, 0 to size() - 1."""
    return int(MPI.COMM_WORLD.Get_rank())


def size() -> int:
    """Number of processes that share the work."""
    return int(MPI.COMM_WORLD.Get_size())


def check() -> None:
    """Raise OptionError where Slurm started several processes that MPI does not know to belong together."""
    n_tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if size() == 1 and n_tasks != "1":
        raise OptionError(
            f"srun started {n_tasks} processes, and each is alone in its MPI: set MPIRUN in slurm/site.env to what "
            "starts the MPI of mpi4py here ('srun --mpi=pmi2', 'srun --mpi=pmix', 'mpiexec')"
        )


def broadcast(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    return MPI.COMM_WORLD.bcast(value, root=0)


def gather(value: Any) -> list[Any]:
    """Return every rank's value in rank order on rank 0, and an empty list on the others."""
    return MPI.COMM_WORLD.gather(value, root=0) or []


def on_rank_0(action: Callable[[], Any]) -> Any:
    """Call action() on rank 0; every rank returns its result, or raises the exception that it raised."""
    outcome: Any = None
    if rank() == 0:
        try:
            outcome = action()
        except Exception as error:
            outcome = error
    if isinstance(outcome := broadcast(_sendable(outcome)), _Failed):
        raise outcome.error
    return outcome


class _Failed:
    """An exception on its way from rank 0 to all others."""

    def __init__(self, error: Exception):
        self.error = error


def _sendable(outcome: Any) -> Any:
    """Wrap an exception so that it can be sent to every rank; one that cannot be pickled is sent as its words.

    A failed send would leave the other ranks waiting forever.
    """
    if not isinstance(outcome, Exception):
        return outcome
    try:
        pickle.loads(pickle.dumps(outcome))
        return _Failed(outcome)
    except Exception:
        return _Failed(RuntimeError(f"{type(outcome).__name__}: {outcome}").with_traceback(outcome.__traceback__))


def barrier() -> None:
    """Wait for every rank."""
    MPI.COMM_WORLD.Barrier()


def share_out(
    items: Iterable[Item],
    work: Callable[[Item, Callable[[], AbstractContextManager[None]]], Any],
    done: Callable[[Item, Any], None],
    readers: int = 0,
    origin: Callable[[Item], Hashable] = id,
) -> None:
    """Call work(item, reading) for every item on some rank, and done(item, result) on rank 0 as each ends.

    Every rank calls this with the same items and works on some of them. Rank 0 also hands out the
    items' numbers, from a thread beside its own work, so that no core is lost to it. Items come in
    order, but a rank stays with those of one origin (a snapshot that it has open), and begins with
    an origin that no other rank works on while there is one. `with reading():` waits until fewer
    than `readers` ranks are inside theirs (0: no limit). Failures of an item belong in its result:
    an exception (for instance a full disk) ends every rank.
    """
    todo = list(items)
    if size() == 1:
        for item in todo:
            done(item, work(item, nullcontext))
        return
    comm = MPI.COMM_WORLD.Dup()
    # Where MPI allows only one thread, rank 0 hands out work and does none itself.
    manages_in_thread = bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)
    workers = comm.Get_size() if manages_in_thread else comm.Get_size() - 1
    manager_thread = None
    if comm.Get_rank() == 0:
        queue = Queue([origin(item) for item in todo])
        arguments = (comm, workers, todo, queue, done, readers or workers)
        if manages_in_thread:
            manager_thread = threading.Thread(target=_manage, args=arguments, daemon=True)
            manager_thread.start()
        else:
            _manage(*arguments)

    @contextmanager
    def reading() -> Iterator[None]:
        comm.send((_READ, None), dest=0, tag=_REQUEST)
        _receive(comm, 0, _ANSWER)
        try:
            yield
        finally:
            comm.send((_READ_DONE, None), dest=0, tag=_REQUEST)

    report: tuple[int, Any] | None = None
    while manages_in_thread or comm.Get_rank() > 0:
        comm.send((_NEXT, report), dest=0, tag=_REQUEST)
        number = _receive(comm, 0, _ANSWER)
        if number is None:
            break
        try:
            report = number, work(todo[number], reading)
        except Exception as error:  # without the abort the other ranks would wait forever
            print(f"rank {rank()}: {in_words(error)}", file=sys.stderr, flush=True)
            abort(1)
    if manager_thread:
        manager_thread.join()
    comm.Barrier()
    comm.Free()


def _receive(comm: MPI.Comm, source: int, tag: int, status: MPI.Status | None = None) -> Any:
    # MPI's own waiting uses a whole core that another rank could use: poll, and sleep a little longer each time.
    pause = 0.0
    while (message := comm.improbe(source=source, tag=tag, status=status)) is None:
        time.sleep(pause)
        pause = min(pause + 2e-5, 1e-3)
    return message.recv(status=status)


class Queue:
    """Hands out the numbers 0 to N - 1 of items to ranks; items of equal origins (N,) belong together."""

    def __init__(self, origins: list[Hashable]):
        # By origin: its numbers that are not handed out. Ordered, so that the first is found without a search.
        self._numbers_left: OrderedDict[Hashable, deque[int]] = OrderedDict()
        for number, origin in enumerate(origins):
            self._numbers_left.setdefault(origin, deque()).append(number)
        self._origin_of: dict[int, Hashable] = {}  # by rank: the origin that it works on
        self._n_ranks: Counter[Hashable] = Counter()  # by origin: how many ranks work on it

    def next(self, rank: int) -> int | None:
        """Number of the item that `rank` does next; None when all are handed out."""
        current = self._origin_of.pop(rank, None)
        self._n_ranks[current] -= 1
        if current not in self._numbers_left:
            if not self._numbers_left:
                return None
            current = next((origin for origin in self._numbers_left if self._n_ranks[origin] <= 0), None) or max(
                self._numbers_left, key=lambda origin: len(self._numbers_left[origin]) / (1 + self._n_ranks[origin])
            )
        number = self._numbers_left[current].popleft()
        self._origin_of[rank] = current
        self._n_ranks[current] += 1
        if not self._numbers_left[current]:
            del self._numbers_left[current]
        return number


def _manage(
    comm: MPI.Comm, workers: int, todo: list[Any], queue: Queue, done: Callable[[Any, Any], None], readers: int
) -> None:
    try:
        active_workers, free_readers = workers, readers
        waiting: deque[int] = deque()  # ranks that wait to read
        while active_workers:
            status = MPI.Status()
            request, report = _receive(comm, MPI.ANY_SOURCE, _REQUEST, status)
            if request == _NEXT:
                number = queue.next(status.Get_source())
                active_workers -= number is None
                comm.send(number, dest=status.Get_source(), tag=_ANSWER)
                if report is not None:
                    done(todo[report[0]], report[1])
            elif request == _READ:
                waiting.append(status.Get_source())
            else:
                free_readers += 1
            while free_readers and waiting:
                free_readers -= 1
                comm.send(None, dest=waiting.popleft(), tag=_ANSWER)
    except BaseException as error:  # if only this thread ended, every rank would wait forever
        print(f"rank 0 could not record a result: {in_words(error)}", file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(1)


def abort(code: int) -> None:
    """End all ranks at once, for an error that only one of them has met; `code` is the exit status."""
    sys.stderr.flush()
    time.sleep(0.5)  # mpiexec may lose what a rank has printed just before
    MPI.COMM_WORLD.Abort(code)
