"""Train a SentencePiece tokenizer or take any Hugging Face folder; encode texts, keep their words.

A word is an element of `text.split()`. Every word gets at least one piece, in every script.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jalign.errors import UserError

# Transformers is here for its tokenizers: that it finds no PyTorch is nothing to tell the user.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

_NUM_THREADS = (
    4  # fixed: sums over threads decide the last bits of the scores, hence the vocabulary
)
_MAX_KNOWN = 200_000  # words remembered; Chinese sentences are words too
_PROBE = "One two, three four"


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and what binds it to data and checkpoints; two with equal `sha256` are the same.

    `counts` grows while encoding: words without a piece, and special tokens spelt out in texts;
    both become unk.
    """

    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int
    unk_id: int
    mask_id: int
    sha256: str
    special_ids: tuple[int, ...]
    joiner: str = field(repr=False, compare=False)
    backend: Any = field(repr=False, compare=False)
    counts: Counter = field(default_factory=Counter, repr=False, compare=False)
    _known: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    _mended: dict[str, tuple[str, int]] = field(default_factory=dict, repr=False, compare=False)

    def encode_words(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Encode texts without special tokens: int32 ids, and the word index of each piece.

        Words are encoded one by one (the ids do not depend on their neighbours, `load_tokenizer`
        checks) and remembered: 4x less time than whole sentences on the Hansards, 2x on Chinese.
        """
        words = [self._with_joiner(text.split()) for text in texts]
        flat = [word for ws in words for word in ws]
        self._remember(flat)
        pieces = list(map(self._known.__getitem__, flat))
        ids = np.frombuffer(b"".join(pieces), np.int32)
        lengths = np.array([len(ws) for ws in words], np.int64)
        num_pieces = np.fromiter(map(len, pieces), np.int64, len(pieces)) // ids.itemsize
        starts = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(len(flat)) - np.repeat(starts[:-1], lengths)
        word = np.repeat(index, num_pieces).astype(np.int32)
        ends = np.concatenate([[0], np.cumsum(num_pieces)])[starts]
        return [(ids[a:b], word[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def _with_joiner(self, words: list[str]) -> list[str]:
        """Give back to byte-level tokenizers the space that belongs to every word but the first."""
        if not self.joiner:
            return words
        return [word if i == 0 else self.joiner + word for i, word in enumerate(words)]

    def _remember(self, words: list[str]) -> None:
        """Encode the words not seen yet; count those that had to become unk."""
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
            self._mended.clear()
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        encodings = self.backend.encode_batch(
            [[word] for word in new], is_pretokenized=True, add_special_tokens=False
        )
        for word, encoding in zip(new, encodings, strict=True):
            ids, reason, count = self._mend(encoding.ids)
            self._known[word] = np.array(ids, np.int32).tobytes()
            if reason:
                self._mended[word] = (reason, count)
        if self._mended:
            for word in words:
                if word in self._mended:
                    reason, count = self._mended[word]
                    self.counts[reason] += count

    def _mend(self, ids: list[int]) -> tuple[list[int], str, int]:
        """Put unk for a word without a piece and for special tokens that a text spells out."""
        if not ids:
            return [self.unk_id], "word without a piece", 1
        special = [i for i in ids if i in self.special_ids and i != self.unk_id]
        if not special:
            return ids, "", 0
        mended = [self.unk_id if i in special else i for i in ids]
        return mended, "special token spelt out in a text", len(special)


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Load a Hugging Face tokenizer folder.

    Raises: UserError if it is none, lacks a special token, or does not keep words apart.
    """
    hf = _load_hf(Path(folder))
    backend = type(hf.backend_tokenizer).from_str(hf.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = (
        True  # a text that spells out "<s>" means these three characters
    )
    frame = hf("")["input_ids"]  # what it puts around a text counts more than what it is called
    first, last = frame if len(frame) == 2 else (None, None)
    ids = {
        "bos": _first(first, hf.bos_token_id, hf.cls_token_id),
        "eos": _first(last, hf.eos_token_id, hf.sep_token_id),
        "pad": hf.pad_token_id,
        "unk": _first(hf.unk_token_id, hf.pad_token_id),
        "mask": hf.mask_token_id,
    }
    lacking = sorted(name for name, value in ids.items() if value is None)
    if lacking:
        raise UserError(
            f"the tokenizer in {folder} has no {' and no '.join(lacking)} token, and "
            "pre-training needs one; add them (add_special_tokens) and save it again."
        )
    table = {token: i for token, i in backend.get_vocab(with_added_tokens=True).items()}
    return Tokenizer(
        vocab_size=max(table.values()) + 1,
        **{f"{name}_id": value for name, value in ids.items()},
        sha256=_sha256(table, backend, ids),
        special_ids=tuple(sorted(set(hf.all_special_ids) | set(ids.values()))),
        joiner=_find_joiner(backend, folder),
        backend=backend,
    )


def _load_hf(folder: Path) -> Any:
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; --tokenizer takes a Hugging Face tokenizer folder."
        )
    from transformers import AutoTokenizer

    try:
        # Never the folder's own code: where unsaid, transformers asks on standard input.
        hf = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises many kinds, with long texts
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{folder} is no Hugging Face tokenizer folder: {first}") from error
    if getattr(hf, "backend_tokenizer", None) is None:
        raise UserError(f"{folder} has no fast tokenizer; save it with a tokenizer.json first.")
    return hf


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _sha256(table: dict[str, int], backend: Any, ids: dict[str, int]) -> str:
    """Hash what decides the meaning of an id: the table, the normaliser, the special ids."""
    normalizer = json.loads(backend.to_str())["normalizer"]
    content = [sorted((i, token) for token, i in table.items()), normalizer, sorted(ids.items())]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _find_joiner(backend: Any, folder: Path | str) -> str:
    """Find what goes before a word, nothing or a space, to get the ids of the whole text."""
    plain = backend.encode(_PROBE, add_special_tokens=False).ids
    first, *rest = _PROBE.split()
    for joiner in ("", " "):
        words = [first, *(joiner + word for word in rest)]
        if backend.encode(words, is_pretokenized=True, add_special_tokens=False).ids == plain:
            return joiner
    raise UserError(
        f"the tokenizer in {folder} makes pieces across words, so word boundaries are lost; "
        "take one that splits at spaces."
    )


def train_tokenizer(
    texts: Iterable[str], folder: Path | str, vocab_size: int, *, character_coverage: float = 0.9995
) -> Tokenizer:
    """Train SentencePiece Unigram on texts and save it to `folder` as a Hugging Face tokenizer.

    The layout is XLM-R's: <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last; `vocab_size` counts it.
    Raises: UserError if the texts are too few for so many pieces, or need more.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(piece for text in texts for piece in _chunks(text)),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size - 1,
            character_coverage=character_coverage,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            max_sentence_length=1 << 16,
            num_threads=_NUM_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(_training_error(str(error), vocab_size)) from error
    _save_as_hf(model.getvalue(), Path(folder))
    return load_tokenizer(folder)


def _chunks(text: str, size: int = 4000) -> Iterable[str]:
    """Cut a long document at spaces: SentencePiece would skip it whole."""
    while len(text) > size:
        cut = text.rfind(" ", 1, size)
        cut = cut if cut > 0 else size
        yield text[:cut].replace("\n", " ")
        text = text[cut:]
    yield text.replace("\n", " ")


def _training_error(error: str, vocab_size: int) -> str:
    most = re.search(r"too high.*?<= (\d+)", error, re.DOTALL)
    if most:
        limit = int(most[1]) + 1
        return (
            f"--vocab_size={vocab_size} is more than these texts can fill; give more text or "
            f"type --vocab_size={limit} or less."
        )
    least = re.search(r"smaller than required_chars\D*(\d+) vs (\d+)", error)
    if least:
        need = vocab_size + int(least[2]) - int(least[1]) + 1
        return (
            f"--vocab_size={vocab_size} is too small for the characters of these texts; "
            f"type --vocab_size={need} or more."
        )
    return f"SentencePiece could not train a vocabulary of {vocab_size}: {error.strip()}"


def _save_as_hf(model: bytes, folder: Path) -> None:
    """Save a SentencePiece model with XLM-R's special ids as a Hugging Face folder."""
    from transformers import XLMRobertaTokenizer

    pieces, charsmap = read_sentencepiece(model)
    hf = XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap)
    hf.save_pretrained(str(folder))
    (folder / "sentencepiece.bpe.model").write_bytes(model)


def read_sentencepiece(model: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """Return the pieces of a SentencePiece model with their scores, and its map of characters.

    Without `sentencepiece_model_pb2`: that of sentencepiece 0.2.3 refuses to be imported under a
    protobuf below 7, and Apache Beam 2.77 allows none from 7 on.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = list(range(processor.get_piece_size()))
    pieces = list(zip(processor.id_to_piece(ids), processor.get_score(ids), strict=True))
    normalizer = _proto_field(model, 3)  # sentencepiece_model.proto: ModelProto.normalizer_spec
    return pieces, _proto_field(normalizer, 2)  # NormalizerSpec.precompiled_charsmap


def _proto_field(message: bytes, wanted: int) -> bytes:
    """Return the last field of this number in a protocol buffer, which holds bytes; b"" if none.

    Source: https://protobuf.dev/programming-guides/encoding
    """
    found, at = b"", 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = message[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        found = message[at : at + size] if (number, kind) == (wanted, 2) else found
        at += size
    return found


def copy_tokenizer(source: Path | str, folder: Path | str) -> Tokenizer:
    """Save a Hugging Face tokenizer into another folder and load it from there.

    Raises: UserError if saving changed it (its hash), which would be a fault of its files.
    """
    before = load_tokenizer(source)
    _load_hf(Path(source)).save_pretrained(str(folder))
    after = load_tokenizer(folder)
    if after.sha256 != before.sha256:
        raise UserError(f"the tokenizer in {source} changes when transformers saves it again.")
    return after


def double_vocabulary(
    source: Path | str, folder: Path | str, write_piece: Callable[[str], str]
) -> Tokenizer:
    """Save a Unigram tokenizer with every piece twice: the second V as `write_piece` spells them.

    Special tokens get a second id, too, that no text can have, so that piece i is i + V throughout.
    Raises: UserError for another kind of tokenizer, or one that has such pieces already.
    """
    folder = Path(folder)
    _load_hf(Path(source)).save_pretrained(str(folder))
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    before, model = load_tokenizer(source), content["model"]
    if model.get("type") != "Unigram" or len(model["vocab"]) != before.vocab_size:
        raise UserError(
            f"the tokenizer in {source} is {model.get('type')}: only a SentencePiece Unigram one, "
            "such as 'jalign prepare' trains, can be written in a second script"
        )
    second = [
        [f"second {piece}" if i in before.special_ids else write_piece(piece), score]
        for i, (piece, score) in enumerate(model["vocab"])
    ]
    if {piece for piece, _ in second} & {piece for piece, _ in model["vocab"]}:
        raise UserError(f"the tokenizer in {source} has pieces of a second script already")
    model["vocab"] += second
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    for old in folder.glob("*.model"):  # it has half of the pieces
        old.unlink()
    return load_tokenizer(folder)
