"""Hooks of MkDocs: add the generated reference pages and the tutorials that were run to the pages of docs/."""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from handbook import reference  # noqa: E402

#: Where handbook/tutorials.py leaves the tutorials' pages and figures.
EXECUTED = ROOT / "build" / "tutorials"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages that lie in no folder. Raises PluginError when a tutorial has not been run since it was changed."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    for source in sorted((ROOT / "docs" / "tutorials").glob("*.py")):
        page = EXECUTED / f"{source.stem}.md"
        if not page.exists() or page.stat().st_mtime < source.stat().st_mtime:
            raise PluginError(f"{source.name} was not run since it was changed; `make docs` runs it")
        files.append(File.generated(config, f"tutorials/{page.name}", abs_src_path=str(page)))
        for figure in sorted(EXECUTED.glob(f"{source.stem}-*.png")):
            files.append(File.generated(config, f"tutorials/{figure.name}", abs_src_path=str(figure)))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Check that no page asks another machine for anything. Raises PluginError that names the page and the address."""
    for page in Path(config.site_dir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text):
            if found := re.search(r"""(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""", tag):
                raise PluginError(f"{page}: asks for {found[1]}; pages must open without a network")
