"""Build from a run's configuration what needs no data: encoder, objectives and their parameters.

In: a `RunConfig`, a tokenizer, a mesh. Out: the parts that a run trains, and that an evaluation of
its workdir applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from jalign import config, plugin
from jalign.data.records import Manifest
from jalign.data.rows import Specials
from jalign.data.tokenizer import Tokenizer
from jalign.errors import ConfigError
from jalign.schedule import make_value
from jalign.train import mesh as mesh_lib
from jalign.train.run_config import RunConfig
from jalign.train.step import name_key
from jalign.types import Encoder, Key, Objective, Params, TokenIds


def make_encoder(
    cfg: RunConfig, manifest: Manifest, tokenizer: Tokenizer, mesh: Mesh
) -> tuple[Encoder, Any]:
    """Build the encoder of a run and its Config. Raises: ConfigError naming the entry."""
    entries = dict(cfg.encoder)
    family = plugin.load("encoders", entries.pop("family", "bert"))
    if not entries.get("vocab_size"):
        entries["vocab_size"] = manifest.vocab_size
    encoder_cfg = config.build(family.Config, entries, "config.encoder")
    if encoder_cfg.vocab_size < manifest.vocab_size:
        raise ConfigError(
            f"config.encoder.vocab_size={encoder_cfg.vocab_size} is smaller than the tokenizer's "
            f"{manifest.vocab_size}: set it to 0 to take the tokenizer's"
        )
    max_unit = {name: s.max_unit or s.row_length for name, s in cfg.streams.items()}
    for name, longest in max_unit.items():
        if longest > encoder_cfg.positions:
            raise ConfigError(
                f"stream {name!r} has attention units of up to {longest} slots, and the encoder "
                f"has {encoder_cfg.positions} positions: set "
                f"config.streams.{name}.max_unit={encoder_cfg.positions}"
            )

    def first_layers(params, num: int):
        cut, params = family.first_layers(encoder_cfg, params, num)
        return family.make(cut), params

    def top_queries(params, h_BLD, position_BL):
        return family.top_queries(encoder_cfg, params, h_BLD, position_BL)

    def last_layers(params, num: int):
        cut, params = family.last_layers(encoder_cfg, params, num)
        return family.make(cut), params

    encoder = Encoder(
        family.make(encoder_cfg),
        TokenIds(tokenizer.mask_id, tuple(tokenizer.special_ids)),
        mesh_lib.num_batch_shards(mesh),
        max_unit,
        first_layers,
        last_layers if hasattr(family, "last_layers") else None,
        {name: cfg.streams[name].task.labels for name in cfg.labelled},
        {name: stream.layout for name, stream in cfg.streams.items()},
        tuple(manifest.languages),
        tokenizer.sha256,
        cfg.accumulate,
        top_queries=top_queries,
    )
    return encoder, encoder_cfg


def make_objectives(
    cfg: RunConfig, encoder: Encoder
) -> tuple[dict[str, Objective], dict[str, Callable]]:
    """Build the objectives of a run and the weight of each of their losses. Raises: ConfigError."""
    objectives: dict[str, Objective] = {}
    weights: dict[str, Callable] = {}
    owner: dict[str, str] = {}
    for name, entries in cfg.objectives.items():
        entries, where = dict(entries), f"config.objectives.{name}"
        weight = entries.pop("weight", 1.0)
        module = plugin.load("objectives", entries.pop("kind", name))
        try:
            objective = module.make(config.build(module.Config, entries, where), encoder)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
        for head in objective.heads:
            if owner.setdefault(head, name) != name:
                raise ConfigError(
                    f"objectives {owner[head]!r} and {name!r} would share the head {head!r}: use "
                    "one of them, or train them in two runs"
                )
        objectives[name] = objective
        weights |= _make_weights(name, objective, weight, f"{where}.weight")
    return objectives, weights


def _make_weights(name: str, objective: Objective, weight: Any, where: str) -> dict[str, Callable]:
    """Give each loss of an objective its weight: one for all, or one for each part by its name."""
    if objective.parts and isinstance(weight, Mapping) and set(weight) & set(objective.parts):
        if set(weight) != set(objective.parts):
            raise ConfigError(f"{where}={dict(weight)}: need {', '.join(objective.parts)}")
        return {f"{name}.{p}": make_value(w, f"{where}.{p}") for p, w in weight.items()}
    return {n: make_value(weight, where) for n in objective.names(name)}


def draw_params(
    cfg: RunConfig, encoder: Encoder, objectives: Mapping[str, Objective], key: Key
) -> Params:
    """Draw all parameters, boxed with their logical axes: the encoder's and every head's."""
    family = plugin.load("encoders", cfg.encoder.get("family", "bert"))
    params = {"encoder": family.init_params(encoder.module, key)}
    sample = jnp.zeros((1, encoder.module.cfg.hidden))  # heads take hidden states
    for objective in objectives.values():
        for name, head in objective.heads.items():
            params[name] = head.init(name_key(key, name), sample)["params"]
    return params


def specials_of(tokenizer: Tokenizer) -> Specials:
    """Return the ids that frame a sentence."""
    return Specials(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)


def head_facts(cfg: RunConfig, objectives: Mapping[str, Objective]) -> dict[str, dict[str, Any]]:
    """Say of each head on labelled data which objective it is of, and what its numbers mean."""
    facts = {}
    for name, objective in objectives.items():
        labelled = [s for s in objective.streams if s in cfg.labelled]
        for head in objective.heads if labelled else ():
            task = cfg.streams[labelled[0]].task
            facts[head] = {
                "objective": name,
                "kind": cfg.objectives[name].get("kind", name),
                "format": task.format,
                "labels": list(task.labels),
            }
    return facts
