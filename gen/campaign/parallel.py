"""The one file that knows MPI: items shared out over ranks, as each rank becomes free."""

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
_NEXT, _READ, _READ_ENOUGH = "next", "read", "read enough"


def rank() -> int:
    """This process's number, 0 to size() - 1."""
    return int(MPI.COMM_WORLD.Get_rank())


def size() -> int:
    """How many processes share the work."""
    return int(MPI.COMM_WORLD.Get_size())


def check() -> None:
    """Raise OptionError where Slurm started several processes that MPI does not know to belong together."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if size() == 1 and tasks != "1":
        raise OptionError(
            f"srun started {tasks} processes, and each is alone in its MPI: set MPIRUN in slurm/site.env to what "
            "starts the MPI of mpi4py here ('srun --mpi=pmi2', 'srun --mpi=pmix', 'mpiexec')"
        )


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    return MPI.COMM_WORLD.bcast(value, root=0)


def gather(value: Any) -> list[Any]:
    """Every rank's value in rank order, on rank 0; an empty list elsewhere."""
    return MPI.COMM_WORLD.gather(value, root=0) or []


def on_rank_0(action: Callable[[], Any]) -> Any:
    """What action() gives on rank 0, or the exception it raises there, on every rank."""
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
    """What every rank can be sent; of an exception that cannot be, its words. The others would wait forever."""
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

    Every rank calls this with the same items and works; rank 0 hands out numbers from a thread
    beside its own work, so that one rank alone, or two on two cores, lose nothing. Items come in
    order, but a rank stays with those of one origin (a snapshot that it has open), and begins with
    an origin that no other rank works on while there is one. `with reading():` waits until fewer
    than `readers` ranks are inside of theirs (0: no limit). What can go wrong with an item belongs
    in its result: an exception (a full disk) ends every rank.
    """
    todo = list(items)
    if size() == 1:
        for item in todo:
            done(item, work(item, nullcontext))
        return
    comm = MPI.COMM_WORLD.Dup()
    # Where MPI allows one thread only, rank 0 hands out work and does none.
    beside = bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)
    workers = comm.Get_size() if beside else comm.Get_size() - 1
    manager = None
    if comm.Get_rank() == 0:
        queue = Queue([origin(item) for item in todo])
        arguments = (comm, workers, todo, queue, done, readers or workers)
        if beside:
            manager = threading.Thread(target=_manage, args=arguments, daemon=True)
            manager.start()
        else:
            _manage(*arguments)

    @contextmanager
    def reading() -> Iterator[None]:
        comm.send((_READ, None), dest=0, tag=_REQUEST)
        _receive(comm, 0, _ANSWER)
        try:
            yield
        finally:
            comm.send((_READ_ENOUGH, None), dest=0, tag=_REQUEST)

    report: tuple[int, Any] | None = None
    while beside or comm.Get_rank() > 0:
        comm.send((_NEXT, report), dest=0, tag=_REQUEST)
        number = _receive(comm, 0, _ANSWER)
        if number is None:
            break
        try:
            report = number, work(todo[number], reading)
        except Exception as error:  # the others would wait for this rank forever
            print(f"rank {rank()}: {in_words(error)}", file=sys.stderr, flush=True)
            abort(1)
    if manager:
        manager.join()
    comm.Barrier()
    comm.Free()


def _receive(comm: MPI.Comm, source: int, tag: int, status: MPI.Status | None = None) -> Any:
    # MPI's own waiting burns a core that another rank could use: look, and sleep a little longer each time.
    pause = 0.0
    while (message := comm.improbe(source=source, tag=tag, status=status)) is None:
        time.sleep(pause)
        pause = min(pause + 2e-5, 1e-3)
    return message.recv(status=status)


class Queue:
    """Numbers 0 to N - 1 of items to hand out to ranks; origins (N,) says which belong together."""

    def __init__(self, origins: list[Hashable]):
        self._left: OrderedDict[Hashable, deque[int]] = OrderedDict()  # first is found at once
        for number, origin in enumerate(origins):
            self._left.setdefault(origin, deque()).append(number)
        self._at: dict[int, Hashable] = {}  # the origin each rank works on
        self._ranks: Counter[Hashable] = Counter()  # and how many work on each

    def next(self, rank: int) -> int | None:
        """The item that `rank` does now; None when all are handed out."""
        mine = self._at.pop(rank, None)
        self._ranks[mine] -= 1
        if mine not in self._left:
            if not self._left:
                return None
            mine = next((origin for origin in self._left if self._ranks[origin] <= 0), None) or max(
                self._left, key=lambda origin: len(self._left[origin]) / (1 + self._ranks[origin])
            )
        number = self._left[mine].popleft()
        self._at[rank] = mine
        self._ranks[mine] += 1
        if not self._left[mine]:
            del self._left[mine]
        return number


def _manage(
    comm: MPI.Comm, workers: int, todo: list[Any], queue: Queue, done: Callable[[Any, Any], None], readers: int
) -> None:
    try:
        active, free = workers, readers
        waiting: deque[int] = deque()  # ranks that want to read
        while active:
            status = MPI.Status()
            wish, report = _receive(comm, MPI.ANY_SOURCE, _REQUEST, status)
            if wish == _NEXT:
                number = queue.next(status.Get_source())
                active -= number is None
                comm.send(number, dest=status.Get_source(), tag=_ANSWER)
                if report is not None:
                    done(todo[report[0]], report[1])
            elif wish == _READ:
                waiting.append(status.Get_source())
            else:
                free += 1
            while free and waiting:
                free -= 1
                comm.send(None, dest=waiting.popleft(), tag=_ANSWER)
    except BaseException as error:  # a thread's death would leave every rank waiting
        print(f"rank 0 could not record a result: {in_words(error)}", file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(1)


def abort(code: int) -> None:
    """End every rank at once: for an error that only one of them has met."""
    MPI.COMM_WORLD.Abort(code)
