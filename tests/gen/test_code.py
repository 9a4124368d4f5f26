"""Provenance of the code, which never fails; unexpected errors, which name their command."""

import os
import re
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from conftest import ROOT

from kinmass.eval import __main__ as eval_command
from kinmass.gen import code
from kinmass.gen.errors import named
from kinmass.gen.storage import store
from kinmass.train import __main__ as train_command
from kinmass.train.loop import fit as fitting


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that looks like a clone of the repository, with the code in it."""
    (tmp_path / "gen").mkdir()
    (tmp_path / ".git").touch()  # as in a worktree
    monkeypatch.setattr(code, "__file__", str(tmp_path / "gen" / "code.py"))
    return tmp_path


@pytest.mark.parametrize(
    "error", [subprocess.TimeoutExpired("git", 10), FileNotFoundError("git"), PermissionError("git"), OSError("fork")]
)
def test_a_git_that_does_not_answer_is_no_error(clone, monkeypatch, error):
    def run(*_args, **_options):
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    assert code.commit() == "unknown"
    assert code.provenance()["commit"] == "unknown"


@pytest.mark.parametrize(
    ("script", "expected"),
    [('[ "$2" = status ] || printf "v1\\377"', "v1\ufffd"), ("exit 128", "unknown")],
)
def test_whatever_git_says_is_no_error(clone, monkeypatch, script, expected):
    (clone / "git").write_text(f"#!/bin/sh\n{script}\n")
    (clone / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{clone}:{os.environ['PATH']}")
    assert code.commit() == expected


def test_the_commit_is_told_without_writing_into_the_clone(tmp_path, monkeypatch):
    """A git that is killed while it writes leaves a lock by which the user's own commands fail."""
    (tmp_path / "gen").mkdir()
    file = tmp_path / "gen" / "code.py"
    file.touch()
    settings = [x for pair in ("user.name=a", "user.email=a@b", "commit.gpgsign=false") for x in ("-c", pair)]
    for words in (["init", "-q"], ["add", "gen"], [*settings, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(code, "__file__", str(file))
    os.utime(file, (0, 0))  # so that the index could be refreshed
    index = tmp_path / ".git" / "index"
    before, clean = index.stat(), code.commit()
    assert re.fullmatch(r"[0-9a-f]{7,40}", clean)
    (tmp_path / "untracked").touch()
    assert code.commit() == clean
    file.write_text("changed")
    assert code.commit() == f"{clean}-dirty"
    assert (index.stat().st_ino, index.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_installed_package_does_not_take_the_commit_of_a_repository_around_it(clone, monkeypatch):
    installed = clone / "venv" / "site-packages" / "gen"
    installed.mkdir(parents=True)
    monkeypatch.setattr(code, "__file__", str(installed / "code.py"))
    monkeypatch.setattr(subprocess, "run", lambda *a, **o: pytest.fail("git was asked"))
    assert code.commit() == "unknown"


def test_a_package_that_says_no_version_is_no_error(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(code, "version", version)
    assert set(code.provenance()["versions"].values()) == {"unknown"}


def test_an_unforeseen_error_keeps_type_and_traceback_behind_a_sentence(monkeypatch, capsys):
    def fault(*_args, **_options):
        raise ZeroDivisionError("nought")

    monkeypatch.setattr(store, "named_suites", lambda path, names: ["s"])
    monkeypatch.setattr(fitting, "fit_ensemble", fault)
    monkeypatch.setitem(eval_command._COMMANDS, "show", fault)
    for main, words in (
        (train_command.main, "fit --store 'a b' --tracer gas --out run"),
        (eval_command.main, "show 'a b'"),
    ):
        with pytest.raises(ZeroDivisionError, match="nought"):
            main(shlex.split(words))
        assert capsys.readouterr().err == (
            f"kinmass {words.split()[0]}: ZeroDivisionError, which was not foreseen, in `kinmass {words}`; traceback:\n"
        )


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), ValueError("no")])
def test_a_foreseen_error_is_a_sentence(monkeypatch, capsys, error):
    def fault(*_args, **_options):
        raise error

    monkeypatch.setattr(store, "named_suites", lambda path, names: ["s"])
    monkeypatch.setattr(fitting, "fit_ensemble", fault)
    assert train_command.main(["fit", "--store", "a", "--tracer", "gas", "--out", "run"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_limit_on_threads_is_a_sentence(capsys):
    """As on login nodes that limit a user's processes."""
    with pytest.raises(SystemExit) as ended, named("fit", ["fit"]):
        raise RuntimeError("can't start new thread")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("kinmass fit: no more threads can be started: raise the limit")


@pytest.mark.parametrize("error", [KeyError("a"), RuntimeError("b"), NotImplementedError()])
def test_types_are_kept(error, capsys):
    with pytest.raises(type(error)), named("maps", ["maps", "x.yaml"]):
        raise error
    assert f"{type(error).__name__}, which was not foreseen, in `kinmass maps x.yaml`" in capsys.readouterr().err


def test_modules_are_found_however_they_are_imported():
    files = code.imports("kinmass.gen.export")
    assert files["kinmass.gen.instruments.builtin"].samefile(
        ROOT / "gen" / "instruments" / "builtin.py"
    )  # in a function
    expected = {
        "kinmass.gen",
        "kinmass.gen.storage.store",
        "kinmass.gen.storage.files",
        "kinmass.gen.storage.journal",
    }
    assert expected <= set(files)
    assert not {name for name in files if name.startswith(("kinmass.train", "kinmass.eval"))}
