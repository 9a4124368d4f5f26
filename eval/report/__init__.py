"""Results as figures and one HTML page.

Imports `tables`.
"""
