"""How our cost grows: with particles and views, in memory, and over a long run.

Galaxies of n star, 0.3 n gas and 0.3 n dark particles are drawn from one of a million stars:
once with that galaxy's kernels, once with kernels that shrink as n^(-1/3), as in finer simulations.
Peaks are taken in a fresh process per size, above what the interpreter holds before any particle.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import common
from kinmass.gen.campaign import maps, worker
from kinmass.gen.campaign.record import Settings
from kinmass.gen.physics.particles import Galaxy, Particles
from kinmass.gen.physics.projection import project
from kinmass.gen.physics.sightline import sightlines
from kinmass.gen.suite import load_suite

HALF_KPC = 15.0


def sized(base: Galaxy, n: int, shrink: bool) -> Galaxy:
    """Draw `base` again with n stars and as much gas and dark matter per star; shrink: kernels as n^(-1/3)."""
    factor = n / len(base.stars)
    parts = {
        name: common.resampled(p, round(factor * len(p)), factor ** (-1 / 3) if shrink else 1.0)
        for name, p in base.components().items()
    }
    return Galaxy(parts["stars"], parts["gas"], parts["dark"], parts["black_holes"])


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Exponent of the power law fitted to seconds as a function of size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def particles(base: Galaxy, sizes: list[int], pixels: int) -> None:
    """Print seconds of one view per tracer and size, and the fitted slopes."""
    field = sightlines(0, "bench", 1), np.array([HALF_KPC]), pixels
    rows: list[list[object]] = []
    columns: list[list[float]] = []
    for n in sizes:
        same_kernels, finer_kernels = sized(base, n, False), sized(base, n, True)
        repeats = 5 if n < 3e6 else 2
        times = [
            common.best(partial(project, p, *field), repeats)
            for p in (same_kernels.stars, same_kernels.gas, finer_kernels.gas)
        ]
        columns.append(times)
        rows.append([n, *times, 1e9 * (times[0] + times[1]) / (1.3 * n)])
    slopes = [slope(sizes, [row[i] for row in columns]) for i in range(3)]
    rows.append(["slope (wanted 1.0 +- 0.1)", *slopes, ""])
    common.table(["stars", "stars [s]", "0.3 n gas [s]", "gas, finer kernels [s]", "ns per particle"], rows)


def views(galaxy: Galaxy, pixels: int) -> None:
    """Print seconds of mapping one galaxy for 1 to 32 views."""
    numbers = [1, 2, 4, 8, 16, 32]
    seconds = []
    for n in numbers:
        settings = Settings(views=n, pixels=pixels)
        seconds.append(common.best(partial(common.mapped, galaxy, settings), 2))
    rows: list[list[object]] = [[n, s, s / n] for n, s in zip(numbers, seconds, strict=True)]
    rows.append(["slope (wanted <= 1)", slope(numbers, seconds), ""])
    common.table(["views", "map_galaxy [s]", "per view [s]"], rows)


def save(galaxy: Galaxy, path: Path) -> None:
    """Save a galaxy's arrays as .npy files in a new folder."""
    path.mkdir()
    for name, p in galaxy.components().items():
        for key, array in vars(p).items():
            if array is not None:
                np.save(path / f"{name}-{key}.npy", array)


def peak(path: Path, n_views: int, pixels: int) -> None:
    """Print the size of a galaxy's arrays and the peak memory that loading and mapping them adds [MB].

    To be called in a fresh process.
    """
    settings = Settings(views=n_views, pixels=pixels)
    common.mapped(common.disc_galaxy(1000, 300), settings)  # compiles
    common.forget_peak()
    before = common.memory_mb("VmRSS")
    loaded: dict[str, dict[str, np.ndarray]] = {}
    for file in sorted(path.glob("*.npy")):
        name, key = file.stem.split("-")
        loaded.setdefault(name, {})[key] = np.load(file)
    parts = {name: Particles(**arrays) for name, arrays in loaded.items()}
    galaxy = Galaxy(parts["stars"], parts["gas"], parts["dark"], parts["black_holes"])
    common.mapped(galaxy, settings)
    print(common.array_bytes(galaxy) / 1e6, common.memory_mb("VmHWM") - before)


def long_run(suite: Path) -> None:
    """Map 800 galaxies in one run and print the memory of this process [MB] on the way, in a fresh process."""
    folders = sorted((suite / "middle").glob("middle_*"))
    for i in range(len(folders), 800):  # the same few snapshots under other names
        (suite / "middle" / f"middle_{i:05d}").symlink_to(folders[i % len(folders)].resolve())
    count, map_galaxy = 0, worker.map_galaxy

    def counted(*args: Any, **options: Any) -> Any:
        """Map a galaxy as usual, and print the resident memory [MB] after some numbers of galaxies."""
        nonlocal count
        count += 1
        if count in (10, 100, 200, 400, 600, 800):
            print(count, common.memory_mb("VmRSS"))
        return map_galaxy(*args, **options)

    worker.map_galaxy = counted
    maps.generate([load_suite(suite / "middle" / "middle.yaml")], suite / "maps.zarr", Settings(views=4), quiet=True)


def main() -> None:
    """Measure growth with particles, views and galaxies, and print."""
    parser = common.parser(__doc__)
    parser.add_argument("--largest", type=int, default=10_000_000, help="most star particles (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=64, help="pixels along a side (default: %(default)s)")
    parser.add_argument("--peak", type=Path, help="(internal) measure this galaxy in this process")
    parser.add_argument("--long-run", type=Path, help="(internal) map these suites again and again")
    parser.add_argument("--views", type=int, default=8, help="views of the memory measurement (default: %(default)s)")
    args = parser.parse_args()
    if args.peak or args.long_run:
        return peak(args.peak, args.views, args.pixels) if args.peak else long_run(args.long_run)
    base = common.disc_galaxy(1_000_000, 300_000, 300_000)
    sizes = [n for n in (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000) if n <= args.largest]
    particles(base, sizes, args.pixels)
    views(sized(base, 300_000, True), args.pixels)
    rows: list[list[object]] = []
    with common.scratch_folder(args.out) as scratch:
        for n in [n for n in sizes if n in (300_000, 1_000_000, 3_000_000, 10_000_000)]:
            folder = scratch / str(n)
            save(sized(base, n, True), folder)
            arrays_mb, peak_mb = map(
                float,
                common.run("bench.scaling", "--peak", folder, "--views", args.views, "--pixels", args.pixels).split(),
            )
            rows.append([n, arrays_mb, peak_mb, peak_mb / arrays_mb])
        print(f"memory of mapping one galaxy, {args.views} views (wanted: peak / arrays < 2.5)")
        common.table(["stars", "arrays [MB]", "peak above the interpreter [MB]", "peak / arrays"], rows)
        mocks = scratch / "mocks"
        common.run(
            "gen", "mock", "--out", mocks, "--suites", "middle", "--galaxies", 5, "--stars", 5000, "--gas", 3000,
            "--dark", 5000,
        )  # fmt: skip
        lines = [line.split() for line in common.run("bench.scaling", "--long-run", mocks).splitlines()]
        print("memory of one process that reads, maps and writes many galaxies (wanted: no growth)")
        common.table(["galaxies", "resident [MB]"], [[int(n), float(mb)] for n, mb in lines])


if __name__ == "__main__":
    main()
