"""Word alignment during a run: the scores are those of `jalign evaluate` on the same weights and of
the model's own links; rows that hold several pairs change nothing; what cannot be scored is said.
"""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import jalign
from jalign.cli.main import main
from jalign.data.tokenizer import load_tokenizer
from jalign.errors import BadData
from jalign.evals import word_alignment
from jalign.metrics.aer import corpus_counts, link_scores
from tests.tiny import WORDS, run_entries, sentences

METHODS = ("argmax", "itermax", "match", "softmax", "ot", "forward", "grow-diag-final-and")


def write_gold(path, pairs, seed):
    """Write a gold set of three columns with random links; return it as (sure, possible)."""
    rng, gold, lines = np.random.default_rng(seed), [], []
    for src, trg in pairs:
        cells = [(i, j) for i in range(len(src.split())) for j in range(len(trg.split()))]
        chosen = [cells[k] for k in rng.permutation(len(cells))[: 2 + len(cells) // 4]]
        sure, more = chosen[: 1 + len(chosen) // 2], chosen[1 + len(chosen) // 2 :]
        gold.append((set(sure), set(more)))
        links = [f"{i}-{j}" for i, j in sure] + [f"{i}p{j}" for i, j in more]
        lines.append(f"{src}\t{trg}\t{' '.join(links)}\n")
    path.write_text("".join(lines), encoding="utf-8")
    return gold


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two gold sets: {name: (path, pairs, gold)}."""
    at, found = tmp_path_factory.mktemp("gold"), {}
    for name, seed, num in (("en-de", 21, 40), ("en-ru", 31, 7)):
        pairs = list(zip(sentences(seed, num), sentences(seed + 1, num), strict=True))
        found[name] = at / name, pairs, write_gold(at / name, pairs, seed)
    return found


@pytest.fixture(scope="module")
def specs(sets):
    return tuple(f"{name},{path}" for name, (path, _, _) in sets.items())


def scores_of(run, params, **entries):
    """Evaluate; return {(task, lang, metric): result}."""
    evaluate = word_alignment.make(word_alignment.Config(**entries), run.setting)
    with jax.set_mesh(run.mesh):
        return {(r.task, r.lang, r.metric): r for r in evaluate(params, {})}


@pytest.mark.parametrize("level", ["piece", pytest.param("word", marks=pytest.mark.slow)])
def test_scores_are_those_of_the_models_own_links(run, params, model_folder, sets, specs, level):
    methods = ("argmax", "softmax", "ot", "grow-diag-final-and")
    found = scores_of(run, params, gold=specs, methods=methods, layers=(0, -1), level=level)
    model = jalign.load(model_folder, devices=jax.devices()[:1])
    for name, (_, pairs, gold) in sets.items():
        for layer in (0, 2):
            for method in methods:
                links = model.align(pairs, method=method, layer=layer, level=level)
                links = [set(map(tuple, x.pairs_A2.tolist())) for x in links]
                wanted = link_scores(corpus_counts(links, gold))._asdict()
                task = f"word_alignment/{method}/layer{layer}"
                mine = {m: found[task, name, m].value for m in wanted}
                assert mine == pytest.approx(wanted, abs=1e-12), (task, name)
                assert found[task, name, "aer"].n == len(pairs)
    assert len(found) == 2 * len(methods) * 3 * 4
    for (task, lang, metric), result in found.items():
        if lang == "avg":
            parts = [found[task, name, metric].value for name in sets]
            assert result.value == pytest.approx(sum(parts) / 2) and result.n == 47
    values = {r.value for (_, lang, metric), r in found.items() if (lang, metric) == ("avg", "aer")}
    assert len(values) == 2 * len(methods)  # layers and methods do differ


def test_scores_are_those_of_jalign_evaluate(run, params, model_folder, specs, tmp_path, capsys):
    flags = [f"--gold={spec}" for spec in specs] + [f"--methods={','.join(METHODS)}"]
    output = tmp_path / "results.jsonl"
    flags += ["--all-layers", "--similarity=cosine", f"--output={output}"]
    assert main(["evaluate", f"--model={model_folder}", *flags]) == 0
    entries = dict(methods=METHODS, layers=(0, 1, 2), similarity="cosine")
    found = scores_of(run, params, gold=specs, **entries)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    theirs = {(r["task"], r["lang"], r["metric"]): (r["value"], r["n"]) for r in lines}
    assert theirs == {key: (pytest.approx(r.value, abs=1e-12), r.n) for key, r in found.items()}


def test_rows_of_many_pairs_score_as_rows_of_one(run, params, tmp_path):
    rng = np.random.default_rng(5)
    pairs = [tuple(" ".join(rng.choice(WORDS, 17)) for _ in range(2)) for _ in range(25)]
    write_gold(tmp_path / "gold", pairs, 1)
    tokenizer = load_tokenizer(run.manifest.folder / "tokenizer")
    sizes = [sum(ids.size for ids, _ in tokenizer.encode_words(pair)) for pair in pairs]
    assert min(sizes) + 3 > 64 / 2 and max(sizes) + 4 <= 64
    entries = dict(gold=(f"a,{tmp_path / 'gold'}",), methods=METHODS, layers=(1, 2))
    one, many, more = (
        scores_of(run, params, **entries, row_length=length, rows=rows)
        for length, rows in ((64, 8), (256, 16), (128, 8))
    )
    assert one == many == more


def test_the_usual_layer_is_two_thirds_up_and_names_are_scored_once(run, params, specs):
    entries = dict(gold=specs[:1], methods=("argmax",))
    usual = scores_of(run, params, **entries)
    assert {task for task, _, _ in usual} == {"word_alignment/argmax/layer1"}  # of 2
    twice = scores_of(run, params, gold=specs[:1], methods=("argmax",) * 2, layers=(1, 1))
    assert twice == usual
    joint = scores_of(run, params, **entries, layout="joint")
    assert joint != usual


def test_long_sentences_are_an_error_or_left_out(run, params, sets, tmp_path):
    _, pairs, _ = sets["en-ru"]
    long = (" ".join(WORDS * 3), " ".join(WORDS * 3))
    write_gold(tmp_path / "some", [*pairs, long], 31)
    write_gold(tmp_path / "all", [long], 31)
    make = word_alignment.make
    some, every = ((f"a,{tmp_path / name}",) for name in ("some", "all"))
    with pytest.raises(ValueError, match="a: 1 of 8 pairs are longer than the encoder's 64 posit"):
        make(word_alignment.Config(gold=some), run.setting)
    with pytest.raises(ValueError, match="set row_length above 8 if it is the row"):
        make(word_alignment.Config(gold=some, row_length=8, skip_long=True), run.setting)
    with pytest.raises(ValueError, match="1 of 1 pairs are longer .* if it is the row$"):
        make(word_alignment.Config(gold=every, skip_long=True), run.setting)
    found = scores_of(run, params, gold=some, skip_long=True)
    wanted = scores_of(run, params, gold=(f"a,{sets['en-ru'][0]}",))
    assert found == wanted and {r.n for r in found.values()} == {7}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (dict(gold=()), "gold is empty"),
        (dict(layout="both"), "layout='both': need one of separate, joint, or nothing"),
        (dict(layers=(3,)), "layers: 3 is none of -1 to 2"),
        (dict(layers=(-2,)), "layers: -2 is none of"),
        (dict(methods=()), "methods is empty"),
        (dict(methods=("max",)), "method='max': need one of argmax"),
        (dict(level="char"), "level='char'"),
        (dict(similarity="l2"), "similarity='l2'"),
    ],
)
def test_wrong_entries_are_named(run, specs, entries, said):
    with pytest.raises(ValueError, match=said):
        word_alignment.make(word_alignment.Config(**{"gold": specs, **entries}), run.setting)


def test_gold_sets_are_read_when_the_run_starts(run, specs, tmp_path):
    (tmp_path / "broken").write_text("a b\tc\t0-0 5-0\n")
    with pytest.raises(BadData, match="sentence 1: link 5-0"):
        word_alignment.make(word_alignment.Config(gold=(f"a,{tmp_path / 'broken'}",)), run.setting)
    with pytest.raises(ValueError, match="a name of its own"):
        word_alignment.make(word_alignment.Config(gold=(specs[0], specs[0])), run.setting)


def test_a_run_evaluates_and_keeps_its_best_by_f1(run, specs, tmp_path):
    task = dict(gold=specs, methods=("argmax", "softmax"))
    entries = run_entries(
        run.manifest.folder,
        steps=4,
        evaluate=dict(every=2, at_start=False, best="word_alignment/argmax/layer1/f1/avg",
                      tasks=dict(word_alignment=task)),
    )  # fmt: skip
    entries["data"] = str(run.manifest.folder)
    path, workdir = tmp_path / "config.py", tmp_path / "run"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict({entries!r})\n"
    )
    assert main(["pretrain", f"--config={path}", f"--workdir={workdir}"]) == 0
    lines = [json.loads(x) for x in (workdir / "results.jsonl").read_text().splitlines()]
    scores = {r["step"]: r["value"] for r in lines if (r["task"], r["metric"], r["lang"]) ==
              ("word_alignment/argmax/layer1", "f1", "avg")}  # fmt: skip
    assert set(scores) == {2, 4}
    best = max(scores, key=scores.get)
    assert [p.name for p in (workdir / "best").iterdir() if p.name.isdigit()] == [str(best)]
    evaluated = tmp_path / "results.jsonl"
    flags = [f"--gold={spec}" for spec in specs] + ["--methods=argmax", f"--output={evaluated}"]
    assert main(["evaluate", f"--model={workdir}", "--step=4", *flags]) == 0
    again = [json.loads(x) for x in evaluated.read_text().splitlines()]
    (value,) = (r["value"] for r in again if (r["metric"], r["lang"]) == ("f1", "avg"))
    assert value == pytest.approx(scores[4], abs=1e-12) and {r["step"] for r in again} == {4}
