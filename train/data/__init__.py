"""From the store to the batches of a step: views as tensors, their order, and their variation in training.

Imports `model`, for the scales of maps.
"""
