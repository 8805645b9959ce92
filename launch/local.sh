#!/usr/bin/env bash
# One job as several processes on this machine:  bash launch/local.sh N pretrain --config=... --workdir=...
# For trying out many processes, and for one process per GPU or per group of GPUs: with NVIDIA GPUs each process takes
# its share of them (N must divide their number). One process alone uses all devices and needs no launcher.
#   JALIGN_PORT   port of the coordinator (default: a free one)
#   DEVICES       simulated CPU devices per process (default: what XLA_FLAGS says)
#   GRACE         seconds between SIGTERM and SIGKILL for those who are left when one has failed (default: 30)
# SIGTERM and Ctrl-C go to all processes, which save (exit code 143, or 130). The exit code is that of the first to fail.
set -uo pipefail
usage='usage: bash launch/local.sh N COMMAND [flags]     (COMMAND: pretrain, finetune or doctor)'
num=${1:-} command=${2:-} grace=${GRACE:-30}
if ! [[ $num =~ ^[1-9][0-9]*$ && -n $command ]]; then
  echo "$usage" >&2
  exit 2
fi
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${JALIGN_PYTHON:-${JALIGN_VENV:-$root/.venv}/bin/python}
say() { printf 'local.sh: %s\n' "$*" >&2; }
if ! [[ -x $python ]]; then
  say "there is no $python: type bash launch/install.sh"
  exit 2
fi

free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
port=${JALIGN_PORT:-$("$python" -c "$free_port")} || exit 2
if [[ -n ${DEVICES:-} ]]; then
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi
gpus=0
if [[ ${JAX_PLATFORMS:-} != cpu ]] && command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
  if ((gpus % num)); then
    say "$gpus GPUs cannot be shared out among $num processes evenly"
    exit 2
  fi
fi

pids=()
asked=""
to_all() { # SIGNAL to those who still run
  local pid
  for pid in "${pids[@]}"; do kill -s "$1" "$pid" 2>/dev/null; done
}
trap 'asked=yes; to_all TERM' TERM INT

share=$((gpus / num))
for ((i = 0; i < num; i++)); do
  (
    export JALIGN_COORDINATOR=localhost:$port JALIGN_NUM_PROCESSES=$num JALIGN_PROCESS_ID=$i
    if ((share)); then
      ids=$(seq -s, $((i * share)) $((i * share + share - 1)))
      export JAX_LOCAL_DEVICE_IDS=$ids
    fi
    exec "$python" -m jalign "$command" --distributed "$@"
  ) &
  pids+=($!)
done

# A process that waits for a dead one in a collective heeds no SIGTERM: after the grace it is killed.
code=0 left=$num deadline=0
while ((left)); do
  sleep 0.2
  left=0
  for i in "${!pids[@]}"; do
    if kill -0 "${pids[i]}" 2>/dev/null; then
      left=$((left + 1))
      continue
    fi
    wait "${pids[i]}"
    status=$?
    unset "pids[i]"
    if ((status && !code)); then
      code=$status
      [[ -n $asked ]] || say "process $i ended with exit code $status"
      to_all TERM
      deadline=$((SECONDS + grace))
    fi
  done
  if ((left && code && SECONDS >= deadline)); then
    say "$left process(es) did not end within $grace s: killed"
    to_all KILL
  fi
done
exit "$code"
