#!/usr/bin/env bash
# MLM, DICT-MLM and ALIGN-MLM on two real languages with a real dictionary, then parts of speech, zero-shot:
#   SRC=en TRG=de SRC_TEXT=en.txt TRG_TEXT=de.txt DICTIONARY=en-de.txt TRAIN=en_train.conllu TEST=de_test.conllu bash launch/align_mlm_real.sh
# Texts are one sentence a line, dictionaries those of `jalign dictionary`. The same command goes on where it was stopped.
#   TEST_SRC    test treebank of the source language (none: not scored)   STUDY  (default: runs/align_mlm_real)
#   OBJECTIVES  (default: mlm dict_mlm align_mlm)   SEEDS (default: 0)    VOCAB  pieces of both (default: 12000)
#   RATE        share of the dictionary's words to train on (default: 0.8)
#   COVERAGE    flags of jalign dictionary   PRETRAIN FINETUNE  flags of the runs, split at spaces
set -euo pipefail
src=${SRC:?} trg=${TRG:?} study=${STUDY:-runs/align_mlm_real}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jalign=${JALIGN:-${JALIGN_VENV:-$root/.venv}/bin/jalign} configs=$root/configs
[[ -x $jalign ]] || { echo "align_mlm_real.sh: there is no $jalign: type bash launch/install.sh" >&2; exit 2; }
read -r -a objectives <<<"${OBJECTIVES:-mlm dict_mlm align_mlm}"; read -r -a seeds <<<"${SEEDS:-0}"
read -r -a coverage <<<"${COVERAGE:-}"; read -r -a pretrain <<<"${PRETRAIN:-}"; read -r -a finetune <<<"${FINETUNE:-}"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.cache/jax}
pair=$src-$trg data=$study/data/$src-$trg
mkdir -p "$data"
say() { printf '\n== %s\n' "$*" >&2; }

say "data: $pair"
"$jalign" prepare --output="$data/prepared" --vocab_size="${VOCAB:-12000}" --heldout=0.02 --on-error=quarantine \
  --corpus="lines,$src,${SRC_TEXT:?}" --corpus="lines,$trg,${TRG_TEXT:?}"
if [ ! -e "$data/dictionary.npz" ]; then
  "$jalign" dictionary --input="${DICTIONARY:?}" --langs="$src,$trg" --data="$data/prepared" \
    --output="$data/dictionary.npz" --rate="${RATE:-0.8}" "${coverage[@]}"
fi
tests="'$trg=${TEST:?}',"
if [ -n "${TEST_SRC:-}" ]; then tests+="'$src=$TEST_SRC',"; fi
for seed in "${seeds[@]}"; do
  for objective in "${objectives[@]}"; do
    cell=$study/seed$seed/$objective/$pair
    say "pre-training: $cell"
    if [ ! -e "$cell/pretrain.done" ]; then
      "$jalign" pretrain --config="$configs/align_mlm.py:$objective,$pair,small,data=$study/data" --config.seed="$seed" \
        --workdir="$cell/pretrain" "${pretrain[@]}"
      touch "$cell/pretrain.done"
    fi
    say "fine-tuning: $cell"
    if [ ! -e "$cell/pos.zero.done" ]; then
      "$jalign" finetune --config="$configs/align_mlm_study.py:pos,$pair" --config.init="$cell/pretrain" \
        --config.seed="$seed" --config.streams.task.task.files="('$src=${TRAIN:?}',)" --config.test.tagging.sets="($tests)" \
        --workdir="$cell/pos.zero" "${finetune[@]}"
      touch "$cell/pos.zero.done"
    fi
  done
done
"$jalign" report --study=align_mlm --input="$study"
