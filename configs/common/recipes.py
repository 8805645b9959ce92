"""Pieces that configs share, as plain functions: encoder shapes, optimiser recipes, streams,
evaluations.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def xlmr_base() -> dict:
    """Shape of XLM-R base (Conneau et al. 2020, table 1): 270 M parameters with its 250,002
    words.
    """
    return dict(
        family="bert",
        vocab_size=0,
        hidden=768,
        layers=12,
        heads=12,
        mlp=3072,
        max_positions=514,
        first_position=2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        dropout=0.1,
        attention_dropout=0.1,
        dtype="bfloat16",
        attention="auto",
        remat=False,
        unroll=1,
    )


def small(hidden: int = 256, layers: int = 4, **changes) -> dict:
    """Shape for two CPU cores: float32 (bf16 is slower there), no dropout, layers unrolled."""
    shape = xlmr_base() | dict(
        hidden=hidden,
        layers=layers,
        heads=hidden // 64,
        mlp=4 * hidden,
        dropout=0.0,
        attention_dropout=0.0,
        dtype="float32",
        unroll=0,
    )
    return shape | changes


def mono(rows: int, row_length: int, **changes) -> dict:
    """Stream of single texts: monolingual data, and each side of the pairs."""
    return dict(layout="single", alpha=0.3, pair_sides=True) | _stream(rows, row_length) | changes


def pair(rows: int, row_length: int, **changes) -> dict:
    """Stream of joint pairs `<s> src </s> trg </s>`."""
    return dict(layout="joint", alpha=0.7, pair_sides=False) | _stream(rows, row_length) | changes


def _stream(rows: int, row_length: int) -> dict:
    """Return what all streams share; every entry stands here, so that flags can change it."""
    return dict(rows=rows, row_length=row_length, max_unit=0, sources=(), swap=False)


def adamw(lr: float, warmup_steps: int, **changes) -> dict:
    """AdamW as fairseq trains XLM-R: betas (0.9, 0.98), eps 1e-6, decay 0.01 but not on biases and
    norms.
    """
    return (
        dict(
            lr=lr,
            schedule="linear",
            warmup_steps=warmup_steps,
            end_lr=0.0,
            b1=0.9,
            b2=0.98,
            eps=1e-6,
            clip_norm=1.0,
            decay=((r"bias$|norm/scale$", 0.0), (r".*", 0.01)),
        )
        | changes
    )


def run(**entries) -> ConfigDict:
    """Make a config with the defaults that a run may want to change on the command line."""
    defaults = dict(
        seed=0,
        norm="per_loss_mean",
        accumulate=1,
        log_every=50,
        checkpoint_every=1000,
        keep=3,
        mesh=dict(data=-1, fsdp=1, tensor=1),
        divergence=dict(factor=1.5, window=50),
    )
    return ConfigDict(defaults | entries, convert_dict=True)
