"""A map store in, a probabilistic network that infers the mass profile out.

  kinmass fit --store maps.zarr --tracer both --out runs/both
  torchrun --nproc-per-node 4 -m kinmass fit --store maps.zarr --tracer both --out runs/both
  kinmass launch --store maps.zarr --array gas,stars,both --nodes 4 --gpus-per-node 4 --time 8h --out runs
  kinmass status runs
  tensorboard --logdir runs          watch losses, dispersion and bias while it runs

The run folder holds the weights, the configuration and TensorBoard curves. The same command
again goes on where a stopped run stood; a finished run is left alone.
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kinmass.gen.command import add_command, parse, stage_parser
from kinmass.gen.errors import named, sentence
from kinmass.gen.streams import standard_streams
from kinmass.train.loop.config import PRECISIONS, ROBUST, FitConfig

#: Options of `launch` that override the site file, and their help.
_SITE_OPTIONS = {
    "account": "sbatch --account", "partition": "sbatch --partition", "qos": "sbatch --qos",
    "constraint": "sbatch --constraint", "wckey": "sbatch --wckey", "cpus_per_task": "processor cores per process",
    "sbatch_extra": "more options for sbatch, in one word: --sbatch-extra='--mem=64G --exclusive'",
}  # fmt: skip


def add_commands(commands: Any) -> None:
    """Add this stage's commands to `commands`, of argparse's add_subparsers."""
    fit_parser = add_command(commands, "fit", "train one network")
    fit_parser.add_argument("--store", type=Path, required=True, help="map store made by `kinmass maps`")
    fit_parser.add_argument(
        "--tracer", required=True, help="gas, stars, both, or any: one network for whichever there is"
    )
    fit_parser.add_argument("--out", type=Path, required=True, help="run folder to write or to go on with")
    _add_fit_options(fit_parser)
    _add_launch_options(add_command(commands, "launch", "train in jobs of Slurm, or in the background"))
    widen_parser = add_command(commands, "widen", "have intervals hold for simulations of another kind, too")
    widen_parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder of `kinmass fit`; unseen.json is changed"
    )
    widen_parser.add_argument(
        "--store", type=Path, required=True, help="map store of simulations of another kind than those trained on"
    )
    widen_parser.add_argument("--suites", help="its suites to hold, comma-separated; all of them where left out")
    status_parser = add_command(commands, "status", "say how every run below a folder stands")
    status_parser.add_argument("out", type=Path, metavar="RUNS", help="run folder, or a folder that holds some")
    status_parser.add_argument(
        "--jobs", action="store_true", help="print only the jobs under way, as 12:13, for scripts"
    )
    status_parser.add_argument(
        "--wait",
        action="store_true",
        help="wait until no run is queued or running; exit code 1 unless all are finished",
    )


def _add_launch_options(launch_parser: argparse.ArgumentParser) -> None:
    launch_parser.add_argument(
        "--out", type=Path, required=True, help="run folder, or with --array the folder of run folders"
    )
    launch_parser.add_argument("--store", type=Path, required=True, help="map store made by `kinmass maps`")
    launch_parser.add_argument("--tracer", help="gas, stars, both or any")
    launch_parser.add_argument(
        "--array",
        nargs="+",
        metavar=("TRACERS", "x SUITES"),
        help='a job per tracer and set of suites: "gas,stars,both x bursty,quiet,bursty+quiet"; '
        "run folders are OUT/TRACER-on-SUITES, or OUT/TRACER where it is all suites",
    )
    launch_parser.add_argument(
        "--cluster",
        default="slurm",
        choices=("slurm", "local", "debug"),
        help="slurm (if left out), local: in the background of this machine, debug: here and now",
    )
    launch_parser.add_argument("--nodes", type=int, default=1, help="nodes per job")
    launch_parser.add_argument("--gpus-per-node", type=int, help="GPUs per node, with a process each")
    launch_parser.add_argument("--processes-per-node", type=int, help="processes per node where there are no GPUs")
    launch_parser.add_argument("--time", help="time limit per job, like 8h, 90m, 1-12:00:00; 8h on Slurm if left out")
    launch_parser.add_argument(
        "--at-once", type=int, help="jobs that may run at the same time; if left out all, locally one"
    )
    launch_parser.add_argument(
        "--after", metavar="JOB", help="start when this job of Slurm, which fills the store, ended well"
    )
    launch_parser.add_argument(
        "--site", type=Path, help="site settings; $KINMASS_SITE or slurm/site.env if left out and there is one"
    )
    for name, text in _SITE_OPTIONS.items():
        launch_parser.add_argument(f"--{name.replace('_', '-')}", help=text)
    launch_parser.add_argument("--dry-run", action="store_true", help="show what would be submitted, and queue nothing")
    _add_fit_options(launch_parser)


def _batch(text: str) -> int:
    """Return a number of views, 0 for `auto`. Raises ArgumentTypeError for 0 and for what is no number."""
    if text == "auto":
        return 0
    if not re.fullmatch(r"-?\d+", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"batch must be at least 1, or auto, not {text!r}")
    return int(text)


#: Options of a fit that are settings of `FitConfig`, with the default that is there: name, type, help.
_FIT_OPTIONS: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    ("encoder", str, "polar, residual or plain"),
    ("head", str, "posterior density: flow, mixture or gaussian"),
    ("norm", str, "normalisation of activations: group or batch"),
    ("inputs", str, "scale_free, relative (densities too are known up to a factor only) or raw"),
    ("join", str, "how tracers are joined: concat, gated or attention"),
    ("width", int, "channels of the first convolution"),
    ("galaxies", int, "lineages to train on at most, with all snapshots of each; 0 for all"),
    ("views", int, "views of each galaxy at most; 0 for all"),
    ("members", int, "networks of a deep ensemble, trained one after another with seeds that follow"),
    ("steps", int, "steps of the optimiser at most"),
    ("round-steps", int, "steps between validations"),
    ("patience", int, "rounds without improvement before stopping; 0 to go on to the end of the schedule"),
    ("batch", _batch, "views per step, over all processes; auto: 256 for each GPU, and the rate that suits them"),
    ("learning-rate", float, "learning rate at its peak"),
    ("weight-decay", float, "weight decay of AdamW"),
    ("ema", float, "keep the mean of weights over so many steps; 0 for those of the last step"),
    ("alone-weight", float, "weight, in the loss of `both`, of what each tracer says by itself"),
    ("seed", int, "seed of weights, batches and noise"),
    ("scale-dex", float, "vary galaxies' velocities by this standard deviation [dex], lengths and masses with them"),
    ("light-dex", float, "vary each tracer's surface density by this [dex], as mass-to-light ratios err"),
    ("heat", float, "add dispersion at the cost of rotation: its rms over views, over the circular velocity"),
    ("tilt", float, "vary the slope of log10 M against log10 r by this standard deviation, velocities with it"),
    ("fade", float, "share of views of which only the brightest pixels are seen"),
    ("no-dispersion", float, "share of views without a dispersion, for galaxies of which none was measured"),
    ("radius-dex", float, "take R_e for too small or too large by this much, as observers' half-light radii err (dex)"),
    ("precision", str, f"precision of the encoders: {', '.join(PRECISIONS)}; auto is bf16 on GPUs that have it"),
    ("checkpoint-minutes", float, "minutes between checkpoints inside a round"),
    (
        "memory-gb",
        float,
        "memory for maps, per node [GB]; 0 is half of what is free, shared by fits at once. A larger store is streamed",
    ),
)


def _add_fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suites", help="suites to train on, comma-separated; all of the store where left out")
    parser.add_argument(
        "--instrument",
        help="how views are observed: ifu, clean, survey (all of it), manga, califa, sami, muse, sauron, alma-co, hi "
        "or a YAML file, which may have ranges (default: ifu)",
    )
    for name, kind, text in _FIT_OPTIONS:
        default = FitConfig.__dataclass_fields__[name.replace("-", "_")].default
        parser.add_argument(f"--{name}", type=kind, help=f"{text} (default: {default})")
    parser.add_argument(
        "--told",
        action=argparse.BooleanOptionalAction,
        help="the network sees how a view was taken: errors, PSF and more (default: where the instrument varies)",
    )
    parser.add_argument(
        "--start-from",
        nargs="+",
        metavar="RUN",
        help="begin with the weights of trained runs: all of one of the same tracer, encoders of those of others",
    )
    parser.add_argument(
        "--leave-one-suite-out",
        action="store_true",
        help="fit once more without each suite, for intervals that hold on unseen suites and real galaxies",
    )
    parser.add_argument(
        "--families",
        nargs="+",
        metavar="A+B",
        help="suites of one code or generator, which --leave-one-suite-out leaves out together",
    )
    parser.add_argument(
        "--robust",
        action="store_true",
        help="for galaxies of other simulations, or real ones: --leave-one-suite-out and, each where it is not given, "
        + "; ".join(
            f"with {'gas alone' if tracer == 'gas' else 'stars'} "
            + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in options.items())
            for tracer, options in ROBUST.items()
        ),
    )
    parser.add_argument("--compile", action="store_true", help="compile the network by torch.compile, on GPUs only")
    parser.add_argument(
        "--cuda-graph",
        action=argparse.BooleanOptionalAction,
        help="on GPUs, record the work of a step once and replay it (default: yes)",
    )


def _fit_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options for FitConfig.from_options that the user gave, without store, suites and tracer.

    `launch` sets these three for each of its fits.
    """
    names = {*FitConfig.__dataclass_fields__, "robust"} - {"store", "suites", "tracer"}
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def _status(args: argparse.Namespace) -> int:
    from kinmass.train.launch.status import require_any, states, under_way, wait

    if args.jobs:
        print(":".join(under_way(args.out)))
        return 0
    if args.wait:
        return int(any(state.name != "finished" for state in wait(args.out, partial(print, flush=True))))
    print("\n".join(map(str, require_any(states(args.out), args.out))))
    return 0


def _widen(args: argparse.Namespace) -> int:
    from kinmass.gen.storage.store import named_suites
    from kinmass.train.run.widening import widen

    suites = widen(args.run, args.store, named_suites(args.store, args.suites))
    print(f"{args.run}: intervals for suites not trained on are those that hold for {', '.join(suites)}, taken alike")
    return 0


def _launch(args: argparse.Namespace) -> int:
    from kinmass.gen.storage.store import named_suites, suites
    from kinmass.train.launch import resources
    from kinmass.train.launch import submission as launch

    if (args.tracer is None) == (args.array is None):
        raise resources.LaunchError("give either --tracer or --array")
    if args.array and args.suites:
        raise resources.LaunchError("--array names the suites itself: leave --suites out")
    site = resources.read_site(args.site)
    site |= {name.upper(): value for name in _SITE_OPTIONS if (value := getattr(args, name)) is not None}
    if args.partition is not None:
        site.pop("GPU_PARTITION", None)
    job_resources = resources.resources(
        args.cluster, site, args.nodes, args.gpus_per_node, args.processes_per_node, args.time, args.at_once,
        args.after,
    )  # fmt: skip
    if args.array:
        pairs = resources.combinations(" ".join(args.array), store_suites := suites(args.store))
        if any(set(of_job) == set(store_suites) for _, of_job in pairs):
            named_suites(args.store, None)  # Raises StoreError where these are not all.
    else:
        pairs = [(args.tracer, tuple(named_suites(args.store, args.suites)))]
    runs = launch.plan_runs(args.store, args.out, pairs, bool(args.array), args.after is None, **_fit_options(args))
    return launch.launch(runs, job_resources, args.out, args.dry_run)


def run(args: argparse.Namespace, arguments: list[str] | None = None) -> int:
    """Run one command; return exit code 0 when trained, 1 when the loss diverged, 2 when it could not start or end.

    75 when it was stopped (SIGTERM, SIGUSR2, SIGINT) with a checkpoint: the same command goes on from there.
    """
    with named(args.command, arguments):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    import torch

    from kinmass.gen.storage.store import named_suites
    from kinmass.train.loop.fit import Stopped, fit_ensemble
    from kinmass.train.loop.fitter import NonFinite
    from kinmass.train.run.checkpoint import member_folders

    try:
        if args.command != "fit":
            return {"launch": _launch, "status": _status, "widen": _widen}[args.command](args)
        chosen_suites = tuple(named_suites(args.store, args.suites))
        runs = fit_ensemble(
            FitConfig.from_options(str(args.store), args.tracer, chosen_suites, **_fit_options(args)), args.out
        )
    except NonFinite as error:
        print(f"kinmass {args.command}: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"kinmass {args.command}: {stopped}", file=sys.stderr)
        return 75
    except (ValueError, OSError) as error:
        print(f"kinmass {args.command}: {sentence(error)}", file=sys.stderr)
        return 2
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no more was given"
        print(
            f"kinmass {args.command}: memory does not suffice ({reason}); take a smaller --batch or --memory-gb",
            file=sys.stderr,
        )
        return 2
    for folder, content in zip(member_folders(args.out, len(runs)), runs, strict=True):
        best = content["best"]
        has_dispersion = "dispersion" in best
        dispersion = f"dispersion {best['dispersion']:.3f} dex" if has_dispersion else "no dispersion of one galaxy"
        print(
            f"{folder}: best after {best['step']} of {content['steps']} steps, validation loss {best['loss']:.2f}, "
            f"{dispersion}, bias {best['bias']:+.3f} dex"
        )
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of this stage's commands."""
    return stage_parser("train", __doc__, add_commands)


@standard_streams()
def main(arguments: list[str] | None = None) -> int:
    """Run `python -m train`, which has this stage's commands alone; return the exit code of `run`."""
    return run(parse(parser(), arguments), arguments)


if __name__ == "__main__":
    sys.exit(main())
