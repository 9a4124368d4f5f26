"""Fits as jobs of Slurm or of this machine: what is asked for, submission, how they stand.

submitit is known in this room alone. Imports `loop` and `run`.
"""
