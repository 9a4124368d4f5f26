"""`kinmass maps`: which galaxies, in which order, what one process does with each, all MPI ranks together.

`parallel.py` is the one file that knows MPI. Imports every other room but `look` and `mock`.
"""
