"""Long texts: windows cover every token once, each in the window in which it is most central."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from jalign.data.tokenizer import train_tokenizer
from jalign.errors import UserError
from jalign.inference.texts import TextTooLong, cut_texts, own_backend, windows_of
from tests.tiny import sentences

FRAME = (0, 2)


def kept_tokens(cut, text):
    """Which token of a text each kept slot is, and how central it is in its window."""
    for i in np.flatnonzero(cut.text == text):
        for slot in range(*cut.kept[i]):
            if 0 < slot < cut.items.lengths[i] - 1:
                token = cut.start[i] + slot - 1
                yield token, min(token - cut.start[i], cut.end[i] - 1 - token)


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 70), min_size=1, max_size=8),
    positions=st.integers(4, 24),
)
def test_every_token_counts_once_in_the_most_central_window(sizes, positions):
    pieces = [list(range(100, 100 + n)) for n in sizes]
    cut = cut_texts(pieces, FRAME, positions=positions)
    assert cut.items.lengths.max() <= positions
    assert cut.num_long == sum(n > positions - 2 for n in sizes)
    for text, ids in enumerate(pieces):
        windows = np.flatnonzero(cut.text == text)
        assert len(windows) == 1 or len(ids) > positions - 2
        found = dict(kept_tokens(cut, text))
        assert list(found) == list(range(len(ids))), "each once, in order"
        for token, depth in found.items():
            others = [
                min(token - cut.start[i], cut.end[i] - 1 - token)
                for i in windows
                if cut.start[i] <= token < cut.end[i]
            ]
            assert depth == max(others)
        for i in windows:
            framed = cut.items.ids[cut.items.first[i] : cut.items.first[i + 1]].tolist()
            assert framed == [FRAME[0], *ids[cut.start[i] : cut.end[i]], FRAME[1]]
        overlaps = cut.end[windows[:-1]] - cut.start[windows[1:]]
        assert (overlaps >= (positions - 2) // 4).all()
        # the frame counts once too: the first window's beginning, the last one's end
        assert cut.kept[windows[0], 0] == 0 and cut.kept[windows[-1], 1] == len(framed)
        assert sum(np.diff(cut.kept[windows])[:, 0]) == len(ids) + 2


def test_truncation_keeps_the_beginning_and_counts():
    cut = cut_texts([[7] * 9, [8, 9]], FRAME, positions=5, on_overflow="truncate")
    assert cut.items.ids.tolist() == [0, 7, 7, 7, 2, 0, 8, 9, 2]
    assert cut.num_long == 1


def test_the_error_names_the_text_its_tokens_the_limit_and_what_to_type():
    with pytest.raises(TextTooLong, match="text 43 has 11 tokens.* takes 5; type .*window"):
        cut_texts([[7], [7] * 3, [7] * 9], FRAME, positions=5, on_overflow="error", before=40)


def test_only_the_first_slot_pools_for_cls():
    cut = cut_texts([[7, 7], []], FRAME, positions=9, pool="first")
    assert cut.items.pool.tolist() == [1, 0, 0, 0, 1, 0]


def test_windows_of_texts_close_at_a_number_of_texts_or_characters():
    got = list(windows_of(iter(["a", "bb", "c" * 9, "d", "e"]), 3, 8))
    assert [(w.texts, w.before) for w in got] == [(["a", "bb", "c" * 9], 0), (["d", "e"], 3)]
    assert [len(w.texts) for w in windows_of(["aaaa"] * 5, 9, 8)] == [2, 2, 1]
    with pytest.raises(TypeError, match="text 2 is a int"):
        list(windows_of(["a", 3], 3, 8))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(sentences(0, 400), tmp_path_factory.mktemp("t") / "tokenizer", 76)


def test_a_tokenizer_that_frames_texts_otherwise_is_refused(tokenizer):
    backend = type(tokenizer.backend).from_str(tokenizer.backend.to_str())
    backend.post_processor = TemplateProcessing(
        single="<s> <s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    with pytest.raises(UserError, match="around a text.*'<s>' before and '</s>' after"):
        own_backend(replace(tokenizer, backend=backend))
