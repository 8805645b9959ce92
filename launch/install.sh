#!/usr/bin/env bash
# Set up this checkout's virtual environment:  bash launch/install.sh [EXTRA,EXTRA…]
#
# Needs Python >= 3.11 and nothing else. Safe to repeat: with nothing changed it ends at once.
#   JALIGN_VENV     where the environment lives (default: .venv in the checkout)
#   JALIGN_PYTHON   the Python to make it with (default: the first of the list below that works)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=${1:-}
venv=${JALIGN_VENV:-$PWD/.venv}
say() { printf 'install: %s\n' "$*" >&2; }

# One stamp per set of extras: their hash covers all that the result depends on.
stamp=$venv/.jalign-${extras:-core}
hash=$(cat pyproject.toml constraints.txt launch/install.sh - <<<"$PWD" | cksum)
if [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$hash" ]]; then
  exit 0
fi
started=$SECONDS

make_venv() {
  local candidate
  # 3.11 first: constraints.txt is the set of versions tested with it.
  for candidate in ${JALIGN_PYTHON:-python3.11 python3 python3.12 python3.13 python3.14 python}; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if "$candidate" -m venv --clear "$venv" >/dev/null 2>&1; then
      say "made $venv with $("$candidate" --version)"
      return 0
    fi
    say "$candidate cannot make virtual environments (on Debian: apt-get install python3-venv)"
  done
  say "no usable Python >= 3.11 found (tried: ${JALIGN_PYTHON:-python3.11 to python3.14, python3, python})."
  say "Install one, or name it: JALIGN_PYTHON=/path/to/python3.11 bash launch/install.sh"
  exit 1
}
"$venv/bin/python" -c 'import pip' 2>/dev/null || make_venv
python=$venv/bin/python

constraints=(-c constraints.txt)
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  say "constraints.txt is for Python 3.11; $("$python" --version) takes the newest versions in pyproject.toml's ranges"
  constraints=()
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
# torch (tests and benchmarks only) goes through pip, which honours a local pip configuration that offers
# the small CPU build; uv reads no pip configuration.
if [[ ,$extras, == *,test,* || ,$extras, == *,bench,* ]]; then
  torch=$("$python" -c 'import re; print(re.search(r"torch==[\d.]+", open("pyproject.toml").read())[0])')
  "$python" -m pip install --quiet ${constraints[@]+"${constraints[@]}"} "$torch"
fi

target=.${extras:+[$extras]}
# uv takes seconds where pip takes minutes; pip is the way out where uv finds no packages.
if ! { "$python" -m pip install --quiet uv &&
       "$venv/bin/uv" pip install --quiet --python "$python" ${constraints[@]+"${constraints[@]}"} -e "$target"; }; then
  say "uv did not work here; going on with pip (minutes rather than seconds)"
  "$python" -m pip install --quiet ${constraints[@]+"${constraints[@]}"} -e "$target"
fi
printf '%s\n' "$hash" >"$stamp"
say "installed jalign${extras:+ with $extras} in $((SECONDS - started)) s"
