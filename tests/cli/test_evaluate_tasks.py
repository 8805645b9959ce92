"""`jalign evaluate` of tasks: the scores of the run's own test; retrieval and mining as XTREME."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jalign import config
from jalign.cli._evaluate import asked_task
from jalign.cli.evaluate import OTHERS, main
from jalign.data.tasks import pairs as pair_files
from jalign.errors import BadData, UserError
from jalign.inference.model import load
from jalign.metrics.bitext_f1 import above, best_threshold, bitext_f1, scores_by_id
from jalign.metrics.retrieval import mine, retrieve
from jalign.train.loop import train
from jalign.train.run import make_run
from jalign.train.run_config import RunConfig
from tests.tiny import sentences
from tests.tiny_tasks import finetune_entries, write_tagging


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A fine-tuned workdir `run` beside its files."""
    base = write_tagging(tmp_path_factory.mktemp("tags"))
    cfg = config.build(RunConfig, finetune_entries(base, steps=20, evaluate={}))
    assert train(make_run(cfg, jax.devices()[:1], workdir=base / "run"), base / "run") == 0
    return base


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def scores(lines):
    return {(r["task"], r["lang"], r["metric"]): r["value"] for r in lines}


@pytest.fixture
def argv(base, tmp_path):
    return [f"--model={base / 'run'}", f"--output={tmp_path}/out", f"--predictions={tmp_path}/p"]


def test_a_workdir_gets_the_scores_of_its_test_and_writes_its_tags(base, tmp_path, argv, capsys):
    files = [f"--files=en={base / 'test'}", f"--files=de={base / 'dev'}"]
    assert main(["--task=tagging", "--name=words", *files, *argv]) == 0
    wanted = scores(r for r in read_lines(base / "run/results.jsonl") if "test" in r)
    assert scores(read_lines(tmp_path / "out")) == wanted and len(wanted) == 6
    out = capsys.readouterr().out
    assert f"{100 * wanted['words', 'en', 'accuracy']:.1f}" in out and "step 20 of" in out
    tags = (tmp_path / "p/words/test-en.tsv").read_text().split("\n\n")[:-1]
    gold = (base / "test").read_text().split("\n\n")[:-1]
    assert [len(t.split("\n")) for t in tags] == [len(g.split("\n")) for g in gold]


def test_files_of_another_format_are_scored_too(base, tmp_path, argv):
    lines = []
    for sentence in (base / "test").read_text().strip().split("\n\n"):
        for i, line in enumerate(sentence.split("\n"), 1):
            word, tag = line.split("\t")
            lines.append(f"{i}\t{word}\t_\t{tag}\t_\t_\t0\troot\t_\t_")
        lines.append("")
    (tmp_path / "tree").write_text("\n".join(lines) + "\n")
    assert main(["--task=tagging", "--format=conllu", f"--files=en={tmp_path}/tree", *argv]) == 0
    wanted = scores(r for r in read_lines(base / "run/results.jsonl") if "test" in r)
    found = scores(read_lines(tmp_path / "out"))
    assert found["tagging", "en", "accuracy"] == wanted["words", "en", "accuracy"]


def write_texts(path, lines):
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_retrieval_is_scored_both_ways_by_every_scoring(base, tmp_path, argv):
    src = write_texts(tmp_path / "src", sentences(1, 40))
    trg = write_texts(tmp_path / "trg", [s.replace(" ", " le ") for s in sentences(1, 40)])
    assert main(["--task=retrieval", f"--files=de-en={src},{trg}", "--layer=1", *argv]) == 0
    found = scores(read_lines(tmp_path / "out"))
    pairs = list(pair_files.read(src, trg))
    model = load(base / "run")
    vectors = [model.embed([p[side] for p in pairs], layer=1) for side in (0, 1)]
    for scoring in ("cosine", "csls", "ratio"):
        for name, (x, y) in (("de-en", vectors), ("en-de", vectors[::-1])):
            wanted = np.mean(retrieve(x, y, scoring=scoring) == np.arange(40))
            assert found[f"retrieval/{scoring}", name, "accuracy"] == pytest.approx(wanted)
    assert found["retrieval/cosine", "avg", "accuracy"] > 1 / 40
    written = [int(line) for line in (tmp_path / "p/tatoeba/test-de.tsv").read_text().split()]
    assert written == retrieve(vectors[1], vectors[0]).tolist()  # as XTREME: from English


@pytest.mark.parametrize("task, num", [("retrieval", 2), ("bucc", 3)])
def test_an_empty_file_is_bad_data_and_named(base, tmp_path, argv, task, num):
    empty = write_texts(tmp_path / "empty", [])
    src, trg, gold = write_bucc(tmp_path / "full", 7)
    sets = [[empty, empty]] if num == 2 else [[empty, trg, gold], [src, empty, gold]]
    sets += [[src, trg, empty]] if num == 3 else []
    for files in sets:
        if files[2:] == [gold]:  # no pair of sentences that are not there
            files[2] = empty
        with pytest.raises(BadData, match=f"{empty}: no line in it; need"):
            main([f"--task={task}", f"--files=de-en={','.join(map(str, files))}", *argv])
    assert not (tmp_path / "out").exists()


def test_absent_pairs_are_said_and_the_others_scored(base, tmp_path, argv, capsys):
    src = write_texts(tmp_path / "src", sentences(1, 10))
    files = [f"--files=de-en={src},{src}", f"--files=ru-en={src},{tmp_path}/none"]
    assert main(["--task=retrieval", *files, *argv]) == 0
    said = capsys.readouterr().err
    assert f"ru-en: absent, so not scored: {tmp_path}/none" in said
    assert {r["lang"] for r in read_lines(tmp_path / "out")} == {"de-en", "en-de", "avg"}


def write_bucc(folder, seed, num=30):
    folder.mkdir()
    texts = sentences(seed, num)
    others = [f"{t} der" for t in texts[: num // 2]] + sentences(seed + 9, num // 2)
    src = write_texts(folder / "src", [f"de-{i}\t{t}" for i, t in enumerate(texts)])
    trg = write_texts(folder / "trg", [f"en-{i}\t{t}" for i, t in enumerate(others)])
    gold = write_texts(folder / "gold", [f"de-{i}\ten-{i}" for i in range(num // 2)])
    return src, trg, gold


def test_mined_pairs_are_scored_at_the_threshold_of_the_development_set(
    base, tmp_path, argv, capsys
):
    sets = {name: write_bucc(tmp_path / name, i) for i, name in enumerate(("dev", "test"), 30)}
    flags = [f"--{kind}=de-en={','.join(map(str, sets[name]))}"
             for kind, name in (("files", "test"), ("dev", "dev"))]  # fmt: skip
    assert main(["--task=bucc", *flags, *argv]) == 0
    assert "of its --dev" in capsys.readouterr().err
    model, mined = load(base / "run"), {}
    for name, paths in sets.items():
        data = pair_files.read_bucc(*paths)
        unique = [list(dict.fromkeys(side.texts)) for side in (data.src, data.trg)]
        vectors = [model.embed(texts, layer=1) for texts in unique]
        mined[name] = scores_by_id(mine(*vectors), data.src, data.trg), data.gold
    found = above(mined["test"][0], best_threshold(*mined["dev"]))
    wanted = bitext_f1(found, mined["test"][1])
    assert wanted.f1 > 0
    lines = scores(read_lines(tmp_path / "out"))
    assert lines == {
        ("bucc", "de-en", m): getattr(wanted, m) for m in ("precision", "recall", "f1")
    }
    written = (tmp_path / "p/bucc2018/test-de.tsv").read_text().splitlines()
    assert {tuple(line.split("\t")) for line in written} == found
    assert main(["--task=bucc", flags[0], *argv]) == 0
    assert "of the set itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--task=tagging", "--files=en=x"], "--model is missing"),
        (["--task=tagging", "--model=m"], "--files=LANG=FILE, once per set"),
        (["--task=tagging", "--model=m", "--files=en=x", "--output=."], "is a folder"),
        (["--task=distances", "--model=m", "--gold=x", "--histograms=."], "is a folder"),
        (["--task=embedding_alignment", "--model=m", "--dictionary=x", "--output=."], "a folder"),
        (["--task=qa", "--model={run}", "--files=en=x"], "objectives of kind 'span'.*are: none"),
        (["--task=tagging", "--model={run}", "--files=en=none"], "no such files: en=none"),
        (["--task=tagging", "--model={run}", "--files=none"], "need LANG=PATH"),
        (["--task=tagging", "--model={base}/model", "--files=en=x"], "has no model.json"),
        (["--task=tagging", "--model={run}", "--files=en=x", "--step=9"], "no checkpoint 9"),
        (["--task=retrieval", "--model=m", "--files=de=a,b"], "need SRC-TRG=FILE,FILE, such as"),
        (["--task=retrieval", "--model=m", "--files=de-en=a"], "need SRC-TRG=FILE,FILE, such as"),
        (["--task=retrieval", "--model=m", "--files=a-b=a,b", "--scorings=l2"], "need some of"),
        (["--task=retrieval", "--model={run}", "--files=a-b=a,b"], "no such files: a, b"),
        (["--task=bucc", "--model=m", "--files=a-b=x,y"], "need SRC-TRG=FILE,FILE,GOLD"),
        (["--task=bucc", "--model=m", "--files=a-b=x,y,z", "--dev=c-d=x,y,z"], "no set for a-b"),
        (["--task=retrieval", "--model=m", "--files=a-b=x,y", "--skip=2"], "skip"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_type(base, flags, message):
    flags = [flag.format(run=base / "run", base=base) for flag in flags]
    with pytest.raises(UserError, match=message) as raised:
        main(flags)
    assert raised.value.exit_code == 2


def test_the_task_is_known_before_the_flags_are_parsed():
    assert asked_task(["--model=m", "--task=qa"]) == "qa"
    assert asked_task(["--task", "bucc"]) == "bucc" and asked_task(["--gold=x"]) == ""
    assert set(OTHERS) >= {"tagging", "classification", "qa", "retrieval", "bucc", "distances"}
    with pytest.raises(UserError, match="one of <word_alignment.tagging.*embedding_alignment>"):
        main(["--task=parsing"])
