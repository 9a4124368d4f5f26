"""A campaign of 100,000 galaxies on 16 to 4096 ranks, simulated event by event.

As in gen.campaign.parallel, one manager (a thread of rank 0) hands the next galaxy, largest first, to each
rank that asks. A rank then asks the manager for one of R reader slots, opens the snapshot on the
metadata server, reads it at the file system's bandwidth (shared evenly among all transfers), parses
it and gives the slot back to the manager; projects; creates its files on the metadata server and writes them.

Costs per galaxy and particle default to those measured with bench.ranks on one core; --measure
takes them, and the manager's time per request, on this machine now. Sizes are lognormal, 0.5 dex
and cut at 2 sigma, about 20,000 particles in a cosmological box (some 1e10 Msun at 1e6 Msun each)
or 2e6 in zooms; costs scatter by 0.1 dex. Laws are checked first: one rank takes the sum of all
costs; rank-time splits into work and waits without remainder; unlimited resources give greedy
list scheduling.
"""

import heapq
import re
import time
from dataclasses import dataclass, replace
from threading import Thread

import numpy as np
from mpi4py import MPI
from numba import njit

from bench import common
from kinmass.gen.campaign import parallel
from kinmass.gen.physics.projection import views
from kinmass.gen.physics.sightline import sightlines

#: What the ranks spend their time on, in the order of `simulate`'s result; all but the first are losses.
PARTS = ("work", "manager", "readers' cap", "bandwidth", "metadata", "last galaxies")
WORK, MANAGER, READERS_CAP, BANDWIDTH, METADATA, LAST_GALAXIES = range(6)
#: Kinds of events.
ASKED, SERVED, QUEUED, GRANTED, FREED, PARSED, PROJECTED, TRANSFER, WRITTEN = range(9)


@dataclass(frozen=True)
class Site:
    """Resources that all ranks share: times [s], bandwidths [bytes/s], metadata [operations/s]."""

    manager_s: float = 1e-3  # the manager's time per request
    answer_s: float = 8e-3  # from asking to the answer while rank 0 projects
    readers: int = 32
    bandwidth: float = 50e9
    stream: float = 1.5e9  # bandwidth of one reader at most
    latency_s: float = 5e-3
    metadata: float = 20e3


@dataclass(frozen=True)
class Costs:
    """Seconds of one core: to open and to write a galaxy, to parse and to project (in all views) a particle."""

    open_s: float = 0.12
    parse_s: float = 4e-7
    project_s: float = 2e-7
    write_s: float = 0.026


@dataclass(frozen=True)
class Scenario:
    """A set of galaxies: their particles, how much must be read for them, and how many files the store gets."""

    name: str
    median_particles: float
    read_factor: float  # particles that must be read per particle of the galaxy
    readers: int
    opens: float = 4  # metadata operations per snapshot read
    files: float = 10  # metadata operations per galaxy written
    galaxies: int = 100_000


SCENARIOS = [
    Scenario("box, 32 readers", 2e4, 4, 32),
    Scenario("box, packed store, 512 readers", 2e4, 4, 512, files=12 / 64),
    Scenario("zooms of several GB", 2e6, 20, 512),
]
BYTES_PER_PARTICLE = 64  # position, velocity, mass, support or density, as archives store them
BYTES_WRITTEN = 4 * 8 * 32 * 32 * 4  # four views of eight channels of 32 x 32 pixels


@njit(cache=True)
def _occupy(free_at, busy, server, now, seconds):  # type: ignore[no-untyped-def]
    """Let a server, which does one thing at a time, work for some seconds as soon as it is free: the time it ends."""
    free_at[server] = max(free_at[server], now) + seconds
    busy[server] += seconds
    return free_at[server]


@njit(cache=True)
def simulate(read_bytes, parse_s, project_s, opens, files, write_s, write_bytes, ranks, site):  # type: ignore[no-untyped-def]
    """Simulate a campaign event by event.

    read_bytes, parse_s, project_s (N,): of each galaxy, in the order in which galaxies are handed out. opens, files:
    metadata operations per galaxy read and written. site: the values of a `Site`. Returns the makespan [s],
    rank-seconds (6,) in the order of PARTS, and busy fractions (4,) of manager, readers' slots, bandwidth and metadata
    server.
    """
    manager_s, answer_s, readers, bandwidth, stream, latency_s, metadata = site
    n_galaxies = read_bytes.size
    galaxy = np.full(ranks, -1)
    wait_start = np.zeros(ranks)
    writing = np.zeros(ranks, dtype=np.bool_)
    spent, end_time = np.zeros(6), np.zeros(ranks)
    queue, queue_head = [0 for _ in range(0)], 0  # ranks that wait for a reader's slot
    events = [(0.0, r, ASKED) for r in range(ranks)]
    transfers = [(0.0, 0) for _ in range(0)]  # (served bytes at which the transfer ends, rank)
    served, now, next_galaxy, free_slots = 0.0, 0.0, 0, readers
    free_at, busy = np.zeros(6), np.zeros(6)  # of the manager and of the metadata server, at their places in PARTS
    slots_busy = moved_bytes = 0.0
    while len(events) > 0 or len(transfers) > 0:
        rate = min(stream, bandwidth / max(len(transfers), 1))
        transfer_end = now + max(transfers[0][0] - served, 0.0) / rate if len(transfers) > 0 else np.inf
        if len(events) == 0 or transfer_end <= events[0][0]:
            served, now = transfers[0][0], transfer_end
            _, r = heapq.heappop(transfers)
            size = write_bytes if writing[r] else read_bytes[galaxy[r]]
            spent[WORK] += size / min(stream, bandwidth)
            spent[BANDWIDTH] += now - wait_start[r] - size / min(stream, bandwidth)
            moved_bytes += size
            computing_s = write_s if writing[r] else parse_s[galaxy[r]]
            spent[WORK] += computing_s
            heapq.heappush(events, (now + computing_s, r, WRITTEN if writing[r] else PARSED))
            continue
        event_time, r, kind = heapq.heappop(events)
        served += (event_time - now) * rate if len(transfers) > 0 else 0.0
        now = event_time
        if kind == WRITTEN:
            end_time[r] = now
            kind = ASKED
        if kind == ASKED:
            wait_start[r] = now
            heapq.heappush(events, (_occupy(free_at, busy, MANAGER, now, manager_s) + answer_s, r, SERVED))
        elif kind == SERVED:
            if next_galaxy == n_galaxies:
                continue
            galaxy[r] = next_galaxy
            next_galaxy += 1
            heapq.heappush(events, (_occupy(free_at, busy, MANAGER, now, manager_s), r, QUEUED))
        elif kind == QUEUED:
            spent[MANAGER] += now - wait_start[r] + answer_s
            wait_start[r] = now
            queue.append(r)
        elif kind in (GRANTED, PROJECTED):
            writing[r] = kind == PROJECTED
            metadata_s = (files if writing[r] else opens) / metadata
            spent[METADATA] += max(free_at[METADATA], now) - now
            spent[WORK] += metadata_s + latency_s
            heapq.heappush(events, (_occupy(free_at, busy, METADATA, now, metadata_s) + latency_s, r, TRANSFER))
        elif kind == TRANSFER:
            wait_start[r] = now
            heapq.heappush(transfers, (served + (write_bytes if writing[r] else read_bytes[galaxy[r]]), r))
        elif kind == FREED:
            free_slots += 1
            slots_busy += now
        elif kind == PARSED:
            heapq.heappush(events, (_occupy(free_at, busy, MANAGER, now, manager_s), r, FREED))
            spent[WORK] += project_s[galaxy[r]]
            heapq.heappush(events, (now + project_s[galaxy[r]], r, PROJECTED))
        while free_slots > 0 and queue_head < len(queue):
            waiting = queue[queue_head]
            queue_head += 1
            free_slots -= 1
            slots_busy -= now
            spent[READERS_CAP] += now - wait_start[waiting]
            heapq.heappush(events, (now + answer_s, waiting, GRANTED))
    makespan = end_time.max()
    spent[LAST_GALAXIES] = np.sum(makespan - end_time)
    shares = np.array([busy[MANAGER], slots_busy / readers, moved_bytes / bandwidth, busy[METADATA]])
    return makespan, spent, shares / now


def galaxies(scenario: Scenario, costs: Costs, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes to read, seconds to open and parse, and seconds to project each galaxy, largest first."""
    rng = np.random.default_rng(seed)
    particles = np.sort(
        scenario.median_particles * 10 ** (0.5 * np.clip(rng.standard_normal(scenario.galaxies), -2, 2))
    )[::-1]
    particles_read = particles * scenario.read_factor
    # Without scatter, ranks that start together would read at the same moments all the time.
    parse_scatter, project_scatter = 10 ** rng.normal(0, 0.1, (2, scenario.galaxies))
    return (
        particles_read * BYTES_PER_PARTICLE,
        parse_scatter * (costs.open_s + costs.parse_s * particles_read),
        project_scatter * costs.project_s * particles,
    )


def campaign(scenario: Scenario, costs: Costs, site: Site, ranks: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Run `simulate` for a scenario at a site."""
    read_bytes, parse_s, project_s = galaxies(scenario, costs)
    site_values = tuple(float(value) for value in vars(site).values())
    return simulate(
        read_bytes, parse_s, project_s, scenario.opens, scenario.files, costs.write_s, BYTES_WRITTEN, ranks, site_values
    )


def check_laws(costs: Costs) -> None:
    """Check the laws that the simulation must keep. Raises SystemExit, which names those that it breaks."""
    small = replace(SCENARIOS[0], galaxies=3000)
    read_bytes, parse_s, project_s = galaxies(small, costs)
    site = Site(manager_s=0, answer_s=0)
    fixed_s = (small.opens + small.files) / site.metadata + 2 * site.latency_s + costs.write_s
    cost_s = (read_bytes + BYTES_WRITTEN) / site.stream + parse_s + project_s + fixed_s
    unlimited = replace(site, readers=1000, bandwidth=1e30, metadata=1e30)
    endless_cost_s = cost_s - (small.opens + small.files) / site.metadata
    rank_ends = [0.0] * 100
    for seconds in endless_cost_s:
        heapq.heapreplace(rank_ends, rank_ends[0] + seconds)
    one_s, spent_by_one, _ = campaign(small, costs, site, 1)
    many_s, spent_by_many, busy = campaign(small, costs, replace(Site(), bandwidth=2e9, metadata=500), 300)
    extra_metadata_s = len(read_bytes) * (small.opens + small.files) * (1 / 500 - 1 / site.metadata)
    endless_s, _, _ = campaign(small, costs, unlimited, 100)
    equal_galaxies = np.full(40, 1e9), np.zeros(40), np.zeros(40)
    equal_s = simulate(*equal_galaxies, 0.0, 0.0, 0.0, 0.0, 40, (0.0, 0.0, 1000.0, 10e9, 1e9, 0.0, 1e30))[0]
    laws = {
        "40 equal transfers at once take their bytes over the bandwidth": np.isclose(equal_s, 4.0, rtol=1e-9),
        "one rank takes the sum of all costs": np.isclose(one_s, cost_s.sum(), rtol=1e-9),
        "one rank alone waits for nobody": spent_by_one[1:].sum() < 1e-6 * one_s,
        "rank-time is work and waits": np.isclose(spent_by_many.sum(), 300 * many_s, rtol=1e-9),
        "work does not depend on the ranks": np.isclose(spent_by_many[0], cost_s.sum() + extra_metadata_s, rtol=1e-9),
        "nothing is busier than all the time": bool(np.all(busy <= 1 + 1e-9)) and bool(np.all(spent_by_many > -1e-6)),
        "unlimited resources give list scheduling": np.isclose(endless_s, max(rank_ends), rtol=1e-9),
    }  # fmt: skip
    if broken := [law for law, holds in laws.items() if not holds]:
        raise SystemExit(f"the simulation breaks a law: {'; '.join(broken)}")
    print(f"laws hold: {'; '.join(laws)}\n")


def measure_manager() -> None:
    """Print three times of the manager [s], on 2 ranks: per request when flooded, and from request to answer.

    The answer is timed with rank 0 idle and with rank 0 projecting, where a kernel that held Python's lock would keep
    the manager waiting.
    """
    galaxy, turns = common.disc_galaxy(100_000, 30_000), sightlines(0, "bench", 4)
    comm, results = MPI.COMM_WORLD, []
    for mode, requests, at_once in (("flooded", 2000, 2000), ("idle", 200, 1), ("projecting", 200, 1)):
        if comm.Get_rank() == 0:
            todo = range(requests)
            queue = parallel.Queue(list(todo))
            manager = Thread(target=parallel._manage, args=(comm, 2, todo, queue, lambda item, result: None, 2))
            manager.start()
            while not comm.iprobe(source=1, tag=99):
                if mode == "projecting":
                    views(galaxy, turns, np.full(4, 15.0), 32)
                else:
                    time.sleep(0.01)
            comm.recv(source=1, tag=99)
        else:
            began = time.perf_counter()
            for _ in range(requests // at_once):
                sent = [comm.isend((parallel._NEXT, (0, "")), dest=0, tag=parallel._REQUEST) for _ in range(at_once)]
                for _ in range(at_once):
                    if mode == "flooded":  # without the millisecond's sleep of share_out
                        comm.recv(source=0, tag=parallel._ANSWER)
                    else:
                        parallel._receive(comm, 0, parallel._ANSWER)
                MPI.Request.waitall(sent)
            results.append((time.perf_counter() - began) / requests)
            comm.send(None, dest=0, tag=99)
        comm.send((parallel._NEXT, None), dest=0, tag=parallel._REQUEST)
        assert comm.recv(source=0, tag=parallel._ANSWER) is None
        if comm.Get_rank() == 0:
            manager.join()
        comm.Barrier()  # without it this manager would get requests of the next round
    if comm.Get_rank() == 1:
        print(*results, flush=True)


def measured(site: Site, out: str) -> tuple[Costs, Site]:
    """Measure the costs, with bench.ranks on 30 mocks, and the manager's times, on 2 ranks, on this machine."""
    service_s, idle_s, busy_s = map(float, common.run("bench.campaign", "--manager", ranks=2).split())
    print(f"from asking to the answer: {1e3 * idle_s:.2f} ms with rank 0 idle, {1e3 * busy_s:.2f} ms while it projects")
    report = common.run("bench.ranks", "--galaxies", 30, "--repeats", 1, "--out", out)
    stage = {row[1]: float(row[2]) / 1e3 for row in re.finditer(r"^(\w+) +([\d.e+-]+) +\d+ %", report, re.MULTILINE)}
    particles = 350_000 / 3  # mean of a galaxy of bench.ranks
    costs = Costs(
        stage["opening"] + stage["rest"], (stage["reading"] + stage["centring"]) / particles,
        stage["projecting"] / particles, stage["writing"],
    )  # fmt: skip
    return costs, replace(site, manager_s=service_s, answer_s=busy_s)


def main() -> None:
    """Simulate all scenarios, print their tables and draw the efficiencies."""
    parser = common.parser(__doc__)
    parser.add_argument("--measure", action="store_true", help="take the costs on this machine first (a minute)")
    for key, value in (vars(Site()) | vars(Costs())).items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=type(value), default=None if key == "readers" else value)
    parser.add_argument("--manager", action="store_true", help="(internal) the manager's times, on 2 ranks")
    args = parser.parse_args()
    if args.manager:
        return measure_manager()
    site = Site(**{k: getattr(args, k) for k in vars(Site()) if k != "readers"})
    costs = Costs(**{k: getattr(args, k) for k in vars(Costs())})
    args.out.mkdir(parents=True, exist_ok=True)
    if args.measure:
        costs, site = measured(site, str(args.out))
    print("  ".join(f"{k} = {v:.3g}" for k, v in (vars(costs) | vars(site)).items() if k != "readers"))
    check_laws(costs)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6, 4), constrained_layout=True)
    ranks = [2**k for k in range(4, 13)]
    for scenario in SCENARIOS:
        scenario_site = replace(site, readers=args.readers or scenario.readers)
        rows: list[list[object]] = []
        for n_ranks in ranks:
            seconds, spent, busy = campaign(scenario, costs, scenario_site, n_ranks)
            efficiency = spent[WORK] / (n_ranks * seconds)
            worst_part = int(np.argmax(spent[1:])) + 1
            limit = (
                f"{PARTS[worst_part]} ({100 * spent[worst_part] / (n_ranks * seconds):.0f} %)"
                if efficiency < 0.95
                else ""
            )
            rows.append([n_ranks, seconds / 3600, float(efficiency), *[f"{100 * b:.1f}" for b in busy], limit])
        print(f"{scenario.name}: {scenario.galaxies} galaxies, {scenario_site.readers} readers")
        common.table(
            ["ranks", "hours", "efficiency", "manager %", "readers %", "bandwidth %", "metadata %", "lost most to"],
            rows,
        )
        ax.semilogx(ranks, [row[2] for row in rows], "o-", base=2, label=scenario.name)
    ax.set(xlabel="ranks", ylabel="work / rank-time", ylim=(0, 1.05))
    ax.legend()
    fig.savefig(args.out / "campaign.png", dpi=120)
    print(args.out / "campaign.png")


if __name__ == "__main__":
    main()
