#!/usr/bin/env bash
# From nothing to a small multilingual encoder that retrieves translations:  bash launch/quickstart.sh [pretrain flags]
# Two CPU cores and a few minutes. Stop it whenever you like: the same command goes on where it was.
#   RUN     the folder of the run (default: runs/quickstart)
#   CONFIG  the config (default: configs/quickstart.py; configs/quickstart.py:mlm_tlm does without contrast)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/install.sh quickstart
jalign=${JALIGN_VENV:-$PWD/.venv}/bin/jalign
data=data/quickstart run=${RUN:-runs/quickstart}

# Message catalogues of two installed packages: short, real, parallel in eleven languages and six scripts.
# They repeat messages, which counts as bad input: quarantine sets duplicates aside and counts them.
"$jalign" prepare --output="$data" --vocab_size=4000 --heldout=0.12 --on-error=quarantine \
  --corpus=gettext,en,de+fr+es+ru+zh+ar+hi+vi+tr+ja,package:django,package:plone.app.locales

export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}
"$jalign" pretrain --config="${CONFIG:-configs/quickstart.py}" --workdir="$run" "$@"

"${jalign%jalign}python" - "$run/results.jsonl" <<'SUMMARY'
import json, sys

scores = {}
for line in open(sys.argv[1]):
    r = json.loads(line)
    if (r["task"], r["lang"]) == ("retrieval", "avg"):
        scores[r["step"]] = r["value"], r["n"]
first, last = min(scores), max(scores)
(before, _), (after, n) = scores[first], scores[last]
print(f"\nTranslation retrieval on held-out pairs: {n} candidates, mean pooling, nearest neighbour by cosine, both")
print(f"directions, average over 10 pairs of languages: {100 * after:.1f} % at step {last} = {after * n:.0f} times chance;")
print(f"the untrained model: {100 * before:.1f} % (names, numbers and placeholders are alike in all languages).")
SUMMARY

echo
echo "Words that it links in sentences that it may not have seen (source<sep>target):"
printf '%s\t%s\n' "This field is required." "Ce champ est obligatoire." "Open the new file." "Öffnen Sie die neue Datei." \
  "The password was changed." "Пароль был изменён." | "$jalign" align --model="$run" --words 2>/dev/null
echo

name=$(basename "$run")
"$jalign" export --input="$run" --output="models/$name" --name="$name" --overwrite

cat <<EOF
Done: the run is in $run (config.json, checkpoints/, metrics.jsonl, results.jsonl), and as a Hugging Face model
in models/$name. What to do next:
  resume after a kill     bash launch/quickstart.sh     (try it: press Ctrl-C in the middle)
  train longer            bash launch/quickstart.sh --config.steps=4000
  vectors of sentences    $jalign embed --model=$run --input=FILE --output=vectors.npy
  word links of pairs     $jalign align --model=$run --input=pairs.tsv
  your own parallel text  $jalign prepare --help
  the full recipe         configs/xlmr_base.py
EOF
