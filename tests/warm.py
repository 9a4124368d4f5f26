"""Processes of `python -m ...` or `-c ...` that are forked from an interpreter with the libraries already imported.

Importing torch, yt and what torch's optimisers need takes most of the time of a fit of twenty steps. The project itself
is imported anew by each process. Each is a process of its own: it has a process number, can be killed and may fail.
"""

import atexit
import faulthandler
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

ROOT = Path(__file__).parent.parent

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        "astropy.io.fits",
        "dask.distributed",
        "matplotlib.backends.backend_agg",
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
    """Do in a forked process what `python` does with these arguments, of which the first is -m or -c."""
    for number, path in enumerate(outputs, start=1):
        descriptor = os.open(path, os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    faulthandler.register(signal.SIGQUIT)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    # Workers that it forks come from the same server. Python would start another, though it says that it does not.
    forkserver._forkserver.ensure_running = resource_tracker.ensure_running
    if limit:
        limit()
    sys.argv = arguments[1:] if arguments[0] == "-m" else ["-c", *arguments[2:]]
    sys.orig_argv = [sys.executable, *arguments]
    sys.path[0] = folder
    try:
        if arguments[0] == "-m":
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()


class Process:
    """`python arguments` in the project's folder, with the part of subprocess.Popen's interface that tests use.

    limit: a function called in the process before anything else; it must be picklable.
    """

    def __init__(
        self, arguments: list[str], env: dict[str, str] | None = None, limit: Callable[[], None] | None = None
    ) -> None:
        self.args = [sys.executable, *arguments]
        self._outputs = []
        for _ in range(2):
            number, path = tempfile.mkstemp()
            os.close(number)
            self._outputs.append(Path(path))
        main_arguments = (arguments, str(ROOT), dict(os.environ if env is None else env), self._outputs, limit)
        self._process = _FORKING.Process(target=_main, args=main_arguments)
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
        """Wait for its end; its output and error output.

        Raises subprocess.TimeoutExpired, with what it wrote and what every one of its threads is doing as a note.
        """
        self._process.join(timeout)
        if self._process.is_alive():
            self.send_signal(signal.SIGQUIT)  # faulthandler prints where its threads are.
            time.sleep(1)
            too_long = subprocess.TimeoutExpired(self.args, timeout or 0.0)
            too_long.add_note("\n".join(path.read_text() for path in self._outputs))
            raise too_long
        out, err = (path.read_text() for path in self._outputs)
        for path in self._outputs:
            path.unlink()
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
