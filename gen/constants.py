"""Physical constants in the project's units, kpc, km/s and Msun; and these units in cgs."""

import math

#: Newton's constant [kpc (km/s)^2 / Msun] (CODATA 2018 G, IAU 2015 nominal GM_sun).
G = 4.300917270e-6
KPC_CM = 3.0856775814913673e21
MSUN_G = 1.988409870698051e33
KMS_CM_S = 1.0e5
LIGHT_KMS = 299_792.458
#: One kpc/(km/s) in Gyr.
GYR_PER_KPC_KMS = 0.9777922216807892
#: h of a Planck-like universe, H0 = 67.74 km/s/Mpc, and its critical density [Msun/kpc^3].
HUBBLE, RHO_CRIT = 0.6774, 3 * 0.06774**2 / (8 * math.pi * G)
#: RAMSES's own: a megaparsec [cm], also HaloMaker's, and the critical density for h = 1 [g/cm^3] (amr/units.f90).
RAMSES_MPC_CM, RAMSES_RHO_CRIT = 3.08e24, 1.88e-29
