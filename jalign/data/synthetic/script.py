"""Write a language in a script of its own, so that transliterated text is text like any other.

Transliteration gives every piece another id, id + V. Here it also gives it other characters: a
character becomes one of the planes of rare Chinese characters (U+20000 and up), and the start of a
word a character of its own. A vocabulary of 2V pieces, those of the original and behind them the
same in the new script, with the same scores, then cuts the new text exactly as the old one: piece
by piece id + V. So derived corpora are files that every command reads, and the tokenizer is an
ordinary one, which models export with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jalign.data.id_pairs import IdPairs, single_pairs
from jalign.data.synthetic.conllu import Tree
from jalign.data.synthetic.transliterate import Transliteration
from jalign.data.tokenizer import Tokenizer, double_vocabulary
from jalign.errors import ConfigError

START = "▁"  # of a word, in SentencePiece
_PLANE, _PLANE_SIZE, _REST = 0x20000, 0xA6E0, 0x30000
_MAX_KNOWN = 200_000


def write_char(char: str) -> str:
    """Return the character of the new script; the few beyond the last plane stay as they are.

    The first 42,720 characters, all alphabets and most of Chinese, get letters (CJK extension B).
    """
    code = ord(char)
    new = _PLANE + code if code < _PLANE_SIZE else _REST + code - _PLANE_SIZE
    return chr(new) if new < 0x110000 else char


def write_piece(piece: str) -> str:
    """Return a piece of a vocabulary in the new script."""
    start = START if piece.startswith(START) else ""
    return start + "".join(map(write_char, piece))


@dataclass(frozen=True, eq=False)
class Script:
    """Writes words of a language in the script of its transliteration.

    Pieces that the transliteration does not shift (its overlap) keep their characters. Characters
    that the tokenizer does not know are written in the new script, too, and stay unknown.
    """

    tokenizer: Tokenizer
    transliteration: Transliteration
    _known: dict[str, str] = field(default_factory=dict, repr=False)

    def word(self, word: str) -> str:
        """Return a word, which may hold spaces, in the new script."""
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        if word not in self._known:
            self._known[word] = " ".join(map(self._write, word.split())) or word
        return self._known[word]

    def text(self, text: str) -> str:
        """Return a text in the new script; its words are `text.split()`."""
        return " ".join(map(self.word, text.split()))

    def tree(self, tree: Tree) -> Tree:
        """Return a parsed sentence with its forms in the new script, without its comments."""
        rows = tuple((row[0], self.word(row[1]), *row[2:]) for row in tree.rows)
        tokens = tuple(
            t._replace(row=(t.row[0], self.word(t.row[1]), *t.row[2:])) for t in tree.tokens
        )
        comments = tuple(c for c in tree.comments if not c.startswith("# text"))
        return Tree(comments, rows, tokens, tree.where)

    def _write(self, word: str) -> str:
        encoding = self.tokenizer.backend.encode(
            [word], is_pretokenized=True, add_special_tokens=False
        )
        shifted, unk = self.transliteration.is_shifted, self.tokenizer.unk_id
        written = "".join(
            write_piece(piece) if i == unk or shifted[i] else piece
            for i, piece in zip(encoding.ids, encoding.tokens, strict=True)
        )
        return written.removeprefix(START) or word


def make_script(tokenizer: Tokenizer, *, overlap: float = 0.0, seed: int = 0) -> Script:
    """Make the script of a tokenizer's language. unk is not shifted: see the Differs line.

    Differs: the authors shift unk like any word. In text what is unknown has no other piece to be.
    """
    special = tuple(sorted({*tokenizer.special_ids, tokenizer.unk_id}))
    return Script(
        tokenizer, Transliteration(tokenizer.vocab_size, special, overlap=overlap, seed=seed)
    )


def double_tokenizer(source: Path | str, folder: Path | str) -> Tokenizer:
    """Write the tokenizer of both languages: V pieces, and the same V in the new script.

    Raises: ConfigError for a tokenizer that is no SentencePiece Unigram.
    """
    return double_vocabulary(source, folder, write_piece)


def dictionary_of(
    script: Script, doubled: Tokenizer, rate: float, *, langs: tuple[str, str], seed: int = 0
) -> IdPairs:
    """Return all pairs (id, id + V); a random part, int(rate x V) ids drawn, is for training."""
    trans = script.transliteration
    if doubled.vocab_size != trans.derived_vocab_size:
        raise ConfigError(
            f"the tokenizer of both languages has {doubled.vocab_size} pieces, not twice "
            f"{trans.vocab_size}: write it with jalign synthetic"
        )
    pairs_N2 = trans.dictionary(1.0)
    train = np.isin(pairs_N2[:, 0], trans.dictionary(rate, seed=seed)[:, 0])
    details = {"rate": rate, "seed": seed, "synthetic": True}
    return single_pairs(
        pairs_N2, train, langs=langs, tokenizer_sha256=doubled.sha256, details=details
    )
