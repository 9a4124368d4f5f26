"""The mapping of a campaign, simulated event by event: what many ranks that share a file system wait for.

Ranks take shards from a counter that those of a node share, which costs nobody any waiting; a node without work takes
over from others. For each galaxy of a shard a rank opens the snapshot on the metadata server, waits for one of its
node's places among the readers, reads at the file system's bandwidth (shared evenly among all transfers), gives the
place back, and works; then it computes what is to be written, creates the shard's files on the metadata server and
writes them, while it goes on with the next shard, until that is to be written, too.
"""

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

#: What the ranks spend their time on, in the order of `simulate`'s result; all but the first are losses.
PARTS = ("work", "readers' places", "bandwidth", "metadata", "last galaxies")
WORK, PLACES, BANDWIDTH, METADATA, LAST_GALAXIES = range(5)
#: Kinds of events.
ASKED, OPENED, GRANTED, CREATED, PARSED, PROJECTED, ENCODED, WRITTEN = range(8)
BYTES_WRITTEN = 4 * 8 * 32 * 32 * 4  # of a galaxy: four views of eight channels of 32 x 32 pixels


@dataclass(frozen=True)
class Site:
    """Resources that all ranks share: times [s], bandwidths [bytes/s], metadata [calls/s]."""

    bandwidth: float = 50e9
    stream: float = 1.5e9  # bandwidth of one reader at most
    latency_s: float = 1e-3
    metadata: float = 20e3
    start_calls: float = 0  # calls of a node's ranks to load their software; none where it lies on the node's own disk

    @property
    def limits(self) -> tuple[float, float, float, float]:
        """What `simulate` wants to know of it."""
        return self.bandwidth, self.stream, self.latency_s, self.metadata


class Work(NamedTuple):
    """What there is to do: galaxies (N,), shards (S,) and nodes.

    read_bytes, open_s, hold_s, work_s (N,): of each galaxy; hold_s are those of its seconds in which a place among the
    readers is held beside the transfer. ends (S,): where the galaxies of each shard end, which one rank maps and
    writes. queues (S,): the shards in the order of the nodes that they are dealt to; queue_ends, places (nodes,): where
    each node's end, and its places among the readers. opens, files: calls per galaxy read and per shard written;
    write_s: of computing what is written of a galaxy. first_s: what rank 0 does before its first galaxy.
    """

    read_bytes: np.ndarray
    open_s: np.ndarray
    hold_s: np.ndarray
    work_s: np.ndarray
    ends: np.ndarray
    queues: np.ndarray
    queue_ends: np.ndarray
    places: np.ndarray
    opens: float = 0.0
    files: float = 0.0
    write_s: float = 0.0
    first_s: float = 0.0


@njit(cache=True)
def _next_shard(heads, queue_ends, own):  # type: ignore[no-untyped-def]
    """Take the place in the queues of the next shard of a rank's own node, or of another that has one; else -1."""
    for k in range(heads.size):
        node = (own + k) % heads.size
        if heads[node] < queue_ends[node]:
            heads[node] += 1
            return heads[node] - 1
    return -1


@njit(cache=True)
def _give_places(events, spent, free, waiting, wait_start, now, latency_s):  # type: ignore[no-untyped-def]
    """Give the free places among the readers to ranks that wait for one; their bytes come a latency later.

    Returns how many places are free then, and who still waits.
    """
    n_given = min(free, len(waiting))
    for r in waiting[:n_given]:
        spent[PLACES] += now - wait_start[r]
        spent[WORK] += latency_s
        heapq.heappush(events, (now + latency_s, r, GRANTED))
    return free - n_given, waiting[n_given:]


@njit(cache=True)
def simulate(work, n_ranks, limits):  # type: ignore[no-untyped-def]
    """Simulate some `Work` on so many ranks, and a site's `limits`.

    Returns the makespan [s] and rank-seconds (5,) in the order of PARTS.
    """
    bandwidth, stream, latency_s, metadata = limits
    n_nodes = work.queue_ends.size
    per_node = (n_ranks + n_nodes - 1) // n_nodes
    heads = np.concatenate((np.zeros(1, dtype=np.int64), work.queue_ends[:-1]))
    galaxy, wait_start = np.full(n_ranks, -1), np.zeros(n_ranks)
    # Of each rank's shard the galaxies that are left, and all; of the one that is being written behind it all, or 0.
    n_left, n_whole, n_behind = np.zeros((3, n_ranks), dtype=np.int64)
    idle_since = np.full(n_ranks, -1.0)  # since when a rank waits until the shard before is written
    spent, end_time = np.zeros(5), np.zeros(n_ranks)
    free_places, waiting = work.places.copy(), [[0 for _ in range(0)] for _ in range(n_nodes)]
    events = [(work.first_s if r == 0 else 0.0, r, ASKED) for r in range(n_ranks)]
    heapq.heapify(events)
    spent[WORK] += work.first_s
    end_time[0] = work.first_s
    transfers = [(0.0, 0, 0.0) for _ in range(0)]  # (served bytes at which it ends, rank, bytes; negative if written)
    served, now, free_at = 0.0, 0.0, 0.0
    while len(events) > 0 or len(transfers) > 0:
        rate = min(stream, bandwidth / max(len(transfers), 1))
        transfer_end = now + max(transfers[0][0] - served, 0.0) / rate if len(transfers) > 0 else np.inf
        if len(events) == 0 or transfer_end <= events[0][0]:
            served, now = transfers[0][0], transfer_end
            _, r, n_bytes = heapq.heappop(transfers)
            if n_bytes < 0:
                heapq.heappush(events, (now, r, WRITTEN))
            else:
                alone_s = n_bytes / min(stream, bandwidth)
                spent[WORK] += alone_s + work.hold_s[galaxy[r]]
                spent[BANDWIDTH] += now - wait_start[r] - alone_s
                heapq.heappush(events, (now + work.hold_s[galaxy[r]], r, PARSED))
            continue
        event_time, r, kind = heapq.heappop(events)
        served += (event_time - now) * rate if len(transfers) > 0 else 0.0
        now, node = event_time, r // per_node
        if kind == ASKED:
            if n_left[r] == 0:
                place = _next_shard(heads, work.queue_ends, node)
                if place >= 0:
                    shard = work.queues[place]
                    galaxy[r] = (work.ends[shard - 1] if shard > 0 else 0) - 1
                    n_left[r] = n_whole[r] = work.ends[shard] - 1 - galaxy[r]
            if n_left[r] > 0:
                galaxy[r] += 1
                n_left[r] -= 1
                begins = now
                if work.opens > 0:
                    begins = max(free_at, now)
                    free_at = begins + work.opens / metadata
                spent[METADATA] += begins - now
                spent[WORK] += work.opens / metadata + work.open_s[galaxy[r]]
                heapq.heappush(events, (begins + work.opens / metadata + work.open_s[galaxy[r]], r, OPENED))
            else:
                n_whole[r] = 0
                end_time[r] = idle_since[r] = now
        elif kind == OPENED:
            wait_start[r] = now
            waiting[node].append(r)
        elif kind == GRANTED:
            wait_start[r] = now
            heapq.heappush(transfers, (served + work.read_bytes[galaxy[r]], r, work.read_bytes[galaxy[r]]))
        elif kind == PARSED:
            free_places[node] += 1
            spent[WORK] += work.work_s[galaxy[r]]
            heapq.heappush(events, (now + work.work_s[galaxy[r]], r, PROJECTED))
        elif kind == PROJECTED and n_left[r] > 0:
            heapq.heappush(events, (now, r, ASKED))
        elif kind == PROJECTED:
            if n_behind[r] > 0:
                idle_since[r] = now
            else:
                spent[WORK] += work.write_s * n_whole[r]
                heapq.heappush(events, (now + work.write_s * n_whole[r], r, ENCODED))
        elif kind == ENCODED:
            n_behind[r] = n_whole[r]
            free_at = max(free_at, now) + work.files / metadata
            heapq.heappush(events, (free_at + latency_s, r, CREATED))
            heapq.heappush(events, (now, r, ASKED))
        elif kind == CREATED:
            n_bytes = float(BYTES_WRITTEN * n_behind[r])
            heapq.heappush(transfers, (served + n_bytes, r, -n_bytes))
        else:  # WRITTEN
            n_behind[r] = 0
            if idle_since[r] >= 0:  # nearly all of such waits is for calls, which all ranks make at the same time
                spent[METADATA] += now - idle_since[r]
                if n_whole[r] > 0:
                    heapq.heappush(events, (now, r, PROJECTED))
                else:
                    end_time[r] = now
                idle_since[r] = -1.0
        free_places[node], waiting[node] = _give_places(
            events, spent, free_places[node], waiting[node], wait_start, now, latency_s
        )
    spent[LAST_GALAXIES] = np.sum(end_time.max() - end_time)
    return end_time.max(), spent
