"""Show results as figures and as one HTML page.

Imports `tables`.
"""
