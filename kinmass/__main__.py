"""Simulations in, mass profiles of galaxies out.

simulations to maps
  kinmass mock --out mocks                            make three suites of mock galaxies to try it on
  kinmass check snap_099.hdf5 [--draft]               what a snapshot or a suite file holds; a suite file for it
  kinmass maps mine.yaml --out maps.zarr              map every galaxy of some suites (under mpiexec or srun: shared)
  kinmass maps mine.yaml --preview                    draw a few of its galaxies first: is all of it right?
  kinmass show maps.zarr                              which suites and galaxies a store holds
  kinmass export maps.zarr --suite mine --galaxy snap_099:0 --out fits   one of them, as FITS files

maps to a posterior
  kinmass fit --store maps.zarr --tracer both --out runs/both
  kinmass launch --store maps.zarr --array gas,stars,both --nodes 4 --gpus-per-node 4 --out runs
  kinmass status runs                                 how launched runs stand
  kinmass widen runs/both --store other.zarr          have intervals hold for simulations of another kind, too

posteriors to tables, and real galaxies
  kinmass tables runs --store maps.zarr --out results    dispersion, bias, calibration per tracer and suite
  kinmass conditions runs --store maps.zarr --out results   the same galaxies seen in many ways: blur, edges, noise
  kinmass gallery maps.zarr --runs runs               all galaxies as a local web page; `show` draws one of them
  kinmass report results                              figures and one HTML page; `show` prints the main lines
  kinmass compare runs/a runs/b --store maps.zarr     which of two runs is better, and is it chance?
  kinmass predict NGC4451.yaml                        the profile of an observed galaxy, which the YAML file describes

What was stopped goes on where it stood when the same command is given again. `kinmass COMMAND --help` says more.
"""

import argparse
import sys
from types import ModuleType

import shtab

from kinmass import __version__
from kinmass.eval import __main__ as eval_stage
from kinmass.gen import __main__ as gen_stage
from kinmass.gen.command import parse
from kinmass.gen.errors import say_interrupted_in_words
from kinmass.gen.streams import standard_streams
from kinmass.train import __main__ as train_stage


def parser() -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """Return the parser of all commands, and the stage module of each command."""
    parser = argparse.ArgumentParser(
        prog="kinmass",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="kinmass COMMAND",
    )
    parser.add_argument("--version", action="version", version=f"kinmass {__version__}")
    shtab.add_argument_to(
        parser, "--print-completion", help="print a script that completes commands and options in a shell"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog="kinmass")
    stages: dict[str, ModuleType] = {}
    for stage in (gen_stage, train_stage, eval_stage):
        stage.add_commands(commands)
        stages |= {name: stage for name in commands.choices if name not in stages}
    return parser, stages


@standard_streams()
def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code, which `run` of the command's stage explains."""
    say_interrupted_in_words()
    command_parser, stages = parser()
    args = parse(command_parser, arguments)
    return stages[args.command].run(args, arguments)  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main())
