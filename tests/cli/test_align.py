"""`jalign align`: a line of links for every pair, in order, whatever the lines look like."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import sys

import numpy as np
import pytest
import zstandard

import jalign
from jalign.cli.main import main
from jalign.hf.compare import SENTENCES
from jalign.inference.align import write_stored
from jalign.inference.align_texts import characters
from tests.tiny import sentences

pytest.importorskip("torch")

from tests.hf.torch_models import make_folder  # noqa: E402

ALONE = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
PAIRS = [
    *zip(SENTENCES, SENTENCES[3:] + SENTENCES[:3], strict=True),
    ("the house", "la maison"),
    ("", "le chat"),
    ("the cat", " "),
    ("", ""),
    *zip(sentences(3, 12), sentences(4, 12), strict=True),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("align") / "model"
    make_folder(folder, "xlm-roberta", 1)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return jalign.load(folder)


def tsv(pairs, separator="\t"):
    return "".join(f"{a}{separator}{b}\n" for a, b in pairs).encode()


def pharaoh(links):
    """Write links as the command should, without its code."""
    return [" ".join(f"{i}-{j}" for i, j in one.pairs_A2.tolist()) for one in links]


@pytest.fixture
def align(folder, tmp_path, capsys):
    """Run the command; return its exit code, lines, and what it said."""

    def run(content, *flags, name="pairs.tsv", model=folder):
        (tmp_path / name).write_bytes(content)
        code = main(["align", f"--model={model}", f"--input={tmp_path / name}", *flags])
        out, err = capsys.readouterr()
        assert not out or out.endswith("\n")
        return code, out.split("\n")[:-1], err

    return run


@pytest.fixture(scope="module")
def usual(model):
    """The lines of PAIRS with nothing chosen."""
    lines = pharaoh(model.align(PAIRS))
    assert [bool(line) for line in lines] == [bool(a and b.strip()) for a, b in PAIRS]
    return lines


def test_every_pair_gets_its_line_in_order(align, usual):
    code, lines, said = align(tsv(PAIRS))
    assert code == 0 and lines == usual
    assert "itermax of simalign similarities between pieces, layer 2 of 3, separate" in said
    assert f"align: {len(PAIRS)} pairs, {sum(len(x.split()) for x in usual)} links" in said
    assert "pairs with an empty side: 3" in said and "no pairs" not in said


def test_triple_bars_are_found_out_and_need_no_spaces(align, usual):
    assert align(tsv(PAIRS, " ||| "))[1] == usual
    assert align(tsv(PAIRS, "|||"))[1] == usual


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_two_files_give_the_lines_of_one_packed_or_not(
    folder, usual, tmp_path, capsys, suffix, pack
):
    paths = [tmp_path / f"{side}{suffix}" for side in ("src", "trg")]
    for path, side in zip(paths, zip(*PAIRS, strict=True), strict=True):
        path.write_bytes(pack("".join(text + "\n" for text in side).encode()))
    flags = [f"--source={paths[0]}", f"--target={paths[1]}", f"--output={tmp_path / 'links'}"]
    assert main(["align", f"--model={folder}", *flags]) == 0
    assert (tmp_path / "links").read_text() == "".join(line + "\n" for line in usual)
    assert capsys.readouterr().out == ""


def test_packed_pairs_in_one_file_are_unpacked(align, usual):
    assert align(gzip.compress(tsv(PAIRS)), name="pairs.gz")[1] == usual


@pytest.mark.parametrize("given", [["--input=-"], []])
def test_standard_input_is_read(folder, usual, monkeypatch, capsys, given):
    data = b"\xef\xbb\xbf" + tsv(PAIRS).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["align", f"--model={folder}", *given]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == usual


def test_links_do_not_depend_on_what_else_is_aligned(align, usual):
    more = list(zip(sentences(8, 90), sentences(9, 90), strict=True))
    order = np.random.default_rng(0).permutation(len(PAIRS) + len(more))
    every = [*PAIRS, *more]
    _, lines, _ = align(tsv([every[i] for i in order]))
    assert [lines[k] for k in np.argsort(order)[: len(PAIRS)]] == usual
    assert align(tsv(PAIRS[:1]))[1] == usual[:1]


def test_a_line_that_is_no_pair_keeps_its_line_and_is_reported(align, usual, tmp_path):
    lines = tsv(PAIRS[:3]).split(b"\n")[:3]
    bad = [b"no separator", b"two\ttabs\there", b"l\xe9on\tleon", b"x" * (1 << 20) + b"y\tz"]
    code, found, said = align(b"\n".join([lines[0], *bad, b"", lines[1], b"\t", lines[2]]))
    assert code == 0 and found == [usual[0], "", "", "", "", "", usual[1], "", usual[2]]
    place = f"align: {tmp_path / 'pairs.tsv'}"
    assert f"{place}:2: no tab, need one between two sides; its line is left empty" in said
    assert f"{place}:3: 2 tab, need one" in said
    assert f"{place}:4: byte 0xe9 at position 1 of the source side is not UTF-8" in said
    assert f"{place}:5: a line of more than 1,048,576 bytes" in said
    assert "lines that are no pairs: 4; pairs with an empty side: 2" in said


def test_many_bad_lines_are_named_up_to_a_point_and_all_counted(align):
    _, lines, said = align(b"a\tb\n" + b"none\n" * 50)
    assert len(lines) == 51 and not any(lines[1:])
    assert said.count("no tab, need one") == 20 and said.count("and more of these") == 1
    assert "lines that are no pairs: 50" in said


def test_a_bad_line_of_the_target_file_is_named_by_that_file(folder, tmp_path, capsys):
    src, trg = tmp_path / "src", tmp_path / "trg"
    src.write_bytes(b"the\nhouse\n")
    trg.write_bytes(b"la\nmais\xf6n\n")
    flags = ["align", f"--model={folder}", f"--source={src}", f"--target={trg}"]
    assert main(flags) == 0
    assert f"{trg}:2: byte 0xf6 at position 4 of the target side" in capsys.readouterr().err
    assert main([*flags, "--on-error=strict"]) == 3
    assert f"jalign: {trg}:2: byte 0xf6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        (b"a\tb\nnone\n", ["--on-error=strict"], ":2: no tab, need one between two sides; correct"),
        (b"a\tb\nl\xe9on\tc\n", ["--on_error=strict"], ":2: byte 0xe9 at position 1 of the source"),
        (b"one\ntwo\n", [], ":1: no line has two sides, separated by one tab or '|||'"),
        (b"one\n" * 1001, [], ":1: no line has two sides"),
        (b"a ||| b\tc\n", [], ":1: a tab and '|||': type --format=tsv or --format=triple_bar"),
        (gzip.compress(b"the\tla\n" * 999, mtime=0)[:-12], [], "damaged"),
    ],
)
def test_bad_data_exits_with_3_before_any_work(align, tmp_path, content, flags, said):
    name = "pairs.gz" if said == "damaged" else "pairs.tsv"
    code, lines, err = align(content, *flags, f"--output={tmp_path / 'links'}", name=name)
    assert code == 3 and not lines and f"jalign: {tmp_path / name}:" in err and said in err
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_bad_line_of_standard_input_stops_a_strict_run(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\tb\nnone\n")))
    assert main(["align", f"--model={folder}", "--on-error=strict"]) == 3
    assert "standard input:2: no tab" in capsys.readouterr().err


def test_files_of_different_lengths_are_bad_data(folder, tmp_path, capsys):
    for name, text in (("src", "a\nb\nc\n"), ("trg", "a\nb\n")):
        (tmp_path / name).write_text(text)
    flags = [f"--source={tmp_path / 'src'}", f"--target={tmp_path / 'trg'}"]
    assert main(["align", f"--model={folder}", *flags]) == 3
    assert f"{tmp_path / 'src'}:3: {tmp_path / 'trg'} ends after 2" in capsys.readouterr().err


def test_a_named_format_takes_the_other_separator_as_text(align, model):
    _, lines, _ = align(b"a ||| b\tc d\n", "--format=tsv")
    assert lines == pharaoh(model.align([("a ||| b", "c d")]))


def test_scores_and_words_stand_beside_the_links(align, model):
    pairs = [("the house", "la maison"), ("", "x"), ("le chat dort", "the cat sleeps")]
    links = model.align(pairs, method="softmax", scores=True)
    _, lines, _ = align(tsv(pairs), "--scores", "--method=softmax")
    every = [list(zip(x.pairs_A2.tolist(), x.score_A.tolist(), strict=True)) for x in links]
    assert len(every[0]) and len(every[2])
    assert lines == [" ".join(f"{i}-{j}:{s:.4f}" for (i, j), s in one) for one in every]
    _, lines, _ = align(tsv(pairs), "--words", "--scores", "--method=softmax")
    words = [[text.split() for text in pair] for pair in pairs]
    assert lines == [
        " ".join(f"{src[i]}<sep>{trg[j]}:{s:.4f}" for (i, j), s in one)
        for one, (src, trg) in zip(every, words, strict=True)
    ]
    _, lines, _ = align(tsv(pairs), "--words", "--method=softmax")
    assert "house<sep>" in lines[0] and ":" not in lines[0]


def test_characters_of_scripts_without_spaces_can_be_the_words(align, model):
    pairs = [("東京は大きい city", "Tokyo is big"), ("ประเทศไทยใหญ่มากจริงๆนะ", "Thailand is big")]
    code, lines, said = align(tsv(pairs), "--unit=char", "--method=forward", "--words")
    assert code == 0 and "a script without spaces" not in said
    assert {word.split("<sep>")[0] for word in lines[0].split()} == {*"東京は大きい", "city"}
    _, numbers, _ = align(tsv(pairs), "--unit=char", "--method=forward")
    apart = [tuple(map(characters, pair)) for pair in pairs]
    assert numbers == pharaoh(model.align(apart, method="forward"))
    _, whole, said = align(tsv(pairs), "--method=forward")
    assert whole == pharaoh(model.align(pairs, method="forward")) != numbers
    assert "pairs.tsv:2: a script without spaces between words" in said
    _, again, said = align(tsv(pairs), "--method=forward", "--pretokenized")
    assert again == whole and "a script without spaces" not in said


def test_every_option_reaches_the_aligner(align, model):
    options = dict(method="softmax", layer=1, similarity="cosine", layout="joint", level="word",
                   threshold=0.12)  # fmt: skip
    code, lines, said = align(tsv(PAIRS), *(f"--{name}={x}" for name, x in options.items()))
    assert code == 0 and lines == pharaoh(model.align(PAIRS, **options))
    assert "softmax of cosine similarities between words, layer 1 of 3, joint sentences" in said
    for name in options:
        fewer = {n: x for n, x in options.items() if n != name}
        if name != "method":  # without it the threshold has no method
            assert lines != pharaoh(model.align(PAIRS, **fewer)), name


def test_bfloat16_is_another_model(align, folder):
    lines = pharaoh(jalign.load(folder, dtype="bfloat16").align(PAIRS[:13]))
    assert align(tsv(PAIRS[:13]), "--dtype=bfloat16")[1] == lines


def test_a_pair_over_the_limit_is_windowed_skipped_or_an_error_with_its_place(
    align, model, tmp_path
):
    text = " ".join(SENTENCES[:6])
    pairs = [("the house", "la maison"), (text, text), ("le chat", "the cat")]
    code, lines, said = align(tsv(pairs), "--method=argmax")
    assert code == 0 and lines == pharaoh(model.align(pairs, method="argmax"))
    assert {f"{i}-{i}" for i in range(len(text.split()))} <= set(lines[1].split())
    assert "pairs longer than the encoder, in windows: 1" in said
    code, skipped, said = align(tsv(pairs), "--method=argmax", "--on-overflow=skip")
    assert code == 0 and skipped == [lines[0], "", lines[2]]
    assert "pairs.tsv:2: longer than the encoder; its line is left empty" in said
    assert "pairs longer than the encoder, left out: 1" in said
    code, none, said = align(tsv(pairs), "--on-overflow=error")
    assert code == 2 and not none
    assert f"{tmp_path / 'pairs.tsv'}:2 has" in said and "--on-overflow=window" in said


def test_small_windows_give_the_same_lines_reports_and_counts(align, tmp_path, monkeypatch):
    text = " ".join(SENTENCES[:6])
    rows = [*tsv(PAIRS[:9]).split(b"\n")[:-1], b"none", f"{text}\t{text}".encode(), b"a\t", b"x\ty"]
    content = b"".join(row + b"\n" for row in [*rows, *rows])
    flags = ["--on-overflow=skip", "--words"]
    code, lines, said = align(content, *flags)
    assert code == 0 and len(lines) == 26 and sum(map(bool, lines)) == 20
    monkeypatch.setattr("jalign.inference.align.PAIRS_PER_TEXT", 16_384 // 2)  # two pairs each
    code, again, said_again = align(content, *flags)
    assert code == 0 and again == lines
    for number in (10, 23):
        assert f"pairs.tsv:{number}: no tab" in said_again
        assert f"pairs.tsv:{number + 1}: longer than the encoder" in said_again
    end = said.partition("slots used")[2]
    assert end.startswith("; lines that are no pairs: 2; pairs with an empty side: 2; pairs longer")
    assert said_again.partition("slots used")[2] == end
    assert align(content, "--on-overflow=error")[2].count("pairs.tsv:11 has") == 1


def test_progress_says_how_far_it_is(align, usual, monkeypatch):
    monkeypatch.setattr("jalign.inference.align.PAIRS_PER_TEXT", 16_384 // 8)  # eight pairs each
    monkeypatch.setattr("jalign.cli.align.SAY_EVERY_S", 0.0)
    code, lines, said = align(tsv(PAIRS))
    assert code == 0 and lines == usual
    assert re.search(r"^align: [1-9][0-9,]* tokens, [0-9,]+ tokens/s$", said, re.M)
    assert re.search(r"^align: 8 of 29 pairs, [0-9.,]+ pairs/s, .*, 0:0\d:\d\d left$", said, re.M)
    assert " 0 of 29" not in said


def test_hard_lines_come_out_right_or_with_a_report(align):
    """Criterion 6: 3,000 words a side, an empty side, emoji only, right to left, 10,000 identical
    tokens.
    """
    rng = np.random.default_rng(1)
    long = " ".join(rng.choice(" ".join(SENTENCES).split(), 3000))
    emoji, hebrew, same = "😀 🎉 👍🏽", "הבית גדול מאוד ויפה", "the " * 10_000
    pairs = [("the", "la"), (long, long), ("", "the house"), (emoji, emoji), (hebrew, hebrew),
             (same, same), ("house", "maison")]  # fmt: skip
    code, lines, said = align(tsv(pairs), "--method=argmax")
    assert code == 0 and lines[0] == lines[6] == "0-0" and lines[2] == ""
    assert lines[1] == " ".join(f"{i}-{i}" for i in range(3000))
    assert lines[3] and set(map("{0}-{0}".format, range(3))) <= set(lines[3].split())
    assert set(lines[4].split()) >= {"0-0", "1-1", "2-2", "3-3"}
    assert lines[5] == " ".join(f"{i}-{i}" for i in range(10_000))
    assert "with an empty side: 1; pairs longer than the encoder, in windows: 2" in said


def test_stored_defaults_are_used_and_flags_win(align, model, folder):
    from jalign.align.methods import Rule

    path = write_stored(folder, 1, Rule("softmax", threshold=0.02), "joint")
    try:
        _, lines, said = align(tsv(PAIRS))
        chosen = dict(method="softmax", threshold=0.02, layout="joint")
        assert "layer 1 of 3, joint sentences, as the model folder stores it" in said
        _, other, said = align(tsv(PAIRS), "--layer=3")
        assert "layer 3 of 3, joint" in said and "stores it" not in said
        _, third, _ = align(tsv(PAIRS), "--method=argmax")
    finally:
        path.unlink()
    assert lines == pharaoh(model.align(PAIRS, layer=1, **chosen))
    assert other == pharaoh(model.align(PAIRS, layer=3, **chosen))
    assert third == pharaoh(model.align(PAIRS, layer=1, method="argmax"))
    path.write_text("{")
    try:
        code, _, said = align(tsv(PAIRS))
    finally:
        path.unlink()
    assert code == 2 and "aligner.json: " in said and "jalign evaluate --save-best" in said


def test_an_imported_model_gives_the_links_of_its_folder(align, folder, usual, tmp_path, capsys):
    imported = tmp_path / "imported"
    assert main(["import", f"--input={folder}", f"--output={imported}"]) == 0
    capsys.readouterr()
    assert align(tsv(PAIRS), model=imported)[1] == usual
