#!/usr/bin/env bash
# From nothing to a small multilingual encoder that retrieves translations:  bash launch/quickstart.sh [pretrain flags]
# Two CPU cores and a few minutes. Stop it whenever you like: the same command goes on where it was.
#   RUN   the folder of the run (default: runs/quickstart)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/install.sh quickstart
jalign=${JALIGN_VENV:-$PWD/.venv}/bin/jalign
data=data/quickstart run=${RUN:-runs/quickstart}

# Message catalogues of two installed packages: short, real, parallel in eleven languages and six scripts.
if [[ ! -f $data/manifest.json ]]; then
  langs=de+fr+es+ru+zh+ar+hi+vi+tr+ja
  "$jalign" prepare --output="$data" \
    --corpus="gettext,en,$langs,package:django" \
    --corpus="gettext,en,$langs,package:plone.app.locales" \
    --vocab_size=8000 --heldout=0.1 --on-error=quarantine
fi

export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
"$jalign" pretrain --config=configs/quickstart.py --workdir="$run" "$@"

cat <<EOF

Done: the run is in $run (config.json, checkpoints/, metrics.jsonl, results.jsonl). What to do next:
  resume after a kill     bash launch/quickstart.sh     (try it: press Ctrl-C in the middle)
  train longer            bash launch/quickstart.sh --config.steps=4000
  your own parallel text  $jalign prepare --help
  the full recipe         configs/xlmr_base.py
EOF
