"""Build the jitted train step: any mix of objectives, one optimiser step.

In: objectives by name, weights, optimiser. Out: `step(state, batches, key) -> (state, StepOutput)`,
pure. The keys are `fold_in(fold_in(seed, step), objective)`. A step whose loss or gradient is not
finite changes nothing and says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jalign.errors import ConfigError
from jalign.train.optim import clip_scale
from jalign.types import Array, Batches, Key, Loss, Mean, Objective, Params, TrainState

NORMS = ("per_loss_mean", "global_count")


@dataclass(frozen=True)
class StepConfig:
    """How losses are put together.

    `weights`: step -> weight of each objective. `norm`: "per_loss_mean" adds weight x mean of each
    loss; "global_count" divides the weighted sum of all totals by the sum of all counts (fairseq,
    methods.md 1.4). `accumulate`: microbatches per step.
    """

    weights: Mapping[str, Callable[[Array], Array]]
    norm: str = "per_loss_mean"
    accumulate: int = 1
    clip_norm: float = 1.0
    schedule: Callable[[Array], Array] = field(default=lambda step: jnp.zeros(()))


@struct.dataclass
class StepOutput:
    """What a step reports: scalars, and means by name."""

    loss: Array
    grad_norm: Array
    lr: Array
    finite: Array
    losses: dict[str, Mean]
    metrics: dict[str, Mean]


def name_key(key: Key, name: str) -> Key:
    """Fold a name into a key: an objective's randomness does not depend on which others run beside
    it.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def check_objectives(
    objectives: Mapping[str, Objective], fields: Mapping[str, set[str]], accumulate: int
) -> None:
    """Check that the streams carry what the objectives read, before anything compiles.

    Raises: ConfigError naming objective, stream and field.
    """
    for name, objective in objectives.items():
        for stream in objective.streams:
            if stream not in fields:
                raise ConfigError(
                    f"objective {name!r} reads stream {stream!r}, and the config has "
                    f"{sorted(fields)}: add config.streams.{stream} or set "
                    f"config.objectives.{name}.stream"
                )
            missing = set(objective.reads) - fields[stream]
            if missing:
                raise ConfigError(
                    f"objective {name!r} reads {sorted(missing)}, but stream {stream!r} carries "
                    f"{sorted(fields[stream])}; set config.objectives.{name}.stream to one that "
                    "has them"
                )
        if accumulate > 1 and not objective.splits:
            raise ConfigError(
                f"objective {name!r} contrasts the whole batch, so config.accumulate={accumulate} "
                "would change it: set config.accumulate=1"
            )


def _combine(losses: Mapping[str, Loss], weights: Mapping[str, Array], norm: str) -> Array:
    if norm == "global_count":
        count = sum(loss.count for loss in losses.values())
        return sum(weights[n] * loss.total for n, loss in losses.items()) / jnp.maximum(count, 1.0)
    return sum(weights[n] * loss.total / jnp.maximum(loss.count, 1.0) for n, loss in losses.items())


def _grads_at_once(
    objectives, cfg: StepConfig, state: TrainState, batches: Batches, key: Key, weights
):
    """One backward pass for the sum of all objectives."""

    def total(params: Params):
        losses = {
            name: o.loss(params, state.aux.get(name, {}), batches, name_key(key, name))
            for name, o in objectives.items()
        }
        return _combine(losses, weights, cfg.norm), losses

    (_, losses), grads = jax.value_and_grad(total, has_aux=True)(state.params)
    return grads, losses


def _split(batches: Batches, parts: int) -> Batches:
    """Split rows into microbatches [parts, rows / parts, ...]: every parts-th row, so that shards
    keep theirs.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batches)


def _grads_in_parts(
    objectives, cfg: StepConfig, state: TrainState, batches: Batches, key: Key, weights
):
    """Accumulate sums over microbatches, objective by objective, and divide by the whole batch's
    counts at the end.

    Equal to the big batch: the masks depend on rows only, and totals and counts are summed before
    dividing.
    """
    parts = _split(batches, cfg.accumulate)
    grads, losses, sums = None, {}, {}
    for name, objective in objectives.items():
        aux, objective_key = state.aux.get(name, {}), name_key(key, name)

        def total(params, part, objective=objective, aux=aux, objective_key=objective_key):
            loss = objective.loss(params, aux, part, objective_key)
            return loss.total, loss

        grad_of = jax.value_and_grad(total, has_aux=True)

        def body(carry, part, grad_of=grad_of):
            (_, loss), grad = grad_of(state.params, part)
            return jax.tree.map(jnp.add, carry, (grad, loss)), None

        first = jax.tree.map(lambda x: x[0], parts)
        zero = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(
                lambda p, b, g=grad_of: (g(p, b)[1], g(p, b)[0][1]), state.params, first
            ),
        )
        (sums[name], losses[name]), _ = jax.lax.scan(body, zero, parts)
    counts = {n: loss.count for n, loss in losses.items()}
    everything = sum(counts.values())
    for name in objectives:
        count = everything if cfg.norm == "global_count" else counts[name]
        scale = weights[name] / jnp.maximum(count, 1.0)
        scaled = jax.tree.map(lambda g, s=scale: g * s, sums[name])
        grads = scaled if grads is None else jax.tree.map(jnp.add, grads, scaled)
    return grads, losses


def make_train_step(
    objectives: Mapping[str, Objective], optimizer: optax.GradientTransformation, cfg: StepConfig
):
    """Return the pure step function; the caller jits it with shardings and donates the state.

    Raises: ConfigError for an unknown norm.
    """
    if cfg.norm not in NORMS:
        raise ConfigError(f"config.norm={cfg.norm!r}: need one of {', '.join(NORMS)}")
    grads_of = _grads_in_parts if cfg.accumulate > 1 else _grads_at_once

    def step(state: TrainState, batches: Batches, key: Key) -> tuple[TrainState, StepOutput]:
        weights = {name: cfg.weights[name](state.step) for name in objectives}
        key = jax.random.fold_in(key, state.step)
        grads, losses = grads_of(objectives, cfg, state, batches, key, weights)
        loss = _combine(losses, weights, cfg.norm)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        scale = clip_scale(norm, cfg.clip_norm)
        updates, opt = optimizer.update(
            jax.tree.map(lambda g: g * scale, grads), state.opt, state.params
        )
        params = optax.apply_updates(state.params, updates)
        aux = {
            n: o.update_aux(state.aux.get(n, {}), params, losses[n].carry)
            for n, o in objectives.items()
        }
        new = TrainState(state.step + 1, params, opt, aux)
        new = jax.tree.map(lambda fresh, old: jnp.where(finite, fresh, old), new, state)
        metrics = {
            f"{n}/{k}": mean for n, loss_n in losses.items() for k, mean in loss_n.metrics.items()
        }
        means = {n: Mean(loss_n.total, loss_n.count) for n, loss_n in losses.items()}
        return new, StepOutput(loss, norm, cfg.schedule(state.step), finite, means, metrics)

    return step
