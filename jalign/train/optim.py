"""Build the optimiser: AdamW with a schedule, clipping, and weight decay by ordered (regex, value)
rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import jax
import optax

from jalign.errors import ConfigError

SCHEDULES = ("linear", "cosine", "constant", "rsqrt")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule.

    `warmup_share`: the share of the run's steps that warm up, in place of `warmup_steps`, where
    epochs say how long the run is. The first rule whose pattern is found in a parameter's path
    gives its decay. `lr_scale`: such rules that multiply the learning rate, 0 to keep a parameter
    as it is; 1 where none is found.
    """

    lr: float = 1e-4
    schedule: str = "linear"
    warmup_steps: int = 0
    warmup_share: float = 0.0
    end_lr: float = 0.0
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    clip_norm: float = 1.0
    decay: tuple[tuple, ...] = ((r"bias$|norm/scale$", 0.0), (r".*", 0.01))
    lr_scale: tuple[tuple, ...] = ()


def path_name(path) -> str:
    """Write a tree path as `encoder/layers/qkv/kernel`."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def make_schedule(cfg: OptimConfig, steps: int) -> optax.Schedule:
    """Return step -> learning rate: linear warm-up, then the schedule down to `end_lr` at `steps`.

    Raises: ConfigError for an unknown schedule, or a warm-up that does not fit the run.
    """
    if cfg.schedule not in SCHEDULES:
        raise ConfigError(
            f"config.optimizer.schedule={cfg.schedule!r}: need one of {', '.join(SCHEDULES)}"
        )
    warmup = warmup_steps(cfg, steps)
    rest = max(steps - warmup, 1)
    main = {
        "linear": lambda: optax.linear_schedule(cfg.lr, cfg.end_lr, rest),
        "cosine": lambda: optax.cosine_decay_schedule(cfg.lr, rest, cfg.end_lr / cfg.lr),
        "constant": lambda: optax.constant_schedule(cfg.lr),
        "rsqrt": lambda: lambda s: cfg.lr * (max(warmup, 1) / (s + max(warmup, 1))) ** 0.5,
    }[cfg.schedule]()
    if not warmup:
        return main
    # Step 0 already learns: (s + 1) / warmup.
    rising = optax.linear_schedule(cfg.lr / warmup, cfg.lr, max(warmup - 1, 1))
    return optax.join_schedules([rising, main], [warmup])


def warmup_steps(cfg: OptimConfig, steps: int) -> int:
    """Return how many steps warm up in a run of `steps`. Raises: ConfigError."""
    if cfg.warmup_share and cfg.warmup_steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps={cfg.warmup_steps} and warmup_share="
            f"{cfg.warmup_share:g} both say how long the warm-up is: set one of them to 0"
        )
    if not 0 <= cfg.warmup_share <= 1:
        raise ConfigError(f"config.optimizer.warmup_share={cfg.warmup_share:g}: need 0 to 1")
    if cfg.warmup_steps > steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps={cfg.warmup_steps} is longer than "
            f"config.steps={steps}: lower it"
        )
    return cfg.warmup_steps or round(cfg.warmup_share * steps)


def decay_values(cfg: OptimConfig, params) -> dict[float, object]:
    """Return {decay value: tree of bools}, by the first rule that matches each path.

    Raises: ConfigError for a rule that decides no parameter, or a parameter that no rule decides.
    """
    used = [False] * len(cfg.decay)

    def value(path, _) -> float:
        name = path_name(path)
        for i, (pattern, decay) in enumerate(cfg.decay):
            if re.search(pattern, name):
                used[i] = True
                return float(decay)
        raise ConfigError(
            f"no rule of config.optimizer.decay matches parameter {name!r}: end with ('.*', value)"
        )

    values = jax.tree_util.tree_map_with_path(value, params)
    for (pattern, _), was_used in zip(cfg.decay, used, strict=True):
        if not was_used:
            names = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise ConfigError(
                f"rule {pattern!r} of config.optimizer.decay decides no parameter; paths look like "
                f"{names[:4]}"
            )
    return {
        v: jax.tree.map(lambda leaf, v=v: leaf == v, values)
        for v in sorted(set(jax.tree.leaves(values)))
    }


def lr_scales(cfg: OptimConfig, params):
    """Return the factor of each parameter's learning rate, by the first rule that matches its path.

    Raises: ConfigError for a rule that decides no parameter.
    """
    used = [False] * len(cfg.lr_scale)

    def factor(path, _) -> float:
        for i, (pattern, value) in enumerate(cfg.lr_scale):
            if re.search(pattern, path_name(path)):
                used[i] = True
                return float(value)
        return 1.0

    factors = jax.tree_util.tree_map_with_path(factor, params)
    for (pattern, _), was_used in zip(cfg.lr_scale, used, strict=True):
        if not was_used:
            raise ConfigError(
                f"rule {pattern!r} of config.optimizer.lr_scale decides no parameter; paths look "
                f"like {[path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)][:4]}"
            )
    return factors


def make_optimizer(cfg: OptimConfig, steps: int, params) -> optax.GradientTransformation:
    """Build AdamW for these (abstract) parameters.

    Gradients must come clipped: see `clip_scale`.
    """
    decays = [
        optax.add_decayed_weights(v, mask) for v, mask in decay_values(cfg, params).items() if v
    ]
    scaled = []
    if cfg.lr_scale:
        factors = lr_scales(cfg, params)
        scaled = [
            optax.stateless(lambda updates, _: jax.tree.map(lambda f, u: f * u, factors, updates))
        ]
    return optax.chain(
        optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.eps),
        *decays,
        optax.scale_by_learning_rate(make_schedule(cfg, steps)),
        *scaled,
    )


def clip_scale(norm: jax.Array, clip_norm: float) -> jax.Array:
    """Return the factor that clips gradients of global norm `norm` to `clip_norm` (0: no
    clipping).
    """
    return (
        jax.numpy.minimum(1.0, clip_norm / jax.numpy.maximum(norm, 1e-12))
        if clip_norm
        else jax.numpy.ones(())
    )
