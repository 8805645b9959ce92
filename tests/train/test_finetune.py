"""Fine-tuning runs: labelled files instead of prepared data, epochs, patience, and tests with the
best model; what a workdir tells those who open it.
"""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

from jalign import config
from jalign.errors import BadData, ConfigError
from jalign.train.checkpoint import Checkpoints
from jalign.train.goodput import Ledger
from jalign.train.loop import train
from jalign.train.model_file import read_model_file
from jalign.train.optim import OptimConfig, make_schedule
from jalign.train.pretrained import read_pretrained
from jalign.train.rates import Rates
from jalign.train.run import make_run
from jalign.train.run_config import RunConfig
from jalign.train.tuned import evaluate, open_tuned
from tests.tiny import run_entries, write_tiny_dataset
from tests.tiny_tasks import (
    LABELS,
    accuracy_of_chance,
    finetune_entries,
    task_stream,
    write_tagging,
    write_tags,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tagging(tmp_path_factory.mktemp("tags"))


def run_of(entries, workdir=None, num_devices=1):
    cfg = config.build(RunConfig, entries)
    return make_run(cfg, jax.devices()[:num_devices], workdir=workdir)


def records(workdir, name="results"):
    return [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]


def scores(lines):
    return {(r["task"], r["lang"], r["metric"]): r["value"] for r in lines}


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    """A run of enough steps to learn the tags, on four devices."""
    workdir = tmp_path_factory.mktemp("runs") / "tuned"
    entries = finetune_entries(base, steps=60, checkpoint_every=60, log_every=20)
    entries["evaluate"] |= dict(every=30)
    run = run_of(entries, workdir, num_devices=4)
    assert train(run, workdir) == 0
    return run, workdir


def test_a_run_without_prepared_data_learns_from_its_labelled_files(base, tuned):
    _, workdir = tuned
    found = scores(r for r in records(workdir) if r.get("test") == "tagging")
    assert found["words", "en", "accuracy"] > accuracy_of_chance(base / "test") + 0.3
    dev = scores(r for r in records(workdir) if "test" not in r and r["step"] == 60)
    assert found["words", "de", "accuracy"] == dev["dev", "en", "accuracy"]  # the same file
    assert {r["step"] for r in records(workdir) if "test" not in r} == {30, 60}
    last = records(workdir, "metrics")[-1]
    assert last["loss"] == pytest.approx(last["loss/tag"]) and last["tag/accuracy"] > 0.6


def test_its_workdir_is_a_model_that_says_what_its_numbers_mean(base, tuned):
    run, workdir = tuned
    described = read_model_file(workdir)
    assert described["heads"]["tag"] == {
        "objective": "tag",
        "kind": "tag",
        "format": "ner",
        "labels": list(LABELS),
    }
    assert described["languages"] == ["en"] and described["init"] == "model"
    [source] = described["data"]["sources"]
    assert source["name"] == "train" and source["langs"] == ["en"] and source["count"] >= 80
    found = read_pretrained(workdir)
    assert found.tokenizer.sha256 == read_pretrained(base / "model").tokenizer.sha256
    assert not found.cfg.head and "head_bias" not in found.params
    files = {p.name for p in (workdir / "tokenizer").iterdir()}
    assert "tokenizer.json" in files and not any("safetensors" in name for name in files)
    assert "the masked-LM head is left out" in "\n".join(run.notes)


def test_an_opened_workdir_gets_the_scores_of_its_test(base, tuned):
    _, workdir = tuned
    opened = open_tuned(workdir)
    tasks = dict(again=dict(kind="tagging", sets=(f"en={base / 'test'}",), name="words"))
    found = {(r.task, r.lang, r.metric): r.value for r in evaluate(opened, tasks, print)}
    tested = scores(r for r in records(workdir) if "test" in r)
    assert opened.step == max(r["step"] for r in records(workdir) if "test" in r)
    for metric in ("f1", "accuracy"):
        assert found["words", "en", metric] == tested["words", "en", metric]


def test_a_folder_that_is_no_run_cannot_be_opened(base, tuned, tmp_path):
    with pytest.raises(ConfigError, match="has no model.json"):
        open_tuned(tmp_path)
    shutil.copytree(tuned[1], tmp_path / "copy", ignore=shutil.ignore_patterns("config.json"))
    with pytest.raises(ConfigError, match="no config.json, so it is no run of 'jalign finetune'"):
        open_tuned(tmp_path / "copy")
    (tmp_path / "copy/config.json").write_text('{"steps": ')
    with pytest.raises(BadData, match=r"config\.json is broken"):
        open_tuned(tmp_path / "copy")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(init=""), "config.data and config.init are both empty"),
        (dict(epochs=2.0), r"steps=6 and config\.epochs=2 both say how long"),
        (dict(steps=0), "steps=0: need at least 1"),
        (dict(epochs=-1.0), "epochs=-1.0: need 0"),
        (dict(evaluate=dict(patience=2)), "evaluate.patience=2 counts evaluations"),
        (dict(test=dict(tagging=dict(sets=()))), "config.test.tagging: sets is empty"),
        (dict(test=dict(guess=dict(kind="taging"))), "Did you mean 'tagging'"),
        (
            dict(objectives=dict(tag=dict(), more=dict(kind="tag"))),
            "'tag' and 'more' would share the head 'tag'",
        ),
        (dict(optimizer=dict(warmup_share=0.1, warmup_steps=2)), "warmup_steps=2 and warmup_share"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_compiles(base, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(run_of(finetune_entries(base, **changes), tmp_path), tmp_path)


def test_a_stream_without_files_needs_prepared_data(base):
    entries = finetune_entries(base)
    entries["streams"] |= dict(mono=dict(layout="single", rows=8, row_length=64))
    entries["objectives"] |= dict(mlm=dict())
    with pytest.raises(ConfigError, match=r"'mono' has no labelled files of its own: set"):
        run_of(entries)


def test_a_missing_file_is_named(base, tmp_path):
    entries = finetune_entries(base, streams=dict(task=task_stream(tmp_path / "none")))
    with pytest.raises(BadData, match="streams.task.task.files: cannot read .*none"):
        run_of(entries)


@pytest.mark.parametrize("epochs", [0.5, 3.0])
def test_epochs_are_so_many_examples(base, epochs):
    run = run_of(finetune_entries(base, steps=0, epochs=epochs))
    assert f"{epochs:g} epochs of " in run.notes[-1]
    seen = sum(len(run.source.records(step)["task"]) for step in range(run.cfg.steps))
    num_examples = sum(index.size for index in run.source.streams["task"].index)
    one_step = seen / run.cfg.steps
    assert epochs * num_examples - 0.2 * num_examples <= seen
    assert seen <= epochs * num_examples + one_step + 0.2 * num_examples
    assert run.facts()["config"]["steps"] == run.cfg.steps


def test_epochs_without_labelled_streams_count_the_longest_stream(tmp_path):
    data = write_tiny_dataset(tmp_path / "data")
    run = run_of(run_entries(data, steps=0, epochs=2.0))
    seen = sum(len(run.source.records(step)["mono"]) for step in range(run.cfg.steps))
    num_examples = sum(index.size for index in run.source.streams["mono"].index)
    assert seen == pytest.approx(2 * num_examples, rel=0.15) and "stream mono" in run.notes[-1]


def test_a_share_of_the_steps_warms_up():
    share = make_schedule(OptimConfig(lr=1.0, warmup_share=0.1, schedule="constant"), 200)
    fixed = make_schedule(OptimConfig(lr=1.0, warmup_steps=20, schedule="constant"), 200)
    np.testing.assert_array_equal([share(s) for s in range(200)], [fixed(s) for s in range(200)])
    assert share(18) < 1.0 == share(25)


def patient(base, patience, **changes):
    """A run that cannot improve: its learning rate is 0."""
    entries = finetune_entries(base, steps=12, optimizer=dict(lr=0.0), **changes)
    entries["evaluate"] |= dict(patience=patience)
    return entries


def test_patience_stops_a_run_that_gets_no_better_and_resuming_says_so(base, tmp_path, capsys):
    assert train(run_of(patient(base, 2), tmp_path), tmp_path) == 0
    said = capsys.readouterr().err
    assert "stopping early at step 6: 2 evaluations without more than dev/accuracy/en" in said
    assert {r["step"] for r in records(tmp_path) if "test" not in r} == {2, 4, 6}
    assert {r["step"] for r in records(tmp_path) if "test" in r} == {2}  # of equal ones the first
    before = (tmp_path / "results.jsonl").read_text()
    assert train(run_of(patient(base, 2), tmp_path), tmp_path) == 0
    assert "finished at step 6: 2 evaluations without more" in capsys.readouterr().err
    assert (tmp_path / "results.jsonl").read_text() == before
    assert train(run_of(patient(base, 4), tmp_path), tmp_path) == 0
    assert "stopping early at step 10: 4 evaluations" in capsys.readouterr().err


def worse(base, tmp_path, **changes):
    """A run whose development score falls as it learns: there, all tags are other ones."""
    write_tags(tmp_path / "shifted", 22, shift=1)
    entries = finetune_entries(base, steps=40, checkpoint_every=40, log_every=20, **changes)
    tagging = dict(sets=(f"en={tmp_path / 'shifted'}",), name="dev", rows=8)
    entries["evaluate"] = dict(every=20, best="dev/accuracy/en", tasks=dict(tagging=tagging))
    entries["evaluate"] |= dict(at_start=True)
    return entries


def test_the_test_is_taken_once_by_the_best_model_not_the_last(base, tmp_path, capsys):
    workdir, entries = tmp_path / "run", worse(base, tmp_path)
    assert train(run_of(entries, workdir), workdir) == 0
    lines = records(workdir)
    dev = {r["step"]: r["value"] for r in lines if (r["metric"], r["lang"]) == ("accuracy", "en")
           and "test" not in r}  # fmt: skip
    best = max(dev, key=dev.get)
    assert best < 40 and {r["step"] for r in lines if "test" in r} == {best}
    tested = scores(r for r in lines if "test" in r)
    tasks = dict(tagging=entries["test"]["tagging"])
    for step, equal in (("best", True), (40, False)):
        opened = open_tuned(workdir, step=step)
        found = {(r.task, r.lang, r.metric): r.value for r in evaluate(opened, tasks, print)}
        assert (found == tested) is equal
    capsys.readouterr()
    # Cut off before the test: the same command takes it, and only it.
    kept = [json.dumps(r) for r in lines if "test" not in r]
    (workdir / "results.jsonl").write_text("\n".join(kept) + "\n")
    assert train(run_of(entries, workdir), workdir) == 0
    assert "finished at step 40" in capsys.readouterr().err
    assert [r for r in records(workdir) if "test" in r] == [r for r in lines if "test" in r]


def test_absent_tests_are_said_and_left_out_unless_there_is_no_other(base, tmp_path, capsys):
    entries = finetune_entries(base, steps=2, evaluate={})
    none = dict(kind="tagging", sets=(f"sw={tmp_path}/none",))
    half = dict(kind="tagging", sets=(f"sw={tmp_path}/none", f"en={base / 'dev'}"), name="half")
    entries["test"] = dict(none=none, half=half)
    assert train(run_of(entries, tmp_path), tmp_path) == 0
    said = capsys.readouterr().err
    assert f"config.test.none: sets: no such files: sw={tmp_path}/none; left out" in said
    assert f"half: absent, so not scored: sw={tmp_path}/none" in said
    assert {r["task"] for r in records(tmp_path)} == {"half", "goodput"}
    with pytest.raises(ConfigError, match="config.test.none: sets: no such files"):
        train(run_of(entries | dict(test=dict(none=none)), tmp_path), tmp_path)


def test_a_resumed_run_needs_no_init_ends_with_the_same_bits_and_knows_its_files(
    base, tmp_path, capsys
):
    shutil.copytree(base / "model", tmp_path / "model")
    shutil.copy(base / "train", tmp_path / "train")
    changes = dict(optimizer=dict(lr=1e-2, schedule="constant"), evaluate=dict(), test={})
    changes |= dict(streams=dict(task=task_stream(tmp_path / "train")))
    changes |= dict(init=str(tmp_path / "model"))

    def go(steps, workdir):
        run = run_of(finetune_entries(base, steps=steps, **changes), workdir)
        assert train(run, workdir) == 0
        return run

    go(4, tmp_path / "whole")
    go(2, tmp_path / "parts")
    shutil.rmtree(tmp_path / "model")
    run = go(4, tmp_path / "parts")
    assert "resuming at step 2; changed since: steps\n" in capsys.readouterr().err
    states = []
    for name in ("whole", "parts"):
        checkpoints = Checkpoints(tmp_path / name, 3)
        states.append(jax.device_get(checkpoints.restore(4, run.abstract)))
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, *states)
    write_tags(tmp_path / "train", 99)
    with pytest.raises(ConfigError, match="files of config.streams.task.task are not what this"):
        go(6, tmp_path / "parts")


@pytest.mark.slow
def test_a_run_from_before_an_entry_existed_goes_on(tmp_path, capsys):
    data = write_tiny_dataset(tmp_path / "data")
    constant = dict(lr=1e-2, schedule="constant")
    entries = run_entries(data, steps=2, optimizer=constant)
    run = run_of(entries)
    train(run, tmp_path / "run")
    meta = tmp_path / "run/checkpoints/2/meta/metadata"
    saved = json.loads(meta.read_text())
    for name in ("epochs", "test"):
        del saved["config"][name]
    for stream in saved["config"]["streams"].values():
        del stream["task"]
    del saved["labelled_sha256"]
    meta.write_text(json.dumps(saved))
    (tmp_path / "run/checkpoints/2/hashes.json").unlink()  # such a run has none, either
    train(run_of(entries | dict(steps=4)), tmp_path / "run")
    assert "resuming at step 2; changed since: steps\n" in capsys.readouterr().err


@pytest.fixture(scope="module")
def mixed(base, tmp_path_factory):
    """The entries of a run on prepared text and labelled files at once."""
    data = write_tiny_dataset(tmp_path_factory.mktemp("mixed") / "data")
    entries = run_entries(data, steps=2, objectives=dict(mlm=dict(), tag=dict(stream="task")))
    entries["streams"] = dict(mono=entries["streams"]["mono"], task=task_stream(base / "train"))
    tasks = dict(heldout=dict(), tagging=dict(sets=(f"en={base / 'dev'}",)))
    return entries | dict(evaluate=dict(every=2, tasks=tasks))


def test_prepared_text_and_labelled_files_train_together(mixed, tmp_path):
    run = run_of(mixed, tmp_path)
    assert train(run, tmp_path) == 0
    assert {r["task"] for r in records(tmp_path)} == {"heldout/mlm", "tag", "goodput"}
    assert {"loss/mlm", "loss/tag"} <= records(tmp_path, "metrics")[-1].keys()
    # a few classes are no vocabulary to the MFU
    assert Rates(run, Ledger(tmp_path)).of_words == {"mlm"}
    names = {s["name"] for s in read_model_file(tmp_path)["data"]["sources"]}
    assert {"en-de", "en-ru", "en", "train"} == names


def test_heldout_says_that_labelled_files_have_no_heldout_part(base, tmp_path):
    entries = finetune_entries(base)
    entries["evaluate"] = dict(every=2, tasks=dict(heldout=dict()))
    with pytest.raises(ConfigError, match="heldout: every objective reads labelled files"):
        train(run_of(entries, tmp_path), tmp_path)
