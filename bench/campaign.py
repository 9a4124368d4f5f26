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

#: Where rank-time goes, in the order of `simulate`'s result; all but the first are losses.
PARTS = ("work", "manager", "readers' cap", "bandwidth", "metadata", "last galaxies")
ASKED, SERVED, QUEUED, GRANTED, FREED, PARSED, PROJECTED, TRANSFER, WRITTEN = range(9)


@dataclass(frozen=True)
class Site:
    """What all ranks share. Times in seconds, bandwidths in bytes per second, metadata in operations per second."""

    manager_s: float = 1e-3  # the manager's time per request
    answer_s: float = 8e-3  # from asking to the answer while rank 0 projects
    readers: int = 32
    bandwidth: float = 50e9
    stream: float = 1.5e9  # one reader's at most
    latency_s: float = 5e-3
    metadata: float = 20e3


@dataclass(frozen=True)
class Costs:
    """One core's seconds: per galaxy to open and to write, per particle to parse and to project (all its views)."""

    open_s: float = 0.12
    parse_s: float = 4e-7
    project_s: float = 2e-7
    write_s: float = 0.026


@dataclass(frozen=True)
class Scenario:
    """A set of galaxies: particles per galaxy, bytes read for each of them, and what the store makes of it."""

    name: str
    median_particles: float
    read_factor: float  # particles that must be read per particle of the galaxy
    readers: int
    opens: float = 4  # metadata operations per snapshot read
    files: float = 10  # and per galaxy written
    galaxies: int = 100_000


SCENARIOS = [
    Scenario("box, 32 readers", 2e4, 4, 32),
    Scenario("box, packed store, 512 readers", 2e4, 4, 512, files=12 / 64),
    Scenario("zooms of several GB", 2e6, 20, 512),
]
BYTES_PER_PARTICLE = 64  # position, velocity, mass, support or density, as archives store them
BYTES_WRITTEN = 4 * 8 * 32 * 32 * 4  # four views of eight channels of 32 x 32 pixels


@njit(cache=True)
def simulate(read_bytes, parse_s, project_s, opens, files, write_s, write_bytes, ranks, site):  # type: ignore[no-untyped-def]
    """(makespan [s], rank-seconds (6,) as PARTS, busy fractions (4,): manager, readers, bandwidth, metadata)."""
    manager_s, answer_s, readers, bandwidth, stream, latency_s, metadata = site
    n = read_bytes.size
    galaxy = np.full(ranks, -1)
    since = np.zeros(ranks)
    writing = np.zeros(ranks, dtype=np.bool_)
    spent, end = np.zeros(6), np.zeros(ranks)
    queue, head = [0 for _ in range(0)], 0  # ranks that wait for a reader's slot
    events = [(0.0, r, ASKED) for r in range(ranks)]
    moving = [(0.0, 0) for _ in range(0)]  # (served bytes at which it is through, rank)
    served, now, following, free = 0.0, 0.0, 0, readers
    manager_free = manager_busy = metadata_free = metadata_busy = slots_busy = moved = 0.0
    while len(events) > 0 or len(moving) > 0:
        rate = min(stream, bandwidth / max(len(moving), 1))
        through = now + max(moving[0][0] - served, 0.0) / rate if len(moving) > 0 else np.inf
        if len(events) == 0 or through <= events[0][0]:
            served, now = moving[0][0], through
            _, r = heapq.heappop(moving)
            size = write_bytes if writing[r] else read_bytes[galaxy[r]]
            spent[0] += size / min(stream, bandwidth)
            spent[3] += now - since[r] - size / min(stream, bandwidth)
            moved += size
            extra = write_s if writing[r] else parse_s[galaxy[r]]
            spent[0] += extra
            heapq.heappush(events, (now + extra, r, WRITTEN if writing[r] else PARSED))
            continue
        then, r, kind = heapq.heappop(events)
        served += (then - now) * rate if len(moving) > 0 else 0.0
        now = then
        if kind == WRITTEN:
            end[r] = now
            kind = ASKED
        if kind == ASKED:
            manager_free = max(manager_free, now) + manager_s
            manager_busy += manager_s
            since[r] = now
            heapq.heappush(events, (manager_free + answer_s, r, SERVED))
        elif kind == SERVED:
            if following == n:
                continue
            galaxy[r] = following
            following += 1
            manager_free = max(manager_free, now) + manager_s
            manager_busy += manager_s
            heapq.heappush(events, (manager_free, r, QUEUED))
        elif kind == QUEUED:
            spent[1] += now - since[r] + answer_s
            since[r] = now
            queue.append(r)
        elif kind == GRANTED:
            writing[r] = False
            spent[4] += max(metadata_free, now) - now
            metadata_free = max(metadata_free, now) + opens / metadata
            metadata_busy += opens / metadata
            spent[0] += opens / metadata + latency_s
            heapq.heappush(events, (metadata_free + latency_s, r, TRANSFER))
        elif kind == TRANSFER:
            since[r] = now
            heapq.heappush(moving, (served + (write_bytes if writing[r] else read_bytes[galaxy[r]]), r))
        elif kind == FREED:
            free += 1
            slots_busy += now
        elif kind == PARSED:
            manager_free = max(manager_free, now) + manager_s
            manager_busy += manager_s
            heapq.heappush(events, (manager_free, r, FREED))
            spent[0] += project_s[galaxy[r]]
            heapq.heappush(events, (now + project_s[galaxy[r]], r, PROJECTED))
        elif kind == PROJECTED:
            writing[r] = True
            spent[4] += max(metadata_free, now) - now
            metadata_free = max(metadata_free, now) + files / metadata
            metadata_busy += files / metadata
            spent[0] += files / metadata + latency_s
            heapq.heappush(events, (metadata_free + latency_s, r, TRANSFER))
        while free > 0 and head < len(queue):
            w = queue[head]
            head += 1
            free -= 1
            slots_busy -= now
            spent[2] += now - since[w]
            heapq.heappush(events, (now + answer_s, w, GRANTED))
    last = end.max()
    spent[5] = np.sum(last - end)
    return last, spent, np.array([manager_busy, slots_busy / readers, moved / bandwidth, metadata_busy]) / now


def galaxies(scenario: Scenario, costs: Costs, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bytes to read, seconds to open and parse, seconds to project) of each galaxy, largest first."""
    rng = np.random.default_rng(seed)
    n = np.sort(scenario.median_particles * 10 ** (0.5 * np.clip(rng.standard_normal(scenario.galaxies), -2, 2)))[::-1]
    read = n * scenario.read_factor
    # Without scatter, ranks that began together would read in step for ever.
    parse, project = 10 ** rng.normal(0, 0.1, (2, scenario.galaxies))
    return read * BYTES_PER_PARTICLE, parse * (costs.open_s + costs.parse_s * read), project * costs.project_s * n


def campaign(scenario: Scenario, costs: Costs, site: Site, ranks: int) -> tuple[float, np.ndarray, np.ndarray]:
    """`simulate` for a scenario at a site."""
    read, parse, project = galaxies(scenario, costs)
    shared = tuple(float(v) for v in vars(site).values())
    return simulate(read, parse, project, scenario.opens, scenario.files, costs.write_s, BYTES_WRITTEN, ranks, shared)


def check_laws(costs: Costs) -> None:
    """Raise SystemExit naming the law that the simulation breaks."""
    small = replace(SCENARIOS[0], galaxies=3000)
    read, parse, project = galaxies(small, costs)
    site = Site(manager_s=0, answer_s=0)
    fixed = (small.opens + small.files) / site.metadata + 2 * site.latency_s + costs.write_s
    cost = (read + BYTES_WRITTEN) / site.stream + parse + project + fixed
    endless = replace(site, readers=1000, bandwidth=1e30, metadata=1e30)
    cost_endless = cost - (small.opens + small.files) / site.metadata
    greedy = [0.0] * 100
    for seconds in cost_endless:
        heapq.heapreplace(greedy, greedy[0] + seconds)
    alone, spent, _ = campaign(small, costs, site, 1)
    crowd, parts, busy = campaign(small, costs, replace(Site(), bandwidth=2e9, metadata=500), 300)
    slower = len(read) * (small.opens + small.files) * (1 / 500 - 1 / site.metadata)
    listed, _, _ = campaign(small, costs, endless, 100)
    same = np.full(40, 1e9), np.zeros(40), np.zeros(40)
    together = simulate(*same, 0.0, 0.0, 0.0, 0.0, 40, (0.0, 0.0, 1000.0, 10e9, 1e9, 0.0, 1e30))[0]
    laws = {
        "40 equal transfers at once take their bytes over the bandwidth": np.isclose(together, 4.0, rtol=1e-9),
        "one rank takes the sum of all costs": np.isclose(alone, cost.sum(), rtol=1e-9),
        "one rank alone waits for nobody": spent[1:].sum() < 1e-6 * alone,
        "rank-time is work and waits": np.isclose(parts.sum(), 300 * crowd, rtol=1e-9),
        "work does not depend on the ranks": np.isclose(parts[0], cost.sum() + slower, rtol=1e-9),
        "nothing is busier than all the time": bool(np.all(busy <= 1 + 1e-9)) and bool(np.all(parts > -1e-6)),
        "unlimited resources give list scheduling": np.isclose(listed, max(greedy), rtol=1e-9),
    }  # fmt: skip
    if broken := [law for law, holds in laws.items() if not holds]:
        raise SystemExit(f"the simulation breaks a law: {'; '.join(broken)}")
    print(f"laws hold: {'; '.join(laws)}\n")


def measure_manager() -> None:
    """On 2 ranks: print the manager's seconds per request when flooded, then from asking to the answer with
    rank 0 idle and with rank 0 projecting (a kernel that keeps Python's lock keeps the manager waiting).
    """
    galaxy, turns = common.disc_galaxy(100_000, 30_000), sightlines(0, "bench", 4)
    comm, results = MPI.COMM_WORLD, []
    for way, requests, at_once in (("flooded", 2000, 2000), ("idle", 200, 1), ("projecting", 200, 1)):
        if comm.Get_rank() == 0:
            todo = range(requests)
            queue = parallel.Queue(list(todo))
            manager = Thread(target=parallel._manage, args=(comm, 2, todo, queue, lambda item, result: None, 2))
            manager.start()
            while not comm.iprobe(source=1, tag=99):
                if way == "projecting":
                    views(galaxy, turns, np.full(4, 15.0), 32)
                else:
                    time.sleep(0.01)
            comm.recv(source=1, tag=99)
        else:
            began = time.perf_counter()
            for _ in range(requests // at_once):
                sent = [comm.isend((parallel._NEXT, (0, "")), dest=0, tag=parallel._REQUEST) for _ in range(at_once)]
                for _ in range(at_once):
                    if way == "flooded":  # without the millisecond's sleep of share_out
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
        comm.Barrier()  # or this manager would meet the next round's requests
    if comm.Get_rank() == 1:
        print(*results, flush=True)


def measured(site: Site, out: str) -> tuple[Costs, Site]:
    """Costs and the manager's times on this machine: bench.ranks on 30 mocks, and a real manager on 2 ranks."""
    service, idle, busy = map(float, common.run("bench.campaign", "--manager", ranks=2).split())
    print(f"from asking to the answer: {1e3 * idle:.2f} ms with rank 0 idle, {1e3 * busy:.2f} ms while it projects")
    text = common.run("bench.ranks", "--galaxies", 30, "--repeats", 1, "--out", out)
    stage = {m[1]: float(m[2]) / 1e3 for m in re.finditer(r"^(\w+) +([\d.e+-]+) +\d+ %", text, re.MULTILINE)}
    mean = 350_000 / 3  # particles of a galaxy of bench.ranks
    costs = Costs(
        stage["opening"] + stage["rest"], (stage["reading"] + stage["centring"]) / mean, stage["projecting"] / mean,
        stage["writing"],
    )  # fmt: skip
    return costs, replace(site, manager_s=service, answer_s=busy)


def main() -> None:
    """Simulate, print, draw."""
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
        here = replace(site, readers=args.readers or scenario.readers)
        rows: list[list[object]] = []
        for p in ranks:
            seconds, spent, busy = campaign(scenario, costs, here, p)
            efficiency = spent[0] / (p * seconds)
            worst = int(np.argmax(spent[1:])) + 1
            limit = f"{PARTS[worst]} ({100 * spent[worst] / (p * seconds):.0f} %)" if efficiency < 0.95 else ""
            rows.append([p, seconds / 3600, float(efficiency), *[f"{100 * b:.1f}" for b in busy], limit])
        print(f"{scenario.name}: {scenario.galaxies} galaxies, {here.readers} readers")
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
