"""Starting from pretrained weights: every family begins with the weights of the folder it is given,
contradictions are refused before anything compiles, and a resume needs the folder no longer.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from jalign import config, plugin
from jalign.cli.main import main
from jalign.data.tokenizer import load_tokenizer, train_tokenizer
from jalign.errors import BadData, ConfigError
from jalign.hf.folder import write_folder
from jalign.train.checkpoint import Checkpoints
from jalign.train.convert import import_folder
from jalign.train.loop import train
from jalign.train.mesh import RULES
from jalign.train.model_file import MODEL_FILE, read_model_file, write_model_file
from jalign.train.pretrained import read_pretrained
from jalign.train.run import RunConfig, make_run
from tests.tiny import run_entries, sentences, write_tiny_dataset

SHAPE = dict(hidden=16, layers=2, heads=2, mlp=32, max_positions=66)
FAMILIES = {  # model type -> family, and a shape other than the defaults
    "xlm-roberta": ("bert", SHAPE | dict(type_vocab_size=1)),
    "bert": ("bert", SHAPE | dict(first_position=0, type_vocab_size=2, layer_norm_eps=1e-12)),
    "modernbert": ("modernbert", SHAPE | dict(layers=4, local_attention=8)),
}
CONFIGS = {
    "continue_xlmr": "xlm-roberta",
    "continue_mbert": "bert",
    "continue_modernbert": "modernbert",
}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")


def write_model(folder, tokenizer, model_type="xlm-roberta", **changes):
    """Write a random model as a Hugging Face folder; return its parameters."""
    family_name, shape = FAMILIES[model_type]
    family = plugin.load("encoders", family_name)
    vocab_size = load_tokenizer(tokenizer).vocab_size
    cfg = family.Config(**{**shape, "vocab_size": vocab_size, "dropout": 0.0, **changes})
    draw = jax.jit(lambda key: nn.unbox(family.init_params(family.make(cfg), key)))
    params = jax.device_get(draw(jax.random.key(7)))
    write_folder(folder, family_name, model_type, cfg, params, tokenizer)
    return params


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """An XLM-R with masked-LM head, and its parameters."""
    folder = tmp_path_factory.mktemp("hf") / "xlmr"
    return folder, write_model(folder, data / "tokenizer")


def run_from(data, init, *, workdir=None, num_devices=1, encoder=None, **changes):
    entries = run_entries(data, init=str(init), encoder=encoder or {}, **changes)
    cfg = config.build(RunConfig, entries)
    return make_run(cfg, jax.devices()[:num_devices], workdir=workdir)


def first_state(run):
    with jax.set_mesh(run.mesh), nn.logical_axis_rules(RULES):
        return run.init_state()


def assert_equal(mine, theirs):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(mine), theirs)


@pytest.fixture(scope="module")
def sharded(data, model):
    """A run on four devices, its first state, and its state after a step."""
    run = run_from(data, model[0], num_devices=4, mesh=dict(fsdp=2, tensor=2))
    state = first_state(run)
    first = jax.device_get(state)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    with jax.set_mesh(run.mesh), nn.logical_axis_rules(RULES):
        state, out = run.step(state, run.put(run.source[0]), jax.random.key(0))
    return run, first, shardings, jax.device_get(state), jax.device_get(out)


def test_a_run_begins_with_the_weights_of_its_folder_on_its_own_shardings(model, sharded):
    run, first, shardings, _, _ = sharded
    assert_equal(first.params["encoder"], model[1])
    assert first.step == 0 and not any(x.any() for x in jax.tree.leaves(first.opt))
    jax.tree.map(lambda x, s: np.testing.assert_equal(x.sharding, s), run.abstract, shardings)
    kernel = shardings.params["encoder"]["layers"]["qkv"]["kernel"]
    assert kernel.shard_shape((2, 16, 3, 16)) == (2, 8, 3, 8)  # no device holds all of it


def test_a_step_from_there_trains_and_a_second_start_reads_the_same_weights_again(model, sharded):
    run, first, _, after, out = sharded
    assert out.finite and np.isfinite(out.loss)
    moved = after.params["encoder"]["layers"]["qkv"]["kernel"] - model[1]["layers"]["qkv"]["kernel"]
    assert np.abs(moved).max() > 0
    assert_equal(run.init_state().params, first.params)


@pytest.mark.parametrize("name, model_type", CONFIGS.items())
def test_the_config_of_each_family_continues_a_model_of_that_family(
    data, tmp_path, name, model_type
):
    params = write_model(tmp_path / "model", data / "tokenizer", model_type)
    values = read_config(name) | dict(data=str(data), init=str(tmp_path / "model"))
    for stream in values["streams"].values():
        stream.update(rows=2, row_length=64)
    run = make_run(config.build(RunConfig, values), jax.devices()[:1])
    assert_equal(first_state(run).params["encoder"], params)
    assert run.encoder_cfg.dtype == "bfloat16"  # the config's choice, the rest is the model's
    shape = FAMILIES[model_type][1]
    assert {k: getattr(run.encoder_cfg, k) for k in shape} == shape
    assert run.description["model_type"] == model_type


def read_config(name, arg=""):
    path = Path(__file__).parents[2] / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg).to_dict()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_small_form_of_each_config_trains_without_any_folder(data, name):
    values = read_config(name, "small") | dict(data=str(data), steps=3)
    values["encoder"] |= dict(hidden=16, layers=2, heads=2, mlp=32)
    values["optimizer"]["warmup_steps"] = 1
    for stream in values["streams"].values():
        stream.update(rows=2, row_length=64)
    rate = values["objectives"]["mlm"]["rate"]
    if name == "continue_modernbert":
        rate["boundaries"] = (1, 2)
    run = make_run(config.build(RunConfig, values), jax.devices()[:1])
    state, rates = first_state(run), []
    for step in range(3):
        with jax.set_mesh(run.mesh), nn.logical_axis_rules(RULES):
            state, out = run.step(state, run.put(run.source[step]), jax.random.key(0))
        assert out.finite and out.losses["mlm"].count > 0 < out.losses["tlm"].count
        rates.append(out.metrics["mlm/rate"].total if "mlm/rate" in out.metrics else rate)
    wanted = [0.30, 0.15, 0.05] if name == "continue_modernbert" else [0.15] * 3
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)


def test_a_checkpoint_without_head_gets_a_fresh_one_and_its_pooler_is_left_out(data, tmp_path):
    params = write_model(tmp_path / "model", data / "tokenizer", "bert", head=False, pooler=True)
    run = run_from(data, tmp_path / "model", encoder=dict(head=True, pooler=False))
    drawn = first_state(run).params["encoder"]
    fresh = {"head_dense", "head_norm", "head_bias"}
    assert drawn.keys() - params.keys() == fresh and params.keys() - drawn.keys() == {"pooler"}
    assert_equal({k: v for k, v in drawn.items() if k not in fresh}, without(params, "pooler"))
    assert np.std(drawn["head_dense"]["kernel"]) > 0.01
    notes = "\n".join(run.notes)
    assert "starts from" in notes and "pooler is left out" in notes
    assert "no masked-LM head; drawn afresh: head_bias, head_dense/bias" in notes


def without(tree, name):
    return {k: v for k, v in tree.items() if k != name}


def test_a_pooler_that_is_asked_for_is_kept(data, tmp_path):
    params = write_model(tmp_path / "model", data / "tokenizer", "bert", pooler=True)
    run = run_from(data, tmp_path / "model", encoder=dict(pooler=True))
    assert_equal(first_state(run).params["encoder"], params)


def test_the_run_chooses_its_entries_and_repeating_the_shape_is_fine(data, model):
    entries = dict(family="bert", hidden=16, vocab_size=0, dropout=0.25, remat=True)
    run = run_from(data, model[0], encoder=entries)
    assert (run.encoder_cfg.dropout, run.encoder_cfg.remat) == (0.25, True)
    assert run.encoder_cfg.hidden == 16 and run.encoder_cfg.vocab_size == run.manifest.vocab_size


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(encoder=dict(hidden=32)),
            r"encoder\.hidden=32, and .*xlmr has 16: with config\.init the shape .* a run chooses",
        ),
        (dict(encoder=dict(vocab_size=99)), r"encoder\.vocab_size=99, and .*xlmr has 76"),
        (dict(encoder=dict(family="modernbert")), r"family='modernbert', and .*xlmr has 'bert'"),
        (dict(encoder=dict(pooler=True)), r"pooler=True, and .*xlmr has False"),
        (dict(encoder=dict(dropuot=0.1)), "Did you mean 'dropout'"),
        (dict(count_rows=8), r"count_rows=8 would overwrite the output bias of init="),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(data, model, changes, message):
    with pytest.raises(ConfigError, match=message):
        run_from(data, model[0], **changes)


def test_a_folder_that_is_no_model_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere is no folder: name a Hugging Face folder"):
        run_from(data, tmp_path / "nowhere")


def test_data_of_another_tokenizer_is_refused(data, tmp_path):
    train_tokenizer(sentences(1, 800), tmp_path / "other", 70)
    write_model(tmp_path / "model", tmp_path / "other")
    with pytest.raises(ConfigError, match=r"jalign prepare --tokenizer=.*model'"):
        run_from(data, tmp_path / "model")


CONSTANT = dict(lr=1e-2, schedule="constant", warmup_steps=0)
STAIRS = dict(values=(0.5, 0.3, 0.1), boundaries=(1, 3))


@pytest.fixture(scope="module")
def interrupted(data, model, tmp_path_factory):
    """Two runs of the same config on a schedule: one of 4 steps, one stopped after 2."""
    objectives = dict(mlm=dict(rate=STAIRS), tlm=dict(weight=0.5))
    entries = dict(objectives=objectives, optimizer=CONSTANT, accumulate=2, log_every=1)
    base = tmp_path_factory.mktemp("runs")
    copy = base / "model"
    shutil.copytree(model[0], copy)

    def go(steps, workdir):
        run = run_from(data, copy, workdir=workdir, steps=steps, **entries)
        assert train(run, workdir) == 0
        return run

    go(4, base / "whole")
    go(2, base / "parts")
    return base, copy, go


@pytest.mark.slow
def test_a_resume_needs_the_folder_no_longer_and_ends_with_the_same_bits(interrupted, capsys):
    base, copy, go = interrupted
    shutil.rmtree(copy)
    run = go(4, base / "parts")
    said = capsys.readouterr().err
    assert "resuming at step 2; changed since: steps\n" in said and "starts from" not in said
    states = []
    for name in ("whole", "parts"):
        checkpoints = Checkpoints(base / name, 3)
        states.append(jax.device_get(checkpoints.restore(4, run.abstract)))
        checkpoints.close()
    assert_equal(*states)
    assert states[0].aux == {"mlm": {"step": 4}, "tlm": {}}
    rates = [
        [json.loads(line)["mlm/rate"] for line in (base / name / "metrics.jsonl").open()]
        for name in ("whole", "parts")
    ]
    np.testing.assert_allclose(rates, [[0.5, 0.3, 0.3, 0.1]] * 2, rtol=1e-6)


def test_a_workdir_holds_all_that_its_model_needs_and_can_be_continued_itself(data, interrupted):
    whole = interrupted[0] / "whole"
    described = read_model_file(whole)
    assert described["init"] == "model" and described["model_type"] == "xlm-roberta"
    assert described["languages"] == ["de", "en", "ru"]
    assert {"name": "en-ru", "stream": "pair", "langs": ["en", "ru"], "count": 100} in (
        described["data"]["sources"]
    )
    assert described["objectives"]["mlm"]["rate"]["boundaries"] == [1, 3]
    assert described["hf_config"]["model_type"] == "xlm-roberta"
    assert load_tokenizer(whole / "tokenizer").sha256 == described["tokenizer_sha256"]
    found = read_pretrained(whole)
    run = run_from(data, whole)
    assert found.step == 4 and f"starts from {whole} (xlm-roberta, step 4)" in run.notes
    assert_equal(first_state(run).params["encoder"], found.params)


def test_a_workdir_from_before_the_model_file_gets_one_when_it_goes_on(data, tmp_path):
    entries = run_entries(data, steps=2, optimizer=CONSTANT)
    train(make_run(config.build(RunConfig, entries), jax.devices()[:1]), tmp_path)
    shutil.rmtree(tmp_path / "tokenizer")
    (tmp_path / MODEL_FILE).unlink()
    train(make_run(config.build(RunConfig, entries), jax.devices()[:1]), tmp_path)
    assert read_pretrained(tmp_path).step == 2
    assert read_model_file(tmp_path)["init"] == ""


@pytest.mark.slow  # 22 layers are compiled twice; in process the tests above do the same
def test_the_command_starts_from_a_folder_and_goes_on_without_it(data, tmp_path, capsys):
    def pretrain(*more):
        return main(["pretrain", *flags, *more])

    write_model(tmp_path / "mmbert", data / "tokenizer", "modernbert")
    flags = [
        f"--config={Path(__file__).parents[2]}/configs/continue_modernbert.py",
        f"--config.init={tmp_path}/mmbert",
        f"--config.data={data}",
        f"--workdir={tmp_path}/run",
        *(f"--config.streams.{s}.rows=8" for s in ("mono", "pair")),
        *(f"--config.streams.{s}.row_length=64" for s in ("mono", "pair")),
        "--config.objectives.mlm.rate.boundaries=(1,2)",
        "--config.objectives.mlm.rate.values=(0.4,0.2,0.1)",
        "--config.optimizer.warmup_steps=1",
        "--config.encoder.dtype=float32",
        "--config.evaluate.every=0",
        "--config.log_every=1",
    ]
    assert pretrain("--config.steps=2") == 0, capsys.readouterr().err
    assert f"starts from {tmp_path}/mmbert (modernbert)" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "mmbert")
    assert pretrain("--config.steps=3") == 0, capsys.readouterr().err
    rates = [json.loads(line)["mlm/rate"] for line in (tmp_path / "run/metrics.jsonl").open()]
    np.testing.assert_allclose(rates, [0.4, 0.2, 0.1], rtol=1e-6)
    assert pretrain("--config.steps=3", "--config.encoder.dropout=0.1") == 2
    assert "this workdir holds another run" in capsys.readouterr().err


def test_an_imported_model_is_a_start_and_no_workdir(data, model, tmp_path):
    import_folder(model[0], tmp_path / "model", lambda line: None, unverified=True)
    run = run_from(data, tmp_path / "model")
    assert_equal(first_state(run).params["encoder"], model[1])
    with pytest.raises(ConfigError, match=r"imported model, not a run: name it as config\.init"):
        train(run, tmp_path / "model")


GOOD = dict(family="bert", model_type="bert", encoder={}, tokenizer_sha256="0" * 64)


def test_a_model_file_comes_back_as_it_was_written(tmp_path):
    write_model_file(tmp_path / "new", GOOD | dict(languages=("de", "हि")))
    assert read_model_file(tmp_path / "new") == GOOD | dict(format=1, languages=["de", "हि"])
    assert [p.name for p in (tmp_path / "new").iterdir()] == [MODEL_FILE]


@pytest.mark.parametrize(
    "content, error, message",
    [
        (None, ConfigError, "has no model.json"),
        (b'{"format": 1, "fam', BadData, "is broken"),
        (b"\xff\xfe", BadData, "is broken"),
        (b"[" * 100_000, BadData, "is broken"),
        (b"[1]", BadData, "holds no entries"),
        (json.dumps({"format": 2} | GOOD).encode(), ConfigError, "format 2, and this jalign reads"),
        (json.dumps(GOOD).encode(), ConfigError, "format None"),
        (json.dumps({"format": 1} | GOOD | {"encoder": 3}).encode(), BadData, "'encoder' is 3"),
        (b" " * ((64 << 20) + 1), BadData, "67,108,865 bytes"),
    ],
)
def test_a_missing_or_broken_model_file_is_refused(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(error, match=message):
        read_model_file(tmp_path)
