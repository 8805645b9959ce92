"""The report of the ALIGN-MLM study: gaps, rho and the comparison from the files of runs."""

from __future__ import annotations

import json

import pytest

from jalign.cli.main import main
from jalign.errors import BadData, ConfigError
from jalign.report.align_mlm import markdown, read_study

# methods.md 2.8: POS supervised, POS zero-shot, alignment
PUBLISHED = {
    ("mlm", "trans"): (95.0, 94.6, 90.0),
    ("mlm", "trans+inv"): (95.0, 56.5, 0.3),
    ("mlm", "trans+syn"): (93.6, 91.6, 57.3),
    ("xlm", "trans"): (95.0, 94.8, 97.7),
    ("xlm", "trans+inv"): (95.0, 61.8, 85.6),
    ("xlm", "trans+syn"): (93.7, 92.7, 98.6),
    ("dict_mlm", "trans"): (95.1, 94.8, 95.7),
    ("dict_mlm", "trans+inv"): (95.0, 76.0, 64.2),
    ("dict_mlm", "trans+syn"): (93.6, 92.6, 93.7),
    ("align_mlm", "trans"): (94.9, 94.8, 98.4),
    ("align_mlm", "trans+inv"): (95.0, 92.0, 95.2),
    ("align_mlm", "trans+syn"): (93.7, 92.9, 98.2),
}


def write(path, *results):
    path.mkdir(parents=True)
    lines = [dict(zip(("task", "lang", "metric", "value"), r, strict=True)) | {"n": 9, "step": 1}
             for r in results]  # fmt: skip
    (path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_study(folder, seeds=(0,), cells=PUBLISHED):
    for seed in seeds:
        for (objective, name), (supervised, zero, aligned) in cells.items():
            cell, lang = folder / f"seed{seed}" / objective / name, "en-x-" + name.replace("+", "-")
            task = "embedding_alignment/cosine"
            early = (task, f"en-{lang}", "all", 0.0)  # of an earlier step: the last one counts
            write(
                cell / "pretrain", early, (task, f"en-{lang}", "all", aligned / 100 + seed / 100),
                (task, f"en-{lang}", "held_out", aligned / 200), (task, f"{lang}-en", "all", 0.01),
            )  # fmt: skip
            write(cell / "pos.zero", ("pos", "en", "f1", 0.96), ("pos", lang, "f1", zero / 100),
                  ("pos", "avg", "f1", 0.5), ("pos", lang, "accuracy", 0.1))  # fmt: skip
            write(cell / "pos.supervised", ("pos", lang, "f1", supervised / 100))
    return folder


def test_the_published_scores_give_the_published_rho_and_gains(tmp_path):
    study = read_study(write_study(tmp_path))
    [found] = study.correlations
    # the published -0.7342657 is of the values that were plotted; the table's are rounded
    # (tests/metrics/test_correlation.py has both)
    assert found.rho == pytest.approx(-0.7145370, abs=1e-6) and found.num_cells == 12
    assert found.bootstrap.low < found.rho < found.bootstrap.high <= 0
    text = markdown(study)
    assert "ALIGN-MLM against MLM by +35.5, XLM by +30.2, DICT-MLM by +16.0 points" in text
    assert "| ALIGN-MLM | trans+inv | 95.2 | 47.6 | 96.0 | 95.0 | 92.0 | 3.0 |" in text


def test_seeds_are_averaged_and_their_spread_is_told(tmp_path):
    text = markdown(read_study(write_study(tmp_path, seeds=(0, 1))))
    assert "| MLM | trans | 90.5 ± 0.7 | 45.0 ± 0.0 |" in text and "up to 2 seeds" in text


def test_a_study_that_is_not_whole_says_what_there_is(tmp_path):
    few = {key: PUBLISHED[key] for key in list(PUBLISHED)[:3]}
    study = read_study(write_study(tmp_path, cells=few))
    assert not study.correlations and len(study.cells) == 3
    (tmp_path / "seed0/mlm/trans/pos.zero/results.jsonl").unlink()
    assert read_study(tmp_path).cells[0].gap("pos") is None


def test_no_study_and_a_broken_file_are_told(tmp_path):
    with pytest.raises(ConfigError, match="align_mlm_study.sh"):
        read_study(tmp_path)
    write_study(tmp_path)
    (tmp_path / "seed0/mlm/trans/pretrain/results.jsonl").write_text("{}\n")
    with pytest.raises(BadData, match="run it again"):
        read_study(tmp_path)


def test_the_command_writes_table_numbers_and_picture(tmp_path, capsys):
    write_study(tmp_path)
    assert main(["report", "--study=align_mlm", f"--input={tmp_path}"]) == 0
    assert "rho" in capsys.readouterr().out
    assert json.loads((tmp_path / "study.json").read_text())["correlations"][0]["task"] == "pos"
    assert (tmp_path / "study.md").exists() and (tmp_path / "study.png").stat().st_size > 10_000
