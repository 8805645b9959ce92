"""The lines of README that fine-tune, evaluate and adjust run as they stand, on small files."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from jalign import config
from jalign.cli.main import main
from jalign.report.adjustment import STATES
from jalign.train.loop import train
from jalign.train.run import RunConfig, make_run
from tests.conftest import ROOT
from tests.test_readme import blocks
from tests.tiny import run_entries, sentences, write_tiny_dataset
from tests.tiny_tasks import tag_of

UPOS = {"A": "NOUN", "B": "VERB", "C": "ADJ"}


def write_tree(path, seed, num=24):
    """Write sentences whose tags depend on the words alone."""
    lines = []
    for sentence in sentences(seed, num):
        for i, word in enumerate(sentence.split(), 1):
            lines.append(f"{i}\t{word}\t_\t{UPOS[tag_of(word)]}" + "\t_" * 6)
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the things that README names, small: a finished run, treebanks, sentences."""
    folder = tmp_path_factory.mktemp("readme")
    data = write_tiny_dataset(folder / "data/quickstart", 60)
    entries = run_entries(data, steps=2)
    entries["encoder"] |= dict(max_positions=258)  # the configs' rows are that long
    run = make_run(config.build(RunConfig, entries))
    assert train(run, folder / "runs/quickstart") == 0
    for seed, name in enumerate(("en-train", "en-dev", "en-test", "de-test", "ru-test")):
        write_tree(folder / f"{name}.conllu", seed)
    for side in ("de", "en"):
        (folder / f"sentences.{side}").write_text("\n".join(sentences(5, 12)) + "\n", "utf-8")
    gold = "the house is big\tдом мир кот\t0-0 1-1 3-2\ncat sleeps\tкот спит\t0-0 1-1\n"
    (folder / "gold.tsv").write_text(gold, encoding="utf-8")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def run_commands(section, folder, monkeypatch):
    """Run the commands of a section; return their names."""
    monkeypatch.chdir(folder)
    text = "".join(blocks(section, "bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    for line in lines:
        assert line[0] == "jalign" and main(line[1:]) == 0, line
    return [line[1] for line in lines]


@pytest.mark.slow
def test_a_tagger_is_trained_scored_and_exported_as_readme_says(folder, monkeypatch):
    names = run_commands("Fine-tune and evaluate", folder, monkeypatch)
    assert names == ["finetune", "evaluate", "evaluate", "export"]
    lines = (folder / "runs/pos/results.jsonl").read_text().splitlines()
    found = {(r["task"], r["lang"], r["metric"]): r for r in map(json.loads, lines)}
    assert found["udpos", "de", "f1"]["seeds"] == [0, 1, 2]
    assert len((folder / "predictions/tagging/test-ru.tsv").read_text().split("\n\n")) == 25
    assert "token-classification" in (folder / "models/tagger/README.md").read_text()


def test_an_encoder_is_adjusted_and_measured_as_readme_says(folder, monkeypatch, capsys):
    names = run_commands("Adjust", folder, monkeypatch)
    assert names == ["lexicon", "pretrain", "evaluate"]
    assert "word_retrieval/csls" in capsys.readouterr().out
    assert (folder / "runs/adjusted/model.json").exists()


@pytest.mark.slow
def test_the_adjustment_study_runs_as_one_command_and_is_not_made_twice(folder, tmp_path):
    jalign = tmp_path / "jalign"
    jalign.write_text(f'#!/bin/sh\nexec {sys.executable} -m jalign "$@"\n')
    jalign.chmod(0o755)
    sets = "--config.test.tagging.sets=('en=en-test.conllu','de=de-test.conllu')"
    files = [
        "--config.streams.task.task.files=('en=en-train.conllu',)",
        "--config.evaluate.tasks.tagging.sets=('en=en-dev.conllu',)",
        sets,
    ]
    env = dict(
        os.environ,
        JALIGN=str(jalign),
        PYTHONPATH=str(ROOT),
        STUDY=str(tmp_path / "study"),
        SEEDS="0,1",
        XLA_FLAGS="",  # one device, as its user has: the small config's rows are few
        GOLD="en-ru,gold.tsv",
        SENTENCES="de-en=sentences.de,sentences.en",
        FILES=" ".join(files),
    )
    command = ["bash", str(ROOT / "launch/adjust_study.sh")]
    for again in (False, True):
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        # of the second time: the adjusted run and two seeds of three states
        assert done.stderr.count("finished at step") == (7 if again else 0)
        assert ("distances: original" in done.stderr) != again
    table = (tmp_path / "study/study.md").read_text()
    assert table.splitlines()[0].count("|") == 7 and "| udpos f1 de |" in table
    assert "confirmed**: adjustment brings translations closer" in table
    assert (tmp_path / "study/study.png").exists()
    first = json.loads((tmp_path / "study/study.json").read_text())["states"]
    assert set(first) == set(STATES)
