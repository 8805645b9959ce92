"""CoNLL-U, PAN-X and columns of tokens and tags: what is kept, counted and refused."""

from __future__ import annotations

import gzip
import lzma
from collections import Counter

import pytest
import zstandard

from jalign.data.tasks import TaggedSentence, conllu, ner
from jalign.errors import BadData, UserError

PACKERS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def word(number, form, upos="NOUN", xpos="NN"):
    return "\t".join([str(number), form, "_", upos, xpos, "_", "0", "root", "_", "_"])


def tree(*lines):
    return "\n".join(lines) + "\n\n"


def tagged(text):
    """Write `Anton/B-PER .../O` as a sentence."""
    return TaggedSentence(*map(tuple, zip(*(x.rsplit("/", 1) for x in text.split()), strict=True)))


@pytest.mark.parametrize("suffix", PACKERS)
def test_both_readers_read_packed_files(tmp_path, suffix):
    def pack(name, text):
        return write(tmp_path / (name + suffix), PACKERS[suffix](text.encode()))

    ud = pack("a.conllu", tree("# text = Haus", word(1, "Haus")))
    assert list(conllu.read(ud)) == [TaggedSentence(("Haus",), ("NOUN",))]
    assert list(ner.read(pack("a.iob2", "Haus O\nBonn B-LOC\n"))) == [tagged("Haus/O Bonn/B-LOC")]


def test_multiword_tokens_give_their_words_and_empty_nodes_nothing(tmp_path):
    lines = [
        "# sent_id = 1",
        word("1-2", "zum", "_"),
        word(1, "zu", "ADP", "APPR"),
        word(2, "dem", "DET", "ART"),
        word(3, "Haus"),
        word("3.1", "ging", "VERB"),
        word("4-5", "l'homme", "_"),
        word(4, "l'", "DET"),
        word(5, "homme"),
    ]
    counts = Counter()
    path = write(tmp_path / "a", tree(*lines) + tree(word(1, "Ja", "INTJ")).rstrip("\n"))
    first, second = conllu.read(path, counts=counts)
    assert first == tagged("zu/ADP dem/DET Haus/NOUN l'/DET homme/NOUN")
    assert second == tagged("Ja/INTJ")  # a file may end without a blank line
    assert counts == {"multiword token, its words are kept": 2, "empty node": 1}
    assert next(conllu.read(path, column="xpos")).tags == ("APPR", "ART", "NN", "NN", "NN")


def test_forms_keep_their_spaces_and_odd_characters(tmp_path):
    forms = ["Bùi Văn Luyến", "10\u00a0000", "#", "_", "\u200b", "a\u2028b", "\x85"]
    path = write(tmp_path / "a", tree(*(word(i, f) for i, f in enumerate(forms, 1))))
    assert next(conllu.read(path)).words == tuple(forms)


def test_withheld_text_and_words_without_a_tag_are_counted(tmp_path):
    counts = Counter()
    text = tree(word(1, "_"), word(2, "_")) + tree(word(1, "a", "_"), word(2, "_", "PUNCT"))
    sentences = list(conllu.read(write(tmp_path / "a", text), counts=counts))
    assert sentences == [TaggedSentence(("a", "_"), ("_", "PUNCT"))]
    assert counts == {"sentence without its text (_) left out": 1, "word tagged _": 1}


def test_byte_order_mark_crlf_and_blank_lines_with_spaces_are_mended_and_counted(tmp_path):
    counts = Counter()
    data = ("\ufeff# x\r\n" + word(1, "a") + "\r\n \t\n" + word(1, "b") + "\n").encode()
    words = [s.words for s in conllu.read(write(tmp_path / "a", data), counts=counts)]
    assert words == [("a",), ("b",)]
    assert counts == {"bom": 1, "crlf": 2, "blank line with spaces": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (tree(word(1, "a"), "2\tb\tNOUN"), r":2: 3 columns; CoNLL-U has 10"),
        (tree(word(1, "a"), word(3, "b")), r":2: word 3; need word 2"),
        (tree(word(2, "a")), r":1: word 2; need word 1"),
        (tree(word("2-3", "a")), r":1: word 2-3; need word 1"),
        (tree(word("1-0", "a")), r":1: '1-0' is no word number"),
        (tree(word("x", "a")), r":1: 'x' is no word number"),
        (tree(word(1, "")), r":1: word 1 has an empty form"),
        (tree(word(1, "a")).encode() + b"\xff", r":3: byte 0xff at position 0 is not UTF-8"),
        ("x" * (1 << 21), r":1: a line of over 1 MiB"),
    ],
)
def test_bad_treebanks_are_refused_with_file_and_line(tmp_path, text, said):
    with pytest.raises(BadData, match="bad.conllu" + said):
        list(conllu.read(write(tmp_path / "bad.conllu", text)))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        list(ner.read(tmp_path / "absent"))


LAYOUTS = {
    "wikiann": "de:Anton\tB-PER\nde:12:30\tO\n\nde:de:\tO\n",
    "xtreme": "Anton\tB-PER\n12:30\tO\n\nde:\tO\n",
    "masakhane": "Anton B-PER\n12:30 O\n\nde: O\n",
    "conll": "-DOCSTART- -X- -X- O\n\nAnton NNP B-NP B-PER\n12:30 CD I-NP O\n\nde: X X O\n",
    "uner": "# text = x\n1\tAnton\tB-PER\t-\tme\n2\t12:30\tO\t-\t-\n\n# y\n1\tde:\tO\t-\t-\n",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_sentences(tmp_path, name):
    counts = Counter()
    found = list(ner.read(write(tmp_path / name, LAYOUTS[name]), counts=counts))
    assert found == [tagged("Anton/B-PER 12:30/O"), tagged("de:/O")]
    assert counts == {"conll": {"-DOCSTART- line": 1}, "uner": {"comment": 2}}.get(name, {})


def test_a_hash_is_a_token_where_spaces_separate(tmp_path):
    path = write(tmp_path / "a", "# O\n#tag O\n")
    assert list(ner.read(path)) == [tagged("#/O #tag/O")]
    path = write(tmp_path / "b", "#\tO\n#tag\tO\n")
    assert list(ner.read(path)) == [tagged("#/O #tag/O")]


def test_tokens_keep_odd_characters_and_every_tag_has_its_word(tmp_path):
    counts = Counter()
    path = write(tmp_path / "a", "zh:\tO\nzh:\u3000\tO\nzh:a b\tO\nzh:\u200b\tB-LOC\n")
    [sentence] = ner.read(path, counts=counts)
    assert sentence.words == ("", "\u3000", "a b", "\u200b")
    assert counts == {"token without text, kept": 2}


def test_tags_that_continue_nothing_are_kept_and_counted(tmp_path):
    counts = Counter()
    tags = "I-PER I-PER B-LOC I-LOC I-ORG O I-ORG".split()
    path = write(tmp_path / "a", "".join(f"x {tag}\n" for tag in tags))
    [sentence] = ner.read(path, counts=counts)
    assert sentence.tags == tuple(tags)
    assert counts == {"I- tag that continues nothing": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: no line with a token and a tag"),
        ("\n\n", ":1: no line with a token and a tag"),
        ("word\n", ":1: one column; need a token and a tag"),
        ("a O\nb  O\n", ":2: 3 columns by single spaces; need 2"),
        ("a\tO\nb O\n", ":2: 1 columns by tabs; need 2"),
        ("a\tO\nb\t\n", ":2: no tag after 'b'"),
        ("de:x\tO\n" * 2000 + "x\tO\n", ":2001: 'x' lacks 'de:'"),
        (b"a O\nb\xe9 O\n", ":2: byte 0xe9 at position 1 is not UTF-8"),
    ],
)
def test_bad_columns_are_refused_with_file_and_line(tmp_path, text, said):
    with pytest.raises(BadData, match="bad.iob2" + said):
        list(ner.read(write(tmp_path / "bad.iob2", text)))
