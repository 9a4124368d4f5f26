"""The identity of code: a digest of a module and of all modules of this project that it imports."""

import ast
import importlib.util
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = "kinmass"


def version_of(package: str) -> str:
    """Version of an installed package, "unknown" where it states none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


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
