#!/usr/bin/env bash
# Map suites into a store with MPI:
#   sbatch --nodes 2 --ntasks-per-node 32 --time 8:00:00 slurm/generate.sh nihao.yaml tng.yaml --out maps.zarr
# Options go through to `python -m gen maps`. A job that ran out of time is simply submitted again:
# finished galaxies are kept. Site settings come from slurm/site.env (slurm/site.example.env).
#SBATCH --job-name=kinmass-generate
#SBATCH --output=%x-%j.log
#SBATCH --cpus-per-task=1
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$PWD}"
source slurm/site.env
eval "$SETUP"
# One thread per rank: ranks are the parallelism. Read-only archives need no HDF5 locks.
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 HDF5_USE_FILE_LOCKING=FALSE
exec $MPIRUN "$PYTHON" -m mpi4py -m gen maps "$@"
