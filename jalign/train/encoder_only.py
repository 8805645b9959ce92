"""Evaluate an encoder as it is, wherever it lies: without the config or the heads of a run.

In: a Hugging Face folder, an imported model or a workdir, and evaluations that need no objective.
Out: their results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from jalign import plugin
from jalign.train import mesh as mesh_lib
from jalign.train.evaluator import make_evaluations
from jalign.train.opening import bare_manifest
from jalign.train.parts import specials_of
from jalign.train.pretrained import Pretrained, read_pretrained
from jalign.types import Encoder, EvalSetting, Params, Result, TokenIds


def evaluate_model(
    path: Path,
    step: int | str | None,
    tasks: Mapping[str, Mapping[str, Any]],
    say: Callable[[str], None],
) -> tuple[list[Result], int]:
    """Run evaluations, given as in `config.evaluate.tasks`; return results and the model's step.

    Raises: ConfigError (exit code 2) and BadData (3), each saying what to do.
    """
    found, results = read_pretrained(path, step=step), []
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig())
    with jax.set_mesh(mesh), nn.logical_axis_rules(mesh_lib.RULES):
        setting, params = _open(found, mesh)
        for run in make_evaluations(tasks, setting, "evaluate", say).values():
            results += run(params, {})
    return results, found.step


def _open(found: Pretrained, mesh: jax.sharding.Mesh) -> tuple[EvalSetting, Params]:
    family = plugin.load("encoders", found.family)
    cfg = dataclasses.replace(found.cfg, dropout=0.0, attention_dropout=0.0, dtype="float32")

    def first_layers(params: Params, num: int) -> tuple[nn.Module, Params]:
        cut, params = family.first_layers(cfg, params, num)
        return family.make(cut), params

    tokenizer = found.tokenizer
    encoder = Encoder(
        family.make(cfg),
        TokenIds(tokenizer.mask_id, tuple(tokenizer.special_ids)),
        mesh_lib.num_batch_shards(mesh),
        first_layers=first_layers,
    )
    setting = EvalSetting(
        bare_manifest(tokenizer, found.path, ()),
        specials_of(tokenizer),
        {},
        {},
        encoder,
        lambda batch, rows: mesh_lib.put_batch(batch, mesh, rows),
        mesh_lib.replicated(mesh),
        tokenizer,
    )
    return setting, jax.device_put({"encoder": found.params}, mesh_lib.replicated(mesh))
