"""Structure of the project: imports run eval -> train -> gen, and one way only between the rooms of a stage."""

import argparse
import ast
import importlib
import re
from collections.abc import Callable, Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

from kinmass.__main__ import parser

#: What a room may import of its own stage. Files that are in no room are tools, which import each other and no room
#: but those named, or commands, which import whatever they call.
ALLOWED = {
    "gen.physics": "",
    "gen.formats": "physics",
    "gen.suite": "formats",
    "gen.storage": "physics suite",
    "gen.snapshots": "formats physics storage suite",
    "gen.catalogues": "formats physics snapshots suite",
    "gen.campaign": "catalogues formats physics snapshots storage suite",
    "gen.look": "campaign catalogues formats physics snapshots storage suite",
    "gen.mock": "formats physics storage",
    "gen.instruments": "physics",
    "gen.export": "instruments physics storage",
    "train.model": "",
    "train.data": "model",
    "train.run": "data model",
    "train.loop": "data model run",
    "train.launch": "loop run",
    "eval.classical": "",
    "eval.tables": "classical",
    "eval.report": "tables",
    "eval.observed": "classical report tables",
    "eval.gallery": "observed report tables",
}
STAGES = ("gen", "train", "eval")
TOOLS = {
    "gen": "bars command code compiled constants errors options streams words yamlfile",
    "train": "allotted distributed",
    "eval": "",
}


def room(module: str) -> str:
    """The room of a module: gen.formats for gen.formats.tipsy, gen.suite for gen.suite itself."""
    return ".".join(module.split(".")[:2])


def imports(walk: Callable[[ast.AST], Iterable[ast.AST]]) -> dict[str, set[str]]:
    """The project's modules that each of its modules imports, by the import statements among walk(tree of the file)."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for stage in STAGES
        for path in (ROOT / stage).rglob("*.py")
    }
    imported: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for node in walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported[name] |= {alias.name.removeprefix("kinmass.") for alias in node.names} & files.keys()
            elif isinstance(node, ast.ImportFrom) and node.module:
                module = node.module.removeprefix("kinmass.")
                full_names = {f"{module}.{alias.name}" for alias in node.names}
                imported[name] |= (full_names & files.keys()) or ({module} & files.keys())
    return imported


GRAPH = imports(ast.walk)


def test_stages_import_one_way():
    for module, others in GRAPH.items():
        below = STAGES[: STAGES.index(module.split(".")[0]) + 1]
        assert all(other.split(".")[0] in below for other in others), module


@pytest.mark.parametrize("stage", STAGES)
def test_rooms_import_what_they_may(stage):
    used: dict[str, set[str]] = {}
    for module, others in GRAPH.items():
        importing = room(module)
        if module.split(".")[0] == stage and module != stage and not importing.endswith("__main__"):
            same_stage = {
                room(other)
                for other in others
                if other.split(".")[0] == stage and room(other) not in (importing, stage)
            }
            used.setdefault(importing, set()).update(same_stage - {f"{stage}.{tool}" for tool in TOOLS[stage].split()})
    for importing, others in used.items():
        assert others <= {f"{stage}.{name}" for name in ALLOWED.get(importing, "").split()}, importing
    rooms = {name for name in ALLOWED if name.startswith(f"{stage}.")}
    assert rooms == {name for name in used if name not in {f"{stage}.{tool}" for tool in TOOLS[stage].split()}}
    assert {name for name in rooms if used[name]} == {name for name in rooms if ALLOWED[name]}


def test_tests_lie_in_the_rooms_that_they_are_of():
    for path in (ROOT / "tests").glob("*/**/test_*.py"):
        assert (ROOT / path.parent.relative_to(ROOT / "tests")).is_dir(), path


def test_no_import_runs_in_a_circle():
    """Only imports at the top of modules count: those in functions run later."""
    graph = imports(ast.iter_child_nodes)
    assert len([*TopologicalSorter({m: o - {m} for m, o in graph.items()}).static_order()]) == len(graph)


def test_files_that_are_named_anywhere_are_there():
    """In docs by their names alone as well, by their paths in code, scripts and recipes too."""
    names = {path.name for path in ROOT.rglob("*.py") if not any(part.startswith(".venv") for part in path.parts)} | {
        "saver.py"
    }  # caesar's own
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for name in re.findall(r"`(\w+\.py)`", page.read_text()):
            assert name in names, (page.name, name)
    code = [
        path
        for folder in (*STAGES, "bench", "handbook", "slurm")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    ]
    code = [path for path in code if path.suffix in (".py", ".sh", ".def", ".env", ".yaml")]
    for page in [*pages, *code, ROOT / "Makefile", ROOT / "pyproject.toml"]:
        for name in re.findall(
            r"(?<![\w/.*])((?:gen|train|eval|tests|bench|slurm)/[\w/]+\.(?:py|sh|yaml|j2))", page.read_text()
        ):
            assert "NAME" in name or (ROOT / name).exists(), (page.name, name)
        for name in re.findall(r"docs/[\w/-]+\.md", page.read_text()):
            assert (ROOT / name).exists(), (page.name, name)


def test_commands_and_options_that_are_named_anywhere_are_there():
    """In messages, in the docs, in scripts."""
    files = [path for stage in (*STAGES, "kinmass") for path in (ROOT / stage).rglob("*.py")]
    files += [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs").rglob("*.py"),
        ROOT / "README.md",
        *(ROOT / "slurm").glob("*.sh"),
    ]
    (commands,) = [a for a in parser()[0]._actions if isinstance(a, argparse._SubParsersAction)]
    n_options = 0
    for path in files:
        for command, arguments in re.findall(
            r"(?:`|^#? *|-m )kinmass ([a-z]+)([^`\n|;]*)", path.read_text(), re.MULTILINE
        ):
            if command == "is":  # a sentence that begins with the name
                continue
            assert command in commands.choices, (path, command)
            options = commands.choices[command]._option_string_actions
            for option in re.findall(r"(?<= )--[a-z][a-z-]+", arguments):
                n_options += 1
                assert option in options, (path, command, option)
    assert n_options > 50


def test_every_room_says_what_lives_in_it():
    for folder in sorted(path.parent for stage in STAGES for path in (ROOT / stage).rglob("*.py")):
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert docstring, folder
        assert len(docstring.splitlines()) <= 6, folder


@pytest.mark.parametrize("library", ["mpi4py", "torch.distributed", "dask", "submitit"])
def test_one_place_knows_each_way_of_being_many(library):
    """MPI and DDP a file each, Dask one, submitit the room that launches."""
    places = {"mpi4py": "gen/campaign/parallel.py", "torch.distributed": "train/distributed.py"}
    places |= {"dask": "eval/tables/cluster.py", "submitit": "train/launch"}
    importers = set()
    for path in (path for stage in STAGES for path in (ROOT / stage).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(name == library or name.startswith(f"{library}.") for name in names):
                importers.add(path)
    assert importers
    assert all(
        path.is_relative_to(ROOT / places[library]) or path == Path(ROOT / places[library]) for path in importers
    )


def test_every_store_is_of_one_format_whatever_zarr_is_told():
    """ZARR_DEFAULT_ZARR_FORMAT=2, or zarr's own configuration, would make groups in which no array can be made."""
    made = [
        call
        for path in (path for stage in STAGES for path in (ROOT / stage).rglob("*.py"))
        for call in re.findall(r"zarr\.open_group\(.*", path.read_text())
        if 'mode="w"' in call or 'mode="a"' in call
    ]
    assert len(made) > 3
    assert [call for call in made if "zarr_format=3" not in call] == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "bench").glob("[a-z]*.py")))
def test_benchmarks_can_be_imported(name):
    if name == "sbi_npe":
        pytest.importorskip("sbi")  # a peer, in the benchmarks' own environment
    assert importlib.import_module(f"bench.{name}").__doc__
