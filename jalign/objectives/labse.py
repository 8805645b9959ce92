"""Rank translations with an additive margin: LaBSE's dual encoder.

In: a stream of pairs in the separate layout. Each sentence looks for its translation among the
sentences of the whole batch, whatever devices and microbatches hold them. Source: Feng et al. 2022,
equations 1-3; Yang et al. 2019 (methods.md 7.2). Differs: a temperature `tau`, which the paper's
equation has not (1); its implementations are said to multiply cosines by 10 to 20.
"""

from __future__ import annotations

from dataclasses import dataclass

from jalign.align.contrast import sentence_contrast
from jalign.objectives import _sentences
from jalign.objectives._supervised import make_encode
from jalign.types import Aux, Batches, Encoder, Key, Loss, Objective, Params

HEAD = "labse_scale"


@dataclass(frozen=True)
class Config(_sentences.Config):
    """The contrast; the defaults are the paper's."""

    margin: float = 0.3
    reduction: str = "sum"


def make(cfg: Config, encoder: Encoder) -> Objective:
    """Build the objective. Raises: ValueError where the stream is no separate pairs."""
    _sentences.check_separate(encoder, cfg.stream)
    heads, tau = _sentences.make_tau(cfg, HEAD)
    encode, rule = make_encode(encoder, cfg.stream), cfg.rule()

    def loss(params: Params, aux: Aux, batches: Batches, key: Key | None) -> Loss:
        del aux
        vectors = _sentences.make_vectors(cfg, encoder, lambda b, k: encode(params, b, k))
        found = vectors(batches[cfg.stream], key)
        contrasted = sentence_contrast(
            found.pairs(), rule, tau=tau(params), parts=encoder.accumulate
        )
        return contrasted.replace(metrics=contrasted.metrics | _sentences.over_metric(found))

    return Objective(
        streams=(cfg.stream,),
        reads=_sentences.READS,
        loss=loss,
        heads=heads,
        splits=False,
        splits_itself=True,
    )
