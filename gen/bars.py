"""Progress bars that may also be read in a job's log."""

import sys
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 10


def progress_bar(*arguments: Any, **options: Any) -> tqdm:
    """Return a tqdm bar on standard error, with tqdm's arguments.

    Where that is a file or a pipe, it is drawn of ASCII characters, at most every `LOG_INTERVAL_S`: what several ranks
    write into one log may be cut anywhere, and half of a longer character would make the log unreadable.
    """
    if not sys.stderr.isatty():
        options = {"ascii": True, "mininterval": LOG_INTERVAL_S} | options
    return tqdm(*arguments, **options)
