"""Draw the embeddings of words and of their translations together (ALIGN-MLM), beside `mlm`.

In: the word embeddings and a dictionary in ids; no text. The dictionary lies in `aux`, so that it
is in the checkpoints and no constant of the compiled step. Source: Tang et al. 2022 and their code
(methods.md 2.2): L = MLM + w L_align, L_align the mean of -cos(E[i], E[j]) over all pairs (i, j), w
= 10. Differs: weights of real dictionaries, words of several pieces (mean of their embeddings), and
a random part of the pairs per step where `subset_per_step` says so (methods.md 2.9).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jalign.config import check_choices
from jalign.data.id_pairs import IdPairs, read_all
from jalign.errors import ConfigError
from jalign.types import Array, Aux, Batches, Encoder, Key, Loss, Mean, Objective, Params

DISTANCES = ("cosine", "l2")
EPS = 1e-8  # of torch's CosineSimilarity


@dataclass(frozen=True)
class Config:
    """`dictionary`: file of 'jalign dictionary' or 'jalign synthetic', or several; its pairs for
    training. `distance`: "cosine", -cos, or "l2", the length of the difference. `subset_per_step`:
    pairs drawn for each step, 0 for all.
    """

    dictionary: tuple[str, ...] | str = ""
    distance: str = "cosine"
    subset_per_step: int = 0

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        check_choices(self, {"distance": DISTANCES})
        if self.subset_per_step < 0:
            raise ValueError(f"subset_per_step={self.subset_per_step}: need 0 (all pairs) or more")


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective. Raises: ConfigError or BadData for the dictionary."""
    entries = train_entries(read_all(cfg.dictionary, encoder.tokenizer_sha256))
    num = len(entries["weight"])
    if cfg.subset_per_step > num:
        raise ConfigError(
            f"subset_per_step={cfg.subset_per_step}: the dictionary has {num} pairs; 0 takes all"
        )
    table = nn.apply(lambda module: module.table(), encoder.module)

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> Loss:
        del batches
        src_NP, trg_NP, weight_N = aux["src"], aux["trg"], aux["weight"]
        if key is not None and cfg.subset_per_step:
            at = jax.random.choice(key, num, (cfg.subset_per_step,), replace=False)
            src_NP, trg_NP, weight_N = src_NP[at], trg_NP[at], weight_N[at]
        table_VD = table({"params": params["encoder"]})
        return alignment_loss(table_VD, src_NP, trg_NP, weight_N, distance=cfg.distance)

    return Objective(
        streams=(),
        reads=(),
        loss=loss,
        init_aux=lambda params: {name: jnp.asarray(x) for name, x in entries.items()},
    )


def train_entries(dictionaries: list[IdPairs]) -> dict[str, np.ndarray]:
    """Join the training entries of dictionaries: "src" and "trg" [N, P], "weight" [N].

    Raises: ConfigError where there are none.
    """
    chosen = [pairs.take(pairs.train_N) for pairs in dictionaries]
    if not sum(map(len, chosen)):
        raise ConfigError("dictionary: all its pairs are held out; write it with a larger --rate")
    longest = max(p.src_NP.shape[1] for p in chosen), max(p.trg_NP.shape[1] for p in chosen)
    return {
        "src": np.concatenate([_padded(p.src_NP, longest[0]) for p in chosen]),
        "trg": np.concatenate([_padded(p.trg_NP, longest[1]) for p in chosen]),
        "weight": np.concatenate([p.weight_N for p in chosen]),
    }


def _padded(ids_NP: np.ndarray, longest: int) -> np.ndarray:
    return np.pad(ids_NP, ((0, 0), (0, longest - ids_NP.shape[1])), constant_values=-1)


def alignment_loss(
    table_VD: Array, src_NP: Array, trg_NP: Array, weight_N: Array, *, distance: str
) -> Loss:
    """Return the weighted distances of entries: float32; both sides get gradient.

    Source: methods.md 2.2; the L2 form is commented out in the authors' code.
    """
    src_ND, trg_ND = (word_vectors(table_VD, ids_NP) for ids_NP in (src_NP, trg_NP))
    cos_N = cosine(src_ND, trg_ND)
    length_N = _length(src_ND - trg_ND)
    total = jnp.sum(weight_N * (-cos_N if distance == "cosine" else length_N))
    count = weight_N.sum()
    metrics = {
        "cosine": Mean(jnp.sum(weight_N * cos_N), count),
        "distance": Mean(jnp.sum(weight_N * length_N), count),
    }
    return Loss(total, count, metrics)


def word_vectors(table_VD: Array, ids_NP: Array) -> Array:
    """Average the embeddings of the pieces of words, float32 [N, D]."""
    table_VD = table_VD.astype(jnp.float32)
    if ids_NP.shape[1] == 1:
        return table_VD[ids_NP[:, 0]]
    keep_NP = (ids_NP >= 0).astype(jnp.float32)
    vector_NPD = table_VD[jnp.maximum(ids_NP, 0)] * keep_NP[..., None]
    return vector_NPD.sum(axis=1) / keep_NP.sum(axis=1, keepdims=True)


def cosine(x_ND: Array, y_ND: Array) -> Array:
    """Return the cosine of rows; 0, without gradient, where one is 0."""
    return jnp.sum(x_ND * y_ND, axis=1) / (_length(x_ND) * _length(y_ND))


def _length(x_ND: Array) -> Array:
    """Return the length of rows, at least EPS; its gradient at 0 is 0, not NaN."""
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x_ND), axis=1), EPS * EPS))
