"""Masked language modelling on packed rows: mask on the device, predict only the masked positions.

Reads a stream of texts; `tlm.py` is the same loss on joint pairs. Source: Devlin et al. 2019
(80/10/10), Conneau & Lample 2019 (TLM). Differs: selection is independent per token, as in fairseq,
not a fixed number per sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jalign.nn.masking import MaskRates, corrupt, select_tokens
from jalign.nn.packed import unit_ids
from jalign.nn.vocab_loss import gather_cap, gather_masked, gather_slots, vocab_cross_entropy
from jalign.types import Aux, Batch, Batches, Encoder, Key, Loss, Mean, Objective, Params

READS = ("ids", "example", "side", "position", "row")
EVAL_SEED = 20


@dataclass(frozen=True)
class Config:
    """Masking rates and the form of the vocabulary loss ("auto", "dense" or "chunked")."""

    stream: str = "mono"
    rate: float = 0.15
    mask: float = 0.8
    replace: float = 0.1
    vocab_loss: str = "auto"

    def __post_init__(self) -> None:
        """Check the rates. Raises: ValueError naming the entry."""
        if (
            not 0 < self.rate < 1
            or self.mask < 0
            or self.replace < 0
            or self.mask + self.replace > 1
        ):
            raise ValueError(
                f"masking needs 0 < rate < 1 and mask + replace <= 1; got rate={self.rate}, "
                f"mask={self.mask}, replace={self.replace}"
            )


def masked_lm(cfg: Config, encoder: Encoder) -> Callable[[Params, Batch, Key | None], Loss]:
    """Build the masked-LM loss of one packed batch: `loss(encoder_params, batch, key)`."""
    rates = MaskRates(cfg.rate, cfg.mask, cfg.replace)
    max_unit = encoder.max_unit.get(cfg.stream)

    def predict(module: nn.Module, batch: Batch, key: Key, train: bool) -> Loss:
        vocab_size = module.cfg.vocab_size
        wanted_BL = select_tokens(jax.random.fold_in(key, 0), batch, rates.select)
        cap = gather_cap(wanted_BL.size // encoder.num_groups, rates.select)
        index_GP, keep_GP = gather_masked(wanted_BL, cap, encoder.num_groups)
        selected_BL = _within_cap(wanted_BL, cap, encoder.num_groups)
        ids_BL = corrupt(
            jax.random.fold_in(key, 1), batch, selected_BL, vocab_size, encoder.tokens, rates
        )
        h_BLD = module(
            ids_BL, batch["position"], unit_ids(batch), max_unit=max_unit, deterministic=not train
        )
        h_ND = module.transform(gather_slots(h_BLD, index_GP).reshape(-1, h_BLD.shape[-1]))
        target_N = gather_slots(batch["ids"], index_GP).reshape(-1)
        nll_N, correct_N = vocab_cross_entropy(
            h_ND, *module.output(), target_N, method=cfg.vocab_loss
        )
        keep_N = keep_GP.reshape(-1)
        count = keep_N.sum().astype(jnp.float32)
        over = (wanted_BL.sum() - keep_N.sum()).astype(jnp.float32)
        metrics = {
            "accuracy": Mean((correct_N * keep_N).sum().astype(jnp.float32), count),
            "over_cap": Mean(over, jnp.ones(())),
        }
        return Loss((nll_N * keep_N).sum(), count, metrics)

    apply = nn.apply(predict, encoder.module)

    def loss(params: Params, batch: Batch, key: Key | None) -> Loss:
        train = key is not None
        key = key if train else jax.random.key(EVAL_SEED)
        rngs = {"dropout": jax.random.fold_in(key, 2)} if train else {}
        return apply({"params": params["encoder"]}, batch, key, train, rngs=rngs)

    return loss


def _within_cap(wanted_BL, cap: int, num_groups: int):
    """Keep the selected tokens that the gather has room for: the rest stays unmasked, and is
    counted.
    """
    wanted_GN = wanted_BL.reshape(num_groups, -1)
    return (wanted_GN & (jnp.cumsum(wanted_GN, axis=1) <= cap)).reshape(wanted_BL.shape)


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective on the stream that `cfg` names."""
    loss_of = masked_lm(cfg, encoder)

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> Loss:
        del aux
        return loss_of(params, batches[cfg.stream], key)

    return Objective(streams=(cfg.stream,), reads=READS, loss=loss)
