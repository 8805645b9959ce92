"""Make the same batches of joint sentence pairs for every competitor: `<s> src </s> trg </s>`.

Without --data: gettext pairs of ten languages from ../shared/data/bitext, or else the message
catalogues of the installed Django. Token boundaries are those of a real SentencePiece model; ids
beyond the vocabulary of the benchmark are folded into it, since time depends on lengths and on the
size of the vocabulary only.
"""

from __future__ import annotations

import glob
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jalign.data.packing import Bins

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIALS = (BOS, PAD, EOS, UNK)
DJANGO_LOCALES = ("ar", "de", "es", "fr", "hi", "ja", "ru", "tr", "vi", "zh_Hans")


@dataclass(frozen=True)
class Pair:
    """One joint pair: its ids, and the side of each slot (0 on specials)."""

    ids: np.ndarray
    side: np.ndarray


@dataclass(frozen=True)
class Step:
    """The sentences of one optimiser step, and the packed row of each."""

    pairs: list[Pair]
    row: list[int]

    @property
    def num_tokens(self) -> int:
        """Count real tokens: every slot that is not padding."""
        return sum(p.ids.size for p in self.pairs)


def read_lines(paths: list[str], per_file: int) -> Iterator[tuple[str, str]]:
    """Yield up to `per_file` (src, trg) of each TSV file, spread evenly over the file."""
    for path in paths:
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            lines = [line.rstrip("\n").split("\t") for line in file]
        stride = max(1, len(lines) // per_file)
        yield from ((line[0], line[1]) for line in lines[::stride] if len(line) >= 2)


def read_django() -> Iterator[tuple[str, str]]:
    """Yield the translated messages of the installed Django."""
    import gettext

    import django

    root = Path(django.__file__).parent
    for locale in DJANGO_LOCALES:
        for path in sorted(root.glob(f"**/locale/{locale}/LC_MESSAGES/django.mo")):
            with path.open("rb") as file:
                messages = gettext.GNUTranslations(file)._catalog
            yield from ((s, t) for s, t in messages.items() if isinstance(s, str) and s and t)


def load_tokenizer(path: str | None, texts: list[tuple[str, str]]):
    """Load a SentencePiece model, or train one of 8,000 pieces on the pairs."""
    import io

    import sentencepiece as spm

    default = SHARED / "tokenizers" / "use_multilingual_v3.sp.model"
    if path or default.exists():
        return spm.SentencePieceProcessor(model_file=path or str(default))
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=(side for pair in texts for side in pair),
        model_writer=model,
        vocab_size=8000,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def load_pairs(
    data: list[str], tokenizer: str | None, vocab: int, max_length: int, seed: int = 0
) -> list[Pair]:
    """Tokenise, keep the joint pairs of at most `max_length` slots, shuffle."""
    paths = [p for pattern in data for p in sorted(glob.glob(pattern))]
    if not data:
        paths = sorted(glob.glob(str(SHARED / "bitext" / "gettext.en-*.tsv.gz")))
    texts = list(read_lines(paths, 3000) if paths else read_django())
    model = load_tokenizer(tokenizer, texts)
    room = vocab - len(SPECIALS) - 1  # the last id is <mask>
    pairs = []
    encoded = (model.encode([pair[side] for pair in texts]) for side in (0, 1))
    for src, trg in zip(*encoded, strict=True):
        length = len(src) + len(trg) + 3
        if not src or not trg or length > max_length:
            continue
        words = [np.array(x) % room + len(SPECIALS) for x in (src, trg)]
        ids = np.concatenate([[BOS], words[0], [EOS], words[1], [EOS]]).astype(np.int32)
        side = np.zeros(length, np.int32)
        side[1 : 1 + len(src)], side[2 + len(src) : -1] = 1, 2
        pairs.append(Pair(ids, side))
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs[i] for i in order]


def make_steps(pairs: list[Pair], rows: int, length: int, num: int) -> list[Step]:
    """Choose the sentences of each step so that they fill `rows` packed rows of `length` slots.

    Like a packing loader: most of a step in order, then whichever of the next few fit; the others
    wait for the next step. All competitors get the same sentences.
    """
    queue, steps = list(pairs), []
    for _ in range(num):
        total = np.cumsum([p.ids.size for p in queue[: rows * length // 4]])
        due = int(np.searchsorted(total, 0.97 * rows * length))
        if due >= len(queue):
            raise SystemExit(
                f"{len(pairs)} pairs do not make {num} steps: give more with --data FILE.tsv"
            )
        bins = Bins(rows, length)
        row = bins.place_all(np.array([p.ids.size for p in queue[:due]])).tolist()
        row += [bins.place(p.ids.size) for p in queue[due : due + 64]]
        tried, queue = queue[: len(row)], queue[len(row) :]
        taken = [p for p, r in zip(tried, row, strict=True) if r >= 0]
        steps.append(Step(taken, [r for r in row if r >= 0]))
        queue = [p for p, r in zip(tried, row, strict=True) if r < 0] + queue
    return steps


def pad(pairs: list[Pair], length: int | None = None) -> dict[str, np.ndarray]:
    """Put one pair in each row, padded to `length` or to the longest."""
    length = length or max(p.ids.size for p in pairs)
    ids = np.full((len(pairs), length), PAD, np.int32)
    side, example = np.zeros_like(ids), np.zeros_like(ids)
    for row, pair in enumerate(pairs):
        ids[row, : pair.ids.size], side[row, : pair.ids.size] = pair.ids, pair.side
        example[row, : pair.ids.size] = 1
    position = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape) * example
    return {"ids": ids, "side": side, "example": example, "position": position}


def pack(step: Step, rows: int, length: int) -> dict[str, np.ndarray]:
    """Lay the pairs of a step out in `rows` packed rows of `length` slots."""
    ids = np.full((rows, length), PAD, np.int32)
    side, example, position = (np.zeros_like(ids) for _ in range(3))
    at, number = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for pair, row in zip(step.pairs, step.row, strict=True):
        span = slice(at[row], at[row] + pair.ids.size)
        number[row] += 1
        ids[row, span], side[row, span], example[row, span] = pair.ids, pair.side, number[row]
        position[row, span] = np.arange(pair.ids.size)
        at[row] += pair.ids.size
    return {
        "ids": ids,
        "side": side,
        "example": example,
        "position": position,
        "row": np.arange(rows, dtype=np.int32),
    }
