"""How near a training step comes to what the device can do: runs on a GPU, and on the CPU where there is none.

Measured first: the device's matrix multiply (the precision the encoders use) and its memory copy. Then the fit's own
steps, on random maps, in each way that a step can be done (MODES): milliseconds, views per second, operations per
second (counted by torch's FlopCounterMode, matrix multiplies and convolutions only) beside the first limit, and bytes
per second (inputs and outputs of every operator as torch calls it, nothing fused, views left out) beside the second.
The step cannot take less time than the larger of the two ideal times; the table of operators says where the rest goes.
(A CPU's caches are faster than its memory: there the share of memory may exceed 100 %.) How many operators a step has,
each at least one kernel that a GPU's host has to start, is counted on either.

Then whether all ways do the same: the gradient of one batch beside that of the usual way in float64, and the mean loss
of every tenth of the same fit. Last what three networks of an ensemble cost, in turn and as one stacked network.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench import common
from bench.store import write_store_to_fit
from bench.training import fitter_of
from kinmass.gen.instruments import looks
from kinmass.gen.instruments.observe import CHANNELS
from kinmass.train.loop.config import FitConfig
from kinmass.train.loop.fitter import Fitter
from kinmass.train.loop.recorded import CALLS_BEFORE
from kinmass.train.run.ensemble import Members

#: Operators whose result the host has to know before it goes on: each makes it wait for a GPU.
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero")


class Counted(TorchDispatchMode):
    """A mode that counts operators that do more than make a view, those the host waits for, and the bytes they move."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.operators = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator, and count it with the bytes of its inputs and outputs, unless it only makes a view."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operators += 1
            self.waits += func.overloadpacket.__name__ in WAITS
            values = tree_leaves((args, kwargs or {}, out))
            self.bytes += sum(
                value.numel() * value.element_size() for value in values if isinstance(value, torch.Tensor)
            )
        return out


def step_and_look(fitter: Any) -> None:
    """Do the steps that a fit does between two reads of its losses, and read them."""
    fitter.advance()
    fitter.agree_to_stop()


def seconds_of(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Mean seconds of one call; waits for the device before and after the calls."""

    def wait() -> None:
        """Wait until the device has done all that it was asked to do."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    call()
    call()
    wait()
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - began) / repeats


def limits(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Operations per second of a matrix multiply, and bytes per second of a copy (read and written)."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    array = torch.empty((2**30 if device.type == "cuda" else 2**26) // 4, device=device)
    operations_per_s = 2 * n**3 / min(seconds_of(lambda: a @ b, device, 5) for _ in range(3))
    bytes_per_s = 8 * array.numel() / min(seconds_of(lambda: array.clone(), device, 5) for _ in range(3))
    return operations_per_s, bytes_per_s


#: Ways to do a step, as options of FitConfig. On a CPU there is the first alone.
MODES: dict[str, dict[str, bool]] = {
    "as usual": {"cuda_graph": False},
    "compiled": {"cuda_graph": False, "compile": True},
    "recorded": {"cuda_graph": True},
    "compiled, recorded": {"cuda_graph": True, "compile": True},
}


def ensemble_ms(store_path: Path, device: torch.device, views: int = 256, calls: int = 5) -> dict[str, float]:
    """Print and return milliseconds to infer the features of some views: one network, three in turn, three stacked."""
    config = FitConfig(str(store_path), "both", ("bench",))
    models = []
    for seed in range(3):
        fitter = fitter_of(replace(config, seed=seed))
        models.append(fitter.model.eval())
        fitter.loader.close()
    pixels = models[0].config.pixels
    maps = torch.rand(views, CHANNELS, pixels, pixels, device=device) + 0.5
    r_e = torch.full((views,), 3.0, device=device)
    times = {}
    for name, members in (
        ("one", Members(models[:1])),
        ("three in turn", Members(models, stacked=False)),
        ("three stacked", Members(models, stacked=True)),
    ):
        of_calls = []
        for _ in range(calls + 1):
            began_s = time.perf_counter()
            members.features(maps, r_e)[1].cpu()  # The device has to be done.
            of_calls.append(1e3 * (time.perf_counter() - began_s))
        times[name] = float(np.median(of_calls[1:]))
    common.table(
        [f"features of {views} views", "ms", "of one"],
        [[k, ms, f"{ms / times['one']:.2f}x"] for k, ms in times.items()],
    )
    return times


def main() -> None:
    """Make a store of random maps and measure on it."""
    parser = common.parser(__doc__)
    parser.add_argument("--batch", type=int, nargs="*", help="views a step (default: 64 256 1024 4096, on a CPU 64)")
    parser.add_argument(
        "--modes", nargs="*", choices=MODES, help="ways to do a step (default: all, on a CPU the first)"
    )
    parser.add_argument("--tracer", default="both", help="as of `kinmass fit` (default: %(default)s)")
    parser.add_argument("--instrument", default="ifu", help="as of `kinmass fit` (default: %(default)s)")
    parser.add_argument("--width", type=int, default=16, help="as of `kinmass fit` (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=32, help="pixels along a side (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="as of `kinmass fit`")
    parser.add_argument("--steps", type=int, default=0, help="steps timed (default: 200, on a CPU 8)")
    parser.add_argument("--rows", type=int, default=12, help="rows of each table of operators")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    args.batch = args.batch or ([64, 256, 1024, 4096] if gpu else [64])
    args.modes = args.modes or list(MODES)[: None if gpu else 1]
    args.steps = args.steps or (200 if gpu else 8)
    with common.scratch_folder(args.out) as scratch:
        path = scratch / "maps.zarr"
        write_store_to_fit(path, 48, 16, args.pixels)
        measure(args, path)
        compare(args, path)
        ensemble_ms(path, torch.device("cuda" if gpu else "cpu"))


def fitter_in(args: argparse.Namespace, path: Path, mode: str, batch: int, **options: Any) -> Fitter:
    """A fit that is about to take its first step, in one of MODES."""
    usual: dict[str, Any] = {"steps": 10**6, "round_steps": 10**6}
    usual |= {name: getattr(args, name) for name in ("instrument", "width", "precision")}
    return fitter_of(FitConfig(str(path), args.tracer, ("bench",), batch=batch, **(usual | MODES[mode] | options)))


def measure(args: argparse.Namespace, path: Path) -> None:
    """Print a line per way and batch size, and the tables of operators of the first and the last way."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    half = gpu and args.precision in ("auto", "bf16")
    speed, bandwidth = limits(device, torch.bfloat16 if half else torch.float32)
    name = torch.cuda.get_device_name() if gpu else f"no GPU here: the CPU, threads: {torch.get_num_threads()}"
    print(f"{name}, torch {torch.__version__}: {speed / 1e12:.3g} T operations/s by matrix multiply, ", end="")
    print(f"{bandwidth / 1e9:.4g} GB/s by copying")
    rows: list[list[object]] = []
    for batch in args.batch:
        counter, counted = FlopCounterMode(display=False), Counted()
        fitter = fitter_in(args, path, "as usual", batch)
        fitter.advance()
        with counter:
            fitter._take_step()
        with counted, patch.object(looks, "BRANCHES_ON", "none"):  # what a CPU leaves out, a GPU does
            fitter._take_step()
        fitter.loader.close()
        ideal = counter.get_total_flops() / speed, counted.bytes / bandwidth
        print(f"{batch} views a step: {counted.operators} operators, of which the host waits for {counted.waits}")
        usual_s = 0.0
        for mode in args.modes:
            fitter = fitter_in(args, path, mode, batch)
            step_and_look(fitter)  # What is compiled or recorded is, in these steps.
            calls = max(1, args.steps // fitter._check_every_steps)
            step_s = seconds_of(partial(step_and_look, fitter), device, calls) / fitter._check_every_steps
            usual_s = usual_s or step_s
            rows.append(
                [batch, mode, 1e3 * step_s, f"{usual_s / step_s:.2f}x", batch / step_s,
                 counter.get_total_flops() / 1e9, counted.bytes / 1e6,
                 *(f"{share / step_s:.1%}" for share in (*ideal, max(ideal)))]
            )  # fmt: skip
            if batch == args.batch[0] and mode in (args.modes[0], args.modes[-1]) and args.rows:
                print(f"{mode}, {batch} views a step:")
                operators(fitter, device, args.rows)
            fitter.loader.close()
    heads = ["batch", "step", "ms", "faster", "views/s", "G operations", "MB moved"]
    common.table([*heads, "of multiply", "of memory", "of the nearer"], rows)


def operators(fitter: Fitter, device: torch.device, rows: int) -> None:
    """Print where the time of the steps between two looks at the losses goes."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        step_and_look(fitter)
    print(profiler.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=rows))


def gradient_of(fitter: Fitter, calls: int) -> torch.Tensor:
    """The gradient (parameters,) of the first batch in double precision, as the last of several calls leaves it."""
    rows, maps = fitter.loader.next(0)
    for _ in range(calls):
        fitter._gradient(maps, torch.from_numpy(rows).to(fitter.device), fitter._batch_places)
    gradient = torch.cat([p.grad.flatten().double() for p in fitter.model.parameters() if p.grad is not None])
    fitter.loader.close()
    return gradient


def compare(args: argparse.Namespace, path: Path) -> None:
    """Print how far each way's gradient is from that in float64, and the losses of a fit done in each way."""
    batch, steps = args.batch[0], args.steps // 10
    exact = gradient_of(fitter_in(args, path, "as usual", batch, precision="float64"), 1)
    precisions = dict.fromkeys(("float32", args.precision))
    rows: list[list[object]] = []
    for mode in args.modes:
        for precision in precisions:
            gradient = gradient_of(fitter_in(args, path, mode, batch, precision=precision), CALLS_BEFORE + 2)
            off = float((gradient - exact).norm() / exact.norm())
            fitter, losses = fitter_in(args, path, mode, batch, precision=precision, steps=args.steps), []
            while fitter.step < args.steps:
                step_and_look(fitter)
                losses.append(float(fitter._round_sums[0]))
            fitter.loader.close()
            means = np.diff(np.interp(steps * np.arange(11), *cumulated(losses, args.steps)))
            rows.append([mode, precision, f"{off:.1e}", *(f"{loss / steps:.3f}" for loss in means)])
    common.table(["step", "precision", "gradient off", *(f"loss {i + 1}/10" for i in range(10))], rows)


def cumulated(sums: list[float], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps done, and the sum of the losses until then, at each look at them."""
    return np.linspace(0, steps, len(sums) + 1), np.array([0.0, *sums])


if __name__ == "__main__":
    main()
