"""From runs and a map store to tables: kept predictions, tasks on Dask's workers, measures as sums that add up.

`cluster.py` is the only file that uses Dask. Imports `classical`.
"""
