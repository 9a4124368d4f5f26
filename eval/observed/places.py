"""Choose where results are written: a folder for each galaxy and run, never one that holds other results."""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from kinmass.gen.storage.files import PARTIAL, make_folder, write_atomically, write_new

#: The file in a folder of results that says what they were made from; the key in it of results that are no longer so.
ORIGIN, OUTDATED = "origin.json", "outdated"


def labels(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path: its last part (of YAML files without suffix), and parents until all names differ."""
    absolute_paths = [Path(os.path.abspath(path)) for path in paths]
    parts = [(*p.parts[1:-1], p.stem if p.suffix in (".yaml", ".yml") else p.name) for p in absolute_paths]
    for n_parts in range(1, max(map(len, parts), default=0) + 1):
        names = ["-".join(p[-n_parts:]) for p in parts]
        if len(set(names)) == len(set(absolute_paths)):
            return names
    return [p.name for p in absolute_paths]  # g.yaml and g.yml of one folder differ in their suffix alone


def claim(wanted_folder: Path, origin: dict[str, str]) -> Path:
    """Reserve a folder for the results of an origin: wanted_folder, or NAME-2, NAME-3, ... where that holds others.

    origin.json in the folder says which origin it belongs to; processes that claim the same folder at the same time get
    different ones. Raises OSError where nothing can be written.
    """
    for attempt in itertools.count(1):
        folder = wanted_folder if attempt == 1 else wanted_folder.with_name(f"{wanted_folder.name}-{attempt}")
        folder.mkdir(parents=True, exist_ok=True)
        origin_file = folder / ORIGIN
        if origin_file.exists() or all(path.name.startswith(PARTIAL) for path in folder.iterdir()):
            write_new(origin_file, json.dumps(origin, indent=1))
            if _read_origin(origin_file) == origin:
                return folder
    raise AssertionError


def set_outdated_aside(folder: Path, origins: Sequence[dict[str, str]], current: Sequence[Path]) -> list[Path]:
    """Rename results of before in `folder` that a command has not made again; return where they are now.

    origins: what the command was asked for; current: the folders that it has written. Another folder that one of these
    origins made, or that was made of the same galaxy and run for another tracer, is of a galaxy file as it was before:
    under its own name it would be taken for new. Raises OSError.
    """
    asked, moved = {(origin["galaxy"], origin["run"]) for origin in origins}, []
    for origin_file in sorted(folder.glob(f"*/{ORIGIN}")):
        origin, old = _read_origin(origin_file), origin_file.parent
        if not isinstance(origin, dict) or old in current or OUTDATED in origin:
            continue
        if (origin.get("galaxy"), origin.get("run")) in asked:
            write_atomically(origin_file, json.dumps(origin | {OUTDATED: True}, indent=1))
            names = (f"{old.name}-{OUTDATED}{'' if i == 1 else f'-{i}'}" for i in itertools.count(1))
            moved.append(old.rename(next(old.with_name(name) for name in names if not old.with_name(name).exists())))
    return moved


def write_beside(path: Path, text: str, origin: dict[str, str] | None = None) -> Path:
    """Write a text to a path, or to NAME-2, NAME-3, ... where the file has another text. Returns the path it is at.

    origin: what it was made from, kept in a hidden file beside it. The file of before of the same origin is replaced:
    under its name an old result would be taken for the new one.
    """
    make_folder(path.parent)
    for attempt in itertools.count(1):
        candidate = path if attempt == 1 else path.with_name(f"{path.stem}-{attempt}{path.suffix}")
        origin_file = candidate.with_name(f".{candidate.name}.{ORIGIN}")
        if origin is not None and candidate.exists() and _read_origin(origin_file) == origin:
            write_atomically(candidate, text)
            return candidate
        if write_new(candidate, text) or candidate.read_bytes() == text.encode():
            if origin is not None:
                write_atomically(origin_file, json.dumps(origin, indent=1))
            return candidate
    raise AssertionError


def elsewhere(wanted: Path, written: Path) -> str:
    """Say what has the name that results usually have, where they were written under another; "" where they were not.

    Who looks under the usual name, as after galaxies and results have moved together, would take old results for new.
    """
    if written == wanted:
        return ""
    origin = _read_origin(wanted / ORIGIN if wanted.is_dir() else wanted.with_name(f".{wanted.name}.{ORIGIN}"))
    words = f"{wanted} holds something else"
    if isinstance(origin, dict) and "run" in origin:
        sources = [str(origin[key]) for key in ("galaxy", "store", "run") if key in origin]
        words = f"{wanted} holds results of {sources[0]} by {sources[-1]}"
        if gone := [source for source in sources if not Path(source).exists()]:
            words += f" ({gone[0]} is not there any more: if it has moved, these are old, and may be removed)"
    return f"{words}; the new ones are in {written}"


def _read_origin(origin_file: Path) -> object:
    """Return the content of an origin.json, None where there is none or another process has not finished it."""
    try:
        return json.loads(origin_file.read_text())
    except (ValueError, FileNotFoundError):
        return None
