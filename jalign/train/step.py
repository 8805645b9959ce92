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
from jalign.nn.microbatch import split_rows
from jalign.train.optim import clip_scale
from jalign.types import Array, Batches, Key, Loss, Mean, Objective, Params, TrainState

NORMS = ("per_loss_mean", "global_count")


@dataclass(frozen=True)
class StepConfig:
    """How losses are put together.

    `weights`: step -> weight of each loss, by `Objective.names`. `norm`: "per_loss_mean" adds
    weight x mean of each loss; "global_count" divides the weighted sum of all totals by the sum of
    all counts (fairseq, methods.md 1.4). `accumulate`: microbatches per step.
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
        if accumulate > 1 and not objective.splits and not objective.splits_itself:
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
        losses: dict[str, Loss] = {}
        for name, o in objectives.items():
            aux = state.aux.get(name, {})
            losses |= o.losses(name, params, aux, batches, name_key(key, name))
        return _combine(losses, weights, cfg.norm), losses

    (_, losses), grads = jax.value_and_grad(total, has_aux=True)(state.params)
    return grads, losses


def _grads_in_parts(
    objectives, cfg: StepConfig, state: TrainState, batches: Batches, key: Key, weights
):
    """Accumulate sums over microbatches, objective by objective, and divide by the whole batch's
    counts at the end.

    Equal to the big batch: the masks depend on rows only, and totals and counts are summed before
    dividing. Losses that share a pass take a backward pass each, unless they share the count too.
    An objective that splits itself gets the whole batch.
    """
    parts = split_rows(batches, cfg.accumulate)
    sums, losses = {}, {}
    for name, objective in objectives.items():
        names = objective.names(name)
        together = cfg.norm == "global_count" and len(names) > 1
        pulls = [jnp.stack([weights[n] for n in names])] if together else list(jnp.eye(len(names)))
        aux, objective_key = state.aux.get(name, {}), name_key(key, name)

        def totals(params, part, objective=objective, name=name, aux=aux, key=objective_key):
            found = objective.losses(name, params, aux, part, key)
            return jnp.stack([loss.total for loss in found.values()]), found

        if objective.splits_itself:
            _, pull, found = jax.vjp(lambda p: totals(p, batches), state.params, has_aux=True)
            weight_N = [weights[n] / _own_count(found[n], cfg.norm) for n in names]
            sums[names[0]] = (1.0, jnp.ones(()), pull(jnp.stack(weight_N))[0])
            losses |= found
            continue

        def grads_of(params, part, totals=totals, pulls=pulls):
            _, pull, found = jax.vjp(lambda p: totals(p, part), params, has_aux=True)
            return [pull(cotangent)[0] for cotangent in pulls], found

        def body(carry, part, grads_of=grads_of):
            return jax.tree.map(jnp.add, carry, grads_of(state.params, part)), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(grads_of, state.params, first)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (grads, found), _ = jax.lax.scan(body, zero, parts)
        if together:
            sums[names[0]] = (1.0, jnp.ones(()), grads[0])
        else:
            rest = zip(names, grads, strict=True)
            sums |= {n: (weights[n], _own_count(found[n], cfg.norm), grad) for n, grad in rest}
        losses |= found
    everything = sum(loss.count for loss in losses.values())
    shared = jnp.maximum(everything, 1.0) if cfg.norm == "global_count" else jnp.ones(())
    return _divide(sums, shared), losses


def _own_count(loss: Loss, norm: str) -> Array:
    """Return what a loss is divided by before all are divided by what they share."""
    return jnp.ones(()) if norm == "global_count" else jnp.maximum(loss.count, 1.0)


def _divide(sums: Mapping[str, tuple], shared: Array) -> Params:
    """Add weight x summed gradient / (own count x shared count) over the losses."""
    grads = None
    for weight, count, total in sums.values():
        scale = weight / (count * shared)
        scaled = jax.tree.map(lambda g, s=scale: g * s, total)
        grads = scaled if grads is None else jax.tree.map(jnp.add, grads, scaled)
    return grads


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
        weights = {name: weight(state.step) for name, weight in cfg.weights.items()}
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
            n: o.update_aux(state.aux.get(n, {}), params, _carry(o, n, losses))
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


def _carry(objective: Objective, name: str, losses: Mapping[str, Loss]):
    """Return what an objective's losses carry: by part where it has parts."""
    if not objective.parts:
        return losses[name].carry
    return {part: losses[f"{name}.{part}"].carry for part in objective.parts}
