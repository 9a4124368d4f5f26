"""One fit: what is asked for, its state, how it begins, goes on and ends, what TensorBoard shows.

Imports `run`, `data` and `model`.
"""
