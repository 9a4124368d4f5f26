"""One view of a galaxy, particles and cells: our kernel beside reading its memory, yt and pynbody. One thread each.

Our kernel makes all eight channels (density, velocity, dispersion, count of stars and gas) in one
call. yt makes one field a call, dispersions from two (as its moment=2 does). pynbody is measured
on the gas, with its particles turned and its densities set beforehand. A figure shows the maps.
The cells are the gas on an octree that is refined where it has more than four particles in a cell.
"""

import importlib.util
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from bench import common
from bench.peers import Pynbody, Yt, YtCells
from kinmass.gen.physics.particles import Galaxy, Particles
from kinmass.gen.physics.profile import half_mass_radius
from kinmass.gen.physics.projection import project, views
from kinmass.gen.physics.sightline import sightlines

FIELDS = ("density", "velocity_los", "velocity_los_squared")


@njit(fastmath=True)
def _sum(values):  # type: ignore[no-untyped-def]
    """Sum of values (N,), which reads all of their memory once."""
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


def arrays_read(galaxy: Galaxy) -> list[np.ndarray]:
    """The arrays that our kernel reads, flattened in memory order."""
    tracers = [a for p in (galaxy.stars, galaxy.gas) for a in (p.pos_kpc, p.vel_kms, p.mass_msun)]
    return [a.reshape(-1, order="A") for a in [*tracers, galaxy.gas.support_kpc] if a is not None]


def yt_maps(stars: Yt, gas: Yt, turn: np.ndarray, half_kpc: float, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps (2, 3, P, P) of stars and gas (density, velocity, dispersion) and seconds (2, 3) per field."""
    maps, seconds = np.zeros((2, 3, pixels, pixels)), np.zeros((2, 3))
    for i, (peer, draw) in enumerate(((stars, stars.stars), (gas, gas.gas))):
        for j, field in enumerate(FIELDS):
            maps[i, j] = draw(field, turn, half_kpc, pixels)  # the first call loads the particles, which is not timed

            def again(peer=peer, draw=draw, field=field) -> None:  # type: ignore[no-untyped-def]
                """Draw the same field once more, to be timed."""
                draw(field, turn, half_kpc, pixels)

            seconds[i, j] = common.best(again, 2)
    maps[:, 2] = np.sqrt(np.maximum(maps[:, 2] - maps[:, 1] ** 2, 0))
    return maps, seconds


def wide_gas(gas: Particles, half_kpc: float, pixels: int) -> Particles:
    """The same gas with a kernel support of at least 2.5 pixels: below 2 pixels yt loses mass."""
    support = np.maximum(gas.support_kpc, 2.5 * 2 * half_kpc / pixels)  # type: ignore[arg-type]
    return replace(gas, support_kpc=support)


def agreement(name: str, ours: np.ndarray, theirs: np.ndarray, area_kpc2: float) -> list[object]:
    """A table row: mass, its ratio to ours, and median absolute differences where both maps have mass.

    The differences are those of log10 density, of velocity and of dispersion [km/s].
    """
    both_occupied = (ours[0] > 0) & (theirs[0] > 0)
    row: list[object] = [name, float(theirs[0].sum() * area_kpc2), float(theirs[0].sum() / ours[0].sum())]
    row.append(float(np.median(np.abs(np.log10(theirs[0][both_occupied] / ours[0][both_occupied])))))
    for channel in (1, 2):
        row.append(
            float(np.median(np.abs(theirs[channel] - ours[channel])[both_occupied])) if len(theirs) > channel else ""
        )
    return row


def picture(path: Path, ours: np.ndarray, peers: dict[str, np.ndarray]) -> None:
    """Draw density, velocity and dispersion of the gas: ours, the peers', and their differences."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    occupied = ours[0] > 0
    log_density = [np.log10(np.maximum(m[0], 1e-30)) for m in (ours, *peers.values())]
    top_density = log_density[0][occupied].max()
    vmax = np.percentile(np.abs(ours[1][occupied]), 99)
    columns = [("ours", ours), *peers.items()]
    fig, axes = plt.subplots(3, 2 * len(columns) - 1, figsize=(4 * len(columns), 8), constrained_layout=True)
    units = ("log Msun/kpc2", "velocity [km/s]", "dispersion [km/s]")
    limits = ((top_density - 4, top_density), (-vmax, vmax), (0, np.percentile(ours[2][occupied], 99)))
    for row in range(3):
        for i, (name, maps) in enumerate(columns):
            if row >= len(maps):
                axes[row, i].axis("off")
                if i:
                    axes[row, len(columns) + i - 1].axis("off")
                continue
            shown, ours_shown = (log_density[i], log_density[0]) if row == 0 else (maps[row], ours[row])
            image = axes[row, i].imshow(
                np.where(occupied, shown, np.nan),
                origin="lower",
                clim=limits[row],
                cmap="viridis" if row != 1 else "RdBu_r",
            )
            axes[row, i].set_title(f"{name}: {units[row]}", fontsize=8)
            fig.colorbar(image, ax=axes[row, i], shrink=0.6)
            if i:
                difference = np.where(occupied, shown - ours_shown, np.nan)
                span = np.nanpercentile(np.abs(difference), 98) or 1e-9
                ax = axes[row, len(columns) + i - 1]
                image = ax.imshow(difference, origin="lower", clim=(-span, span), cmap="PuOr")
                ax.set_title(f"{name} - ours", fontsize=8)
                fig.colorbar(image, ax=ax, shrink=0.6)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    fig.savefig(path, dpi=110)


@dataclass(frozen=True)
class OurSeconds:
    """Seconds of our kernel, and of reading its memory."""

    one_view: float  # all 8 channels
    gas: float  # the 4 channels of the gas, one view
    apart: float  # per view, of 8 views that are made one by one
    together: dict[int, float]  # number of views in one batch -> seconds per view
    memory: float  # reading all of the kernel's arrays once
    gigabytes: float  # size of these arrays


def time_ours(galaxy: Galaxy, turns: np.ndarray, half: float, pixels: int) -> OurSeconds:
    """Time our kernel on views along the first of the sightlines turns (32, 3, 3)."""

    def per_view(n: int, repeats: int) -> float:
        """Return seconds per view of n views in one batch."""
        return common.best(lambda: views(galaxy, turns[:n], np.full(n, half), pixels), repeats) / n

    one_view, together = per_view(1, 9), {n: per_view(n, 4) for n in (8, 32)}
    apart = sum(common.best(partial(views, galaxy, t[None], np.array([half]), pixels), 4) for t in turns[:8]) / 8
    gas = common.best(lambda: project(galaxy.gas, turns[:1], np.array([half]), pixels), 9)
    arrays = arrays_read(galaxy)
    memory = common.best(lambda: [_sum(a) for a in arrays], 9)
    return OurSeconds(one_view, gas, apart, together, memory, sum(a.nbytes for a in arrays) / 1e9)


def beside_checkout(checkout: Path, galaxy: Galaxy, turns: np.ndarray, half: float, pixels: int) -> None:
    """Print CPU seconds per view beside the projection.py of another checkout; calls of both alternate."""
    with tempfile.TemporaryDirectory() as scratch:  # a copy, as compiled code is kept beside its file
        copy = shutil.copy(checkout / "gen/physics/projection.py", Path(scratch) / "beside.py")
        spec = importlib.util.spec_from_file_location("beside", copy)
        assert spec
        assert spec.loader
        beside = importlib.util.module_from_spec(spec)
        sys.modules["beside"] = beside  # numba looks there for it
        spec.loader.exec_module(beside)
        compare_speeds(beside, galaxy, turns, half, pixels)


def compare_speeds(beside: Any, galaxy: Galaxy, turns: np.ndarray, half: float, pixels: int) -> None:
    """Print CPU seconds per view of `views` and `project` here and in the module `beside`."""
    rows: list[list[object]] = []
    for n, repeats in ((1, 60), (8, 12)):
        field = turns[:n], np.full(n, half), pixels
        for what, name, of in (("all channels", "views", galaxy), ("the gas", "project", galaxy.gas)):
            fastest = [np.inf, np.inf]
            for _ in range(repeats + 1):
                for i, call in enumerate((getattr(beside, name), {"views": views, "project": project}[name])):
                    began = time.thread_time()
                    call(of, *field)
                    fastest[i] = min(fastest[i], (time.thread_time() - began) / n)
            rows.append([f"{what}, per view of {n}", *fastest, fastest[1] / fastest[0]])
    common.table(["", "beside", "this code", "ratio"], rows)


def time_pynbody(gas: Particles, turn: np.ndarray, half: float, pixels: int) -> dict[tuple[str, bool], float]:
    """Seconds of pynbody's maps of the gas, by (field, whether its approximate mode is used)."""
    peer = Pynbody(gas, turn, half)
    return {
        (f, fast): common.best(partial(peer.image, f, pixels, fast), 5)
        for f in FIELDS[:2] for fast in (True, False)
    }  # fmt: skip


def print_speeds(ours: OurSeconds, yt: np.ndarray, pynbody: dict[tuple[str, bool], float]) -> None:
    """Print all times and their ratios; yt (2, 3): seconds of stars and gas per field."""
    quick = min(sum(pynbody[f, fast] for f in FIELDS[:2]) for fast in (True, False)) / 2
    read = f"reading the same {ours.gigabytes:.3f} GB once ({ours.gigabytes / ours.memory:.1f} GB/s)"
    common.table(["what", "seconds"], [
        ["ours, one view: 8 channels", ours.one_view], ["ours, the gas alone: 4 channels", ours.gas],
        ["ours, per view of 8 one by one", ours.apart],
        *[[f"ours, per view of {n} in one batch", s] for n, s in ours.together.items()],
        [read, ours.memory],
        *[[f"yt, {w} {f}", float(yt[i, j])] for i, w in enumerate(("stars", "gas")) for j, f in enumerate(FIELDS)],
        ["yt, one view: 6 fields", float(yt.sum())],
        *[[f"pynbody, gas {f}{', approximate' * fast}", s] for (f, fast), s in pynbody.items()],
    ])  # fmt: skip
    common.table(["ratio", "measured", "wanted"], [
        ["yt / ours, per view", float(yt.sum() / ours.one_view), ">= 100"],
        ["pynbody / ours, per gas map (its 2, our 3 and counts)", quick / (ours.gas / 3), ">= 3"],
        ["pynbody's two maps / all our gas channels", 2 * quick / ours.gas, ""],
        ["ours, 8 views one by one / in one batch", ours.apart / ours.together[8], "> 1"],
        ["ours / reading memory, one view", ours.one_view / ours.memory, "<= 3"],
        *[[f"ours / reading memory, per view of {n}", s / ours.memory, "<= 3"] for n, s in ours.together.items()],
    ])  # fmt: skip


def compare_maps(
    galaxy: Galaxy, yt_stars: Yt, box_kpc: float, turn: np.ndarray, half: float, pixels: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Print how far the peers' maps are from ours, with wide gas kernels; our gas map and the peers'."""
    fat = wide_gas(galaxy.gas, half, pixels)
    maps, _ = yt_maps(yt_stars, Yt(fat, box_kpc), turn, half, pixels)
    drawn = Pynbody(fat, turn, half)
    pynbody_maps = np.stack([drawn.image(f, pixels, False) for f in FIELDS[:2]])
    field = turn[None], np.array([half]), pixels
    gas_maps, star_maps, area = project(fat, *field)[0], project(galaxy.stars, *field)[0], (2 * half / pixels) ** 2
    print("the same maps, gas kernels at least 2.5 pixels wide (below 2, yt loses mass):")
    common.table(["", "mass [Msun]", "mass / ours", "median |dex|", "velocity [km/s]", "dispersion [km/s]"], [
        agreement("gas, ours", gas_maps, gas_maps, area), agreement("gas, yt", gas_maps, maps[1], area),
        agreement("gas, pynbody", gas_maps, pynbody_maps, area),
        agreement("stars, ours", star_maps, star_maps, area), agreement("stars, yt", star_maps, maps[0], area),
    ])  # fmt: skip
    return gas_maps[:3], {"yt": maps[1], "pynbody": pynbody_maps}


def compare_cells(gas: Particles, box_kpc: float, turns: np.ndarray, half: float, pixels: int) -> None:
    """Print the seconds of the gas's maps on a refined grid, ours and yt's, and how far these are from ours."""
    cells, mask = common.refined_grid(gas, box_kpc)
    theirs, turn = YtCells(cells, mask, box_kpc), turns[0]
    ours = project(cells, turn[None], [half], pixels)[0]
    yt_seconds = [common.best(partial(theirs.gas, f, turn, half, pixels), 4) for f in FIELDS]
    one, eight = (
        common.best(lambda n=n: project(cells, turns[:n], np.full(n, half), pixels), 9) / n  # type: ignore[misc]
        for n in (1, 8)
    )
    side = np.percentile(cells.side_kpc / (2 * half / pixels), [10, 50, 90])  # type: ignore[operator]
    print(f"{len(cells)} cells, side / pixel {side[0]:.2f} (10 %), {side[1]:.2f} (50 %), {side[2]:.2f} (90 %)")
    common.table(["what", "seconds", "yt / ours"], [
        *[[f"yt, {f}", s, ""] for f, s in zip(FIELDS, yt_seconds, strict=True)],
        ["ours, one view: 4 channels", one, sum(yt_seconds) / one],
        ["ours, per view of 8 in one batch", eight, sum(yt_seconds) / eight], ["wanted", "", ">= 50"],
    ])  # fmt: skip
    density = theirs.gas("density", turn, half, pixels)
    velocity = theirs.gas("velocity_los", turn, half, pixels)
    seen = (density > 0) & (ours[0] > 0)
    off = np.percentile(np.abs(np.log10(density[seen] / ours[0][seen])), [50, 99])
    wrong = np.percentile(np.abs(velocity - ours[1])[seen], [50, 99])
    print(
        f"yt beside ours, median and 99 %: density {off[0]:.2g} and {off[1]:.2g} dex, velocity {wrong[0]:.2g} and "
        f"{wrong[1]:.2g} km/s; its mass is {density.sum() / ours[0].sum():.4f} of ours\n"
    )


def main() -> None:
    """Measure, print, draw."""
    parser = common.parser(__doc__)
    parser.add_argument("--stars", type=int, default=1_000_000, help="star particles (default: %(default)s)")
    parser.add_argument("--gas", type=int, default=300_000, help="gas particles (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=64, help="pixels along a side (default: %(default)s)")
    parser.add_argument("--beside", type=Path, help="another checkout of this project: compare speeds with it alone")
    args = parser.parse_args()
    galaxy, pixels = common.disc_galaxy(args.stars, args.gas), args.pixels
    stars, gas = galaxy.stars, galaxy.gas
    turns = sightlines(0, "bench", 32)
    turn = turns[0]
    half = 3 * half_mass_radius(np.hypot(*(stars.pos_kpc @ turn[:2].T).T), stars.mass_msun)
    if args.beside:
        beside_checkout(args.beside, galaxy, turns, half, pixels)
        return
    pixel = 2 * half / pixels
    ours = time_ours(galaxy, turns, half, pixels)
    box_kpc = 1.01 * max(
        np.abs(p.pos_kpc).max() + (0 if p.support_kpc is None else p.support_kpc.max()) for p in (stars, gas)
    )
    yt_stars = Yt(stars, box_kpc)
    _, yt_seconds = yt_maps(yt_stars, Yt(gas, box_kpc), turn, half, pixels)
    pynbody_seconds = time_pynbody(gas, turn, half, pixels)

    print(f"{len(stars)} stars, {len(gas)} gas, {pixels} x {pixels} pixels of {pixel:.3g} kpc, one thread")
    q = np.percentile(gas.support_kpc / pixel, [10, 50, 90])  # type: ignore[operator]
    print(f"kernel support / pixel: {q[0]:.2f} (10 %), {q[1]:.2f} (50 %), {q[2]:.2f} (90 %)\n")
    print_speeds(ours, yt_seconds, pynbody_seconds)
    compare_cells(gas, box_kpc, turns, half, pixels)
    gas_maps, peers = compare_maps(galaxy, yt_stars, box_kpc, turn, half, pixels)
    args.out.mkdir(parents=True, exist_ok=True)
    picture(args.out / "projection.png", gas_maps, peers)
    print(args.out / "projection.png")


if __name__ == "__main__":
    main()
