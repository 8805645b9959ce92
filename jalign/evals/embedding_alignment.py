"""Evaluate how well word embeddings of two languages are aligned: is a word's nearest neighbour
among all words of the other language its translation?

In: the embedding table and a dictionary in ids. No text, no orthogonal map. Source: ALIGN-MLM's
measure (methods.md 2.6): cosine, original to derived, all words, those of the training dictionary
among them. Differs: the words that it holds out are also measured alone, the other direction is
too, and CSLS on request; words of which no piece exists in text are no special case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jalign.data.id_pairs import IdPairs, read_id_pairs
from jalign.data.tokenizer import load_tokenizer
from jalign.metrics.retrieval import SCORINGS, retrieve
from jalign.types import EvalSetting, Params, Result

NAME = "embedding_alignment"


@dataclass(frozen=True)
class Config:
    """`dictionary`: file of 'jalign dictionary' or 'jalign synthetic'. `scorings`: some of cosine,
    csls, ratio, distance. `share`: of the source words, drawn by `seed`; the authors take 0.4 or
    0.9. `languages`: numbers of the two languages whose embeddings (token types) are added first,
    for models that were trained with them. `name`: of the task in results.
    """

    dictionary: str = ""
    scorings: tuple[str, ...] = ("cosine",)
    share: float = 1.0
    seed: int = 0
    languages: tuple[int, ...] = ()
    name: str = NAME

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        unknown = [s for s in self.scorings if s not in SCORINGS]
        if unknown or not self.scorings:
            raise ValueError(f"scorings={self.scorings}: need some of {', '.join(SCORINGS)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: need more than 0 and at most 1")
        if len(self.languages) not in (0, 2):
            raise ValueError(f"languages={self.languages}: need two numbers, or none")


def make(cfg: Config, setting: EvalSetting) -> Callable[..., Iterator[Result]]:
    """Build `evaluate(params, aux)`. Raises: ConfigError or BadData for the dictionary."""
    if not cfg.dictionary:
        raise ValueError("dictionary is empty: name a file of 'jalign dictionary'")
    tokenizer = setting.tokenizer or load_tokenizer(setting.manifest.folder / "tokenizer")
    pairs = read_id_pairs(cfg.dictionary, tokenizer.sha256)
    num_types = getattr(setting.encoder.module.cfg, "type_vocab_size", 0)
    if any(not 0 <= number < num_types for number in cfg.languages):
        raise ValueError(f"languages={cfg.languages}: the encoder has {num_types} token types")
    read = nn.apply(lambda module: module.table(), setting.encoder.module)

    @jax.jit
    def table(params: Params) -> jax.Array:
        table_VD = read({"params": params["encoder"]})
        return jax.lax.with_sharding_constraint(table_VD, setting.replicated)

    def evaluate(params: Params, aux: Any = None) -> Iterator[Result]:
        del aux
        added = [np.zeros(1, np.float32)] * 2
        if cfg.languages:
            types = np.asarray(params["encoder"]["type_embeddings"], np.float32)
            added = [types[number] for number in cfg.languages]
        yield from alignment(cfg, np.asarray(table(params), np.float32), pairs, added)

    return evaluate


def alignment(
    cfg: Config, table_VD: np.ndarray, pairs: IdPairs, added: list[np.ndarray]
) -> Iterator[Result]:
    """Yield the shares of words whose nearest neighbour is a translation, both directions."""
    sides = (pairs.src_NP, pairs.trg_NP)
    words = [np.unique(side, axis=0, return_inverse=True) for side in sides]
    vectors = [
        mean_rows(table_VD, ids_WP) + extra for (ids_WP, _), extra in zip(words, added, strict=True)
    ]
    of = [inverse.reshape(-1) for _, inverse in words]  # entry -> word
    keys = of[0] * len(words[1][0]) + of[1]
    for src, trg in ((0, 1), (1, 0)):
        name = "-".join((pairs.langs[src], pairs.langs[trg]))
        num = len(words[src][0])
        rng = np.random.default_rng([cfg.seed, src])
        asked = rng.permutation(num) < max(1, round(cfg.share * num))
        trained = np.zeros(num, bool)
        trained[of[src][pairs.train_N]] = True
        chosen = {"all": asked, "held_out": asked & ~trained, "trained": asked & trained}
        for scoring in cfg.scorings:
            found = retrieve(vectors[src], vectors[trg], scoring=scoring)
            both = (np.arange(num), found) if src == 0 else (found, np.arange(num))
            right = np.isin(both[0] * len(words[1][0]) + both[1], keys)
            for metric, which in chosen.items():
                if which.any():
                    value, count = float(right[which].mean()), int(which.sum())
                    yield Result(f"{cfg.name}/{scoring}", name, metric, value, count)


def mean_rows(table_VD: np.ndarray, ids_WP: np.ndarray) -> np.ndarray:
    """Average the rows of the pieces of words, float32 [W, D]."""
    keep_WP = ids_WP >= 0
    rows_WPD = table_VD[np.maximum(ids_WP, 0)] * keep_WP[..., None]
    return rows_WPD.sum(axis=1) / keep_WP.sum(axis=1, keepdims=True)
