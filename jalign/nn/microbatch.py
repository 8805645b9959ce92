"""Run a function over microbatches of rows, one after the other, in bounded memory.

What needs the whole batch afterwards, such as a contrast of all its sentences, gets all results;
the backward pass runs the function again for one microbatch at a time. So the gradient is that of
the whole batch, and the activations are those of a microbatch (Gao et al. 2021, GradCache, which
does by hand what `jax.checkpoint` inside a loop does here).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jalign.types import Array, Batch


def split_rows(tree: Any, parts: int) -> Any:
    """Split rows into microbatches [parts, rows / parts, ...]: every parts-th row, so that shards
    keep theirs.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def join_rows(tree: Any) -> Any:
    """Put microbatches [parts, rows / parts, ...] together as the rows were before."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def over_microbatches(fn: Callable[[Batch, Array], Any], batch: Batch, parts: int) -> Any:
    """Return `fn(microbatch, number)` of all microbatches, stacked: [parts, ...].

    With one part nothing is computed twice.
    """
    if parts == 1:
        return jax.tree.map(lambda x: x[None], fn(batch, jnp.zeros((), jnp.int32)))
    # inside a loop nothing can be merged with the first computation: no barrier is needed
    again = jax.checkpoint(fn, prevent_cse=False)
    return jax.lax.map(lambda x: again(*x), (split_rows(batch, parts), jnp.arange(parts)))
