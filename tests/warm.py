"""Processes of `python -m ...` forked from an interpreter that has the libraries imported.

Importing torch, yt and what the optimiser wants takes most of the time of a fit of twenty steps. The project itself is
imported by each process anew, and each is a process like any other: it has a number, it can be killed, it may fail.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        "astropy.io.fits",
        "dask.distributed",
        "matplotlib.pyplot",
        "numba",
        "scipy.spatial.transform",
        "scipy.stats",
        "torch._dynamo",
        "torch.nn.parallel",
        "torch.utils.tensorboard",
        "xarray",
        "yt",
        "zarr",
        "zuko",
    ]
)


def _main(
    arguments: list[str], folder: str, env: dict[str, str], outputs: list[Path], limit: Callable[[], None] | None
) -> None:
    """What `python -m` does, in a process just forked."""
    for number, path in enumerate(outputs, start=1):
        into = os.open(path, os.O_WRONLY)
        os.dup2(into, number)
        os.close(into)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    if limit:
        limit()
    sys.argv = arguments.copy()
    sys.orig_argv = [sys.executable, "-m", *arguments]
    sys.path[0] = folder
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


class Process:
    """`python -m arguments` in the project's folder, as far as subprocess.Popen is asked for by the tests.

    limit: called before anything else is done there; it has to pickle.
    """

    def __init__(
        self, arguments: list[str], env: dict[str, str] | None = None, limit: Callable[[], None] | None = None
    ) -> None:
        self.args = [sys.executable, "-m", *arguments]
        self._outputs = []
        for _ in range(2):
            number, path = tempfile.mkstemp()
            os.close(number)
            self._outputs.append(Path(path))
        given = (arguments, str(ROOT), dict(os.environ if env is None else env), self._outputs, limit)
        self._process = _FORKING.Process(target=_main, args=given)
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end: what it said and what it complained of. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        out, err = (path.read_text() for path in self._outputs)
        for path in self._outputs:
            path.unlink()
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
