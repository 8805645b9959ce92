"""Hold a run's configuration as frozen dataclasses, and build from it what the loop needs.

In: a `RunConfig` (the command line has turned the config file into it). Out: a `Run`: data,
objectives, mesh, optimiser, step. Everything that can be wrong is found here, before anything
compiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jalign import config, plugin
from jalign.data.pipeline import BatchSource, StreamConfig, make_stream
from jalign.data.records import Manifest, read_manifest
from jalign.data.rows import Specials
from jalign.data.tokenizer import Tokenizer, load_tokenizer
from jalign.errors import ConfigError
from jalign.schedule import make_value
from jalign.train import mesh as mesh_lib
from jalign.train.optim import OptimConfig, make_optimizer, make_schedule
from jalign.train.start import Start, describe, place, read_start, say_what_is_fresh
from jalign.train.step import StepConfig, check_objectives, make_train_step, name_key
from jalign.types import Encoder, EvalSetting, Objective, TokenIds, TrainState


@dataclass(frozen=True)
class EvalConfig:
    """Evaluate every `every` steps (0: never), at step 0 if `at_start`; `best` names the score that
    keeps the best.
    """

    every: int = 0
    at_start: bool = False
    best: str = ""
    tasks: Mapping[str, Mapping] = field(default_factory=dict)


@dataclass(frozen=True)
class DivergenceConfig:
    """Stop where the mean loss of `window` steps exceeds the lowest such mean by `factor` (0:
    never).
    """

    factor: float = 1.5
    window: int = 50


@dataclass(frozen=True)
class RunConfig:
    """One run.

    `init`: a Hugging Face folder, an imported model or a workdir whose encoder is continued; the
    encoder section then holds only what is the run's choice. `objectives`: name -> its entries,
    `weight` (a number or a schedule) and optionally `kind`, its file. `count_rows`: start the
    output bias at the log frequency of the words in so many rows of each stream (0: at zero), so
    that a short run need not learn frequencies first.
    """

    data: str
    steps: int
    encoder: Mapping[str, Any]
    streams: Mapping[str, StreamConfig]
    objectives: Mapping[str, Mapping]
    name: str = "run"
    seed: int = 0
    init: str = ""
    norm: str = "per_loss_mean"
    accumulate: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000
    keep: int = 3
    count_rows: int = 0
    optimizer: OptimConfig = OptimConfig()
    mesh: mesh_lib.MeshConfig = mesh_lib.MeshConfig()
    evaluate: EvalConfig = EvalConfig()
    divergence: DivergenceConfig = DivergenceConfig()

    def __post_init__(self) -> None:
        """Check the numbers. Raises: ValueError naming the entry."""
        for name in ("steps", "accumulate", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: need at least 1")
        if not self.objectives:
            raise ValueError("objectives is empty: name at least one, such as objectives.mlm")
        if self.init and self.count_rows:
            raise ValueError(
                f"count_rows={self.count_rows} would overwrite the output bias of "
                f"init={self.init!r}: set one of them only"
            )


@dataclass(frozen=True)
class Run:
    """Everything that the loop needs, built and checked.

    `cfg` has its encoder section filled in where the run starts from `init`; `description` is the
    content of model.json; `notes` are lines for the log.
    """

    cfg: RunConfig
    manifest: Manifest
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
    notes: Sequence[str] = ()

    def put(self, batches: Mapping[str, Mapping]) -> dict[str, dict[str, jax.Array]]:
        """Place this process's rows of a step on its devices."""
        return {
            name: mesh_lib.put_batch(
                batch, self.mesh, self.cfg.streams[name].rows, self.source.local[name][0]
            )
            for name, batch in batches.items()
        }

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be continued."""
        return {
            "manifest_sha256": self.manifest.sha256,
            "tokenizer_sha256": self.manifest.tokenizer_sha256,
            "config": dataclasses.asdict(self.cfg),
        }


def make_run(
    cfg: RunConfig, devices: Sequence[jax.Device] | None = None, *, workdir: Path | None = None
) -> Run:
    """Build a run on all devices, or on those given.

    A run with `init` that has a checkpoint in `workdir` is built from there, without `init`.
    Raises: ConfigError (or ManifestError) that says what to type.
    """
    manifest = read_manifest(cfg.data)
    tokenizer = load_tokenizer(Path(cfg.data) / "tokenizer")
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise ConfigError(
            f"{cfg.data}/tokenizer is not the one this data was prepared with: prepare it again"
        )
    start = read_start(cfg.init, cfg.encoder, manifest, workdir) if cfg.init else None
    if start:
        cfg = dataclasses.replace(cfg, encoder=start.entries)
    mesh = mesh_lib.make_mesh(cfg.mesh, devices)
    encoder, encoder_cfg = _make_encoder(cfg, manifest, tokenizer, mesh)
    objectives, weights = _make_objectives(cfg, encoder)
    specials = Specials(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    source = _make_source(cfg, manifest, specials, mesh, objectives)
    fields = {name: set(source.streams[name].fields) for name in cfg.streams}
    check_objectives(objectives, fields, cfg.accumulate)
    optimizer, abstract, init_state = _make_state(cfg, mesh, encoder, objectives, source, start)
    step_cfg = StepConfig(
        weights,
        cfg.norm,
        cfg.accumulate,
        cfg.optimizer.clip_norm,
        make_schedule(cfg.optimizer, cfg.steps),
    )
    step = jax.jit(
        make_train_step(objectives, optimizer, step_cfg),
        donate_argnums=0,
        out_shardings=(
            jax.tree.map(lambda x: x.sharding, abstract),
            mesh_lib.replicated(mesh),
        ),
    )
    setting = EvalSetting(
        manifest,
        specials,
        cfg.streams,
        objectives,
        encoder,
        lambda batch, rows: mesh_lib.put_batch(batch, mesh, rows),
        mesh_lib.replicated(mesh),
    )
    family = cfg.encoder.get("family", "bert")
    return Run(
        cfg,
        manifest,
        mesh,
        encoder,
        encoder_cfg,
        objectives,
        source,
        optimizer,
        step,
        abstract,
        init_state,
        setting,
        describe(manifest, family, encoder_cfg, cfg.objectives, start),
        start.notes if start else (),
    )


def _make_state(
    cfg: RunConfig,
    mesh: Mesh,
    encoder: Encoder,
    objectives: Mapping[str, Objective],
    source: BatchSource,
    start: Start | None,
) -> tuple[optax.GradientTransformation, TrainState, Callable[[], TrainState]]:
    """Return the optimiser, the state's shapes with their shardings, and how to make the first."""
    family = plugin.load("encoders", cfg.encoder.get("family", "bert"))
    encoder_cfg, key = encoder.module.cfg, jax.random.key(cfg.seed)

    def draw_boxed(key):
        params = {"encoder": family.init_params(encoder.module, key)}
        sample = jnp.zeros((1, encoder_cfg.hidden))  # heads take hidden states
        for objective in objectives.values():
            for name, head in objective.heads.items():
                params[name] = head.init(name_key(key, name), sample)["params"]
        return params

    boxed = jax.eval_shape(draw_boxed, key)
    optimizer = make_optimizer(cfg.optimizer, cfg.steps, nn.unbox(boxed))

    def complete(params) -> TrainState:
        aux = {name: o.init_aux(params) for name, o in objectives.items()}
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), aux)

    def draw_state(key, bias_V=None) -> TrainState:
        params = nn.unbox(draw_boxed(key))
        if bias_V is not None:
            params["encoder"] = family.with_output_bias(params["encoder"], bias_V)
        return complete(params)

    shapes = jax.eval_shape(draw_state, key)
    shardings = _state_shardings(shapes, boxed, optimizer, mesh)

    def init_state() -> TrainState:
        if start:
            params = place(start, shardings.params, lambda: nn.unbox(draw_boxed(key)))
            # Without the parameters: handed through, jit would hold them twice.
            rest = jax.jit(
                lambda params: complete(params).replace(params=None),
                out_shardings=shardings.replace(params=None),
            )
            return rest(params).replace(params=params)
        bias_V = (
            log_frequency(source, cfg.count_rows, encoder_cfg.vocab_size)
            if cfg.count_rows
            else None
        )
        return jax.jit(draw_state, out_shardings=shardings)(key, bias_V)

    if start:
        say_what_is_fresh(start, shapes.params)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    return optimizer, abstract, init_state


def log_frequency(source: BatchSource, num_rows: int, vocab_size: int) -> np.ndarray:
    """Count words in the first rows of every stream; return log((n + 1) / total), float32 [V]."""
    count_V = np.ones(vocab_size)
    for stream in source.streams.values():
        batch = stream.rows(0, num_rows)
        count_V += np.bincount(batch["ids"][batch["side"] > 0], minlength=vocab_size)
    return np.log(count_V / count_V.sum()).astype(np.float32)


def _make_encoder(
    cfg: RunConfig, manifest: Manifest, tokenizer: Tokenizer, mesh: Mesh
) -> tuple[Encoder, Any]:
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
    tokens = TokenIds(tokenizer.mask_id, tuple(tokenizer.special_ids))

    def first_layers(params, num: int):
        cut, params = family.first_layers(encoder_cfg, params, num)
        return family.make(cut), params

    shards = mesh_lib.num_batch_shards(mesh)
    encoder = Encoder(family.make(encoder_cfg), tokens, shards, max_unit, first_layers)
    return encoder, encoder_cfg


def _make_objectives(cfg: RunConfig, encoder: Encoder):
    objectives, weights = {}, {}
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


def _make_source(
    cfg: RunConfig, manifest: Manifest, specials: Specials, mesh: Mesh, objectives
) -> BatchSource:
    read = {s for o in objectives.values() for s in o.streams}
    unread = sorted(set(cfg.streams) - read)
    if unread:
        raise ConfigError(
            f"no objective reads stream {unread}: remove config.streams.{unread[0]}, or add an "
            "objective"
        )
    rows = {name: s.rows for name, s in cfg.streams.items()}
    local = {name: mesh_lib.local_rows(mesh, n) for name, n in rows.items()}
    shards = mesh_lib.num_batch_shards(mesh) * cfg.accumulate
    for name, n in rows.items():
        if n % shards:
            raise ConfigError(
                f"config.streams.{name}.rows={n} does not divide into {cfg.accumulate} "
                f"microbatches on {mesh_lib.num_batch_shards(mesh)} shards: set it to a multiple "
                f"of {shards}"
            )
    streams = {
        name: make_stream(manifest, specials, name, s, seed=cfg.seed)
        for name, s in cfg.streams.items()
    }
    return BatchSource(streams, rows, local)


def _state_shardings(shapes: TrainState, boxed, optimizer, mesh: Mesh) -> TrainState:
    params = mesh_lib.param_shardings(boxed, mesh)
    whole = mesh_lib.replicated(mesh)
    # jit(opt.init) alone would put all moments on one device: they live where their parameter
    # lives.
    opt = optax.tree_map_params(
        optimizer, lambda _, s: s, shapes.opt, params, transform_non_params=lambda _: whole
    )
    return TrainState(whole, params, opt, jax.tree.map(lambda _: whole, shapes.aux))
