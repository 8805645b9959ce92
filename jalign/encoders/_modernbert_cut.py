"""Cut a ModernBERT: its first layers alone, and of its last layer the attention alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax

from jalign.errors import ConfigError
from jalign.nn.layers import Dense, LayerNorm
from jalign.nn.rope import turn, turns
from jalign.types import Array

if TYPE_CHECKING:
    from jalign.encoders.modernbert import Config


def first_layers(cfg: Config, params: Mapping[str, Any], num: int) -> tuple[Config, dict[str, Any]]:
    """Return the encoder that ends after layer `num`, and its parameters: what lies above is not
    computed. Its states are those of `all_layers`: before the last layer, not normalised.
    """
    if num >= cfg.layers:
        return cfg, dict(params)
    cut = replace(cfg, layers=num, final_norm=False)
    dropped = {"final_norm", "periods", *(f"tail_{i}" for i in range(1, cfg.tail + 1))}
    dropped |= set() if num else {"first"}
    kept = {name: x for name, x in params.items() if name not in dropped}
    if cut.periods:
        kept["periods"] = jax.tree.map(lambda x: x[: cut.periods], params["periods"])
    for i in range(1, cut.tail + 1):
        if cut.periods == cfg.periods:
            kept[f"tail_{i}"] = params[f"tail_{i}"]
        else:  # it was in a period
            local = params["periods"][f"local_{i}"]
            kept[f"tail_{i}"] = jax.tree.map(lambda x: x[cut.periods], local)
    return cut, kept


def top_queries(
    cfg: Config, params: Mapping[str, Any], h_BLD: Array, position_BL: Array
) -> tuple[Array, Array]:
    """Return queries and keys [B, L, H, K] of the last layer, from the states that enter it (those
    of `first_layers`): its attention without the rest of it.

    Raises: ConfigError where the last layer is a local one, whose window may hide what is wanted.
    """
    if cfg.tail:
        raise ConfigError(
            "word alignment needs a last layer that sees the whole pair: the last of "
            f"{cfg.layers} layers sees {cfg.window} slots on either side (layer 0 "
            f"and every {cfg.global_every}th see all); set encoder.layers="
            f"{cfg.layers - cfg.tail} or {cfg.layers - cfg.tail + cfg.global_every}"
        )
    dtype, size = h_BLD.dtype, cfg.hidden // cfg.heads
    if cfg.periods:
        top = jax.tree.map(lambda x: x[-1], params["periods"]["global"])
        norm = LayerNorm(cfg.layer_norm_eps, dtype, use_bias=False)
        h_BLD = norm.apply({"params": top["attention_norm"]}, h_BLD)
    else:  # layer 0 has no norm of its own
        top = params["first"]
    dense = Dense((3, cfg.hidden), ("embed", None, "heads"), dtype, use_bias=False)
    qkv_BLTF = dense.apply({"params": top["qkv"]}, h_BLD)
    qk_BLTHK = qkv_BLTF.reshape(*h_BLD.shape[:2], 3, cfg.heads, size)[:, :, :2]
    qk_BLTHK = turn(qk_BLTHK, turns(position_BL, cfg.global_theta, size))
    return qk_BLTHK[:, :, 0], qk_BLTHK[:, :, 1]
