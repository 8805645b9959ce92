"""Real bitext: the loader fills its rows to 0.98 and more of the slots, and misses nothing."""

from __future__ import annotations

import gzip
import itertools

import numpy as np

from jalign.data.records import Side
from jalign.data.rows import Layout, Part, RowSource, Specials
from jalign.data.tokenizer import train_tokenizer


def side_of(texts, tokenizer):
    encoded = tokenizer.encode_words(texts)
    offsets = np.cumsum([0, *(len(ids) for ids, _ in encoded)])
    return Side(offsets, *(np.concatenate(column) for column in zip(*encoded, strict=True)))


def test_rows_of_256_are_98_percent_full_on_shuffled_real_bitext(shared_data, tmp_path):
    parts = []
    for name in ("gettext.en-de", "gettext.en-zh", "hansards.en-fr"):
        with gzip.open(shared_data / f"bitext/{name}.tsv.gz", "rt", encoding="utf-8") as lines:
            pairs = [x.rstrip("\n").split("\t") for x in itertools.islice(lines, 4000)]
        parts.append((name, list(zip(*pairs, strict=True))))
    texts = [text for _, sides in parts for side in sides for text in side]
    tokenizer = train_tokenizer(texts, tmp_path / "tokenizer", 6000)
    sources = [
        Part(name, tuple(side_of(list(side), tokenizer) for side in sides), (0, i))
        for i, (name, sides) in enumerate(parts, 1)
    ]
    rows = RowSource(sources, Layout("joint", 256, 256), Specials(0, 2, 1), alpha=0.7, seed=0)
    batch = rows.rows(0, 4 * rows.packed.window_rows)
    assert (batch["example"] > 0).mean() >= 0.98
    assert sum(rows.packed.plan(w).num_postponed for w in range(4)) == 0
