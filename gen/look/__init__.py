"""Looking before believing: a file or a suite in words with a verdict, as a suite file, and as pictures.

`kinmass check` reads headers and a bounded sample, `kinmass maps --preview` all of a few galaxies. `picture.py` draws
maps and profiles for every stage. Imports every other room but `mock` and `instruments`.
"""
