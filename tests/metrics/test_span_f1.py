"""Entities and their F1: by hand, and against seqeval on tags of every malformed kind."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

from jalign.metrics.accuracy import token_accuracy
from jalign.metrics.precision_recall import Score, mean_f1
from jalign.metrics.span_f1 import Entity, find_entities, span_scores

TAGS = (
    "O B-PER I-PER E-PER S-PER B-LOC I-LOC I-A-B B-A-B B I E S X _ . - B- I- NOUN INTJ SYM SCONJ "
    "PUNCT Q-PER .x x-B Oops"
).split()
IOB = "O B-PER I-PER B-LOC I-LOC".split()


def sentences(tags):
    return st.lists(st.lists(st.sampled_from(tags), max_size=6), min_size=1, max_size=4)


def pairs_of(tags):
    tag = st.sampled_from(tags)
    sentence = st.lists(st.tuples(tag, tag), max_size=7)
    return st.lists(sentence, min_size=1, max_size=4).map(
        lambda rows: tuple([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    )


def test_entities_by_hand_where_tags_are_malformed():
    tags = ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-PER", "B-LOC", "B-LOC"]
    assert find_entities([tags]) == [
        Entity("PER", 0, 1),
        Entity("PER", 2, 2),
        Entity("LOC", 4, 4),
        Entity("PER", 5, 5),
        Entity("LOC", 6, 6),
        Entity("LOC", 7, 7),
    ]


def test_an_entity_ends_with_its_sentence():
    assert find_entities([["B-PER"], ["I-PER"]]) == [Entity("PER", 0, 0), Entity("PER", 2, 2)]


@settings(max_examples=400, deadline=None)
@given(sentences(TAGS))
def test_entities_equal_seqeval_for_any_tags(tags):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [tuple(entity) for entity in find_entities(tags)] == get_entities(tags)


@settings(max_examples=300, deadline=None)
@given(st.one_of(pairs_of(TAGS), pairs_of(IOB)))
def test_scores_equal_seqeval_over_all_and_per_type(both):
    gold, found = both
    scores = span_scores(gold, found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = [f(gold, found) for f in (precision_score, recall_score, f1_score)]
        by_type = precision_recall_fscore_support(gold, found, average=None)
        macro = f1_score(gold, found, average="macro") if scores.by_type else 0.0
    assert scores.micro[:3] == pytest.approx(wanted, abs=1e-12)
    for number, score in enumerate(scores.by_type.values()):
        assert score == pytest.approx([column[number] for column in by_type], abs=1e-12)
    assert len(by_type[0]) == len(scores.by_type)
    assert mean_f1(scores.by_type) == pytest.approx(macro, abs=1e-12)
    if any(gold):
        assert token_accuracy(gold, found) == pytest.approx(accuracy_score(gold, found))


def test_part_of_speech_tags_score_as_chunks_not_as_tokens():
    gold, found = (
        ["DET", "NOUN", "NOUN", "VERB", "PUNCT"],
        ["DET", "NOUN", "VERB", "VERB", "PUNCT"],
    )
    assert span_scores([gold], [found]).micro.f1 == 0.5
    assert token_accuracy([gold], [found]) == 0.8


def test_whole_tags_tell_apart_what_only_the_first_letter_does():
    assert find_entities([["NOUN", "ROUN"]]) == [Entity("OUN", 0, 1)]
    wanted = [Entity("NOUN", 0, 0), Entity("ROUN", 1, 1)]
    assert find_entities([["NOUN", "ROUN"]], whole_tags=True) == wanted
    iob = [["B-PER", "I-PER", "O", "I-LOC"]]
    assert find_entities(iob, whole_tags=True) == find_entities(iob)
    # X of UPOS is lost at the end of a sentence but for whole tags
    assert find_entities([["NOUN", "X"]]) == [Entity("OUN", 0, 0)]
    assert find_entities([["NOUN", "X"]], whole_tags=True)[-1] == Entity("X", 1, 1)
    assert span_scores([["NOUN", "X"]], [["NOUN", "X"]], whole_tags=True).micro.support == 2


def test_no_entities_score_zero_and_not_an_error():
    assert span_scores([["O", "O"]], [["O", "O"]]).micro == Score(0.0, 0.0, 0.0, 0)


def test_unequal_sides_and_empty_tags_are_refused():
    with pytest.raises(ValueError, match="sentence 1 has 1 gold tags and 2 predicted"):
        span_scores([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="as many predicted sentences"):
        span_scores([["O"]], [])
    with pytest.raises(ValueError, match="a tag is empty"):
        span_scores([["O", ""]], [["O", "O"]])
