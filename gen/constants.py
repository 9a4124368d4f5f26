"""Physical constants in the project's units: kpc, km/s, Msun."""

#: Newton's constant [kpc (km/s)^2 / Msun] (CODATA 2018 G, IAU 2015 nominal GM_sun).
G = 4.300917270e-6
KPC_CM = 3.0856775814913673e21
MSUN_G = 1.988409870698051e33
KMS_CM_S = 1.0e5
#: One kpc/(km/s) in Gyr.
GYR_PER_KPC_KMS = 0.9777922216807892
