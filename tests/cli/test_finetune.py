"""`jalign finetune`: seeds, the mean and spread of their scores, and going on after a stop."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jalign.cli._scores import final_lines, gather, table
from jalign.cli.main import main
from tests.tiny import write_tiny_dataset
from tests.tiny_tasks import write_tagging

CONFIG = Path(__file__).parent / "finetune_config.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tagging(tmp_path_factory.mktemp("tags"))


def finetune(config, *flags):
    return main(["finetune", f"--config={config}", *flags])


def lines(path):
    return [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_seeds_are_runs_of_their_own_and_their_mean_and_spread_are_written(base, tmp_path, capsys):
    config, workdir = f"{CONFIG}:{base}", tmp_path / "runs"
    assert finetune(config, f"--workdir={workdir}", "--seeds=0,5") == 0
    out, err = capsys.readouterr()
    tests = {s: [r for r in lines(workdir / f"seed{s}") if "test" in r] for s in (0, 5)}
    joint = lines(workdir)
    assert [(r["task"], r["lang"], r["metric"]) for r in joint] == [
        ("words", lang, metric) for lang in ("en", "de", "avg") for metric in ("f1", "accuracy")
    ]
    for k, r in enumerate(joint):
        values = [tests[s][k]["value"] for s in (0, 5)]
        assert r["values"] == values and r["seeds"] == [0, 5]
        assert r["value"] == statistics.fmean(values) and r["sd"] == statistics.stdev(values)
    assert any(r["sd"] > 0 for r in joint)  # the heads are drawn from the seed
    cell = f"{100 * joint[1]['value']:.1f} ± {100 * joint[1]['sd']:.1f}"
    assert cell in out and "mean ± standard deviation of 2 seeds" in out
    assert json.loads((workdir / "seed5/config.json").read_text())["seed"] == 5
    # A third seed: the first two are not run again.
    assert finetune(config, f"--workdir={workdir}", "--seeds=0,5,1") == 0
    out, err = capsys.readouterr()
    assert err.count("finished at step 6") == 2 and err.count("done: 6 steps") == 1
    assert lines(workdir)[0]["seeds"] == [0, 5, 1]


@pytest.mark.slow
def test_a_stop_ends_the_command_at_the_seed_it_is_at(base, tmp_path):
    flags = ["--workdir", str(tmp_path), "--seeds=4,5", "--config.steps=100000"]
    command = [sys.executable, "-m", "jalign", "finetune", f"--config={CONFIG}:{base}", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "seed4/metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM: saved step" in process.communicate(timeout=120)[1]
    assert process.returncode == 143 and not (tmp_path / "seed5").exists()


def test_without_seeds_the_workdir_is_the_run(base, tmp_path, capsys):
    config = f"{CONFIG}:{base}"
    assert finetune(config, f"--workdir={tmp_path}", "--config.steps=2") == 0
    out = capsys.readouterr().out
    tested = {(r["lang"], r["metric"]): r["value"] for r in lines(tmp_path) if "test" in r}
    assert f"{100 * tested['en', 'accuracy']:.1f}" in out and "±" not in out
    assert (tmp_path / "checkpoints/2").is_dir()
    assert finetune(config, f"--workdir={tmp_path}", "--seeds=1") == 2
    assert "holds a run of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--seeds=0,1",), "--workdir is missing"),
        (("--workdir=w", "--seeds=0,0"), "a seed stands there twice"),
        (("--workdir=w", "--seeds=a"), "need numbers, such as --seeds=0,1,2"),
        (("--workdir=w", "--config.init=nowhere"), "nowhere is no folder"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_type(base, capsys, flags, message):
    assert finetune(f"{CONFIG}:{base}", *flags) == 2
    assert message in capsys.readouterr().err


def test_a_config_without_labelled_files_is_for_pretrain(tmp_path, capsys):
    data = write_tiny_dataset(tmp_path / "data")
    config = Path(__file__).parents[1] / "train/tiny_config.py"
    assert finetune(f"{config}:{data}", f"--workdir={tmp_path}/run") == 2
    assert "no stream of this config has labelled files" in capsys.readouterr().err


def result(task="t", lang="en", value=0.5, step=2, metric="f1", **more):
    r = dict(task=task, lang=lang, metric=metric, value=value, n=4, step=step)
    return r | more


@pytest.mark.parametrize(
    "written, best, steps",
    [
        ([result(step=2, value=0.7), result(step=4)], "t/f1/en", {2}),
        ([result(step=2, value=0.7), result(step=4)], "", {4}),
        ([result(step=2), result(step=2, test="a"), result(step=4)], "", {2}),
        ([result(step=2, test="a"), result(step=4, test="a")], "", {4}),
        ([], "t/f1/en", set()),
    ],
)
def test_final_scores_are_the_tests_or_else_the_best(tmp_path, written, best, steps):
    text = "".join(json.dumps(r) + "\n" for r in written)
    (tmp_path / "results.jsonl").write_text(text)
    assert {r["step"] for r in final_lines(tmp_path, best)} == steps


def test_the_table_has_a_column_per_language_and_leaves_losses_as_they_are():
    one = [result(), result(lang="zh", value=0.25), result(lang="zh", metric="loss", value=1.5)]
    two = [result(value=0.7), result(lang="zh", value=0.25)]
    text = table(gather({0: one, 1: two}))
    head, f1, loss = text.strip("\n").split("\n")
    assert head.split() == ["t", "en", "zh"]
    assert f1.split() == ["f1", "60.0", "±", "14.1", "25.0", "±", "0.0"]
    assert loss.split() == ["loss", "1.5000"]
