"""What opening a snapshot, reading a region of a box, listing a box and mapping a galaxy cost in CPU, bytes and calls.

  python -m bench.reading                       this code alone
  python -m bench.reading --beside CHECKOUT     and another checkout of it, in turns in the same run

CPU is user and system time of one process. Bytes are those that a process reads (/proc/self/io). Calls are those that
name a path (strace %file), of two runs that differ by some galaxies, so that what a run costs once drops out; they are
left out where there is no strace.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench import common
from bench.common import environment, run_in

FORMATS = {"bursty": "Tipsy", "middle": "GIZMO", "quiet": "AREPO"}
#: Suites with a folder for each galaxy, of which some may be left out.
ZOOMS = {name: FORMATS[name] for name in ("bursty", "middle")}

#: Prints the CPU [ms] of opening each of some snapshots, the second time on: least and median.
OPENINGS = """
import json, sys, time
from kinmass.gen.snapshots.snapshot import Snapshot
from kinmass.gen.suite import load_suite
from pathlib import Path
suite = load_suite(Path(sys.argv[1]))
def opened(path):
    began = time.process_time()
    particles, units = (part.model_dump(exclude_none=True) for part in (suite.particles, suite.units))
    Snapshot(path, suite.format, particles, units, suite.tracers).close()
    return 1e3 * (time.process_time() - began)
paths = suite.snapshot_paths()
opened(paths[0])
times = sorted(opened(path) for _ in range(3) for path in paths)
print(json.dumps([times[0], times[len(times) // 2]]))
"""

#: Prints the CPU [ms] and the bytes [MB] of reading one galaxy of a box, the median, and of opening and indexing it.
REGION = """
import json, sys, time
from pathlib import Path
import numpy as np
from kinmass.gen.snapshots.snapshot import Snapshot
def bytes_read():
    return int(next(x for x in Path("/proc/self/io").read_text().splitlines() if x.startswith("rchar")).split()[1])
costs = []
began, bytes_before = time.process_time(), bytes_read()
with Snapshot(Path(sys.argv[1]), "gizmo", {"dark": ["PartType1"]}, indexes=Path(sys.argv[2])) as snapshot:
    opening = [1e3 * (time.process_time() - began), 1e-6 * (bytes_read() - bytes_before)]
    for number in range(int(sys.argv[3])):
        centre = 2500.0 * (np.array([number % 10, number // 10 % 10, number // 100]) + 0.5)
        began, bytes_before = time.process_time(), bytes_read()
        galaxy = snapshot.galaxy(centre, 150.0)
        costs.append([1e3 * (time.process_time() - began), 1e-6 * (bytes_read() - bytes_before)])
        assert sum(map(len, galaxy.components().values())) > 1000
print(json.dumps([*np.median(costs[1:], axis=0), *opening]))
"""

#: Writes into a box of galaxies, one after the other in the file, a table of SWIFT's that tells where each one lies.
TABLE = """
import sys
import h5py
import numpy as np
with h5py.File(sys.argv[1], "r+") as file:
    n, table = int(sys.argv[2]), file.create_group("Cells")
    table.create_group("Meta-data").attrs["size"] = 3 * [2500.0]
    for ptype in [key for key in file if key.startswith("PartType")]:
        pos = file[ptype]["Coordinates"][:].reshape(n, -1, 3)
        table["Files/" + ptype] = np.zeros(n, dtype=int)
        table["Counts/" + ptype] = np.full(n, pos.shape[1])
        table["OffsetsInFile/" + ptype] = np.arange(n) * pos.shape[1]
        table["MinPositions/" + ptype] = pos.min(axis=1).astype(float)
        table["MaxPositions/" + ptype] = pos.max(axis=1).astype(float)
"""

#: Writes a box's file anew as a snapshot of several files, each with a part of every type.
PARTS = """
import sys
from pathlib import Path
import h5py
import numpy as np
folder, n = Path(sys.argv[2]), int(sys.argv[3])
folder.mkdir()
with h5py.File(sys.argv[1]) as box:
    for i in range(n):
        with h5py.File(folder / f"box.{i}.hdf5", "w") as part:
            box.copy("Header", part)
            counts = np.zeros(6, dtype=int)
            for ptype in [key for key in box if key.startswith("PartType")]:
                for name, values in box[ptype].items():
                    part[f"{ptype}/{name}"] = np.array_split(values[:], n)[i]
                counts[int(ptype[-1])] = len(part[ptype]["Masses"])
            part["Header"].attrs["NumPart_ThisFile"], part["Header"].attrs["NumFilesPerSnapshot"] = counts, n
"""

#: Opens a snapshot.
OPEN = """
import sys
from pathlib import Path
from kinmass.gen.snapshots.snapshot import Snapshot
Snapshot(Path(sys.argv[1]), "gizmo", {"dark": ["PartType1"]}, indexes=Path(sys.argv[2])).close()
"""
FILES = 8

#: Prints the CPU [us] that one galaxy more of a box takes to be listed, planned and ordered, of two suites, few and
#: many galaxies; null where a checkout has other functions for it.
PLANS = """
import json, shutil, sys, time
from pathlib import Path
from kinmass.gen.campaign.record import Settings
from kinmass.gen.suite import load_suite
try:
    from kinmass.gen.campaign.maps import list_all, plan_all
    from kinmass.gen.campaign.schedule import schedule
except ImportError:
    print("null")
    sys.exit()
def planned(path):
    out = path.parent / "planned.zarr"
    shutil.rmtree(out, ignore_errors=True)
    suite, began = load_suite(path), time.process_time()
    tasks, _ = plan_all([suite], out, Settings(), repair=False, listings=list_all([suite], out))
    schedule(tasks, out)
    return time.process_time() - began, len(tasks)
(few_s, few), (many_s, many) = (min(planned(Path(path)) for _ in range(4)) for path in sys.argv[1:])
print(json.dumps(1e6 * (many_s - few_s) / (many - few)))
"""

#: Writes a box of many galaxies, each of which fills a part of the file of its own.
BOX = """
import sys
from pathlib import Path
import numpy as np
from kinmass.gen.formats.gadget import write
from kinmass.gen.mock.suites import make_galaxy
n_particles = [int(n) for n in sys.argv[3:]] or [20_000, 10_000, 20_000]
galaxy = make_galaxy("middle", 0, 1, *n_particles)[0]
places = [2500.0 * (np.array([i % 10, i // 10 % 10, i // 100]) + 0.5) for i in range(int(sys.argv[2]))]
write(Path(sys.argv[1]), [(galaxy, place, np.zeros(3)) for place in places], 25000.0, 1.0, 0.7, "gizmo", double=False)
"""


def calls_in(checkout: Path, scratch: Path, *arguments: object) -> list[str]:
    """Run Python as `run_in`, and return its calls that name a path. Raises SystemExit with what a failed run printed.

    A run that leaves galaxies out (3) has not failed.
    """
    log = scratch / "strace"
    command = ["strace", "-f", "-e", "trace=%file", "-o", str(log), sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=checkout, env=environment(checkout), capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return log.read_text(errors="replace").splitlines()


def write_table(folder: Path, snapshot: Path, n: int) -> Path:
    """Write a suite file whose table has n galaxies; its snapshot need not hold them, as only a plan is made."""
    folder.mkdir()
    rows = [f"{i},{i % 25000}.0,{i // 250}.0,5000.0,150" for i in range(n)]
    (folder / "centres.csv").write_text("\n".join(["id,x,y,z,r200", *rows]) + "\n")
    (folder / "table.yaml").write_text(
        f"name: table\nformat: gizmo\nroot: {snapshot.parent}\nsnapshots: {snapshot.name}\naperture: {{kpc: 100}}\n"
        f"catalogue: {{format: table, path: {folder / 'centres.csv'}}}\n"
    )
    return folder / "table.yaml"


def calls(checkout: Path, suite: Path, n: int, scratch: Path) -> tuple[int, int]:
    """Count the calls that name a path of the store, and of the archive, while n galaxies of a suite are mapped."""
    few, out = scratch / "few", scratch / "few.zarr"
    for folder in (few, out):
        shutil.rmtree(folder, ignore_errors=True)
    few.mkdir()
    kept = sorted(p for p in suite.parent.iterdir() if p.is_dir())[:n]
    for folder in kept:
        shutil.copytree(folder, few / folder.name)
    shutil.copy(suite, few / suite.name)
    lines = calls_in(checkout, scratch, "-m", "kinmass.gen", "maps", few / suite.name, "--out", out, "--views", 4)
    return sum(str(out) in line for line in lines), sum(f"{few}/" in line for line in lines)


def calls_to_open(checkout: Path, box: Path, scratch: Path, index: Path) -> list[float]:
    """Count the calls for each file of a box in several files while it is opened for the first and a second time."""
    parts = scratch / "parts"
    if not parts.exists():
        run_in(common.ROOT, "-c", PARTS, box, parts, FILES)
    opened = [calls_in(checkout, scratch, "-c", OPEN, parts / "box.0.hdf5", index) for _ in range(2)]
    return ["\n".join(lines).count(f"{parts}/") / FILES for lines in opened]


def rows_of_calls(
    checkouts: list[Path], suites: dict[str, Path], galaxies: int, box: Path, scratch: Path
) -> list[list[object]]:
    """Make the rows of calls per galaxy and per file."""
    rows, few = list[list[object]](), 4
    for name, what in ZOOMS.items():
        by_checkout = []
        for checkout in checkouts:
            first, second = (calls(checkout, suites[name], n, scratch) for n in (few, galaxies))
            by_checkout.append([(b - a) / (galaxies - few) for a, b in zip(first, second, strict=True)])
        for i, place in enumerate(("store", "archive")):
            rows.append([f"calls per galaxy, {what}, {place}", *_beside([c[i] for c in by_checkout]), ""])
        rows.append([f"calls per galaxy, {what}, both", *_beside([sum(c) for c in by_checkout]), 0.35])
    openings = [calls_to_open(c, box, scratch, scratch / f"parts{i}") for i, c in enumerate(checkouts)]
    for i, when in enumerate(("first", "second")):
        what = f"calls per file of a box in {FILES}, {when} opening"
        rows.append([what, *_beside([o[i] for o in openings]), ""])
    return rows


def main() -> None:
    """Measure this code, and another checkout in turns, and print."""
    parser = common.parser(__doc__)
    parser.add_argument("--beside", type=Path, help="another checkout of this project")
    parser.add_argument("--galaxies", type=int, default=12, help="snapshots of each format (default: %(default)s)")
    parser.add_argument(
        "--box", type=int, default=60, help="galaxies of 50,000 particles in the box (default: %(default)s)"
    )
    args = parser.parse_args()
    checkouts = common.checkouts(args.beside)
    with common.scratch_folder(args.out) as scratch:
        box = scratch / "box.hdf5"
        common.run("kinmass.gen", "mock", "--out", scratch / "mocks", "--galaxies", args.galaxies)
        suites = {name: scratch / "mocks" / name / f"{name}.yaml" for name in FORMATS}
        rows: list[list[object]] = []
        for name, what in FORMATS.items():
            measured = [json.loads(run_in(c, "-c", OPENINGS, suites[name]))[1] for c in checkouts.values()]
            rows.append([f"opening, {what} [CPU ms]", *_beside(measured), 0.4])
        run_in(common.ROOT, "-c", BOX, box, args.box)

        def read_box(index: str, wanted: dict[str, object]) -> None:
            """Add what a galaxy of the box and the opening of the box cost, in `REGION`'s order."""
            costs = [
                json.loads(run_in(c, "-c", REGION, box, scratch / f"{index}{i}", args.box))
                for i, c in enumerate(checkouts.values())
            ]
            rows.extend(
                [what, *_beside([c[i] for c in costs]), ratio] for i, (what, ratio) in enumerate(wanted.items())
            )

        read_box("index", {
            "a galaxy of a box [CPU ms]": 0.4, "a galaxy of a box [MB read]": 0.55,
            "opening and indexing the box [CPU ms]": "", "opening and indexing the box [MB read]": "",
        })  # fmt: skip
        run_in(common.ROOT, "-c", TABLE, box, args.box)
        read_box("told", {
            "the same box with a table of cells: a galaxy of it [CPU ms]": "", "a galaxy of it [MB read]": "",
            "opening and indexing it [CPU ms]": "", "opening and indexing it [MB read]": "",
        })  # fmt: skip
        tables = [write_table(scratch / f"table{n}", box, n) for n in (5_000, 45_000)]
        planning = [json.loads(run_in(checkout, "-c", PLANS, *tables)) for checkout in checkouts.values()]
        if None not in planning:
            rows.append(["listing, planning and ordering a galaxy of a box [CPU us]", *_beside(planning), ""])
        if shutil.which("strace"):
            rows += rows_of_calls([*checkouts.values()], suites, args.galaxies, box, scratch)
        else:
            print("no strace: calls are not counted")
    common.table(["", *checkouts, *(["ratio"] if args.beside else []), "wanted ratio"], rows)


def _beside(measured: list[float]) -> list[object]:
    return [*measured, *([measured[0] / measured[1]] if len(measured) > 1 else [])]


if __name__ == "__main__":
    main()
