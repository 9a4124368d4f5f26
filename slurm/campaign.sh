#!/usr/bin/env bash
# The whole experiment from a login node: maps, then training, then evaluation, each when the one before has ended well.
#   slurm/campaign.sh OUT SUITE.yaml... [-- options of `kinmass launch`]
#   slurm/campaign.sh /scratch/me/first nihao.yaml tng.yaml -- --nodes 2 --gpus-per-node 4 --time 8h
# Trains gas, stars and both on all suites unless --array or --tracer says otherwise. Everything is in OUT: maps.zarr,
# runs/, results/report.html, logs. Prints the jobs and returns. Given again it leaves alone what is done or under way
# and queues the rest. Site settings, and the size of the jobs, come from slurm/site.env (slurm/site.example.env).
set -euo pipefail
[[ $# -ge 2 && $1 != -* ]] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 2; }
out=$(realpath -m "$1") suites=()
shift
while [[ $# -gt 0 && $1 != -- ]]; do suites+=("$(realpath -m "$1")"); shift; done
training=("${@:2}")
cd "$(dirname "$0")/.."
source slurm/site.sh
[[ " ${training[*]} " == *" --"@(array|tracer)[\ =]* ]] || training+=(--array "gas,stars,both")
needs_slurm
# Given inside a job, as where login nodes are not for --plan, it queues all the same: jobs without that one's variables.
for name in "${!SLURM_@}" "${!PMI_@}" "${!PMIX_@}"; do [[ $name == SLURM_CONF* ]] || unset "$name"; done
mkdir -p "$out/logs"
export SBATCH_OUTPUT=$out/logs/%x-%j.log

# Prints the number of the job of that name if it is queued or runs. Its file may also say which jobs it waits for.
under_way() {
  local job=""
  [[ ! -s $out/logs/$1.job ]] || read -r job _ <"$out/logs/$1.job"
  [[ -n $job ]] && squeue --noheader --jobs="$job" --format=%i 2>/dev/null | head -1
}

# Cancels an evaluation that waits for other jobs than those under way now: one launched again is not among them.
cancel_outdated() {
  local waits_for job
  [[ $(squeue --noheader --jobs="$table" --format=%T 2>/dev/null) == PENDING ]] || return 0
  read -r _ waits_for <"$out/logs/evaluate.job"
  for job in ${before//:/ }; do
    if [[ ":$waits_for:" != *":$job:"* ]]; then
      scancel "$table"
      table=""
      return
    fi
  done
}

# Every suite is read and the store is made before any job is queued, so that mistakes show at once. While a job maps,
# it holds the store.
maps=$(under_way generate) || maps=""
if [[ -n $maps ]]; then
  read -r _ mapped <"$out/logs/generate.job"
  [[ -z $mapped || $mapped == "${suites[*]}" ]] || {
    echo "slurm/campaign.sh: job $maps maps other suites into $out/maps.zarr ($mapped); give the command again when" \
      "it has ended, or cancel it" >&2
    exit 2
  }
else
  plan=$("${python[@]}" -m kinmass maps "${suites[@]}" --out "$out/maps.zarr" --plan)
  echo "$plan"
  [[ $plan =~ room\ for\ ([0-9]+)\ galax(y|ies),\ ([0-9]+)\ of ]]
  if [[ ${BASH_REMATCH[1]} != "${BASH_REMATCH[3]}" ]]; then
    maps=$(slurm/generate.sh "${suites[@]}" --out "$out/maps.zarr")
    echo "$maps ${suites[*]}" >"$out/logs/generate.job"
  fi
fi
"${python[@]}" -m kinmass launch --store "$out/maps.zarr" --out "$out/runs" ${maps:+--after "$maps"} "${training[@]}"
fits=$("${python[@]}" -m kinmass status "$out/runs" --jobs)
before=$maps${fits:+${maps:+:}$fits}
table=$(under_way evaluate) || table=""
[[ -z $table ]] || cancel_outdated
if [[ -z $table && ( -n $before || ! -e $out/results/report.html ) ]]; then
  table=$(AFTER=${before:+afterok:$before} slurm/evaluate.sh "$out/runs" --store "$out/maps.zarr" --out "$out/results")
  echo "$table $before" >"$out/logs/evaluate.job"
fi
cat <<EOF
maps        ${maps:+job }${maps:-done}  ->  $out/maps.zarr
training    ${fits:+job }${fits:-done}  ->  $out/runs
evaluation  ${table:+job }${table:-done}  ->  $out/results/report.html
logs        $out/logs, $out/runs/logs
how it stands: squeue --me; kinmass status $out/runs; tensorboard --logdir $out/runs
EOF
