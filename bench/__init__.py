"""Benchmarks: each prints its figures beside a peer's or a limit's, taken in the same run (docs/benchmarks.md)."""

import os

# Everybody measured gets one thread; set before numba, yt or pynbody are imported.
for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
