"""Fits as jobs of Slurm or of this machine: what is asked for, submission, how they stand.

`submission.py` is the one file that knows submitit. Imports `loop` and `run`.
"""
