#!/usr/bin/env bash
# Set up and run the checks and tests:  bash launch/test.sh [pytest arguments]
# For the slow ones too: bash launch/test.sh -m "slow or not slow"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/install.sh test,quickstart
bin=${JALIGN_VENV:-$PWD/.venv}/bin

"$bin/ruff" check .
"$bin/ruff" format --check .
exec "$bin/python" -m pytest -q "$@"
