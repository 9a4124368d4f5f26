"""An observed galaxy: its FITS maps, their units and pixels, whether they can be what they say, its posterior.

Imports `tables` for measures, `classical` for rotation, `report` for figures.
"""
