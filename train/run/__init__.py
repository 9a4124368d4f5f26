"""A trained network as a folder and as a function: weights, the posterior, its calibration, what is like its data.

Imports `data` and `model`.
"""
