"""Stage three: evaluate trained networks on a map store, and report their dispersion, bias and calibration."""
