"""Real bitext and gold: a lexicon aligns Hansards as well as fast_align, or better."""

from __future__ import annotations

import gzip
import itertools

import numpy as np
import pytest

from jalign.align.symmetrize import symmetrize
from jalign.data.columns import Side
from jalign.data.lexicon_cells import Pairs
from jalign.data.lexicon_em import LexiconConfig, train_lexicon
from jalign.metrics.aer import corpus_counts, link_scores
from jalign.metrics.links import parse_pharaoh_lines

# `fast_align -d -o -v -I 5`, but for its steps towards the tension; the fifth iteration decodes
FAST_ALIGN = LexiconConfig(
    model1_iterations=0, diagonal_iterations=4, agree=False, alpha=0.01, null=0.08, tension=4.0,
    prune=1e-6,
)  # fmt: skip


def side_of(sentences):
    offsets = np.cumsum([0, *map(len, sentences)])
    return Side(offsets, np.concatenate([np.array(s, np.int32) for s in sentences]), None)


def read_words(shared_data, num_pairs):
    """Return the sides of gold text and bitext, in ids of words, the gold links, and the size."""
    name = "alignment/hansards.en-fr"
    with gzip.open(shared_data / "bitext/hansards.en-fr.tsv.gz", "rt", encoding="utf-8") as lines:
        pairs = [line.rstrip("\n").split("\t") for line in itertools.islice(lines, num_pairs)]
    gold_text = (shared_data / f"{name}.src-tgt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("|||") for line in gold_text] + pairs
    vocab: dict[str, int] = {}
    sides = [
        side_of([[vocab.setdefault(w, len(vocab)) for w in text.lower().split()] for text in side])
        for side in zip(*pairs, strict=True)
    ]
    gold = parse_pharaoh_lines(
        (shared_data / f"{name}.gold").read_text().splitlines(), name, base=1
    )
    return sides, gold, len(vocab)


def error_rates(lexicon, sides, gold):
    """Return the AER of the hard links in each direction and of their symmetrisations."""
    parts = [
        [side.ids[a:b] for a, b in itertools.pairwise(side.offsets[: len(gold) + 1])]
        for side in sides
    ]
    both = [
        [[tuple(link) for link in side.tolist()] for side in pair]
        for pair in lexicon.align(Pairs.of(*parts))
    ]
    found = {"forward": [f for f, _ in both], "backward": [b for _, b in both]}
    for method in ("intersection", "grow-diag", "grow-diag-final-and"):
        found[method] = [symmetrize(*pair, method) for pair in both]
    return {
        method: link_scores(corpus_counts(links, [tuple(g) for g in gold])).aer
        for method, links in found.items()
    }


@pytest.mark.slow
def test_20000_pairs_of_hansards_align_better_than_with_fast_align(shared_data):
    sides, gold, vocab_size = read_words(shared_data, 20_000)
    aer = {}
    for name, config in (
        ("agree", LexiconConfig()),
        ("fast_align", FAST_ALIGN),
    ):
        lexicon = train_lexicon([tuple(sides)], vocab_size=vocab_size, config=config)
        aer[name] = error_rates(lexicon, sides, gold)
        print(name, {method: f"{100 * x:.2f}" for method, x in aer[name].items()})
    # fast_align cab1e9a itself on the same lines, -d -o -v: 19.75 forward, 19.11 backward, 13.77
    # intersection; its steps towards the tension differ from our maximum
    assert aer["fast_align"]["forward"] == pytest.approx(0.1975, abs=0.01)
    assert aer["fast_align"]["backward"] == pytest.approx(0.1911, abs=0.01)
    assert aer["fast_align"]["intersection"] == pytest.approx(0.1377, abs=0.01)
    # measured 12.3, 12.0, 12.0, 10.7, 11.0
    assert max(aer["agree"].values()) < 0.13
    assert aer["agree"]["grow-diag"] < 0.115
