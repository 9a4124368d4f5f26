"""Stage one: simulated galaxies in, one Zarr store of kinematic maps and mass profiles out."""
