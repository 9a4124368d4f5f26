# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # A campaign on Slurm
#
# You start with suite files on a login node and end with three jobs in the queue: maps under MPI, training under DDP,
# evaluation and a report. This page runs on a Slurm where one answers, and else on this machine, where you give the
# three stages yourself: each cell has both ways.
#
# No cluster at hand? `sudo slurm/testbed.sh up` starts a Slurm of two nodes on a Debian or Ubuntu machine, from the
# packages `munge slurmctld slurmd slurm-client`, and `sudo slurm/testbed.sh down` removes it. Then
# `export SLURM_CONF=/tmp/kinmass-testbed/slurm.conf`.

# %% language="bash"
# sinfo --noheader --format="partition %P: %a, %D nodes" 2>/dev/null || echo "no Slurm answers"

# %% [markdown]
# ## Before anything waits in a queue
#
# Two small suites stand for yours. `--dry-run` lists the galaxies that would be mapped. `--plan` makes the store, maps
# a few galaxies aside, and foretells how long a run would take on how many ranks:

# %% language="bash"
# kinmass mock --out small --suites bursty,quiet --galaxies 12
# kinmass maps small/*/*.yaml --out campaign/maps.zarr --dry-run | tail -3
# kinmass maps small/*/*.yaml --out campaign/maps.zarr --plan --ranks 4

# %% [markdown]
# Ask for as many ranks as the last line calls worth their while, not for more.
#
# ## What your site wants
#
# One file says it: copy `slurm/site.example.env` to `slurm/site.env` and change what differs at your site: account,
# partitions, modules. (Here it is written for the testbed, and named by `KINMASS_SITE`.)

# %%
import os
import sys
from pathlib import Path

Path("site.env").write_text(
    f"""\
PYTHON={sys.executable}
NODES=2
TASKS_PER_NODE=2
CPUS_PER_TASK=1
TIME=10
EVALUATE_TIME=10
"""
)
os.environ["KINMASS_SITE"] = str(Path("site.env").resolve())

# %% [markdown]
# ## Go
#
# On a cluster one command queues everything, each stage after the one before. `$KINMASS` is the folder that you cloned
# (`export KINMASS=$HOME/kinmass`, say).
# Without Slurm the same stages run on this machine.

# %% language="bash"
# if sinfo >/dev/null 2>&1; then
#   $KINMASS/slurm/campaign.sh campaign small/bursty/bursty.yaml small/quiet/quiet.yaml -- \
#     --nodes 2 --processes-per-node 1 --time 10m --array gas,both --steps 40 --round-steps 20 --batch 32
# else
#   mpiexec -n 2 kinmass maps small/*/*.yaml --out campaign/maps.zarr
#   kinmass launch --cluster local --processes-per-node 1 --store campaign/maps.zarr --out campaign/runs \
#     --array gas,both --steps 40 --round-steps 20 --batch 32
# fi

# %% [markdown]
# It prints the jobs and returns. With real suites you would log out now.
#
# ## Watch
#
# `kinmass status` says how each run stands; `--wait` goes on saying it until nothing is queued or runs, for scripts.
# `squeue --me` shows the jobs, `tensorboard --logdir campaign/runs` the curves.

# %% language="bash"
# if sinfo >/dev/null 2>&1; then squeue --me --format="%.10i %.16j %.10T %.20R"; fi
# kinmass status campaign/runs --wait

# %% [markdown]
# *queued* and *running* mean what they say. *stopped* is a run with a checkpoint, which goes on; *gone* is a job that
# ended without a word: read its log, whose path stands beside it.
#
# ## When something stops
#
# A time limit, a preemption, a node that dies: jobs write a checkpoint, queue themselves again and go on. If anything
# else stopped, **give the same command again**. What is done or under way is left alone, and the rest is queued:

# %% language="bash"
# if sinfo >/dev/null 2>&1; then
#   until [ -e campaign/results/report.html ]; do sleep 2; done
#   $KINMASS/slurm/campaign.sh campaign small/bursty/bursty.yaml small/quiet/quiet.yaml -- \
#     --nodes 2 --processes-per-node 1 --time 10m --array gas,both --steps 40 --round-steps 20 --batch 32
# else
#   kinmass launch --cluster local --processes-per-node 1 --store campaign/maps.zarr --out campaign/runs \
#     --array gas,both --steps 40 --round-steps 20 --batch 32
#   kinmass tables campaign/runs --store campaign/maps.zarr --out campaign/results --no-classical >/dev/null
# fi
# ls campaign/results/*.csv

# %% [markdown]
# The report of a campaign is one file, `campaign/results/report.html`: copy it home and open it. (Without Slurm,
# `--report` at the end of `kinmass tables` writes it.)
#
# **Next**: [run on a cluster](../howto/cluster.md) says what was tried and in what sites differ;
# [launch training jobs](../howto/launching.md) has ensembles and arrays; [map with thousands of
# ranks](../howto/ranks.md) has the rest.
