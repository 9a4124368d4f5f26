#!/usr/bin/env bash
# A whole Slurm of two nodes on this one machine, to try things on before they meet a cluster:
#   sudo slurm/testbed.sh up [--accounting]    start it, or what of it is not running; then say how to use it
#   sudo slurm/testbed.sh status               what runs
#   sudo slurm/testbed.sh down                 stop it, and remove all that it made
# Everything lies in one folder, $KINMASS_TESTBED (/tmp/kinmass-testbed), but for a line in /etc/hosts.
# Partitions: debug (the default), low (its jobs are queued again when debug wants their nodes: SIGTERM, 10 seconds
# later SIGKILL) and off (its jobs never start). Each node has four processors, and two GPUs that are none. A job that
# is queued again waits 5 seconds instead of the usual 120 (cred_expire), and is looked for every 2, not every 30 or 60.
# Jobs have other numbers each time: MPICH names shared memory by them, and finds what killed jobs of before have left.
# --accounting adds slurmdbd and MariaDB: sacct works, and accounts are asked for ("astro" is one).
set -euo pipefail

bed=${KINMASS_TESTBED:-/tmp/kinmass-testbed}
nodes=(kin1 kin2)
mark="# kinmass testbed"
export SLURM_CONF=$bed/slurm.conf MYSQL_UNIX_PORT=$bed/db.sock
PATH=$PATH:/usr/sbin:/sbin

fail() { echo "testbed: $*" >&2; exit 1; }

# alive NAME: whether the daemon with the process number in NAME.pid runs.
alive() { [[ -s $bed/$1.pid ]] && kill -0 "$(<"$bed/$1.pid")" 2>/dev/null; }

# wait_until SECONDS WHAT COMMAND...: wait until the command succeeds; fail, naming WHAT, after some seconds.
wait_until() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    (( SECONDS < until )) || fail "$what did not come up; the logs are in $bed/log"
    sleep 1
  done
}

settings() {
  local host accounting=""
  host=$(hostname -s)
  if $accounted; then
    accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=26820
AccountingStoragePass=$bed/munge.sock
AccountingStorageEnforce=associations
JobAcctGatherType=jobacct_gather/linux"
    install -m 600 /dev/stdin "$bed/slurmdbd.conf" <<EOF
AuthType=auth/munge
AuthInfo=socket=$bed/munge.sock
DbdHost=localhost
DbdPort=26820
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
PidFile=$bed/slurmdbd.pid
LogFile=$bed/log/slurmdbd
EOF
  fi
  cat >"$SLURM_CONF" <<EOF
ClusterName=kinmass
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$bed/munge.sock,cred_expire=5
StateSaveLocation=$bed/state
SlurmdSpoolDir=$bed/spool-%n
SlurmctldPidFile=$bed/slurmctld.pid
SlurmdPidFile=$bed/slurmd-%n.pid
SlurmctldLogFile=$bed/log/slurmctld
SlurmdLogFile=$bed/log/slurmd-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=20
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
FirstJobId=$((1000 + $(date +%s) % 1000000))
MinJobAge=60
GresTypes=gpu
$accounting
NodeName=${nodes[0]} NodeHostname=$host NodeAddr=127.0.0.1 Port=26818 CPUs=4 RealMemory=16000 Gres=gpu:2
NodeName=${nodes[1]} NodeHostname=$host NodeAddr=127.0.0.1 Port=26819 CPUs=4 RealMemory=16000 Gres=gpu:2
PartitionName=debug Nodes=kin1,kin2 Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
PartitionName=low Nodes=kin1,kin2 MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10
PartitionName=off Nodes=kin1,kin2 MaxTime=INFINITE State=DOWN
EOF
  printf 'NodeName=kin1,kin2 Name=gpu File=/dev/null\nNodeName=kin1,kin2 Name=gpu File=/dev/zero\n' >"$bed/gres.conf"
}

up() {
  local needs=(munged:munge slurmctld:slurmctld slurmd:slurmd srun:slurm-client) missing=()
  $accounted && needs+=(slurmdbd:slurmdbd mariadbd:mariadb-server mariadb-install-db:mariadb-server)
  for need in "${needs[@]}"; do
    command -v "${need%:*}" >/dev/null || missing+=("${need#*:}")
  done
  (( ${#missing[@]} == 0 )) || fail "not installed: ${missing[*]}. On Debian or Ubuntu:
  apt-get install --no-install-recommends ${missing[*]}"
  [[ $EUID == 0 ]] || fail "it has to be started by root: sudo $0 up"
  mkdir -p "$bed"/{log,state} "${nodes[@]/#/$bed/spool-}"
  chmod 755 "$bed"
  grep -q "$mark" /etc/hosts || echo "127.0.0.1 ${nodes[*]} $mark" >>/etc/hosts
  [[ -e $bed/munge.key ]] || (umask 077 && head -c 1024 /dev/urandom >"$bed/munge.key")
  alive munged || munged --force --key-file="$bed/munge.key" --socket="$bed/munge.sock" \
    --pid-file="$bed/munged.pid" --log-file="$bed/log/munged" --seed-file="$bed/munge.seed"
  [[ -e $SLURM_CONF ]] || settings
  if [[ -e $bed/slurmdbd.conf ]]; then
    [[ -d $bed/db ]] || mariadb-install-db --no-defaults --datadir="$bed/db" --user=root --skip-test-db \
      --auth-root-authentication-method=normal >"$bed/log/mariadb" 2>&1
    alive mariadbd || mariadbd --no-defaults --datadir="$bed/db" --socket="$MYSQL_UNIX_PORT" --skip-networking \
      --pid-file="$bed/mariadbd.pid" --user=root >>"$bed/log/mariadb" 2>&1 &
    wait_until 60 mariadbd test -S "$MYSQL_UNIX_PORT"
    alive slurmdbd || slurmdbd
    wait_until 60 slurmdbd sacctmgr -n show cluster
    if [[ -z $(sacctmgr -n show account astro) ]]; then
      sacctmgr -i add cluster kinmass >/dev/null || true
      sacctmgr -i add account astro Description=x Organization=x >/dev/null
      sacctmgr -i add user "$(id -un)" Account=astro >/dev/null
    fi
  fi
  alive slurmctld || slurmctld
  wait_until 60 slurmctld scontrol ping
  for node in "${nodes[@]}"; do
    alive "slurmd-$node" || slurmd -N "$node"
  done
  wait_until 90 "a node" bash -c '[[ $(sinfo -hNp debug -t idle,alloc,mix,comp -o %N | sort -u | wc -l) == 2 ]]'
  echo "two nodes are up; to use them: export SLURM_CONF=$SLURM_CONF"
}

down() {
  [[ -e $bed ]] || return 0
  [[ $EUID == 0 ]] || fail "it has to be stopped by root: sudo $0 down"
  alive slurmctld && timeout 20 scancel --user="$(id -un)" 2>/dev/null && sleep 2
  for daemon in "${nodes[@]/#/slurmd-}" slurmctld slurmdbd mariadbd munged; do
    alive "$daemon" || continue
    pid=$(<"$bed/$daemon.pid")
    kill "$pid"
    for _ in {1..50}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
    kill -9 "$pid" 2>/dev/null || true
  done
  for pid in $(pgrep slurmstepd); do  # only those of this Slurm: the machine may be a node of another
    grep -qz "^SLURM_CONF=$SLURM_CONF$" "/proc/$pid/environ" 2>/dev/null && kill -9 "$pid" || true
  done
  rm -rf "$bed"
  # Written in place, because in a container /etc/hosts cannot be replaced.
  local hosts
  hosts=$(grep -v "$mark" /etc/hosts)
  echo "$hosts" >/etc/hosts
}

status() {
  for daemon in munged mariadbd slurmdbd slurmctld "${nodes[@]/#/slurmd-}"; do
    alive "$daemon" && echo "$daemon: runs, process $(<"$bed/$daemon.pid")" || echo "$daemon: does not run"
  done
  alive slurmctld || return 1
  sinfo -N -o "%N %P %T %E"
}

accounted=false
[[ ${2:-} == --accounting ]] && accounted=true
case "${1:-}" in
  up | down | status) "$1" ;;
  *) sed -n '2,12s/^# \?//p' "$0"; exit 2 ;;
esac
