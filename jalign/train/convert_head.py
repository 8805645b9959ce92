"""Export the head of a fine-tuned workdir beside its encoder, and prove that PyTorch gets its
logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jalign.errors import ConfigError
from jalign.hf import compare
from jalign.hf.folder import Folder
from jalign.hf.heads import TaskHead, compare_logits, head_names, our_logits, torch_logits
from jalign.train.checkpoint import read_params, stored_shapes
from jalign.train.pretrained import Pretrained, find_checkpoint

Say = Callable[[str], None]


def choose_head(model: Pretrained, name: str | None, say: Say) -> TaskHead | None:
    """Read the head that goes with an exported encoder: `name`, "" for none, None for the only one.

    Where the choice was left to us, what cannot go along is said; asked for, it is a ConfigError.
    """
    heads, asked = model.details.get("heads") or {}, name is not None
    if name == "" or not (heads or name):
        return None
    if not asked and len(heads) > 1:
        say(f"the encoder alone, as it has several heads: --head with one of {', '.join(heads)}")
        return None
    name = name if asked else next(iter(heads))
    if name not in heads:
        have = ", ".join(heads) or "none"
        raise ConfigError(f"--head={name}: {model.path} has of labelled data these heads: {have}")
    head = _read_head(model, name)
    try:
        head_names(model.model_type, head, pooler=getattr(model.cfg, "pooler", False))
    except ConfigError as error:
        if asked:
            raise
        say(f"the encoder alone, without its head {name!r}: {error}")
        return None
    if head.kind != "tag":
        say(
            "note: jalign puts one </s> between two texts, as transformers does for BERT; for "
            "RoBERTa and XLM-R its tokenizers put two: make inputs with one to get our scores"
        )
    return head


def _read_head(model: Pretrained, name: str) -> TaskHead:
    about = model.details["heads"][name]
    folder = find_checkpoint(model.path, model.step if _is_last(model) else "best")
    params = read_params(folder, {name: stored_shapes(folder)[name]})[name]
    return TaskHead(name, about["kind"], tuple(about["labels"]), params)


def _is_last(model: Pretrained) -> bool:
    """Tell whether the model's step is among the workdir's last checkpoints."""
    return (model.path / "checkpoints" / str(model.step)).is_dir()


def prove_head(
    head: TaskHead, written: Folder, path: Path, dtype: str, tolerance: float, say: Say
) -> None:
    """Compare the head's logits with PyTorch's on the written folder. Raises: BadData."""
    if not compare.has_torch():
        say(f"head {head.name!r} is not compared: PyTorch is not installed")
        return
    kind = {"bfloat16": jax.numpy.bfloat16, "float16": np.float16}.get(dtype, np.float32)
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(kind).astype(np.float32), head.params)
    bare = {"head": False} | ({"pooler": False} if hasattr(written.cfg, "pooler") else {})
    ids = compare.sentence_ids(written.tokenizer, written.cfg.positions)
    outputs = compare.our_outputs(written.family, replace(written.cfg, **bare), written.params, ids)
    ours = our_logits(head._replace(params=rounded), (output["states"] for output in outputs))
    difference = compare_logits(ours, torch_logits(path, head, ids), f"PyTorch's {head.auto}")
    compare.check(difference, tolerance)
    say(f"head {head.name!r}: {difference}")
