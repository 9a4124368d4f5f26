"""Stage three: trained networks and a map store in, dispersion, bias and calibration out."""
