"""Distances of linked words: which words are compared, their vectors, and what scores must not
depend on.
"""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jalign import config
from jalign.cli import _evaluate_distances
from jalign.evals import distances
from jalign.evals._gold import read_gold
from tests.tiny import WORDS, sentences

SCORES = ("related", "unrelated", "difference", "error_rate", "auc")


def write_set(path, pairs, links):
    rows = zip(pairs, links, strict=True)
    path.write_text("".join(f"{src}\t{trg}\t{line}\n" for (src, trg), line in rows))
    return f"{path.name},{path}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gold")


@pytest.fixture(scope="module")
def specs(folder):
    """Two sets of random links, one of which has English as its target."""
    found = []
    for name, seed, num in (("en-de", 21, 30), ("ru-en", 31, 9)):
        pairs = list(zip(sentences(seed, num), sentences(seed + 1, num), strict=True))
        rng, lines = np.random.default_rng(seed), []
        for pair in pairs:
            sizes = [len(side.split()) for side in pair]
            order = [rng.permutation(size)[: min(sizes)] for size in sizes]
            links = [f"{i}-{j}" for i, j in zip(*order, strict=True)]
            extra = f"{rng.integers(sizes[0])}p{rng.integers(sizes[1])}"
            lines.append(" ".join([*links, extra]))
        found.append(write_set(folder / name, pairs, lines))
    return tuple(found)


def results_of(run, params, **entries):
    evaluate = distances.make(config.build(distances.Config, entries), run.setting)
    with jax.set_mesh(run.mesh):
        return {(r.task, r.metric, r.lang): r.value for r in evaluate(params)}


def test_unrelated_words_are_of_the_english_sentence_and_no_partners(specs):
    cfg = distances.Config(gold=specs)
    for spec, side in zip(specs, (0, 1), strict=True):
        gold = read_gold(spec)
        triples = distances.draw_triples(cfg, gold)
        first = distances.word_rows(gold)
        words = [[w for pair in gold.pairs for w in pair[s].split()] for s in (0, 1)]
        assert triples.side == side and len(triples.src) > 10
        for rows in zip(*triples[:3], strict=True):
            src, trg, other = map(int, rows)
            near, foreign = (src, trg) if side == 0 else (trg, src)
            s = int(np.searchsorted(first[side], other, "right")) - 1
            begin = [first[k][s] for k in (0, 1)]
            assert (src - begin[0], trg - begin[1]) in gold.gold[s].sure
            foreign_word = words[1 - side][foreign]
            assert words[side][other] not in (words[side][near], foreign_word)
            assert words[side][near] != foreign_word
            pair = (other, foreign) if side == 0 else (foreign, other)
            assert (pair[0] - begin[0], pair[1] - begin[1]) not in gold.gold[s].possible
        again = distances.draw_triples(cfg, gold)
        np.testing.assert_array_equal(triples.other, again.other)
        another = distances.draw_triples(distances.Config(gold=specs, seed=1), gold)
        assert not np.array_equal(triples.other, another.other)


def test_only_one_to_one_links_are_compared(folder):
    spec = write_set(folder / "en-fr", [("a b c d e", "v w x y z")], ["0-0 0-1 1-2 3-3 4-3 2-4"])
    triples = distances.draw_triples(distances.Config(gold=(spec,)), read_gold(spec))
    assert list(zip(triples.src.tolist(), triples.trg.tolist(), strict=True)) == [(1, 2), (2, 4)]
    every = distances.draw_triples(
        distances.Config(gold=(spec,), one_to_one=False), read_gold(spec)
    )
    assert len(every.src) == 6


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_scores_are_those_of_a_loop_over_sentences_alone(run, params, specs, pool):
    spec, tokenizer = specs[1], run.setting.tokenizer
    gold = read_gold(spec)
    cfg = distances.Config(gold=(spec,), pool=pool)
    take = {"mean": lambda x: x.mean(0), "first": lambda x: x[0], "last": lambda x: x[-1]}[pool]
    apply = jax.jit(lambda *x: run.encoder.module.apply({"params": params["encoder"]}, *x))
    vectors = []
    for side in (0, 1):
        texts = [pair[side] for pair in gold.pairs]
        for ids, word in tokenizer.encode_words(texts):
            padded = np.full((3, 1, 64), 0)  # ids, positions, unit
            framed = [tokenizer.bos_id, *ids, tokenizer.eos_id]
            for row, values in zip(padded[:, 0], (framed, range(len(framed)), 1), strict=True):
                row[: len(framed)] = values
            h = np.asarray(apply(*padded))[0, 1 : len(framed) - 1]
            vectors += [(side, take(h[word == k])) for k in range(word.max() + 1)]
    words = [np.stack([v for s, v in vectors if s == side]) for side in (0, 1)]
    triples = distances.draw_triples(cfg, gold)
    near = np.linalg.norm(words[0][triples.src] - words[1][triples.trg], axis=1)
    far = np.linalg.norm(words[0][triples.src] - words[1][triples.other], axis=1)
    found = results_of(run, params, gold=(spec,), pool=pool)
    expected = (near.mean(), far.mean(), (far - near).mean(), (far <= near).mean())
    for metric, value in zip(SCORES, expected, strict=False):
        for lang in ("ru-en", "avg"):
            np.testing.assert_allclose(found["distances/l2", metric, lang], value, rtol=1e-5)
    norms = np.concatenate([np.linalg.norm(x, axis=1) for x in words])
    np.testing.assert_allclose(found["distances/l2", "norm", "ru-en"], norms.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        found["distances/relative", "related", "ru-en"], near.mean() / norms.mean(), rtol=1e-5
    )
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in words]
    nearest = (unit[0][triples.src] @ unit[1].T).argmax(1)
    np.testing.assert_allclose(
        found["word_retrieval/cosine", "accuracy", "ru-en"], (nearest == triples.trg).mean()
    )


def test_where_translations_coincide_nothing_is_wrong(run, params, folder):
    texts = [" ".join(np.random.default_rng(k).permutation(WORDS)[:6]) for k in range(12)]
    links = [" ".join(f"{i}-{i}" for i in range(6))] * len(texts)
    spec = write_set(folder / "en-xx", [(text, text) for text in texts], links)
    found = results_of(run, params, gold=(spec,), skip_identical=False)
    for kind in ("l2", "cosine", "relative"):
        value = {m: found[f"distances/{kind}", m, "en-xx"] for m in SCORES}
        assert value["related"] < 1e-5 and value["error_rate"] == 0 and value["auc"] == 1
        assert value["difference"] == pytest.approx(value["unrelated"], rel=1e-4)
    assert found["word_retrieval/csls", "accuracy", "en-xx"] == 1
    with pytest.raises(ValueError, match="no linked words are left"):
        results_of(run, params, gold=(spec,))


def test_the_scale_of_the_vectors_changes_distances_alone(specs):
    rng = np.random.default_rng(0)
    gold = read_gold(specs[0])
    triples = distances.draw_triples(distances.Config(gold=specs), gold)
    words = [rng.normal(size=(first[-1], 8)) + 1 for first in distances.word_rows(gold)]
    for kind, factor in (("l2", 3.0), ("cosine", 1.0), ("relative", 1.0)):
        one = distances._distances(words, triples, kind)
        scaled = distances._distances([3 * x for x in words], triples, kind)
        for mine, theirs in zip(scaled, one, strict=True):
            np.testing.assert_allclose(mine, factor * theirs, rtol=1e-10)


def test_the_command_scores_any_model_as_the_run_does(
    run, params, model_folder, specs, tmp_path, capsys
):
    output, histograms = tmp_path / "scores.jsonl", tmp_path / "histograms.json"
    argv = [f"--model={model_folder}", *(f"--gold={spec}" for spec in specs)]
    code = _evaluate_distances.main([*argv, f"--output={output}", f"--histograms={histograms}"])
    assert code == 0 and "error_rate" in capsys.readouterr().out
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    mine = {(r["task"], r["metric"], r["lang"]): r["value"] for r in lines}
    theirs = results_of(run, params, gold=specs)
    assert set(mine) == set(theirs)
    for name, value in theirs.items():
        assert mine[name] == pytest.approx(value, rel=1e-4), name
    num = {r["lang"]: r["n"] for r in lines if r["task"] == "distances/l2"}
    counts = json.loads(histograms.read_text())
    assert set(counts) == {"en-de", "ru-en"}
    sizes = {r["lang"]: r["n"] for r in lines if r["metric"] == "auc"}
    for lang, kinds in counts.items():
        for kind in kinds.values():
            for side in ("related", "unrelated", "difference"):
                assert sum(kind[side]) == sizes[lang]
    assert num["avg"] > 0


@pytest.mark.parametrize(
    "entries, message",
    [
        (dict(gold=()), "gold is empty"),
        (dict(pool="max"), "pool='max': need one of mean, first, last"),
        (dict(layer=9), "layer=9: need -1 to 2"),
        (dict(histograms="h.json"), "no workdir here; name a whole path"),
    ],
)
def test_a_wrong_entry_says_what_is_needed(run, params, specs, entries, message):
    with pytest.raises(ValueError, match=message):
        results_of(run, params, **(dict(gold=specs) | entries))
