"""Pure functions of a galaxy's particles: rotations, moment maps, enclosed masses, where it is and where it ends.

Arrays in kpc, km/s and Msun in, arrays out; nothing here reads a file. Imports nothing else of gen.
"""
