"""Score answers to questions: exact match and F1 over words, best over the gold answers.

Two rules of normalisation: that of SQuAD v1.1, English, which XTREME also takes for XQuAD and
TyDiQA; and that of MLQA, by the language of the answer.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

# MLQA's articles. Arabic: wherever these two letters stand, inside words too, as in its script.
_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": "ال",
}
_BY_SPACES = ("en", "es", "hi", "vi", "de", "ar")
_HAN = re.compile("([\u4e00-\u9fa5])")  # the range of MLQA's script: no rare characters
_ASCII = str.maketrans("", "", string.punctuation)


class AnswerScores(NamedTuple):
    """Means over all questions, between 0 and 1; a question without a prediction scores 0."""

    exact: float
    f1: float
    num: int
    num_unanswered: int


def normalize_squad(text: str) -> str:
    """Normalise an answer as SQuAD v1.1: lower case, no ASCII punctuation, no English articles."""
    text = re.sub(_ARTICLES["en"], " ", text.lower().translate(_ASCII))
    return " ".join(text.split())


def normalize_mlqa(text: str, lang: str) -> str:
    """Normalise an answer as MLQA: lower case, no punctuation of any script, no articles of the
    language; in Chinese each Han character is a word.

    `lang` is a language tag; only its first part counts.
    Differs: languages that MLQA lacks have no articles here and their Han characters are words; its
    script refuses them.
    Source: Lewis et al. 2020, section 4 and the published mlqa_evaluation_v1.
    """
    lang = re.split("[-_]", lang.lower())[0]
    text = text.lower().translate(_punctuation())
    if lang in _ARTICLES:
        text = re.sub(_ARTICLES[lang], " ", text)
    if lang not in _BY_SPACES:
        text = _HAN.sub(r" \1 ", text)
    return " ".join(text.split())


@cache
def _punctuation() -> dict[int, None]:
    every = (i for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P"))
    return dict.fromkeys([*every, *map(ord, string.punctuation)])


def word_f1(found: str, gold: str) -> float:
    """Compute the F1 over the words of two normalised answers, repeated words counted; 0 where one
    has none.
    """
    found_words, gold_words = found.split(), gold.split()
    common = sum((Counter(found_words) & Counter(gold_words)).values())
    if not common:
        return 0.0
    precision, recall = common / len(found_words), common / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def answer_scores(
    gold: Mapping[str, Sequence[str]], found: Mapping[str, str], *, lang: str | None = None
) -> AnswerScores:
    """Score predictions by question id against the gold answers of each question.

    `lang` chooses MLQA's rule for that language; None SQuAD v1.1's. Where a question has no gold
    answer, as in SQuAD v2, a prediction without words is right.
    Raises: ValueError where there is no question.
    Source: Rajpurkar et al. 2016, section 6.1.
    """
    if not gold:
        raise ValueError("need at least one question to score")
    exact, f1, num_unanswered = 0, 0.0, 0
    for name, answers in gold.items():
        if name not in found:
            num_unanswered += 1
            continue
        prediction = _normalize(found[name], lang)
        wanted = [_normalize(answer, lang) for answer in answers]
        is_exact = prediction in (wanted or [""])
        exact += is_exact
        f1 += max(word_f1(prediction, answer) for answer in wanted) if wanted else float(is_exact)
    return AnswerScores(exact / len(gold), f1 / len(gold), len(gold), num_unanswered)


def _normalize(text: str, lang: str | None) -> str:
    return normalize_squad(text) if lang is None else normalize_mlqa(text, lang)
