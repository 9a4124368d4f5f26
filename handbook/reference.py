"""Reference pages from the code: commands, keys of YAML files, arrays of the store, columns of tables, docstrings."""

import argparse
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import griffe
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from kinmass.__main__ import parser
from kinmass.eval.observed.galaxy_file import GalaxyFile, TracerFiles
from kinmass.eval.tables.columns import MEANINGS, TABLES
from kinmass.gen.formats import FORMATS
from kinmass.gen.instruments.builtin import INSTRUMENTS
from kinmass.gen.instruments.model import Instrument, TracerNoise
from kinmass.gen.storage.store import ARRAYS
from kinmass.gen.suite import Suite

ROOT = Path(__file__).parents[1]

#: Modules whose docstrings are shown, per page.
API = {
    "gen": (
        "Simulations to maps",
        ["kinmass", "kinmass.gen.suite", "kinmass.gen.physics.particles", "kinmass.gen.physics.sightline",
         "kinmass.gen.physics.projection", "kinmass.gen.physics.profile", "kinmass.gen.snapshots.snapshot",
         "kinmass.gen.campaign.record", "kinmass.gen.storage.store", "kinmass.gen.instruments.model",
         "kinmass.gen.instruments.builtin", "kinmass.gen.instruments.observe", "kinmass.gen.export"],
    ),
    "train": (
        "Maps to a posterior",
        ["kinmass.train.run.posterior", "kinmass.train.data.dataset", "kinmass.train.model.scaling",
         "kinmass.train.model.encoders", "kinmass.train.model.density", "kinmass.train.model.network",
         "kinmass.train.run.calibration", "kinmass.train.run.out_of_distribution", "kinmass.train.loop.config"],
    ),
    "eval": (
        "Tables and real galaxies",
        ["kinmass.eval.observed.inference", "kinmass.eval.observed.profile", "kinmass.eval.observed.galaxy",
         "kinmass.eval.observed.sky", "kinmass.eval.observed.verdict", "kinmass.eval.tables.metrics",
         "kinmass.eval.tables.calibration", "kinmass.eval.classical.estimators", "kinmass.eval.report.figures",
         "kinmass.eval.report.galaxies"],
    ),
}  # fmt: skip


def pages() -> dict[str, str]:
    """Return the generated pages as Markdown, by their paths below docs/."""
    made = {
        "reference/commands.md": commands(),
        "reference/suite-file.md": suite_file(),
        "reference/instrument-file.md": instrument_file(),
        "reference/galaxy-file.md": galaxy_file(),
        "reference/store.md": store(),
        "reference/columns.md": columns(),
    }
    return made | {f"reference/api-{stage}.md": api(title, modules) for stage, (title, modules) in API.items()}


def _page(*parts: str) -> str:
    return "\n\n".join(parts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return a cell's text, in which pipes would end the cell; those in code do not.

    >>> print(_cell("|d| of `a|b`"))
    \\|d\\| of `a|b`
    """
    return re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or r"\|", text)


# ---- commands


def commands() -> str:
    """Return a section for each command of `kinmass`: what it does, its usage and its options."""
    program = parser()[0]
    (group,) = [action for action in program._actions if isinstance(action, argparse._SubParsersAction)]
    summaries = {action.dest: action.help or "" for action in group._choices_actions}
    description = (program.description or "").strip()
    parts = [
        "# Commands",
        "Every command of `kinmass`, from its `--help`. Exit code 0: all is done. 2: nothing could be "
        "started, or not all be ended, and why is on stderr. 3: `maps` could not map some galaxies. 75: `fit` was "
        "stopped, and goes on from its checkpoint. 1: a fit diverged, `status --wait` found a run unfinished, or the "
        "program has a fault, whose traceback is on stderr.",
        f"```text\n{description}\n```",
    ]
    for name, command in group.choices.items():
        usage = command.format_usage().removeprefix("usage: ").strip()
        parts += [f"## kinmass {name}", _sentence(summaries[name]), f"```text\n{usage}\n```"]
        for title, actions in _groups(command):
            rows = [(_invocation(action), _linked(_help(command, action))) for action in actions]
            parts += [f"**{title}**"] if title else []
            parts += [_table(("option", "meaning"), rows)]
    return _page(*parts)


def _groups(command: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    for group in command._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions:
            title = (group.title or "").capitalize()
            yield ("" if title in ("Positional arguments", "Options") else title), actions


def _invocation(action: argparse.Action) -> str:
    """Return how an option is typed: `--views N`."""
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    if action.choices is not None and action.metavar is None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    words = " ".join(value) if isinstance(value, tuple) else value
    typed = ", ".join(action.option_strings)
    required = ", required" if action.required and action.option_strings else ""
    return f"`{f'{typed} {words}'.strip()}`{required}"


def _help(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    return (action.help or "") % (vars(action) | {"prog": command.prog})


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _linked(text: str) -> str:
    """Return help with the pages that it names as links."""
    return re.sub(r"docs/([\w/-]+)\.md", lambda m: f"[{m[1].split('/')[-1]}](../{m[1]}.md)", text)


# ---- YAML files


def suite_file() -> str:
    """Return the page of the suite file."""
    return _page(
        "# Suite file",
        "A YAML file that describes one suite of simulated galaxies, for `kinmass maps`. `kinmass check --draft "
        "SNAPSHOT` writes one to start from; [map your own simulation](../howto/simulation.md) leads through it. "
        "Unknown keys are refused.",
        _keys(Suite),
        f"`format` is one of {', '.join(f'`{name}`' for name in FORMATS)}.",
        "What formats and catalogues hold, in which units, is in [from snapshots to maps](../generation.md#halo-"
        "catalogues).",
    )


def instrument_file() -> str:
    """Return the page of the instrument file, and of the instruments that come with the project."""
    ours = ", ".join(f"`{name}`" for name in INSTRUMENTS)
    return _page(
        "# Instrument file",
        "A YAML file that says how views are observed, for `kinmass fit --instrument` and `kinmass export "
        "--instrument`. [Describe your own survey](../howto/survey.md) leads through it. Every key but `name` is "
        "off where left out. What is a *number or range* may be `[low, high]`: every look at a view draws its own, "
        "evenly in the logarithm where both ends are positive. A *look* is one time that training sees a view.",
        _keys(Instrument, without=("stars", "gas")),
        "## Each tracer",
        "Under `stars:` and under `gas:`.",
        _keys(TracerNoise),
        "## Instruments that come with kinmass",
        f"{ours}; their numbers and sources are in `gen/instruments/builtin.py`, and "
        "[instruments](../explanation/instruments.md) says what they are.",
    )


def galaxy_file() -> str:
    """Return the page of an observed galaxy's file."""
    return _page(
        "# Galaxy file",
        "A YAML file that describes an observed galaxy, for `kinmass predict`. [How to weigh a real galaxy]"
        "(../howto/galaxy.md) leads through it. Errors are standard deviations.",
        _keys(GalaxyFile),
        "## Each tracer",
        "Under `gas:` and under `stars:`. A map is `FILE`, `FILE[EXTENSION]` or `FILE[EXTENSION,PLANE]` of a cube, "
        "as `manga.fits[EMLINE_GVEL,23]`, beside the YAML file.",
        _keys(TracerFiles),
    )


def _keys(model: type[BaseModel], without: tuple[str, ...] = ()) -> str:
    """Return the table of a model's keys, those of its sections by `section.key`."""
    return _table(("key", "value", "where left out", "meaning"), list(_rows(model, "", without)))


def _rows(model: type[BaseModel], prefix: str, without: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if name in without:
            continue
        if (section := _section(field.annotation)) and section is not TracerFiles:
            yield from _rows(section, f"{prefix}{name}.", ())
            continue
        if field.is_required():
            default = f"**needed** with `{prefix[:-1]}`" if prefix else "**needed**"
        elif field.default is None or isinstance(field.default, BaseModel) or field.default is PydanticUndefined:
            default = ""
        else:
            default = f"`{field.default}`".lower() if isinstance(field.default, bool) else f"`{field.default}`"
        yield f"`{prefix}{name}`", _value(field), default, meaning_of(model, name)


def meaning_of(model: type[BaseModel], name: str) -> str:
    """Return the docstring below a model's field. Raises KeyError for a field without one."""
    docstring = _module(model.__module__)[f"{model.__name__}.{name}"].docstring
    if docstring is None:
        raise KeyError(f"{model.__name__}.{name} in {model.__module__} needs a docstring, for the reference")
    return " ".join(docstring.value.split())


@lru_cache
def _module(name: str) -> Any:
    return griffe.load(name, search_paths=[ROOT])


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, if it does."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _value(field: FieldInfo) -> str:
    """Return in words what a field may be, with its limits."""
    words = _words(field.annotation)
    limits = []
    for part in [*field.metadata, *[m for a in get_args(field.annotation) for m in getattr(a, "__metadata__", ())]]:
        for kind, text in ((Ge, "at least {}"), (Gt, "above {}"), (Le, "at most {}"), (Lt, "below {}")):
            if isinstance(part, kind):
                limits.append(text.format(f"{getattr(part, kind.__name__.lower()):g}"))
    return f"{words} {' and '.join(dict.fromkeys(limits))}".strip()


_PLAIN = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Path: "folder"}


def _words(annotation: Any) -> str:
    """Return a type in words.

    >>> _words(float | tuple[float, float]), _words(Literal["a", "b"] | None)
    ('number or range', '`a`, `b`')
    """
    origin, arguments = get_origin(annotation), [a for a in get_args(annotation) if a is not NoneType]
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, UnionType):
        if arguments == [float, tuple[float, float]]:
            return "number or range"
        return " or ".join(dict.fromkeys(map(_words, arguments)))
    if hasattr(annotation, "__metadata__"):
        return _words(arguments[0])
    if origin is list:
        return "two numbers" if NoneType in get_args(arguments[0]) else f"list of {_words(arguments[0])}s"
    if origin is tuple:
        return "two numbers"
    return "see below" if _section(annotation) else "value"


# ---- the store and the tables


def store() -> str:
    """Return the page of the map store."""
    rows = [
        (f"`{name}`", ", ".join(array.dims), array.dtype, "" if array.units == "1" else array.units, array.meaning)
        for name, array in ARRAYS.items()
    ]
    return _page(
        "# The map store",
        "What `kinmass maps` writes: a Zarr store with a group for each suite. Open it with "
        '`kinmass.open_store("maps.zarr")`, or with xarray alone:',
        '```python\nimport xarray\n\nsuite = xarray.open_zarr("maps.zarr", group="my_suite", consolidated=False)\n'
        'suite["maps"].sel(channel="gas_velocity")  # (galaxy, view, y, x) [km/s]\n```',
        _table(("array", "dimensions", "type", "unit", "meaning"), rows),
        "Beside them: `galaxy` and `lineage` (its name and that of its history), `catalogue_centre` "
        "(kpc), and the names along `channel` and `component`. One galaxy is one chunk; chunks carry checksums. "
        "While `kinmass maps` writes, and after it was killed, take galaxies of status 1: of others a chunk may be "
        "half written, which Zarr says is a checksum that does not match. A "
        "pixel of zero density is empty. A radius without any particle inside has mass 0 and no logarithm: "
        "training and evaluation leave such views out and count them.",
        "The group's attributes hold the settings (`config`), and who wrote when, with which command and version "
        "(`runs`). `failures.jsonl` has a line for each galaxy that could not be mapped: suite, galaxy, reason.",
    )


def columns() -> str:
    """Return the page of the tables' columns."""
    return _page(
        "# Columns of the tables",
        "`kinmass tables` writes these tables, as CSV and as Parquet, and `summary` as LaTeX too. The residual "
        "of a view is d(x) = log10 M_pred(<x R_e) - log10 M_true(<x R_e), M_pred the posterior median. "
        "[Tables and report](evaluation.md) says how to read them.",
        _table(("table", "one row is"), [(f"`{name}`", text) for name, text in TABLES.items()]),
        "Any measure may be followed by `_lo` and `_hi`: the ends of its 68 % interval, from a bootstrap over "
        "lineages (a galaxy's history), never over views.",
        _table(("column", "meaning"), [(f"`{name}`", text) for name, text in MEANINGS.items()]),
    )


def api(title: str, modules: list[str]) -> str:
    """Return a page of docstrings."""
    return _page(f"# API: {title[0].lower()}{title[1:]}", *(f"::: {module}" for module in modules))
