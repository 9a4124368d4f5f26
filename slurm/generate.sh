#!/usr/bin/env bash
# Map suites into a store with MPI, on as many nodes as you like:
#   slurm/generate.sh nihao.yaml tng.yaml --out maps.zarr        queues itself as slurm/site.env says
#   sbatch --nodes 2 --ntasks-per-node 32 --time 8:00:00 slurm/generate.sh nihao.yaml tng.yaml --out maps.zarr
#   sbatch --array=0-1 slurm/generate.sh nihao.yaml tng.yaml --out maps.zarr         a job for each suite
# Options are passed on to `kinmass maps`. Near its time limit, or when a node fails, the job is queued again and
# goes on: finished galaxies are kept. The same command, given again, goes on too. A failed galaxy does not fail the job.
#SBATCH --job-name=kinmass-generate
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=1
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
[[ $# -ge 1 && $1 != -h && $1 != --help ]] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:-$PWD}"
source slurm/site.sh
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  queue "${NODES:-}" "${TASKS_PER_NODE:-}" "${TIME:-}" "$0" "$@"
  exit
fi

if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
  suites=() options=()
  for word; do
    if [[ $word == *.y*ml ]]; then suites+=("$word"); else options+=("$word"); fi
  done
  set -- "${suites[SLURM_ARRAY_TASK_ID]:?this job of the array has no suite: --array=0-$((${#suites[@]} - 1))}" "${options[@]}"
fi

# srun with the PMI that mpi4py's MPI library uses, if this Slurm supports it; otherwise mpiexec.
if [[ -z ${MPIRUN:-} ]]; then
  pmi=pmi2
  [[ $("${python[@]}" -c 'from mpi4py import MPI; print(MPI.Get_library_version())') != *"Open MPI"* ]] || pmi=pmix
  if srun --mpi=list 2>&1 | grep -qw "$pmi"; then
    MPIRUN="srun --mpi=$pmi"
  else
    MPIRUN=$(PATH="$(dirname "${python[0]}"):$PATH" command -v mpiexec) || {
      echo "$0: neither srun --mpi=$pmi nor mpiexec starts ranks here; set MPIRUN in $site" >&2
      exit 2
    }
  fi
fi

# By SLURM_JOB_ID the last job of an array would stand for all of it: Slurm would end and queue again the others, too.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
queue_again() {
  # 50 times at most: a snapshot that takes longer than the time limit would never end.
  if (( ${SLURM_RESTART_COUNT:-0} < 50 )); then
    echo "$(date): the time limit is near; the job is queued again and goes on"
    scontrol requeue "${job:-$SLURM_JOB_ID}" || echo "the node cannot queue it again: submit it, it goes on where it stood"
  fi
}
trap queue_again USR1

# Where sbatch's --export=NONE holds, srun would start ranks without what SETUP and this script set, too.
export SLURM_EXPORT_ENV=ALL
# One thread per rank, because ranks share the work. Archives are only read and need no HDF5 locks.
export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 HDF5_USE_FILE_LOCKING=FALSE
# A rank that dies, as for want of memory, ends the job: srun would let the others wait for it until the time limit. Not at
# once, for if its node has failed Slurm finds that out meanwhile, after 300 seconds by default, and queues the job again.
export SLURM_WAIT=${SLURM_WAIT:-400}
echo "$(date): $MPIRUN, ${SLURM_NTASKS:-1} tasks on ${SLURM_JOB_NODELIST:-this node}"
$MPIRUN "${python[@]}" -m mpi4py -m kinmass maps "$@" &
while true; do
  code=0
  wait $! || code=$?
  kill -0 $! 2>/dev/null || break  # wait also ends when a signal arrives
done
(( code == 3 )) && exit 0  # some galaxies failed; failures.jsonl says why
exit "$code"
