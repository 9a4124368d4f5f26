"""The map store: files, bytes and speed per layout, beside np.save of the same arrays on the same disk.

Layouts are one file per galaxy and array, and, where the store offers it, shards of k galaxies.
Speeds count the arrays' own bytes over wall time; nobody waits for the disk to sync, and reading
finds the files in the page cache: what is compared is the cost of the format, not the disk's.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bench import common
from kinmass.gen.campaign.record import Settings
from kinmass.gen.storage import store, suite_group, writer

Record = dict[str, np.ndarray]


def records(n: int, views: int, pixels: int) -> list[Record]:
    """Records of n galaxies: that of one mock galaxy times random factors, so that they compress as real ones do."""
    galaxy = common.disc_galaxy(100_000, 30_000)
    record = common.mapped(galaxy, Settings(views=views, pixels=pixels))
    record |= {"centre": np.zeros(3), "centre_found": np.array(0, dtype=np.uint8)}
    rng = np.random.default_rng(1)

    def varied(value: np.ndarray) -> np.ndarray:
        """Return the numbers times factors of 1 +- 0.05; integers as they are."""
        if value.dtype.kind != "f":
            return value
        return (value * rng.normal(1, 0.05, value.shape)).astype(value.dtype)

    return [{name: varied(value) for name, value in record.items()} for _ in range(n)]


def write_store(path: Path, galaxies: list[Record], per_shard: int, views: int, pixels: int) -> None:
    """Write all records with gen.storage.writer, `per_shard` galaxies a call."""
    config = {"views": views, "pixels": pixels, "galaxies_per_shard": per_shard}
    names = [f"galaxy {i}" for i in range(len(galaxies))]
    group = suite_group.create_suite(path, "bench", names, names, config)
    for first in range(0, len(galaxies), per_shard):
        block = range(first, min(first + per_shard, len(galaxies)))
        writer.write_galaxies(group, block, [galaxies[i] for i in block])


def write_store_to_fit(path: Path, n: int, views: int, pixels: int, per_shard: int = 1) -> None:
    """Write a store of n galaxies whose maps are said to be 6 R_e wide."""
    write_store(path, records(n, views, pixels), per_shard, views, pixels)
    group = store.open_suite(path, "bench")
    group.attrs["config"] = group.attrs["config"] | {"field_of_view_re": 6.0}


def read_store(path: Path, block: int) -> None:
    """Read every array of a store, `block` galaxies at a time, as training does."""
    group = store.open_suite(path, "bench")
    for first in range(0, group["status"].shape[0], block):
        for name in store.ARRAYS:
            store.read(group, name, slice(first, first + block))


def write_npy(path: Path, galaxies: list[Record], block: int) -> None:
    """Write one .npy file per array and block of galaxies, the limit that the store is compared with."""
    path.mkdir()
    for first in range(0, len(galaxies), block):
        for name in galaxies[0]:
            np.save(
                path / f"{first}-{name}.npy", np.stack([record[name] for record in galaxies[first : first + block]])
            )


def read_npy(path: Path) -> None:
    """Read every .npy file of a folder."""
    for file in sorted(path.glob("*.npy")):
        np.load(file)


def main() -> None:
    """Measure every layout and print."""
    parser = common.parser(__doc__)
    parser.add_argument("--galaxies", type=int, default=256, help="in the store (default: %(default)s)")
    parser.add_argument("--views", type=int, default=32, help="views of each galaxy (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=32, help="pixels along a side (default: %(default)s)")
    parser.add_argument("--shards", type=int, nargs="*", default=[8, 64], help="galaxies per shard (default: 8 64)")
    parser.add_argument("--repeats", type=int, default=2, help="turns, of which the best counts (default: %(default)s)")
    args = parser.parse_args()
    galaxies = records(args.galaxies, args.views, args.pixels)
    megabytes = sum(v.nbytes for r in galaxies for v in r.values()) / 1e6
    block = 32

    def packed(k: int) -> Callable[[Path], None]:
        """Return a function that writes the store with k galaxies per shard."""
        return lambda path: write_store(path, galaxies, k, args.views, args.pixels)

    layouts: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
        f"np.save, {block} galaxies a file": (lambda path: write_npy(path, galaxies, block), read_npy),
        "np.save, one galaxy a file": (lambda path: write_npy(path, galaxies, 1), read_npy),
        "store, one galaxy a file": (packed(1), lambda path: read_store(path, block)),
    }
    layouts |= {f"store, shards of {k}": (packed(k), lambda path: read_store(path, block)) for k in args.shards}
    best = {name: [np.inf, np.inf] for name in layouts}
    on_disk: dict[str, tuple[int, int]] = {}
    with common.scratch_folder(args.out) as scratch:
        for _ in range(args.repeats):
            for i, (name, (write, read)) in enumerate(layouts.items()):
                path = scratch / str(i)
                shutil.rmtree(path, ignore_errors=True)
                best[name][0] = min(best[name][0], common.seconds(partial(write, path)))
                best[name][1] = min(best[name][1], common.seconds(partial(read, path)))
                sizes = [p.stat().st_size for p in path.rglob("*") if p.is_file()]
                on_disk[name] = len(sizes), sum(sizes)
    print(f"{args.galaxies} galaxies of {args.views} views, {args.pixels}^2 pixels: {megabytes:.0f} MB of arrays")
    limits = [min(best[name][i] for name in layouts if name.startswith("np.save")) for i in (0, 1)]
    common.table(
        ["layout", "files / galaxy", "kB / view", "write [MB/s]", "read [MB/s]", "write / limit", "read / limit"],
        [[name, on_disk[name][0] / args.galaxies, on_disk[name][1] / args.galaxies / args.views / 1e3,
          megabytes / w, megabytes / r, limits[0] / w, limits[1] / r] for name, (w, r) in best.items()],
    )  # fmt: skip


if __name__ == "__main__":
    main()
