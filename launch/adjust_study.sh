#!/usr/bin/env bash
# What adjustment does to an encoder, and what fine-tuning forgets of it:  bash launch/adjust_study.sh
# Five states of one encoder, measured alike: original, adjusted, finetuned, adjusted_finetuned, continual; then one
# table and one picture. Stop it whenever you like: the same command goes on where it was.
#   STUDY     folder of the study (default: runs/adjust_study)      MODEL     the original (default: runs/quickstart)
#   DATA      prepared pairs (default: data/quickstart)             LEXICONS  word links (default: $DATA/lexicons)
#   TASK      pos, ner, xnli or xquad (default: pos)                SIZE      small, or nothing for the full recipes
#   SEEDS     of fine-tuning (default: 0,1,2)                       ALIGNED   languages of DATA (default: de,es,...)
#   GOLD      word-aligned sets of the distances, separated by spaces, as for jalign evaluate --gold: SRC-TRG,FILES
#   SENTENCES sets of sentence retrieval, separated by spaces: SRC-TRG=FILE,FILE (none: not measured)
#   FILES     flags of fine-tuning, above all its files             ADJUST    flags of the adjustment
#   CONTINUAL flags of the continual state alone
# FILES, ADJUST and CONTINUAL are split at spaces: write no spaces inside a flag.
set -euo pipefail
study=${STUDY:-runs/adjust_study} model=${MODEL:-runs/quickstart} data=${DATA:-data/quickstart}
lexicons=${LEXICONS:-$data/lexicons} task=${TASK:-pos} size=${SIZE-small} seeds=${SEEDS:-0,1,2}
aligned=${ALIGNED:-ar,de,es,fr,hi,ja,ru,tr,vi,zh}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jalign=${JALIGN:-${JALIGN_VENV:-$root/.venv}/bin/jalign} configs=$root/configs
[[ -x $jalign ]] || { echo "adjust_study.sh: there is no $jalign: type bash launch/install.sh" >&2; exit 2; }
read -r -a files <<<"${FILES:-}"; read -r -a adjust <<<"${ADJUST:-}"; read -r -a continual <<<"${CONTINUAL:-}"
read -r -a gold <<<"${GOLD:?name word-aligned sets, such as GOLD='en-fr,text.tsv,links.txt'}"
read -r -a sentences <<<"${SENTENCES:-}"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.cache/jax}
mkdir -p "$study"/{original,adjusted,finetuned,adjusted_finetuned,continual}

say() { printf '\n== %s\n' "$*" >&2; }

measure() { # FOLDER MODEL: distances, word and sentence retrieval; what is there is not made again
  local out=$study/$1
  if [ ! -s "$out/distances.jsonl" ]; then
    say "distances: $1"
    "$jalign" evaluate --task=distances --model="$2" "${gold[@]/#/--gold=}" \
      --histograms="$out/histograms.json" --output="$out/distances.partial"
    mv "$out/distances.partial" "$out/distances.jsonl"
  fi
  if [ ${#sentences[@]} -gt 0 ] && [ ! -s "$out/retrieval.jsonl" ]; then
    say "sentence retrieval: $1"
    "$jalign" evaluate --task=retrieval --model="$2" "${sentences[@]/#/--files=}" --output="$out/retrieval.partial"
    mv "$out/retrieval.partial" "$out/retrieval.jsonl"
  fi
}

tune() { # STATE CONFIG INIT FLAGS...: fine-tune with every seed, and measure each one's model
  say "fine-tuning: $1"
  "$jalign" finetune --config="$2" --config.init="$3" --workdir="$study/$1" --seeds="$seeds" "${files[@]}" "${@:4}"
  for seed in ${seeds//,/ }; do measure "$1/seed$seed" "$study/$1/seed$seed"; done
}

pair=(--config.data="$data" --config.streams.pair.lexicons="$lexicons")
if [ ! -d "$lexicons" ]; then
  say "word links of $data"
  "$jalign" lexicon --data="$data" --output="$lexicons"
fi
measure original "$model"
say "adjusting $model"
"$jalign" pretrain --config="$configs/adjust.py${size:+:$size}" --config.init="$model" --workdir="$study/adjusted/run" \
  "${pair[@]}" "${adjust[@]}"
measure adjusted "$study/adjusted/run"
tune finetuned "$configs/finetune_$task.py${size:+:$size}" "$model"
tune adjusted_finetuned "$configs/finetune_$task.py${size:+:$size}" "$study/adjusted/run"
tune continual "$configs/finetune_continual.py:$task${size:+,$size}" "$study/adjusted/run" "${pair[@]}" \
  --config.objectives.adjust.frozen="$model" "${continual[@]}"
say "report: $study/study.md, study.png"
"$jalign" report --study=adjustment --input="$study" --aligned="$aligned"
