"""How near a training step comes to what the device can do: runs on a GPU, and on the CPU where there is none.

Measured first: the device's matrix multiply (the precision the encoders use) and its memory copy. Then the
fit's own steps, on random maps: views per second, operations per second (counted by torch's FlopCounterMode,
matrix multiplies and convolutions only) beside the first limit, and bytes per second (inputs and outputs of
every operator as torch calls it, nothing fused, views left out) beside the second. The step cannot take less
time than the larger of the two ideal times; the table of operators says where the rest goes. (A CPU's caches
are faster than its memory: there the share of memory may exceed 100 %.)
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench import common
from bench.store import records, write_store
from bench.training import fitter_of
from kinmass.gen.storage import store
from kinmass.train.loop.config import FitConfig


class BytesMoved(TorchDispatchMode):
    """A mode that adds up the bytes that operators read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator and add the bytes of its inputs and outputs, unless it only makes a view."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            values = tree_leaves((args, kwargs or {}, out))
            self.total += sum(
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


def main() -> None:
    """Make a store of random maps and measure on it."""
    parser = common.parser(__doc__)
    parser.add_argument("--batch", type=int, nargs="*", help="views a step (default: 64 256 1024 4096, on a CPU 64)")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--precision", default="auto", help="as of `kinmass fit`")
    parser.add_argument("--compile", action="store_true", help="torch.compile, on a GPU")
    parser.add_argument("--steps", type=int, default=0, help="steps timed (default: 100, on a CPU 8)")
    parser.add_argument("--rows", type=int, default=20, help="rows of the table of operators")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        path = Path(scratch) / "maps.zarr"
        write_store(path, records(48, 16, args.pixels), 1, 16, args.pixels)
        group = store.open_suite(path, "bench")
        group.attrs["config"] = group.attrs["config"] | {"field_of_view_re": 6.0}
        measure(args, path)


def measure(args: argparse.Namespace, path: Path) -> None:
    """Print a line per batch size, and the table of operators of the last one."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    half = gpu and args.precision in ("auto", "bf16")
    speed, bandwidth = limits(device, torch.bfloat16 if half else torch.float32)
    name = torch.cuda.get_device_name() if gpu else f"no GPU here: the CPU, {torch.get_num_threads()} thread(s)"
    print(f"{name}: {speed / 1e12:.3g} T operations/s by matrix multiply, {bandwidth / 1e9:.4g} GB/s by copying")
    rows: list[list[object]] = []
    for batch in args.batch or ([64, 256, 1024, 4096] if gpu else [64]):
        config = FitConfig(
            str(path), "both", ("bench",), width=args.width, batch=batch, steps=10**6, round_steps=10**6,
            precision=args.precision, compile=args.compile,
        )  # fmt: skip
        fitter = fitter_of(config)
        fitter.advance()
        fitter.agree_to_stop()
        counter, traffic = FlopCounterMode(display=False), BytesMoved()
        with counter:
            fitter._take_step()
        with traffic:
            fitter._take_step()
        per_call = fitter._check_every_steps
        calls = max(1, (args.steps or (100 if gpu else 8)) // per_call)
        step_s = seconds_of(partial(step_and_look, fitter), device, calls) / per_call
        ideal = counter.get_total_flops() / speed, traffic.total / bandwidth
        rows.append(
            [batch, batch / step_s, 1e3 * step_s, counter.get_total_flops() / 1e9, traffic.total / 1e6,
             f"{ideal[0] / step_s:.1%}", f"{ideal[1] / step_s:.1%}", f"{max(ideal) / step_s:.1%}"]
        )  # fmt: skip
    heads = ["batch", "views/s", "ms / step", "G operations", "MB moved", "of multiply", "of memory", "of the nearer"]
    common.table(heads, rows)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if gpu else [])
    with profile(activities=activities) as profiler:
        fitter.advance()
        fitter.agree_to_stop()
    print(profiler.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=args.rows))


if __name__ == "__main__":
    main()
