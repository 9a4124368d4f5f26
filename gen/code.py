"""Says which code ran: versions, git commit and command, and a digest of a module with all that it imports of us."""

import ast
import importlib.util
import shlex
import subprocess
import sys
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

_PACKAGE = "kinmass"


def version_of(package: str) -> str:
    """Version of an installed package, "unknown" where it states none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


class Provenance(TypedDict):
    """Software versions by name, and the git commit of this code."""

    versions: dict[str, str]
    commit: str


def provenance() -> Provenance:
    """Return software versions and git commit, for a store's or a run's attributes."""
    names = ("numpy", "numba", "yt", "zarr", "mpi4py")
    return {"versions": {name: version_of(name) for name in names}, "commit": commit()}


def commit() -> str:
    """Return the git commit of this code; "unknown" where git does not answer in time, or the code is in no clone."""
    here = Path(__file__).resolve().parents[1]  # the clone's root: kinmass/gen is a link to gen
    if not (here / ".git").exists():  # installed code: a repository further up belongs to another project
        return "unknown"
    described = _git(here, "describe", "--always")
    if not described:
        return "unknown"
    is_dirty = bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    return f"{described}-dirty" if is_dirty else described


def _git(clone: Path, *words: str) -> str:
    """Return what git answers about a clone, "" where it fails or takes too long.

    It is asked not to write: `describe --dirty` writes the index anew, and where it is killed meanwhile, as for taking
    too long, a lock stays behind by which the user's own git commands fail.
    """
    try:
        git = subprocess.run(
            ["git", "--no-optional-locks", *words],
            cwd=clone, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return git.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def command_line() -> str:
    """Return the command that started this process, quoted for a shell."""
    return shlex.join(sys.orig_argv)


def imports(module: str) -> dict[str, Path]:
    """Files, by module name, of a module and of all modules of this project that it imports, directly or indirectly."""
    files: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        if name == _PACKAGE:  # the top package calls every stage but computes nothing
            continue
        spec = importlib.util.find_spec(name) if name not in files else None
        if spec is None or spec.origin is None:
            continue
        files[name] = Path(spec.origin)
        pending += [".".join(name.split(".")[:-1])] if "." in name else []  # importing a module runs its package first
        for node in ast.walk(ast.parse(files[name].read_bytes())):
            imported = [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                imported = [
                    node.module or "",
                    *(f"{node.module}.{n}" for n in imported if _is_module(f"{node.module}.{n}")),
                ]
            pending += [n for n in imported if n.split(".")[0] == _PACKAGE]
    return files


def _is_module(name: str) -> bool:
    """Whether a name imported from a package of this project is a module."""
    if name.split(".")[0] != _PACKAGE:
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent is a module, not a package
        return False


def digest_of(*made_of: object) -> str:
    """Return a digest of what something that is kept was made of: numbers and words, alone or in tuples and lists."""
    return blake2b(repr(made_of).encode(), digest_size=16).hexdigest()


@cache
def stage_key() -> str:
    """A digest of all code of this stage. It is computed once in a process, in some hundredths of a second."""
    digest = blake2b(digest_size=8)
    for path in sorted(Path(__file__).resolve().parent.rglob("*.py")):
        digest.update(blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def code_key(module: str, packages: tuple[str, ...] = ()) -> str:
    """A digest of the files of `imports(module)` and of the versions of some packages.

    It is computed once in a process: later changes of the files do not show.
    """
    digest = blake2b(digest_size=8)
    for name, path in sorted(imports(module).items()):
        digest.update(f"{name}\0".encode() + blake2b(path.read_bytes()).digest())
    digest.update(repr([(package, version_of(package)) for package in packages]).encode())
    return digest.hexdigest()
