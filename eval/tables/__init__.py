"""Runs and a store in, tables out: predictions that are kept, tasks on Dask's workers, measures that add up.

`cluster.py` is the one file that knows Dask. Imports `classical`.
"""
