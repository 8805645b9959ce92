#!/usr/bin/env bash
# The ALIGN-MLM study:  TRAIN=en_train.conllu TEST=en_test.conllu SYN_FROM=en.conllu SYN_TO=fr.conllu bash launch/align_mlm_study.sh
# English against languages made from it, {MLM, XLM, DICT-MLM, ALIGN-MLM} x {trans, trans+inv, trans+syn}: pre-training,
# fine-tuning on English parts of speech, zero-shot and supervised scores on the derived language; then one table, one
# picture, and how the alignment of the embeddings goes with the transfer gap. Stop it whenever you like: the same
# command goes on where it was, and what is done is not done again.
#   TRAIN TEST  treebanks (CoNLL-U); the words of TRAIN are the text of pre-training, too: syn needs trees of all of it
#   SYN_FROM SYN_TO  treebanks of English and of the language whose word order syn takes (the paper: French)
#   NER_TRAIN NER_TEST  tagged files, for NER as well (not with syn, for there are no trees)
#   STUDY       folder of the study (default: runs/align_mlm_study)     SEEDS  (default: 0)
#   OBJECTIVES  (default: mlm xlm dict_mlm align_mlm)                   TRANSFORMATIONS  (default: trans trans+inv trans+syn)
#   VOCAB       pieces of English (default: 6000)                       RATE   of them in the dictionary (default: 0.5)
#   PRETRAIN FINETUNE  flags for all cells, split at spaces
set -euo pipefail
study=${STUDY:-runs/align_mlm_study} data=${STUDY:-runs/align_mlm_study}/data
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jalign=${JALIGN:-${JALIGN_VENV:-$root/.venv}/bin/jalign} configs=$root/configs
[[ -x $jalign ]] || { echo "align_mlm_study.sh: there is no $jalign: type bash launch/install.sh" >&2; exit 2; }
train=${TRAIN:?name a treebank, such as TRAIN=en_ewt-ud-train.conllu} test=${TEST:?name a treebank, such as TEST=en_ewt-ud-test.conllu}
read -r -a objectives <<<"${OBJECTIVES:-mlm xlm dict_mlm align_mlm}"
read -r -a transformations <<<"${TRANSFORMATIONS:-trans trans+inv trans+syn}"
read -r -a seeds <<<"${SEEDS:-0}"; read -r -a pretrain <<<"${PRETRAIN:-}"; read -r -a finetune <<<"${FINETUNE:-}"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.cache/jax}  # cells of one objective share their programs
mkdir -p "$data"

say() { printf '\n== %s\n' "$*" >&2; }

once() { # DONE COMMAND...: run a command unless the file DONE says that it was done
  local done=$1; shift
  if [ ! -e "$done" ]; then "$@"; mkdir -p "$(dirname "$done")"; touch "$done"; fi
}

derive() { # TRANSFORMATION: the files of the derived language, its tokenizer and dictionary, the prepared text
  local t=$1 lang="en-x-${1//+/-}" out=$data/$1 base=$data/base_tokenizer; local flags=()
  if [ -d "$base" ]; then flags+=(--tokenizer="$base"); else flags+=(--vocab_size="${VOCAB:-6000}"); fi
  if [[ $t == *syn* ]]; then
    flags+=(--source_trees="${SYN_FROM:?name a treebank of English}" --target_trees="${SYN_TO:?name a treebank}")
  elif [ -n "${NER_TRAIN:-}" ]; then
    flags+=(--ner=train="$NER_TRAIN" --ner=test="${NER_TEST:?name a tagged file}")
  fi
  say "data: $t"
  "$jalign" synthetic --transformation="$t" --output="$out" --text=text="$train" --conllu=train="$train" \
    --conllu=test="$test" --rate="${RATE:-0.5}" "${flags[@]}"
  if [ ! -d "$base" ]; then cp -r "$out/base_tokenizer" "$base.partial"; mv "$base.partial" "$base"; fi
  "$jalign" prepare --output="$out/prepared" --tokenizer="$out/tokenizer" --heldout=0.02 --on-error=quarantine --overwrite \
    --corpus="moses,en,$lang,$out/text/text.en.txt,$out/text/text.$lang.txt"
}

tune() { # CELL TASK TRANSFORMATION SEED NAME SUFFIX
  say "fine-tuning: $1 $5"
  "$jalign" finetune --config="$configs/align_mlm_study.py:$2,$3$6,data=$data" --config.init="$1/pretrain" \
    --config.seed="$4" --workdir="$1/$5" "${finetune[@]}"
}

cell() { # OBJECTIVE TRANSFORMATION SEED
  local cell=$study/seed$3/$1/$2; local tasks=(pos)
  if [ -n "${NER_TRAIN:-}" ] && [[ $2 != *syn* ]]; then tasks+=(ner); fi
  say "pre-training: $cell"
  once "$cell/pretrain.done" "$jalign" pretrain --config="$configs/align_mlm.py:$1,$2,small,data=$data" \
    --config.seed="$3" --workdir="$cell/pretrain" "${pretrain[@]}"
  for task in "${tasks[@]}"; do
    once "$cell/$task.zero.done" tune "$cell" "$task" "$2" "$3" "$task.zero" ""
    once "$cell/$task.supervised.done" tune "$cell" "$task" "$2" "$3" "$task.supervised" ",derived"
  done
}

for t in "${transformations[@]}"; do once "$data/$t.done" derive "$t"; done
for seed in "${seeds[@]}"; do
  for t in "${transformations[@]}"; do
    for objective in "${objectives[@]}"; do cell "$objective" "$t" "$seed"; done
  done
done
say "report: $study/study.md, study.json, study.png"
"$jalign" report --study=align_mlm --input="$study"
