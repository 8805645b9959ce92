"""Open labelled rows, and bring their labels and answers back to their words and texts."""

from __future__ import annotations

import numpy as np

from jalign.data.rows import Layout, Specials
from jalign.data.tasks.encode import restore_tags
from jalign.data.tasks.rows import LAYOUTS, TaskData, TaskRows, make_task_rows
from jalign.data.tasks.spans import best_answers, span_text


def open_rows(tokenizer, data: TaskData, max_unit=64, row_length=128, once=True, **changes):
    specials = Specials(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    layout = Layout(LAYOUTS[data.kind], row_length, max_unit)
    return make_task_rows(data, tokenizer, ("de", "en"), layout, specials, once=once, **changes)


def by_example(rows: TaskRows, batch, name: str) -> dict[int, np.ndarray]:
    """Collect a field by example number, through `places`."""
    return {
        number: batch[name][r, begin:end]
        for r in range(len(batch["ids"]))
        for number, begin, end in rows.places(r)
    }


def all_rows(rows: TaskRows):
    return rows.rows(0, rows.packed.num_rows)


def check_tags(rows: TaskRows, labels):
    """Bring the rows' own labels back to the words: they must be the gold tags."""
    label = by_example(rows, all_rows(rows), "label")
    [file] = rows.files
    predicted = [label[n][1:-1] for n in range(len(file.windows))]
    found = restore_tags(file.windows, predicted, [len(s.words) for s in file.records])
    assert [tuple(labels[i] for i in tags) for tags in found] == [s.tags for s in file.records]


def check_answers(rows: TaskRows) -> tuple[int, int]:
    """Answer with the marks of the rows as scores: what comes back is the gold span.

    Return how many answers a window has, and how many of these its window may give: an answer
    begins where its window has most context, so that a long one at an edge may be out of reach.
    """
    batch = all_rows(rows)
    marks = [by_example(rows, batch, name) for name in ("answer_start", "answer_end")]
    [file] = rows.files
    scores, gold, reached = [], {}, set()
    for number, window in enumerate(file.windows):
        begin = window.question_ids.size + 2
        at = slice(begin, begin + window.context.ids.size)
        assert marks[0][number].size == at.stop + 1
        scores.append(tuple(mark[number][at].astype(np.float32) for mark in marks))
        if window.start >= 0:
            question = file.records[window.question]
            text = span_text(question.context, window.context, window.start, window.stop)
            assert gold.setdefault(question.id, text) == text  # the same from every window
            assert question.answers[0].text.strip() in text
            reached |= {question.id} if window.charged[window.start] else set()
    found = best_answers(file.records, file.windows, scores, max_pieces=400)
    assert {name: found[name] for name in reached} == {name: gold[name] for name in reached}
    return len(gold), len(reached)
