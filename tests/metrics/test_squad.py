"""Answers: every normalisation by hand in several scripts, and predictions that try to cheat."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.metrics.squad import (
    AnswerScores,
    answer_scores,
    normalize_mlqa,
    normalize_squad,
    word_f1,
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Norman Conquest!", "norman conquest"),
        ("an apple, a-day", "apple aday"),  # the hyphen goes first and joins what it parted
        ("theatre", "theatre"),
        ("a", ""),
        ("«Ж» “q”", "«ж» “q”"),  # ASCII punctuation only
        ("the\u00a0end\n", "end"),
        ("$5+", "5"),
        ("", ""),
    ],
)
def test_squad_normalisation_by_hand(text, wanted):
    assert normalize_squad(text) == wanted


@pytest.mark.parametrize(
    ("lang", "text", "wanted"),
    [
        ("en", "The «Norman» Conquest…", "norman conquest"),
        ("en", "“a”", ""),
        ("es", "¿El perro de los Andes?", "perro de andes"),
        ("es", "eléctrico unas", "eléctrico"),  # el inside a word stays
        ("de", "Der Name der Rose", "name rose"),
        ("de", "Derby eines", "derby"),
        ("de", "dass STRASSE Straße", "dass strasse straße"),
        ("vi", "Những cái nhà là của tôi", "nhà tôi"),
        ("vi", "chiếc xe", "xe"),
        ("hi", "एक घर।", "एक घर"),  # the danda is punctuation, Hindi has no articles
        ("ar", "الكتاب", "كتاب"),
        ("ar", "والكتاب", "و كتاب"),  # inside words too, as published
        ("ar", "سؤال؟", "سؤ"),
        ("zh", "在1998年，中国 cup", "在 1998 年 中 国 cup"),
        ("zh", "“三次”。", "三 次"),
        ("zh", "龥龦龧", "龥 龦龧"),  # rare characters lie outside the published range
        ("zh-Hant", "中国", "中 国"),
        ("ru", "«Война и мир»", "война и мир"),
        ("el", "Ο ΣΩΚΡΆΤΗΣ;", "ο σωκράτης"),
        ("ja", "第3回ワールド", "第 3 回 ワールド"),
        ("en", "cost $5 + <b>", "cost 5 b"),  # symbols of ASCII go, others stay
        ("en", "5 € × 3", "5 € × 3"),
        ("en", "", ""),
    ],
)
def test_mlqa_normalisation_by_hand(lang, text, wanted):
    assert normalize_mlqa(text, lang) == wanted


@pytest.mark.parametrize(
    ("found", "gold", "wanted"),
    [
        ("", "", 0.0),  # no common word: 0, though an exact match
        ("", "x", 0.0),
        ("x x x", "x", 0.5),  # a repeated word counts as often as it stands
        ("x x", "x x y", 0.8),
        ("b a", "a b", 1.0),
        ("中 国 人", "中 国", 0.8),
    ],
)
def test_word_f1_by_hand(found, gold, wanted):
    assert word_f1(found, gold) == pytest.approx(wanted)


def test_the_best_gold_answer_counts_for_each_measure():
    gold = {"q": ["the Normans of Sicily", "Normans"]}
    assert answer_scores(gold, {"q": "Normans"})[:2] == (1.0, 1.0)
    scores = answer_scores(gold, {"q": "Normans of"})
    assert scores.exact == 0.0
    assert scores.f1 == pytest.approx(0.8)  # 2 of 2 and 2 of 3 words of the first


def test_unanswered_questions_score_zero_and_are_counted():
    gold = {"a": ["x"], "b": ["y"], "c": ["z"], "d": ["z"]}
    found = {"a": "X.", "b": "", "unknown": "y", "d": "the"}
    assert answer_scores(gold, found) == AnswerScores(0.25, 0.25, 4, 1)


def test_only_articles_equal_nothing():
    # as published: gold "The" is nothing once normalised, so is the prediction, and F1 is 0
    assert answer_scores({"q": ["The"]}, {"q": "a"})[:2] == (1.0, 0.0)
    assert answer_scores({"q": ["Die"]}, {"q": "a"}, lang="de")[:2] == (0.0, 0.0)


def test_the_language_decides():
    gold, found = {"q": ["la casa"]}, {"q": "casa"}
    assert answer_scores(gold, found, lang="es").exact == 1.0
    assert answer_scores(gold, found).exact == 0.0
    gold, found = {"q": ["中国人"]}, {"q": "中国"}
    assert answer_scores(gold, found, lang="zh").f1 == pytest.approx(0.8)
    assert answer_scores(gold, found).f1 == 0.0


def test_a_question_without_gold_answers_wants_none():
    assert answer_scores({"q": []}, {"q": "the"})[:2] == (1.0, 1.0)
    assert answer_scores({"q": []}, {"q": "x"})[:2] == (0.0, 0.0)


def test_no_questions_are_refused():
    with pytest.raises(ValueError, match="at least one question"):
        answer_scores({}, {"q": "x"})


LANGS = st.sampled_from("en es de ar hi vi zh ru ja".split())


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), LANGS)
def test_an_answer_matches_itself_and_normalising_leaves_single_spaces(text, lang):
    normal = normalize_mlqa(text, lang)
    assert normal == " ".join(normal.split())
    scores = answer_scores({"q": [text]}, {"q": f" {text}\n"}, lang=lang)
    assert scores.exact == 1.0
    assert scores.f1 == (1.0 if normal else 0.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_f1_is_symmetric_and_blind_to_order(found, gold):
    value = word_f1(" ".join(found), " ".join(gold))
    assert value == pytest.approx(word_f1(" ".join(gold), " ".join(found)))
    assert value == word_f1(" ".join(sorted(found)), " ".join(reversed(gold)))
