"""One fit: its settings, its state, the loop that begins, goes on and ends it, and its TensorBoard curves.

Imports `run`, `data` and `model`.
"""
