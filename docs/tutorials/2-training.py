# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Train a posterior, and read TensorBoard
#
# You start with a store of maps and end with three networks: one that sees gas, one that sees stars, and one that sees
# both. Each answers with a **posterior**: not one mass profile, but all that are likely given the maps.
#
# The store is that of [tutorial 1](1-maps.md). If you have done it, these commands find everything done:

# %% language="bash"
# kinmass mock --out mocks --galaxies 60
# kinmass maps mocks/*/*.yaml --out maps.zarr --views 8 --pixels 32 | tail -1

# %% [markdown]
# ## Train
#
# `fit` trains one network. 300 steps are far too few for science, and enough to see how it goes: a demo takes 1,200, a
# campaign 9,600. Each run takes some 20 to 40 seconds here.

# %% language="bash"
# for tracer in gas stars both; do
#   kinmass fit --store maps.zarr --tracer $tracer --steps 300 --round-steps 50 --out runs/$tracer
# done

# %% [markdown]
# - The first line of each says what it trains on. The **split** is by galaxy: all views of one galaxy are on one side.
#   Here 136 galaxies train, 19 validate, and the rest are kept for the test.
# - *Dispersion* is the scatter of log10 M over validation galaxies: 0.1 dex is 26 %.
# - The same command again leaves a finished run alone, and goes on with one that was stopped.
#
# ## TensorBoard
#
# Run `tensorboard --logdir runs` and open the address that it prints, while the fits run or later. On a cluster, run it
# on the login node and forward the port: `ssh -L 6006:localhost:6006 login`. The tab *Custom scalars* has one page that
# tells whether a run is good:
#
# ![TensorBoard's page of two runs: losses, dispersion, bias and coverage against step](../images/tensorboard.png)
#
# Its curves are files in the run folder, so you can draw them yourself:

# %% alt="Validation loss, dispersion and coverage of three runs against step"
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
for tracer, colour in (("gas", "tab:blue"), ("stars", "tab:orange"), ("both", "tab:green")):
    log = EventAccumulator(f"runs/{tracer}/tensorboard").Reload()
    for axis, name, style in (
        (axes[0], "loss/val_calibrated", "-"),
        (axes[1], "dispersion/mean", "-"),
        (axes[2], "coverage/mean", "-"),
    ):
        points = log.Scalars(name)
        axis.plot([p.step for p in points], [p.value for p in points], style, color=colour, label=tracer)
axes[0].set(xlabel="step", ylabel="loss [nats]", title="validation loss")
axes[1].set(xlabel="step", ylabel="dispersion [dex]", ylim=(0, None), title="scatter of log10 M, validation")
axes[2].set(xlabel="step", ylabel="coverage", ylim=(0, 1), title="truths inside 68 % intervals")
axes[2].axhline(0.683, color="k", lw=0.8)
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# How to read it:
#
# | you see | it means | do |
# |---|---|---|
# | validation loss still falls at the end | it has not learnt all it can | more `--steps` |
# | validation loss rises again | it learns its galaxies by heart | more galaxies or views, fewer `--steps` |
# | coverage below .68 | intervals are too narrow | nothing yet: calibration, after the last step, widens them |
# | dispersion of `both` no better than of one tracer | hardly any galaxies, or far too few steps | as above |
# | loss is NaN | the run stops and names the views | look at these views |
#
# ## Ask it
#
# `kinmass.load` gives a trained run as a function from views to posteriors. Take a galaxy that no network has seen.

# %% alt="Posteriors of one unseen galaxy from gas, stars and both, against its true mass"
import numpy as np

import kinmass
from kinmass.train.data.dataset import RADII_RE, read_views

views = read_views("maps.zarr", "quiet", part="test")
one = views[np.array([3])]
truth = one.log10_menc[0].numpy()
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", sharey=True)
for axis, tracer in zip(axes, ("gas", "stars", "both")):
    posterior = kinmass.load(f"runs/{tracer}")(one)
    low95, low68, median, high68, high95 = posterior.quantiles([0.023, 0.159, 0.5, 0.841, 0.977])[:, 0] - truth
    axis.fill_between(RADII_RE, low95, high95, color="tab:green", alpha=0.2, lw=0, label="95 %")
    axis.fill_between(RADII_RE, low68, high68, color="tab:green", alpha=0.4, lw=0, label="68 %")
    axis.plot(RADII_RE, median, color="tab:green", label="median")
    axis.axhline(0, color="k", ls="--", lw=1, label="truth")
    axis.set(xscale="log", xlabel="r / R$_e$", title=tracer, xticks=[0.3, 1, 3], xticklabels=["0.3", "1", "3"])
    axis.minorticks_off()
axes[0].set_ylabel("log10 M / M$_{true}$ [dex]")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# The truth should lie inside the dark band at about two radii in three, over many galaxies. One galaxy proves nothing:
# its ten radii err together. Whether the bands are honest is the next question.
#
# **Next**: [is it calibrated, and does it survive another simulation?](3-calibration.md) What the network is, and why
# it knows no units: [what is learnt](../explanation/learning.md).
