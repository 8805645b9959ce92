"""Prove that a converted model computes the same: its outputs on real sentences against PyTorch's,
or against those that were stored when it was converted.

In: a read folder. Out: a `Difference`; `check` refuses one above the tolerance. Outputs are the
masked-LM logits, or the last states where there is no such head; and the pooler's, where there is
one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jalign import plugin
from jalign.data.tokenizer import Tokenizer
from jalign.errors import BadData
from jalign.hf.tensors import open_tensors, write_tensors

# Article 1 of the Universal Declaration of Human Rights (United Nations), its first sentence.
SENTENCES = (
    "All human beings are born free and equal in dignity and rights.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
)
TOLERANCE = 1e-4  # of the largest output; float32 sums in another order differ by about 1e-6
FINGERPRINT = "fingerprint"  # a folder of one safetensors file
PROBED = 64  # output columns that a fingerprint keeps


class Difference(NamedTuple):
    """The largest differences of outputs: absolute, and relative to the largest output."""

    absolute: float
    relative: float
    outputs: int
    against: str

    def __str__(self) -> str:
        return (
            f"{self.outputs:,} outputs on {len(SENTENCES)} sentences against {self.against}: "
            f"largest difference {self.absolute:.2e} absolute, {self.relative:.2e} relative"
        )


def has_torch() -> bool:
    """Tell whether PyTorch is installed, without importing it."""
    return importlib.util.find_spec("torch") is not None


def sentence_ids(tokenizer: Tokenizer, longest: int) -> list[np.ndarray]:
    """Return the ids of the sentences with their special tokens, cut to `longest`."""
    encoded = tokenizer.backend.encode_batch(list(SENTENCES), add_special_tokens=False)
    return [
        np.array([tokenizer.bos_id, *e.ids[: longest - 2], tokenizer.eos_id], np.int32)
        for e in encoded
    ]


def our_outputs(
    family: str, cfg: Any, params: Mapping[str, Any], ids: list[np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield per sentence {"logits" [L, V] or "states" [L, D], "pooled" [D]}, in float32."""
    # Dropout plays no part; dense attention has no demands on the length.
    changes = {"dtype": "float32", "attention": "dense"}
    module = plugin.load("encoders", family).make(_replace(cfg, changes))
    longest = max(map(len, ids))
    run = jax.jit(partial(nn.apply(partial(_outputs, cfg), module), {"params": params}))
    for sentence in ids:
        padded_1L = np.zeros((1, longest), np.int32)
        padded_1L[0, : len(sentence)] = sentence
        unit_1L = (np.arange(longest)[None] < len(sentence)).astype(np.int32)
        outputs = run(padded_1L, np.arange(longest, dtype=np.int32)[None] * unit_1L, unit_1L)
        yield {
            name: np.asarray(x if name == "pooled" else x[: len(sentence)])
            for name, x in outputs.items()
        }


def _replace(cfg: Any, changes: Mapping[str, Any]) -> Any:
    return type(cfg)(**{**cfg.__dict__, **changes})


def _outputs(cfg: Any, module: nn.Module, ids_1L, position_1L, unit_1L) -> dict[str, jax.Array]:
    h_LD = module(ids_1L, position_1L, unit_1L)[0]
    outputs = {}
    if getattr(cfg, "pooler", False):
        outputs["pooled"] = module.pool(h_LD[0])
    if not cfg.head:
        return outputs | {"states": h_LD}
    table_VD, bias_V = module.output()
    exact = jax.lax.Precision.HIGHEST
    return outputs | {
        "logits": jnp.matmul(module.transform(h_LD), table_VD.T, precision=exact) + bias_V
    }


def open_torch(path: Path, kind: Any, spare: str = "") -> Any:
    """Open a folder with a class of `transformers` in PyTorch, in evaluation mode and float32.

    Raises: BadData where the folder lacks a tensor that PyTorch would draw at random; those with
    `spare` in their name are not asked for.
    """
    import torch

    model, found = kind.from_pretrained(
        str(path),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    lacking = [n for n in found["missing_keys"] if not spare or spare not in n]
    if lacking:
        raise BadData(f"{path}: PyTorch finds no {sorted(lacking)[:5]} in it")
    return model.eval()


def torch_outputs(
    path: Path, *, head: bool, pooler: bool, ids: list[np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the same from `transformers` in PyTorch, which opens the folder by itself.

    Raises: BadData where the folder lacks a tensor that PyTorch would draw at random.
    """
    import torch
    from transformers import AutoModel, AutoModelForMaskedLM

    spare = "" if pooler else "pooler"
    model = open_torch(path, AutoModelForMaskedLM if head else AutoModel, spare)
    base = open_torch(path, AutoModel, spare) if head and pooler else model
    for sentence in ids:
        row = torch.tensor(sentence[None].astype(np.int64))
        with torch.no_grad():
            out = model(row)
            pooled = {"pooled": base(row).pooler_output[0].numpy()} if pooler else {}
        if head:
            yield pooled | {"logits": out.logits[0].numpy()}
        else:
            yield pooled | {"states": out.last_hidden_state[0].numpy()}


def write_fingerprint(folder: Path, ids: list[np.ndarray], outputs: Iterator[dict]) -> None:
    """Store some columns of the outputs, so that a later conversion can be compared without
    PyTorch.
    """
    (folder / FINGERPRINT).mkdir(parents=True, exist_ok=True)
    stored = {}
    for i, (sentence, output) in enumerate(zip(ids, outputs, strict=True)):
        stored[f"{i}/ids"] = sentence.astype(np.float32)  # ids stay below 2^24
        stored |= {f"{i}/{name}": x[..., _columns(x)] for name, x in output.items()}
    write_tensors(folder / FINGERPRINT, stored)


def _columns(x: np.ndarray) -> np.ndarray:
    return np.unique(np.linspace(0, x.shape[-1] - 1, PROBED).astype(int))


def read_fingerprint(folder: Path) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]] | None:
    """Read what `write_fingerprint` stored: ids and outputs per sentence; None where there is
    none.
    """
    if not (folder / FINGERPRINT).is_dir():
        return None
    tensors = open_tensors(folder / FINGERPRINT)
    ids: dict[int, np.ndarray] = {}
    outputs: dict[int, dict[str, np.ndarray]] = {}
    for name in tensors.info:
        number, _, kind = name.partition("/")
        if kind == "ids":
            ids[int(number)] = tensors.read(name).astype(np.int32)
        else:
            outputs.setdefault(int(number), {})[kind] = tensors.read(name)
    return [ids[i] for i in sorted(ids)], [outputs[i] for i in sorted(outputs)]


def compare(ours: Iterator[dict], theirs: Iterator[dict], against: str) -> Difference:
    """Compare outputs sentence by sentence; `theirs` may hold only the columns of a fingerprint."""
    absolute = largest = 0.0
    number = 0
    for mine, other in zip(ours, theirs, strict=True):
        for name in other:
            x, y = mine[name], other[name]
            x = x if x.shape == y.shape else x[..., _columns(x)]
            furthest = float(np.abs(x - y).max())
            absolute = max(absolute, furthest) if np.isfinite(furthest) else float("nan")
            largest = max(largest, float(np.abs(y).max()))
            number += y.size
    return Difference(absolute, absolute / max(largest, 1e-30), number, against)


def check(difference: Difference, tolerance: float) -> None:
    """Refuse a conversion whose outputs differ. Raises: BadData."""
    if not difference.relative <= tolerance:  # NaN is refused too
        raise BadData(
            f"the converted model does not compute the same: {difference}, and at most "
            f"{tolerance:.0e} relative is allowed. Nothing was written. If the folder is sound, "
            "this is a fault of jalign: please report it with the model's config.json"
        )
