"""Search exactly for the nearest vectors of two sets, both ways at once, in blocks on all devices.

In: two sets of vectors, memory-mapped files too. Out: for every row of either set its K nearest of
the other. A block of products is made once and serves both directions; beside it only the K best so
far of each row are kept, so that memory does not grow with N x M.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jalign.metrics.retrieval import Neighbours
from jalign.types import Array

_AXIS = "rows"
_LOW = -1e30  # of padding; finite, so that 0 x _LOW is 0
_WIDTH = 8  # a vector's width is padded to a multiple: two more columns hold offsets and padding
Best = tuple[Array, Array]  # similarities and indices, [rows, K] each, best first


@dataclass(frozen=True)
class Blocks:
    """How much is on a device at once: a block of `rows` x `columns` products; `resident` source
    rows (a multiple of `rows`) stay while all targets pass by.
    """

    rows: int
    columns: int
    resident: int


# CPU: products of 32 MiB; benchmarks/mining.py says how fast. Other sizes were not compared.
# Others: products of 256 MiB, and few passes over the targets, which come through the host.
CPU = Blocks(2048, 4096, 1 << 14)
ACCELERATOR = Blocks(8192, 8192, 1 << 17)


class Search:
    """A search in the making: `advance` until it is `done`, then read `result`.

    Neighbours are by inner product, of vectors scaled to length 1 where `cosine`, plus the
    `offsets` of both rows. Nearest first; of equal float32 similarities the lower index. (Equal
    vectors in different blocks may differ in the last bit where a matrix product adds in another
    order there; the same machine and blocks always give the same.)
    """

    def __init__(
        self,
        src_ND: np.ndarray,
        trg_MD: np.ndarray,
        num: int,
        *,
        offsets: tuple[np.ndarray, np.ndarray] | None = None,
        cosine: bool = True,
        blocks: Blocks | None = None,
        devices: Sequence[jax.Device] | None = None,
        on_block: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Take both sides; `on_block` hears which share is done. Raises: ValueError where nothing
        can be found.
        """
        if src_ND.ndim != 2 or trg_MD.ndim != 2 or src_ND.shape[1] != trg_MD.shape[1]:
            raise ValueError(f"need [N, D] and [M, D]; got {src_ND.shape} and {trg_MD.shape}")
        if num < 1 or not len(src_ND) or not len(trg_MD):
            raise ValueError("need at least one neighbour and one row to search")
        devices = list(devices or jax.local_devices())
        self.num, self.cosine, self.on_block = num, cosine, on_block
        self.sides = src_ND, trg_MD
        self.offsets = offsets or (None, None)
        given = blocks or (CPU if devices[0].platform == "cpu" else ACCELERATOR)
        self.blocks = _fit(given, len(src_ND), len(trg_MD), num, len(devices))
        self.mesh = Mesh(np.array(devices), (_AXIS,))
        self.num_done = 0
        found = min(num, len(trg_MD))
        self._to_trg = Neighbours(
            np.zeros((len(src_ND), found), np.float32), np.zeros((len(src_ND), found), np.int32)
        )
        num_blocks = -(-len(trg_MD) // self.blocks.columns)
        shape = (len(devices), self.blocks.columns, num)
        self._to_src = [self._nothing(shape) for _ in range(num_blocks)]

    @property
    def done(self) -> bool:
        """Tell whether every source row has been compared with every target."""
        return self.num_done >= len(self.sides[0])

    def advance(self) -> None:
        """Compare the next resident source rows with all targets."""
        with jax.set_mesh(self.mesh):  # a training run that evaluates has set its own
            self._advance()

    def _advance(self) -> None:
        size, step = self.blocks.rows * self.mesh.size, _step(self.mesh, self.num)
        first = self.num_done
        last = min(first + self.blocks.resident * self.mesh.size, len(self.sides[0]))
        starts = range(first, last, size)
        rows_QD = [self._put(self._block(0, at, size), P(_AXIS)) for at in starts]
        best = [self._nothing((size, self.num)) for _ in starts]
        for number, before in enumerate(self._to_src):
            at = number * self.blocks.columns
            columns_CD = self._put(_spread(self._block(1, at, self.blocks.columns), self.num), P())
            for i, start in enumerate(starts):
                best[i], before = step(rows_QD[i], columns_CD, best[i], before, start, at)
            self._to_src[number] = before
            # one block of columns is made while the other is searched, and no more wait in memory
            jax.block_until_ready(self._to_src[max(0, number - 1)])
            self._report(first, last, (number + 1) / len(self._to_src))
        for start, pair in zip(starts, best, strict=True):
            end = min(start + size, last)
            for column, found in zip(self._to_trg, pair, strict=True):
                column[start:end] = np.asarray(found)[: end - start, : column.shape[1]]
        self.num_done = last

    def result(self) -> tuple[Neighbours, Neighbours]:
        """Return the targets near each source, and the sources near each target."""
        merged = [self._merged(pair) for pair in self._to_src]
        num = min(self.num, len(self.sides[0]))
        to_src = (np.concatenate(column)[: len(self.sides[1]), :num] for column in zip(*merged))  # noqa: B905
        return self._to_trg, Neighbours(*to_src)

    def state(self) -> dict[str, np.ndarray]:
        """Return what a search that was stopped goes on from."""
        to_src = (np.stack([np.asarray(x) for x in column]) for column in zip(*self._to_src))  # noqa: B905
        shape = [*self.sides[0].shape, *self.sides[1].shape, self.num, self.mesh.size]
        shape += [self.blocks.rows, self.blocks.columns]
        names = ("src_sim", "src_index", "trg_sim", "trg_index")
        arrays = (*(x[: self.num_done] for x in self._to_trg), *to_src)
        return {
            "num_done": np.array(self.num_done),
            "shape": np.array(shape),
            **dict(zip(names, arrays, strict=True)),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> bool:
        """Go on from a state; False, and nothing happens, where it is of other shapes or blocks."""
        if not np.array_equal(state["shape"], self.state()["shape"]):
            return False
        self.num_done = int(state["num_done"])
        for column, name in zip(self._to_trg, ("src_sim", "src_index"), strict=True):
            column[: self.num_done] = state[name]
        pairs = zip(state["trg_sim"], state["trg_index"], strict=True)
        self._to_src = [tuple(self._put(x, P(_AXIS)) for x in pair) for pair in pairs]
        return True

    def _block(self, side: int, first: int, size: int) -> np.ndarray:
        """Return rows as [size, width]: the vector, two columns for offsets, padding.

        The product of a source's (offset, 1) and a target's (1, offset) adds both offsets to the
        similarity; that of padding is so low that it is never found.
        """
        array, offset = self.sides[side], self.offsets[side]
        part = np.asarray(array[first : first + size], np.float32)
        if self.cosine:
            part = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        dim = part.shape[1]
        out = np.zeros((size, -(-(dim + 2) // _WIDTH) * _WIDTH), np.float32)
        out[: len(part), :dim] = part
        own, other = (dim, dim + 1) if side == 0 else (dim + 1, dim)
        out[:, other] = 1.0
        out[len(part) :, own] = _LOW
        if offset is not None:
            out[: len(part), own] = offset[first : first + size]
        return out

    def _merged(self, pair: Best) -> tuple[np.ndarray, np.ndarray]:
        """Merge what each device found for a block of columns, and put these in order."""
        sim_CK, index_CK = (np.concatenate(np.asarray(x), axis=1) for x in pair)
        by_index = np.argsort(index_CK, axis=1, kind="stable")
        sim_CK, index_CK = (np.take_along_axis(x, by_index, 1) for x in (sim_CK, index_CK))
        order = np.argsort(-sim_CK, axis=1, kind="stable")[:, : self.num]
        sim_CK, index_CK = (np.take_along_axis(x, order, 1) for x in (sim_CK, index_CK))
        return tuple(_gather(x, self.num) for x in (sim_CK, index_CK))

    def _nothing(self, shape: tuple[int, ...]) -> Best:
        low, none = np.full(shape, 2 * _LOW, np.float32), np.full(shape, -1, np.int32)
        return self._put(low, P(_AXIS)), self._put(none, P(_AXIS))

    def _put(self, x: np.ndarray, spec: P) -> Array:
        return jax.device_put(x, NamedSharding(self.mesh, spec))

    def _report(self, first: int, last: int, share: float) -> None:
        self.on_block((first + (last - first) * share) / len(self.sides[0]))


def nearest_both(
    src_ND: np.ndarray, trg_MD: np.ndarray, num: int, **options: object
) -> tuple[Neighbours, Neighbours]:
    """Return the `num` nearest targets of each source and the other way round (all of them where
    there are fewer); the options are those of Search.
    """
    search = Search(src_ND, trg_MD, num, **options)
    while not search.done:
        search.advance()
    return search.result()


def _fit(given: Blocks, num_src: int, num_trg: int, num: int, num_devices: int) -> Blocks:
    """Make blocks no larger than the sides, of sizes that are powers of two."""
    rows = _power(max(num, min(given.rows, -(-num_src // num_devices))))
    columns = _power(max(num, min(given.columns, num_trg)))
    return Blocks(rows, columns, max(rows, given.resident // rows * rows))


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _group(size: int, num: int) -> int:
    """Return how many neighbours of a block form a group, so that the least is sorted: there are
    size / group maxima and num x group candidates.
    """
    group = 1
    while (2 * group) ** 2 * num <= size:
        group *= 2
    return group


def _spread(x_CD: np.ndarray, num: int) -> np.ndarray:
    """Order columns so that the members of a group lie a stride apart: maxima over the groups are
    then those of whole vectors, which a CPU takes many at a time.
    """
    size, group = len(x_CD), _group(len(x_CD), num)
    return x_CD.reshape(size // group, group, -1).swapaxes(0, 1).reshape(x_CD.shape)


def _gather(x_CK: np.ndarray, num: int) -> np.ndarray:
    """Undo `_spread`."""
    size, group = len(x_CK), _group(len(x_CK), num)
    return x_CK.reshape(group, size // group, -1).swapaxes(0, 1).reshape(x_CK.shape)


@lru_cache(maxsize=8)
def _step(mesh: Mesh, num: int) -> Callable[..., tuple[Best, Best]]:
    """Compile the work on one block: (rows, columns, best of both so far, first row and column)."""

    def block(rows_RD, columns_CD, to_trg, to_src, first_row, first_column):
        # highest: elsewhere the default multiplies in 10 or 8 bits, and would not be exact
        sim_RC = jnp.einsum("RD,CD->RC", rows_RD, columns_CD, precision="highest")
        first_row += jax.lax.axis_index(_AXIS) * sim_RC.shape[0]
        to_trg = _merge(to_trg, _best_columns(sim_RC, num), first_column)
        to_src = _merge(tuple(x[0] for x in to_src), _best_rows(sim_RC, num), first_row)
        return to_trg, tuple(x[None] for x in to_src)

    split = P(_AXIS)
    return jax.jit(
        jax.shard_map(
            block,
            mesh=mesh,
            in_specs=(split, P(), split, split, P(), P()),
            out_specs=(split, split),
        ),
        donate_argnums=(2, 3),
    )


def _best_columns(sim_RC: Array, num: int) -> Best:
    """Find the best columns of each row, where columns are `_spread`."""
    rows, columns = sim_RC.shape
    group = _group(columns, num)
    sim_RgG = sim_RC.reshape(rows, group, columns // group)
    chosen_RK = _chosen(sim_RgG.max(1), num)
    candidates_RgK = jnp.take_along_axis(sim_RgG, chosen_RK[:, None, :], axis=2)
    return _best(candidates_RgK.swapaxes(1, 2), chosen_RK, num)


def _best_rows(sim_RC: Array, num: int) -> Best:
    """Find the best rows of each column."""
    rows, columns = sim_RC.shape
    group = _group(rows, num)
    sim_GgC = sim_RC.reshape(rows // group, group, columns)
    chosen_CK = _chosen(sim_GgC.max(1).T, num)
    candidates_KgC = jnp.take_along_axis(sim_GgC, chosen_CK.T[:, None, :], axis=0)
    return _best(candidates_KgC.transpose(2, 0, 1), chosen_CK, num)


def _chosen(max_XG: Array, num: int) -> Array:
    """Return the groups with the highest maxima, in order: the `num` best are all among them.

    Each group left out has at least `num` groups before it with a higher maximum, or with an equal
    one at lower indices.
    """
    return jnp.sort(jax.lax.top_k(max_XG, num)[1], axis=1)


def _best(candidates_XKg: Array, chosen_XK: Array, num: int) -> Best:
    group = candidates_XKg.shape[2]
    sim_XK, at_XK = jax.lax.top_k(candidates_XKg.reshape(len(chosen_XK), -1), num)
    return sim_XK, jnp.take_along_axis(chosen_XK, at_XK // group, 1) * group + at_XK % group


@partial(jax.jit, inline=True)
def _merge(before: Best, found: Best, first: Array) -> Best:
    """Merge with what earlier blocks gave, whose indices are all lower."""
    sim_XK = jnp.concatenate([before[0], found[0]], axis=1)
    index_XK = jnp.concatenate([before[1], found[1] + first], axis=1)
    sim_XK, at_XK = jax.lax.top_k(sim_XK, before[0].shape[1])
    return sim_XK, jnp.take_along_axis(index_XK, at_XK, axis=1)
