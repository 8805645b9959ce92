"""Labelled rows: fields by hand, every label and answer back from the rows, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign import config
from jalign.data.pipeline import StreamConfig, make_stream
from jalign.data.records import Manifest
from jalign.data.rows import Specials
from jalign.data.tasks.rows import TaskData, TaskRows
from jalign.data.tasks.spans import span_text
from jalign.errors import BadData, ConfigError, UserError
from tests.data.tasks.labelled_rows import (
    all_rows,
    by_example,
    check_answers,
    check_tags,
    open_rows,
)

UPOS = ("ADJ", "NOUN", "VERB")
NLI = ("contradiction", "entailment", "neutral")
TREE = """\
1\tThe\t_\tADJ\t_\t_\t0\troot\t_\t_
2\tfoxes\t_\tNOUN\t_\t_\t0\troot\t_\t_

1\t\u200b\t_\tX\t_\t_\t0\troot\t_\t_
2\tजुम्प Văn\t_\tVERB\t_\t_\t0\troot\t_\t_

"""
PAIRS = "The fox\tDer Fuchs\tneutral\nлиса\t敏捷的\tentailment\nfox\t\tneutral\n"


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return f"en={path}"


def tree(words: list[tuple[str, str]]) -> str:
    lines = [
        f"{i}\t{word}\t_\t{tag}\t_\t_\t0\troot\t_\t_" for i, (word, tag) in enumerate(words, 1)
    ]
    return "\n".join(lines) + "\n\n"


def squad(*articles: list[tuple[str, list]]) -> str:
    """Write articles of paragraphs (context, [(answer start, text) or () for no answer])."""
    data = []
    for a, paragraphs in enumerate(articles):
        qas = [
            [
                {
                    "id": f"{a}.{p}.{q}",
                    "question": "Which fox?",
                    "answers": [{"answer_start": at[0], "text": at[1]}] if at else [],
                }
                for q, at in enumerate(answers)
            ]
            for p, (_, answers) in enumerate(paragraphs)
        ]
        data.append(
            {
                "title": "t",
                "paragraphs": [
                    {"context": c, "qas": q} for (c, _), q in zip(paragraphs, qas, strict=True)
                ],
            }
        )
    return json.dumps({"data": data})


def test_tags_lie_on_first_pieces_in_the_row(tokenizers, tmp_path):
    tokenizer = tokenizers["sentencepiece"]
    data = TaskData("conllu", (write(tmp_path / "a", TREE),), UPOS)
    rows = open_rows(tokenizer, data)
    batch = rows.rows(0, 1)
    sentences = [["The", "foxes"], ["\u200b", "जुम्प Văn"]]
    classes = [[0, 1], [-1, 2]]
    at = 0
    for number, begin, end in rows.places(0):
        assert begin == at
        pieces = [tokenizer.encode_words([word])[0][0].tolist() for word in sentences[number]]
        ids = [tokenizer.bos_id, *(i for p in pieces for i in p), tokenizer.eos_id]
        rest = [[-1] * (len(p) - 1) for p in pieces]
        labels = sum(([k, *r] for k, r in zip(classes[number], rest, strict=True)), [])
        assert batch["ids"][0, begin:end].tolist() == ids
        assert batch["label"][0, begin:end].tolist() == [-1, *labels, -1]
        assert batch["lang"][0, begin:end].tolist() == [1] * len(ids)
        at = end
    assert (batch["label"][0, at:] == -1).all() and (batch["example"][0, at:] == 0).all()
    assert batch["label"].dtype == np.int32 and set(rows.fields) == set(batch)
    assert rows.counts["tag X that is no label"] == 1
    assert rows.counts["word without a piece"] == 1  # the zero-width space, read as unk
    assert rows.kind == "tag" and rows.labels == UPOS and rows.num_examples == 2


def test_the_class_of_a_pair_lies_on_its_first_slot(tokenizer, tmp_path):
    data = TaskData("nli", (write(tmp_path / "a", PAIRS),), NLI)
    rows = open_rows(tokenizer, data)
    batch = all_rows(rows)
    labels = by_example(rows, batch, "label")
    assert {n: (x[0], set(x[1:].tolist())) for n, x in labels.items()} == {
        0: (2, {-1}),
        1: (1, {-1}),
        2: (2, {-1}),
    }
    for number, ids in by_example(rows, batch, "ids").items():
        first, second = PAIRS.splitlines()[number].split("\t")[:2]
        texts = [ids.tolist() for ids, _ in tokenizer.encode_words([first, second])]
        frame = [[tokenizer.bos_id], texts[0], [tokenizer.eos_id], texts[1], [tokenizer.eos_id]]
        assert ids.tolist() == sum(frame, [])
    assert rows.counts == {"pair with an empty side": 1, "side without text": 1}


def test_answers_lie_in_the_context_and_at_the_first_slot_where_a_window_has_none(
    tokenizers, tmp_path
):
    tokenizer = tokenizers["sentencepiece"]
    context = "The quick brown fox jumps over the lazy dog, twice and again in 1998."
    answers = [(16, "fox"), (-1, "Katze"), (), (0, context)]
    path = write(tmp_path / "a", squad([(context, answers)]))
    rows = open_rows(tokenizer, TaskData("qa", (path,), stride=8), max_unit=40, row_length=80)
    batch = all_rows(rows)
    windows = rows.examples
    assert Counter(w.question for w in windows)[0] > 1
    marks = {name: by_example(rows, batch, name) for name in ("answer_start", "answer_end")}
    side = by_example(rows, batch, "side")
    for number, window in enumerate(windows):
        start, end = (np.flatnonzero(marks[name][number]).tolist() for name in marks)
        begin = np.flatnonzero(side[number] == 2)[0]
        if window.question in (1, 3):  # nowhere, and longer than any window: nothing to learn
            assert start == end == []
        elif window.start >= 0:
            assert [x - begin for x in start + end] == [window.start, window.stop]
            text = span_text(context, window.context, start[0] - begin, end[0] - begin)
            assert text == "fox"
        else:
            assert start == end == [0]
    assert rows.counts["question without a label"] == 2
    assert rows.counts["answer in no window"] == 1
    assert rows.counts["answer that is not in its context"] == 1


WORDS = st.sampled_from("fox Fuchs лису 敏捷的棕色 الثعلب कूदती สุนัข 여우가 . \u200b ﷺ".split())
SENTENCES = st.lists(
    st.lists(st.tuples(WORDS, st.sampled_from(UPOS)), min_size=1, max_size=30),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(SENTENCES, st.integers(4, 40), st.sampled_from(["bytes", "wordpiece"]))
def test_every_tag_survives_rows_and_the_way_back(
    tokenizers, tmp_path_factory, sentences, max_unit, kind
):
    path = tmp_path_factory.mktemp("tags") / "a"
    data = TaskData("conllu", (write(path, "".join(map(tree, sentences))),), UPOS)
    check_tags(open_rows(tokenizers[kind], data, max_unit, max(max_unit, 48)), UPOS)


def test_every_answer_survives_rows_and_the_way_back(tokenizer, tmp_path):
    context = "Der Fuchs (敏捷的) лиса; الثعلب ﬁn 1998. x\u0323\u0308y लोमड़ी 여우가 " * 3
    words = context.split()
    answers = [(context.index(word), word) for word in words[:9]]
    path = write(tmp_path / "a", squad([(context, answers)]))
    rows = open_rows(tokenizer, TaskData("qa", (path,), stride=16), max_unit=60, row_length=128)
    assert check_answers(rows) == (len(answers),) * 2 and len(rows.examples) > len(answers)


def test_training_rows_hold_the_same_examples_as_evaluation_rows(tokenizers, tmp_path):
    text = "".join(tree([("fox", "NOUN")] * n + [("jumps", "VERB")]) for n in range(1, 40))
    data = TaskData("conllu", (write(tmp_path / "a", text),), UPOS)
    once, endless = (open_rows(tokenizers["bytes"], data, once=x, seed=3) for x in (True, False))
    wanted = by_example(once, all_rows(once), "label")
    seen = {}
    for row in range(3 * once.packed.num_rows):
        batch = endless.rows(row, 1)
        for number, begin, end in endless.places(row):
            np.testing.assert_array_equal(batch["label"][0, begin:end], wanted[number])
            seen[number] = seen.get(number, 0) + 1
    assert seen.keys() == wanted.keys()
    assert not endless.examples and not endless.files[0].records  # nothing kept that is not used


def test_files_are_parts_of_a_mixture_and_examples_are_numbered_through(tokenizers, tmp_path):
    paths = [write(tmp_path / name, tree([(name, "NOUN")]) * 2) for name in ("one", "two")]
    specs = (paths[0], paths[1].replace("en=", "de="))
    rows = open_rows(tokenizers["bytes"], TaskData("conllu", specs, UPOS))
    lang = by_example(rows, all_rows(rows), "lang")
    assert {n: set(x.tolist()) for n, x in lang.items()} == {0: {1}, 1: {1}, 2: {0}, 3: {0}}
    assert [name for name, _ in rows.records(0)] == [f"conllu/{s}" for s in specs for _ in (0, 1)]


def test_skip_and_limit_split_a_file(tokenizers, tmp_path):
    path = write(tmp_path / "a", "".join(f"a{i}\tb\tneutral\n" for i in range(7)))
    data = TaskData("nli", (path,), NLI)
    parts = ({}, {"limit": 3}, {"skip": 3}, {"skip": 2, "limit": 2})
    opened = [open_rows(tokenizers["bytes"], replace(data, **part)) for part in parts]
    kept = [[pair.first for pair in rows.files[0].records] for rows in opened]
    names = [f"a{i}" for i in range(7)]
    assert kept == [names, names[:3], names[3:], names[2:4]]
    path = write(tmp_path / "q", squad(*[[("The fox", [(4, "fox")] * 2)]] * 5))
    data = TaskData("qa", (path,))
    for part, articles in ((replace(data, limit=2), "01"), (replace(data, skip=2), "234")):
        rows = open_rows(tokenizers["bytes"], part)
        wanted = [f"{a}.0.{q}" for a in articles for q in "01"]
        assert [q.id for q in rows.files[0].records] == wanted


def test_a_file_of_several_languages_gives_the_one_that_is_named(tokenizers, tmp_path):
    text = "language\tsentence1\tsentence2\tgold_label\nen\tA\tB\tneutral\nde\tC\tD\tneutral\n"
    path = write(tmp_path / "a", text)
    for spec, options, first in ((path, {}, "A"), (path, {"lang": "de"}, "C")):
        rows = open_rows(tokenizers["bytes"], TaskData("nli", (spec,), NLI, options=options))
        assert [pair.first for pair in rows.files[0].records] == [first]
        assert rows.counts == {"pair of another language left out": 1}


def test_what_cannot_be_learnt_from_is_refused_and_what_is_odd_is_counted(tokenizers, tmp_path):
    tokenizer = tokenizers["sentencepiece"]
    good = write(tmp_path / "good", tree([("fox", "NOUN")]))
    empty = write(tmp_path / "empty", "")
    other = write(tmp_path / "other", tree([("fox", "NN")]))
    with pytest.raises(BadData, match="empty: no example, skip=0"):
        open_rows(tokenizer, TaskData("conllu", (empty,), UPOS))
    with pytest.raises(
        BadData,
        match="no example has a label, so there is nothing to learn. .*tag NN that is no label: 1",
    ):
        open_rows(tokenizer, TaskData("conllu", (other,), UPOS), once=False)
    rows = open_rows(tokenizer, TaskData("conllu", (good, empty, other), UPOS))
    assert rows.counts == {"file without examples": 1, "tag NN that is no label": 1}
    assert [file.counts for file in rows.files] == [
        {},
        {"file without examples": 1},
        {"tag NN that is no label": 1},
    ]
    pairs = write(tmp_path / "pairs", "a\tb\t1\n")
    with pytest.raises(BadData, match="pairs: pair 0: class '1'; need one of contradiction"):
        open_rows(tokenizer, TaskData("nli", (pairs,), NLI))
    with pytest.raises(UserError, match="cannot read"):
        open_rows(tokenizer, TaskData("conllu", ("en=absent",), UPOS))
    long = write(tmp_path / "long", tree([("fox", "NOUN")] * 99 + [("x" * 99, "VERB")]))
    rows = open_rows(tokenizer, TaskData("conllu", (long,), UPOS), max_unit=20)
    assert rows.counts["sentence cut into windows"] == 1
    assert rows.counts["pieces of words longer than a window left out"] > 0
    check_tags(rows, UPOS)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (dict(format="conll"), r"format='conll'. Did you mean 'conllu'\? Set format to one"),
        (dict(files=("en=a",)), "format is empty, and there are files"),
        (dict(format="conllu", files=("a.conllu",), labels=UPOS), "'a.conllu': need LANG=PATH"),
        (dict(format="conllu"), "name all classes"),
        (dict(format="ner", labels=("O", "O")), "O stands there twice"),
        (dict(format="qa", labels=UPOS), "have no classes"),
        (dict(format="nli", labels=NLI, skip=-1), "skip=-1: need 0 or more"),
        (dict(format="ner", labels=UPOS, options={"column": 1}), "options of ner files are: none"),
        (
            dict(format="conllu", labels=UPOS, options={"column": "pos"}),
            "options.column='pos': need one of id, form, lemma, upos",
        ),
    ],
)
def test_wrong_entries_are_refused_with_what_to_type(entries, said):
    with pytest.raises(ConfigError, match=f"^config.streams.pos.task: .*{said}"):
        config.build(
            StreamConfig, dict(layout="single", rows=2, task=entries), "config.streams.pos"
        )


def manifest_of(tmp_path):
    return Manifest(tmp_path, "", ("en",), "", 0, ())


def test_a_stream_with_a_task_is_a_stream_of_task_rows(tokenizers, tmp_path):
    tokenizer, manifest = tokenizers["bytes"], manifest_of(tmp_path)
    specials = Specials(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    task = TaskData("conllu", (write(tmp_path / "a", TREE * 9),), UPOS)
    cfg = StreamConfig("single", 2, 64, task=task)

    def make(cfg=cfg, **changes):
        return make_stream(manifest, specials, "pos", cfg, tokenizer=tokenizer, **changes)

    one, same, other = make(seed=1), make(seed=1), make(seed=2)
    assert isinstance(one, TaskRows) and {"label", "row"} < set(one.fields)
    batches = [stream.rows(0, 8) for stream in (one, same, other)]
    for name in one.fields:
        np.testing.assert_array_equal(batches[0][name], batches[1][name])
    assert (batches[0]["ids"] != batches[2]["ids"]).any()
    assert make(once=True).packed.num_rows >= 1
    with pytest.raises(ConfigError, match="config.streams.pos: data of format 'conllu' need layo"):
        make(replace(cfg, layout="joint"))
    with pytest.raises(ConfigError, match="config.streams.pos: task.files is empty"):
        make(replace(cfg, task=replace(task, files=())))
    with pytest.raises(ValueError, match="have no heldout part"):
        make(split="heldout")
    with pytest.raises(ValueError, match="swap: not for a stream of labelled files"):
        replace(cfg, swap=True)
    with pytest.raises(ValueError, match="needs the tokenizer"):
        make_stream(manifest, specials, "pos", cfg)
