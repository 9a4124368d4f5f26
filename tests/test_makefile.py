"""`make demo` given again: every step is asked, whatever the times of files, and new tables get a new report."""

import os
import subprocess

import pytest
from conftest import ROOT


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
        line = ["make", "--no-print-directory", f"BIN={python.parent}", f"DEMO={tmp_path / 'demo'}", *words]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        subprocess.run(line, cwd=ROOT, env=environment, check=True, capture_output=True)
        return noted.read_text().splitlines()

    return run


def test_every_fit_is_asked_each_time_with_the_steps_that_are_given(make):
    first = make("demo-train")
    assert len(first) == 6
    assert make("demo-train") == first
    assert sorted(make("demo-train", "STEPS=7")) == sorted(
        line.replace("--steps 1200", "--steps 7").replace("--steps 400", "--steps 2") for line in first
    )
    assert len(make("demo-train", "SEEDS=0 1 2")) == 12


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
