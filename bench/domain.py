"""How often a box is read for its galaxies: bytes of all galaxies over those of its fields, each read once.

Both what the ranks ask the file system for, and what it takes from the disk: a node's ranks share its cache, which
holds nothing of the box at first.

  python -m bench.domain                       this code alone
  python -m bench.domain --beside CHECKOUT     and another checkout of it, in turns in the same run

The box is crowded: two galaxies in five lie in the halo of a larger one, and a quarter of its matter lies anywhere.
It is written in two orders: by groups as SUBFIND leaves particles, after which come those of no group, in no order at
all (the least favourable), and by cells of space as SWIFT, GADGET and GIZMO write. Galaxies are read largest first, and
ranks take them in turns. By a catalogue's offsets each galaxy would be read from its own part of the file: then bytes
are those of its own particles, but its sphere lacks its neighbours' and those of no group.
"""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from bench import common
from bench.common import run_in
from kinmass.gen.formats.gadget import write
from kinmass.gen.mock.suites import make_galaxy
from kinmass.gen.physics.particles import Galaxy, Particles, concatenate, empty

BOX_KPC = 25_000.0
TYPES = {"gas": "PartType0", "dark": "PartType1", "stars": "PartType4"}
#: Fields that maps and truth are made of, by component.
FIELDS = {"gas": ("Coordinates", "Velocities", "Masses", "SmoothingLength"), "dark": ("Coordinates", "Masses"),
          "stars": ("Coordinates", "Velocities", "Masses")}  # fmt: skip
#: Galaxies of 10,000 particles are read out to this radius [kpc], others out to one that grows as their mass^(1/3).
REACH_KPC = 150.0

#: Prints bytes [MB] of some galaxies, CPU [ms] of one, their particles, and the bytes [MB] that came from the disk.
#: Given are box, index, places, first galaxy and step. The first of a node's ranks finds nothing of it in the cache.
READ = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from kinmass.gen.snapshots.snapshot import Snapshot
def counted(word):
    return int(next(line for line in open("/proc/self/io") if line.startswith(word)).split()[1])
places = np.load(sys.argv[3])[int(sys.argv[4])::int(sys.argv[5])]
with Snapshot(Path(sys.argv[1]), "gizmo", {"dark": ["PartType1"]}, indexes=Path(sys.argv[2])) as snapshot:
    snapshot.galaxy(places[0, :3], 1.0)
    if sys.argv[4] == "0":
        with open(sys.argv[1], "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began, bytes_before, disk_before, n = time.process_time(), counted("rchar"), counted("read_bytes"), 0
    for *centre, reach in places:
        n += sum(map(len, snapshot.galaxy(np.array(centre), reach).components().values()))
    cpu_ms = 1e3 * (time.process_time() - began) / len(places)
    n_bytes, from_disk = counted("rchar") - bytes_before, counted("read_bytes") - disk_before
    print(json.dumps([1e-6 * n_bytes, cpu_ms, n, 1e-6 * from_disk]))
"""


def crowd(n: int, seed: int = 1) -> tuple[list[tuple[Galaxy, np.ndarray]], np.ndarray]:
    """Make n galaxies with their centres, group by group, and what lies in no group at last.

    Also returns centres and radii (n, 4) [kpc] to read, the largest galaxy first.
    """
    rng = np.random.default_rng(seed)
    base = make_galaxy("quiet", 3, 1, 80_000, 40_000, 80_000)[0]
    sizes = np.sort(1e4 * 10 ** (0.5 * np.clip(rng.standard_normal(n), -2, 2)))[::-1].astype(int)
    reach, centres, host = REACH_KPC * (sizes / 1e4) ** (1 / 3), rng.uniform(0, BOX_KPC, (n, 3)), np.arange(n)
    for i in np.sort(rng.choice(np.arange(n // 20, n), 2 * n // 5, replace=False)):
        larger = np.flatnonzero(host[:i] == np.arange(i))
        host[i] = rng.choice(larger, p=sizes[larger] / sizes[larger].sum())
        step = rng.standard_normal(3)
        centres[i] = centres[host[i]] + step / np.linalg.norm(step) * reach[host[i]] * rng.uniform(0.2, 1.0)
    galaxies = [(_drawn(base, sizes[i], rng), centres[i] % BOX_KPC) for i in np.lexsort((np.arange(n), host))]
    loose = _drawn(base, sum(sizes) // 3, rng)
    gas, dark = (replace(p, pos_kpc=rng.uniform(0, BOX_KPC, p.pos_kpc.shape)) for p in (loose.gas, loose.dark))
    nowhere = Galaxy(empty(), gas, dark, empty()), np.zeros(3)
    return [*galaxies, nowhere], np.column_stack([centres % BOX_KPC, reach])


def _drawn(base: Galaxy, n: int, rng: np.random.Generator) -> Galaxy:
    """Draw a galaxy of n particles from a large one, of a size that goes as n^(1/3)."""
    parts = {}
    for name, share in (("stars", 0.4), ("gas", 0.2), ("dark", 0.4)):
        p = base.components()[name]
        n_drawn = int(share * n)  # copies of particles are refused; those of no group get other places
        chosen = p[rng.choice(len(p), n_drawn, replace=n_drawn > len(p))]
        parts[name] = replace(chosen, pos_kpc=chosen.pos_kpc * (n / 5e4) ** (1 / 3))
    return Galaxy(parts["stars"], parts["gas"], parts["dark"], empty())


def by_cells(galaxies: list[tuple[Galaxy, np.ndarray]], side: int = 64) -> list[tuple[Galaxy, np.ndarray]]:
    """Sort all particles by the cells of space that they lie in, side along each axis."""

    def sort(name: str) -> Particles:
        """Return all particles of one component, sorted by cell."""
        placed = [(galaxy.components()[name], centre) for galaxy, centre in galaxies]
        p = concatenate([replace(p, pos_kpc=(p.pos_kpc + centre) % BOX_KPC) for p, centre in placed])
        cells = (p.pos_kpc / BOX_KPC * side).astype(int)
        return p[np.lexsort(cells.T)]

    return [(Galaxy(sort("stars"), sort("gas"), sort("dark"), empty()), np.zeros(3))]


def once_mb(box: Path) -> float:
    """Megabytes of all fields of a box that are used, each once."""
    with h5py.File(box) as file:
        return 1e-6 * sum(file[TYPES[part]][name].nbytes for part, names in FIELDS.items() for name in names)


def main() -> None:
    """Read the galaxies of both boxes by one rank and by two, and print."""
    parser = common.parser(__doc__)
    parser.add_argument("--beside", type=Path, help="another checkout of this project")
    parser.add_argument("--galaxies", type=int, default=150, help="in each box (default: %(default)s)")
    args = parser.parse_args()
    galaxies, places = crowd(args.galaxies)
    own = {part: sum(len(galaxy.components()[part]) for galaxy, _ in galaxies[:-1]) for part in FIELDS}
    n_own, own_mb = sum(own.values()), 1e-6 * sum(n * _row_bytes(part) for part, n in own.items())
    rows: list[list[object]] = []
    with common.scratch_folder(args.out) as scratch:
        np.save(scratch / "places.npy", places)
        for order, ordered in (("groups", galaxies), ("cells", by_cells(galaxies))):
            box = scratch / f"{order}.hdf5"
            write(box, [(g, c, np.zeros(3)) for g, c in ordered], BOX_KPC, 1.0, 0.7, "gizmo", double=False)
            for name, checkout in common.checkouts(args.beside).items():
                index = scratch / f"{order}-{name}"
                for ranks in (1, 2):
                    read = [
                        json.loads(run_in(checkout, "-c", READ, box, index, scratch / "places.npy", first, ranks))
                        for first in range(ranks)
                    ]
                    total_mb, cpu_ms, n, disk_mb = np.sum(read, axis=0)
                    shares = [total_mb / once_mb(box), disk_mb / once_mb(box)]
                    rows.append([f"{order}, {name}, {ranks}", total_mb, *shares, cpu_ms / ranks, int(n)])
            rows.append([f"{order}, by offsets", own_mb, own_mb / once_mb(box), "", "", n_own])
    heads = ["order, code, ranks", "MB read", "of the box", "from disk", "CPU of a galaxy [ms]", "particles found"]
    common.table(heads, rows)


def _row_bytes(part: str) -> int:
    return sum(12 if name in ("Coordinates", "Velocities") else 4 for name in FIELDS[part])


if __name__ == "__main__":
    main()
