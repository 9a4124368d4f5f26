"""A trained network as a folder and as a function: weights, posterior, calibration, and the test for unlike views.

Imports `data` and `model`.
"""
