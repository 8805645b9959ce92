"""Link formats: Pharaoh and NAACL, read, written, refused."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jalign.errors import BadData
from jalign.metrics.links import (
    Gold,
    check_links,
    format_pharaoh,
    naacl_sentences,
    parse_naacl_lines,
    parse_pharaoh,
    parse_pharaoh_lines,
)

LINKS = st.frozensets(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def gold(sure, possible=()):
    return Gold(frozenset(sure), frozenset(sure) | frozenset(possible))


def test_a_pharaoh_line_by_hand():
    assert parse_pharaoh("0-0 1p2\t10-3\n", "x:1") == gold([(0, 0), (10, 3)], [(1, 2)])
    assert parse_pharaoh("1-1 2p3", "x:1", base=1) == gold([(0, 0)], [(1, 2)])
    assert parse_pharaoh("\n", "x:1") == gold([])
    assert parse_pharaoh("0-0 0p0", "x:1") == gold([(0, 0)])


def test_writing_sorts_and_marks_possible_links():
    assert format_pharaoh([(10, 3), (2, 1)], [(2, 1), (1, 2)]) == "1p2 2-1 10-3"
    assert format_pharaoh([(0, 0)], base=1) == "1-1"
    assert format_pharaoh([]) == ""


@given(sure=LINKS, possible=LINKS, base=st.integers(0, 1))
def test_reading_inverts_writing(sure, possible, base):
    line = format_pharaoh(sure, possible, base=base)
    assert parse_pharaoh(line, "x:1", base=base) == gold(sure, possible)


@pytest.mark.parametrize("line", ["0", "0-0-0", "a-1", "1--1", "0-0,1-1", "0:1", "1-", "²-1"])
def test_what_is_no_link_is_refused_with_file_and_line(line):
    with pytest.raises(BadData, match="links.txt:2: .* is no link; need i-j"):
        parse_pharaoh_lines(["0-0", line], "links.txt")


def test_a_zero_in_a_file_that_counts_from_one_is_refused():
    with pytest.raises(BadData, match="x:1: link 0 2 .* count from 0"):
        parse_pharaoh("0-2", "x:1", base=1)


def test_naacl_lines_by_hand():
    lines = ["0001 1 1 S", "0001 2 3 P", "", "3 1 2", "3 2 2 S 0.5", "3 2 2 P"]
    found = parse_naacl_lines(lines, "gold")
    assert found == {1: gold([(0, 0)], [(1, 2)]), 3: gold([(0, 1), (1, 1)])}
    assert naacl_sentences(found, 4, "gold") == [found[1], gold([]), found[3], gold([])]
    assert parse_naacl_lines(["1 0 0"], "gold", base=0) == {1: gold([(0, 0)])}


def test_naacl_sentences_that_are_not_numbered_one_to_n_are_taken_in_order():
    from_zero = parse_naacl_lines(["0 1 1", "1 2 2"], "gold")
    assert naacl_sentences(from_zero, 2, "gold") == [gold([(0, 0)]), gold([(1, 1)])]
    with_gaps = parse_naacl_lines(["26 1 1", "30 2 2", "26 1 2"], "gold")
    assert naacl_sentences(with_gaps, 2, "gold") == [gold([(0, 0), (0, 1)]), gold([(1, 1)])]
    with pytest.raises(BadData, match="gold: 2 sentences numbered 26 to 30; need numbers 1 to 3"):
        naacl_sentences(with_gaps, 3, "gold")


@pytest.mark.parametrize("line", ["1 2", "1 2 3 X", "1 2 -99 S", "a 1 1", "1 1 1 S 0.5 more"])
def test_malformed_naacl_lines_are_refused_with_file_and_line(line):
    with pytest.raises(BadData, match="gold:2: "):
        parse_naacl_lines(["1 1 1", line], "gold")


def test_links_to_the_empty_word_are_an_error_or_left_out():
    lines = ["1 1 1", "1 0 2", "2 1 0"]
    with pytest.raises(BadData, match="gold:2: .* count from 0"):
        parse_naacl_lines(lines, "gold")
    found = parse_naacl_lines(lines, "gold", skip_null=True)
    assert found == {1: gold([(0, 0)]), 2: gold([])}


def test_links_outside_the_sentences_are_refused():
    check_links([(0, 0), (2, 1)], 3, 2, "x:1")
    for link in [(3, 0), (0, 2), (-1, 0)]:
        with pytest.raises(BadData, match="x:7: link .* 3 source and 2 target words"):
            check_links([link], 3, 2, "x:7")


@pytest.mark.parametrize(
    "name, base, sure, possible",
    [
        ("hansards.en-fr", 1, 4038, 13400),
        ("tsinghua.zh-en", 1, 11238, 178),
        ("wpt05.ro-en", 1, 6198, 0),
        ("ugarit.grc-en", 0, 6036, 1388),
        ("golden.en-es", 0, 818, 0),
        ("czenali.en-cs", 0, 44166, 0),
    ],
)
def test_real_gold_files_have_their_links_within_their_sentences(
    shared_data, name, base, sure, possible
):
    def lines(suffix):
        path = shared_data / f"alignment/{name}.{suffix}"
        if path.exists():
            return path.read_text(encoding="utf-8").splitlines()
        return gzip.open(f"{path}.gz", "rt", encoding="utf-8").read().splitlines()

    text, links = lines("src-tgt"), parse_pharaoh_lines(lines("gold"), name, base=base)
    assert sum(len(g.sure) for g in links) == sure
    assert sum(len(g.possible) for g in links) == sure + possible
    for number, (line, g) in enumerate(zip(text, links, strict=True), 1):
        src, trg = line.split("|||")
        check_links(g.possible, len(src.split()), len(trg.split()), f"{name}:{number}")
