"""`make demo` given again: every step is asked, whatever the times of files, and new tables get a new report.

`make setup` in a folder that was moved or copied; any folder may have a blank in its name.
"""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


def run_make(folder, *words):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    line = ["make", "--no-print-directory", *words]
    subprocess.run(line, cwd=folder, env=environment, check=True, capture_output=True, timeout=60)


@pytest.fixture
def make(tmp_path):
    """Run targets of the Makefile with a `python` that notes its arguments; returns what it noted."""
    noted, python = tmp_path / "noted", tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$*" >> {noted}\n')
    python.chmod(0o755)
    results = tmp_path / "demo" / "results"
    results.mkdir(parents=True)
    (results / "table.csv").write_text("a\n")

    def run(*words):
        noted.write_text("")
        run_make(ROOT, f"BIN={python.parent}", f"DEMO={tmp_path / 'demo'}", *words)
        return noted.read_text().splitlines()

    return run


def test_every_fit_is_asked_each_time_with_the_steps_that_are_given(make):
    first = make("demo-train")
    assert len(first) == 6
    assert make("demo-train") == first
    assert sorted(make("demo-train", "STEPS=7")) == sorted(
        line.replace("--steps 1200", "--steps 7").replace("--steps 400", "--steps 2") for line in first
    )
    seeded = make("demo-train", "SEEDS=0 1 2")
    assert len(seeded) == 12
    # Of both tracers begins where those of each ended, of the same seed.
    for seed, end in (("", ""), ("--seed 1 ", "-seed1"), ("--seed 2 ", "-seed2")):
        (line,) = (line for line in seeded if line.endswith(f"runs/both{end}"))
        begun = line.split("--start-from ")[1].split(f" {seed}--steps")[0].split()
        assert [path.rsplit("/", 1)[1] for path in begun] == [f"gas{end}", f"stars{end}"]
        places = [next(i for i, said in enumerate(seeded) if said.endswith(path)) for path in begun]
        assert max(places) < seeded.index(line)


def test_tables_are_asked_each_time_and_a_report_is_made_of_each_content_once(make, tmp_path):
    table, report = (tmp_path / "demo" / "results" / name for name in ("table.csv", "report.html"))
    assert len(make("demo-tables")) == len(make("demo-tables")) == 1
    assert len(make("demo-report")) == 1
    report.write_text("of a")
    assert make("demo-report") == []
    os.utime(table, (2e9, 2e9))  # copied, or written while the clock was ahead
    assert make("demo-report") == []
    table.write_text("b\n")
    os.utime(table, (1e9, 1e9))
    assert len(make("demo-report")) == 1
    assert make("demo-report") == []


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile, whose `python` notes its arguments, and a command that names the folder."""
    folder = tmp_path / "my checkout"
    scripts = folder / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "python").write_text('#!/bin/sh\necho "$*" >> noted\n')
    (scripts / "python").chmod(0o755)
    (scripts / "kinmass").write_text(f"#!{scripts}/python\n")
    (scripts / "activate").write_text(f"VIRTUAL_ENV={scripts.parent}\n")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_a_report_is_made_below_a_folder_with_a_blank_in_its_name(checkout):
    run_make(checkout, "setup", f"PYTHON={sys.executable}")
    results = checkout / "demo" / "results"
    results.mkdir(parents=True)
    (results / "table.csv").write_text("a\n")
    (checkout / "noted").unlink()
    run_make(checkout, "demo-report")
    assert (checkout / "noted").read_text() == "-m eval report demo/results\n"
    assert "table.csv" in (results / ".reported").read_text()


@pytest.mark.parametrize("take", [shutil.move, shutil.copytree])
def test_commands_of_a_folder_that_was_moved_or_copied_are_its_own(take, checkout, tmp_path):
    setup = ("setup", f"PYTHON={sys.executable}")
    run_make(checkout, *setup)
    n_steps = len((checkout / "noted").read_text().splitlines())
    other = tmp_path / "elsewhere"
    take(checkout, other)
    for _ in range(2):  # once is enough
        run_make(other, *setup)
        assert len((other / "noted").read_text().splitlines()) == 2 * n_steps
    scripts = other / ".venv" / "bin"
    assert (scripts / "kinmass").read_text() == f"#!{scripts}/python\n"
    assert (scripts / "activate").read_text() == f"VIRTUAL_ENV={scripts.parent}\n"
    if take is shutil.copytree:  # of which the first one knows nothing
        run_make(checkout, *setup)
        assert str(checkout) in (checkout / ".venv" / "bin" / "kinmass").read_text()
        assert len((checkout / "noted").read_text().splitlines()) == n_steps
