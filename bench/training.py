"""What feeding the network costs: `kinmass fit` beside the same steps on maps that lie in a tensor.

Printed: views per second and the share of time that waits for maps, from memory and streamed from the store
(with --share, a quarter, of the memory its maps would take), on one process and on two with a thread each; and a
torch DataLoader that reads the store view by view, as one would write it first, next to the loader alone; and a step
through the instrument `survey` beside one through `ifu`.
Validation is left out: rounds are as long as the run. The store is made here, from one galaxy's maps.

  python -m bench.training                      all of it
  python -m bench.training --only instruments   a step through `survey` beside one through `ifu` alone
  python -m bench.training --beside CHECKOUT    a step of this code beside one of another checkout alone
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench import common
from bench.store import write_store_to_fit
from kinmass.gen.instruments.observe import observe
from kinmass.gen.storage import store
from kinmass.gen.storage.files import write_atomically
from kinmass.train.data import loader
from kinmass.train.data.sampler import draws
from kinmass.train.launch.ports import free_port
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fitter import Fitter
from kinmass.train.loop.prepare import prepare
from kinmass.train.model.scaling import flip_sky


class ViewByView(Dataset):
    """A torch dataset whose items are single views, each read from the store on demand."""

    def __init__(self, path: Path):
        group = store.open_suite(path, "bench")
        self.maps, self.views = group["maps"], group["maps"].shape[1]

    def __len__(self) -> int:
        return self.maps.shape[0] * self.views

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.from_numpy(self.maps[i // self.views, i % self.views])


def fitter_of(config: FitConfig, window: int = 0) -> Fitter:
    """A Fitter on the benchmark's store, ready to step, with its maps in memory (window 0) or streamed."""
    return prepare(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"), window=window).fitter


def bare_step(fitter: Fitter) -> Callable[[], None]:
    """The limit: a step of augmentation, network and optimiser on one batch in memory, without loader and losses."""
    rows, maps = fitter.loader.next(0)
    index = torch.from_numpy(rows)
    r_e, truth, field_of_view_re = fitter._r_e[index], fitter._truth[index], fitter.loader.galaxies.field_of_view_re

    def step() -> None:
        """Take the step."""
        bits, noise = draws(fitter._batch_places, maps.shape[-1], 0)
        observed = observe(flip_sky(maps, bits & 15), fitter.instrument, noise, field_of_view_re, r_e)
        fitter.optimiser.zero_grad()
        (-fitter.model(observed, r_e, truth, fitter._alone_weight > 0).mean()).backward()
        torch.nn.utils.clip_grad_norm_(fitter.model.parameters(), 5.0)
        fitter.optimiser.step()

    return step


def beside_the_limit(held: Fitter, streamed: Fitter, steps: int, seconds: float) -> tuple[dict[str, np.ndarray], ...]:
    """Views per second of the limit and of both fits' own steps, and the share of their time that waits for maps.

    Blocks of `steps` steps of each alternate, so that other work on the machine affects all alike; the arrays have a
    number for each block, and those of one place are compared with each other. A block has several windows of
    `streamed`: only its last window can be read while others step.
    """
    limit_step = bare_step(held)

    def advance(fitter: Fitter | None) -> int:
        """Take some steps of a fit, or (None) one of the limit; return how many."""
        if fitter is None:
            limit_step()
            return 1
        taken = fitter.advance()
        fitter.agree_to_stop()
        return taken

    fitters = {"limit": None, "memory": held, "streamed": streamed}
    rates: dict[str, list[float]] = {name: [] for name in fitters}
    waits: dict[str, list[float]] = {name: [] for name in fitters}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(rates["limit"]) < 5:
        for name, fitter in fitters.items():
            start, waited_before, taken = time.perf_counter(), fitter._waited_s if fitter else 0.0, 0
            while taken < steps:
                taken += advance(fitter)
            elapsed_s = time.perf_counter() - start
            rates[name].append(held.config.batch * taken / elapsed_s)
            waits[name].append(((fitter._waited_s if fitter else 0.0) - waited_before) / elapsed_s)
    return tuple({name: np.array(x[1:]) for name, x in numbers.items()} for numbers in (rates, waits))


def step_ms(fitters: dict[str, Fitter], seconds: float) -> dict[str, float]:
    """Median time of a step [ms] of several fits, whose steps alternate, so that other work affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in fitters}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or min(map(len, times.values())) < 6:
        for name, fitter in fitters.items():
            start = time.perf_counter()
            fitter.advance()
            fitter.agree_to_stop()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def through_instruments(config: FitConfig, seconds: float) -> dict[str, dict[str, float]]:
    """Print and return what a step costs through `survey`, told how views were taken, beside one through `ifu`."""
    found = {}
    for tracer in ("gas", "stars", "both", "any"):
        fitters = {name: fitter_of(replace(config, tracer=tracer, instrument=name)) for name in ("ifu", "survey")}
        found[tracer] = step_ms(fitters, seconds)
        for fitter in fitters.values():
            fitter.loader.close()
    rows = [[t, ms["ifu"], ms["survey"], f"{ms['survey'] / ms['ifu']:.2f}x"] for t, ms in found.items()]
    common.table(["a step of [ms]", "through ifu", "through survey", "wanted 1.3x"], rows)
    return found


#: Takes a step of the default fit for every line that it reads, and prints how long it took [ms].
STEPS = """
import argparse, json, sys, time
from pathlib import Path
import torch
from bench.training import fitter_of, store_to_fit
torch.set_num_threads(1)
fitter = fitter_of(store_to_fit(argparse.Namespace(**json.loads(sys.argv[2])), Path(sys.argv[1])))
for _ in sys.stdin:
    began = time.perf_counter()
    fitter.advance()
    fitter.agree_to_stop()
    print(1e3 * (time.perf_counter() - began), flush=True)
"""


def beside_checkout(checkout: Path, args: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """Print and return the median time [ms] of a step of `both` through `ifu` of this code and of another checkout.

    Each has a process of its own; their steps alternate.
    """
    sizes = json.dumps(
        {name: getattr(args, name) for name in ("galaxies", "views", "pixels", "per_shard", "width", "batch")}
    )
    running = {}
    for name, root in common.checkouts(checkout).items():
        argv = [sys.executable, "-c", STEPS, str((scratch / f"{name}.zarr").resolve()), sizes]
        env = common.environment(root)
        running[name] = subprocess.Popen(
            argv, cwd=root, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
    times: dict[str, list[float]] = {name: [] for name in running}
    began = time.perf_counter()
    while time.perf_counter() - began < 4 * args.seconds or len(times["beside"]) < 12:
        for name, process in running.items():
            assert process.stdin
            assert process.stdout
            process.stdin.write("step\n")
            times[name].append(float(process.stdout.readline()))
    for process in running.values():
        process.communicate()
    found = {name: float(np.median(values[3:])) for name, values in times.items()}
    common.table(
        ["a step of both through ifu [ms]", *found, ""],
        [["", *found.values(), f"{found['this code'] / found['beside']:.2f}x"]],
    )
    return found


def fed_per_second(next_batch: Any, seconds: float) -> float:
    """Views per second of a loader alone; next_batch(step) gives a batch."""
    next_batch(0)
    steps, views, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        steps += 1
        views += len(next_batch(steps))
    return views / (time.perf_counter() - began)


def processes(config: FitConfig, out: Path, number: int, steps: int) -> float:
    """Views per second of `kinmass fit` as `number` processes with a thread each, as it records them itself."""
    port = str(free_port())
    argv = [sys.executable, "-m", "train", "fit", "--store", config.store, "--tracer", config.tracer, "--out", str(out),
            "--steps", str(steps), "--round-steps", str(steps), "--width", str(config.width),
            "--batch", str(config.batch)]  # fmt: skip
    running = []
    for rank in range(number):
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(common.ROOT), "MASTER_ADDR": "127.0.0.1"}
        env |= {"RANK": str(rank), "WORLD_SIZE": str(number), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
        running.append(subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    if any(process.wait() for process in running):
        raise SystemExit(f"{' '.join(argv)} failed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard")).Reload()
    return float(events.Scalars("samples_per_second")[-1].value)


def main() -> None:
    """Measure in a scratch folder below --out."""
    parser = common.parser(__doc__)
    parser.add_argument("--galaxies", type=int, default=256, help="in the store (default: %(default)s)")
    parser.add_argument("--views", type=int, default=8, help="views of each galaxy (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=32, help="pixels along a side (default: %(default)s)")
    parser.add_argument("--per-shard", type=int, default=1, help="galaxies in one file of the store's arrays")
    parser.add_argument("--share", type=float, default=0.25, help="of the maps' memory, to stream with")
    parser.add_argument("--width", type=int, default=16, help="as of `kinmass fit` (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="views of a step (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of the runs on one and two processes")
    parser.add_argument("--beside", type=Path, help="another checkout of this project: compare steps with it alone")
    parser.add_argument("--only", choices=["instruments"], help="measure this alone, into training-ONLY.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with common.scratch_folder(args.out) as scratch:
        if args.beside:
            steps_ms = beside_checkout(args.beside, args, scratch)
            write_atomically(args.out / "training-beside.json", json.dumps(steps_ms))
            return
        config = store_to_fit(args, scratch / "maps.zarr")
        if args.only == "instruments":
            steps = through_instruments(config, args.seconds)
            write_atomically(args.out / "training-instruments.json", json.dumps(steps))
        else:
            measure(args, config, scratch)


def measure(args: argparse.Namespace, config: FitConfig, scratch: Path) -> None:
    """Print all tables and write the figures to training.json, with the run folders in `scratch`."""
    held = fitter_of(config)
    galaxies = held.loader.galaxies
    gb = 4e-9 * int(np.prod(galaxies.shape)) * len(galaxies)
    window = loader.window_for(galaxies, args.share * gb, config.batch)
    streamed = fitter_of(config, window)
    print(
        f"{len(held.loader.table)} views of {len(galaxies)} galaxies, {args.pixels}^2 pixels, {gb:.2f} GB of maps; "
        f"batch {args.batch}, width {args.width}, {held.device.type}, threads: {torch.get_num_threads()}"
    )
    rates, waits = beside_the_limit(held, streamed, 4 * window, 4 * args.seconds)
    rows: list[list[Any]] = [["on a tensor, no loader (limit)", np.median(rates["limit"]), "100 %", "-", "-"]]
    for name, what in (("memory", "fit, maps in memory"), ("streamed", f"fit, streamed by {window} steps")):
        of_limit, of_memory = (np.median(rates[name] / rates[other]) for other in ("limit", "memory"))
        rows.append([what, np.median(rates[name]), f"{of_limit:.1%}", f"{of_memory:.1%}", f"{waits[name].mean():.1%}"])
    common.table(["steps", "views/s", "of the limit (wanted 95 %)", "of memory (95 %)", "waits for maps (3 %)"], rows)
    feed_rates = loader_rates(held, streamed, args.seconds)
    held.loader.close()
    streamed.loader.close()
    steps = through_instruments(config, args.seconds)
    both = process_rates(config, scratch, args.steps)
    figures: dict[str, Any] = {name: float(np.median(rate)) for name, rate in rates.items()}
    figures |= {"loaders": feed_rates, "processes": both}
    figures["instruments"] = steps
    write_atomically(args.out / "training.json", json.dumps(figures))


def store_to_fit(args: argparse.Namespace, path: Path) -> FitConfig:
    """Write the store that all fits read, and the settings of a fit on it that never ends."""
    write_store_to_fit(path, args.galaxies, args.views, args.pixels, args.per_shard)
    return FitConfig(str(path), "both", ("bench",), width=args.width, batch=args.batch, steps=10**6, round_steps=10**6)


def loader_rates(held: Fitter, streamed: Fitter, seconds: float) -> dict[str, float]:
    """Print and return views per second of the loaders alone: torch's DataLoader and those of both fits."""
    path, batch_size = Path(held.config.store), held.config.batch
    plain_loader = iter(DataLoader(ViewByView(path), batch_size, shuffle=True))

    def one_by_one(_: int) -> torch.Tensor:
        """Return the DataLoader's next batch, from a new epoch where one has ended."""
        nonlocal plain_loader
        batch = next(plain_loader, None)
        if batch is None:
            plain_loader = iter(DataLoader(ViewByView(path), batch_size, shuffle=True))
            batch = next(plain_loader)
        return batch

    plain = fed_per_second(one_by_one, seconds)
    steps_ahead = iter(range(10**9))
    feed_rates = {
        "DataLoader, view by view": plain,
        "streamed": fed_per_second(lambda _: streamed.loader.next(streamed.step + 1 + next(steps_ahead))[1], seconds),
        "in memory": fed_per_second(lambda step: held.loader.next(step)[1], seconds / 2),
    }
    common.table(
        ["loader alone", "views/s", "of the DataLoader (wanted 10x)"],
        [[name, rate, f"{rate / plain:.1f}x"] for name, rate in feed_rates.items()],
    )
    return feed_rates


def process_rates(config: FitConfig, scratch: Path, steps: int) -> dict[int, list[float]]:
    """Print and return views per second of fits as one and as two processes, by the views of a batch.

    A step has a fixed part (some 20 of 100 ms on a CPU): small shares of a batch scale less well than large ones.
    """
    both = {}
    for batch in (config.batch, 2 * config.batch, 4 * config.batch):
        larger = replace(config, batch=batch)
        n_steps = steps * config.batch // batch
        both[batch] = [processes(larger, scratch / f"run-{batch}-{n}", n, n_steps) for n in (1, 2)]
    common.table(
        ["batch", "1 process, views/s", "2 processes, views/s", "speed-up (wanted 1.7x)"],
        [[batch, one, two, f"{two / one:.2f}x"] for batch, (one, two) in both.items()],
    )
    return both


if __name__ == "__main__":
    main()
