"""From the store to what a step sees: views as tensors, which come when, what varies while training.

Imports `model`, for the scales of maps.
"""
