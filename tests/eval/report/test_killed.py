"""Commands that write results, killed at any file: what was there stays, nothing half written shows, and they go on."""

import functools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import warm
from conftest import command, tables_here

from kinmass.gen.storage import store
from kinmass.gen.storage.files import PARTIAL


def kill_at(number: int) -> None:
    """Kill this process where it is about to give a file, the first or a later one, its name."""
    process, left = os.getpid(), [number]

    def count(event: str, _arguments: object) -> None:
        if event == "os.rename" and os.getpid() == process:
            left[0] -= 1
            if not left[0]:
                os.kill(process, signal.SIGKILL)

    sys.addaudithook(count)


def killed(words: list[object], number: int) -> None:
    process = warm.Process(["-m", *map(str, words)], limit=functools.partial(kill_at, number))
    process.communicate(200)
    assert process.returncode == -signal.SIGKILL


def seen(folder: Path) -> dict[str, bytes]:
    """What a reader finds in a folder. Of a PDF, which tells when it was made, only whether it is whole."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(PARTIAL)]
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in files if ".zarr" not in str(path)}
    for name, content in contents.items():
        if name.endswith(".pdf"):
            contents[name] = content[-6:]
        if name == "conditions.json":
            contents[name] = b"".join(line for line in content.splitlines(True) if b'"date"' not in line)
    return contents


@pytest.fixture(scope="module")
def small_results(runs, map_store, tmp_path_factory):
    """Tables of one run on one suite, whose store is gone: a report of them has few figures."""
    out = tmp_path_factory.mktemp("small") / "results"
    tables_here([run for run in runs if run.name == "middle"], map_store, out, ("middle",))
    origin = json.loads((out / "tables.json").read_text())
    (out / "tables.json").write_text(json.dumps(origin | {"store": str(out / "gone.zarr")}))
    return out


@pytest.mark.parametrize(("name", "numbers"), [("report", (4,)), ("conditions", (1, 2)), ("export", (1, 2))])
def test_killed_at_any_file_it_goes_on(name, numbers, small_results, runs, map_store, tmp_path):
    run = next(run for run in runs if run.name == "middle")
    galaxy = store.open_suite(map_store, "middle")["galaxy"][0]
    start = shutil.copytree(small_results, tmp_path / "start")
    (start / "figures").mkdir()
    for mine in ("report.html", "conditions.csv", "conditions.json", "figures/mine.pdf", "figures/radius-old_ifu.png"):
        if not (name == "report" and mine.startswith("conditions")):
            (start / mine).write_text("of before")
    words = {
        "report": ["eval", "report"],
        "conditions": ["eval", "conditions", run, "--store", map_store, "--suites", "middle", "--out"],
        "export": ["gen", "export", map_store, "--suite", "middle", "--galaxy", galaxy, "--view", "all", "--out"],
    }[name]
    whole = shutil.copytree(start, tmp_path / "whole")
    command(*words, whole)
    before, expected = seen(start), seen(whole)
    assert expected != before
    for number in numbers:
        out = shutil.copytree(start, tmp_path / f"{number}" / "results")
        killed([*words, out], number)
        found = seen(out)
        assert found.keys() >= before.keys()
        assert all(content in (before.get(path), expected.get(path)) for path, content in found.items())
        assert found != expected
        command(*words, out)
        assert seen(out) == expected
    if name == "report":  # a figure of a suite that is not tested any more is gone, and nothing of anybody else
        assert before.keys() - expected.keys() == {"figures/radius-old_ifu.png"}
        assert expected["figures/mine.pdf"] == before["figures/mine.pdf"]
