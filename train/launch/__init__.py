"""Fits as jobs of Slurm or of this machine: the options of a launch, the submission, and the state of the runs.

No other folder imports submitit. Imports `loop` and `run`.
"""
