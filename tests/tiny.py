"""Tiny real things that tests share: a dataset in memory, an encoder, a run; nothing here stands in
for our code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jalign.data.records import Example, Text, write_dataset
from jalign.data.rows import Layout, Part, RowSource, Side, Specials
from jalign.data.tokenizer import load_tokenizer, train_tokenizer
from jalign.types import TokenIds

VOCAB = 120
SPECIALS = Specials(bos=0, eos=2, pad=1)
TOKENS = TokenIds(mask=VOCAB - 1, specials=(0, 1, 2, 3, VOCAB - 1))
WORDS = (
    "la maison est grande le chat dort sur un lit the house is big cat sleeps on a bed der Hund "
    "schläft im Haus мир дом кот спит 家 猫 眠る बड़ा घर"
).split()


def random_side(seed: int, num: int = 300, longest: int = 24, vocab: int = VOCAB) -> Side:
    """Make sentences of random ids between the special ones."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest + 1, num)
    ids = rng.integers(4, vocab - 1, sizes.sum()).astype(np.uint16)
    word = np.concatenate([np.arange(n) for n in sizes]).astype(np.uint16)
    return Side(np.concatenate([[0], np.cumsum(sizes)]), ids, word)


def rows_of(kind: str, length: int = 64, seed: int = 0, num: int = 300, **changes) -> RowSource:
    """Make a source of packed rows of random examples."""
    sides = (random_side(seed, num), random_side(seed + 1, num))
    part = (
        Part("mono/en", sides[:1], (0,)) if kind == "single" else Part("pair/en-de", sides, (0, 1))
    )
    return RowSource([part], Layout(kind, length, length), SPECIALS, seed=seed, **changes)


def sentences(seed: int, num: int) -> list[str]:
    """Make sentences of real words of several scripts."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(num)]


def write_tiny_dataset(folder: Path, num: int = 200) -> Path:
    """Write a prepared dataset of two pairs and one language, with a trained tokenizer and a
    held-out split.
    """
    train_tokenizer(sentences(0, 800), folder.parent / "tokenizer", 76)
    tokenizer = load_tokenizer(folder.parent / "tokenizer")

    def texts(seed, count):
        lines = sentences(seed, count)
        return [
            Text(t, *encoded)
            for t, encoded in zip(lines, tokenizer.encode_words(lines), strict=True)
        ]

    def pairs(seed, count):
        sides = zip(texts(seed, count), texts(seed + 1, count), strict=True)
        return [Example(s, f"tiny:{i}") for i, s in enumerate(sides, 1)]

    sources = {
        ("pair", "en-de"): {"train": pairs(1, num), "heldout": pairs(3, 40)},
        ("pair", "en-ru"): {"train": pairs(5, num // 2), "heldout": pairs(7, 40)},
        ("mono", "en"): {
            "train": [Example((t,), "tiny") for t in texts(9, num)],
            "heldout": [Example((t,), "tiny") for t in texts(10, 30)],
        },
    }
    langs = {"en-de": ("en", "de"), "en-ru": ("en", "ru"), "en": ("en",)}
    write_dataset(
        folder,
        sources,
        langs=langs,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
    )
    (folder.parent / "tokenizer").rename(folder / "tokenizer")
    return folder


def run_entries(data: Path, **changes) -> dict:
    """Return the entries of a tiny run's config."""
    entries = dict(
        name="tiny",
        data=str(data),
        steps=6,
        seed=3,
        log_every=2,
        checkpoint_every=2,
        keep=3,
        encoder=dict(
            hidden=16,
            layers=2,
            heads=2,
            mlp=32,
            max_positions=66,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        streams=dict(
            mono=dict(layout="single", rows=8, row_length=64),
            pair=dict(layout="joint", rows=8, row_length=64),
        ),
        objectives=dict(mlm=dict(), tlm=dict(weight=0.5)),
        optimizer=dict(lr=1e-2, warmup_steps=2, clip_norm=1.0),
        evaluate=dict(every=0, at_start=False, best="", tasks={}),
        divergence=dict(factor=1.5, window=50, rollbacks=0),
        hang_s=600.0,
    )
    return entries | changes
