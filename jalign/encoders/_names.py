"""Relate a family's parameters to the tensor names of Hugging Face: one table, read both ways.

In: a table of `Name`s, and parameters or a way to read tensors. Out: tensors or parameters. The two
directions are exact inverses: they only move numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Form(NamedTuple):
    """How the arrays of one entry relate: theirs (a list) to ours, and back."""

    to_ours: Callable[[list[np.ndarray]], np.ndarray]
    to_theirs: Callable[[np.ndarray], list[np.ndarray]]


SAME = Form(lambda theirs: theirs[0], lambda ours: [ours])
KERNEL = Form(lambda theirs: theirs[0].T, lambda ours: [ours.T])  # [out, in] <-> [in, out]
JOINED_KERNEL = Form(  # n x [out, in] <-> [in, n, out]
    lambda theirs: np.stack([w.T for w in theirs], axis=1),
    lambda ours: [ours[:, i].T for i in range(ours.shape[1])],
)
JOINED_BIAS = Form(lambda theirs: np.stack(theirs), list)  # n x [out] <-> [n, out]


def fused_kernel(parts: int) -> Form:
    """One kernel [parts x out, in] of theirs <-> [in, parts, out] of ours."""
    return Form(
        lambda theirs: theirs[0].reshape(parts, -1, theirs[0].shape[1]).transpose(2, 0, 1),
        lambda ours: [ours.transpose(1, 2, 0).reshape(-1, ours.shape[0])],
    )


class Name(NamedTuple):
    """One entry: our path, the tensors it is made of, and how.

    With `layers`, `{y}` in their names runs over these numbers, stacked on our first axis.
    """

    ours: str
    theirs: tuple[str, ...]
    form: Form = SAME
    layers: tuple[int, ...] | None = None

    def groups(self) -> Iterator[list[str]]:
        """Yield the names of the tensors of each layer, or of the one group without layers."""
        if self.layers is None:
            yield list(self.theirs)
        else:
            for y in self.layers:
                yield [name.replace("{y}", str(y)) for name in self.theirs]


def to_hf(names: Sequence[Name], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors of Hugging Face by name; views of the parameters where that is possible.

    Works on `np.broadcast_to(0, shape)` as well, which costs no memory: so shapes are foretold.
    """
    tensors: dict[str, np.ndarray] = {}
    for entry in names:
        ours = _get(params, entry.ours)
        per_layer = [ours] if entry.layers is None else list(ours)
        for group, array in zip(entry.groups(), per_layer, strict=True):
            tensors |= zip(group, entry.form.to_theirs(np.asarray(array)), strict=True)
    return tensors


def from_hf(names: Sequence[Name], read: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """Build the parameters from `read(name)`, which returns a float32 tensor of Hugging Face."""
    params: dict[str, Any] = {}
    for entry in names:
        arrays = [entry.form.to_ours([read(name) for name in group]) for group in entry.groups()]
        ours = arrays[0] if entry.layers is None else np.stack(arrays)
        _put(params, entry.ours, np.ascontiguousarray(ours))
    return params


def foretell(names: Sequence[Name], shapes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of Hugging Face from a tree of things with `.shape`."""
    paths = {entry.ours: _get(shapes, entry.ours).shape for entry in names}
    empty: dict[str, Any] = {}
    for path, shape in paths.items():
        _put(empty, path, np.broadcast_to(np.float32(0), shape))
    return {name: tensor.shape for name, tensor in to_hf(names, empty).items()}


def _get(tree: Mapping[str, Any], path: str) -> Any:
    for part in path.split("/"):
        tree = tree[part]
    return tree


def _put(tree: dict[str, Any], path: str, value: np.ndarray) -> None:
    *folders, last = path.split("/")
    for part in folders:
        tree = tree.setdefault(part, {})
    tree[last] = value
