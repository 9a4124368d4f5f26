"""One MPI rank against two on the same mock suites, and where one rank's time goes.

The time is that of mapping alone: every rank has loaded its libraries and compiled its kernels
before the clock starts. Runs alternate; the best of each counts. Both stores must be the same bytes.
"""

import json
import shutil
import time
from pathlib import Path

from bench import common
from kinmass.gen.campaign import parallel
from kinmass.gen.campaign.maps import generate
from kinmass.gen.campaign.record import Settings
from kinmass.gen.suite import load_suite

#: Stars, gas and dark particles per galaxy of each suite: 50, 100 and 200 thousand particles.
SIZES = {"bursty": (20_000, 10_000, 20_000), "middle": (40_000, 20_000, 40_000), "quiet": (80_000, 40_000, 80_000)}


def make(folder: Path, galaxies: int) -> list[Path]:
    """Write mock suites of galaxies of three sizes; the paths of their suite files."""
    for suite, (stars, gas, dark) in SIZES.items():
        common.run(
            "gen", "mock", "--out", folder / suite, "--suites", suite, "--galaxies", max(galaxies // 3, 1),
            "--stars", stars, "--gas", gas, "--dark", dark, ranks=2,
        )  # fmt: skip
    return [folder / suite / suite / f"{suite}.yaml" for suite in SIZES]


def timed(suites: list[Path], out: Path, settings: Settings) -> dict[str, float]:
    """Map suites into `out` on all ranks: seconds in total, galaxies done and failed."""
    loaded = [load_suite(path) for path in suites]
    generate(loaded[:1], out.with_suffix(".warm"), settings, quiet=True)
    parallel.barrier()
    began = time.perf_counter()
    done, failed = generate(loaded, out, settings, quiet=True)
    parallel.barrier()
    return {"total": time.perf_counter() - began, "done": float(done), "failed": float(failed)}


def stages(store: Path) -> tuple[dict[str, float], int]:
    """Seconds by stage, of all ranks of the last run into a store, and its galaxies, as the run has noted them."""
    noted = json.loads(max((store / ".timing").iterdir()).read_text())["ranks"]
    seconds = {stage: sum(rank["seconds"][stage] for rank in noted) for stage in noted[0]["seconds"]}
    return seconds, sum(rank["galaxies"] for rank in noted)


def same_bytes(folder_a: Path, folder_b: Path) -> bool:
    """Whether two stores hold the same files with the same bytes, but for the notes of when they were made."""
    notes = {".timing", ".listing", "zarr.json"}
    files = [
        {
            p.relative_to(folder): p
            for p in folder.rglob("*")
            if p.is_file() and not notes & {*p.relative_to(folder).parts}
        }
        for folder in (folder_a, folder_b)
    ]
    return files[0].keys() == files[1].keys() and all(
        p.read_bytes() == files[1][n].read_bytes() for n, p in files[0].items()
    )


def main() -> None:
    """Measure one rank and several, and print."""
    parser = common.parser(__doc__)
    parser.add_argument("--galaxies", type=int, default=60, help="of all suites together (default: %(default)s)")
    parser.add_argument("--views", type=int, default=4, help="views of each galaxy (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=32, help="pixels along a side (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs on each number of ranks (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="compared with one (default: %(default)s)")
    parser.add_argument("--child", type=Path, nargs="+", help="(internal) store, then suites, to map in this process")
    args = parser.parse_args()
    settings = Settings(views=args.views, pixels=args.pixels)
    if args.child:
        result = timed(args.child[1:], args.child[0], settings)
        if parallel.rank() == 0:
            print(" ".join(f"{k}={v}" for k, v in result.items()))
        return
    with common.scratch_folder(args.out) as scratch:
        suites = make(scratch, args.galaxies)
        options = ["--views", args.views, "--pixels", args.pixels]

        def once(ranks: int) -> dict[str, float]:
            """Map all suites anew on so many ranks; return what `timed` does."""
            store = scratch / f"{ranks}.zarr"
            shutil.rmtree(store, ignore_errors=True)
            shutil.rmtree(store.with_suffix(".warm"), ignore_errors=True)
            text = common.run("bench.ranks", "--child", store, *suites, *options, ranks=ranks)
            return {k: float(v) for k, v in (pair.split("=") for pair in text.split())}

        runs: dict[int, list[float]] = {1: [], args.ranks: []}
        spent: dict[int, tuple[dict[str, float], int]] = {}
        for _ in range(args.repeats):
            for ranks, seconds in runs.items():
                seconds.append(once(ranks)["total"])
                if seconds[-1] == min(seconds):
                    spent[ranks] = stages(scratch / f"{ranks}.zarr")
        same = same_bytes(scratch / "1.zarr", scratch / f"{args.ranks}.zarr")
    n_galaxies = spent[1][1]
    one, more = min(runs[1]), min(runs[args.ranks])
    common.table(["ranks", "best [s]", "galaxies / s", "all runs [s]"], [
        [r, min(s), n_galaxies / min(s), " ".join(f"{x:.2f}" for x in s)] for r, s in runs.items()
    ])  # fmt: skip
    print(f"{args.ranks} ranks are {one / more:.2f} times as fast as one (wanted >= {0.9 * args.ranks:.1f})")
    print(f"stores byte for byte the same: {'yes' if same else 'NO'}\n")
    print("ms of a rank for each galaxy, as the runs have noted them:")
    rows = [[stage, *(1e3 * spent[ranks][0][stage] / n_galaxies for ranks in runs)] for stage in spent[1][0]]
    common.table(["stage", *(f"{ranks} rank{'s' * (ranks > 1)}" for ranks in runs)], rows)


if __name__ == "__main__":
    main()
