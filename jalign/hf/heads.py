"""Relate the heads of fine-tuned models to transformers' `...ForTokenClassification`,
`...ForSequenceClassification` and `...ForQuestionAnswering`.

In: a head's parameters, and what its numbers mean. Out: its tensors and entries of config.json, and
the proof that PyTorch gets the same logits from the written folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jalign.encoders._names import KERNEL, SAME, Name, to_hf
from jalign.errors import ConfigError
from jalign.hf.compare import Difference, open_torch

SUFFIX = {
    "tag": "ForTokenClassification",
    "classify": "ForSequenceClassification",
    "span": "ForQuestionAnswering",
}
PIPELINES = {
    "tag": "token-classification",
    "classify": "text-classification",
    "span": "question-answering",
}
# Hugging Face's model_type -> how its classes begin, and what its encoder's tensors begin with.
_BASES = {
    "xlm-roberta": ("XLMRoberta", "roberta."),
    "roberta": ("Roberta", "roberta."),
    "bert": ("Bert", "bert."),
}


class TaskHead(NamedTuple):
    """A head on an encoder: `kind` is the file of its objective, `labels` its classes in order."""

    name: str
    kind: str
    labels: tuple[str, ...]
    params: Mapping[str, Any]

    @property
    def auto(self) -> str:
        """Return the class of transformers that opens a model with such a head."""
        return f"AutoModel{SUFFIX[self.kind]}"


def head_names(model_type: str, head: TaskHead, *, pooler: bool = False) -> tuple[Name, ...]:
    """Return the name table of a head on an encoder, with or without a pooler.

    Raises: ConfigError where transformers' model of this type has a head of another form.
    """
    if model_type not in _BASES or head.kind not in SUFFIX:
        raise ConfigError(
            f"transformers has no {head.kind!r} head of the form of ours for {model_type} models"
        )
    dense, out = "", "classifier"
    if head.kind == "span":
        out = "qa_outputs"
    elif head.kind == "classify":
        if "dense" not in head.params:
            raise ConfigError(
                f"transformers' {_BASES[model_type][0]}ForSequenceClassification has a dense layer "
                "before its classes, and this head (config.objectives.classify.head='linear') none"
            )
        if model_type == "bert" and pooler:
            raise ConfigError(
                "transformers' BertForSequenceClassification classifies from the pooler, which "
                "this encoder keeps beside a dense layer of the head's own"
            )
        dense = "bert.pooler.dense" if model_type == "bert" else "classifier.dense"
        out = "classifier" if model_type == "bert" else "classifier.out_proj"
    pairs = [("dense", dense)] * bool(dense) + [("out", out)]
    return tuple(
        name
        for ours, theirs in pairs
        for name in (
            Name(f"{ours}/kernel", (f"{theirs}.weight",), KERNEL),
            Name(f"{ours}/bias", (f"{theirs}.bias",), SAME),
        )
    )


def add_head(
    tensors: Mapping[str, np.ndarray], model_type: str, head: TaskHead
) -> dict[str, np.ndarray]:
    """Return the tensors of an encoder with those of a head, named as the model with that head."""
    names = head_names(model_type, head)
    base = _BASES[model_type][1]
    inside = ("embeddings.", "encoder.", "pooler.")
    named = {base + n if n.startswith(inside) else n: x for n, x in tensors.items()}
    return named | to_hf(names, head.params)


def head_entries(model_type: str, head: TaskHead) -> dict[str, Any]:
    """Return the entries of config.json for a head."""
    entries: dict[str, Any] = {"architectures": [_BASES[model_type][0] + SUFFIX[head.kind]]}
    if head.labels:
        entries["id2label"] = {str(i): label for i, label in enumerate(head.labels)}
        entries["label2id"] = {label: i for i, label in enumerate(head.labels)}
    return entries


def our_logits(head: TaskHead, states: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Apply a head to the states [L, D] of sentences: [L, C], of the first slot alone [C] where it
    classifies.
    """
    p = head.params
    for h_LD in states:
        h_LD = h_LD[0] if head.kind == "classify" else h_LD
        if "dense" in p:
            h_LD = np.tanh(h_LD @ p["dense"]["kernel"] + p["dense"]["bias"])
        yield h_LD @ p["out"]["kernel"] + p["out"]["bias"]


def torch_logits(path: Path, head: TaskHead, ids: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the same from transformers in PyTorch, which opens the folder by itself.

    Raises: BadData where the folder lacks a tensor that PyTorch would draw at random.
    """
    import torch
    import transformers

    model = open_torch(path, getattr(transformers, head.auto))
    for sentence in ids:
        with torch.no_grad():
            out = model(torch.tensor(sentence[None].astype(np.int64)))
        if head.kind == "span":
            yield torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1).numpy()
        else:
            yield out.logits[0].numpy()


def compare_logits(
    ours: Iterator[np.ndarray], theirs: Iterator[np.ndarray], against: str
) -> Difference:
    """Return how far the logits of a head differ."""
    pairs = list(zip(ours, theirs, strict=True))
    absolute = max(float(np.abs(x - y).max()) for x, y in pairs)
    largest = max(float(np.abs(y).max()) for _, y in pairs)
    return Difference(
        absolute, absolute / max(largest, 1e-30), sum(y.size for _, y in pairs), against
    )
