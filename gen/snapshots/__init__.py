"""A snapshot file as plain arrays: kpc, km/s, Msun, wrapped and cut; which particle types are what.

Imports physics, formats and the suite.
"""
