"""Open a workdir to evaluate it: its model with the heads of its objectives, without its data.

In: a workdir of `jalign finetune` or `jalign pretrain`. Out: the setting that evaluations work in,
and parameters on the devices.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh

from jalign import config
from jalign.data.tokenizer import load_tokenizer
from jalign.errors import BadData, ConfigError
from jalign.hf.folder import check_hash
from jalign.train import mesh as mesh_lib
from jalign.train.checkpoint import read_params
from jalign.train.evaluator import make_evaluations
from jalign.train.model_file import read_model_file
from jalign.train.opening import bare_manifest
from jalign.train.parts import draw_params, make_encoder, make_objectives, specials_of
from jalign.train.pretrained import find_checkpoint
from jalign.train.run_config import RunConfig
from jalign.types import EvalSetting, Params, Result


class Tuned(NamedTuple):
    """A trained model and what evaluations need beside it; `step` of its checkpoint."""

    cfg: RunConfig
    mesh: Mesh
    setting: EvalSetting
    params: Params
    step: int


def open_tuned(workdir: Path, *, step: int | str | None = None) -> Tuned:
    """Read a workdir; `step` is one of its checkpoints, or "best"; None is the best where one is
    kept, else the newest.

    Raises: ConfigError (exit code 2) and BadData (3), each saying what to do.
    """
    described = read_model_file(workdir)
    cfg = read_run_config(workdir)
    tokenizer = load_tokenizer(workdir / "tokenizer")
    check_hash(workdir, described["tokenizer_sha256"], tokenizer)
    folder = find_checkpoint(workdir, _default_step(workdir) if step is None else step)
    manifest = bare_manifest(tokenizer, workdir, described.get("languages", ()))
    mesh = mesh_lib.make_mesh(cfg.mesh)
    encoder, _ = make_encoder(cfg, manifest, tokenizer, mesh)
    objectives, _ = make_objectives(cfg, encoder)
    boxed = jax.eval_shape(
        lambda key: draw_params(cfg, encoder, objectives, key), jax.random.key(0)
    )
    params = read_params(folder, nn.unbox(boxed))
    params = jax.device_put(params, mesh_lib.param_shardings(boxed, mesh))
    setting = EvalSetting(
        manifest,
        specials_of(tokenizer),
        cfg.streams,
        objectives,
        encoder,
        lambda batch, rows: mesh_lib.put_batch(batch, mesh, rows),
        mesh_lib.replicated(mesh),
        tokenizer,
        workdir,
    )
    return Tuned(cfg, mesh, setting, params, int(folder.name))


def read_run_config(workdir: Path) -> RunConfig:
    """Read the config that a workdir was trained with, on a mesh of all devices there are.

    Raises: ConfigError where there is none, BadData where it is broken.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{workdir} has no config.json, so it is no run of 'jalign finetune': name its workdir "
            "(with --seeds, one of its folders seed0, seed1, ...)"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON and UTF-8 errors are ValueErrors
        raise BadData(f"{path} is broken ({error}): copy it again from where it came") from error
    cfg = config.build(RunConfig, values, str(path))
    return dataclasses.replace(cfg, mesh=mesh_lib.MeshConfig())


def _default_step(workdir: Path) -> str | None:
    best = workdir / "best"
    return "best" if best.is_dir() and any(p.name.isdigit() for p in best.iterdir()) else None


def evaluate(
    tuned: Tuned, tasks: Mapping[str, Mapping[str, Any]], say: Callable[[str], None]
) -> list[Result]:
    """Run evaluations, given as in `config.evaluate.tasks`, and return their results; `say` what
    they warn of.
    """
    results = []
    with jax.set_mesh(tuned.mesh), nn.logical_axis_rules(mesh_lib.RULES):
        made = make_evaluations(tasks, tuned.setting, "evaluate", say)
        for run in made.values():
            results += run(tuned.params, {})
    return results
