"""Mask words and use a dictionary on some of them (DICT-MLM), in two forms.

"code": as ALIGN-MLM's authors wrote their baseline. With probability `change` a selected token is
not masked, but becomes a translation of itself, in the language of that; the token itself is still
to be predicted. A token without translation then stays visible: so 55 % of such targets are, which
dilutes the loss (methods.md 2.4).
"paper": as the abstract has it. With probability `change` a selected token that has translations is
masked as ever, and one of these is to be predicted; the position has the embedding of the language
asked for. Source: Chaudhary et al. 2020; methods.md 2.4. Differs: that embedding is added to the
input, not before the softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jalign.config import check_choices
from jalign.data.id_pairs import IdPairs, read_all
from jalign.errors import ConfigError
from jalign.nn.packed import unit_ids
from jalign.objectives import mlm
from jalign.types import Array, Aux, Batch, Batches, Encoder, Key, Loss, Mean, Objective, Params

FORMS = ("code", "paper")


@dataclass(frozen=True)
class Config(mlm.Config):
    """The masking of `mlm`; `dictionary`: file of 'jalign dictionary' or 'jalign synthetic', or
    several, of which the pairs of single pieces are used. `change`: how often.
    """

    dictionary: tuple[str, ...] | str = ""
    form: str = "code"
    change: float = 0.5

    def __post_init__(self) -> None:
        """Check the entries. Raises: ValueError naming the entry."""
        super().__post_init__()
        check_choices(self, {"form": FORMS})
        if not 0 < self.change <= 1:
            raise ValueError(f"change={self.change}: need more than 0 and at most 1")
        if self.form == "paper" and not self.language_embeddings:
            raise ValueError(
                "form='paper' asks for a word of another language, and only a language embedding "
                "can say which: set language_embeddings=True"
            )
        if not isinstance(self.rate, int | float):
            raise ValueError(f"rate={self.rate}: dict_mlm takes one number")


class Changed(NamedTuple):
    """What dictionary masking makes of a batch: input ids, targets, languages of the positions, and
    where a translation was used. [B, L] each.
    """

    ids_BL: Array
    target_BL: Array
    lang_BL: Array
    changed_BL: Array


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective on the stream that `cfg` names.

    Raises: ConfigError or BadData for the dictionary; ValueError for its languages.
    """
    mlm.check_languages(cfg, encoder)
    dictionaries = read_all(cfg.dictionary, encoder.tokenizer_sha256)
    entries = translations(dictionaries, encoder.languages, encoder.module.cfg.vocab_size)

    def predict(module: nn.Module, batch: Batch, aux: Aux, key: Key, train: bool) -> Loss:
        masked = mlm.mask_batch(cfg, encoder, batch, key, cfg.rate)
        changed = change_words(cfg, batch, masked, aux, jax.random.fold_in(key, 7))
        seen = mlm.View(batch["position"], unit_ids(batch), encoder.max_unit.get(cfg.stream))
        h_BLD = module(
            changed.ids_BL,
            seen.position_BL,
            seen.unit_BL,
            type_BL=changed.lang_BL if cfg.language_embeddings else None,
            max_unit=seen.max_unit,
            deterministic=not train,
        )
        wanted = {**batch, "ids": changed.target_BL}
        found = mlm.predict_masked(module, h_BLD, wanted, masked, cfg.vocab_loss)
        selected = masked.selected_BL.sum().astype(jnp.float32)
        used = Mean(changed.changed_BL.sum().astype(jnp.float32), selected)
        return found.replace(metrics=found.metrics | {"changed": used})

    apply = nn.apply(predict, encoder.module)

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> Loss:
        train = key is not None
        key = key if train else jax.random.key(mlm.EVAL_SEED)
        rngs = {"dropout": jax.random.fold_in(key, 2)} if train else {}
        variables = {"params": params["encoder"]}
        return apply(variables, batches[cfg.stream], aux, key, train, rngs=rngs)

    return Objective(
        streams=(cfg.stream,),
        reads=(*mlm.READS, "lang"),
        loss=loss,
        init_aux=lambda params: {name: jnp.asarray(x) for name, x in entries.items()},
    )


def translations(
    dictionaries: list[IdPairs], languages: tuple[str, ...], vocab_size: int
) -> dict[str, np.ndarray]:
    """Index the training pairs of single pieces both ways.

    Returns "first" and "num" [languages, V], where the translations of an id begin in "word" and
    "lang" [M], and how many there are. Raises: ConfigError where there are none, or the data have
    not the languages.
    """
    found: dict[tuple[int, int], dict[tuple[int, int], None]] = {}
    for pairs in dictionaries:
        unknown = [lang for lang in pairs.langs if lang not in languages]
        if unknown:
            raise ConfigError(
                f"dictionary: it is of {'-'.join(pairs.langs)}, and the data have "
                f"{', '.join(languages)}: prepare data of both, or name another dictionary"
            )
        src, trg = (languages.index(lang) for lang in pairs.langs)
        chosen = pairs.take(pairs.train_N & pairs.is_single_N)
        for a, b in zip(chosen.src_NP[:, 0].tolist(), chosen.trg_NP[:, 0].tolist(), strict=True):
            found.setdefault((src, a), {})[trg, b] = None
            found.setdefault((trg, b), {})[src, a] = None
    if not found:
        raise ConfigError("dictionary: no pair of single pieces is for training")
    first, num = (np.zeros((len(languages), vocab_size), np.int32) for _ in range(2))
    word, lang = [], []
    for key, others in found.items():
        first[key], num[key] = len(word), len(others)
        word += [other for _, other in others]
        lang += [number for number, _ in others]
    values = np.array(word, np.int32), np.array(lang, np.int32)
    return {"first": first, "num": num, "word": values[0], "lang": values[1]}


def change_words(cfg: Config, batch: Batch, masked: mlm.Masked, aux: Aux, key: Key) -> Changed:
    """Use translations at a share of the selected positions, row by row from the key."""
    length = batch["ids"].shape[1]
    draws = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), (2, length)))
    draw_B2L = draws(batch["row"])
    ids_BL, lang_BL = batch["ids"], batch["lang"]
    num_BL = aux["num"][lang_BL, ids_BL]
    which_BL = jnp.minimum((draw_B2L[:, 1] * num_BL).astype(jnp.int32), jnp.maximum(num_BL - 1, 0))
    at_BL = jnp.where(num_BL > 0, aux["first"][lang_BL, ids_BL] + which_BL, 0)
    drawn_BL = masked.selected_BL & (draw_B2L[:, 0] < cfg.change)
    changed_BL = drawn_BL & (num_BL > 0)
    word_BL, other_BL = aux["word"][at_BL], aux["lang"][at_BL]
    new_lang_BL = jnp.where(changed_BL, other_BL, lang_BL)
    if cfg.form == "paper":
        target_BL = jnp.where(changed_BL, word_BL, ids_BL)
        return Changed(masked.ids_BL, target_BL, new_lang_BL, changed_BL)
    # drawn, but without a translation: the token stays as it is
    new_BL = jnp.where(changed_BL, word_BL, jnp.where(drawn_BL, ids_BL, masked.ids_BL))
    return Changed(new_BL, ids_BL, new_lang_BL, changed_BL)
