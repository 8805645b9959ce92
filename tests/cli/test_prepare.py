"""`jalign prepare`: bad input stops with file and line or is set aside, and nothing gets lost."""

import gzip
import json
import shutil

import numpy as np
import pytest

from jalign.cli.main import main
from jalign.data import records
from jalign.data.prepare_steps import sampling_rates
from jalign.data.tokenizer import load_tokenizer, train_tokenizer

SRC = [
    f"The {a} {n} is {i}."
    for i, a in enumerate("red green big old".split())
    for n in ("house", "cat")
]
TRG = [
    f"Das {a} {n} ist {i}."
    for i, a in enumerate("rote grüne große alte".split())
    for n in ("Haus", "Tier")
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer((SRC + TRG) * 4, folder, 38)
    return folder


@pytest.fixture
def run(tmp_path, tokenizer, capsys, monkeypatch):
    """Run `jalign prepare` in an empty folder and return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args, tokenizer=tokenizer):
        given = [f"--tokenizer={tokenizer}"] if tokenizer else []
        code = main(["prepare", "--output=out", *given, *args])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def write_tsv(path, pairs):
    path.write_bytes("".join(f"{src}\t{trg}\n" for src, trg in pairs).encode())


def report(folder="out"):
    [found] = records.read_manifest(folder).details["sources"]
    return found


def kept_texts(folder="out"):
    manifest = records.read_manifest(folder)
    texts = []
    for source in manifest.sources:
        for split, info in source.splits.items():
            texts += records.read_texts(
                manifest, source.name, source.stream, split, range(info.count)
            )
    return sorted(texts)


def quarantine(name="pair.en-de"):
    with gzip.open(f"out/quarantine/{name}.tsv.gz", "rt", encoding="utf-8", newline="\n") as file:
        return [line.rstrip("\n").split("\t") for line in file]


GOOD = list(zip(SRC, TRG, strict=True))
# name of the case: the bytes of line 3, the reason, what the message says
FLAWS = {
    "bad utf-8": (b"caf\xe9\tKaffee", "bad_utf8", "byte 0xe9 at position 3 of the source side"),
    "utf-16": (b"\xff\xfea\0\tb", "bad_utf8", "looks like UTF-16"),
    "no tab": (b"one side only", "missing_separator", "no tab"),
    "blank line": (b"", "missing_separator", "no tab"),
    "two tabs": (b"a\tb\tc", "extra_separator", "2 times tab"),
    "empty source": (b"\tb", "empty_side", "no text of the source side"),
    "blank target": (b"a\t \xe3\x80\x80", "empty_side", "no text of the target side"),
    "nul": (b"a\0b\tc", "nul", "U+0000 at character 1"),
    "U+2028": ("a\u2028b\tc".encode(), "line_break", "U+2028 at character 1 of the source side"),
    "U+2029": ("a\u2029b\tc".encode(), "line_break", "U+2029"),
    "U+0085": ("a\tb\x85c".encode(), "line_break", "U+0085 at character 1 of the target side"),
    "vertical tab": (b"a\vb\tc", "line_break", "U+000B"),
    "form feed": (b"a\fb\tc", "line_break", "U+000C"),
    "lone CR": (b"a\rb\tc", "control_character", "U+000D"),
    "many characters": (b"x" * 10_001 + b"\tb", "too_long", "10001 characters"),
    "many words": (b"x " * 2_001 + b"\tb", "too_long", "2001 words"),
    "endless line": (b"x" * 1_100_000 + b"\tb", "too_long", "bytes"),
    "ratio": (b"a\t" + b"b" * 500, "length_ratio", "sides of 1 and 500 characters"),
    "duplicate": ("\t".join(GOOD[0]).encode(), "duplicate", "an exact repeat"),
}  # fmt: skip
REPAIRS = {
    "CRLF": (b"a\tb\r", "crlf", r"ends in \r\n"),
    "BOM": (b"\xef\xbb\xbfa\tb", "bom", "byte order mark"),
}


def write_case(path, line):
    lines = ["\t".join(pair).encode() for pair in GOOD]
    lines.insert(2, line)
    path.write_bytes(b"\n".join(lines) + b"\n")


@pytest.mark.parametrize("case", [*FLAWS, *REPAIRS])
def test_strict_stops_with_3_and_names_file_line_and_remedy(run, tmp_path, case):
    line, reason, detail = (FLAWS | REPAIRS)[case]
    write_case(tmp_path / "a.tsv", line)
    code, out, err = run("--corpus=tsv,en,de,a.tsv")
    assert code == 3
    assert out == ""
    assert f"a.tsv:3: {reason}: " in err
    assert detail in err
    assert "need" in err
    assert "--on-error=quarantine" in err
    assert not (tmp_path / "out").exists()
    assert not records.partial_folder(tmp_path / "out").exists()


@pytest.mark.parametrize("case", FLAWS)
def test_quarantine_sets_the_pair_aside_and_keeps_the_others_paired(run, tmp_path, case):
    line, reason, _ = FLAWS[case]
    write_case(tmp_path / "a.tsv", line)
    code, out, _ = run("--corpus=tsv,en,de,a.tsv", "--on-error=quarantine")
    assert code == 0
    assert f"{reason} 1" in out
    assert kept_texts() == sorted(GOOD)
    [row] = quarantine()
    assert row[:2] == [reason, "a.tsv:3"]
    found = report()
    assert found["quarantined"] == {reason: 1}
    assert found["read"] == len(GOOD) + 1 == found["train"] + found["heldout"] + 1


@pytest.mark.parametrize("case", REPAIRS)
def test_quarantine_repairs_what_it_can_and_counts_it(run, tmp_path, case):
    line, reason, _ = REPAIRS[case]
    write_case(tmp_path / "a.tsv", line)
    code, out, _ = run("--corpus=tsv,en,de,a.tsv", "--on-error=quarantine")
    assert code == 0
    assert f"{reason} 1" in out
    assert kept_texts() == sorted([*GOOD, ("a", "b")])
    found = report()
    assert found["repaired"] == {reason: 1}
    assert found["quarantined"] == {}
    assert found["read"] == len(GOOD) + 1 == found["train"] + found["heldout"]


@pytest.mark.parametrize("mode", ["strict", "quarantine"])
def test_unequal_line_counts_stop_in_both_modes(run, tmp_path, mode):
    (tmp_path / "a.en").write_text("x\ny\nz\n")
    (tmp_path / "a.de").write_text("x\ny\n")
    code, _, err = run("--corpus=moses,en,de,a.en,a.de", f"--on-error={mode}")
    assert code == 3
    assert "a.en:3: unequal_line_counts: a.de ends after 2 lines, a.en has 3" in err
    assert not (tmp_path / "out").exists()


def test_line_separators_inside_a_line_do_not_shift_moses_pairs(run, tmp_path):
    (tmp_path / "a.en").write_bytes("one\ntw\u2028o\x85\v\nthree\n".encode())
    (tmp_path / "a.de").write_bytes(b"eins\nzwei\ndrei\n")
    code, _, _ = run("--corpus=moses,en,de,a.en,a.de", "--on-error=quarantine")
    assert code == 0
    assert kept_texts() == [("one", "eins"), ("three", "drei")]
    assert quarantine() == [
        ["line_break", "a.en:2", "U+2028 at character 2 of the source side",
         "tw\\u2028o\\u0085\\u000b", "zwei"]
    ]  # fmt: skip


def test_duplicates_are_found_across_files_of_a_source_and_only_there(run, tmp_path):
    write_tsv(tmp_path / "a.tsv", GOOD)
    (tmp_path / "b.txt").write_text(" ||| ".join(GOOD[1]) + "\n")
    write_tsv(tmp_path / "c.tsv", GOOD)
    corpora = ["--corpus=tsv,en,de,a.tsv", "--corpus=triple_bar,en,de,b.txt"]
    code, _, err = run(*corpora)
    assert code == 3
    assert "b.txt:1: duplicate: an exact repeat of a.tsv:2" in err
    assert run(*corpora, "--corpus=tsv,en,fr,c.tsv", "--on-error=quarantine")[0] == 0
    found = {r["name"]: r["quarantined"] for r in records.read_manifest("out").details["sources"]}
    assert found == {"en-de": {"duplicate": 1}, "en-fr": {}}


def test_a_sentence_is_held_out_of_every_pair_and_of_mono_text(run, tmp_path):
    src = [f"Sentence number {i}, with text." for i in range(400)]
    write_tsv(tmp_path / "de.tsv", [(s, f"Satz {i}") for i, s in enumerate(src)])
    write_tsv(tmp_path / "fr.tsv", [(s.upper(), f"Phrase {i}") for i, s in enumerate(src)])
    (tmp_path / "en.txt").write_text("\n".join(src))
    args = ["--corpus=tsv,en,de,de.tsv", "--corpus=tsv,en,fr,fr.tsv", "--corpus=lines,en,en.txt"]
    assert run(*args, "--heldout=0.25")[0] == 0
    manifest = records.read_manifest("out")
    held = []
    for source in manifest.sources:
        count = source.splits["heldout"].count
        texts = records.read_texts(manifest, source.name, source.stream, "heldout", range(count))
        held.append({t[0].upper() for t in texts})
    assert held[0] == held[1] == held[2]
    assert 60 < len(held[0]) < 140


def test_the_same_command_again_is_quick_and_another_one_is_refused(run, tmp_path):
    write_tsv(tmp_path / "a.tsv", GOOD)
    args = ["--corpus=tsv,en,de,a.tsv", "--heldout=0.2"]
    assert run(*args)[0] == 0
    before = records.read_manifest("out").sha256
    code, out, _ = run(*args)
    assert (code, out.startswith("already prepared: out")) == (0, True)
    code, _, err = run(args[0])
    assert code == 2
    assert "--overwrite" in err
    write_tsv(tmp_path / "a.tsv", GOOD[:-1])
    assert run(*args)[0] == 2
    assert run(*args, "--overwrite")[0] == 0
    assert records.read_manifest("out").sha256 != before


def test_a_folder_of_something_else_is_never_replaced(run, tmp_path):
    write_tsv(tmp_path / "a.tsv", GOOD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    code, _, err = run("--corpus=tsv,en,de,a.tsv", "--overwrite")
    assert code == 2
    assert "no prepared dataset and not empty" in err
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_a_corpus_in_the_folder_that_is_replaced_stays(run, tmp_path):
    write_tsv(tmp_path / "a.tsv", GOOD)
    assert run("--corpus=tsv,en,de,a.tsv")[0] == 0
    (tmp_path / "a.tsv").rename(tmp_path / "out/b.tsv")
    code, _, err = run("--corpus=tsv,en,de,out/b.tsv", "--overwrite")
    assert code == 2 and "out/b.tsv lies in out, which would be replaced" in err
    assert (tmp_path / "out/b.tsv").exists()


def test_an_interrupted_prepare_never_looks_finished(run, tmp_path, monkeypatch):
    write_tsv(tmp_path / "a.tsv", GOOD)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records.DatasetWriter, "finish", killed)
        assert run("--corpus=tsv,en,de,a.tsv")[0] == 130
    with pytest.raises(records.ManifestError, match="did not finish"):
        records.read_manifest("out")
    assert run("--corpus=tsv,en,de,a.tsv")[0] == 0
    assert kept_texts() == sorted(GOOD)


def test_the_same_input_gives_the_same_bytes_wherever_it_is(run, tmp_path):
    write_tsv(tmp_path / "a.tsv", GOOD)
    shutil.copytree(tmp_path, tmp_path / "deep/er")
    args = ["--vocab_size=36", "--heldout=0"]
    assert run("--corpus=tsv,en,de,a.tsv", *args, tokenizer=None)[0] == 0
    assert run("--corpus=tsv,en,de,deep/er/a.tsv", *args, "--output=two", tokenizer=None)[0] == 0
    one, two = records.read_manifest("out"), records.read_manifest("two")
    assert one.sha256 == two.sha256
    assert one.vocab_size == 36
    assert load_tokenizer("out/tokenizer").sha256 == one.tokenizer_sha256
    columns = sorted(
        p.relative_to(tmp_path / "out") for p in (tmp_path / "out").glob("columns/**/*.npy")
    )
    assert len(columns) == 6 * len(one.sources[0].splits)
    for name in columns:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_stored_ids_are_those_of_the_tokenizer_for_both_sides(run, tmp_path, tokenizer):
    write_tsv(tmp_path / "a.tsv", GOOD)
    assert run("--corpus=tsv,en,de,a.tsv", "--heldout=0")[0] == 0
    source = records.open_source(records.read_manifest("out"), "en-de", "pair", "train")
    assert source.num_examples == len(GOOD)
    for side, texts in zip(source.sides, (SRC, TRG), strict=True):
        for i, (ids, word) in enumerate(load_tokenizer(tokenizer).encode_words(texts)):
            part = slice(side.offsets[i], side.offsets[i + 1])
            np.testing.assert_array_equal(side.ids[part], ids)
            np.testing.assert_array_equal(side.word[part], word)


def test_manifest_counts_languages_and_records_the_command(run, tmp_path):
    write_tsv(tmp_path / "a.tsv", GOOD)
    (tmp_path / "b.txt").write_text("Sawa sawa.\n\nHabari\nyako?\n")
    assert run("--corpus=tsv,EN,de,a.tsv", "--corpus=documents,sw,b.txt")[0] == 0
    data = json.loads((tmp_path / "out/manifest.json").read_text())
    assert data["languages"] == ["de", "en", "sw"]
    counts = {lang: v["texts"] for lang, v in data["details"]["languages"].items()}
    assert counts == {"de": 8, "en": 8, "sw": 2}
    tokens = sum(x["tokens"] for s in data["sources"] for x in s["splits"].values())
    assert tokens == sum(v["tokens"] for v in data["details"]["languages"].values())
    assert data["details"]["command"]["corpora"] == ["tsv,EN,de,a.tsv", "documents,sw,b.txt"]


def test_a_broken_catalogue_stops_or_is_set_aside_and_the_others_are_read(run, tmp_path):
    for name, text in (("a", 'msgid "Yes"\nmsgstr "Ja"\n'), ("b", 'msgid "No"\nnonsense\n')):
        (tmp_path / "de" / "LC_MESSAGES").mkdir(parents=True, exist_ok=True)
        (tmp_path / "de" / "LC_MESSAGES" / f"{name}.po").write_text(text)
    code, _, err = run("--corpus=gettext,en,de,.", "--heldout=0")
    assert code == 3
    assert "de/LC_MESSAGES/b.po:2: bad_catalogue: " in err
    assert run("--corpus=gettext,en,de,.", "--heldout=0", "--on-error=quarantine")[0] == 0
    assert kept_texts() == [("Yes", "Ja")]
    assert quarantine()[0][:2] == ["bad_catalogue", "de/LC_MESSAGES/b.po:2"]


def test_globs_name_files_in_sorted_order(run, tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(f"Sawa {name}\n")
    assert run("--corpus=lines,sw,*.txt", "--heldout=0")[0] == 0
    manifest = records.read_manifest("out")
    origins = [e.origin for e in records.read_examples(manifest, "sw", "mono", "train")]
    assert origins == ["a.txt:1", "b.txt:1"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--corpus=tvs,en,de,a.tsv"], "Did you mean 'tsv'? There are: documents, gettext, lines"),
        (["--corpus=tsv,en,de"], "type --corpus=tsv,SRC,TRG,FILE"),
        (["--corpus=tsv,en,english,a.tsv"], "'english' is not a language tag"),
        (["--corpus=tsv,en,EN,a.tsv"], "a pair needs two languages"),
        (["--corpus=tsv,en,de,absent.tsv"], "no file 'absent.tsv'"),
        (["--corpus=moses,en,de,a.tsv"], "lacks fields"),
        (["--corpus=tsv,en,de,a.tsv", "--on-error=lax"], "on_error"),
        (["--corpus=tsv,en,de,a.tsv", "--vocab_size=9000"], "type either --vocab_size"),
        (["--corpus=tsv,en,de,a.tsv", "--colour=red"], "Unknown command line flag"),
        ([], "type --corpus=FORMAT"),
        (["a.tsv"], "unexpected ['a.tsv']"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_type(run, tmp_path, args, message):
    write_tsv(tmp_path / "a.tsv", GOOD)
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert message in err


def test_a_vocabulary_too_large_for_the_text_exits_with_2(run, tmp_path):
    write_tsv(tmp_path / "a.tsv", GOOD)
    code, _, err = run("--corpus=tsv,en,de,a.tsv", "--vocab_size=5000", tokenizer=None)
    assert code == 2
    assert "more than these texts can fill" in err


def test_nothing_left_to_train_on_is_bad_data(run, tmp_path):
    (tmp_path / "a.tsv").write_text("a\n\n")
    code, _, err = run("--corpus=tsv,en,de,a.tsv", "--on-error=quarantine")
    assert code == 3
    assert "no text is left to train on; 2 records were read" in err


def test_help_lists_flags_and_formats(run, capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    out = capsys.readouterr().out
    assert "triple_bar,SRC,TRG,FILE" in out
    assert "--heldout" in out


def test_sampling_rates_fit_the_budget_and_spare_small_languages():
    rates = sampling_rates({"en": 1_000_000, "sw": 1_000, "de": 100_000}, 50_000, 0.3)
    assert rates["sw"] == 1.0
    taken = {lang: rates[lang] * n for lang, n in (("en", 1e6), ("sw", 1e3), ("de", 1e5))}
    assert sum(taken.values()) == pytest.approx(50_000)
    assert taken["en"] / taken["de"] == pytest.approx(10**0.3)
    assert sampling_rates({"en": 10, "de": 20}, 50, 0.3) == {"en": 1.0, "de": 1.0}
