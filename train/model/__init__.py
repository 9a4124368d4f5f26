"""The network: scaling of maps and masses, encoders of the maps, density of the profile, and all of them joined.

Imports nothing of train.
"""
