"""`jalign mine`: the pairs of margin mining with the model's own vectors; goes on after a stop."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import jalign
from jalign.align.search import Blocks, Search
from jalign.cli.main import main
from jalign.data.text_store import store_texts
from jalign.inference.mine import Mining, mine_texts, run_search
from tests.oracles import mining
from tests.tiny import sentences

pytest.importorskip("torch")

from tests.hf.torch_models import make_folder  # noqa: E402

TEXTS = list(dict.fromkeys(sentences(1, 60)))[:50]
SRC = [*TEXTS[:20], "", TEXTS[3], " " + TEXTS[4] + "\t", *TEXTS[20:30], "  "]
TRG = [f"{text} der Hund" for text in reversed(TEXTS[10:])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine") / "model"
    make_folder(folder, "xlm-roberta", 2)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return jalign.load(folder)


def write(path, lines):
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def run(folder, tmp_path, capsys):
    """Run the command; return its exit code, the lines of its output, and what it said."""

    def run(src, trg, *flags):
        files = {"src": write(tmp_path / "src.gz", src), "trg": write(tmp_path / "trg", trg)}
        args = [f"--{side}={path}" for side, path in files.items()]
        out = tmp_path / "mined.tsv"
        code = main(["mine", f"--model={folder}", *args, f"--output={out}", *flags])
        lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else None
        return code, lines, capsys.readouterr()

    return run


def wanted_lines(model, src, trg, layer, *options):
    """Mine with a loop over the whole matrix of the model's vectors."""
    sim_NM = mining.cosines(*(model.embed(side, layer=layer) for side in (src, trg)))
    return [(score, src[i], trg[j]) for score, i, j in mining.mine(sim_NM, *options)]


def assert_lines(lines, wanted):
    rows = [line.split("\t") for line in lines]
    np.testing.assert_allclose([float(row[0]) for row in rows], [w[0] for w in wanted], atol=2e-6)
    assert {tuple(row[1:]) for row in rows} == {w[1:] for w in wanted}


def test_each_sentence_is_mined_once_and_what_was_left_out_is_counted(run, model, tmp_path):
    code, lines, said = run([s for s in SRC if "\t" not in s], TRG)
    assert code == 0
    layer = round(2 * model.cfg.layers / 3)
    wanted = wanted_lines(model, TEXTS[:30], TRG, layer, 4, "ratio", "max", 0.0)
    assert 20 < len(wanted) < 30
    assert_lines(lines, wanted)
    assert "src.gz: 2 x line without text, left out" in said.err
    assert "src.gz: 1 x repeated text, taken once" in said.err
    assert f"{len(wanted)} pairs of 30 and 40 sentences" in said.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mined.tsv", "src.gz", "trg"]


def test_ids_are_written_and_options_are_those_of_the_paper(run, model):
    src = [f"de-{i}\t{text}" for i, text in enumerate([*TEXTS[:30], TEXTS[3]])]
    trg = [f"en-{i}\t{text}" for i, text in enumerate(TRG)]
    flags = ["--margin=distance", "--retrieval=intersect", "--threshold=0.001", "--neighbours=3"]
    code, lines, _ = run(src, trg, "--ids", "--nodedup", "--layer=1", *flags)
    assert code == 0
    texts = [*TEXTS[:30], TEXTS[3]], TRG
    wanted = wanted_lines(model, *texts, 1, 3, "distance", "intersect", 0.001)
    assert 3 < len(wanted) < 30
    rows = [line.split("\t") for line in lines]
    named = {(src[int(one[3:])].split("\t")[1], TRG[int(two[3:])]) for _, one, two in rows}
    assert named == {w[1:] for w in wanted} and len(rows) == len(wanted)


def test_what_was_kept_serves_another_margin_and_nothing_else(run, tmp_path):
    code, first, _ = run(TEXTS[:30], TRG, "--keep")
    vectors = tmp_path / "mined.tsv.work/src.npy"
    made = vectors.stat().st_mtime_ns
    code, second, _ = run(TEXTS[:30], TRG, "--keep", "--margin=absolute")
    assert code == 0 and second != first and vectors.stat().st_mtime_ns == made
    code, other, _ = run(TEXTS[1:31], TRG, "--retrieval=forward")
    assert {line.split("\t")[1] for line in other} == set(TEXTS[1:31])
    assert not vectors.parent.exists()


def test_a_stop_between_the_sides_loses_nothing(model, tmp_path):
    stores = tuple(
        store_texts(write(tmp_path / side, lines), tmp_path / f"{side}.txt")
        for side, lines in (("src", TEXTS[:30]), ("trg", TRG))
    )

    def stop(part, share):
        if part == "trg":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine_texts(model, stores, tmp_path, Mining(), stop, print)
    made = (tmp_path / "src.npy").stat().st_mtime_ns
    assert not (tmp_path / "trg.npy").exists()
    again = mine_texts(model, stores, tmp_path, Mining(), lambda *_: None, print)
    assert (tmp_path / "src.npy").stat().st_mtime_ns == made
    (tmp_path / "other").mkdir()
    whole = mine_texts(model, stores, tmp_path / "other", Mining(), lambda *_: None, print)
    for one, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stopped_search_goes_on_and_one_of_other_vectors_does_not(tmp_path):
    rng = np.random.default_rng(0)
    src, trg = (rng.normal(size=(300, 8)).astype(np.float32) for _ in range(2))

    class Stop(Exception):
        pass

    def make(on_block=lambda share: None):
        blocks = Blocks(8, 64, 8)
        return Search(src, trg, 4, cosine=False, blocks=blocks, on_block=on_block)

    def stop(share):
        if share > 0.7:
            raise Stop

    path = tmp_path / "search.npz"
    with pytest.raises(Stop):
        run_search(make(stop), path, {"a": 1}, save_every_s=0)
    heard = []
    resumed = run_search(make(heard.append), path, {"a": 1}, save_every_s=0)
    assert heard[0] > 0.6
    heard.clear()
    whole = run_search(make(heard.append), path, {"a": 2})
    assert heard[0] < 0.2
    for one, other in zip(resumed, whole, strict=True):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)
    path.write_bytes(path.read_bytes()[:99])  # a machine lost power
    run_search(make(heard.append), path, {"a": 2})


@pytest.mark.parametrize(
    ("lines", "flags", "code", "message"),
    [
        (["a\tb"], [], 3, r"src.gz:1: a tab in 'a\\tb'"),
        (["a"], ["--ids"], 3, "src.gz:1: 'a'; need an id, a tab, and a sentence"),
        (["1\ta\tb"], ["--ids"], 3, "src.gz:1: a second tab"),
        (["", " "], [], 3, "src.gz: no text in it"),
        (["a", "x" * (1 << 20)], [], 3, "src.gz:2: a line of more than"),
        (["the house", " ".join(["cat"] * 99)], ["--on-overflow=error"], 2, "src.gz:2 has "),
        (["a"], ["--margin=cosine"], 2, "margin"),
        (["a"], ["--neighbours=0"], 2, "neighbours"),
        (["a"], ["--step=last"], 2, "need a number, or best"),
        (["a"], ["--output=nowhere/x"], 2, "there is no folder nowhere"),
        (["a"], ["--output=."], 2, "is a folder"),
        (["a"], ["--trg="], 2, "--trg is missing: type --trg=FILE"),
        (["a"], ["--trg=none.txt"], 2, "cannot read none.txt"),
    ],
)
def test_errors_say_what_to_type(run, tmp_path, lines, flags, code, message):
    found, _, said = run(lines, ["b"], *flags)
    assert code == 2 or not list(tmp_path.glob("*.work"))
    assert found == code and message.replace("\\\\", "\\") in said.err


def test_bytes_that_are_no_text_are_bad_data(tmp_path):
    (tmp_path / "x").write_bytes(b"the\nl\xe9o\n")
    with pytest.raises(jalign.errors.BadData, match="x:2: byte 0xe9 at position 1 is not UTF-8"):
        store_texts(tmp_path / "x", tmp_path / "x.txt")
