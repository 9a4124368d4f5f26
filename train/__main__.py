"""A map store in, a probabilistic network that infers the mass profile out.

  python -m train fit --store maps.zarr --tracer both --out runs/both
  torchrun --nproc-per-node 4 -m train fit --store maps.zarr --tracer both --out runs/both
  tensorboard --logdir runs          watch losses, dispersion and bias while it runs

The run folder holds the weights, the configuration and TensorBoard curves. The same command
again goes on where a stopped run stood; a finished run is left alone.
"""

import argparse
import sys
from pathlib import Path

from train.checkpoint import member_folders
from train.fit import PRECISIONS, FitConfig, NonFinite, Stopped, fit_ensemble


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("fit", help="train one network", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    one.add_argument("--store", type=Path, required=True, help="map store made by `python -m gen maps`")
    one.add_argument("--tracer", required=True, help="gas, stars, both, or any: one network for whichever there is")
    one.add_argument("--suites", help="suites to train on, comma-separated; all of the store where left out")
    one.add_argument("--out", type=Path, required=True, help="run folder to write or to go on with")
    one.add_argument("--instrument", default="ifu", help="how views are observed: ifu, clean or a YAML file")
    for name, kind, text in (
        ("encoder", str, "polar, residual or plain"),
        ("head", str, "posterior density: flow, mixture or gaussian"),
        ("norm", str, "normalisation of activations: group or batch"),
        ("inputs", str, "scale_free or raw"),
        ("width", int, "channels of the first convolution"),
        ("galaxies", int, "training galaxies at most; 0 for all"),
        ("views", int, "views of each at most; 0 for all"),
        ("members", int, "networks of a deep ensemble, trained one after another with seeds that follow"),
        ("steps", int, "optimiser steps at most"),
        ("round-steps", int, "steps between validations"),
        ("patience", int, "rounds without improvement before stopping"),
        ("batch", int, "views per step, over all processes"),
        ("learning-rate", float, "at its peak"),
        ("weight-decay", float, "of AdamW"),
        ("seed", int, "of weights, batches and noise"),
        ("precision", str, f"of the encoders: {', '.join(PRECISIONS)}; auto is bf16 on GPUs, float32 else"),
        ("checkpoint-minutes", float, "between checkpoints inside a round"),
        ("memory-gb", float, "for maps, per node; 0 is half of what is free. A larger store is streamed"),
    ):
        default = FitConfig.__dataclass_fields__[name.replace("-", "_")].default
        one.add_argument(f"--{name}", type=kind, default=default, help=text)
    one.add_argument("--compile", action="store_true", help="torch.compile, on GPUs")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; exit code 0 when trained, 1 when the loss diverged, 2 when it could not start or end.

    75 when it was stopped (SIGTERM, SIGUSR2, SIGINT) with a checkpoint: the same command goes on.
    """
    from gen.store import suites

    args = _parser().parse_args(arguments)
    try:
        chosen = tuple(args.suites.split(",")) if args.suites else tuple(suites(args.store))
        options = {
            k: v for k, v in vars(args).items() if k in FitConfig.__dataclass_fields__ and k not in ("store", "suites")
        }
        runs = fit_ensemble(FitConfig(store=str(args.store), suites=chosen, **options), args.out)
    except NonFinite as error:
        print(f"train fit: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"train fit: {stopped}", file=sys.stderr)
        return 75
    except (ValueError, OSError) as error:
        print(f"train fit: {error}", file=sys.stderr)
        return 2
    for folder, content in zip(member_folders(args.out, len(runs)), runs, strict=True):
        best = content["best"]
        print(
            f"{folder}: best after {best['step']} of {content['steps']} steps, validation loss {best['loss']:.2f}, "
            f"dispersion {best['dispersion']:.3f} dex, bias {best['bias']:+.3f} dex"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
