#!/usr/bin/env bash
# What each contrast aligns:  DATA=data/contrast bash launch/contrast_study.sh
# MLM + TLM, and beside them AMBER's words, sentences and both, VECO 2.0, InfoXLM, LaBSE and DAP: trained from scratch on
# the same pairs with the same seed and number of steps; then retrieval of translations, zero-shot tagging and word alignment,
# and one table. Stop it whenever you like: the same command goes on where it was, and what is done is not done again.
#   STUDY     folder of the study (default: runs/contrast_study)    DATA  prepared pairs (default: data/quickstart)
#   SYSTEMS   (default: all below)                                  SEED  (default: 0)
#   SENTENCES sets of sentence retrieval, separated by spaces: SRC-TRG=FILE,FILE
#   GOLD      word-aligned sets, separated by spaces, as for jalign evaluate --gold (none: not measured)
#   FILES     flags of fine-tuning on parts of speech: its files (none: not measured)
#   PRETRAIN  flags of pre-training                                 VECO2  flags of VECO 2.0: its dictionaries
# FILES, PRETRAIN and VECO2 are split at spaces: write no spaces inside a flag.
set -euo pipefail
study=${STUDY:-runs/contrast_study} data=${DATA:-data/quickstart} seed=${SEED:-0}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jalign=${JALIGN:-${JALIGN_VENV:-$root/.venv}/bin/jalign} configs=$root/configs
[[ -x $jalign ]] || { echo "contrast_study.sh: there is no $jalign: type bash launch/install.sh" >&2; exit 2; }
read -r -a systems <<<"${SYSTEMS:-base wa sa amber veco2 infoxlm labse dap}"
read -r -a sentences <<<"${SENTENCES:?name pairs of files, such as SENTENCES='de-en=tatoeba.de,tatoeba.en'}"
read -r -a gold <<<"${GOLD:-}"; read -r -a files <<<"${FILES:-}"
read -r -a pretrain <<<"${PRETRAIN:-}"; read -r -a veco2 <<<"${VECO2:-}"
if [[ " ${systems[*]} " == *" veco2 "* && -z ${VECO2:-} && ! -d data/dictionaries ]]; then
  echo "contrast_study.sh: VECO 2.0 needs dictionaries: VECO2='--config.streams.separate.thesaurus.files=(\"en-de=FILE\",)', or leave veco2 out of SYSTEMS" >&2
  exit 2
fi
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.cache/jax}
mkdir -p "$study"

say() { printf '\n== %s\n' "$*" >&2; }

score() { # FILE TASK MODEL FLAGS...: scores of a model, unless they are there
  local out=$1; local task=$2 model=$3; shift 3
  if [ ! -s "$out" ]; then
    say "$task: $out"
    "$jalign" evaluate --task="$task" --model="$model" --output="$out.partial" "$@"
    mv "$out.partial" "$out"
  fi
}

system() { # NAME CONFIG POOLING FLAGS...: train it, then measure it; POOLING is that of the vectors it trains
  local out=$study/$1 name=$1 config=$2 pooling=$3; shift 3
  mkdir -p "$out"
  if [ ! -e "$out/pretrain.done" ]; then
    say "pre-training: $name"
    "$jalign" pretrain --config="$configs/$config" --config.data="$data" --config.seed="$seed" --workdir="$out/run" \
      "${pretrain[@]}" "$@"
    touch "$out/pretrain.done"
  fi
  score "$out/retrieval.jsonl" retrieval "$out/run" "${sentences[@]/#/--files=}"
  score "$out/retrieval_trained.jsonl" retrieval "$out/run" "${sentences[@]/#/--files=}" --layer=-1 --pooling="$pooling"
  if [ ${#gold[@]} -gt 0 ]; then
    score "$out/alignment.jsonl" word_alignment "$out/run" "${gold[@]/#/--gold=}" --methods=itermax
  fi
  if [ ${#files[@]} -gt 0 ] && [ ! -e "$out/pos.done" ]; then
    say "fine-tuning: $name"
    "$jalign" finetune --config="$configs/finetune_pos.py:small" --config.init="$out/run" --config.seed="$seed" \
      --workdir="$out/pos" "${files[@]}"
    touch "$out/pos.done"
  fi
}

for name in "${systems[@]}"; do
  case $name in
    base) system base amber.py:small,base mean ;;
    wa) system wa amber.py:small,wa mean ;;
    sa) system sa amber.py:small,sa mean ;;
    amber) system amber amber.py:small mean ;;
    veco2) system veco2 veco2.py:small cls "${veco2[@]}" ;;
    infoxlm) system infoxlm infoxlm.py:small cls ;;
    labse) system labse labse.py:small cls ;;
    dap) system dap dap.py:small cls ;;
    *) echo "contrast_study.sh: SYSTEMS: no $name; need some of base wa sa amber veco2 infoxlm labse dap" >&2; exit 2 ;;
  esac
done
say "report: $study/study.md, study.json"
"$jalign" report --study=contrast --input="$study"
