"""The tiny encoder that most objectives are tested with, and its parameters."""

from __future__ import annotations

import functools

import jax
import pytest
from flax import linen as nn

from jalign.encoders import bert
from jalign.types import Encoder
from tests.tiny import TOKENS, VOCAB


@pytest.fixture(scope="module")
def encoder():
    """Files with another encoder have a fixture of this name, too; `params` are then its own."""
    shape = dict(hidden=16, layers=2, heads=2, mlp=32, max_positions=66, init_std=0.5)
    cfg = bert.Config(vocab_size=VOCAB, dropout=0.0, attention_dropout=0.0, **shape)
    return Encoder(bert.make(cfg), TOKENS)


@functools.cache
def drawn(cfg: bert.Config) -> dict:
    """Draw the parameters of a shape, once for all files."""
    return jax.jit(lambda key: nn.unbox(bert.init_params(bert.make(cfg), key)))(jax.random.key(0))


@pytest.fixture(scope="module")
def params(encoder):
    return {"encoder": drawn(encoder.module.cfg)}
