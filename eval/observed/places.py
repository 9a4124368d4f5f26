"""Where results are written: a folder for each galaxy and run, and never one that holds those of another."""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from kinmass.gen.storage.files import sync_folder


def labels(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last part, a galaxy's without suffix, and parts before it until all differ."""
    whole = [Path(os.path.abspath(path)) for path in paths]
    parts = [(*p.parts[1:-1], p.stem if p.suffix in (".yaml", ".yml") else p.name) for p in whole]
    for deep in range(1, max(map(len, parts), default=0) + 1):
        names = ["-".join(p[-deep:]) for p in parts]
        if len(set(names)) == len(set(whole)):
            return names
    return [p.name for p in whole]  # one folder's g.yaml and g.yml


def claim(place: Path, origin: dict[str, str]) -> Path:
    """A folder for results of an origin: `place`, or place-2, -3, ... where it holds those of another.

    origin.json in it says whose it is; processes that claim one place at a time get folders of their own. Raises
    OSError where nothing can be written.
    """
    for number in itertools.count(1):
        folder = place if number == 1 else place.with_name(f"{place.name}-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / "origin.json"
        if mark.exists() or not any(folder.iterdir()):
            try:
                with mark.open("x") as file:
                    json.dump(origin, file, indent=1)
            except FileExistsError:
                pass
            if _read(mark) == origin:
                return folder
    raise AssertionError


def write_beside(path: Path, text: str) -> Path:
    """Write a text to a path, or to NAME-2, -3, ... where there is another text; where it was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        place = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            with place.open("x") as file:
                file.write(text)
            sync_folder(place)
            sync_folder(place.parent)
        except FileExistsError:
            if place.read_text() != text:
                continue
        return place
    raise AssertionError


def _read(mark: Path) -> object:
    try:
        return json.loads(mark.read_text())
    except ValueError:  # another's, being written
        return None
