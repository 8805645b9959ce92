"""Labelled packed batches of random examples; transformers' models and ours with equal weights."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
import transformers

from jalign.data.rows import Layout, Part, RowSource
from jalign.encoders import bert
from jalign.encoders._names import from_hf
from jalign.objectives import classify, span, tag
from jalign.types import Encoder
from tests.tiny import SPECIALS, TOKENS, VOCAB, random_side

CLASSES = ("A", "B", "C", "D", "E")
LENGTH = 64
BLANK = {"ids": 1, "word": -1, "label": -1}  # what stands in padding, where it is not 0


class Task(NamedTuple):
    """An objective, its layout, and the transformers class with the same head."""

    module: ModuleType
    layout: str
    hf: str

    def config(self, **changes):
        """Return the objective's Config without dropout."""
        return self.module.Config(**({} if self.module is span else {"dropout": 0.0}) | changes)


TASKS = {
    "tag": Task(tag, "single", "TokenClassification"),
    "classify": Task(classify, "joint", "SequenceClassification"),
    "span": Task(span, "joint", "QuestionAnswering"),
}


def labelled_rows(name: str, num: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Make packed rows whose random examples have random labels, some of them none."""
    sides = [random_side(seed + s, longest=12) for s in range(2)]
    layout = Layout(TASKS[name].layout, LENGTH, LENGTH)
    if layout.kind == "single":
        sides = sides[:1]
    part = Part("task/en", tuple(sides), (0,) * len(sides))
    batch = RowSource([part], layout, SPECIALS, seed=seed).rows(2, num)
    rng = np.random.default_rng(seed + 7)
    start = (batch["example"] > 0) & (batch["position"] == 0)
    classes = np.where(
        rng.random(start.shape) < 0.9, rng.integers(0, len(CLASSES), start.shape), -1
    )
    if name == "tag":
        first = (batch["side"] > 0) & (np.diff(batch["word"], axis=1, prepend=-1) != 0)
        return batch | {"label": np.where(first, classes, -1).astype(np.int32)}
    if name == "classify":
        return batch | {"label": np.where(start, classes, -1).astype(np.int32)}
    marks = {n: np.zeros(start.shape, np.int32) for n in ("answer_start", "answer_end")}
    for r, examples in enumerate(batch["example"]):
        for number in range(1, examples.max() + 1):
            mine = examples == number
            context = np.flatnonzero(mine & (batch["side"][r] == 2))
            kind = rng.integers(4)  # 0: no label at all, 1: not in this window
            if kind:
                none = [np.flatnonzero(mine)[0]] * 2
                at = sorted(rng.choice(context, 2)) if kind > 1 else none
                for name_, slot in zip(marks, at, strict=True):
                    marks[name_][r, slot] = 1
    return batch | marks


def alone(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Lay every example of a packed batch alone into a row."""
    rows = {name: [] for name in packed}
    for r, examples in enumerate(packed["example"]):
        for number in range(1, examples.max() + 1):
            at = examples == number
            rows["row"].append(len(rows["row"]))
            for name in set(packed) - {"row"}:
                padded = np.full(examples.size, BLANK.get(name, 0))
                padded[: at.sum()] = 1 if name == "example" else packed[name][r][at]
                rows[name].append(padded)
    return {name: np.array(values, np.int32) for name, values in rows.items()}


def make_torch(name: str, family: str = "XLMRoberta") -> torch.nn.Module:
    """Make a small random model of transformers, in evaluation mode."""
    is_bert = family == "Bert"
    hf = getattr(transformers, f"{family}Config")(
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=LENGTH + (0 if is_bert else 2),
        type_vocab_size=2 if is_bert else 1,
        pad_token_id=1,
        initializer_range=0.3,
        num_labels=2 if name == "span" else len(CLASSES),
        problem_type=None if name != "classify" else "single_label_classification",
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}For{TASKS[name].hf}")._from_config(
        hf, attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms too
    return model.eval()


def encoder_of(model: torch.nn.Module, dropout: float = 0.0, **changes) -> tuple[Encoder, dict]:
    """Return our encoder for such a model, and its parameters."""
    hf = model.config
    is_bert = hf.model_type == "bert"
    cfg = bert.Config(
        vocab_size=hf.vocab_size,
        hidden=hf.hidden_size,
        layers=hf.num_hidden_layers,
        heads=hf.num_attention_heads,
        mlp=hf.intermediate_size,
        max_positions=hf.max_position_embeddings,
        first_position=0 if is_bert else 2,
        type_vocab_size=hf.type_vocab_size,
        layer_norm_eps=hf.layer_norm_eps,
        head=False,
        dropout=dropout,
        attention_dropout=dropout,
    )
    state = {
        n.removeprefix("roberta.").removeprefix("bert."): w.numpy()
        for n, w in model.state_dict().items()
    }
    params = from_hf(bert.hf_names(cfg, hf.model_type), state.__getitem__)
    encoder = Encoder(bert.make(cfg), TOKENS, labels={"task": CLASSES}, **changes)
    return encoder, params


def head_of(name: str, model: torch.nn.Module) -> dict:
    """Return our head's parameters from those of such a model."""

    def dense(layer):
        return {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}

    if name == "tag":
        return {"out": dense(model.classifier)}
    if name == "span":
        return {"out": dense(model.qa_outputs)}
    if model.config.model_type == "bert":
        return {"dense": dense(model.bert.pooler.dense), "out": dense(model.classifier)}
    return {"dense": dense(model.classifier.dense), "out": dense(model.classifier.out_proj)}
