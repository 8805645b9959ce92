"""Build from a run's configuration what the loop needs.

In: a `RunConfig`. Out: a `Run`: data, objectives, mesh, optimiser, step. Everything that can be
wrong is found here, before anything compiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jalign import plugin
from jalign.data.pipeline import BatchSource, make_stream
from jalign.data.records import Manifest
from jalign.errors import ConfigError
from jalign.train import mesh as mesh_lib
from jalign.train.frozen import frozen_shardings, read_frozen
from jalign.train.opening import (
    Opened,
    check_data,
    check_same,
    count_steps,
    labelled_sha256,
    labelled_sources,
    open_data,
)
from jalign.train.optim import make_optimizer, make_schedule
from jalign.train.parts import (
    draw_params,
    head_facts,
    make_encoder,
    make_objectives,
    specials_of,
)
from jalign.train.run_config import RunConfig
from jalign.train.start import Start, describe, place, read_start, say_what_is_fresh
from jalign.train.step import StepConfig, check_objectives, make_train_step
from jalign.train.together import attempt
from jalign.types import Encoder, EvalSetting, Objective, TrainState


@dataclass(frozen=True)
class Run:
    """Everything that the loop needs, built and checked.

    `cfg` has its encoder section filled in where the run starts from `init`, and its steps where
    epochs say how many; `description` is the content of model.json; `labelled` are the hashes of
    labelled files; `notes` are lines for the log.
    """

    cfg: RunConfig
    manifest: Manifest
    tokenizer_folder: Path
    mesh: Mesh
    encoder: Encoder
    encoder_cfg: Any
    objectives: Mapping[str, Objective]
    source: BatchSource
    optimizer: optax.GradientTransformation
    step: Callable
    abstract: TrainState
    init_state: Callable[[], TrainState]
    setting: EvalSetting
    description: Mapping[str, Any]
    labelled: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def put(self, batches: Mapping[str, Mapping]) -> dict[str, dict[str, jax.Array]]:
        """Place this process's rows of a step on its devices."""
        return {
            name: mesh_lib.put_batch(
                batch, self.mesh, self.cfg.streams[name].rows, self.source.local[name]
            )
            for name, batch in batches.items()
        }

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be continued."""
        return {
            "manifest_sha256": self.manifest.sha256,
            "tokenizer_sha256": self.manifest.tokenizer_sha256,
            "labelled_sha256": self.labelled,
            "config": dataclasses.asdict(self.cfg),
        }


def make_run(
    cfg: RunConfig, devices: Sequence[jax.Device] | None = None, *, workdir: Path | None = None
) -> Run:
    """Build a run on all devices, or on those given; all processes of a job call this together.

    A run with `init` that has a checkpoint in `workdir` is built from there, without `init`.
    Raises: ConfigError (or ManifestError) that says what to type, on all processes alike.
    """
    begun = attempt(lambda: _begin(cfg, devices, workdir))
    check_same(begun.cfg, begun.start, begun.opened, begun.labelled)
    check_data(begun.opened.manifest, workdir)
    return attempt(lambda: _finish(begun, workdir))


class _Begun(NamedTuple):
    """What of a run needs no data."""

    cfg: RunConfig
    start: Start | None
    opened: Opened
    labelled: Mapping[str, str]
    mesh: Mesh
    encoder: Encoder
    encoder_cfg: Any
    objectives: Mapping[str, Objective]
    weights: Mapping[str, Callable]


def _begin(cfg: RunConfig, devices: Sequence[jax.Device] | None, workdir: Path | None) -> _Begun:
    start = read_start(cfg.init, cfg.encoder, workdir) if cfg.init else None
    if start:
        cfg = dataclasses.replace(cfg, encoder=start.entries)
    opened = open_data(cfg, start)
    mesh = mesh_lib.make_mesh(cfg.mesh, devices)
    encoder, encoder_cfg = make_encoder(cfg, opened.manifest, opened.tokenizer, mesh)
    objectives, weights = make_objectives(cfg, encoder)
    labelled = labelled_sha256(cfg)
    return _Begun(cfg, start, opened, labelled, mesh, encoder, encoder_cfg, objectives, weights)


def _finish(begun: _Begun, workdir: Path | None) -> Run:
    cfg, start, opened, labelled, mesh, encoder, encoder_cfg, objectives, weights = begun
    manifest = opened.manifest
    source = _make_source(cfg, opened, mesh, objectives)
    fields = {name: set(source.streams[name].fields) for name in cfg.streams}
    check_objectives(objectives, fields, cfg.accumulate)
    steps, notes = count_steps(cfg, source)
    cfg = dataclasses.replace(cfg, steps=steps)
    optimizer, abstract, init_state, whole = make_state(
        cfg, mesh, encoder, objectives, source, start, opened.tokenizer.sha256
    )
    setting = EvalSetting(
        manifest,
        specials_of(opened.tokenizer),
        cfg.streams,
        objectives,
        encoder,
        lambda batch, rows: mesh_lib.put_batch(batch, mesh, rows),
        mesh_lib.replicated(mesh),
        opened.tokenizer,
        workdir,
    )
    family, heads = cfg.encoder.get("family", "bert"), head_facts(cfg, objectives)
    return Run(
        cfg,
        manifest,
        opened.tokenizer_folder,
        mesh,
        encoder,
        encoder_cfg,
        objectives,
        source,
        optimizer,
        make_step(cfg, objectives, weights, optimizer, abstract, mesh),
        abstract,
        init_state,
        setting,
        describe(
            manifest,
            family,
            encoder_cfg,
            cfg.objectives,
            heads,
            labelled_sources(cfg, source),
            start,
        ),
        labelled,
        [*(start.notes if start else ()), *notes, *whole],
    )


def make_step(
    cfg: RunConfig,
    objectives: Mapping[str, Objective],
    weights: Mapping[str, Callable],
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    mesh: Mesh,
) -> Callable:
    """Return the jitted train step of a run, its state donated and kept on its shardings."""
    step_cfg = StepConfig(
        weights,
        cfg.norm,
        cfg.accumulate,
        cfg.optimizer.clip_norm,
        make_schedule(cfg.optimizer, cfg.steps),
    )
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(
        make_train_step(objectives, optimizer, step_cfg),
        donate_argnums=0,
        out_shardings=(shardings, mesh_lib.replicated(mesh)),
    )


def make_state(
    cfg: RunConfig,
    mesh: Mesh,
    encoder: Encoder,
    objectives: Mapping[str, Objective],
    source: BatchSource | None,
    start: Start | None,
    tokenizer_sha256: str,
) -> tuple[optax.GradientTransformation, TrainState, Callable[[], TrainState], list[str]]:
    """Return the optimiser, the state's shapes with their shardings, how to make the first, and
    notes on what the mesh does not divide.

    A run that is planned and never started has no `source`.
    """
    family = plugin.load("encoders", cfg.encoder.get("family", "bert"))
    encoder_cfg, key = encoder.module.cfg, jax.random.key(cfg.seed)

    def draw_boxed(key):
        return draw_params(cfg, encoder, objectives, key)

    boxed = jax.eval_shape(draw_boxed, key)
    optimizer = make_optimizer(cfg.optimizer, cfg.steps, nn.unbox(boxed))

    def complete(params, frozen) -> TrainState:
        aux = {name: o.init_aux(frozen.get(name, params)) for name, o in objectives.items()}
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), aux)

    def copied_heads(params):
        heads = [o.init_heads(params) for o in objectives.values()]
        return {name: head for found in heads for name, head in found.items()}

    def draw_state(key, bias_V=None, frozen=None) -> TrainState:
        params = nn.unbox(draw_boxed(key))
        params |= copied_heads(params)
        if bias_V is not None:
            params["encoder"] = family.with_output_bias(params["encoder"], bias_V)
        return complete(params, frozen or {})

    shapes = jax.eval_shape(draw_state, key)
    shardings = _state_shardings(shapes, boxed, optimizer, mesh)

    def init_state() -> TrainState:
        frozen = read_frozen(
            objectives,
            encoder_cfg,
            cfg.encoder.get("family", "bert"),
            tokenizer_sha256,
            shardings.params["encoder"],
        )
        if start:
            params = place(start, shardings.params, lambda: nn.unbox(draw_boxed(key)))
            names = jax.eval_shape(copied_heads, params)
            if names:
                places = {name: shardings.params[name] for name in names}
                params |= jax.jit(copied_heads, out_shardings=places)(params)
            # Without the parameters: handed through, jit would hold them twice.
            rest = jax.jit(
                lambda params, frozen: complete(params, frozen).replace(params=None),
                out_shardings=shardings.replace(params=None),
            )
            return rest(params, frozen).replace(params=params)
        bias_V = (
            log_frequency(source, cfg.count_rows, encoder_cfg.vocab_size)
            if cfg.count_rows
            else None
        )
        return jax.jit(draw_state, out_shardings=shardings)(key, bias_V, frozen)

    if start:
        say_what_is_fresh(start, shapes.params)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    return optimizer, abstract, init_state, mesh_lib.undivided(boxed, mesh)


def log_frequency(source: BatchSource, num_rows: int, vocab_size: int) -> np.ndarray:
    """Count words in the first rows of every stream; return log((n + 1) / total), float32 [V]."""
    count_V = np.ones(vocab_size)
    for stream in source.streams.values():
        batch = stream.rows(0, num_rows)
        count_V += np.bincount(batch["ids"][batch["side"] > 0], minlength=vocab_size)
    return np.log(count_V / count_V.sum()).astype(np.float32)


def _make_source(cfg: RunConfig, opened: Opened, mesh: Mesh, objectives) -> BatchSource:
    read = {s for o in objectives.values() for s in o.streams}
    unread = sorted(set(cfg.streams) - read)
    if unread:
        raise ConfigError(
            f"no objective reads stream {unread}: remove config.streams.{unread[0]}, or add an "
            "objective"
        )
    rows = {name: s.rows for name, s in cfg.streams.items()}
    local = {name: mesh_lib.local_rows(mesh, n) for name, n in rows.items()}
    for name, n in rows.items():
        mesh_lib.check_rows(mesh, name, n, cfg.accumulate)
    specials, streams = specials_of(opened.tokenizer), {}
    for name, stream in cfg.streams.items():
        streams[name] = make_stream(
            opened.manifest, specials, name, stream, seed=cfg.seed, tokenizer=opened.tokenizer
        )
    return BatchSource(streams, rows, local)


def _state_shardings(shapes: TrainState, boxed, optimizer, mesh: Mesh) -> TrainState:
    params = mesh_lib.param_shardings(boxed, mesh)
    whole = mesh_lib.replicated(mesh)
    # jit(opt.init) alone would put all moments on one device: they live where their parameter
    # lives.
    opt = optax.tree_map_params(
        optimizer, lambda _, s: s, shapes.opt, params, transform_non_params=lambda _: whole
    )
    return TrainState(whole, params, opt, frozen_shardings(shapes.aux, params, whole))
