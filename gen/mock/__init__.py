"""Mock galaxies in equilibrium, then disturbed: the embedded default when no archive is at hand."""
