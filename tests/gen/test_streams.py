"""Whoever reads a command's output, closes it or does not know its letters: the command ends its work."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kinmass.gen.bars import progress_bar

ROOT = Path(__file__).parents[2]
#: A command that prints much before it writes its last file, and something odd after that.
COMMAND = """
import sys
from pathlib import Path
from kinmass.gen.streams import standard_streams

@standard_streams()
def main():
    for number in range(20_000):
        print("galaxy", number)
        print("galaxy", number, file=sys.stderr)
    with open("table.csv", "w") as file:
        file.write("whole" if file.fileno() > 2 else "among what is printed")
    print("M \\u2299 \\udcff")
    return 3

sys.exit(main())
"""
#: A command that somebody ends by Ctrl-C.
INTERRUPTED = """
import os, signal, time
from kinmass import __main__ as project

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background process may not have
project.gen_stage.run = lambda *_: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60))
project.main(["mock", "--out", "x"])
"""

#: The same, while it imports a library that handles exceptions in its own way.
INTERRUPTED_IMPORT = """
import signal, sys
from kinmass.gen.errors import say_interrupted_in_words

signal.signal(signal.SIGINT, signal.default_int_handler)
say_interrupted_in_words()
sys.path.insert(0, "")
import library
"""
LIBRARY = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except BaseException:
    raise RecursionError("an error of its own")
"""


def run(folder: Path, shell: str, **env: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-c", COMMAND]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}", *line], cwd=folder, env=environment, text=True, capture_output=True
    )


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ('"$0" "$@" 2> /dev/null | head -n 1', 3),
        ('"$0" "$@" 2>&1 | head -n 1', 3),
        ('"$0" "$@" >&- 2>&- <&-', 3),
        ('"$0" "$@" > /dev/full', 2),
        ('"$0" "$@" > /dev/full 2>&1', 2),
    ],
)
def test_the_work_is_done(tmp_path, shell, code):
    done = run(tmp_path, shell)
    assert done.returncode == code
    assert (tmp_path / "table.csv").read_text() == "whole"
    assert "Error" not in done.stderr
    if code == 2 and "2>&1" not in shell:
        assert "cannot be written (No space left" in done.stderr.splitlines()[-1]


def test_letters_that_a_terminal_does_not_know_are_escaped(tmp_path):
    for encoding, letters in (("ascii", r"M \u2299 \udcff"), ("utf-8", "M \u2299 \\udcff")):
        done = run(tmp_path, '"$0" "$@" 2> /dev/null', PYTHONIOENCODING=encoding)
        assert done.returncode == 3
        assert done.stdout.splitlines()[-1] == letters


@pytest.mark.parametrize("script", [INTERRUPTED, INTERRUPTED_IMPORT], ids=["at work", "in an import"])
def test_ctrl_c_ends_a_command_with_a_sentence_and_by_its_signal(script, tmp_path):
    """A shell that runs a script ends with it only where the command died of the signal."""
    (tmp_path / "library.py").write_text(LIBRARY)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGINT
    assert done.stderr.split("\n") == ["", "kinmass: interrupted; the same command goes on where it stood", ""]


def test_a_bar_in_a_log_is_plain_and_rare(capsys):
    for _ in progress_bar(range(10_000), desc="galaxies"):
        pass
    log = capsys.readouterr().err
    assert log.isascii()  # two ranks' lines may be cut in the middle of a letter
    assert "10000/10000" in log
    assert log.count("galaxies") < 5


def test_every_bar_is_one_that_a_log_can_hold():
    sources = [path for stage in ("gen", "train", "eval", "bench") for path in (ROOT / stage).rglob("*.py")]
    assert [path.name for path in sources if re.search(r"\btqdm\(", path.read_text())] == ["bars.py"]


def test_every_command_is_run_so():
    from kinmass import __main__ as project
    from kinmass.eval import __main__ as eval_stage
    from kinmass.gen import __main__ as gen_stage
    from kinmass.train import __main__ as train_stage

    for stage in (project, gen_stage, train_stage, eval_stage):
        assert hasattr(stage.main, "__wrapped__")
        assert stage.main.__globals__["__name__"] == "contextlib"
