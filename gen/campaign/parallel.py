"""The only file that uses MPI: it gives items to ranks, one whenever a rank is free."""

import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import numpy as np

from kinmass.gen.campaign.dealing import Shelf, deal
from kinmass.gen.command import several_processes
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
_TAKE, _RESULTS, _LAST_RESULTS, _STOP = "take", "results", "last results", "stop"
_READ, _READ_DONE = "read", "read enough"
#: Results are kept for so long [s] before they are sent to rank 0, together: nobody waits for them.
_REPORT_S = 0.3
_LONGEST_PAUSE_S = 2e-3


def rank() -> int:
    """Number of this process, 0 to size() - 1."""
    return int(MPI.COMM_WORLD.Get_rank())


def size() -> int:
    """Number of processes that share the work."""
    return int(MPI.COMM_WORLD.Get_size())


def check() -> None:
    """Raise OptionError where several processes were started that MPI does not know to belong together."""
    if size() == 1 and (started := several_processes()):
        library = MPI.Get_library_version().strip().splitlines()[0]
        raise OptionError(
            f"{started}, and each is alone in its MPI: set MPIRUN in slurm/site.env to what starts the MPI of mpi4py "
            f"here, which is {library} ('srun --mpi=pmi2', 'srun --mpi=pmix', 'mpiexec'), or start that by hand"
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
    items: Sequence[Item],
    work: Callable[[Item, Callable[[], AbstractContextManager[None]]], Any],
    done: Callable[[Item, Any], None],
    readers: int = 0,
    origins: Sequence[Hashable] | None = None,
    costs: Sequence[float] | None = None,
    ranks_per_node: int = 0,
    rank_0_works: bool = True,
    finish: Callable[[], None] = lambda: None,
) -> None:
    """Call work(item, reading) for every item on some rank, and done(item, result) on rank 0 soon after each ends.

    Every rank calls this with the same items and works on some of them. Items are dealt to nodes by
    their cost; the ranks of a node take them from counters in shared memory (gen.campaign.dealing),
    so that nobody waits for another rank's Python, and from other nodes when theirs has none left.
    origins: what each item is read from; a rank stays with what it has open (none alike if not given).
    costs: what each takes beside the others. `with reading():` waits until fewer than `readers` ranks
    are inside theirs (0: no limit). Failures of an item belong in its result: an exception (for
    instance a full disk) ends every rank. ranks_per_node: take so many ranks for a node (0: those
    that share memory). rank_0_works: whether rank 0 does more than record results, where it is not alone. Where MPI
    allows one thread only it does not, and other nodes' items are not taken over.
    """
    if size() == 1:
        for item in items:
            done(item, work(item, nullcontext))
        finish()
        return
    comm = MPI.COMM_WORLD.Dup()
    nodes = _Nodes(comm, ranks_per_node, rank_0_works)
    n = len(items)
    costs = [1.0] * n if costs is None else costs
    runs = deal(range(n) if origins is None else origins, costs, nodes.sizes)
    with nodes.counters(1 + Shelf.room(len(runs[nodes.own]))) as (values, add):
        shelf = Shelf(runs[nodes.own], values[1:], lambda i, n: add(1 + i, n))
        slots = _Slots(comm, nodes, readers or comm.Get_size(), add)
        server = _Server(comm, nodes, shelf, slots, lambda number, result: done(items[number], result))
        if comm.Get_rank() == 0 and not nodes.rank_0_works:
            server.serve()
        elif server.is_thread:
            thread = threading.Thread(target=server.serve, daemon=True)
            if nodes.leads:
                thread.start()
            _work(comm, nodes, shelf, items, lambda item: work(item, slots.reading), costs, finish)
            if nodes.leads:
                thread.join()
        else:
            _work(comm, nodes, shelf, items, lambda item: work(item, slots.reading), costs, finish)
        _wait(comm.Ibarrier())
    comm.Free()


def _work(
    comm: MPI.Comm,
    nodes: "_Nodes",
    shelf: Shelf,
    todo: Sequence[Item],
    work: Callable[[Item], Any],
    costs: Sequence[float],
    finish: Callable[[], None],
) -> None:
    """Work on this node's items, then on other nodes', and report results to rank 0, a few times a second.

    What is done is reported before an item that will take long, by its cost, so that a kill meanwhile loses no report.
    """
    reports: list[tuple[int, Any]] = []
    worked_s, worked_cost, oldest_s = 0.0, 0.0, 0.0
    for number in _numbers(comm, nodes, shelf):
        began_s = time.monotonic()
        if reports and began_s - oldest_s + costs[number] * worked_s / (worked_cost or 1.0) > _REPORT_S:
            comm.send((_RESULTS, reports), dest=0, tag=_REQUEST)
            reports = []
        with _ending_all():
            reports.append((number, work(todo[number])))
        ended_s = time.monotonic()
        worked_s, worked_cost = worked_s + ended_s - began_s, worked_cost + costs[number]
        oldest_s = oldest_s if len(reports) > 1 else ended_s
    with _ending_all():
        finish()
    comm.send((_LAST_RESULTS, reports), dest=0, tag=_REQUEST)


@contextmanager
def _ending_all() -> Iterator[None]:
    """End all ranks where the block fails: without that the others would wait forever."""
    try:
        yield
    except Exception as error:
        print(f"rank {rank()}: {in_words(error)}", file=sys.stderr, flush=True)
        abort()


def _numbers(comm: MPI.Comm, nodes: "_Nodes", shelf: Shelf) -> Iterator[int]:
    """Yield the numbers of the items that this rank works on."""
    run, number = shelf.take(None)
    while number is not None:
        yield number
        run, number = shelf.take(run)
    for node in nodes.others_that_serve:
        run = None
        while True:
            comm.send((_TAKE, run), dest=nodes.leaders[node], tag=_REQUEST)
            run, number = _receive(comm, nodes.leaders[node], _ANSWER)
            if number is None:
                break
            yield number


class _Nodes:
    """Which ranks of a communicator share memory with which others."""

    def __init__(self, comm: MPI.Intracomm, ranks_per_node: int, rank_0_works: bool):
        if ranks_per_node:
            sharing = comm.Split(comm.Get_rank() // ranks_per_node)
        else:
            sharing = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self._comm = cast(MPI.Intracomm, sharing)
        threads = bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)
        everyone = comm.allgather((self._comm.bcast(comm.Get_rank()), threads))
        #: The lowest rank of each node, which serves the other nodes.
        self.leaders = sorted({leader for leader, _ in everyone})
        of_rank = [self.leaders.index(leader) for leader, _ in everyone]
        self.own = of_rank[comm.Get_rank()]
        self.leads = self.leaders[self.own] == comm.Get_rank()
        #: Where every rank may have a thread beside its work; else rank 0 serves and does nothing else.
        self.threads = all(has_threads for _, has_threads in everyone)
        self.rank_0_works = rank_0_works and self.threads
        self.sizes = [of_rank.count(i) - (i == 0 and not self.rank_0_works) for i in range(len(self.leaders))]
        others = [*range(self.own + 1, len(self.leaders)), *range(self.own)]
        self.others_that_serve = [node for node in others if self.threads or node == 0]

    @contextmanager
    def counters(self, n: int) -> Iterator[tuple[np.ndarray, Callable[[int, int], int]]]:
        """Give n integers, zero at first, that this node's ranks share, and what adds to one and returns its old value.

        The addition is the processor's own: it waits for no other rank, whatever that does (2 us).
        """
        own_bytes = 8 * n if self._comm.Get_rank() == 0 else 0
        window = MPI.Win.Allocate_shared(own_bytes, 8, comm=self._comm)
        memory, _ = window.Shared_query(0)
        values: np.ndarray = np.frombuffer(memory, dtype=np.int64, count=n)  # type: ignore[call-overload]
        if self._comm.Get_rank() == 0:
            values[:] = 0
        self._comm.Barrier()
        window.Lock_all(MPI.MODE_NOCHECK)

        def add(i: int, increment: int) -> int:
            """Add an increment to the i-th number and return what it was before."""
            old = np.empty(1, dtype=np.int64)
            window.Fetch_and_op(np.array([increment], dtype=np.int64), old, 0, i, MPI.SUM)
            window.Flush(0)
            return int(old[0])

        yield values, add
        window.Unlock_all()
        window.Free()
        self._comm.Free()


class _Slots:
    """Places to read at the same time: each node has its share of them, or rank 0 gives them out one by one."""

    def __init__(self, comm: MPI.Comm, nodes: _Nodes, readers: int, add: Callable[[int, int], int]):
        n_nodes = len(nodes.leaders)
        self._comm, self._add = comm, add
        self.own = readers // n_nodes + (nodes.own < readers % n_nodes)
        self.limited = self.own < nodes.sizes[nodes.own]
        #: Fewer places than nodes: rank 0 has them all.
        self.central = readers if readers < n_nodes else 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold a place while the block runs."""
        if self.central:
            self._comm.send((_READ, None), dest=0, tag=_REQUEST)
            _receive(self._comm, 0, _ANSWER)
        elif self.limited:
            pause = 1e-4
            while self._add(0, 1) >= self.own:
                self._add(0, -1)
                time.sleep(pause)
                pause = min(2 * pause, 2e-3)
        try:
            yield
        finally:
            if self.central:
                self._comm.send((_READ_DONE, None), dest=0, tag=_REQUEST)
            elif self.limited:
                self._add(0, -1)


class _Server:
    """Answers ranks of other nodes that take items from this one; on rank 0 it also takes all results in."""

    def __init__(self, comm: MPI.Comm, nodes: _Nodes, shelf: Shelf, slots: _Slots, done: Callable[[int, Any], None]):
        self._comm, self._nodes, self._shelf, self._done = comm, nodes, shelf, done
        self.is_thread = nodes.threads
        self._free, self._waiting = slots.central, deque[int]()

    def serve(self) -> None:
        """Answer until every rank has sent its last results."""
        try:
            working = sum(self._nodes.sizes)
            while working:
                status = MPI.Status()
                request, content = _receive(self._comm, MPI.ANY_SOURCE, _REQUEST, status)
                if request == _STOP:
                    return
                if request == _TAKE:
                    self._comm.send(self._shelf.take(content), dest=status.Get_source(), tag=_ANSWER)
                elif request in (_RESULTS, _LAST_RESULTS):
                    for number, result in content:
                        self._done(number, result)
                    working -= request == _LAST_RESULTS
                else:
                    self._give_place(request, status.Get_source())
            for leader in self._nodes.leaders[1:] if self.is_thread else []:
                self._comm.send((_STOP, None), dest=leader, tag=_REQUEST)
        except BaseException as error:  # if only this thread ended, every rank would wait forever
            print(f"rank {rank()} could not record a result: {in_words(error)}", file=sys.stderr, flush=True)
            abort()

    def _give_place(self, request: str, source: int) -> None:
        if request == _READ:
            self._waiting.append(source)
        else:
            self._free += 1
        while self._free and self._waiting:
            self._free -= 1
            self._comm.send(None, dest=self._waiting.popleft(), tag=_ANSWER)


def _receive(comm: MPI.Comm, source: int, tag: int, status: MPI.Status | None = None) -> Any:
    # MPI's own waiting uses a whole core that another rank could use: poll, and sleep a little longer each time.
    pause = 0.0
    while (message := comm.improbe(source=source, tag=tag, status=status)) is None:
        time.sleep(pause)
        pause = min(pause + 2e-5, _LONGEST_PAUSE_S)
    return message.recv(status=status)


def _wait(request: MPI.Request) -> None:
    """Wait for a request without the core that MPI's own waiting would use."""
    while not request.Test():
        time.sleep(_LONGEST_PAUSE_S)


def abort() -> None:
    """End all ranks at once with exit status 1, for an error that only one of them has met."""
    sys.stderr.flush()
    time.sleep(0.5)  # mpiexec may lose what a rank has printed just before
    MPI.COMM_WORLD.Abort(1)
