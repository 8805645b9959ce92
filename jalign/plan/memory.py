"""Say what a compiled step keeps in the memory of one chip, by class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax

from jalign.plan.abstract import AbstractRun
from jalign.plan.hlo import Computation, Instruction, Program, Shape


def shard_bytes(tree: Any) -> int:
    """Return the bytes of a tree of shapes with shardings that lie on one chip."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    )


def state_bytes(run: AbstractRun) -> dict[str, int]:
    """Return what a step holds from its start to its end: exact, from shapes and shardings."""
    return {
        "parameters": shard_bytes(run.state.params),
        "optimiser": shard_bytes(run.state.opt),
        "auxiliary": shard_bytes((run.state.step, run.state.aux)),
        "batch": shard_bytes(run.batches),
    }


def memory_classes(run: AbstractRun, program: Program, stats: Any, platform: str) -> dict[str, int]:
    """Return the bytes of one chip by class; their sum is what the step needs at its peak.

    State and batch are exact. The compiler gives all temporaries as one number; of these,
    `activations` are what the loops over layers and over the vocabulary stack up for the backward
    pass, `gradients` what they stack up in the shapes of parameters, and `temporaries` the rest.
    """
    stacked = stacked_bytes(program, run.state.params)
    fresh = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
    temp = stats.temp_size_in_bytes
    if platform == "tpu":
        # Its temp_size adds up heaps that share their place: 18.6 GiB for a step that it let pass
        # on 15.75. Its peak is that of the whole program.
        temp = stats.peak_memory_in_bytes - stats.argument_size_in_bytes - fresh
    activations = min(stacked["activations"], temp)
    gradients = min(stacked["gradients"], temp - activations)
    return state_bytes(run) | {
        "activations": activations,
        "gradients": gradients,
        "temporaries": temp - activations - gradients,
        "outputs": fresh,
        "program": stats.generated_code_size_in_bytes,
    }


def stacked_bytes(program: Program, params: Any) -> dict[str, int]:
    """Sum up what the program's loops write one slice per turn, by what it is."""
    shards = {Shape("f32", x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(params)}
    sums = {"activations": 0, "gradients": 0}
    for loop, _, _, _ in program.walk():  # those of the layers may be inside that of microbatches
        if loop.opcode == "while":
            trips = program.trips(loop)
            body = program.computations[loop.attribute("body").lstrip("%")]
            for shape in _written(body, trips):
                sums["gradients" if shape in shards else "activations"] += shape.bytes
    return sums


def _written(body: Computation, trips: int) -> list[Shape]:
    """Return the arrays of a loop's state that have a slice per turn and change."""
    found = []
    for index, value in enumerate(body.operands(body.root)):
        shape = value.shapes[0] if value.shapes else None
        if shape is None or trips < 2 or not shape.sizes or shape.sizes[0] != trips:
            continue
        if not _is_handed_on(value, index, body):
            found.append(shape)
    return found


def _is_handed_on(value: Instruction, index: int, body: Computation) -> bool:
    """Tell whether a loop hands on element `index` of its state as it came."""
    while value.opcode in ("bitcast", "copy") and value.operands:
        value = body.by_name[value.operands[0]]
    return value.opcode == "get-tuple-element" and value.attribute("index") == str(index)


def total(classes: Mapping[str, int]) -> int:
    """Return the bytes of all classes."""
    return sum(classes.values())
