"""Open an encoder and use it: vectors of texts, states of tokens, words for masks.

In: a model folder, or the parts of a model. Out: a Model, with the pure pieces underneath for those
who have Flax code of their own.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jalign import plugin
from jalign.align.words import WordLinks
from jalign.data.tokenizer import Tokenizer
from jalign.errors import ConfigError, UserError
from jalign.inference import masks
from jalign.inference.align import Aligner, choose, read_stored
from jalign.inference.align_texts import Pair
from jalign.inference.engine import Done, Engine, Function, Work
from jalign.inference.outputs import (
    Encoded,
    join_tokens,
    join_vectors,
    make_pooled,
    make_states,
)
from jalign.inference.texts import OVERFLOW, Window, cut_texts, own_backend, windows_of
from jalign.types import Array, Params

POOLING = ("mean", "cls", "pooler")
CHARS_PER_TEXT = 256  # a window also ends after so many characters per text that it may hold
ENCODE_TEXTS = 256  # `encode` returns the state of every token: its windows are smaller


@dataclass
class Counts:
    """What has gone through: `texts`, `tokens` with the special ones, `slots` with padding too, and
    how many texts were longer than the encoder (`long`). `on_batch` is called after every batch.
    """

    texts: int = 0
    tokens: int = 0
    slots: int = 0
    long: int = 0
    on_batch: Callable[[Counts], None] | None = None

    def add(self, done: Done) -> None:
        """Count one batch."""
        cut, batch = done.work.about, done.batch
        self.tokens += int(cut.items.lengths[batch.item].sum())
        self.slots += batch.num_rows * batch.row_length
        self.texts += int(np.count_nonzero(cut.start[batch.item] == 0))
        self.long += cut.num_long * done.last
        if self.on_batch:
            self.on_batch(self)


class Model:
    """An encoder with its tokenizer, on all devices of this process."""

    def __init__(
        self,
        family: str,
        cfg: Any,
        params: Params,
        tokenizer: Tokenizer,
        *,
        devices: Sequence[jax.Device] | None = None,
        slots: int | None = None,
    ) -> None:
        """Take the parts: a file of jalign/encoders, its Config, the encoder's parameters.

        `slots`: of a full batch on each device. Raises: UserError where the tokenizer does not fit.
        """
        if tokenizer.vocab_size > cfg.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} ids and the encoder {cfg.vocab_size}: "
                "they do not belong together."
            )
        self.family = plugin.load("encoders", family)
        # Rolled up: 0.3 s to compile a shape instead of 1.5 (6 layers), and no slower to run.
        self.cfg = replace(cfg, dropout=0.0, attention_dropout=0.0, remat=False, unroll=1)
        self.module = self.family.make(self.cfg)
        self.tokenizer, self.backend = tokenizer, own_backend(tokenizer)
        self.engine = Engine(
            params,
            longest=cfg.positions,
            hidden=cfg.hidden,
            exact=cfg.dtype == "float32",
            devices=devices,
            slots=slots,
        )
        self._functions: dict[Any, Function] = {}
        self.path: Path | None = None  # where it was read: its stored defaults lie there
        self.step = -1  # of the checkpoint that it was read from

    @property
    def params(self) -> Params:
        """Return the encoder's parameters, on every device."""
        return self.engine.params

    def apply(self, params: Params, ids: Array, position: Array, unit: Array, **kw: Any) -> Array:
        """Return hidden states [B, L, D] of packed rows, a pure function to jit and differentiate.

        `unit` numbers the texts of each row from 1, 0 is padding; `position` starts at 0 in each.
        Keywords are the module's: `max_unit`, `all_layers`, `type_BL`.
        """
        return self.module.apply({"params": params}, ids, position, unit, **kw)

    @property
    def sha256(self) -> str:
        """Return a hash of family, shape, tokenizer and parameters (their sums, and samples)."""
        said = hashlib.sha256(f"{self.family.__name__} {self.cfg}".encode())
        said.update(self.tokenizer.sha256.encode())
        for path, x in jax.tree_util.tree_leaves_with_path(self.params):
            flat = np.asarray(x).reshape(-1)
            said.update(f"{jax.tree_util.keystr(path)} {x.shape} {flat.sum(dtype='f8')}".encode())
            said.update(flat[:: max(1, flat.size // 4096)].tobytes())
        return said.hexdigest()

    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: str = "mean",
        layer: int = -1,
        normalize: bool = False,
        on_overflow: str = "window",
    ) -> np.ndarray:
        """Return one vector per text, float32 [N, D].

        `pooling`: "mean" of all tokens with the special ones, as sentence-transformers has it;
        "cls", the first token's state; "pooler", what BERT's pooler makes of that. `layer`: -1 the
        last, 0 the embeddings, k after layer k. `normalize`: to length 1. `on_overflow`: what to do
        with a text longer than the encoder: "window" (overlapping windows, in which each token
        counts once; of "cls" and "pooler" the mean), "error" or "truncate".
        """
        counts = Counts()
        options = dict(pooling=pooling, layer=layer, normalize=normalize, on_overflow=on_overflow)
        parts = list(self.embed_stream(texts, counts=counts, **options))
        if counts.long and on_overflow == "truncate":
            warnings.warn(self.cut_message(counts.long, counts.texts), stacklevel=2)
        return np.concatenate(parts) if parts else np.zeros((0, self.cfg.hidden), np.float32)

    def cut_message(self, num_long: int, num_texts: int) -> str:
        """Say how many texts were cut."""
        return (
            f"cut {num_long:,} of {num_texts:,} texts, longer than the {self.cfg.positions} tokens "
            "that this encoder takes"
        )

    def embed_stream(
        self,
        texts: Iterable[str],
        *,
        pooling: str = "mean",
        layer: int = -1,
        normalize: bool = False,
        on_overflow: str = "window",
        counts: Counts | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield the vectors of `embed` in pieces [n, D], in order, in constant memory.

        The same texts are always cut into the same pieces; a piece does not depend on the others.
        """
        self._check(texts, on_overflow)
        run = partial(self.engine.run, *self._pooled(pooling, self._layer(layer)))
        pool = "mean" if pooling == "mean" else "first"
        return self._vectors(texts, run, pool, normalize, on_overflow, counts or Counts())

    def _vectors(self, texts, run, pool, normalize, on_overflow, counts) -> Iterator[np.ndarray]:
        size, parts = self.engine.window_texts, []

        def prepare(window: Window) -> Work:
            pieces = self.backend.encode_batch_fast(window.texts, add_special_tokens=False)
            return self._work(window, pieces, on_overflow, pool)

        windows = windows_of(texts, size, size * CHARS_PER_TEXT)
        for done in run(windows, prepare):
            batch = done.batch
            parts.append((batch.item, done.arrays[batch.row, batch.number]))
            counts.add(done)
            if done.last:
                yield join_vectors(parts, done.work.about, pool, normalize)
                parts = []

    def encode(
        self, texts: Iterable[str], *, layer: int = -1, on_overflow: str = "window"
    ) -> Iterator[Encoded]:
        """Yield the tokens of each text with their states, in order; see `embed` for the options.

        In overlapping windows a token has the state of the one in which it is most central.
        """
        self._check(texts, on_overflow)
        return self._tokens(texts, partial(self.engine.run, *self._states(layer)), on_overflow)

    def _tokens(self, texts, run, on_overflow) -> Iterator[Encoded]:
        def prepare(window: Window) -> Work:
            pieces = self.backend.encode_batch(window.texts, add_special_tokens=False)
            work = self._work(window, pieces, on_overflow, "mean")
            return Work(work.items, (work.about, [p.offsets for p in pieces]))

        states: dict[int, np.ndarray] = {}
        windows = windows_of(texts, ENCODE_TEXTS, ENCODE_TEXTS * CHARS_PER_TEXT)
        for done in run(windows, prepare):
            sizes, batch = done.work.items.lengths, done.batch
            for item, row, start in zip(batch.item, batch.row, batch.start, strict=True):
                states[int(item)] = done.arrays[row, start : start + sizes[item]]
            if done.last:
                yield from join_tokens(states, *done.work.about)
                states = {}

    def fill_mask(self, text: str, *, top: int = 5) -> list[list[masks.Prediction]]:
        """Return for every mask of the text the `top` likeliest tokens, best first.

        Raises: UserError if there is no mask in the text, or no masked-LM head in the model.
        """
        masks.check(self.cfg, self.backend, self.tokenizer, text, top)
        tokens = next(self.encode([text], on_overflow="error"))
        at = np.flatnonzero(tokens.ids == self.tokenizer.mask_id)
        head = self._keep(("head", top), lambda: jax.jit(masks.head(self.module, top)))
        values, ids = (np.asarray(x) for x in head(self.params, tokens.states[at]))
        return masks.predictions(self.backend, tokens.ids[1:-1], at - 1, values, ids)

    def align(
        self,
        pairs: Sequence[Pair],
        *,
        on_overflow: str = "window",
        scores: bool = False,
        **options: Any,
    ) -> list[WordLinks]:
        """Return the links between the words of each pair of texts, as `jalign align` does.

        Options: `method`, `layer`, `similarity`, `layout`, `level`, `threshold`; what is not given
        is what the model folder stores, or what the method's authors use (`inference/align.py`).
        """
        setting = choose(
            self.cfg.layers,
            read_stored(self.path),
            on_overflow=on_overflow,
            scores=scores,
            **options,
        )
        return Aligner(self, setting).align(pairs)

    def _check(self, texts: Iterable[str], on_overflow: str) -> None:
        if isinstance(texts, str):
            raise TypeError("got one str, need a sequence of texts: type [text]")
        if on_overflow not in OVERFLOW:
            raise UserError(f"on_overflow={on_overflow!r}: need one of {', '.join(OVERFLOW)}")

    def _work(self, window: Window, pieces: list, on_overflow: str, pool: str) -> Work:
        cut = cut_texts(
            [p.ids for p in pieces],
            (self.tokenizer.bos_id, self.tokenizer.eos_id),
            positions=self.cfg.positions,
            on_overflow=on_overflow,
            pool=pool,
            before=window.before,
        )
        return Work(cut.items, cut)

    def _layer(self, layer: int) -> int:
        if not -1 <= layer <= self.cfg.layers:
            raise UserError(
                f"layer={layer}: this encoder has {self.cfg.layers} layers; need -1 (the last), 0 "
                f"(the embeddings) to {self.cfg.layers}"
            )
        return self.cfg.layers if layer == -1 else layer

    def _keep(self, key: Any, make: Callable[[], Function]) -> Function:
        """Make a function once: jit knows its compiled programs by its identity."""
        if key not in self._functions:
            self._functions[key] = make()
        return self._functions[key]

    def _cut_off(self, layer: int) -> tuple[nn.Module, Params, int | None]:
        """Return an encoder that computes no more than it must, and which state of it to take."""
        if layer == self.cfg.layers:
            return self.module, self.params, None
        if not hasattr(self.family, "first_layers"):
            return self.module, self.params, layer
        cfg, params = self.family.first_layers(self.cfg, self.params, layer)
        return self.family.make(cfg), self.engine.put(params), None

    def _states(self, layer: int) -> tuple[Function, Params]:
        layer = self._layer(layer)
        module, params, index = self._cut_off(layer)
        return self._keep(("states", layer), lambda: make_states(module, index)), params

    def _pooled(self, pooling: str, layer: int) -> tuple[Function, Params]:
        if pooling not in POOLING:
            raise UserError(f"pooling={pooling!r}: need one of {', '.join(POOLING)}")
        pooler = pooling == "pooler"
        if pooler and not getattr(self.cfg, "pooler", False):
            raise UserError(
                "pooling='pooler': this model has no pooler; type pooling='mean' or 'cls'"
            )
        if pooler and layer != self.cfg.layers:
            raise UserError(
                "pooling='pooler' was trained on the last layer: type layer=-1, or pooling='cls'"
            )
        module, params, index = self._cut_off(layer)
        states = self._keep(("states", layer), lambda: make_states(module, index))
        return self._keep(
            ("pooled", layer, pooler), lambda: make_pooled(module, states, pooler)
        ), params


def load(
    path: Path | str, *, dtype: str = "float32", step: int | str | None = None, **kw: Any
) -> Model:
    """Open a Hugging Face folder, an imported model or a workdir of `jalign pretrain`.

    `dtype`: of the compute, "float32" or "bfloat16". `step`: a checkpoint of a workdir, or "best";
    None is the newest. Further keywords are those of Model. Raises: ConfigError and BadData, each
    saying what to do.
    """
    from jalign.train.pretrained import read_pretrained

    found = read_pretrained(path, step=step)
    try:
        cfg = replace(found.cfg, dtype=dtype, attention="auto")
    except ValueError as error:
        raise ConfigError(f"dtype={dtype!r}: {error}") from error
    model = Model(found.family, cfg, found.params, found.tokenizer, **kw)
    model.path, model.step = found.path, found.step
    return model
