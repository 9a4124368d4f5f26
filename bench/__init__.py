"""Benchmarks: each prints its figures beside a peer's or a limit's, taken in the same run (docs/benchmarks.md)."""

import os

# All programs are measured with one thread. These are read when numba, yt or pynbody are imported, so set before.
for _variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
