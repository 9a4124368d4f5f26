"""What every command asks of the environment before it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kinmass import __main__ as project
from kinmass.eval import __main__ as eval_stage
from kinmass.gen import __main__ as gen_stage
from kinmass.gen.command import imports_as_here
from kinmass.train import __main__ as train_stage

COMMANDS = {
    project: ["mock", "--out", "x"],
    gen_stage: ["mock", "--out", "x"],
    train_stage: ["status", "x"],
    eval_stage: ["report", "x"],
}


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize("threads", ["0", "-1", "all"])
def test_a_number_of_threads_that_is_none_is_refused_in_words(stage, threads, monkeypatch, capsys, tmp_path):
    """numba ends with a traceback where it is 0, as a share of few cores can be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    with pytest.raises(SystemExit) as ended:
        stage.main(COMMANDS[stage])
    assert ended.value.code == 2
    assert f"the variable NUMBA_NUM_THREADS is '{threads}'; set it to" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("threads", ["", "1", " 8 "])
def test_numbers_of_threads_that_numba_takes_are_left_to_it(threads, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    assert project.main(["status", "x"]) == 2
    assert "NUMBA" not in capsys.readouterr().err


def test_processes_import_from_the_working_folder_only_where_the_command_does(tmp_path, monkeypatch):
    """A user's own random.py there ended launched fits without a word, and tables in a traceback."""
    (tmp_path / "random.py").write_text("raise SystemExit('not yours')")
    line = [sys.executable, "-c", "from multiprocessing import forkserver"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path and path != str(tmp_path)])
    assert subprocess.run(line, env=os.environ | imports_as_here(), capture_output=True, check=False).returncode == 0
    monkeypatch.syspath_prepend(tmp_path)  # as of `python -m kinmass`
    assert imports_as_here() == {}


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("tables r --store s --out o --suites quiet --suites=bursty,middle", "suites", "quiet,bursty,middle"),
        ("mock --out o --suites quiet --suites grid", "suites", "quiet,grid"),
        ("fit --store s --out o --tracer gas --suites a --suites b --suites c", "suites", "a,b,c"),
        ("predict a.yaml --inside-kpc 1 2 --inside-kpc 5", "inside_kpc", [1.0, 2.0, 5.0]),
        ("gallery s --runs a --runs b", "runs", [Path("a"), Path("b")]),
        ("fit --store s --out o --tracer gas --seed 1 --seed 2", "seed", 2),
        ("gallery s", "runs", []),
        ("tables r --store=~/s --out o", "store", Path.home() / "s"),
        ("tables ~/r --store s --out o", "runs", [Path.home() / "r"]),
    ],
)
def test_an_option_of_several_values_may_be_given_twice(line, name, value):
    """The last one counted: a network was trained on one of two suites."""
    assert getattr(project.parser()[0].parse_args(line.split()), name) == value
