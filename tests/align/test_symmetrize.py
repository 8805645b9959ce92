"""Symmetrisation: hand examples, the whole rectangle scanned by loops, and published results.

The links in golden/lilt_enfr.tsv.gz are those of fast_align and Mgiza on the Hansards test set, and
the hashes those of the files that lilt/alignment-scripts made of them (golden/lilt_enfr.md).
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.align.symmetrize import METHODS, MOSES_NEIGHBOURS, NEIGHBOURS, symmetrize
from jalign.metrics.aer import corpus_counts, link_scores
from jalign.metrics.links import format_pharaoh, parse_pharaoh, parse_pharaoh_lines
from tests.oracles import align as oracle

GOLDEN = Path(__file__).parent.parent / "golden/lilt_enfr.tsv.gz"
# tool, our method -> SHA-256 of the published file, AER in percent (methods.md 8.2)
PUBLISHED = {
    ("fast_align", "intersection"): ("67ed1a0f2ea95fb0", 11.17),
    ("fast_align", "grow-diag"): ("40e3aee69acb4be9", 10.48),
    ("fast_align", "grow-diag-final-and"): ("66379b45061d41d3", 12.09),
    ("fast_align", "union"): ("f758f068945663b6", 19.52),
    ("mgiza", "intersection"): ("7908d9db0322d78d", 7.56),
    ("mgiza", "grow-diag"): ("84de98330d298280", 5.94),
    ("mgiza", "grow-diag-final-and"): ("464a5a35cf012db5", 6.16),
    ("mgiza", "union"): ("d2048dfdfbdfb286", 9.86),
}
LINKS = st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14)


@pytest.fixture(scope="module")
def directions():
    """Return {tool: [(forward, reverse) of each sentence]}, both as (source, target)."""
    lines = gzip.decompress(GOLDEN.read_bytes()).decode().splitlines()
    found = {"fast_align": [], "mgiza": []}
    for number, line in enumerate(lines, 1):
        links = [parse_pharaoh(column, f"{GOLDEN}:{number}").sure for column in line.split("\t")]
        for tool, (forward, reverse) in zip(found, (links[:2], links[2:]), strict=True):
            found[tool].append((forward, {(j, i) for i, j in reverse}))
    return found


def digest(sentences):
    text = "\n".join(format_pharaoh(links) for links in sentences)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def combined(sides, method, **options):
    return [symmetrize(*pair, method, neighbour_rule="and", **options) for pair in sides]


@pytest.mark.parametrize("tool, method", PUBLISHED)
def test_published_links_are_reproduced_in_every_sentence(directions, tool, method):
    assert digest(combined(directions[tool], method)) == PUBLISHED[tool, method][0]


def test_the_order_of_neighbours_is_seen_in_the_published_links(directions):
    links = combined(directions["fast_align"], "grow-diag", neighbours=MOSES_NEIGHBOURS)
    assert digest(links) != PUBLISHED["fast_align", "grow-diag"][0]


@pytest.mark.parametrize("tool, method", PUBLISHED)
def test_published_alignment_error_rates_are_reproduced(directions, shared_data, tool, method):
    path = shared_data / "alignment/hansards.en-fr.gold"
    gold = parse_pharaoh_lines(path.read_text().splitlines(), path.name, base=1)
    counts = corpus_counts(combined(directions[tool], method), gold)
    assert counts.sure == 4038
    assert round(100 * link_scores(counts).aer, 2) == PUBLISHED[tool, method][1]


def test_every_method_by_hand():
    #     0 1 2 3    f forward only, r reverse only, B both
    # 0   B f . .
    # 1   . r . .
    # 2   . . . f
    # 3   r . r .
    forward, reverse = {(0, 0), (0, 1), (2, 3)}, {(0, 0), (1, 1), (3, 0), (3, 2)}
    grown = {(0, 0), (0, 1), (1, 1)}
    want = {
        "intersection": {(0, 0)},
        "union": forward | reverse,
        "grow-diag": grown,
        "grow-diag-final": grown | {(2, 3), (3, 0), (3, 2)},
        "grow-diag-final-and": grown | {(2, 3), (3, 2)},
    }
    assert {m: symmetrize(forward, reverse, m) for m in METHODS} == want
    # with `and` (0, 1) is refused, because row 0 is taken, and (1, 1) is the diagonal neighbour
    assert symmetrize(forward, reverse, "grow-diag", neighbour_rule="and") == {(0, 0), (1, 1)}


def test_links_added_behind_the_scan_are_visited_too():
    # (2, 2) brings (1, 1), that lies before it and brings (0, 0)
    both, more = {(2, 2)}, {(1, 1), (0, 0)}
    assert symmetrize(both | more, both, "grow-diag") == both | more


@settings(max_examples=150, deadline=None)
@given(
    forward=LINKS,
    reverse=LINKS,
    rule=st.sampled_from(["and", "or"]),
    neighbours=st.permutations(NEIGHBOURS),
)
def test_growing_equals_scans_of_the_whole_rectangle(forward, reverse, rule, neighbours):
    for method, final in [
        ("grow-diag", None),
        ("grow-diag-final", "or"),
        ("grow-diag-final-and", "and"),
    ]:
        got = symmetrize(forward, reverse, method, neighbour_rule=rule, neighbours=neighbours)
        assert got == oracle.grow_diag(forward, reverse, rule, neighbours, final)


@settings(max_examples=100, deadline=None)
@given(forward=LINKS, reverse=LINKS, rule=st.sampled_from(["and", "or"]))
def test_each_method_lies_within_the_next_one(forward, reverse, rule):
    sets = [symmetrize(forward, reverse, m, neighbour_rule=rule) for m in METHODS]
    inner, union, grown, final, final_and = sets
    assert inner <= grown <= final_and <= union and grown <= final <= union
    for links, method in zip(sets, METHODS, strict=True):
        assert symmetrize(links, links, method, neighbour_rule=rule) == links


@settings(max_examples=50, deadline=None)
@given(forward=LINKS, reverse=LINKS)
def test_swapping_sides_and_directions_transposes_intersection_and_union(forward, reverse):
    swapped = [{(j, i) for i, j in links} for links in (reverse, forward)]
    for method in ("intersection", "union"):
        links = symmetrize(forward, reverse, method)
        assert symmetrize(*swapped, method) == {(j, i) for i, j in links}


def test_unknown_methods_and_rules_are_refused():
    with pytest.raises(ValueError, match="grow-diag-final-and"):
        symmetrize([], [], "grow")
    with pytest.raises(ValueError, match="and, or"):
        symmetrize([], [], "union", neighbour_rule="xor")
