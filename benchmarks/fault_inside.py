"""Faults that happen inside a run: each function is called in the new process before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable

BAD_BATCH = 40  # what is wrong with it is so however often it comes


def _poison(change: Callable) -> None:
    """Change the losses of one batch: `change(is_bad, loss) -> loss`, traced into the step."""
    import jax.numpy as jnp

    from jalign.types import Objective

    losses_of = Objective.losses

    def losses(self, name, params, aux, batches, key):
        found = losses_of(self, name, params, aux, batches, key)
        pair = batches["pair"]["row"]
        bad = jnp.any(pair // pair.shape[0] == BAD_BATCH)
        return {n: change(bad, loss) for n, loss in found.items()}

    Objective.losses = losses


def nan_in_loss() -> None:
    """One batch's loss is NaN."""
    import jax.numpy as jnp

    _poison(lambda bad, loss: loss.replace(total=jnp.where(bad, jnp.nan, loss.total)))


def nan_in_gradient() -> None:
    """One batch's loss is finite, its gradient is not."""
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def pass_on(x, bad):
        return x

    def forward(x, bad):
        return x, bad

    def backward(bad, g):
        return jnp.where(bad, jnp.nan, g), None

    pass_on.defvjp(forward, backward)
    _poison(lambda bad, loss: loss.replace(total=pass_on(loss.total, bad)))


def nan_in_parameter() -> None:
    """Once, at the 41st step of the process, one number of one parameter becomes NaN."""
    import jax

    from jalign.train import loop

    compile_step = loop._compile

    def compiled(*args):
        step, calls = compile_step(*args), []

        def call(state, batch, key):
            calls.append(1)
            if len(calls) == BAD_BATCH + 1:
                leaves, tree = jax.tree.flatten(state.params)
                broken = leaves[0].at[(0,) * leaves[0].ndim].set(float("nan"))
                leaves[0] = jax.device_put(broken, leaves[0].sharding)
                state = state.replace(params=jax.tree.unflatten(tree, leaves))
            return step(state, batch, key)

        return call

    loop._compile = compiled


def slow_batch() -> None:
    """One batch takes four seconds to come."""
    _at_batch(lambda: time.sleep(4))


def broken_loader() -> None:
    """The loader's thread fails at one batch."""

    def fail() -> None:
        raise OSError(5, "Input/output error")

    _at_batch(fail)


def _at_batch(act: Callable[[], None]) -> None:
    from jalign.data.pipeline import BatchSource

    batch_of_step = BatchSource.__getitem__

    def get(self, step):
        if step == BAD_BATCH:
            act()
        return batch_of_step(self, step)

    BatchSource.__getitem__ = get


def slow_storage() -> None:
    """Every save takes a second and a half longer than it would: longer than the interval."""
    from jalign.train import checkpoint

    write_hashes = checkpoint.write_hashes

    def slow(*args, **kwargs) -> None:
        time.sleep(1.5)
        write_hashes(*args, **kwargs)

    checkpoint.write_hashes = slow
