"""Write derived corpora beside their originals: text, CoNLL-U, tagged words, NLI, SQuAD.

A kind of file is one function `write(path, src_path, trg_path, derivation) -> count`. Both files
have the same lines (or sentences, rows, questions) in the same order.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jalign.data.files import read_bytes
from jalign.data.synthetic.base import Transformation
from jalign.data.synthetic.conllu import format_tree, read_conllu
from jalign.data.synthetic.corpus import (
    Tagged,
    derive_lines,
    derive_nli,
    derive_squad,
    derive_tagged,
    derive_trees,
    read_texts,
    written_whole,
)
from jalign.data.synthetic.script import Script
from jalign.data.tasks import ner, nli
from jalign.errors import BadData, ConfigError

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Derivation:
    """How a language is derived: words move, and are then written in a script where there is one.

    `raw`: texts have marks attached to their words. `needs_trees`: only parsed text will do.
    """

    transform: Transformation
    script: Script | None = None
    raw: bool = False
    needs_trees: bool = False

    def words(self, text: str) -> str:
        """Write a text whose words have moved."""
        return self.script.text(text) if self.script else text

    def check_parsed(self, path: Path) -> None:
        """Raises: ConfigError where this file should hold trees."""
        if self.needs_trees:
            raise ConfigError(
                f"{path}: syn needs the dependency tree of every sentence; parse the text, and "
                "give the CoNLL-U file with --text or --conllu"
            )


def is_conllu(path: Path) -> bool:
    """Tell from its name whether a file is CoNLL-U, packed or not."""
    return ".conllu" in path.suffixes


def write_text(path: Path, src_path: Path, trg_path: Path, how: Derivation) -> int:
    """Write lines of text; of CoNLL-U, the words of the trees."""
    if is_conllu(path):
        derived = (
            (" ".join(src.words), " ".join(trg.words))
            for src, trg, _ in derive_trees(read_conllu(path), how.transform)
        )
    else:
        how.check_parsed(path)
        lines = derive_lines(read_texts(path), how.transform, raw=how.raw)
        derived = ((line.src, line.trg) for line in lines)
    num = 0
    with written_whole([src_path, trg_path]) as files:
        for src, trg in derived:
            if src:  # an empty line is no sentence of a corpus
                files[0].write(src + "\n")
                files[1].write(how.words(trg) + "\n")
                num += 1
    return num


def write_conllu(path: Path, src_path: Path, trg_path: Path, how: Derivation) -> int:
    """Write parsed sentences."""
    num = 0
    with written_whole([src_path, trg_path]) as files:
        for src, trg, _ in derive_trees(read_conllu(path), how.transform):
            files[0].write(format_tree(src))
            files[1].write(format_tree(how.script.tree(trg) if how.script else trg))
            num += 1
    return num


def write_ner(path: Path, src_path: Path, trg_path: Path, how: Derivation) -> int:
    """Write tagged words, a word and its tag a line; words lose spaces inside them."""
    how.check_parsed(path)
    counts: Counter[str] = Counter()
    sentences = (Tagged(s.words, s.tags) for s in ner.read(path, counts=counts))
    num = 0
    with written_whole([src_path, trg_path]) as files:
        for src, trg, _ in derive_tagged(sentences, how.transform):
            new = Tagged([how.words(word) for word in trg.words], trg.tags)
            for file, one in zip(files, (src, new), strict=True):
                for word, tag in zip(one.words, one.tags, strict=True):
                    file.write(f"{word}\t{tag}\n")
                file.write("\n")
            num += 1
    return num


def write_nli(path: Path, src_path: Path, trg_path: Path, how: Derivation) -> int:
    """Write classified pairs, three columns with a header; marks are attached to words."""
    how.check_parsed(path)
    pairs = [(p.first, p.second, p.label) for p in nli.read(path)]
    with written_whole([src_path, trg_path]) as files:
        for file in files:
            file.write("premise\thypothesis\tlabel\n")
        for old, new in zip(pairs, derive_nli(pairs, how.transform), strict=True):
            files[0].write("\t".join(old) + "\n")
            files[1].write("\t".join([how.words(new[0]), how.words(new[1]), new[2]]) + "\n")
    return len(pairs)


def write_qa(path: Path, src_path: Path, trg_path: Path, how: Derivation) -> int:
    """Write a SQuAD file; returns the number of questions that kept an answer.

    In both files: a question whose answer the new order tears apart is left out of the original,
    too, so that they stay parallel.
    """
    how.check_parsed(path)
    try:
        data = json.loads(read_bytes(path))
        derived, _ = derive_squad(data, how.transform)
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path} is no SQuAD file: {error!r}") from error
    if how.script:
        derived = _written_squad(derived, how.script)
    kept = {qa["id"] for qa in _questions(derived)}
    with written_whole([src_path, trg_path]) as files:
        for file, content in zip(files, (_only(data, kept), derived), strict=True):
            json.dump(content, file, ensure_ascii=False)
    return len(kept)


def _questions(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            yield from paragraph["qas"]


def _map_paragraphs(data: dict[str, Any], change: Callable[[dict], dict]) -> dict[str, Any]:
    articles = [a | {"paragraphs": list(map(change, a["paragraphs"]))} for a in data["data"]]
    return data | {"data": articles}


def _only(data: dict[str, Any], kept: set) -> dict[str, Any]:
    def chosen(paragraph: dict) -> dict:
        return paragraph | {"qas": [qa for qa in paragraph["qas"] if qa["id"] in kept]}

    return _map_paragraphs(data, chosen)


def _written_squad(data: dict[str, Any], script: Script) -> dict[str, Any]:
    def written(paragraph: dict) -> dict:
        context = paragraph["context"]
        new = script.text(context)
        questions = []
        for qa in paragraph["qas"]:
            answers = [_written_answer(answer, context, new, script) for answer in qa["answers"]]
            questions.append(qa | {"question": script.text(qa["question"]), "answers": answers})
        return paragraph | {"context": new, "qas": questions}

    return _map_paragraphs(data, written)


def _written_answer(answer: dict, old: str, new: str, script: Script) -> dict:
    """Find an answer in a context that was written in a script: word by word."""
    old_words, new_words = list(_WORD.finditer(old)), list(_WORD.finditer(new))
    start, stop = answer["answer_start"], answer["answer_start"] + len(answer["text"])
    inside = [k for k, word in enumerate(old_words) if word.start() < stop and start < word.end()]
    first, last = inside[0], inside[-1]

    def place(k: int, char: int) -> int:
        """Return where a character of word k stands now."""
        word = old_words[k]
        if char <= word.start():
            return new_words[k].start()
        if char >= word.end():
            return new_words[k].end()
        before = script.word(word[0][: char - word.start()])
        return min(new_words[k].start() + len(before), new_words[k].end())

    begin, end = place(first, start), place(last, stop)
    return answer | {"answer_start": begin, "text": new[begin:end]}


WRITERS: dict[str, tuple[Callable[..., int], str]] = {
    "text": (write_text, "txt"),
    "conllu": (write_conllu, "conllu"),
    "ner": (write_ner, "tsv"),
    "nli": (write_nli, "tsv"),
    "qa": (write_qa, "json"),
}
