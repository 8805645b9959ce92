"""Time our own train step on packed rows: one competitor of train_step.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks import bitext
from benchmarks.race import Stopwatch
from benchmarks.train_step import Settings, worker_settings
from jalign.encoders import bert
from jalign.objectives import tlm
from jalign.train.optim import OptimConfig, make_optimizer, make_schedule
from jalign.train.step import StepConfig, make_train_step
from jalign.types import Encoder, TokenIds, TrainState


def build(settings: Settings):
    """Return the jitted step and its first state."""
    cfg = bert.Config(
        vocab_size=settings.vocab,
        hidden=settings.hidden,
        layers=settings.layers,
        heads=settings.heads,
        mlp=settings.mlp,
        max_positions=settings.max_positions,
        dropout=settings.dropout,
        attention_dropout=settings.dropout,
        unroll=0 if settings.unroll else 1,
    )
    tokens = TokenIds(mask=settings.vocab - 1, specials=(*bitext.SPECIALS, settings.vocab - 1))
    module = bert.make(cfg)
    encoder = Encoder(module, tokens, max_unit={"pair": settings.max_pair})
    params = {
        "encoder": jax.jit(
            lambda key: jax.tree.map(
                lambda x: x.unbox() if hasattr(x, "unbox") else x,
                bert.init_params(module, key),
                is_leaf=lambda x: hasattr(x, "unbox"),
            )
        )(jax.random.key(0))
    }
    optim = OptimConfig(lr=1e-4, schedule="constant")
    optimizer = make_optimizer(optim, 1000, params)
    step_cfg = StepConfig(
        weights={"tlm": lambda step: jnp.ones(())}, schedule=make_schedule(optim, 1000)
    )
    objectives = {"tlm": tlm.make(tlm.Config(rate=settings.rate), encoder)}
    step = jax.jit(make_train_step(objectives, optimizer, step_cfg), donate_argnums=0)
    return step, TrainState(
        jnp.zeros((), jnp.int32), params, jax.jit(optimizer.init)(params), {"tlm": {}}
    )


def main() -> None:
    """Warm up, time the steps, print them."""
    settings, _ = worker_settings()
    steps = settings.steps_of_pairs()
    batches = [{"pair": bitext.pack(s, settings.rows, settings.length)} for s in steps]
    step, state = build(settings)
    key = jax.random.key(settings.seed)
    losses, watch = [], Stopwatch()

    def run(batch) -> None:
        nonlocal state
        state, out = step(state, batch, key)
        jax.block_until_ready(state)
        losses.append(float(out.loss))

    for _ in range(2):
        run(batches[0])
    for sentences, batch in zip(steps, batches, strict=True):
        watch.time(sentences.num_tokens, lambda batch=batch: run(batch))
    slots = settings.rows * settings.length * len(steps)
    watch.finish(loss=losses[-1], fill=sum(s.num_tokens for s in steps) / slots)


if __name__ == "__main__":
    main()
