"""Turn texts into items: tokenise, frame with the special tokens, cut what is too long.

Pieces are those of the tokenizer on the whole text, as Hugging Face gives them. A text that exceeds
the encoder's positions becomes overlapping windows, each framed; every token counts in the window
in which it is most central.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jalign.data.tokenizer import Tokenizer
from jalign.errors import UserError
from jalign.inference.plan import Items, ranges

OVERFLOW = ("window", "error", "truncate")
OVERLAP = 4  # neighbouring windows share at least a quarter
FRAME = 2  # special tokens around a text
_PROBES = ("One two, three four", "")


class TextTooLong(UserError):
    """Stop because of a text longer than the encoder; `number` counts from 1."""

    def __init__(self, number: int, tokens: int, limit: int, place: str = "") -> None:
        """Say which text it is, how long, and what to type."""
        super().__init__(
            f"{place or f'text {number}'} has {tokens} tokens with the special ones, and this "
            f"encoder takes {limit}; type on_overflow='window' (--on-overflow=window) to encode it "
            "in overlapping windows, 'truncate' to cut it, or split it."
        )
        self.number, self.tokens, self.limit = number, tokens, limit

    def at(self, place: str) -> TextTooLong:
        """Return the same error for a text that came from `place`."""
        return TextTooLong(self.number, self.tokens, self.limit, place)


class Cut(NamedTuple):
    """Items made of texts: item i is the tokens [start[i], end[i]) of text `text[i]`, framed.

    Of its slots, [kept[i, 0], kept[i, 1]) count; the items of a text lie side by side.
    """

    items: Items
    text: np.ndarray
    start: np.ndarray
    end: np.ndarray
    kept: np.ndarray
    num_texts: int
    num_long: int

    @property
    def firsts(self) -> np.ndarray:
        """Return the first item of each text."""
        return np.searchsorted(self.text, np.arange(self.num_texts))


class Window(NamedTuple):
    """Texts that are planned together, and how many came `before`."""

    texts: list[str]
    before: int


def windows_of(texts: Iterable[str], most: int, most_chars: int) -> Iterator[Window]:
    """Group texts: at most `most`, closed after `most_chars` characters.

    Raises: TypeError for what is no text.
    """
    window, chars = Window([], 0), 0
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise TypeError(f"text {number} is a {type(text).__name__}, need a str")
        window.texts.append(text)
        chars += len(text)
        if len(window.texts) == most or chars >= most_chars:
            yield window
            window, chars = Window([], number), 0
    if window.texts:
        yield window


def own_backend(tokenizer: Tokenizer) -> Any:
    """Copy the backend so that it reads special tokens in texts, as Hugging Face does.

    Raises: UserError where it frames a text with other tokens than its first and last ones.
    """
    backend = type(tokenizer.backend).from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = False
    for probe in _PROBES:
        bare = backend.encode(probe, add_special_tokens=False).ids
        framed = backend.encode(probe, add_special_tokens=True).ids
        ours = [tokenizer.bos_id, *bare, tokenizer.eos_id]
        if framed != ours:
            names = [backend.id_to_token(i) for i in framed if i not in bare]
            raise UserError(
                f"this tokenizer puts {names} around a text, and jalign needs exactly "
                f"{backend.id_to_token(tokenizer.bos_id)!r} before and "
                f"{backend.id_to_token(tokenizer.eos_id)!r} after it; correct the post_processor "
                "in its tokenizer.json."
            )
    return backend


def cut_texts(
    pieces: Sequence[Sequence[int]],
    frame: tuple[int, int],
    *,
    positions: int,
    on_overflow: str = "window",
    pool: str = "mean",
    before: int = 0,
) -> Cut:
    """Make items of tokenised texts; `pool` marks all slots that count ("mean") or the first.

    `before`: texts that came earlier, for the number in an error. Raises: TextTooLong.
    """
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    long = sizes > positions - FRAME
    if on_overflow == "error" and long.any():
        number = int(np.flatnonzero(long)[0])
        raise TextTooLong(before + number + 1, int(sizes[number]) + FRAME, positions)
    ends = np.minimum(sizes, positions - FRAME) if on_overflow == "truncate" else sizes
    text, start, end, kept = _split(ends, positions - FRAME)
    flat = np.fromiter((i for ids in pieces for i in ids), np.int32, int(sizes.sum()))
    items = _frame(flat, np.cumsum(sizes) - sizes, (text, start, end, kept), frame, pool)
    return Cut(items, text, start, end, kept, len(pieces), int(long.sum()))


def _split(sizes: np.ndarray, room: int) -> tuple[np.ndarray, ...]:
    """Return the text, first token, end and kept slots of every window; short texts have one."""
    num_windows = 1 + np.maximum(0, -(-(sizes - room) // (room - room // OVERLAP)))
    text = np.repeat(np.arange(sizes.size), num_windows)
    index = np.arange(text.size) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    last = num_windows[text] - 1
    # spread evenly, so that no window has less context than another
    start = index * np.maximum(0, sizes[text] - room) // np.maximum(last, 1)
    end = np.minimum(start + room, sizes[text])
    kept = np.stack([np.zeros_like(start), end - start + FRAME], axis=1)
    follows = np.flatnonzero(index > 0)
    middle = (start[follows] + end[follows - 1] - 1) // 2 + 1  # the first token that is theirs
    kept[follows, 0] = middle - start[follows] + 1  # a frame's token is slot 0
    kept[follows - 1, 1] = middle - start[follows - 1] + 1
    return text, start, end, kept


def _frame(flat, offsets, spans, frame, pool) -> Items:
    text, start, end, kept = spans
    sizes = end - start + FRAME
    first = np.concatenate([[0], np.cumsum(sizes)])
    ids = np.empty(first[-1], np.int32)
    ids[ranges(first[:-1] + 1, sizes - FRAME)] = flat[ranges(offsets[text] + start, sizes - FRAME)]
    ids[first[:-1]], ids[first[1:] - 1] = frame
    position = (np.arange(ids.size) - np.repeat(first[:-1], sizes)).astype(np.int32)
    if pool == "mean":
        low, high = (np.repeat(kept[:, i], sizes) for i in (0, 1))
        pooled = (position >= low) & (position < high)
    else:
        pooled = position == 0
    return Items(first, ids, position, np.ones_like(ids), pooled.astype(np.int32))
