"""What a galaxy of a campaign costs a core of this machine, for `bench.campaign`.

python -m bench.costs   measures it and prints it (three minutes)
"""

import json
import pickle
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np

from bench import common
from bench.common import run_in
from bench.reading import BOX, write_table
from kinmass.gen.campaign import parallel
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
        blocks = joined([pickle.loads(part) for part in sent])
        kept.keep_blocks(blocks, FORMATS["gizmo"].beside(blocks.extents(), []))

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
    return float(common.run("bench.costs", "--takes", n, ranks=2).split()[0])


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


def main() -> None:
    """Measure all costs and print them."""
    parser = common.parser(__doc__)
    parser.add_argument("--takes", type=int, help="(internal) the counter's time, on 2 ranks")
    parser.add_argument("--probe", type=Path, nargs=2, help="(internal) suite and folder, on so many ranks at once")
    args = parser.parse_args()
    if args.takes:
        return time_takes(args.takes)
    if args.probe:
        return probe_together(*args.probe)
    with common.scratch_folder(args.out) as scratch:
        print("  ".join(f"{name} = {value:.3g}" for name, value in vars(measured(scratch)).items()))
    return None


if __name__ == "__main__":
    main()
