"""Choose where results are written: a folder for each galaxy and run, never one that holds other results."""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from kinmass.gen.storage.files import sync_folder


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

    origin.json in the folder says which origin it belongs to, and what else older versions knew of it; processes that
    claim the same folder at the same time get different ones. Raises OSError where nothing can be written.
    """
    for attempt in itertools.count(1):
        folder = wanted_folder if attempt == 1 else wanted_folder.with_name(f"{wanted_folder.name}-{attempt}")
        folder.mkdir(parents=True, exist_ok=True)
        origin_file = folder / "origin.json"
        if origin_file.exists() or not any(folder.iterdir()):
            try:
                with origin_file.open("x") as file:
                    json.dump(origin, file, indent=1)
            except FileExistsError:
                pass
            if _is_of(origin_file, origin):
                return folder
    raise AssertionError


def left_over(written_folders: Sequence[Path], origin: dict[str, str]) -> list[Path]:
    """Return folders beside those just written that hold a profile of the same origin: of an earlier galaxy file."""
    siblings = {folder for written in written_folders for folder in written.parent.iterdir()}
    return sorted(
        folder
        for folder in siblings - set(written_folders)
        if (folder / "profile.ecsv").exists() and _is_of(folder / "origin.json", origin)
    )


def write_beside(path: Path, text: str) -> Path:
    """Write a text to a path, or to NAME-2, NAME-3, ... where the file has another text. Returns the path it is at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(1):
        candidate = path if attempt == 1 else path.with_name(f"{path.stem}-{attempt}{path.suffix}")
        try:
            with candidate.open("x") as file:
                file.write(text)
            sync_folder(candidate)
            sync_folder(candidate.parent)
        except FileExistsError:
            if candidate.read_text() != text:
                continue
        return candidate
    raise AssertionError


def _is_of(origin_file: Path, origin: dict[str, str]) -> bool:
    """Whether an origin.json is that of an origin; not where it is missing or another process has not finished it."""
    try:
        found = json.loads(origin_file.read_text())
    except (ValueError, OSError):
        return False
    return isinstance(found, dict) and all(found.get(key) == value for key, value in origin.items())
