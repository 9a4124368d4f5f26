"""A campaign of 100,000 galaxies on 16 to 4096 ranks, simulated event by event from costs that are measured first.

As in gen.campaign: ranks start, share the listing out and the search for where the particles of a box lie, and take
galaxies, or shards of any of them, costliest first, which `bench.events` simulates. Sizes are lognormal, 0.5 dex and
cut at 2 sigma, about 20,000 particles in a cosmological box (some 1e10 Msun at 1e6 Msun each) or 2e6 in zooms; costs,
which `bench.costs` measures, scatter by 0.1 dex.

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
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from bench import common
from bench.costs import Costs, loaded_s, measured
from bench.events import BYTES_WRITTEN, PARTS, WORK, Site, Work, simulate
from kinmass.gen.campaign.dealing import deal
from kinmass.gen.campaign.foretell import Load
from kinmass.gen.formats.frontends import SMALLEST_BLOCK

HEADS = ["ranks", "before [s]", "mapping [s]", "all [s]", "of roofline", "its limit", "work / time", "lost most to"]
RANKS_PER_NODE = 64


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
    queue_ends = np.cumsum([len(items) for items in by_node])
    work = Work(
        read_bytes, open_s, hold_s, work_s, ends, np.concatenate(by_node), queue_ends, places,
        opens=scenario.opens, files=scenario.files, write_s=costs.write_s, first_s=costs.yt_s * (ranks > 1),
    )  # fmt: skip
    mapping_s, spent = simulate(work, ranks, site.limits)
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
    equal = Work(np.full(40, 1e9), zeros, zeros, zeros, order + 1, order, np.array([40]), np.array([1000]))
    equal_s, _ = simulate(equal, 40, (10e9, 1e9, 0.0, 1e30))
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
        load = Load(**json.loads(common.run("bench.costs", "--probe", suite, scratch, ranks=ranks).splitlines()[-1]))
        noted = []
        for attempt in range(3):
            out = scratch / f"run{ranks}-{attempt}.zarr"
            common.run("kinmass.gen", "maps", suite, "--out", out, "--views", 4, ranks=ranks)
            noted.append(json.loads(next((out / ".timing").iterdir()).read_text())["phases_s"]["mapping"])
            shutil.rmtree(out)
        work_s, zeros = np.full(n, load.galaxy_s - load.write_s + load.open_s), np.zeros(n)
        work = Work(
            zeros, zeros, zeros, work_s, np.arange(1, n + 1), np.arange(n), np.array([n]), np.array([128]),
            write_s=load.write_s, first_s=yt_s * (ranks > 1),
        )  # fmt: skip
        mapping_s, _ = simulate(work, ranks, (1e12, 1e12, 0.0, 1e12))
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
    parser.add_argument("--compare", action="store_true", help="compare runs on one and two ranks alone, and end")
    args = parser.parse_args()
    site = Site(**{field.name: getattr(args, field.name) for field in fields(Site)})
    costs = Costs(**{field.name: getattr(args, field.name) for field in fields(Costs)})
    with common.scratch_folder(args.out) as scratch:
        if args.compare:
            return compare_with_a_run(scratch)
        if args.measure:
            costs = measured(scratch)
        print("  ".join(f"{k} = {v:.3g}" for k, v in (vars(costs) | vars(site)).items()))
        check_laws(costs)
        if args.measure:
            compare_with_a_run(scratch)
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
