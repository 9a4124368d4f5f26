"""The command line of one stage alone: `python -m gen`, `python -m train` and `python -m eval`."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: How many processes a launcher has started together, by what it calls it: srun, mpiexec of Open MPI and of MPICH.
_PROCESSES_STARTED = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpiexec", "PMI_SIZE": "mpiexec"}


def several_processes() -> str:
    """Return in words that a launcher has started this process with others, as `srun started 4 processes`; else "".

    >>> several_processes()
    ''
    """
    for name, launcher in _PROCESSES_STARTED.items():
        if (count := os.environ.get(name) or "1") != "1":
            return f"{launcher} started {count} processes"
    return ""


def imports_as_here() -> dict[str, str]:
    """Return variables with which a Python that is started imports from the working folder only where this one does.

    A `random.py` of the user's that lies there would be taken for Python's own.
    """
    return {} if {"", os.getcwd()} & set(sys.path) else {"PYTHONSAFEPATH": "1"}


def _at_home(value: Any) -> Any:
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value


class _Repeatable(argparse._StoreAction):
    """Stores an option; one of several values that is given twice has those of both, where the last alone would count.

    `--suites a --suites b` would train, or test, on b without a word. Paths may begin with ~, which shells leave as it
    is in `--out=~/maps.zarr`: a folder of that name would be made, and who removes it, removes the home.
    """

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Store the values, after those that are there."""
        values = [_at_home(value) for value in values] if isinstance(values, list) else _at_home(values)
        before: Any = getattr(namespace, self.dest, None)
        if self.option_strings and before is not self.default:
            if self.nargs == "+":
                values = [*before, *values]
            elif self.dest == "suites":
                values = f"{before},{values}"
        setattr(namespace, self.dest, values)


def add_command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """Add a command to what add_subparsers gives; its summary stands in the list of all and above its own --help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        allow_abbrev=False,  # `maps --galaxies 4` would be --galaxies-per-shard
    )
    parser.register("action", None, _Repeatable)
    return parser


def stage_parser(stage: str, description: str | None, add_commands: Callable[[Any], None]) -> argparse.ArgumentParser:
    """Return a parser that has the commands of one stage only; `add_commands` takes what add_subparsers gives."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {stage}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_commands(parser.add_subparsers(dest="command", required=True))
    return parser


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of a command line; ends with exit code 2, and a sentence, where they are wrong.

    So it does where NUMBA_NUM_THREADS is no number of threads, which a script may have got by dividing cores: numba
    refuses it, or warns of it, deep inside each command that loads it. An empty one is taken for none.
    """
    args = parser.parse_args(arguments)
    text = os.environ.get("NUMBA_NUM_THREADS", "1").strip()
    if not text:
        del os.environ["NUMBA_NUM_THREADS"]
    try:
        threads = int(text or 1)
    except ValueError:
        threads = 0
    if threads < 1:
        parser.error(f"the variable NUMBA_NUM_THREADS is {text!r}; set it to 1 or more, or unset it")
    return args
