"""The alignment of embeddings: the worked example of methods.md 10.2, held-out words, both
directions, real dictionaries, from the command line.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from jalign.cli.main import main
from jalign.data.id_pairs import IdPairs, single_pairs, write_id_pairs
from jalign.data.tokenizer import load_tokenizer
from jalign.evals import embedding_alignment as ea
from tests.hf.torch_models import make_folder

X = [(1, 0), (0, 1), (1, 1)]
Y = [(2, 0.1), (1, 1), (0.2, 1)]
IDS = np.array([(0, 3), (1, 4), (2, 5)])
NONE = [np.zeros(1, np.float32)] * 2


def scores(table, pairs_N2=IDS, train=None, added=NONE, **changes):
    train = np.zeros(len(pairs_N2), bool) if train is None else np.array(train)
    pairs = single_pairs(pairs_N2, train, langs=("en", "xx"), tokenizer_sha256="abc")
    found = ea.alignment(ea.Config(**changes), np.array(table, np.float32), pairs, added)
    return {(r.task, r.lang, r.metric): (r.value, r.n) for r in found}


def value(found, metric="all", lang="en-xx", scoring="cosine"):
    return found[f"{ea.NAME}/{scoring}", lang, metric][0]


def test_the_measure_is_the_worked_example():
    assert 100 * value(scores(X + Y)) == pytest.approx(33.33, abs=0.01)


def test_equal_halves_are_aligned_and_a_rotated_half_is_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8))
    q, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    ids = np.stack([np.arange(200), np.arange(200) + 200], axis=1)
    assert value(scores([*x, *x], ids)) == value(scores([*x, *x], ids), lang="xx-en") == 1
    assert value(scores([*x, *(x @ q)], ids)) < 0.1


def test_permuting_the_other_half_permutes_what_is_found():
    rng = np.random.default_rng(1)
    x, order = rng.normal(size=(50, 8)), rng.permutation(50)
    ids = np.stack([np.arange(50), np.arange(50) + 50], axis=1)
    assert value(scores([*x, *x[order]], ids)) < 0.2
    moved = np.stack([order, np.arange(50) + 50], axis=1)
    assert value(scores([*x, *x[order]], moved)) == 1


def test_held_out_and_trained_words_are_measured_apart():
    found = scores(X + Y, train=[True, False, False])
    assert value(found, "trained") == 1 and value(found, "held_out") == 0
    assert found[f"{ea.NAME}/cosine", "en-xx", "held_out"][1] == 2
    back = scores(X + Y, train=[True, False, False])
    assert value(back, "trained", "xx-en") == 1  # (2, .1) is nearest to (1, 0)
    assert value(back, "held_out", "xx-en") == 0


def test_any_of_several_translations_is_right():
    many = np.array([(0, 3), (1, 5), (1, 4), (2, 4)])
    assert value(scores(X + Y, many)) == 1
    assert value(scores(X + Y, many), lang="xx-en") == 1


def test_words_of_several_pieces_are_the_mean_of_their_embeddings():
    table = np.array([(2, 0), (0, 2), (0, 1), (1, 1.1), (0, 3)], np.float32)
    pairs = IdPairs(
        np.array([(0, 1), (2, -1)], np.int32), np.array([(3,), (4,)], np.int32),
        np.ones(2, np.float32), np.zeros(2, bool), ("en", "xx"), "abc",
    )  # fmt: skip
    found = list(ea.alignment(ea.Config(), table, pairs, NONE))
    assert [r.value for r in found] == [1, 1, 1, 1]


def test_csls_finds_what_a_hub_hides():
    """A target near to everything takes all sources by cosine; CSLS discounts it."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 16)) + 1.5
    y = x + rng.normal(size=x.shape) * 1.2
    y[0] = x.mean(0) * 3
    ids = np.stack([np.arange(60), np.arange(60) + 60], axis=1)
    found = scores([*x, *y], ids, scorings=("cosine", "csls"))
    assert value(found, scoring="csls") > value(found)


def test_a_share_of_the_words_is_drawn_by_seed():
    rng = np.random.default_rng(3)
    ids = np.stack([np.arange(100), np.arange(100) + 100], axis=1)
    table = rng.normal(size=(200, 4))
    table[100:150] = table[:50]  # half of them are right
    first, same, other = (scores(table, ids, share=0.4, seed=s) for s in (0, 0, 1))
    assert first == same != other
    assert first[f"{ea.NAME}/cosine", "en-xx", "all"][1] == 40


def test_language_embeddings_are_added_first():
    language = np.array([3.0, -3.0], np.float32)
    table = [*X, *(np.array(X) - language)]
    added = [np.zeros(2, np.float32), language]
    assert value(scores(table)) < 1 == value(scores(table, added=added))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (dict(scorings=("dot",)), "scorings="),
        (dict(share=0.0), "share=0.0"),
        (dict(languages=(1,)), "languages="),
    ],
)
def test_bad_entries_are_refused(entries, said):
    with pytest.raises(ValueError, match=said):
        ea.Config(**entries)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "model"
    make_folder(folder, "xlm-roberta")
    return folder


def test_any_model_is_measured_from_the_command_line(model, tmp_path, capsys):
    tokenizer = load_tokenizer(model)
    ids = np.stack([np.arange(4, 14), np.arange(20, 30)], axis=1)
    pairs = single_pairs(
        ids, [True] * 5 + [False] * 5, langs=("en", "xx"), tokenizer_sha256=tokenizer.sha256
    )
    write_id_pairs(tmp_path / "d.npz", pairs)
    argv = ["evaluate", f"--task={ea.NAME}", f"--model={model}", f"--dictionary={tmp_path}/d.npz"]
    assert main([*argv, "--scorings=cosine,csls", f"--output={tmp_path}/r.jsonl"]) == 0
    assert "held_out" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and {r["lang"] for r in lines} == {"en-xx", "xx-en"}
    assert main([*argv, "--languages=0,7"]) == 2
    assert "token types" in capsys.readouterr().err
    other = single_pairs(ids, [True] * 10, langs=("en", "xx"), tokenizer_sha256="other")
    write_id_pairs(tmp_path / "d.npz", other)
    assert main(argv) == 2
    assert "ids of tokenizer other" in capsys.readouterr().err
