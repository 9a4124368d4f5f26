"""The command line of one stage alone: `python -m gen`, `python -m train` and `python -m eval`."""

import argparse
from collections.abc import Callable
from typing import Any


def add_command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """Add a command to what add_subparsers gives; its summary stands in the list of all and above its own --help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    return parser


def stage_parser(stage: str, description: str | None, add_commands: Callable[[Any], None]) -> argparse.ArgumentParser:
    """Return a parser that has the commands of one stage only; `add_commands` takes what add_subparsers gives."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {stage}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_commands(parser.add_subparsers(dest="command", required=True))
    return parser
