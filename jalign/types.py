"""Hold the central types: what a batch, a loss and an objective are, and the letters of array
shapes.

Arrays end in their shape letters (`h_BLD`); scalars and pytrees have none.

| letter | axis | letter | axis |
| --- | --- | --- | --- |
| B | rows of the batch | V | vocabulary |
| L | slots of a row | P | gathered (masked) positions |
| N | B x L slots, or P positions, flattened | E | examples (or sentences) of a row |
| D | hidden size | A | word links of a row |
| H | attention heads | G | gather groups (one per shard of the batch) |
| K | size of a head | Y | layers |
| F | size of the MLP | C | a chunk of an axis |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax import struct

Array = jax.Array
Params = Any
Aux = Any
Key = jax.Array
Batch = Mapping[str, Array]  # the packed fields of one stream, architecture section 4
Batches = Mapping[str, Batch]  # one batch per stream: "mono", "pair", "task"


@struct.dataclass
class Mean:
    """A sum and its count, merged before dividing: padding, hosts and microbatches cannot bias
    it.
    """

    total: Array
    count: Array

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)


@struct.dataclass
class Loss:
    """A loss as (sum, count), its metrics as means, and what `update_aux` needs afterwards."""

    total: Array
    count: Array
    metrics: dict[str, Mean]
    carry: Any = ()


@struct.dataclass
class TrainState:
    """All that a step changes. PRNG keys are not in here: they are `fold_in(seed, step)`."""

    step: Array
    params: Params
    opt: Any
    aux: Any


def no_aux(params: Params) -> Aux:
    """Return the empty auxiliary state of an objective that keeps none."""
    del params
    return {}


def keep_aux(aux: Aux, params: Params, carry: Any) -> Aux:
    """Return the auxiliary state unchanged."""
    del params, carry
    return aux


class Objective(NamedTuple):
    """What `make(cfg, encoder)` of `objectives/<name>.py` returns.

    `loss(params, aux, batches, key)` is pure and gets the batches of `streams`; `key=None` means
    evaluation. `parts` names losses that share their passes: `loss` then returns one Loss for each,
    with weights of their own. `splits=False` says that its negatives are the whole batch: gradient
    accumulation may not split it; with `splits_itself` it runs its passes over `Encoder.accumulate`
    microbatches itself. `frozen` names a model whose encoder `init_aux` gets in place of the run's
    own. `init_heads` gives those heads whose first values are made of the encoder's.
    """

    streams: tuple[str, ...]
    reads: tuple[str, ...]
    loss: Callable[[Params, Aux, Batches, Key | None], Loss | Mapping[str, Loss]]
    heads: Mapping[str, nn.Module] = {}
    init_aux: Callable[[Params], Aux] = no_aux
    update_aux: Callable[[Aux, Params, Any], Aux] = keep_aux
    splits: bool = True
    splits_itself: bool = False
    parts: tuple[str, ...] = ()
    frozen: str = ""
    init_heads: Callable[[Params], Params] = no_aux

    def names(self, name: str) -> tuple[str, ...]:
        """Return the names of its losses where the objective is called `name`."""
        return tuple(f"{name}.{part}" for part in self.parts) or (name,)

    def losses(self, name: str, *args: Any) -> dict[str, Loss]:
        """Return what `loss(*args)` returns, by `names(name)`."""
        found = self.loss(*args)
        return {f"{name}.{p}": found[p] for p in self.parts} if self.parts else {name: found}


class TokenIds(NamedTuple):
    """What an objective must know of the tokenizer: the mask id and all special ids, never masked
    nor drawn.
    """

    mask: int
    specials: tuple[int, ...]


class Encoder(NamedTuple):
    """What every objective builds on: the Linen module and the static facts of the run around it.

    `module` has the methods `__call__` (hidden states), `transform` (masked-LM transform), `output`
    (table, bias) and `table` (word embeddings). `num_groups`: shards of the batch axis, so that
    gathering positions stays inside a shard. `max_unit`: longest attention unit of each stream, for
    attention forms that profit from it. `first_layers(params, num)`: the module that ends after
    layer `num` and its parameters; `last_layers`: likewise that of the last layers, which starts
    from `states_BLD`; None where a family has none. `labels`: the classes of each labelled stream,
    in the order of their numbers. `layouts`: of each stream; `languages`: in the order of the
    numbers in `lang`; `tokenizer_sha256`: what files of ids must be of. `accumulate`: microbatches
    of a step.
    `top_queries(params, h, position)`: queries and keys of the last layer, from the states that
    enter it.
    """

    module: nn.Module
    tokens: TokenIds
    num_groups: int = 1
    max_unit: Mapping[str, int] = {}
    first_layers: Callable[[Params, int], tuple[nn.Module, Params]] | None = None
    last_layers: Callable[[Params, int], tuple[nn.Module, Params]] | None = None
    labels: Mapping[str, tuple[str, ...]] = {}
    layouts: Mapping[str, str] = {}
    languages: tuple[str, ...] = ()
    tokenizer_sha256: str = ""
    accumulate: int = 1
    top_queries: Callable[[Params, Array, Array], tuple[Array, Array]] | None = None


class Result(NamedTuple):
    """One score of an evaluation; `lang` is a language, a pair such as `en-de`, or `avg`; `n` its
    examples.
    """

    task: str
    lang: str
    metric: str
    value: float
    n: int


class EvalSetting(NamedTuple):
    """What an evaluation gets to work with; `put(batch, rows)` places a host batch on the run's
    devices. `workdir`: where the run writes, None where it writes nowhere.
    """

    manifest: Any
    specials: Any
    streams: Mapping[str, Any]
    objectives: Mapping[str, Objective]
    encoder: Encoder
    put: Callable[[Mapping[str, Any], int], dict[str, Array]]
    replicated: Any
    tokenizer: Any = None
    workdir: Path | None = None
