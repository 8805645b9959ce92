#!/usr/bin/env bash
# A job on Cloud TPU VMs, through preemptions:
#   TPU=myrun TYPE=v5litepod-16 ZONE=us-west4-a SPOT=1 bash launch/tpu_vm.sh pretrain --config=... --workdir=/mnt/runs/...
# Asks for a queued resource, waits for it, copies this checkout's committed files to all workers, installs them, runs the
# command with --distributed on all, and starts again: after a preemption with a new resource, after a crash on the same.
# The workdir and the data must be on storage that all workers share and that outlives them, such as NFS (SETUP mounts it).
#   TPU       name of the queued resource       TYPE, ZONE, PROJECT   as for gcloud (PROJECT: gcloud's own default)
#   RUNTIME   software of the VMs (default: v2-alpha-tpuv5-lite for v5e, v2-alpha-tpuv6e for v6e, else v2-alpha-tpuv5)
#   SLICES    number of slices (default: 1)     SPOT     1: preemptible, cheaper
#   SETUP     shell command that every worker runs first, such as "sudo mount -t nfs 10.0.0.2:/runs /mnt/runs"
#   RESTARTS  how often a crash is tried again (default: 10); preemptions do not count
#   POLL      seconds between looks (default: 30)            DELETE   1: give the TPU back at the end
# Ctrl-C makes the workers save and stop. The workers use this file too:  tpu_vm.sh worker start|stop ...
set -uo pipefail
say() { printf 'tpu_vm.sh: %s\n' "$*" >&2; }

worker() { # start COMMAND [flags] | stop, in the checkout's copy on a worker
  local action=$1 pidfile=$HOME/jalign.pid pid i code
  shift
  # What a broken connection left behind holds the chips: it saves, or is killed after two minutes.
  if [[ -f $pidfile ]] && pid=$(<"$pidfile") && kill -TERM "$pid" 2>/dev/null; then
    for ((i = 0; i < 120; i++)); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 1
    done
    kill -KILL "$pid" 2>/dev/null
  fi
  rm -f "$pidfile"
  [[ $action == start ]] || return 0
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || return 1
  "${JALIGN_VENV:-$PWD/.venv}/bin/jalign" "$@" --distributed &
  echo $! >"$pidfile"
  wait $!
  code=$?
  echo "tpu_vm.sh: exit $code" # gcloud does not hand on the code of every worker
  return "$code"
}
if [[ ${1:-} == worker ]]; then
  shift
  worker "$@"
  exit
fi

if (($# == 0)); then
  say "usage: TPU=... TYPE=... ZONE=... bash launch/tpu_vm.sh COMMAND [flags]     (pretrain, finetune or doctor)"
  exit 2
fi
for name in TPU TYPE ZONE; do
  if [[ -z ${!name:-} ]]; then
    say "$name is missing (see the top of launch/tpu_vm.sh)"
    exit 2
  fi
done
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
slices=${SLICES:-1} poll=${POLL:-30} restarts=${RESTARTS:-10}
case ${RUNTIME:-}:$TYPE in
  :v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  :v6e-*) runtime=v2-alpha-tpuv6e ;;
  :*) runtime=v2-alpha-tpuv5 ;;
  *) runtime=$RUNTIME ;;
esac
where=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
log=tpu_vm-$TPU.log

tpu() { gcloud compute tpus queued-resources "$1" "$TPU" "${where[@]}" "${@:2}"; }
on_all() { tpu ssh --worker=all --node=all --command="$1"; }

create() {
  local nodes=("--node-id=$TPU")
  ((slices == 1)) || nodes=("--node-count=$slices" "--node-prefix=$TPU")
  say "asking for $slices x $TYPE"
  tpu create --accelerator-type="$TYPE" --runtime-version="$runtime" "${nodes[@]}" ${SPOT:+--spot}
}

make_active() { # sets `fresh` where the workers are new
  local state
  while :; do
    state=$(tpu describe --format='value(state.state)' 2>/dev/null) || state=ABSENT
    case $state in
      ACTIVE) return 0 ;;
      ABSENT) create && fresh=yes || return 1 ;;
      SUSPENDED | FAILED)
        say "the TPU is $state: giving it back and asking for another"
        tpu delete --force --quiet || return 1
        ;;
      *) say "the TPU is $state" ;;
    esac
    sleep "$poll"
  done
}

set_up() {
  local folder code=0
  folder=$(mktemp -d) || return 1
  git -C "$root" archive --format=tar.gz -o "$folder/jalign.tgz" HEAD &&
    gcloud compute tpus queued-resources scp "$folder/jalign.tgz" "$TPU:jalign.tgz" "${where[@]}" --worker=all --node=all &&
    on_all "${SETUP:-true} && mkdir -p jalign && tar -xzf jalign.tgz -C jalign && bash jalign/launch/install.sh tpu" ||
    code=1
  rm -r "$folder"
  return "$code"
}

trap 'trap - INT TERM; say "stopping the workers"; on_all "bash jalign/launch/tpu_vm.sh worker stop"; wait; exit 130' INT TERM
finish() { # CODE
  if [[ ${DELETE:-} == 1 ]]; then
    tpu delete --force --quiet
  else
    say "the TPU is still yours; give it back: gcloud compute tpus queued-resources delete $TPU ${where[*]} --force"
  fi
  exit "$1"
}

fresh=yes crashes=0
printf -v command '%q ' bash jalign/launch/tpu_vm.sh worker start "$@"
while :; do
  make_active || finish 1
  code=1 codes=
  if [[ -z $fresh ]] || set_up; then
    fresh=
    { # in the background: a signal waits for a command in the foreground
      on_all "$command" 2>&1
      echo "tpu_vm.sh: gcloud $?"
    } | tee "$log" &
    wait $!
    code=$(sed -n 's/^tpu_vm\.sh: gcloud //p' "$log")
    codes=$(sed -n 's/.*tpu_vm\.sh: exit \([0-9]*\).*/\1/p' "$log" | sort -nu | tr '\n' ' ')
    codes=${codes:+" $codes"}
  fi
  ((code)) || finish 0
  [[ $1 != doctor ]] || finish 2
  case $codes in
    *" 2 "* | *" 3 "* | *" 4 "*)
      say "exit codes$codes: starting again would not help (see above)"
      finish 2
      ;;
  esac
  if [[ $(tpu describe --format='value(state.state)' 2>/dev/null) != ACTIVE ]]; then
    say "preempted"
  elif [[ $codes == " 143 " || $codes == " 42 " ]]; then
    say "saved and asked to start again"
  elif ((crashes++ < restarts)); then
    say "crashed (exit codes${codes:- unknown}): start $crashes of at most $restarts"
  else
    finish 1
  fi
  sleep "$poll"
done
