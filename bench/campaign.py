"""A campaign of 100,000 galaxies on 16 to 4096 ranks, simulated event by event from costs that are measured first.

As in gen.campaign: ranks start, share the listing out and the search for where the particles of a box lie, and take
galaxies, or shards of them, costliest first, from a counter that the ranks of a node share, which costs nobody any
waiting; a node without work takes over from others. For each galaxy of a shard, which are any galaxies of the box,
a rank opens the snapshot on the metadata server, waits for one of its node's places among the readers, reads
at the file system's bandwidth (shared evenly among all transfers), gives the place back, and works; then it computes
what is to be written, creates the shard's files on the metadata server and writes them, while it goes on with the next
shard, until that is to be written, too. Sizes are lognormal, 0.5 dex and cut at 2 sigma, about 20,000
particles in a cosmological box (some 1e10 Msun at 1e6 Msun each) or 2e6 in zooms; costs scatter by 0.1 dex.

  python -m bench.campaign             with the costs of docs/benchmarks.md
  python -m bench.campaign --measure   takes them on this machine first (three minutes), and compares a run on one
                                       and on two ranks with its simulation

The roofline is the least time that any order of work could take: the largest of all computing over the ranks, all
bytes over the bandwidth, all calls over the metadata server, and a start, a listing and one galaxy. A box's index
belongs to the computing and to the bytes, and to each rank's start, as that takes it over.
"""

import heapq
import json
import os
import pickle
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
from numba import njit

from bench import common
from bench.reading import BOX, run_in, write_table
from kinmass.gen.campaign import parallel
from kinmass.gen.campaign.dealing import deal
from kinmass.gen.campaign.foretell import Load, probe
from kinmass.gen.campaign.listing import list_snapshot
from kinmass.gen.campaign.maps import list_all, plan_all
from kinmass.gen.campaign.plan import plan
from kinmass.gen.campaign.record import Settings
from kinmass.gen.campaign.schedule import schedule
from kinmass.gen.campaign.timing import bytes_read
from kinmass.gen.formats import FORMATS
from kinmass.gen.formats.blocks import Blocks, joined
from kinmass.gen.formats.celltables import told
from kinmass.gen.formats.domain import blocks_file
from kinmass.gen.formats.frontends import SMALLEST_BLOCK
from kinmass.gen.snapshots.indexes import KeptIndex
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.storage import store, suite_group
from kinmass.gen.storage.writer import Writer
from kinmass.gen.suite import Suite, load_suite

#: What the ranks spend their time on, in the order of `simulate`'s result; all but the first are losses.
PARTS = ("work", "readers' places", "bandwidth", "metadata", "last galaxies")
WORK, PLACES, BANDWIDTH, METADATA, LAST_GALAXIES = range(5)
#: Kinds of events.
ASKED, OPENED, GRANTED, CREATED, PARSED, PROJECTED, ENCODED, WRITTEN = range(8)
HEADS = ["ranks", "before [s]", "mapping [s]", "all [s]", "of roofline", "its limit", "work / time", "lost most to"]
RANKS_PER_NODE = 64
BYTES_WRITTEN = 4 * 8 * 32 * 32 * 4  # four views of eight channels of 32 x 32 pixels


#: Prints the seconds in which a process that has all modules of a campaign loads yt and the kernels.
LOADING = """
import json, time
import kinmass.gen.campaign.maps
from kinmass.gen.campaign.worker import load_frontends, load_kernels
began = time.perf_counter()
load_frontends()
loaded = time.perf_counter()
load_kernels()
print(json.dumps([loaded - began, time.perf_counter() - loaded]))
"""


@dataclass(frozen=True)
class Site:
    """Resources that all ranks share: times [s], bandwidths [bytes/s], metadata [calls/s]."""

    bandwidth: float = 50e9
    stream: float = 1.5e9  # bandwidth of one reader at most
    latency_s: float = 1e-3
    metadata: float = 20e3
    start_calls: float = 0  # calls of a node's ranks to load their software; none where it lies on the node's own disk


@dataclass(frozen=True)
class Costs:
    """What a galaxy costs a core, but for the file system: seconds [s], of which some grow with its particles.

    open: an opening and indexing of a zoom, by particles of its file; work: reading, framing and projecting, by
    particles of the galaxy; box_bytes and particle_bytes: what is read for a galaxy of a box, in whole blocks, and for
    the index of a zoom per particle of its file. start: of a process, and of an empty store. yt, kernels: of loading
    them. list: of a snapshot. plan: of a galaxy of a box, from its catalogue to all ranks. take: of an item from a
    node's counter. write: of a galaxy's arrays. join, fetch, touch: of each block of a box's index, joining what
    ranks have found, taking it over from the store and listing what reaches where, and asking for a galaxy; tell: of
    finding it by one rank from a table of 64^3 cells in the file; block_bytes: its own.
    """

    start_s: float = 3.33
    yt_s: float = 1.71
    kernels_s: float = 0.452
    list_s: float = 0.0142
    plan_s: float = 1.67e-5
    take_s: float = 4.11e-5
    open_s: float = 0.0466
    open_particle_s: float = 6.04e-8
    work_s: float = 0.0237
    work_particle_s: float = 5.36e-7
    write_s: float = 0.00755
    box_bytes: float = 7.1e5
    particle_bytes: float = 13.0
    join_block_s: float = 2.61e-6
    fetch_block_s: float = 3.6e-6
    touch_block_s: float = 1.58e-8
    tell_block_s: float = 3.8e-6  # of November 30, on faster cores than all others here
    block_bytes: float = 278.0


@dataclass(frozen=True)
class Scenario:
    """A set of galaxies: their particles, those of their file for each, and calls to the metadata server.

    opens: calls to read a galaxy. files: calls to write a shard, of so many galaxies.
    is_told: the box has a table of cells, by which one rank finds its blocks without looking at its positions.
    """

    name: str
    median_particles: float
    readers: int
    in_box: bool
    file_factor: float = 2.0  # particles in the file per particle of its galaxies
    opens: float = 0.0
    files: float = 20.0
    per_shard: int = 1
    galaxies: int = 100_000
    is_told: bool = False
    wanted: tuple[int, float, float] | None = None  # on so many ranks: seconds at most, share of the roofline at least


SCENARIOS = [
    Scenario("box, a file for each galaxy and array", 2e4, 512, in_box=True),
    Scenario("box, shards of 16", 2e4, 512, in_box=True, per_shard=16, wanted=(512, 20, 0.90)),
    Scenario(
        "box with a table of cells, shards of 16",
        2e4,
        512,
        in_box=True,
        per_shard=16,
        is_told=True,
        wanted=(512, 20, 0.90),
    ),
    Scenario(
        "zooms of several GB",
        2e6,
        4096,
        in_box=False,
        file_factor=50,
        opens=37,
        per_shard=16,
        wanted=(4096, np.inf, 1 / 1.15),
    ),
]


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
def simulate(  # type: ignore[no-untyped-def]
    read_bytes, open_s, hold_s, work_s, ends, opens, files, write_s, first_s, queues, queue_ends, places, ranks, site
):
    """Simulate the mapping of a campaign event by event. first_s: what rank 0 does before its first galaxy.

    read_bytes, open_s, hold_s, work_s (N,): of each galaxy; hold_s are those of a galaxy's seconds in which a place
    among the readers is held beside the transfer. shard_ends (S,): where the galaxies of each shard end, which one rank
    maps and writes. opens, files: calls per galaxy read and per shard written. queues (S,): the shards in the order of
    the nodes that they are dealt to; queue_ends, places (nodes,): where each node's end, and its places among the
    readers. Returns the makespan [s] and rank-seconds (5,) in the order of PARTS.
    """
    bandwidth, stream, latency_s, metadata = site
    n_nodes = queue_ends.size
    per_node = (ranks + n_nodes - 1) // n_nodes
    heads = np.concatenate((np.zeros(1, dtype=np.int64), queue_ends[:-1]))
    galaxy, wait_start = np.full(ranks, -1), np.zeros(ranks)
    # Of each rank's shard the galaxies that are left, and all; of the one that is being written behind it all, or 0.
    n_left, n_whole, n_behind = np.zeros((3, ranks), dtype=np.int64)
    idle_since = np.full(ranks, -1.0)  # since when a rank waits until the shard before is written
    spent, end_time = np.zeros(5), np.zeros(ranks)
    free_places, waiting = places.copy(), [[0 for _ in range(0)] for _ in range(n_nodes)]
    events = [(first_s if r == 0 else 0.0, r, ASKED) for r in range(ranks)]
    heapq.heapify(events)
    spent[WORK] += first_s
    end_time[0] = first_s
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
                spent[WORK] += alone_s + hold_s[galaxy[r]]
                spent[BANDWIDTH] += now - wait_start[r] - alone_s
                heapq.heappush(events, (now + hold_s[galaxy[r]], r, PARSED))
            continue
        event_time, r, kind = heapq.heappop(events)
        served += (event_time - now) * rate if len(transfers) > 0 else 0.0
        now, node = event_time, r // per_node
        if kind == ASKED:
            if n_left[r] == 0:
                place = _next_shard(heads, queue_ends, node)
                if place >= 0:
                    shard = queues[place]
                    galaxy[r] = (ends[shard - 1] if shard > 0 else 0) - 1
                    n_left[r] = n_whole[r] = ends[shard] - 1 - galaxy[r]
            if n_left[r] > 0:
                galaxy[r] += 1
                n_left[r] -= 1
                begins = now
                if opens > 0:
                    begins = max(free_at, now)
                    free_at = begins + opens / metadata
                spent[METADATA] += begins - now
                spent[WORK] += opens / metadata + open_s[galaxy[r]]
                heapq.heappush(events, (begins + opens / metadata + open_s[galaxy[r]], r, OPENED))
            else:
                n_whole[r] = 0
                end_time[r] = idle_since[r] = now
        elif kind == OPENED:
            wait_start[r] = now
            waiting[node].append(r)
        elif kind == GRANTED:
            wait_start[r] = now
            heapq.heappush(transfers, (served + read_bytes[galaxy[r]], r, read_bytes[galaxy[r]]))
        elif kind == PARSED:
            free_places[node] += 1
            spent[WORK] += work_s[galaxy[r]]
            heapq.heappush(events, (now + work_s[galaxy[r]], r, PROJECTED))
        elif kind == PROJECTED and n_left[r] > 0:
            heapq.heappush(events, (now, r, ASKED))
        elif kind == PROJECTED:
            if n_behind[r] > 0:
                idle_since[r] = now
            else:
                spent[WORK] += write_s * n_whole[r]
                heapq.heappush(events, (now + write_s * n_whole[r], r, ENCODED))
        elif kind == ENCODED:
            n_behind[r] = n_whole[r]
            free_at = max(free_at, now) + files / metadata
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


def particles_of(scenario: Scenario, seed: int = 1) -> np.ndarray:
    """Particles of each galaxy; of shards of any galaxies those of most particles first, as gen.campaign has them."""
    drawn = np.clip(np.random.default_rng(seed).standard_normal(scenario.galaxies), -2, 2)
    particles = scenario.median_particles * 10 ** (0.5 * drawn)
    shards = np.split(particles, shard_ends(scenario)[:-1])
    return np.concatenate(sorted(shards, key=lambda shard: -float(shard.sum())))


def shard_ends(scenario: Scenario) -> np.ndarray:
    """Where the galaxies of each shard end; the last one may hold fewer."""
    return np.append(np.arange(scenario.per_shard, scenario.galaxies, scenario.per_shard), scenario.galaxies)


def galaxies(scenario: Scenario, costs: Costs, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bytes to read, seconds to open, with a place among the readers, and to work, of each galaxy."""
    particles, rng = particles_of(scenario), np.random.default_rng([seed, 1])
    # Without scatter, ranks that start together would read at the same moments all the time.
    scatter = 10 ** rng.normal(0, 0.1, scenario.galaxies)
    work_s = scatter * (costs.take_s + costs.work_s + costs.work_particle_s * particles)
    if scenario.in_box:
        nothing = np.zeros(scenario.galaxies)
        work_s = work_s + costs.touch_block_s * blocks_of_box(scenario, float(particles.sum()))
        return np.full(scenario.galaxies, costs.box_bytes), nothing, nothing, work_s
    in_file = scenario.file_factor * particles
    # Most of a large snapshot's bytes are positions, read once to find its blocks; a place is held for bytes alone.
    return (
        costs.particle_bytes * in_file,
        scatter * (costs.open_s + costs.open_particle_s * in_file),
        0 * particles,
        work_s,
    )


def blocks_of_box(scenario: Scenario, n_in_galaxies: float) -> float:
    """How many blocks a box is read in: two in five of its particles are of the most frequent type."""
    return 0.4 * scenario.file_factor * n_in_galaxies / SMALLEST_BLOCK


def box_index(scenario: Scenario, costs: Costs) -> tuple[float, float, float]:
    """Of the index of a box: seconds of computing of all ranks together, bytes to read for it, and its blocks."""
    n_in_galaxies = float(particles_of(scenario).sum())
    n, n_blocks = scenario.file_factor * n_in_galaxies, blocks_of_box(scenario, n_in_galaxies)
    if scenario.is_told:
        return costs.tell_block_s * n_blocks, 0.0, n_blocks
    return costs.open_particle_s * n, costs.particle_bytes * n, n_blocks


def indexing_s(scenario: Scenario, costs: Costs, site: Site, ranks: int, n_nodes: int) -> float:
    """Seconds in which all ranks find where the blocks of a box lie, one joins them, and all take the index over.

    Where the box has a table one rank finds them for all.

    A node fetches it once: its file system keeps it for all ranks.
    """
    computing_s, n_bytes, n_blocks = box_index(scenario, costs)
    n_searching = 1 if scenario.is_told else ranks
    search_s = costs.open_s + max(computing_s / n_searching, n_bytes / min(site.bandwidth, ranks * site.stream))
    index_bytes = n_blocks * costs.block_bytes
    fetch_s = max(n_blocks * costs.fetch_block_s, n_nodes * index_bytes / site.bandwidth)
    return search_s + n_blocks * costs.join_block_s * (n_searching > 1) + fetch_s


def campaign(
    scenario: Scenario, costs: Costs, site: Site, ranks: int, ranks_per_node: int = RANKS_PER_NODE
) -> tuple[float, float, np.ndarray]:
    """Run `simulate` for a scenario at a site: seconds before mapping, of mapping, and rank-seconds by part."""
    read_bytes, open_s, hold_s, work_s = galaxies(scenario, costs)
    sizes = [min(ranks_per_node, ranks - first) for first in range(0, ranks, ranks_per_node)]
    ends = shard_ends(scenario)
    firsts = np.append(0, ends[:-1])
    origins = (firsts // 1000 if scenario.in_box else firsts).tolist()
    dealt = deal(origins, np.add.reduceat(read_bytes / site.stream + work_s + hold_s, firsts).tolist(), sizes)
    by_node = [np.array([item for run in runs for item in run], dtype=np.int64) for runs in dealt]
    n_nodes = len(sizes)
    places = np.array([max(scenario.readers // n_nodes, 1)] * n_nodes)
    mapping_s, spent = simulate(
        read_bytes, open_s, hold_s, work_s, ends, scenario.opens, scenario.files, costs.write_s,
        costs.yt_s * (ranks > 1), np.concatenate(by_node),
        np.cumsum([len(items) for items in by_node]), places, ranks,
        (site.bandwidth, site.stream, site.latency_s, site.metadata),
    )  # fmt: skip
    return before(scenario, costs, site, ranks, n_nodes), mapping_s, spent


def before(scenario: Scenario, costs: Costs, site: Site, ranks: int, n_nodes: int) -> float:
    """Seconds before mapping: every rank starts, the snapshots' listing is shared out, one rank makes the store.

    First it loads the kernels; meanwhile the others load yt, and then the kernels, too. A single snapshot is listed by
    it, too. All share the search for the blocks of a box, and open it.
    """
    start_s = costs.start_s + n_nodes * site.start_calls / site.metadata
    listing_s = 0.0 if scenario.in_box else scenario.galaxies * costs.list_s / ranks
    planning_s = scenario.galaxies * costs.plan_s + costs.list_s * scenario.in_box
    if ranks == 1:
        loading_s = costs.yt_s + planning_s + costs.kernels_s
    else:
        loading_s = costs.kernels_s + max(planning_s, costs.yt_s, costs.kernels_s)
    opening_s = costs.open_s + indexing_s(scenario, costs, site, ranks, n_nodes) if scenario.in_box else 0.0
    return start_s + listing_s + loading_s + opening_s


def roofline(scenario: Scenario, costs: Costs, site: Site, ranks: int) -> tuple[float, str]:
    """Least seconds that the whole run could take, and what sets it."""
    read_bytes, open_s, hold_s, work_s = galaxies(scenario, costs)
    index_s, index_bytes, n_blocks = box_index(scenario, costs) if scenario.in_box else (0.0, 0.0, 0.0)
    # Every rank takes the index over.
    start_s = costs.start_s + costs.yt_s + costs.kernels_s + costs.fetch_block_s * n_blocks
    n, one = scenario.galaxies, start_s + costs.list_s + float((work_s + hold_s).max())
    computing_s = float((open_s + hold_s + work_s).sum()) + n * costs.write_s + index_s
    n_bytes = float(read_bytes.sum()) + n * BYTES_WRITTEN + index_bytes
    limits = {
        "computing": computing_s / ranks + start_s,
        "bytes": n_bytes / min(site.bandwidth, ranks * site.stream) + start_s,
        "metadata": n * (scenario.opens + scenario.files / scenario.per_shard) / site.metadata + start_s,
        "start": one,
    }
    worst = max(limits, key=lambda name: limits[name])
    return limits[worst], worst


def check_laws(costs: Costs) -> None:
    """Check the laws that the simulation must keep. Raises SystemExit, which names those that it breaks."""
    small = replace(SCENARIOS[-1], galaxies=3008, file_factor=1.0)  # whole shards
    read_bytes, open_s, hold_s, work_s = galaxies(small, costs)
    site = Site()
    ends = shard_ends(small)
    firsts = np.append(0, ends[:-1])
    n = ends - firsts
    calls_s = small.opens / site.metadata * n
    each_s = read_bytes / site.stream + open_s + hold_s + work_s + costs.write_s + site.latency_s
    cost_s = np.add.reduceat(each_s, firsts)
    # Each shard's files are asked for before the next shard is opened; the last ones are waited for.
    files_s, last_s = small.files / site.metadata, site.latency_s + BYTES_WRITTEN * n[-1] / site.stream
    unlimited = replace(site, bandwidth=1e30, metadata=1e30)
    rank_ends = [0.0] * 59 + [costs.yt_s]  # of rank 0, which loads yt later
    for seconds in cost_s:
        heapq.heapreplace(rank_ends, rank_ends[0] + seconds)
    _, one_s, spent_by_one = campaign(small, costs, site, 1)
    tight = replace(site, bandwidth=2e9, metadata=500)
    _, many_s, spent_by_many = campaign(replace(small, readers=40), costs, tight, 300)
    extra_s = costs.yt_s + calls_s.sum() * site.metadata / 500
    _, endless_s, _ = campaign(small, costs, unlimited, 60)
    zeros, order = np.zeros(40), np.arange(40)
    equal_s = simulate(
        np.full(40, 1e9), zeros, zeros, zeros, order + 1, 0.0, 0.0, 0.0, 0.0, order, np.array([40]), np.array([1000]),
        40, (10e9, 1e9, 0.0, 1e30),
    )[0]  # fmt: skip
    laws = {
        "40 equal transfers at once take their bytes over the bandwidth": np.isclose(equal_s, 4.0, rtol=1e-3),
        "one rank takes the sum of all costs": np.isclose(
            one_s, cost_s.sum() + calls_s.sum() + files_s * n.size + last_s, rtol=1e-9
        ),
        "one rank alone waits for what it writes": np.isclose(
            spent_by_one[1:].sum(), files_s * n.size + last_s, rtol=1e-6
        ),
        "rank-time is work and waits": np.isclose(spent_by_many.sum(), 300 * many_s, rtol=1e-9),
        "work does not depend on the ranks": np.isclose(spent_by_many[0], cost_s.sum() + extra_s, rtol=1e-9),
        "no wait is negative": bool(np.all(spent_by_many > -1e-6)),
        "unlimited resources give list scheduling": np.isclose(endless_s, max(rank_ends) + last_s, rtol=1e-9),
    }  # fmt: skip
    if broken := [law for law, holds in laws.items() if not holds]:
        raise SystemExit(f"the simulation breaks a law: {'; '.join(broken)}")
    print(f"laws hold: {'; '.join(laws)}\n")


def _suite(folder: Path, galaxies: int, particles: int) -> Path:
    """Write a box of mock galaxies of so many particles, its table of centres and its suite file."""
    folder.mkdir()
    share = (2 * particles // 5, particles // 5, 2 * particles // 5)
    run_in(common.ROOT, "-c", BOX, folder / "box.hdf5", galaxies, *share)
    places = [tuple((n + 0.5) * 2500.0 for n in (i % 10, i // 10 % 10, i // 100)) for i in range(galaxies)]
    rows = [f"{i},{x},{y},{z},150" for i, (x, y, z) in enumerate(places)]
    (folder / "centres.csv").write_text("\n".join(["id,x,y,z,r200", *rows]) + "\n")
    (folder / f"{folder.name}.yaml").write_text(
        f"name: {folder.name}\nformat: gizmo\nsnapshots: box.hdf5\naperture: {{kpc: 100}}\n"
        "catalogue: {format: table, path: centres.csv}\n"
    )
    return folder / f"{folder.name}.yaml"


def measured(scratch: Path) -> Costs:
    """Measure the costs: probes of two boxes and of zooms, an opening of a large file, listing and planning."""
    boxes = {n: _suite(scratch / f"box{n}", count, n) for n, count in ((5_000, 600), (50_000, 60))}
    common.run("kinmass.gen", "mock", "--out", scratch / "zooms", "--suites", "middle", "--galaxies", 24, ranks=2)
    zooms = scratch / "zooms" / "middle" / "middle.yaml"
    few, many, zoom = (_probed(path, scratch) for path in (*boxes.values(), zooms))
    slope = max((many.galaxy_s - many.write_s - few.galaxy_s + few.write_s) / 45_000, 0.0)
    box_bytes = few.n_bytes + 15_000 / 45_000 * (many.n_bytes - few.n_bytes)  # of a galaxy of 20,000 particles
    began, bytes_before = time.perf_counter(), bytes_read()
    Snapshot(scratch / "box50000" / "box.hdf5", "gizmo", {"dark": ["PartType1"]}).close()
    large_open_s, large_bytes = time.perf_counter() - began, bytes_read() - bytes_before
    suite = load_suite(zooms)
    paths = suite.snapshot_paths()
    listing_s = common.best(lambda: [list_snapshot(suite, path) for path in paths])
    planning_s = {}
    for n in (5_000, 45_000):
        table = load_suite(write_table(scratch / f"table{n}", scratch / "box5000" / "box.hdf5", n))
        planning_s[n] = min(_planned_s(table, scratch / f"plan{n}-{i}.zarr", n) for i in range(3))
    plan_s = (planning_s[45_000] - planning_s[5_000]) / 40_000
    empty_store_s = max(planning_s[5_000] - 5_000 * plan_s, 0.0)
    sharded = scratch / "sharded.zarr"
    common.run("kinmass.gen", "maps", zooms, "--out", sharded, "--views", 4, "--galaxies-per-shard", 8, ranks=1)
    noted = json.loads(next((sharded / ".timing").iterdir()).read_text())
    yt_s, kernels_s = loaded_s()
    join_s, fetch_s, touch_s, block_bytes = index_costs(scratch)
    return Costs(
        start_s=noted["phases_s"]["start"] + empty_store_s - yt_s - kernels_s, yt_s=yt_s, kernels_s=kernels_s,
        list_s=listing_s / len(paths), plan_s=plan_s,
        take_s=taken_s(), open_s=zoom.open_s, open_particle_s=large_open_s / 3_000_000,
        work_s=few.galaxy_s - few.write_s - 5_000 * slope, work_particle_s=slope,
        write_s=written_s(sharded, scratch), box_bytes=box_bytes,
        particle_bytes=large_bytes / 3_000_000, join_block_s=join_s, fetch_block_s=fetch_s, touch_block_s=touch_s,
        block_bytes=block_bytes, tell_block_s=told_s(scratch),
    )  # fmt: skip


def written_s(sharded: Path, scratch: Path) -> float:
    """Seconds to write each galaxy of a store anew, in shards of as many; a run hides some of it behind its work."""
    group = store.open_suite(sharded, "middle")
    names, per_shard = store.read_labels(group, "galaxy").tolist(), group.attrs["config"]["galaxies_per_shard"]
    records = [store.read_galaxy(group, number) for number in range(len(names))]
    seconds = []
    for attempt in range(3):
        out = scratch / f"written{attempt}.zarr"
        fresh = Writer(suite_group.create_suite(out, "middle", names, names, group.attrs["config"]))
        began = time.perf_counter()
        for first in range(0, len(names), per_shard):
            shard = range(first, min(first + per_shard, len(names)))
            fresh.write(shard, [records[number] for number in shard])
        seconds.append((time.perf_counter() - began) / len(names))
    return min(seconds)


def told_s(scratch: Path, n_blocks: int = 173_000, n_cells: int = 64**3) -> float:
    """Seconds for each block of a box with a table of cells to find all its blocks, by one rank.

    As many blocks as the simulated box has, for most of the time is the cells'. It has 2.8e9 particles of each of three
    types, whose positions are not written: they all read as its middle.
    """
    n = n_blocks * SMALLEST_BLOCK
    ends = np.linspace(0, n, n_cells + 1).astype(np.int64)
    with h5py.File(scratch / "told.hdf5", "w") as file:
        file.create_group("Header").attrs["BoxSize"] = 1.0
        file.create_group("Cells/Meta-data").attrs["size"] = 3 * [1 / 64]
        for ptype in ("PartType0", "PartType1", "PartType4"):
            file.create_dataset(f"{ptype}/Coordinates", (n, 3), "f4", chunks=(SMALLEST_BLOCK, 3), fillvalue=0.5)
            columns = {"Files": 0 * ends[1:], "Counts": np.diff(ends), "OffsetsInFile": ends[:-1]}
            columns |= {"MinPositions": np.full((n_cells, 3), 0.4), "MaxPositions": np.full((n_cells, 3), 0.6)}
            for name, column in columns.items():  # compressed as SWIFT does
                chunks = (1024, *column.shape[1:])
                file.create_dataset(f"Cells/{name}/{ptype}", data=column, chunks=chunks, compression=4, shuffle=True)
    path = str(scratch / "told.hdf5")
    starts = range(0, n, SMALLEST_BLOCK)
    blocks = [SimpleNamespace(filename=path, start=start, end=start + SMALLEST_BLOCK) for start in starts]
    assert told(blocks, [path]) is not None
    return common.best(lambda: told(blocks, [path])) / n_blocks


def index_costs(scratch: Path, n_blocks: int = 102_400, n_parts: int = 128) -> tuple[float, float, float, float]:
    """Seconds for each block of an index to join its parts, to fetch it and to ask for a sphere, and its bytes.

    Of the index of a box of 1.7e9 particles of each of three types: compact blocks, and one in ten of small groups that
    lie all over it.
    """
    rng = np.random.default_rng(1)
    kept = KeptIndex(scratch / "index", FORMATS["gizmo"], scratch / "box5000" / "box.hdf5", None)
    parts = []
    for _ in range(n_parts):
        low = rng.uniform(size=(n_blocks // n_parts, 3, 3))
        sides = np.where(rng.uniform(size=low.shape[:2]) < 0.1, 64, 1)
        low[sides > 1] *= 0.02
        lengths = np.where(sides > 1, 100, 0)
        cells = np.sort(rng.integers(0, 64**3, (int((sides > 1).sum()), 100), dtype=np.uint32)).ravel()
        high = np.where(sides[..., None] > 1, 1.0, low + 0.02)
        ends = np.cumsum([0, *lengths.ravel()])
        parts.append(Blocks(["PartType0", "PartType1", "PartType4"], low, high, sides, ends, cells))

    sent = [pickle.dumps(part, pickle.HIGHEST_PROTOCOL) for part in parts]
    spheres = [SimpleNamespace(center=rng.uniform(size=3), radius=0.005) for _ in range(200)]

    def join() -> None:
        """Receive all parts, which ranks have sent, join and keep them."""
        kept.keep_blocks(joined([pickle.loads(part) for part in sent]))

    def fetch() -> Blocks:
        """Take the kept index over, as each rank does, until it has answered for a first sphere."""
        assert kept.fetch(scratch / "staged")
        blocks = Blocks.load(blocks_file(scratch / "staged"))
        blocks.touched(spheres[0])
        return blocks

    join_s = common.best(join)
    fetch_s = common.best(fetch)
    blocks = fetch()
    touch_s = common.best(lambda: [blocks.touched(sphere) for sphere in spheres]) / len(spheres)
    return join_s / n_blocks, fetch_s / n_blocks, touch_s / n_blocks, kept.index.stat().st_size / n_blocks


def loaded_s() -> tuple[float, float]:
    """Seconds in which a process loads yt and the kernels, the least of three."""
    return tuple(np.min([json.loads(run_in(common.ROOT, "-c", LOADING)) for _ in range(3)], axis=0).tolist())


def _planned_s(suite: Suite, out: Path, n: int) -> float:
    """Seconds from nothing to the schedule that a second rank has received, of a box with n galaxies."""
    began = time.perf_counter()
    listings = list_all([suite], out)
    tasks, _ = plan_all([suite], out, Settings(views=4), repair=False, listings=listings)
    todo = pickle.loads(pickle.dumps(schedule(tasks, out), pickle.HIGHEST_PROTOCOL))
    planned_s = time.perf_counter() - began
    assert sum(map(len, todo.batches)) == n  # which unpacks all; a rank unpacks what it maps
    return planned_s


def _probed(suite: Path, scratch: Path) -> Load:
    """What mapping one galaxy of a suite costs: the median of five probes."""
    out = scratch / f"{suite.parent.parent.name}-{suite.stem}.zarr"
    tasks = plan([load_suite(suite)], out, Settings(views=4))
    return sorted((probe(tasks, out, Settings(views=4))[0] for _ in range(5)), key=lambda load: load.galaxy_s)[2]


def taken_s(n: int = 20_000) -> float:
    """Seconds in which a rank of two takes an item from the counter of its node, while the other computes."""
    return float(common.run("bench.campaign", "--takes", n, ranks=2).split()[0])


def time_takes(n: int) -> None:
    """Print what `taken_s` returns, on 2 ranks: rank 1 takes items while rank 0 holds Python's lock."""
    began = time.perf_counter()
    taken: list[float] = []

    def work(item: int, _: object) -> None:
        """Keep rank 0 busy with Python for a second; note on other ranks when an item was taken [s]."""
        if parallel.rank() == 0:
            while time.perf_counter() - began < 1.0:
                sum(range(1000))
        else:
            taken.append(time.perf_counter())

    parallel.share_out(range(n), work, lambda item, result: None)
    if parallel.rank() == 1:
        print(float(np.median(np.diff(taken))), flush=True)


def probe_together(suite: Path, scratch: Path) -> None:
    """Probe a suite on all ranks at the same time, five times, and print the median of all as JSON.

    Ranks of one node share its caches and its memory's bandwidth, which a probe on a rank alone has for itself.
    """
    out = scratch / f"probe{parallel.rank()}of{parallel.size()}.zarr"
    tasks = plan([load_suite(suite)], out, Settings(views=4))
    loads = []
    for _ in range(5):
        parallel.barrier()
        loads += probe(tasks, out, Settings(views=4))
    everyone = sorted((load for of_rank in parallel.gather(loads) for load in of_rank), key=lambda load: load.galaxy_s)
    if everyone:
        print(json.dumps(asdict(everyone[len(everyone) // 2])), flush=True)


def compare_with_a_run(scratch: Path) -> None:
    """Print what a run on one and on two ranks, a core for each, takes beside its simulation.

    That is fed with probes by as many ranks at once.
    """
    n = 48
    common.run(
        "kinmass.gen", "mock", "--out", scratch / "run", "--suites", "middle", "--galaxies", n,
        "--stars", 40_000, "--gas", 20_000, "--dark", 40_000, ranks=2,
    )  # fmt: skip
    suite = scratch / "run" / "middle" / "middle.yaml"
    rows: list[list[object]] = []
    yt_s, _ = loaded_s()
    cores = sorted(os.sched_getaffinity(0))
    for ranks in (1, 2):
        os.sched_setaffinity(0, cores[:ranks])  # as a cluster gives each rank a core
        load = Load(**json.loads(common.run("bench.campaign", "--probe", suite, scratch, ranks=ranks).splitlines()[-1]))
        noted = []
        for attempt in range(3):
            out = scratch / f"run{ranks}-{attempt}.zarr"
            common.run("kinmass.gen", "maps", suite, "--out", out, "--views", 4, ranks=ranks)
            noted.append(json.loads(next((out / ".timing").iterdir()).read_text())["phases_s"]["mapping"])
            shutil.rmtree(out)
        work_s, zeros = np.full(n, load.galaxy_s - load.write_s + load.open_s), np.zeros(n)
        mapping_s, _ = simulate(
            zeros, zeros, zeros, work_s, np.arange(1, n + 1), 0.0, 0.0, load.write_s, yt_s * (ranks > 1), np.arange(n),
            np.array([n]), np.array([128]), ranks, (1e12, 1e12, 0.0, 1e12),
        )  # fmt: skip
        rows.append([ranks, min(noted), mapping_s, mapping_s / min(noted) - 1])
    os.sched_setaffinity(0, cores)
    print(f"{n} galaxies of 100,000 particles, mapping [s]:")
    common.table(["ranks", "measured, best of 3", "simulated", "off by (wanted 0.15)"], rows)
    if off := [row for row in rows if abs(float(str(row[3]))) > 0.15]:
        print(f"NOT within 15 %: {', '.join(str(row[0]) for row in off)} ranks\n")


def simulated(scenario: Scenario, costs: Costs, site: Site, ranks: list[int]) -> list[list[object]]:
    """Simulate a scenario on each number of ranks: the rows of its table, whose columns are HEADS."""
    rows: list[list[object]] = []
    for n_ranks in ranks:
        before_s, mapping_s, spent = campaign(scenario, costs, site, n_ranks)
        least_s, limit = roofline(scenario, costs, site, n_ranks)
        losses = spent / (n_ranks * mapping_s)
        worst = int(np.argmax(losses[1:])) + 1
        lost = f"{PARTS[worst]} ({100 * losses[worst]:.0f} %)" if losses[worst] > 0.02 else ""
        total_s = before_s + mapping_s
        rows.append([n_ranks, before_s, mapping_s, total_s, least_s / total_s, limit, float(losses[WORK]), lost])
    return rows


def draw(path: Path, seconds: dict[str, list[float]], floors: dict[str, list[float]], ranks: list[int]) -> None:
    """Draw the seconds to solution and their floors, by scenario, against ranks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for i, name in enumerate(seconds):
        ax.loglog(ranks, seconds[name], "o-", color=f"C{i}", label=name)
        ax.loglog(ranks, floors[name], ":", color=f"C{i}")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="ranks", ylabel="seconds to solution (dotted: roofline)")
    ax.legend()
    fig.savefig(path, dpi=120)
    print(path)


def main() -> None:
    """Simulate all scenarios, print their tables and draw the seconds to solution."""
    parser = common.parser(__doc__)
    parser.add_argument("--measure", action="store_true", help="take the costs on this machine first")
    for owner in (Site(), Costs()):
        for field in fields(owner):
            parser.add_argument(
                f"--{field.name.replace('_', '-')}", type=float, default=getattr(owner, field.name),
                help=f"as in {type(owner).__name__} (default: %(default)g)",
            )  # fmt: skip
    parser.add_argument("--readers", type=int, help="places among the readers (default: as each scenario says)")
    parser.add_argument("--takes", type=int, help="(internal) the counter's time, on 2 ranks")
    parser.add_argument("--probe", type=Path, nargs=2, help="(internal) suite and folder, on so many ranks at once")
    parser.add_argument("--compare", action="store_true", help="compare runs on one and two ranks alone, and end")
    args = parser.parse_args()
    if args.takes:
        return time_takes(args.takes)
    if args.probe:
        return probe_together(*args.probe)
    site = Site(**{field.name: getattr(args, field.name) for field in fields(Site)})
    costs = Costs(**{field.name: getattr(args, field.name) for field in fields(Costs)})
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.resolve()) as scratch:
        if args.compare:
            return compare_with_a_run(Path(scratch))
        if args.measure:
            costs = measured(Path(scratch))
        print("  ".join(f"{k} = {v:.3g}" for k, v in (vars(costs) | vars(site)).items()))
        check_laws(costs)
        if args.measure:
            compare_with_a_run(Path(scratch))
    ranks = [2**k for k in range(4, 13)]
    seconds: dict[str, list[float]] = {}
    floors: dict[str, list[float]] = {}
    for scenario in SCENARIOS:
        scenario = replace(scenario, readers=args.readers or scenario.readers)
        n_tb = float(galaxies(scenario, costs)[0].sum()) / 1e12
        print(f"{scenario.name}: {scenario.galaxies} galaxies, {n_tb:.3g} TB read, {scenario.readers} readers")
        if scenario.in_box:
            alone_s, n_bytes, n_blocks = box_index(scenario, costs)
            print(f"its index: {n_bytes / 1e9:.3g} GB of positions, {n_blocks:.3g} blocks, {alone_s:.3g} s of one rank")
        rows = simulated(scenario, costs, site, ranks)
        common.table(HEADS, rows)
        if scenario.wanted:
            n_ranks, most_s, share = scenario.wanted
            _, _, _, total_s, of_roofline, *_ = rows[ranks.index(n_ranks)]
            if np.isfinite(most_s):
                print(f"{n_ranks} ranks: {total_s:.1f} s (wanted at most {most_s:g})")
            print(f"{n_ranks} ranks: {of_roofline:.3f} of the roofline (wanted {share:.2f})\n")
        seconds[scenario.name] = [float(str(row[3])) for row in rows]
        floors[scenario.name] = [roofline(scenario, costs, site, n)[0] for n in ranks]
    draw(args.out / "campaign.png", seconds, floors, ranks)
    return None


if __name__ == "__main__":
    main()
