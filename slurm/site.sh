# shellcheck shell=bash disable=SC1090,SC2034
# Sourced by the job scripts: the site's settings, a Python, and how a script queues itself.
site=${KINMASS_SITE:-slurm/site.env}
[[ -e slurm/site.sh ]] || { echo "$0: submit it from kinmass's own folder, not from $PWD" >&2; exit 2; }
[[ -e $site || -z ${KINMASS_SITE:-} ]] || { echo "$0: there is no $site in $PWD: give KINMASS_SITE whole" >&2; exit 2; }
if [[ -e $site ]]; then source "$site"; fi
python=("$PWD/.venv/bin/python")
[[ -z ${PYTHON:-} ]] || read -ra python <<<"$PYTHON"
set +u  # modules may use variables that are not set
trap 'echo "$0: SETUP of $site fails here: $SETUP" >&2' ERR
eval "${SETUP:-}"
trap - ERR
set -u

# Ends the script where no Slurm answers, and says what there is instead.
needs_slurm() {
  local said
  said=$(timeout 20 squeue --noheader --user="$(id -u)" 2>&1 >/dev/null) && return
  echo "$0: no Slurm answers here (${said##*$'\n'}): give it on a login node of Slurm. On one machine the stages are" \
    "\`kinmass maps\`, \`kinmass launch --cluster local\` and \`kinmass tables ... --report\`." >&2
  exit 2
}

# queue NODES TASKS TIME SCRIPT ARGUMENTS...: sbatch with the settings of the site file; prints the job's number.
queue() {
  needs_slurm
  local options=() name value
  for name in nodes:"$1" ntasks-per-node:"$2" time:"$3" account:"${ACCOUNT:-}" partition:"${PARTITION:-}" \
    qos:"${QOS:-}" constraint:"${CONSTRAINT:-}" wckey:"${WCKEY:-}" dependency:"${AFTER:-}"; do
    value=${name#*:}
    [[ -z $value ]] || options+=("--${name%%:*}=$value")
  done
  [[ -z ${AFTER:-} ]] || options+=(--kill-on-invalid-dep=yes)
  eval "options+=(${SBATCH_EXTRA:-})"  # eval, because words with spaces are quoted
  sbatch --parsable "${options[@]}" "${@:4}" | cut -d';' -f1
}
