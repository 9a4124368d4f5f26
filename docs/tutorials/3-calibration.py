# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Is it calibrated, and does it survive another simulation?
#
# You start with trained networks and ask two questions. Do 68 % intervals hold the truth in 68 % of the galaxies? And
# what happens to galaxies of a simulation that a network has never seen?
#
# Store and runs are those of tutorials [1](1-maps.md) and [2](2-training.md); what is done is not done again.

# %% language="bash"
# kinmass mock --out mocks --galaxies 60
# kinmass maps mocks/*/*.yaml --out maps.zarr --views 8 --pixels 32 | tail -1
# for tracer in gas stars both; do
#   kinmass fit --store maps.zarr --tracer $tracer --steps 300 --round-steps 50 --out runs/$tracer 2>/dev/null
# done

# %% [markdown]
# For the second question, train once more on one suite alone:

# %% language="bash"
# kinmass fit --store maps.zarr --tracer both --suites quiet --steps 200 --round-steps 50 --out runs/both-on-quiet

# %% [markdown]
# ## One command evaluates everything
#
# `tables` asks every run about every suite, with the galaxies that were kept for the test, and puts classical
# estimators beside them. `report` draws it. Predictions are kept: the next call infers only what has changed.

# %% language="bash"
# kinmass tables runs/gas runs/stars runs/both runs/both-on-quiet --store maps.zarr --out results >tables.txt
# kinmass report results

# %% [markdown]
# Open `results/report.html` in a browser: one file, which needs no network. Here are its main numbers.

# %%
import pandas as pd

summary = pd.read_csv("results/summary.csv", keep_default_na=False, na_values=[""])
networks = summary[summary.estimator == "cnn"].sort_values(["train", "tracer", "test"], ascending=[True, False, True])
networks = networks.rename(columns={"coverage_68": "68 % holds", "coverage_95": "95 % holds"})
columns = ["train", "tracer", "test", "n_galaxies", "dispersion", "bias", "68 % holds", "95 % holds", "ood_share"]
print(networks[columns].to_string(index=False, float_format="{:.3f}".format))

# %% [markdown]
# Read it column by column:
#
# - **n_galaxies**: with 7 to 25 galaxies, everything here is rough. `results/summary.csv` has the 68 % interval of
#   every number (`dispersion_lo`, `dispersion_hi`).
# - **dispersion**, **bias**: scatter and mean of log10 M - log10 M_true, over galaxies and ten radii [dex].
# - **68 % holds**: should be .68. Much less means intervals that are too narrow: the network is wrong and sure of it.
#   More means that they are too wide.
# - **ood_share**: views that look unlike all that the network was trained on. It needs no truth, so you have it for
#   real galaxies too. 5 % are called so by chance.
#
# ## Is it calibrated?

# %% alt="Coverage of all levels, coverage against radius, ranks of the truth, and TARP"
from IPython.display import Image

Image("results/figures/calibration_ifu.png")

# %% [markdown]
# - Top left: of intervals of every level, the share that hold the truth. The diagonal is perfect; above it intervals
#   are too wide, below it too narrow.
# - Top right: the same for 68 and 95 % against radius.
# - Bottom left: where the truth lies among samples (PIT). Flat is perfect; a hill means intervals too wide, a bowl too
#   narrow, a slope a bias.
# - Bottom right: TARP, which tests whole profiles. Zero is perfect.
#
# On the suites it was trained on, a network is calibrated nearly by construction: its widths are set on validation
# galaxies. Believe this figure for *your* galaxies only if they are like those.
#
# ## Does it survive another simulation?

# %% alt="Matrix of training suites against test suites: dispersion, bias, coverage, share out of distribution"
Image("results/figures/matrix_ifu.png")

# %% [markdown]
# The row `quiet` was trained on calm discs. On its own suite it is good. On `bursty`, with its hot, irregular dwarfs,
# it is biased, and its intervals hold far fewer truths than they promise. That is the most important thing to know
# about such networks: **intervals are honest only for galaxies like those in training**. Two things help:
#
# 1. Train on all simulations that you have, and with `kinmass fit --robust`, which varies what simulations differ in
#    and widens intervals by what suites did to each other:
#    [a change of simulation](../explanation/change-of-simulation.md).
# 2. Look at the out-of-distribution score, and distrust what is above .95. It warns; it does not promise.
#
# **Next**: [a real galaxy](4-galaxy.md). What else not to believe: [limits](../explanation/limits.md).
