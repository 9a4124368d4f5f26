# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # From a snapshot to maps
#
# You start with simulation snapshots and end with a store of kinematic maps. Then you look at what a telescope would
# make of them. This takes half a minute of computing; no simulation of your own is needed.
#
# ## Some galaxies
#
# `kinmass mock` makes galaxies in equilibrium and writes them as simulation codes do: `bursty` as Tipsy files with an
# AHF catalogue, `quiet` as AREPO boxes with SUBFIND, `middle` as GIZMO files with a table. If you have a simulation,
# take its snapshots instead.

# %% language="bash"
# kinmass mock --out mocks --galaxies 60

# %% [markdown]
# A **suite file** tells kinmass which snapshots belong together, and which catalogue lists their galaxies. That of the
# quiet mocks is short, because AREPO's files say nearly everything themselves. For your own files
# `kinmass check --draft SNAPSHOT` writes a first one.

# %% language="bash"
# cat mocks/quiet/quiet.yaml

# %% [markdown]
# `aperture` is the sphere in which the true mass is measured: here 0.3 of R200. All keys are in the
# [reference](../reference/suite-file.md).
#
# What does kinmass make of it? `kinmass check` reads the first snapshot's header and a sample of its particles. Read
# its last line first: it says whether the file can be mapped. Then look at the units, and at where they come from.

# %% language="bash"
# kinmass check mocks/quiet/quiet.yaml

# %% [markdown]
# What is *odd* does not stop you, but answer it. Here: no, the unit is right; ten galaxies lie in one box of 30 Mpc,
# and the catalogue tells them apart.
#
# ## Maps
#
# One command maps all galaxies of all suites, each from eight random directions. Put `mpiexec -n 8` before it to share
# the work. If you stop it and give it again, it goes on where it stood.

# %% language="bash"
# kinmass maps mocks/*/*.yaml --out maps.zarr --views 8 --pixels 32

# %% [markdown]
# "0 failed" is what you want to see. A galaxy that fails has its reason in `maps.zarr/failures.jsonl`.
#
# ## What is in the store

# %%
import kinmass

store = kinmass.open_store("maps.zarr")
quiet = store["quiet"]
print(dict(quiet.sizes))
print(quiet["channel"].values)

# %% [markdown]
# For each galaxy and view there are three maps of the stars and three of the gas: surface density, mean velocity
# along the line of sight, and velocity dispersion. The fourth channel counts particles. Draw one view that is neither
# face on nor edge on.

# %% alt="Density, velocity and dispersion of a galaxy's stars and gas, and its true mass profile"
import matplotlib.pyplot as plt
import numpy as np

galaxy, view = np.argwhere(np.abs(quiet["inclination"].values - 55) < 5)[0]
one = quiet.isel(galaxy=galaxy, view=view).load()
r_e = float(one["half_mass_radius"])
half_width = 0.5 * float(one["pixel_scale"]) * one.sizes["x"] / r_e


def draw(axis, maps, tracer, channel, limit=None):
    """Draw one channel, with empty pixels blank; return the limit of the colours."""
    density = maps.sel(channel=f"{tracer}_density").values
    image = np.where(density > 0, maps.sel(channel=f"{tracer}_{channel}").values, np.nan)
    extent = half_width * np.array([-1, 1, -1, 1])
    if channel == "velocity":
        limit = limit or np.nanpercentile(abs(image), 99)
        artist = axis.imshow(image, origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit)
    elif channel == "density":
        artist = axis.imshow(np.log10(np.where(density > 0, density, np.nan)), origin="lower", extent=extent)
    else:
        artist = axis.imshow(image, origin="lower", extent=extent, cmap="magma", vmin=0, vmax=limit)
    plt.colorbar(artist, ax=axis, fraction=0.046)
    unit = "log Msun/kpc$^2$" if channel == "density" else "km/s"
    axis.set_title(f"{tracer}: {channel} [{unit}]", fontsize=9)
    return limit


figure, axes = plt.subplots(2, 4, figsize=(13, 5.6), layout="constrained")
for row, tracer in zip(axes, ("stars", "gas")):
    for axis, channel in zip(row, ("density", "velocity", "dispersion")):
        draw(axis, one["maps"], tracer, channel)
        axis.set(xlabel="x / R$_e$", ylabel="y / R$_e$")
profile = axes[0, 3]
for component in one["component"].values:
    mass = one["mass"].sel(component=component)
    profile.loglog(one["radius"] / r_e, mass.where(mass > 0), label=component)
profile.axvspan(0.3, 3, color="0.9")
profile.set(xlabel="r / R$_e$", ylabel="M(<r) [Msun]", title="truth", xlim=(0.1, 10), ylim=(1e7, None))
profile.legend(frameon=False, fontsize=8)
axes[1, 3].axis("off")
plt.show()

# %% [markdown]
# Gas (below) turns fast and is cold; stars (above) turn more slowly and are hot. On the right is the truth that a
# network will learn: the mass inside r, of all components. The grey band is where it is asked, from 0.3 to 3 projected
# half-mass radii R_e.
#
# ## What a telescope makes of it
#
# The store holds perfect maps. An **instrument** blurs them, cuts them off and adds errors, anew each time a network
# looks. So one store serves all surveys. Here is one view through four instruments.

# %% alt="The stars' velocity and dispersion as stored, blurred, with noise, and with few pixels"
from kinmass.gen.instruments.model import Instrument, PsfFwhm, TracerNoise
from kinmass.train.data.dataset import read_views

views = read_views("maps.zarr", "quiet")
chosen = views[np.array([galaxy * quiet.sizes["view"] + view])]
noise = TracerNoise(velocity_error_kms=10, error_slope=0.5, mask_below_mean=0.025)
instruments = {
    "as stored": Instrument(name="stored"),
    "PSF of 0.8 R$_e$": Instrument(name="psf", psf_fwhm=PsfFwhm(re=0.8)),
    "and errors of 10 km/s": Instrument(name="noise", psf_fwhm=PsfFwhm(re=0.8), stars=noise, gas=noise),
    "and 4 x 4 pixels joined": Instrument(name="coarse", psf_fwhm=PsfFwhm(re=0.8), stars=noise, gas=noise, rebin=4),
}
figure, axes = plt.subplots(2, 4, figsize=(13, 5.6), layout="constrained", sharex=True, sharey=True)
for column, (title, instrument) in zip(axes.T, instruments.items()):
    seen = chosen.observed(instrument)[0].numpy()  # density, V, sigma and valid pixels of the stars, then of the gas
    for axis, channel, options in zip(
        column, (1, 2), ({"cmap": "RdBu_r", "vmin": -200, "vmax": 200}, {"cmap": "magma", "vmin": 0, "vmax": 150})
    ):
        image = np.where(seen[3] > 0, seen[channel], np.nan)
        artist = axis.imshow(image, origin="lower", extent=half_width * np.array([-1, 1, -1, 1]), **options)
    column[0].set_title(title)
    column[1].set_xlabel("x / R$_e$")
for row, label in zip(axes, ("stars: V [km/s]", "stars: $\\sigma$ [km/s]")):
    row[0].set_ylabel(label)
    plt.colorbar(row[-1].images[0], ax=row, fraction=0.02)
plt.show()

# %% [markdown]
# - **The PSF** mixes approaching and receding light. Rotation falls near the centre, and what it loses appears as
#   dispersion: look at the bright centre below.
# - **Noise** grows outwards, as the light fades, and the faintest pixels are lost.
# - **Resolution**: a coarse pixel holds a gradient of velocity, which is dispersion again, and there are fewer of them.
#
# A network that is trained through the same instrument learns to live with all three. They ruin one that is not:
# [tutorial 3](3-calibration.md) and [instruments](../explanation/instruments.md).
#
# The default, `ifu`, has a PSF of 1.5 stored pixels, errors of 10 km/s on stars and 5 km/s on gas. `survey` is all of
# it at once, over broad ranges.
#
# **Next**: [train a posterior](2-training.md) on this store. With snapshots of your own:
# [map your own simulation](../howto/simulation.md).
