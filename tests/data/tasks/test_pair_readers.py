"""Classified pairs, questions, Tatoeba and BUCC: what is kept, counted and refused."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from jalign.data.tasks import XNLI_NUMBERS, Answer, Question, TextPair, nli, pairs, qa
from jalign.errors import BadData


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def rows(*lines):
    return "".join("\t".join(line.split("|")) + "\n" for line in lines)


ROWS = {
    "header": rows("label|premise|hypothesis", "neutral|Er geht.|Er läuft.", "entailment|A|B"),
    "xtreme": rows("Er geht.|Er läuft.|neutral", "A|B|entailment"),
    "label in front": rows("neutral|Er geht.|Er läuft.", "entailment|A|B"),
    "id in front": rows("17|Er geht.|Er läuft.|neutral", "3|A|B|entailment"),
    "multinli": rows(
        "index|sentence1|sentence2|label1|gold_label",
        "0|Er geht.|Er läuft.|entailment|neutral",
        "1|A|B|neutral|entailment",
    ),
    "json": '{"gold_label": "neutral", "sentence1": "Er geht.", "sentence2": "Er läuft."}\n\n'
    '{"label": "entailment", "premise": "A", "hypothesis": "B", "idx": 3}\n',
}


@pytest.mark.parametrize("name", ROWS)
def test_every_form_of_nli_gives_the_same_pairs(tmp_path, name):
    wanted = [TextPair("Er geht.", "Er läuft.", "neutral"), TextPair("A", "B", "entailment")]
    assert list(nli.read(write(tmp_path / "a.tsv", ROWS[name]))) == wanted


def test_paws_x_with_and_without_header(tmp_path):
    body = ["4|Das ist gut.|Gut ist das.|1", "6|NS|Gut.|0"]
    counts = Counter()
    path = write(tmp_path / "a", rows("id|sentence1|sentence2|label", *body))
    wanted = [TextPair("Das ist gut.", "Gut ist das.", "1"), TextPair("NS", "Gut.", "0")]
    assert list(nli.read(path, counts=counts)) == wanted
    assert counts == {"pair with NS in place of a sentence": 1}
    assert list(nli.read(write(tmp_path / "b", rows(*body)))) == wanted


def test_an_id_that_looks_like_a_class_is_none(tmp_path):
    path = write(tmp_path / "a", rows("0|Ja, ja.|Gut.|1", "1|Das.|Gut.|0"))
    assert [pair.label for pair in nli.read(path)] == ["1", "0"]


def test_quotation_marks_are_text_and_an_unlabelled_file_has_no_labels(tmp_path):
    counts = Counter()
    path = write(tmp_path / "a", rows('"Ja", sagt er.|"', "b| "))
    assert list(nli.read(path, counts=counts)) == [
        TextPair('"Ja", sagt er.', '"'),
        TextPair("b", " "),
    ]
    assert counts == {"pair without a label": 2, "pair with an empty side": 1}


def test_what_has_no_gold_label_is_left_out_and_counted(tmp_path):
    counts = Counter()
    text = rows("premise|hypo|label", "a|b|-", "c|d|contradictory")
    found = list(nli.read(write(tmp_path / "a", text), counts=counts))
    assert found == [TextPair("c", "d", "contradiction")]
    assert counts == {
        "pair without a gold label (-) left out": 1,
        "contradictory read as contradiction": 1,
    }


def test_a_file_of_several_languages_needs_one_named(tmp_path):
    text = rows("language|gold_label|sentence1|sentence2", "ar|neutral|a|b", "de|neutral|c|d")
    path, counts = write(tmp_path / "a", text), Counter()
    assert list(nli.read(path, lang="de", counts=counts)) == [TextPair("c", "d", "neutral")]
    assert counts == {"pair of another language left out": 1}
    with pytest.raises(BadData, match=r"a:3: the file holds ar and de; say which"):
        list(nli.read(path))


def test_numbers_become_names_where_names_are_given(tmp_path):
    lines = [{"premise": "a", "hypothesis": "b", "label": i} for i in (0, 1, 2, -1)]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert [p.label for p in nli.read(path, names=XNLI_NUMBERS)] == list(XNLI_NUMBERS)
    assert [p.label for p in nli.read(path)] == ["0", "1", "2"]
    with pytest.raises(BadData, match="a.jsonl:3: class 2; need 0 to 1"):
        list(nli.read(path, names=("no", "yes")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: the file is empty"),
        (rows("a|b|neutral", "a|b"), ":2: 2 columns; need 3"),
        (rows("a|b|c"), ":1: 3 columns and no header; need a header that names sentence1"),
        (rows("a|b c|d|e|neutral"), ":1: 5 columns and no header"),
        ('{"premise": "a"}', ":1: need texts sentence1 and sentence2 .*; got premise"),
        ('{"premise": "a", "hypo": 3}', ":1: need texts"),
        ('{"premise": "a", "hypo": "b"}\n[1]', ":2: need a JSON object"),
        ('{"premise": "a", "hypo": "b"}\n{', ":2: not a line of JSON"),
        ('{"premise": "\\ud83d", "hypo": "b"}', ":1: half of a surrogate pair at character 0"),
    ],
)
def test_bad_pairs_are_refused_with_file_and_line(tmp_path, text, said):
    with pytest.raises(BadData, match="bad" + said):
        list(nli.read(write(tmp_path / "bad", text)))


def squad(*questions, context="Der Fluss Rhein fließt. Der Rhein ist lang."):
    paragraphs = [{"context": context, "qas": list(questions)}]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


def ask(name, *answers):
    answers = [{"answer_start": start, "text": text} for start, text in answers]
    return {"id": name, "question": f"Was {name}?", "answers": answers}


def test_questions_come_with_context_and_answers(tmp_path):
    data = squad(ask("a", (10, "Rhein"), (28, "Rhein")), ask("b", (38, "lang")))
    for name, content in (("a.json", data), ("b.json", data["data"])):
        found = list(qa.read(write(tmp_path / name, json.dumps(content))))
        assert found[0] == Question(
            "a",
            "Was a?",
            data["data"][0]["paragraphs"][0]["context"],
            (Answer(10, "Rhein"), Answer(28, "Rhein")),
        )
        assert [q.id for q in found] == ["a", "b"]


def test_wrong_starts_go_to_the_nearest_place_and_are_counted(tmp_path):
    starts = [(9, "Rhein"), (25, "Rhein"), (-7, "Rhein"), (999, "Rhein"), (0, "Donau"), (3, "")]
    counts = Counter()
    path = write(tmp_path / "a", json.dumps(squad(ask("a", *starts), ask("b"))))
    first, second = qa.read(path, counts=counts)
    assert [answer.start for answer in first.answers] == [10, 28, 10, 28, -1, -1]
    assert second.answers == ()
    assert counts == {
        "answer start mended": 4,
        "answer that is not in its context": 1,
        "answer without text": 1,
        "question without an answer": 1,
    }


def test_starts_count_characters_beyond_the_basic_plane_as_one(tmp_path):
    context = "😀 𝔘 Rhein"
    path = write(tmp_path / "a", json.dumps(squad(ask("a", (4, "Rhein")), context=context)))
    counts = Counter()
    assert next(qa.read(path, counts=counts)).answers == (Answer(4, "Rhein"),)
    assert not counts


def test_a_slice_chooses_articles(tmp_path):
    data = [squad(ask(str(i)))["data"][0] for i in range(5)]
    path = write(tmp_path / "a", json.dumps({"data": data}))
    assert [q.id for q in qa.read(path, articles=slice(3))] == ["0", "1", "2"]
    assert [q.id for q in qa.read(path, articles=slice(3, None))] == ["3", "4"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"data": [\n{"paragraphs": [}', ":2: not JSON"),
        (b'{"data":\n "\xff"}', ":2: byte 0xff is not UTF-8"),
        ("3", ":1: no list `data`"),
        ('{"data": [{}]}', r": data\[0\]: 'paragraphs' is None; need a list"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"data\[0\]\.paragraphs\[0\]: 'context'"),
        (
            json.dumps(squad({"id": "a", "answers": []})),
            r"qas\[0\]: 'question' is None; need a str",
        ),
        (
            json.dumps(squad(ask("a", ("0", "x")))),
            r"answers\[0\]: 'answer_start' is '0'; need a int",
        ),
        (json.dumps(squad(ask("a"), ask("a"))), r"qas\[1\]: a second question with id 'a'"),
        (json.dumps(squad(ask("a", (0, "\ud83d")))), r"text: half of a surrogate pair"),
    ],
)
def test_bad_questions_are_refused_with_their_place(tmp_path, text, said):
    with pytest.raises(BadData, match="bad.json.*" + said):
        list(qa.read(write(tmp_path / "bad.json", text)))


def test_tatoeba_pairs_come_by_line_without_white_space_around(tmp_path):
    src, trg = (
        write(tmp_path / "a.de", " ja \nnein\n\u3000\n"),
        write(tmp_path / "a.en", "yes\nno\nx"),
    )
    counts = Counter()
    wanted = [TextPair("ja", "yes"), TextPair("nein", "no"), TextPair("", "x")]
    assert list(pairs.read(src, trg, counts=counts)) == wanted
    assert counts == {"pair with an empty side": 1}
    longer = write(tmp_path / "b.en", "yes\nno\nx\ny\n")
    with pytest.raises(BadData, match=r"b\.en:4: .*a\.de ends after 3 lines"):
        list(pairs.read(src, longer))


def test_bucc_reads_ids_texts_and_gold(tmp_path):
    src = write(tmp_path / "a.de", "de-1\tEins\nde-2\tZwei\nde-3\tEins \n")
    trg = write(tmp_path / "a.en", "en-1\tOne\nen-2\t\n")
    gold = write(tmp_path / "a.gold", "de-1\ten-1\nde-1\ten-1\n")
    counts = Counter()
    found = pairs.read_bucc(src, trg, gold, counts=counts)
    assert found.src == (("de-1", "de-2", "de-3"), ("Eins", "Zwei", "Eins"))
    assert found.trg.texts == ("One", "")
    assert found.gold == {("de-1", "en-1")}
    assert counts == {
        "repeated sentence": 1,
        "sentence without text": 1,
        "gold pair given twice": 1,
    }
    assert pairs.read_bucc(src, trg).gold is None
    bad = {
        "de-9\ten-1\n": r"gold:1: .*a\.de has no sentence 'de-9'",
        "de-1\ten-1\nde-1\n": r"gold:2: 'de-1'; need two fields",
    }
    for text, said in bad.items():
        with pytest.raises(BadData, match=said):
            pairs.read_bucc(src, trg, write(tmp_path / "b.gold", text))
    twice = write(tmp_path / "c.de", "de-1\tEins\nde-1\tZwei\n")
    with pytest.raises(BadData, match=r"c\.de:2: a second sentence with id 'de-1'"):
        pairs.read_bucc(twice, trg)
