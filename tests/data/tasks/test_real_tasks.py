"""The real task files: all of their examples are read, and each gold label and answer survives
tokenising, windows and the way back.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from jalign.data.tasks import LABELS, conllu, ner, nli, pairs, qa
from jalign.data.tasks.encode import encode_pairs, encode_tags, restore_tags
from jalign.data.tasks.rows import TaskData
from jalign.data.tasks.spans import best_answers, encode_questions, span_text
from jalign.data.tokenizer import train_tokenizer
from jalign.metrics.span_f1 import span_scores
from jalign.metrics.squad import answer_scores
from tests.data.tasks.labelled_rows import (
    all_rows,
    by_example,
    check_answers,
    check_tags,
    open_rows,
)


def tagged_files(folder):
    """List the files of tagged sentences, each with its reader."""
    trees = [(path, conllu.read) for path in sorted(folder.glob("pos/*.conllu.gz"))]
    columns = sorted([*folder.glob("ner/*.iob2.gz"), *folder.glob("pos/*.txt.gz")])
    return trees + [(path, ner.read) for path in columns]


def stated(folder):
    """Read from the table of the data how many of what each file has."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \|.*\| ([^|]*) \|$", text, re.MULTILINE)
    return {
        name: {
            what: int(num) for num, what in re.findall(r"(\d+) (sentence|word|pair|question)", c)
        }
        for name, c in rows
    }


@pytest.fixture(scope="module")
def counted(shared_data):
    if not (shared_data / "README.md").is_file():
        pytest.skip("the real corpora have no README.md with their counts")
    return stated(shared_data)


@pytest.fixture(scope="module")
def tokenizer(shared_data, tmp_path_factory):
    """Train a tokenizer on some of every language, the usual thing in small."""

    def texts():
        for path in sorted(shared_data.glob("qa/*.json.gz")):
            yield from dict.fromkeys(q.context for q in qa.read(path, articles=slice(4)))
        for path, read in tagged_files(shared_data):
            yield from (" ".join(s.words) for s in islice(read(path), 20))

    return train_tokenizer(texts(), tmp_path_factory.mktemp("tokenizer"), 3000)


@pytest.fixture(scope="module")
def tagged(shared_data):
    """Read all tagged sentences: (sentences, counts) by path."""
    found = {}
    for path, read in tagged_files(shared_data):
        counts = Counter()
        found[path] = list(read(path, counts=counts)), counts
    return found


def test_every_tagged_sentence_is_read(tagged, counted):
    assert tagged
    for path, (sentences, counts) in tagged.items():
        want = counted[path.name]
        assert len(sentences) == want["sentence"], path.name
        num_words = sum(len(s.words) for s in sentences)
        assert num_words == want.get("word", num_words), path.name
        assert not {k for k in counts if "left out" in k or "I- tag" in k}, (path.name, counts)


def test_treebanks_hold_the_universal_tags_and_wikiann_those_of_panx(tagged):
    for path, (sentences, _) in tagged.items():
        tags = {tag for s in sentences for tag in s.tags}
        if ".conllu" in path.name:
            assert tags <= set(LABELS["udpos"]), path.name
        if "wikiann" in path.name:
            assert tags == set(LABELS["panx"]), path.name


def check_tags_survive(name, sentences, tokenizer):
    labels = sorted({tag for s in sentences for tag in s.tags})
    counts = Counter()
    windows = list(encode_tags(tokenizer, sentences, labels, max_unit=48, counts=counts))
    restored = restore_tags(windows, [w.label for w in windows], [len(s.words) for s in sentences])
    found = [[labels[i] for i in numbers] for numbers in restored]
    gold = [list(s.tags) for s in sentences]
    assert found == gold, name
    # a URL may be longer than a window: its first pieces stay
    lost = "pieces of words longer than a window left out"
    assert set(counts) <= {"sentence cut into windows", lost}
    assert len({w.sentence for w in windows}) == len(sentences)
    assert span_scores(gold, found).micro.f1 == 1.0
    return counts


def test_every_tag_of_a_sample_survives(tagged, tokenizer):
    total = Counter()
    for path, (sentences, _) in tagged.items():
        total += check_tags_survive(path.name, sentences[:: 1 + len(sentences) // 200], tokenizer)
    assert total["sentence cut into windows"] > 50  # the sample has long sentences


@pytest.mark.slow
def test_every_tag_of_every_file_survives(tagged, tokenizer):
    for path, (sentences, _) in tagged.items():
        check_tags_survive(path.name, sentences, tokenizer)


def check_answers_survive(path, questions, tokenizer):
    counts = Counter()
    windows = list(encode_questions(tokenizer, questions, counts=counts))
    found = {}
    for window in windows:
        if window.start >= 0:
            question = questions[window.question]
            text = span_text(question.context, window.context, window.start, window.stop)
            assert question.answers[0].text.strip() in text
            assert found.setdefault(question.id, text) == text  # the same from every window
    assert len(found) == len(questions) and not counts["answer in no window"], path.name
    gold = {q.id: [a.text for a in q.answers] for q in questions}
    same = sum(found[name] == answers[0] for name, answers in gold.items())
    assert len(questions) - same == counts["answer that whole pieces widen"]
    scores = [gold_scores(window) for window in windows]
    assert best_answers(questions, windows, scores, max_pieces=400) == found
    return same / len(gold), answer_scores(gold, found, lang=path.name.split(".")[1])


def test_every_answer_of_some_articles_survives_in_every_language(shared_data, tokenizer):
    for path in sorted(shared_data.glob("qa/*.json.gz")):
        questions = list(qa.read(path, articles=slice(2, None, 6)))
        same, scores = check_answers_survive(path, questions, tokenizer)
        # what is widened: quotation marks; words written together, as Arabic wa-, Chinese measures
        assert same > 0.95 and scores.exact > 0.98 and scores.f1 > 0.99, (path.name, same, scores)


@pytest.mark.slow
def test_every_answer_survives_in_every_language(shared_data, tokenizer, counted):
    for path in sorted(shared_data.glob("qa/*.json.gz")):
        questions = list(qa.read(path))
        assert len(questions) == counted[path.name]["question"]
        same, scores = check_answers_survive(path, questions, tokenizer)
        assert same > 0.97 and scores.exact > 0.99 and scores.f1 > 0.995, (path.name, same, scores)


def gold_scores(window):
    """Score the pieces as a model would that knows the answer."""
    score = np.zeros((2, window.context.ids.size), np.float32)
    if window.start >= 0:
        score[0, window.start] = score[1, window.stop] = 5
    return score


def test_every_pair_is_read_and_keeps_its_class(shared_data, tokenizer, counted):
    files = sorted(shared_data.glob("nli/*.tsv.gz"))
    assert files
    for path in files:
        task = path.name.split(".")[0]
        examples = list(nli.read(path))
        assert len(examples) == counted[path.name]["pair"], path.name
        assert {pair.label for pair in examples} == set(LABELS[task])
        sample = examples[::29]
        encoded = list(encode_pairs(tokenizer, sample, LABELS[task], max_unit=128))
        assert [LABELS[task][e.label] for e in encoded] == [p.label for p in sample]


def test_every_tatoeba_pair_is_read(shared_data, counted):
    files = sorted(shared_data.glob("retrieval/tatoeba.*-eng.eng"))
    assert files
    for path in files:
        other = path.with_name(f"{path.stem}.{path.stem.split('.')[1].split('-')[0]}")
        counts = Counter()
        assert len(list(pairs.read(other, path, counts=counts))) == counted[path.name]["sentence"]
        assert not counts


def check_tagged_rows(path, read, tokenizer, limit=0):
    labels = tuple(sorted({tag for s in read(path) for tag in s.tags}))
    name = "conllu" if ".conllu" in path.name else "ner"
    data = TaskData(name, (f"en={path}",), labels, limit=limit)
    rows = open_rows(tokenizer, data, max_unit=48, row_length=256)
    check_tags(rows, labels)
    return rows


def test_the_rows_of_a_sample_give_every_tag_back(shared_data, tokenizer):
    for path, read in tagged_files(shared_data)[::5]:
        rows = check_tagged_rows(path, read, tokenizer, limit=150)
        assert len(rows.files[0].records) >= 138 and "tag" not in str(rows.counts)


@pytest.mark.slow
def test_the_rows_of_every_tagged_file_give_every_tag_back(shared_data, tokenizer, counted):
    for path, read in tagged_files(shared_data):
        rows = check_tagged_rows(path, read, tokenizer)
        assert len(rows.files[0].records) == counted[path.name]["sentence"]


@pytest.mark.parametrize("lang", ["ar", "zh"])
def test_the_rows_of_some_articles_give_every_answer_back(shared_data, tokenizer, lang):
    data = TaskData("qa", (f"{lang}={shared_data}/qa/xquad.{lang}.json.gz",), skip=3, limit=4)
    rows = open_rows(tokenizer, data, max_unit=256, row_length=512)
    num = len(rows.files[0].records)
    assert check_answers(rows) == (num, num) and num > 50
    assert rows.counts["context in several windows"] > 10


@pytest.mark.slow
def test_the_rows_of_every_question_file_give_every_answer_back(shared_data, tokenizer, counted):
    for path in sorted(shared_data.glob("qa/*.json.gz")):
        rows = open_rows(tokenizer, TaskData("qa", (f"en={path}",)), max_unit=384, row_length=512)
        num = counted[path.name]["question"]
        assert check_answers(rows) == (num, num) and not rows.counts["answer in no window"]


def test_the_rows_of_pairs_give_every_class_back(shared_data, tokenizer):
    for name in ("xnli.en.dev", "xnli.sw.dev", "pawsx.de.dev"):
        labels = LABELS[name.split(".")[0]]
        data = TaskData("nli", (f"en={shared_data}/nli/{name}.tsv.gz",), labels, limit=300)
        rows = open_rows(tokenizer, data, max_unit=128, row_length=256)
        label = by_example(rows, all_rows(rows), "label")
        records = rows.files[0].records
        assert [labels[label[n][0]] for n in range(300)] == [pair.label for pair in records]
