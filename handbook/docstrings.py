"""An extension of griffe: this project's docstrings, which are plain prose, as Markdown."""

import re
from typing import Any

import griffe


class PlainProse(griffe.Extension):
    """Sets what is code in a docstring apart: examples (`>>>`), and paragraphs of which every line is indented."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """Return a docstring with fences about its code."""
    return "\n\n".join(map(_paragraph, re.split(r"\n\s*\n", docstring)))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if lines and lines[0].startswith(">>> "):
        return f"```pycon\n{text}\n```"
    if all(line.startswith("  ") for line in lines):
        return "```text\n" + "\n".join(line[2:] for line in lines) + "\n```"
    # `name  meaning` in columns, as module docstrings list measures
    if len(lines) > 1 and all(re.match(r"\S+ {2,}\S|\S+ \S| {6,}\S", line) for line in lines) and _is_list(lines):
        return "```text\n" + text + "\n```"
    return text


def _is_list(lines: list[str]) -> bool:
    """Whether lines are a list in columns: one that is not indented has two spaces in it, or others are indented."""
    return sum(bool(re.match(r"\S+ {2,}\S| {6,}\S", line)) for line in lines) > len(lines) / 2
