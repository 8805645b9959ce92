"""Apply a transformation to corpora: text, bitext, trees, tagged sentences, NLI and SQuAD.

Every function yields the original beside its derived form; what is written goes to two files of
equal line counts, line by line translations of each other. Sentences are numbered as they come.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jalign.data.files import read_lines
from jalign.data.synthetic.base import Answer, Transformation
from jalign.data.synthetic.conllu import Tree, format_tree
from jalign.data.synthetic.order import Link, Order, links_of, move_links
from jalign.errors import BadData

# the tree of a text, whose words are `text.split()`, for syn
Parser = Callable[[str], Tree | None]


def _no_tree(text: str) -> None:
    return None


class Derived(NamedTuple):
    """A sentence, its derived form, and the order of the words."""

    src: str
    trg: str
    order: Order


class DerivedPair(NamedTuple):
    """A sentence pair of which one side is derived, with its word links moved along."""

    src: str
    trg: str
    links: list[Link]
    order: Order


class Tagged(NamedTuple):
    """A tokenised sentence with a tag per word."""

    words: Sequence[str]
    tags: Sequence[str]


def derive_lines(
    lines: Iterable[str], transform: Transformation, *, raw: bool = False, cut: bool = True
) -> Iterator[Derived]:
    """Transform lines of text; spaces are made single on both sides.

    Tokenised lines are cut into the sentences of the transformation (inversion cuts after every
    mark), each a line of its own on both sides, unless `cut` is off. `raw` lines, where marks are
    attached to words, are taken whole, as in NLI. Empty lines stay, on both sides.
    """
    number = itertools.count()
    for line in lines:
        words = line.split()
        if raw:
            derived, order = transform.sentence(line, number=next(number))
            yield Derived(" ".join(words), derived, order)
            continue
        for start, stop in transform.pieces(words) if cut else [(0, len(words))]:
            piece = words[start:stop]
            moved, order = transform.text(piece, number=next(number))
            yield Derived(" ".join(piece), " ".join(moved), order)


def derive_bitext(
    pairs: Iterable[tuple[str, str, Iterable[Link]]],
    transform: Transformation,
    *,
    side: int,
    raw: bool = False,
) -> Iterator[DerivedPair]:
    """Transform one side (0 source, 1 target) of pairs `(src, trg, links)`; links may be empty.

    Lines are never cut, because the other side is not: each pair stays a pair.
    """
    for number, (src, trg, links) in enumerate(pairs):
        text = (src, trg)[side]
        if raw:
            derived, order = transform.sentence(text, number=number)
        else:
            moved, order = transform.text(text.split(), number=number)
            derived = " ".join(moved)
        sides = (derived, trg) if side == 0 else (src, derived)
        yield DerivedPair(*sides, move_links(links, order, side=side), order)


def derive_trees(
    trees: Iterable[Tree], transform: Transformation
) -> Iterator[tuple[Tree, Tree, Order]]:
    """Transform parsed sentences: (original, derived, order)."""
    for number, tree in enumerate(trees):
        derived, order = transform.tree(tree, number=number)
        yield tree, derived, order


def derive_tagged(
    sentences: Iterable[Tagged], transform: Transformation, *, trees: Iterable[Tree] | None = None
) -> Iterator[tuple[Tagged, Tagged, Order]]:
    """Transform tagged sentences (POS, NER): (original, derived, order).

    `trees` are needed by syn: one per sentence, of the same words.
    Raises: ValueError if there are more or fewer trees than sentences.
    """
    pairs = (
        ((sentence, None) for sentence in sentences)
        if trees is None
        else zip(sentences, trees, strict=True)
    )
    for number, (sentence, tree) in enumerate(pairs):
        words, tags, order = transform.tags(*sentence, number=number, tree=tree)
        yield Tagged(*sentence), Tagged(words, tags), order


def derive_nli(
    pairs: Iterable[tuple[str, str, str]], transform: Transformation, *, parse: Parser = _no_tree
) -> Iterator[tuple[str, str, str]]:
    """Transform rows (premise, hypothesis, label); raw text, but for syn as the parser cut it."""
    for number, (premise, hypothesis, label) in enumerate(pairs):
        trees = (parse(premise), parse(hypothesis))
        moved = transform.nli(premise, hypothesis, number=number, trees=trees)
        yield moved.premise, moved.hypothesis, label


def derive_squad(
    data: dict[str, Any], transform: Transformation, *, parse: Parser = _no_tree
) -> tuple[dict[str, Any], Counter[str]]:
    """Transform a SQuAD v1.1 document: contexts, questions, answers; ids are kept.

    Also returns counts: answers kept; of these widened, because a word of which the answer was a
    part is whole now, with letters and not just punctuation (Chinese, where words are not
    separated); answers lost because their words are not together any more; questions left out
    because they lost all their answers.
    """
    counts: Counter[str] = Counter()
    numbers = itertools.count()
    articles = [
        article
        | {
            "paragraphs": [
                _derive_paragraph(paragraph, transform, parse, next(numbers), counts)
                for paragraph in article["paragraphs"]
            ]
        }
        for article in data["data"]
    ]
    return data | {"data": articles}, counts


def _derive_paragraph(
    paragraph: dict[str, Any],
    transform: Transformation,
    parse: Parser,
    number: int,
    counts: Counter[str],
) -> dict[str, Any]:
    context, questions = paragraph["context"], []
    tree = parse(context)
    for qa in paragraph["qas"]:
        answers = [Answer(answer["answer_start"], answer["text"]) for answer in qa["answers"]]
        trees = (tree, parse(qa["question"]))
        moved = transform.qa(context, qa["question"], answers, number=number, trees=trees)
        kept = [
            old | {"answer_start": new.start, "text": new.text}
            for old, new in zip(qa["answers"], moved.answers, strict=True)
            if new is not None
        ]
        counts["answers"] += len(kept)
        counts["answers widened"] += sum(
            new is not None and _letters(old.text) != _letters(new.text)
            for old, new in zip(answers, moved.answers, strict=True)
        )
        counts["answers lost"] += len(answers) - len(kept)
        if kept or not answers:
            questions.append(qa | {"question": moved.question, "answers": kept})
        else:
            counts["questions left out"] += 1
    derived, _ = transform.sentence(context, number=2 * number, tree=tree)
    return paragraph | {"context": derived, "qas": questions}


def _letters(text: str) -> list[str]:
    return sorted(char for char in text if char.isalnum())


def derive_file(
    path: Path | str,
    src_path: Path | str,
    trg_path: Path | str,
    transform: Transformation,
    *,
    raw: bool = False,
    cut: bool = True,
    links_path: Path | str | None = None,
) -> int:
    """Write the original and the derived lines of a text file, and their word links (Pharaoh).

    Files appear whole or not at all. Returns the number of lines, the same in each.
    Raises: UserError if the file is missing; BadData for a line that is no UTF-8.
    """
    paths = [Path(src_path), Path(trg_path), *([Path(links_path)] if links_path else [])]
    num_lines = 0
    with written_whole(paths) as files:
        for derived in derive_lines(read_texts(path), transform, raw=raw, cut=cut):
            links = " ".join(f"{i}-{j}" for i, j in links_of(derived.order)) if links_path else ""
            for file, text in zip(files, (derived.src, derived.trg, links), strict=False):
                file.write(text + "\n")
            num_lines += 1
    return num_lines


def derive_conllu(
    trees: Iterable[Tree], src_path: Path | str, trg_path: Path | str, transform: Transformation
) -> int:
    """Write parsed sentences and their derived forms as two CoNLL-U files; return their number."""
    num_trees = 0
    with written_whole([Path(src_path), Path(trg_path)]) as files:
        for tree, derived, _ in derive_trees(trees, transform):
            files[0].write(format_tree(tree))
            files[1].write(format_tree(derived))
            num_trees += 1
    return num_trees


def read_texts(path: Path | str) -> Iterator[str]:
    """Yield the lines of a text file. Raises: BadData for a line that is no UTF-8."""
    for line in read_lines(path):
        try:
            yield line.data.decode()
        except UnicodeDecodeError as error:
            raise BadData(
                f"{path}:{line.number}: need UTF-8 text; byte {error.start} of the line is not"
            ) from None


@contextlib.contextmanager
def written_whole(paths: Sequence[Path]) -> Iterator[list]:
    """Open files beside their places and move them there at the end, unless something failed."""
    partial = [path.with_name(f".{path.name}.partial") for path in paths]
    try:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(p.open("w", encoding="utf-8", newline="")) for p in partial]
        for place, path in zip(partial, paths, strict=True):
            os.replace(place, path)
    finally:
        for place in partial:
            place.unlink(missing_ok=True)
