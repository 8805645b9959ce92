"""Tiny labelled files that can be learned, a tiny model, and a fine-tuning run on them."""

from __future__ import annotations

import json
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from jalign import plugin
from jalign.data.tokenizer import train_tokenizer
from jalign.hf.folder import write_folder
from tests.tiny import WORDS, sentences

LABELS = ("A", "B", "C")
SHAPES = {  # model type -> family, and its shape
    "xlm-roberta": ("bert", dict(type_vocab_size=1)),
    "bert": ("bert", dict(first_position=0, type_vocab_size=2)),
    "modernbert": ("modernbert", dict(local_attention=8)),
}


def write_model(folder: Path, model_type: str = "xlm-roberta", **changes) -> Path:
    """Write a random model with a tokenizer of its own as a Hugging Face folder."""
    tokenizer = train_tokenizer(sentences(0, 800), folder.parent / "tokenizer", 76)
    family_name, shape = SHAPES[model_type]
    family = plugin.load("encoders", family_name)
    shape = dict(hidden=16, layers=2, heads=2, mlp=32, max_positions=66) | shape | changes
    cfg = family.Config(**shape, vocab_size=tokenizer.vocab_size, dropout=0.0)
    draw = jax.jit(lambda key: nn.unbox(family.init_params(family.make(cfg), key)))
    params = jax.device_get(draw(jax.random.key(7)))
    write_folder(folder, family_name, model_type, cfg, params, folder.parent / "tokenizer")
    return folder


def tag_of(word: str, shift: int = 0) -> str:
    """Return the tag of a word: it depends on the word alone, so that it can be learned."""
    return LABELS[(WORDS.index(word) + shift) % len(LABELS)]


def write_tags(path: Path, seed: int, num: int = 80, shift: int = 0) -> Path:
    """Write sentences in two columns; with a shift all tags are other ones."""
    lines = []
    for sentence in sentences(seed, num):
        lines += [f"{word}\t{tag_of(word, shift)}" for word in sentence.split()] + [""]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_pairs(path: Path, seed: int, num: int = 60) -> Path:
    """Write pairs of sentences whose class is that of the first one's first word."""
    pairs = zip(sentences(seed, num), sentences(seed + 1, num), strict=True)
    rows = [f"{a}\t{b}\t{tag_of(a.split()[0])}" for a, b in pairs]
    path.write_text("\n".join(["sentence1\tsentence2\tgold_label", *rows]) + "\n", "utf-8")
    return path


def task_stream(path: Path, **changes) -> dict:
    """Return the stream of a file of tags."""
    data = dict(format="ner", files=(f"en={path}",), labels=LABELS) | changes
    return dict(layout="single", rows=8, row_length=64, task=data)


def finetune_entries(base: Path, **changes) -> dict:
    """Return the entries of a run on `base/model`, `base/train`, `base/dev` and `base/test`."""
    dev = dict(sets=(f"en={base / 'dev'}",), name="dev", rows=8)
    test = dict(sets=(f"en={base / 'test'}", f"de={base / 'dev'}"), name="words", rows=8)
    entries = dict(
        name="tiny_tags",
        init=str(base / "model"),
        steps=6,
        seed=3,
        log_every=2,
        checkpoint_every=2,
        keep=9,
        encoder=dict(head=False, dropout=0.0, attention_dropout=0.0),
        streams=dict(task=task_stream(base / "train")),
        objectives=dict(tag=dict(dropout=0.0)),
        optimizer=dict(lr=1e-2, warmup_steps=0, decay=((".*", 0.0),)),
        evaluate=dict(every=2, best="dev/accuracy/en", tasks=dict(tagging=dev)),
        test=dict(tagging=test),
    )
    return entries | changes


def write_tagging(base: Path, model_type: str = "xlm-roberta", **changes) -> Path:
    """Write the model and the files of `finetune_entries`."""
    write_model(base / "model", model_type, **changes)
    for seed, name in enumerate(("train", "dev", "test"), start=21):
        write_tags(base / name, seed)
    return base


def accuracy_of_chance(path: Path) -> float:
    """Return the share of the commonest tag of a file."""
    tags = [line.split("\t")[1] for line in path.read_text().splitlines() if line]
    return max(np.unique(tags, return_counts=True)[1]) / len(tags)


def write_questions(path: Path, seed: int, num: int = 8) -> Path:
    """Write texts with one question each, whose answer is the text's second word."""
    data = []
    for i, text in enumerate(sentences(seed, num)):
        word = text.split()[1]
        answer = {"answer_start": text.index(" ") + 1, "text": word}
        question = {"id": f"{seed}-{i}", "question": f"{word} ?", "answers": [answer]}
        data.append({"paragraphs": [{"context": text, "qas": [question]}]})
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
    return path
