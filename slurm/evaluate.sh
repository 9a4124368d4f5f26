#!/usr/bin/env bash
# Evaluate trained runs and write the report, in one job with a worker per processor core:
#   slurm/evaluate.sh runs --store maps.zarr --out results                       queues itself as slurm/site.env says
#   sbatch --cpus-per-task 32 slurm/evaluate.sh runs --store maps.zarr --out results
#   sbatch slurm/evaluate.sh runs --store maps.zarr --out results --cluster slurm --workers 16      each worker a job
# Options are passed on to `kinmass tables`. Predictions are kept: a job that was stopped goes on when given again.
#SBATCH --job-name=kinmass-evaluate
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
set -euo pipefail
[[ $# -ge 1 && $1 != -h && $1 != --help ]] || { sed -n '2,6s/^# \?//p' "$0" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:-$PWD}"
source slurm/site.sh
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  queue 1 1 "${EVALUATE_TIME:-}" "$0" "$@"
  exit
fi
export OMP_NUM_THREADS=1
exec "${python[@]}" -m kinmass tables "$@" --report
