"""The network: dimensional analysis, encoders of the maps, the density of the profile, all of it together.

Imports nothing of train.
"""
