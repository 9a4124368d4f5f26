"""The installed package, from a wheel or a source archive: it works in any folder, whatever files are there."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"


def build(what: str, source: Path, out: Path) -> Path:
    """Build a wheel or an sdist (`what`) of the project in a folder; its path."""
    line = [sys.executable, "-c", BUILD.format(what), str(out)]
    done = subprocess.run(line, cwd=source, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built in a copy of the checkout because builds leave folders behind."""
    folder = tmp_path_factory.mktemp("build")
    project = folder / "kinmass"
    project.mkdir()
    for name in ("gen", "train", "eval", "kinmass"):
        shutil.copytree(ROOT / name, project / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, project)
    return build("wheel", project, folder)


@pytest.fixture(scope="module")
def kinmass(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs the installed command in a folder whose files have the names of the stages; returns what it prints."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", symlinks=True)
    python = folder / "env" / "bin" / "python"
    line = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(line, capture_output=True, check=True)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # makes its dependencies importable
    user_folder = folder / "my work"
    (user_folder / "eval").mkdir(parents=True)
    for name in ("gen.py", "train.py", "eval/__init__.py", "tables.py"):
        (user_folder / name).write_text("raise SystemExit('this is the file of the user')\n")

    def run(*arguments: object, program: str = "kinmass", mpi: bool = True, code: int = 0) -> str:
        line = [str(folder / "env" / "bin" / program), *map(str, arguments)]
        env = os.environ | (
            {"LD_LIBRARY_PATH": f"{sys.prefix}/lib"} if mpi else {"MPI4PY_LIBMPI": "/nowhere/libmpi.so"}
        )
        done = subprocess.run(line, cwd=user_folder, env=env, capture_output=True, text=True, timeout=250, check=False)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return run


def test_the_wheel_holds_one_package_and_the_source_archive_the_same(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("RECORD")}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"kinmass"}
    our_files = {
        str(path.relative_to(ROOT)) for stage in ("gen", "train", "eval") for path in (ROOT / stage).rglob("*.*")
    }
    our_files = {name for name in our_files if "__pycache__" not in name and not name.endswith((".md", ".mplstyle"))}
    assert {f"kinmass/{name}" for name in our_files} <= names
    folder = wheel.parent / "kinmass"
    source = build("sdist", folder, tmp_path)
    shutil.unpack_archive(source, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path)) as archive:
        assert {name for name in archive.namelist() if not name.endswith("RECORD")} == names


def test_installed_it_maps_fits_and_evaluates_beside_files_of_the_stages_names(kinmass, tmp_path):
    small_suite = ("--galaxies", 24, "--stars", 1000, "--gas", 500, "--dark", 500, "--suites", "middle")
    kinmass("mock", "--out", tmp_path / "mocks", *small_suite)
    snapshot = next((tmp_path / "mocks").glob("middle/*/*.hdf5"))
    assert "verdict" in kinmass("check", snapshot, mpi=False)
    output = kinmass("mock", "--out", tmp_path / "more", mpi=False, code=2)
    assert output.startswith(
        "kinmass mock: no MPI library can be loaded; load your cluster's MPI module, or `pip install"
    )
    store, run = tmp_path / "maps.zarr", tmp_path / "runs" / "both"
    kinmass("maps", tmp_path / "mocks" / "middle" / "middle.yaml", "--out", store, "--views", 1, "--pixels", 16)
    small_fit = ("--width", 4, "--steps", 4, "--round-steps", 4, "--batch", 4)
    kinmass("fit", "--store", store, "--tracer", "both", "--out", run, *small_fit)
    assert "finished" in kinmass("status", tmp_path / "runs")
    options = ("--part", "all", "--no-classical", "--workers", 1)
    assert "cnn" in kinmass("tables", run, "--store", store, "--out", tmp_path / "results", *options)
    kinmass("predict", run, "--store", store, "--suite", "middle", "--out", tmp_path / "profiles.csv")
    assert len((tmp_path / "profiles.csv").read_text().splitlines()) == 1 + 24 * 10
    script = (
        f"import kinmass; tree = kinmass.open_store({str(store)!r}); infer = kinmass.load({str(run)!r}); "
        "print(tree['middle'].sizes['galaxy'], infer.tracer, kinmass.__version__, kinmass.__file__)"
    )
    output = kinmass("-c", script, program="python").split()
    assert output[:2] == ["24", "both"]
    assert kinmass("--version").split() == ["kinmass", output[2]]
    assert not Path(output[3]).is_relative_to(ROOT)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_and_options(kinmass, shell):
    script = kinmass("--print-completion", shell)
    assert "no-dispersion" in script
    assert "compare" in script


@pytest.mark.parametrize(
    ("name", "last"),
    [("google-crc32c", "1.5.0"), ("submitit", "1.5.3"), ("tensorboard", "2.20.0"), ("zarr", "3.1.5")],
)
def test_no_release_is_taken_with_which_a_command_does_not_work(name, last):
    """The last release of each that imports pkg_resources, which setuptools 82 and a bare Python 3.12 do not have.

    With these checksums took 2,000 times as long, jobs of `kinmass launch` and `tensorboard` itself failed. Of zarr it
    is the last one with which `kinmass tables` failed.
    """
    wanted = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    (requirement,) = (requirement for requirement in wanted if requirement.name == name)
    assert last not in requirement.specifier
