"""Readers: every format, packed and plain, gives the same records with file and line."""

import gzip
import lzma

import pytest
import zstandard

from jalign.data import languages
from jalign.data.corpora import documents, lines, moses, triple_bar, tsv
from jalign.data.files import MAX_LINE_BYTES, read_lines
from jalign.data.text import Flaw, Limits, Raw, check, escape
from jalign.errors import BadData, UserError

PACKERS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def write(path, data):
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("suffix", PACKERS)
def test_every_format_reads_packed_files(tmp_path, suffix):
    def pack(name, text):
        return write(tmp_path / (name + suffix), PACKERS[suffix](text.encode()))

    one = pack("a.txt", "Habari yako\nMzuri")
    assert list(lines.read(one)) == [
        Raw((b"Habari yako",), one, 1),
        Raw((b"Mzuri",), one, 2),
    ]
    pairs = [(b"yes", b"ja"), (b"no", b"nein")]
    bitext = pack("b.tsv", "yes\tja\nno\tnein\n")
    assert [(r.sides, r.origin) for r in tsv.read(bitext)] == [
        (pairs[0], f"{bitext}:1"),
        (pairs[1], f"{bitext}:2"),
    ]
    assert [r.sides for r in triple_bar.read(pack("c", "yes ||| ja\nno ||| nein\n"))] == pairs
    src, trg = pack("d.en", "yes\nno\n"), pack("d.de", "ja\nnein")
    assert [r.sides for r in moses.read(src, trg)] == pairs
    docs = pack("e.txt", "\n\nP1\nP2\n\n\nQ\n")
    assert [(r.sides[0], r.line) for r in documents.read(docs)] == [(b"P1\nP2", 3), (b"Q", 7)]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_packed_file_cut_short_names_the_line_reached(tmp_path, suffix):
    text = "".join(f"line {i * 7919 % 10007}\n" for i in range(200_000)).encode()
    path = write(tmp_path / f"a{suffix}", PACKERS[suffix](text)[:-5000])
    with pytest.raises(BadData, match=r"a\.\w+:\d+: the packed file is cut short or damaged"):
        for _ in read_lines(path):
            pass


def test_lines_break_at_newline_and_nowhere_else(tmp_path):
    text = "a\u2028b\u2029c\x85d\ve\ff\x1cg\rh\ni\n"
    path = write(tmp_path / "a", text.encode())
    assert [line.data.decode() for line in read_lines(path)] == text[:-1].split("\n")


def test_a_line_too_long_for_memory_is_cut_and_said_so(tmp_path):
    path = write(tmp_path / "a", b"x" * (MAX_LINE_BYTES * 2 + 5) + b"\nnext\n")
    first, second = lines.read(path)
    assert len(first.sides[0]) == MAX_LINE_BYTES
    assert first.flaw.reason == "too_long"
    assert str(MAX_LINE_BYTES * 2 + 6) in first.flaw.detail or "bytes" in first.flaw.detail
    assert (second.sides, second.line, second.flaw) == ((b"next",), 2, None)


def test_flaw_in_a_document_names_the_line_of_its_paragraph(tmp_path):
    path = write(tmp_path / "a", b"one\n\ntwo\nthree\nfo\xffur\n\nfive\r\n")
    first, second, third = documents.read(path)
    assert check(first, Limits()) == ("one",)
    assert second.place(check(second, Limits())) == f"{path}:5"
    assert [third.place(r) for r in third.repairs] == [f"{path}:7"]


def test_flaw_of_the_target_side_names_the_target_file(tmp_path):
    src, trg = write(tmp_path / "a.en", b"x\ny\n"), write(tmp_path / "a.de", b"z\n\xff\n")
    raw = list(moses.read(src, trg))[1]
    assert raw.origin == f"{src}:2"
    assert raw.place(check(raw, Limits())) == f"{trg}:2"


@pytest.mark.parametrize("more", ["en", "de"])
def test_unequal_line_counts_are_refused_with_both_counts(tmp_path, more):
    counts = {"en": 3, "de": 3, more: 5}
    paths = [write(tmp_path / f"a.{x}", b"x\n" * counts[x]) for x in ("en", "de")]
    match = rf"a\.{more}:4: unequal_line_counts: .* ends after 3 lines, .* has 5"
    with pytest.raises(BadData, match=match):
        list(moses.read(*paths))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_side"), (" \u3000\u200b", "empty_side"), ("a\0b", "nul"),
        ("a\u2028b", "line_break"), ("a\u2029b", "line_break"), ("a\x85b", "line_break"),
        ("a\vb", "line_break"), ("a\fb", "line_break"), ("a\rb", "control_character"),
        ("a\x07b", "control_character"), ("x" * 21, "too_long"), ("a " * 6, "too_long"),
    ],
)  # fmt: skip
def test_each_flaw_has_its_name(text, reason):
    flaw = check(Raw((text.encode(),), "f", 1), Limits(max_chars=20, max_words=5))
    assert isinstance(flaw, Flaw)
    assert flaw.reason == reason


def test_length_ratio_spares_short_labels():
    assert check(Raw((b"OK", b"x" * 150), "f", 1), Limits()) == ("OK", "x" * 150)
    assert check(Raw((b"OK", b"x" * 300), "f", 1), Limits()).reason == "length_ratio"


def test_ordinary_text_of_every_script_is_kept_as_it_is():
    texts = "नमस्ते|สวัสดี\u200bครับ|می\u200cخواهم|漢\u3000字|a\tb|👩\u200d👧|é"
    for text in texts.split("|"):
        assert check(Raw((text.encode(),), "f", 1), Limits()) == (text,)


def test_escape_is_one_line_and_reversible_by_eye():
    assert escape(b"a\\b\tc\nd\xffe\0") == "a\\\\b\\u0009c\\u000ad\\xffe\\u0000"
    assert escape("x\u2028é".encode()) == "x\\u2028é"


@pytest.mark.parametrize(
    ("got", "want"),
    [("EN", "en"), ("zh-hans-cn", "zh-Hans-CN"), ("PT-br", "pt-BR"), ("es-419", "es-419"),
     ("ca-VALENCIA", "ca-valencia"), ("sl-rozaj-biske",) * 2, ("en-x-Foo", "en-x-foo")],
)  # fmt: skip
def test_tags_get_their_usual_case(got, want):
    assert languages.normalize_tag(got) == want


@pytest.mark.parametrize(
    "tag", ["", "e", "english-language", "en_US", "e1", "en-", "zh--Hans", "../x"]
)
def test_what_is_no_tag_is_refused(tag):
    with pytest.raises(UserError, match="is not a language tag"):
        languages.normalize_tag(tag)


def test_locale_names_become_tags():
    names = ["zh_Hans", "pt_BR", "sr@latin", "sr_RS@latin", "sr@Cyrl", "ca@valencia", "de_DE.UTF-8"]
    tags = ["zh-Hans", "pt-BR", "sr-Latn", "sr-Latn-RS", "sr-Cyrl", "ca-valencia", "de-DE"]
    assert [languages.from_locale(n) for n in names] == tags
    assert languages.from_locale("__pycache__") is None
