"""`jalign evaluate`: gold sets of every format, tables over layers and methods, the best one stored
for `jalign align`; what is wrong with a gold set is said with its place.
"""

from __future__ import annotations

import gzip
import json

import pytest

import jalign
from jalign.cli.main import main
from jalign.evals._gold import read_gold
from jalign.hf.compare import SENTENCES

pytest.importorskip("torch")

from tests.hf.torch_models import make_folder  # noqa: E402

PAIRS = [
    ("the house is big", "la maison est grande"),
    ("the cat sleeps", "le chat dort sur un lit"),
    ("a bed", "un lit"),
    *zip(SENTENCES[:6], SENTENCES[2:8], strict=True),
]
SURE = [{(i, i) for i in range(min(len(a.split()), len(b.split())))} for a, b in PAIRS]
POSSIBLE = [
    {(0, k) for k in range(1, len(trg.split()))} | {(k, 0) for k in range(1, len(src.split()))}
    for src, trg in PAIRS
]
METHODS = ("argmax", "softmax", "grow-diag")
LAYERS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "model"
    make_folder(folder, "xlm-roberta", 1)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return jalign.load(folder)


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def pharaoh(base, possible=POSSIBLE):
    """Write the gold links, counted from `base`."""
    return [
        " ".join(
            [f"{i + base}-{j + base}" for i, j in sorted(sure)]
            + [f"{i + base}p{j + base}" for i, j in sorted(more)]
        )
        for sure, more in zip(SURE, possible, strict=True)
    ]


def naacl(base):
    """Write them a link per line, with confidences on some."""
    return [
        f"{n:04} {i + base} {j + base}{mark}"
        for n, (sure, more) in enumerate(zip(SURE, POSSIBLE, strict=True), 1)
        for links, mark in ((sorted(sure), ""), (sorted(more), " P 0.5"))
        for i, j in links
    ]


@pytest.fixture(scope="module")
def gold(tmp_path_factory):
    """The same gold set in every format: {name: spec without its name}."""
    at = tmp_path_factory.mktemp("gold")
    tabs = write(at / "tabs", [f"{a}\t{b}" for a, b in PAIRS])
    bars = write(at / "bars", [f"{a} ||| {b}" for a, b in PAIRS])
    sides = [write(at / f"side{k}", [pair[k] for pair in PAIRS]) for k in (0, 1)]
    zero, one = (write(at / f"pharaoh{base}", pharaoh(base)) for base in (0, 1))
    naacl_zero, naacl_one = (write(at / f"naacl{base}", naacl(base)) for base in (0, 1))
    columns = at / "columns.gz"
    rows = zip(PAIRS, pharaoh(0), strict=True)
    columns.write_bytes(gzip.compress("".join(f"{a}\t{b}\t{x}\n" for (a, b), x in rows).encode()))
    return {
        "tabs": f"{tabs},{zero}",
        "bars": f"{bars},{one},base=1",
        "sides": f"{sides[0]},{sides[1]},{zero},format=pharaoh",
        "columns": str(columns),
        "naacl": f"{tabs},{naacl_one}",
        "naacl0": f"{bars},{naacl_zero},base=0,format=naacl",
    }


def scores_by_hand(found):
    """Precision, recall, F1 and AER of Och & Ney, from sets of links."""
    found = [set(map(tuple, one.pairs_A2.tolist())) for one in found]
    num_a, num_s = sum(map(len, found)), sum(map(len, SURE))
    in_s = sum(len(a & s) for a, s in zip(found, SURE, strict=True))
    in_p = sum(len(a & (s | p)) for a, s, p in zip(found, SURE, POSSIBLE, strict=True))
    precision, recall = in_p / num_a, in_s / num_s
    f1 = 2 * precision * recall / (precision + recall)
    return dict(precision=precision, recall=recall, f1=f1, aer=1 - (in_s + in_p) / (num_a + num_s))


@pytest.fixture(scope="module")
def wanted(model):
    return {
        (layer, method): scores_by_hand(model.align(PAIRS, method=method, layer=layer))
        for layer in range(1 + LAYERS)
        for method in METHODS
    }


@pytest.fixture
def evaluate(folder, capsys):
    """Run the command; return its exit code, what it printed and what it said."""

    def run(*flags):
        code = main(["evaluate", f"--model={folder}", *flags])
        return code, *capsys.readouterr()

    return run


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_format_gives_the_same_set(gold):
    for name, spec in gold.items():
        found = read_gold(f"{name},{spec}")
        assert found.name == name
        assert [tuple(" ".join(s.split()) for s in pair) for pair in found.pairs] == PAIRS
        assert [set(one.sure) for one in found.gold] == SURE, name
        assert [set(one.possible - one.sure) for one in found.gold] == POSSIBLE, name


def test_all_layers_and_methods_have_the_scores_of_their_links(evaluate, gold, wanted, tmp_path):
    output = tmp_path / "results.jsonl"
    flags = [f"--methods={','.join(METHODS)}", "--all-layers", f"--output={output}"]
    code, out, _ = evaluate(f"--gold=a,{gold['tabs']}", *flags)
    assert code == 0
    lines = [r for r in read(output) if r["lang"] == "a"]
    assert len(lines) == len(METHODS) * (1 + LAYERS) * 4
    for r in lines:
        assert r["value"] == pytest.approx(wanted[r["layer"], r["method"]][r["metric"]]), r
        assert r["task"] == f"word_alignment/{r['method']}/layer{r['layer']}"
        assert (r["n"], r["step"], r["layout"], r["level"]) == (len(PAIRS), -1, "separate", "piece")
    sharp = {r["method"]: (r["similarity"], r["threshold"]) for r in lines}
    assert sharp["softmax"] == ("dot", 1e-3) and sharp["argmax"] == ("simalign", None)
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    sure, possible = (sum(map(len, links)) for links in (SURE, POSSIBLE))
    assert f"\na: 9 sentences, {sure} sure links, {possible} only possible\n" in out
    table = [line.split() for line in out.splitlines() if line.startswith("layer ")]
    assert table == [
        ["layer", str(k), *(f"{100 * wanted[k, m]['aer']:.2f}" for m in METHODS)]
        for k in range(1 + LAYERS)
    ]
    for method in METHODS:
        best = min(range(1 + LAYERS), key=lambda k, m=method: wanted[k, m]["aer"])
        values = [f"{100 * wanted[best, method][m]:.2f}" for m in ("precision", "recall", "f1")]
        assert rows[method] == [str(best), *values, f"{100 * wanted[best, method]['aer']:.2f}"]
    layer, method = min(wanted, key=lambda key: wanted[key]["aer"])
    assert f"lowest AER: {method} at layer {layer}, {100 * wanted[layer, method]['aer']:.2f}" in out


def test_a_set_of_several_windows_scores_the_same(evaluate, gold, monkeypatch):
    flags = [f"--gold=a,{gold['columns']}", f"--methods={','.join(METHODS)}", "--layers=2,3"]
    whole = evaluate(*flags)
    monkeypatch.setattr("jalign.inference.align.PAIRS_PER_TEXT", 16_384 // 2)  # two pairs each
    assert evaluate(*flags) == whole and whole[0] == 0


def test_two_sets_are_averaged_and_options_reach_the_aligner(evaluate, gold, tmp_path, model):
    half = tmp_path / "half"
    rows = list(zip(PAIRS, pharaoh(0), strict=True))[:3]
    write(half, [f"{a}\t{b}\t{links}" for (a, b), links in rows])
    output = tmp_path / "results.jsonl"
    code, out, _ = evaluate(
        f"--gold=a,{gold['columns']}", f"--gold=b,{half}", f"--output={output}", "--layers=1,-1",
        "--methods=softmax,argmax", "--threshold=0.05", "--layout=joint", "--level=word",
    )  # fmt: skip
    assert code == 0 and "\navg: mean of a, b\n" in out and "\nb: 3 sentences" in out
    found = {(r["lang"], r["layer"], r["method"], r["metric"]): r for r in read(output)}
    assert {key[1] for key in found} == {1, 3}
    for layer, method in ((1, "softmax"), (3, "argmax")):
        one, two, mean = (found[lang, layer, method, "aer"] for lang in ("a", "b", "avg"))
        assert mean["value"] == pytest.approx((one["value"] + two["value"]) / 2)
        assert (one["n"], two["n"], mean["n"]) == (9, 3, 12)
        assert one["layout"] == "joint" and one["level"] == "word"
        given = {"threshold": 0.05} if method == "softmax" else {}
        links = model.align(PAIRS, method=method, layer=layer, layout="joint", level="word",
                            **given)  # fmt: skip
        assert one["value"] == pytest.approx(scores_by_hand(links)["aer"])
    assert found["a", 1, "softmax", "aer"]["threshold"] == 0.05


def test_the_usual_methods_at_the_usual_layer_need_no_flags(evaluate, gold):
    code, out, said = evaluate(f"--gold=a,{gold['tabs']}")
    assert code == 0 and said.count("\n") == 1 and "joint: 3 pairs longer than the enc" in said
    rows = [line.split()[:2] for line in out.splitlines() if line.count(".") == 4]
    assert rows == [[m, "2"] for m in ("argmax", "itermax", "softmax", "entmax", "ot")]


def test_the_best_is_stored_and_align_uses_it(evaluate, gold, folder, wanted, tmp_path, capsys):
    source = write(tmp_path / "pairs", [f"{a}\t{b}" for a, b in PAIRS])
    align = ["align", f"--model={folder}", f"--input={source}"]
    flags = [f"--methods={','.join(METHODS)}", "--all-layers", "--save-best"]
    code, out, _ = evaluate(f"--gold=a,{gold['tabs']}", *flags)
    path = folder / "aligner.json"
    try:
        stored = json.loads(path.read_text())
        assert main(align) == 0
        lines, said = capsys.readouterr()
        again = evaluate(f"--gold=a,{gold['tabs']}", "--methods=forward")
    finally:
        path.unlink()
    assert code == 0 and f"stored in {path}" in out
    layer, method = min(wanted, key=lambda key: wanted[key]["aer"])
    assert (stored["layer"], stored["method"]) == (layer, method)
    assert stored["aer"] == pytest.approx(wanted[layer, method]["aer"])
    assert stored["chosen_on"] == ["a"] and stored["layout"] == "separate"
    assert f"layer {layer} of 3, separate sentences, as the model folder stores it" in said
    assert main([*align, f"--method={method}", f"--layer={layer}"]) == 0
    assert capsys.readouterr().out == lines
    assert again[0] == 0 and f"forward at layer {round(2 * LAYERS / 3)}" in again[1]


def test_a_folder_that_cannot_be_written_gives_the_flags_instead(evaluate, gold, folder):
    (folder / "aligner.json").mkdir()
    try:
        code, out, said = evaluate(f"--gold=a,{gold['tabs']}", "--methods=argmax", "--save-best")
    finally:
        (folder / "aligner.json").rmdir()
    assert code == 2 and "lowest AER: argmax at layer 2" in out
    assert "type --method=argmax --layer=2 with jalign align instead" in said


def test_a_pair_longer_than_the_encoder_is_scored_in_windows(evaluate, tmp_path):
    text = " ".join(SENTENCES[:6])
    links = " ".join(f"{i}-{i}" for i in range(len(text.split())))
    path = write(tmp_path / "long", [f"{text}\t{text}\t{links}"])
    code, out, said = evaluate(f"--gold=a,{path}", "--methods=argmax", "--layers=0")
    assert code == 0 and "1 pairs longer than the encoder, in windows" in said
    recall = next(line for line in out.splitlines() if line.startswith("argmax")).split()[3]
    assert recall == "100.00"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gold=a,b,c"], "--model is missing"),
        (["--model=m"], "--gold is missing: type --gold=NAME,BITEXT,LINKS"),
        (["--model=m", "--gold=a", "--all-layers", "--layers=1"], "not both"),
        (["--model=m", "--gold=a", "--layers=x"], "--layers=x: need numbers"),
        (["--model=m", "--gold=a", "--layers=--1"], "--layers=--1: need numbers"),
        (["--model=m", "--gold=a", "--methods="], "--methods is empty"),
        (["--model=m", "--gold=a", "--methods=max"], "--methods: max; need some of argmax"),
        (["--model=m", "--gold=a", "--methods=argmax", "--threshold=0.1"], "none of --methods"),
        (["--model=m", "--gold=a", "--output=no/r"], "there is no folder no; make it"),
        (["--model=m", "--gold=a", "--output=."], "is a folder; type a file in it"),
        (["--model=m", "--gold=a,text,links", "--gold=a,text,links"], "a name of its own"),
        (["--model=m", "--gold=avg,text,links"], "'avg' is taken"),
        (["--model=m", "--gold=a,text,linx"], "no file linx"),
        (["--model=m", "--gold=a"], "need NAME,BITEXT,LINKS"),
        (["--model=m", "--gold=a,text,links,base=2"], "base=2 is no option; there are format="),
        (["--model=m", "--gold=a,text,links,null=skip"], "null=skip is for NAACL links"),
        (["--model=m", "--gold=a,text,links,x,y"], "need NAME,BITEXT,LINKS"),
        (["--model=m", "--gold=a,text,links", "--task=nli"], "task"),
        (["--model=m", "--gold=a,text,links"], "m is no folder"),
    ],
)
def test_wrong_arguments_exit_with_2_and_say_what_to_type(
    flags, said, capsys, tmp_path, monkeypatch
):
    write(tmp_path / "text", ["a b\tc d"])
    write(tmp_path / "links", ["0-0"])
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *flags]) == 2
    assert said in capsys.readouterr().err


TWENTY = ["a b c\td e f"] * 20


@pytest.mark.parametrize(
    ("text", "links", "options", "said"),
    [
        (["a b\tc"], ["0-0 1=0"], "", "links:1: '1=0' is no link"),
        (["a b\tc", "d\te"], ["0-0", "1-0"], "", "links: sentence 2: link 1-0 (counted from 0) p"),
        (["a b\tc"], ["1-1 2-1"], "", "does the file count from 1, or are the sides swapped?"),
        (["a b\tc"], ["0-0"], ",base=1", "lies before the first word, 1; does this file count fro"),
        (["a b\tc"], ["0-0", "0-0"], "", "links of 2 sentences, and the text has 1"),
        (["a b\tc"], ["", ], "", "links: no links"),
        (["a b\tc"], ["1 1 1 S", "1 2"], "", "links:2: '1 2'; need 'sentence source target"),
        (["a b\tc"], ["1 0 1"], "", "does this file count from 0?"),
        (["a b\tc"], ["7 1 1", "8 1 1"], "", "2 sentences numbered 7 to 8; need numbers 1 to 1"),
        (["a b\tc"], ["", " "], ",format=naacl", "links: no links"),
        (["a b c"], ["0-0"], "", "text:1: 1 columns, separated by tabs or |||; need 2"),
        (["a\tb", ""], ["0-0", ""], "", "text:2: 1 columns"),
        ([], ["0-0"], "", "text: no sentences"),
        (TWENTY, ["1-1 2-2"] * 20, "", "touches a first word; does the file count from 1? Then"),
    ],
)  # fmt: skip
def test_a_gold_set_with_a_fault_exits_with_3_and_its_place(
    tmp_path, capsys, text, links, options, said
):
    paths = write(tmp_path / "text", text), write(tmp_path / "links", links)
    spec = f"--gold=a,{paths[0]},{paths[1]}{options}"
    assert main(["evaluate", "--model=m", spec]) == 3
    err = capsys.readouterr().err
    assert said in err and str(tmp_path) in err


def test_files_that_are_no_text_or_of_other_lengths_exit_with_3(tmp_path, capsys):
    src, trg = write(tmp_path / "src", ["a", "b"]), write(tmp_path / "trg", ["c"])
    links = write(tmp_path / "links", ["0-0", "0-0"])
    assert main(["evaluate", "--model=m", f"--gold=a,{src},{trg},{links}"]) == 3
    assert f"{src} has 2 lines and {trg} 1" in capsys.readouterr().err
    trg.write_bytes(b"c\n\xff\n")
    assert main(["evaluate", "--model=m", f"--gold=a,{src},{trg},{links}"]) == 3
    assert f"{trg}:2: not UTF-8" in capsys.readouterr().err


def test_a_file_that_never_links_a_first_word_passes_where_its_base_is_said(tmp_path):
    text = write(tmp_path / "text", TWENTY)
    links = write(tmp_path / "links", ["1-1 2-2"] * 20)
    (first, *_), (shifted, *_) = (
        read_gold(f"a,{text},{links},base={base}").gold for base in (0, 1)
    )
    assert first.sure == {(1, 1), (2, 2)} and shifted.sure == {(0, 0), (1, 1)}


def test_links_to_the_empty_word_are_left_out_where_that_is_asked_for(tmp_path):
    text = write(tmp_path / "text", ["a b\tc d"])
    links = write(tmp_path / "links", ["1 0 1", "1 2 1", "1 1 0 P"])
    assert read_gold(f"a,{text},{links},null=skip").gold[0].possible == {(1, 0)}


def test_the_hansards_gold_has_the_published_numbers_of_links(shared_data):
    folder = shared_data / "alignment"
    spec = f"en-fr,{folder / 'hansards.en-fr.src-tgt'},{folder / 'hansards.en-fr.gold'}"
    assert read_gold(f"{spec},base=1").described() == (
        "447 sentences, 4,038 sure links, 13,400 only possible"
    )
    with pytest.raises(ValueError, match="does the file count from 1"):
        read_gold(spec)
    xlwa = read_gold(f"en-ru,{folder / 'xlwa.en-ru.test.tsv'}")
    # the file has 2,582, two of them twice
    assert xlwa.described() == "210 sentences, 2,580 sure links, 0 only possible"
