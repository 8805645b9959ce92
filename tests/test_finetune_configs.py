"""The configs of fine-tuning and adjustment build in every size, with the papers' numbers."""

from __future__ import annotations

import importlib.util

import pytest

from jalign import config, plugin
from jalign.data.tasks import LABELS
from jalign.train.run_config import RunConfig
from tests.conftest import ROOT

TASKS = {  # objective, lr and epochs of XTREME's scripts
    "pos": ("tag", 2e-5, 10.0),
    "ner": ("tag", 2e-5, 10.0),
    "xnli": ("classify", 2e-5, 5.0),
    "xquad": ("span", 3e-5, 3.0),
}


def build(name: str, arg: str = "") -> RunConfig:
    """Build a config file's run, and each of its objectives' entries."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"configs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cfg = config.build(RunConfig, module.get_config(arg).to_dict())
    for objective, entries in cfg.objectives.items():
        entries = {name: value for name, value in entries.items() if name != "weight"}
        config.build(plugin.load("objectives", objective).Config, entries)
    for tasks in (cfg.evaluate.tasks, cfg.test):
        for kind, entries in tasks.items():
            entries = dict(entries)
            made = plugin.load("evals", entries.pop("kind", kind)).Config
            config.build(made, entries)
    return cfg


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_xtremes_recipe_and_a_small_one(task):
    objective, lr, epochs = TASKS[task]
    full, small = build(f"finetune_{task}"), build(f"finetune_{task}", "small")
    for cfg in (full, small):
        assert set(cfg.objectives) == {objective} and cfg.labelled == ("task",)
        assert cfg.optimizer.schedule == "linear" and cfg.evaluate.best
    assert (full.optimizer.lr, full.epochs) == (lr, epochs)
    assert small.encoder["dtype"] == "float32" and small.init == "runs/quickstart"


@pytest.mark.parametrize("size", ["", ",small"])
@pytest.mark.parametrize("task", TASKS)
def test_the_continual_recipe_adds_a_hundredth_of_the_alignment_to_the_task(task, size):
    plain, cfg = build(f"finetune_{task}", size[1:]), build("finetune_continual", task + size)
    adjust = cfg.objectives["adjust"]
    assert adjust["weight"] == {"align": 0.01, "drift": 1.0} and adjust["frozen"]
    assert {n: e for n, e in cfg.objectives.items() if n != "adjust"} == plain.objectives
    assert cfg.streams["task"] == plain.streams["task"] and cfg.optimizer == plain.optimizer
    assert cfg.streams["pair"].layout == "separate" and cfg.streams["pair"].lexicons


def test_adjustment_is_that_of_the_released_code():
    cfg = build("adjust")
    adjust = cfg.objectives["adjust"]
    assert adjust["weight"] == {"align": 1.0, "drift": 1.0} and not adjust["frozen"]
    assert (adjust["reduction"], adjust["pool"], adjust["max_words"]) == ("mse", "mean", 64)
    assert adjust["one_to_one"] and adjust["skip_identical"] and adjust["frame"]
    optimizer = cfg.optimizer
    assert (optimizer.lr, optimizer.schedule, optimizer.warmup_share) == (5e-5, "constant", 0.1)
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.98, 1e-9)
    assert cfg.epochs == 1.0 and build("adjust", "small").init == "runs/quickstart"


def test_labels_stand_in_the_order_of_xtremes_models():
    assert build("finetune_pos").streams["task"].task.labels == LABELS["udpos"]
    assert build("finetune_xnli").streams["task"].task.labels == LABELS["xnli"]
    assert len(LABELS["udpos"]) == 17 and len(LABELS["panx"]) == 7


@pytest.mark.parametrize("name", ["adjust", "finetune_pos", "finetune_continual"])
def test_an_unknown_argument_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}.py takes .*got 'large'"):
        build(name, "large")
