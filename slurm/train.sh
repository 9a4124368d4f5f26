#!/usr/bin/env bash
# Train one network with DDP, one process per GPU, over the job's nodes:
#   sbatch --nodes 2 --gpus-per-node 4 --time 4:00:00 slurm/train.sh --store maps.zarr --tracer both --out runs/both
# Options go through to `python -m train fit`. Submitted again, it goes on from the last checkpoint.
#SBATCH --job-name=kinmass-train
#SBATCH --output=%x-%j.log
#SBATCH --ntasks-per-node=1
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$PWD}"
source slurm/site.env
eval "$SETUP"
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun "$PYTHON" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id "$SLURM_JOB_ID" -m train fit "$@"
