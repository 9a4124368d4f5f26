"""The site's generated pages: every command, key, array and column is there."""

import doctest
import re
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from handbook.docstrings import as_markdown
from handbook.reference import API, pages
from kinmass.eval.observed.galaxy_file import GalaxyFile, TracerFiles
from kinmass.eval.tables.columns import MEANINGS
from kinmass.gen.instruments.model import Instrument, TracerNoise
from kinmass.gen.storage.store import ARRAYS
from kinmass.gen.suite import Aperture, Catalogue, Components, Selection, Suite, Tracers, Units

ROOT = Path(__file__).parents[1]
SECTIONS = {
    "catalogue": Catalogue, "particles": Components, "units": Units, "tracers": Tracers, "aperture": Aperture,
    "selection": Selection,
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def test_every_key_is_in_its_page(made):
    """With its meaning: a field without a docstring is an error."""
    keys = [f"{name}.{key}" for name, model in SECTIONS.items() for key in model.model_fields]
    keys += [key for key in Suite.model_fields if key not in SECTIONS]
    assert all(f"| `{key}` |" in made["reference/suite-file.md"] for key in keys)
    assert all(f"| `{key}` |" in made["reference/instrument-file.md"] for key in TracerNoise.model_fields)
    assert all(f"`{key}" in made["reference/instrument-file.md"] for key in Instrument.model_fields)
    assert all(
        f"| `{key}` |" in made["reference/galaxy-file.md"]
        for key in {**GalaxyFile.model_fields, **TracerFiles.model_fields}
    )


def test_every_array_column_and_command_is_in_its_page(made):
    assert all(f"| `{name}` |" in made["reference/store.md"] for name in ARRAYS)
    assert all(f"| `{name}` |" in made["reference/columns.md"] for name in MEANINGS)
    assert made["reference/commands.md"].count("\n## kinmass ") >= 13
    assert (
        "| `--views VIEWS` | random lines of sight per galaxy: networks learn more from more of them (default: 16) |"
        in made["reference/commands.md"]
    )


def test_tables_have_as_many_cells_as_their_heads(made):
    """A pipe in a text would add a cell."""
    for page, text in made.items():
        for table in text.split("\n\n"):
            if table.startswith("| "):
                assert len({re.sub(r"`[^`]*`|\\\|", "", line).count("|") for line in table.splitlines()}) == 1, (
                    page,
                    table,
                )


def test_modules_whose_docstrings_are_shown_are_there():
    for _, modules in API.values():
        assert all(import_module(name).__doc__ for name in modules)


def test_code_in_docstrings_is_fenced_and_prose_is_not():
    text = "Count `x`.\n\n  count x    like this\n\n>>> count(2)\n3\n\nRaises ValueError."
    fenced = "Count `x`.\n\n```text\ncount x    like this\n```\n\n```pycon\n>>> count(2)\n3\n```\n\nRaises ValueError."
    assert as_markdown(text) == fenced


@pytest.mark.parametrize("name", ["reference", "tutorials"])
def test_examples_run(name):
    outcome = doctest.testmod(import_module(f"handbook.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_lists_and_tables_begin_after_an_empty_line():
    """Else MkDocs takes them for a paragraph, though GitHub does not."""
    for page in (ROOT / "docs").rglob("*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for before, line in pairwise(text.splitlines()):
            in_list = re.match(r"- |\d+\. |\s|$", before)
            assert not re.match(r"- |\d+\. ", line) or in_list or before.startswith("#"), (page.name, line)
            assert not line.startswith("| ") or before.startswith(("|", "#")) or not before, (page.name, line)
