# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # A galaxy from FITS to its mass profile
#
# You start with FITS maps of a galaxy and end with its mass profile, and with a verdict: how far to trust it. No
# training is needed: networks come with kinmass. They were trained through the instrument `survey` and are told how
# your maps were taken.
#
# ## The maps
#
# So that you know the truth, the "observed" galaxy is a simulated one that these networks have not seen: seen through
# a telescope, put on the sky at 20 Mpc, and written as FITS. With maps of your own, skip this step.

# %% language="bash"
# kinmass mock --out unseen --suites quiet --galaxies 10 --seed 77
# kinmass maps unseen/quiet/quiet.yaml --out unseen.zarr --views 2 --inclination 50 60 | tail -1
# kinmass export unseen.zarr --suite quiet --galaxy snap_000:1 --view 0 --out sky \
#   --instrument ifu --distance-mpc 20 --ra 187.2 --dec 9.3
# cp sky/*.fits galaxy.fits

# %%
from astropy.io import fits

with fits.open("galaxy.fits") as file:
    for image in file[1:9]:
        print(f"{image.name:18} {image.shape} {image.header.get('BUNIT', '')}")

# %% [markdown]
# ## The galaxy's file
#
# A YAML file beside the maps says what they are. Four things must be right, because nothing can correct them: the
# **distance**, the **half-light radius** in arcsec (projected, of the stars), the **centre**, and the **beam**. Give
# their errors if you know them: they go into the result.

# %%
from pathlib import Path

TEXT = """\
name: My galaxy
distance_mpc: 20
distance_error_mpc: 1
half_light_radius_arcsec: 23
half_light_radius_error_arcsec: 1
centre_deg: [187.2, 9.3]
inclination_deg: 55          # of the gas disc: for its rotation curve, and densities in no unit
stars:
  velocity: galaxy.fits[STARS_VELOCITY]
  dispersion: galaxy.fits[STARS_DISPERSION]
  density: galaxy.fits[STARS_DENSITY]
  beam_fwhm_arcsec: 6.5
gas:
  velocity: galaxy.fits[GAS_VELOCITY]
  dispersion: galaxy.fits[GAS_DISPERSION]
  density: galaxy.fits[GAS_DENSITY]
  beam_fwhm_arcsec: 6.5
"""
_ = Path("galaxy.yaml").write_text(TEXT)

# %% [markdown]
# All other keys (velocity errors, masks, instrumental widths, tables of Voronoi bins) are in the
# [reference](../reference/galaxy-file.md), and `docs/observed/` has six real galaxies to copy from.
#
# ## The profile

# %% language="bash"
# kinmass predict galaxy.yaml --inside-kpc 5

# %% [markdown]
# There are three answers, because there are two tracers: from both, from the gas, from the stars. Read the **verdict**
# before the mass. Then see whether gas and stars agree, and whether the rotation curve, which owes nothing to a
# network, does. The figure lies beside the results:

# %% alt="Maps of the stars and of the gas as the network sees them, and the inferred mass profile"
from IPython.display import Image

Image("profiles/galaxy/any/figure.png")

# %% [markdown]
# Look at the maps first. Are they those you meant: centred, the right way up (north is up, and east to the right),
# without stray pixels? Here you can also compare with the truth:

# %% alt="Inferred mass minus true mass against radius, with 68 and 95 per cent intervals"
import matplotlib.pyplot as plt
import numpy as np
from astropy.table import QTable

profile = QTable.read("profiles/galaxy/any/profile.ecsv")
with fits.open("galaxy.fits") as file:
    true = file["MASS_PROFILE"].data
truth = np.interp(np.log(profile["radius"].value), np.log(true["RADIUS"]), np.log10(true["M_TOTAL"]))
figure, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
radius = profile["radius"].value
for level, alpha in (("95", 0.2), ("68", 0.4)):
    low, high = (profile[f"log10_menc_{side}_{level}"] - truth for side in ("lo", "hi"))
    axis.fill_between(radius, low, high, color="tab:green", alpha=alpha, lw=0, label=f"{level} %")
axis.plot(radius, profile["log10_menc"] - truth, color="tab:green", label="median")
axis.axhline(0, color="k", ls="--", lw=1, label="truth")
axis.set(xscale="log", xlabel="r [kpc]", ylabel="log10 M / M$_{true}$ [dex]", xticks=[1, 2, 5])
axis.set_xticklabels(["1", "2", "5"])
axis.minorticks_off()
axis.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## What can go wrong
#
# Change one thing in the file at a time, and see what kinmass says.

# %%
import subprocess


def predict(old, new):
    """Run `kinmass predict` on the file with one change, and show the first lines of what it says."""
    Path("wrong.yaml").write_text(TEXT.replace(old, new))
    done = subprocess.run(["kinmass", "predict", "wrong.yaml", "--out", "wrong"], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()[:6]
    print(f"{new.strip()}\n\n" + "\n".join(line for line in lines if line))


predict("half_light_radius_arcsec: 23", "half_light_radius_arcsec: 2.2")

# %% [markdown]
# A radius in kpc where arcsec were wanted: **refused**, with what to look at. So are unknown keys, units that are none,
# errors that no galaxy has, beams wider than the map.

# %%
predict("galaxy.fits[GAS_DISPERSION]", "galaxy.fits[STARS_DENSITY]")

# %% [markdown]
# The wrong image: its unit tells. Images without a unit are taken as km/s, and then nobody can tell.

# %%
predict("centre_deg: [187.2, 9.3]", "centre_deg: [187.21, 9.3]")

# %% [markdown]
# A centre 36 arcsec off: an answer, but **not to be trusted**, and why.

# %%
predict("distance_mpc: 20\n", "distance_mpc: 80\n")

# %% [markdown]
# A distance four times too large makes the mass four times too large. A galaxy four times as far and four times as
# big moves the same, so no velocity can tell. Only the light does here, because these densities are in units of
# mass: stars and gas would outweigh everything. **Maps in other units say nothing of it.** Nor do any maps of an
# R_e of another band. A good verdict says that nothing speaks against a result. It does not say that your file is
# right.
#
# **Next**: [weigh a real galaxy](../howto/galaxy.md) has every case of files and units; [what not to
# believe](../explanation/limits.md) has what no verdict sees.
