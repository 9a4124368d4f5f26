"""Mass profiles of galaxies from gas and stellar kinematic maps, learnt from simulations.

  kinmass.open_store("maps.zarr")        the maps and masses of a store's suites
  infer = kinmass.load("runs/both")      a trained network: views in, posterior out
  kinmass.infer("runs/gas", "NGC4451.yaml")   the mass profile of an observed galaxy

Stages are kinmass.gen (simulations to maps), kinmass.train (maps to a posterior), kinmass.eval (posteriors to
tables).
"""
