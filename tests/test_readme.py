"""The lines of README about models, word alignment and mining run as they stand."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
import transformers

from jalign import config
from jalign.cli.main import main
from jalign.train.loop import train
from jalign.train.run import RunConfig, make_run
from tests.conftest import ROOT
from tests.hf.torch_models import make_folder
from tests.tiny import run_entries, write_tiny_dataset


def blocks(section: str, language: str) -> list[str]:
    """Return the code blocks of a section."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = readme.split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_commands(section: str) -> list[str]:
    """Run the commands of a section; return their names."""
    lines = [
        line
        for block in blocks(section, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("jalign ")
    ]
    for line in lines:
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
    return [line.split()[1] for line in lines]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the things that README names, small: a finished run, a model, sentences."""
    data = write_tiny_dataset(tmp_path / "data/quickstart", 60)
    run = make_run(config.build(RunConfig, run_entries(data, steps=2)))
    assert train(run, tmp_path / "runs/quickstart") == 0
    make_folder(tmp_path / "models/xlm-roberta-base", "xlm-roberta", 0)
    (tmp_path / "sentences.txt").write_text("the house\n\nдом\n", encoding="utf-8")
    (tmp_path / "pairs.tsv").write_text("the house\tдом\nred\tрот\n", encoding="utf-8")
    (tmp_path / "dev.tsv").write_text("the house\tдом дом\t0-0 1p1\n", encoding="utf-8")
    for name in ("news.de", "news.en", "pairs.de", "pairs.en"):
        (tmp_path / name).write_text("the house\nder Hund\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_models_go_in_and_out_as_readme_says(place, capsys):
    code = blocks("Models in and out", "python")
    assert len(code) == 1 and len(code[0].strip().splitlines()) == 5
    exec(compile(code[0], "README.md", "exec"), {})  # noqa: S102
    assert re.search(r"\[\[.*\]\].*token", capsys.readouterr().out, re.DOTALL)
    assert run_commands("Models in and out") == ["embed", "import", "export"]
    vectors = np.load(place / "vectors.npy")
    assert vectors.shape == (3, 16) and np.isfinite(vectors).all()
    assert (place / "models/xlmr/model.json").exists()
    transformers.AutoModelForMaskedLM.from_pretrained(str(place / "models/mine"))


def test_words_are_aligned_as_readme_says(place, capsys):
    assert run_commands("Align words") == ["align", "align", "evaluate"]
    assert len((place / "pairs.links").read_text().splitlines()) == 2
    assert "<sep>" in capsys.readouterr().out
    assert (place / "runs/quickstart/aligner.json").exists()


def test_translations_are_mined_and_retrieved_as_readme_says(place, capsys):
    assert run_commands("Mine and retrieve") == ["mine", "evaluate"]
    mined = {tuple(s.split("\t")[1:]) for s in (place / "mined.tsv").read_text().splitlines()}
    assert mined <= {("the house", "the house"), ("der Hund", "der Hund")}
    assert "retrieval/csls" in capsys.readouterr().out
