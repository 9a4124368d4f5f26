"""Run a tutorial and write it, with what it printed and drew, as a page of the site.

  python -m handbook.tutorials docs/tutorials/1-maps.py --out build/tutorials

A tutorial is a notebook as text (jupytext's percent format). Its cells run in the folder WORK of --out, which all
tutorials share: later ones go on with what earlier ones made. Cells that begin with %%bash are commands; what runs them
must find `kinmass`, and finds this checkout in $KINMASS. A cell that fails ends with its error, and no page is written.
"""

import argparse
import base64
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
#: Folder below --out in which tutorials run.
WORK = "work"
#: Seconds that one cell may take.
CELL_SECONDS = 240


def run(source: Path, out: Path) -> Path:
    """Run a tutorial and return its page, which has the tutorial's name; figures lie beside it.

    Raises nbclient's CellExecutionError when a cell fails.
    """
    notebook = jupytext.read(source)
    os.environ["KINMASS"] = str(ROOT)
    folder = out / WORK
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as sockets:
        # Sockets in a folder of our own instead of ports, which every user of this machine could talk to.
        config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, kernel_name="python3", config=config, timeout=CELL_SECONDS, resources=where).execute()
    for old in out.glob(f"{source.stem}-*.png"):
        old.unlink()
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts += [_typed(cell.source)] if "hide" not in cell.metadata.get("tags", []) else []
            parts += [
                text
                for output in _joined(cell.outputs)
                if (text := _shown(output, cell.metadata.get("alt", ""), source.stem, out))
            ]
    # Paths as the reader has them, not those of the machine that ran it.
    parts = [part.replace(f"{folder.resolve()}/", "").replace(str(ROOT), "$KINMASS") for part in parts]
    page = out / f"{source.stem}.md"
    page.write_text("\n\n".join([*parts, _download(source)]) + "\n")
    return page


def _typed(source: str) -> str:
    """Return a cell as the reader types it: a command without the magic word that hands it to a shell."""
    language, text = ("bash", source.removeprefix("%%bash\n")) if source.startswith("%%bash\n") else ("python", source)
    return f"```{language}\n{text}\n```"


def _joined(outputs: list[Any]) -> list[Any]:
    """Return outputs with what was printed piece by piece as one text."""
    joined: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _shown(output: Any, alt: str, name: str, out: Path) -> str:
    """Return what a cell printed or drew, as Markdown; a figure is written beside the page."""
    if output.output_type == "stream":
        text = plain(output.text)
        return f'<div class="printed" markdown>\n```text\n{text}\n```\n</div>' if text else ""
    data = output.get("data", {})
    if "image/png" in data:
        figure = out / f"{name}-{len(list(out.glob(f'{name}-*.png'))) + 1}.png"
        figure.write_bytes(base64.b64decode(data["image/png"]))
        return f"![{alt}]({figure.name})"
    if "text/plain" in data and not data["text/plain"].startswith("<"):
        return f'<div class="printed" markdown>\n```text\n{data["text/plain"]}\n```\n</div>'
    return ""


def plain(text: str) -> str:
    """Return what a terminal would show at the end: progress bars, which write over themselves, are left out.

    >>> plain("mapping:  10%|#  |\\rmapping: 100%|###|\\nmaps.zarr\\n")
    'maps.zarr'
    """
    lines = [line.split("\r")[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(line for line in lines if line and not re.search(r"\d+%\||\[\d\d:\d\d", line))


def _download(source: Path) -> str:
    return (
        f"*This page is `docs/tutorials/{source.name}`, run as it stands when the site is built. `jupytext --to "
        f"notebook {source.name}` makes a notebook of it.*"
    )


def main() -> int:
    """Run the tutorials that are named and return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tutorials", type=Path, nargs="+", metavar="FILE", help="tutorials, in their order")
    options.add_argument(
        "--out", type=Path, default=Path("build/tutorials"), help="folder for the pages (default: %(default)s)"
    )
    args = options.parse_args()
    for source in args.tutorials:
        print(run(source, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
