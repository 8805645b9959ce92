"""Masked language modelling on packed rows: mask on the device, predict only the masked positions.

Reads a stream of texts; `tlm.py` is the same loss on joint pairs. Source: Devlin et al. 2019
(80/10/10), Conneau & Lample 2019 (TLM), Marone et al. 2025 (mmBERT: a rate that falls over the
steps). Differs: selection is independent per token, as in fairseq, not a fixed number per sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.config import check_choices
from jalign.errors import ConfigError
from jalign.nn.masking import HALVES, MaskRates, corrupt, select_tokens
from jalign.nn.packed import unit_ids
from jalign.nn.vocab_loss import gather_cap, gather_masked, gather_slots, vocab_cross_entropy
from jalign.schedule import Schedule, largest, last, make_value, values_of
from jalign.types import Array, Aux, Batch, Batches, Encoder, Key, Loss, Mean, Objective, Params

READS = ("ids", "example", "side", "position", "row")
EVAL_SEED = 20


@dataclass(frozen=True)
class Config:
    """Masking rates and the form of the vocabulary loss ("auto", "dense" or "chunked").

    `rate` may be a schedule over the steps of the run (`jalign/schedule.py`), such as mmBERT's
    {values: (0.3, 0.15, 0.05), boundaries: (s1, s2)}. `half`: see `MaskRates`.
    `language_embeddings`: the encoder's token types are languages, by the numbers of the dataset.
    """

    stream: str = "mono"
    rate: Schedule = 0.15
    mask: float = 0.8
    replace: float = 0.1
    vocab_loss: str = "auto"
    half: str = "all"
    language_embeddings: bool = False

    def __post_init__(self) -> None:
        """Check the rates. Raises: ValueError naming the entry."""
        check_choices(self, {"half": HALVES})
        try:
            rates = values_of(self.rate, "rate")
        except ConfigError as error:  # as a ValueError it gets the objective's name before it
            raise ValueError(str(error)) from error
        bad = [f"{name}={rate}" for name, rate in rates.items() if not 0 < rate < 1]
        if bad or self.mask < 0 or self.replace < 0 or self.mask + self.replace > 1:
            raise ValueError(
                "masking needs 0 < rate < 1 and mask + replace <= 1; got "
                + ", ".join(bad or [f"mask={self.mask}, replace={self.replace}"])
            )


class Masked(NamedTuple):
    """A batch with its masks: the corrupted ids, what was selected, and where to gather it from."""

    ids_BL: Array
    selected_BL: Array
    index_GP: Array
    keep_GP: Array
    over: Array


def mask_batch(
    cfg: Config, encoder: Encoder, batch: Batch, key: Key, rate: float | Array
) -> Masked:
    """Select tokens and corrupt them; `over` counts those that the gather has no room for."""
    half = getattr(cfg, "half", "all")
    rates = MaskRates(largest(cfg.rate), cfg.mask, cfg.replace, half)
    num_groups = encoder.num_groups
    wanted_BL = select_tokens(jax.random.fold_in(key, 0), batch, rate)
    # Room for the highest rate: the shapes must not change when the rate does.
    cap = gather_cap(wanted_BL.size // num_groups, rates.select)
    index_GP, keep_GP = gather_masked(wanted_BL, cap, num_groups)
    selected_BL = _within_cap(wanted_BL, cap, num_groups)
    vocab_size = encoder.module.cfg.vocab_size
    ids_BL = corrupt(
        jax.random.fold_in(key, 1), batch, selected_BL, vocab_size, encoder.tokens, rates
    )
    over = (wanted_BL.sum() - keep_GP.sum()).astype(jnp.float32)
    return Masked(ids_BL, selected_BL, index_GP, keep_GP, over)


def predict_masked(
    module: nn.Module, h_BLD: Array, batch: Batch, masked: Masked, vocab_loss: str
) -> Loss:
    """Return the cross-entropy at the masked positions of the states of the corrupted batch."""
    h_ND = module.transform(gather_slots(h_BLD, masked.index_GP).reshape(-1, h_BLD.shape[-1]))
    target_N = gather_slots(batch["ids"], masked.index_GP).reshape(-1)
    nll_N, correct_N = vocab_cross_entropy(h_ND, *module.output(), target_N, method=vocab_loss)
    keep_N = masked.keep_GP.reshape(-1)
    count = keep_N.sum().astype(jnp.float32)
    metrics = {
        "accuracy": Mean((correct_N * keep_N).sum().astype(jnp.float32), count),
        "over_cap": Mean(masked.over, jnp.ones(())),
    }
    return Loss((nll_N * keep_N).sum(), count, metrics)


class View(NamedTuple):
    """How the encoder sees a batch: positions, attention units, and the longest unit there may be
    (None: a whole row).
    """

    position_BL: Array
    unit_BL: Array
    max_unit: int | None


def usual_view(cfg: Config, encoder: Encoder, batch: Batch) -> View:
    """See a batch as its layout has it."""
    return View(batch["position"], unit_ids(batch), encoder.max_unit.get(cfg.stream))


def check_languages(cfg: Config, encoder: Encoder) -> None:
    """Check that the encoder has an embedding for each language. Raises: ValueError."""
    num = getattr(encoder.module.cfg, "type_vocab_size", 0)
    if cfg.language_embeddings and num < len(encoder.languages):
        raise ValueError(
            f"language_embeddings=True: the encoder has {num} token types, and the data "
            f"{len(encoder.languages)} languages ({', '.join(encoder.languages)}): set "
            f"config.encoder.type_vocab_size={len(encoder.languages)} (family bert)"
        )


def masked_lm(
    cfg: Config, encoder: Encoder, view: Callable[[Config, Encoder, Batch], View] = usual_view
) -> Callable[[Params, Batch, Key | None, float | Array], Loss]:
    """Build the masked-LM loss of one packed batch: `loss(params, batch, key, rate)`."""
    check_languages(cfg, encoder)

    def predict(
        module: nn.Module, batch: Batch, key: Key, rate: float | Array, train: bool
    ) -> Loss:
        masked, seen = mask_batch(cfg, encoder, batch, key, rate), view(cfg, encoder, batch)
        h_BLD = module(
            masked.ids_BL,
            seen.position_BL,
            seen.unit_BL,
            type_BL=batch["lang"] if cfg.language_embeddings else None,
            max_unit=seen.max_unit,
            deterministic=not train,
        )
        return predict_masked(module, h_BLD, batch, masked, cfg.vocab_loss)

    apply = nn.apply(predict, encoder.module)

    def loss(params: Params, batch: Batch, key: Key | None, rate: float | Array) -> Loss:
        train = key is not None
        key = key if train else jax.random.key(EVAL_SEED)
        rngs = {"dropout": jax.random.fold_in(key, 2)} if train else {}
        return apply({"params": params["encoder"]}, batch, key, rate, train, rngs=rngs)

    return loss


def _within_cap(wanted_BL, cap: int, num_groups: int):
    """Keep the selected tokens that the gather has room for: the rest stays unmasked, and is
    counted.
    """
    wanted_GN = wanted_BL.reshape(num_groups, -1)
    return (wanted_GN & (jnp.cumsum(wanted_GN, axis=1) <= cap)).reshape(wanted_BL.shape)


def make(
    cfg: Config, encoder: Encoder, view: Callable[[Config, Encoder, Batch], View] = usual_view
) -> Objective:
    """Build the objective on the stream that `cfg` names.

    A rate on a schedule is looked up at the step that `aux` counts, and is a metric. Evaluation
    masks at the last rate whatever the step, so that the numbers of different steps compare.
    """
    loss_of = masked_lm(cfg, encoder, view)
    scheduled = isinstance(cfg.rate, Mapping)
    rate_at = make_value(cfg.rate, "rate")

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> Loss:
        if key is None or not scheduled:
            return loss_of(params, batches[cfg.stream], key, last(cfg.rate))
        rate = rate_at(aux["step"])
        out = loss_of(params, batches[cfg.stream], key, rate)
        return out.replace(metrics=out.metrics | {"rate": Mean(rate, jnp.ones(()))})

    reads = (*READS, "lang") if cfg.language_embeddings else READS
    objective = Objective(streams=(cfg.stream,), reads=reads, loss=loss)
    if not scheduled:
        return objective
    return objective._replace(init_aux=first_step, update_aux=next_step)


def first_step(params: Params) -> Aux:
    """Start counting the steps of the run, which a loss has no other way to know."""
    del params
    return {"step": jnp.zeros((), jnp.int32)}


def next_step(aux: Aux, params: Params, carry: Any) -> Aux:
    """Count one step."""
    del params, carry
    return {"step": aux["step"] + 1}
