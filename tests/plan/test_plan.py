"""jalign plan: names of topologies, shapes without weights, and a whole plan of a tiny step."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jalign import config
from jalign.errors import ConfigError
from jalign.plan.abstract import make_abstract_run, with_changes
from jalign.plan.measure import read_out_of_memory
from jalign.plan.memory import shard_bytes, state_bytes, total
from jalign.plan.report import to_json, to_text
from jalign.plan.search import search
from jalign.plan.shapes import SHAPES, encoder_entries
from jalign.plan.topology import (
    CHIPS,
    GIB,
    Chip,
    Topology,
    open_topology,
    parse_topology,
    tpu_compiler_notes,
)
from jalign.train.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[2]


def tiny(**changes) -> RunConfig:
    """A run in shapes alone, on data that are nowhere."""
    entries = dict(
        data="nowhere",
        steps=10,
        encoder=dict(
            vocab_size=1024, hidden=64, layers=2, heads=4, mlp=128, max_positions=66,
            dropout=0.0, attention_dropout=0.0,
        ),
        streams=dict(
            mono=dict(layout="single", rows=16, row_length=64),
            pair=dict(layout="joint", rows=16, row_length=64),
        ),
        objectives=dict(mlm=dict(), tlm=dict()),
        mesh=dict(data=-1, fsdp=2),
    )  # fmt: skip
    return config.build(RunConfig, entries | changes)


@pytest.mark.parametrize(
    ("name", "kind", "sizes"),
    [("v5e:16x16", "v5e", (16, 16)), ("v5p:4x4x4", "v5p", (4, 4, 4)), ("h100:8x2", "h100", (8, 2))],
)
def test_a_topology_is_a_chip_and_sizes(name, kind, sizes):
    assert parse_topology(name) == (kind, sizes)


@pytest.mark.parametrize("name", ["v7:2x2", "v5e", "v5e:16", "v5p:4x4", "h100:0x8", "v5e:4x4x4"])
def test_a_wrong_topology_says_what_to_type(name):
    with pytest.raises(ConfigError, match="v5e|such as"):
        parse_topology(name)


def test_a_compiler_of_another_version_is_told(monkeypatch):
    wanted = next(r for r in importlib.metadata.requires("jax") if r.startswith("libtpu"))
    right = wanted.partition("==")[2].partition(";")[0].strip().replace("*", "1")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: right)
    assert tpu_compiler_notes() == ()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    (note,) = tpu_compiler_notes()
    assert "libtpu 99.0 is installed" in note and f"asks for =={right[:-1]}" in note


@pytest.mark.parametrize(
    ("topology", "module", "extra"),
    [("v5e:2x2", "libtpu", "tpu"), ("h100:8x2", "jax_cuda12_plugin", "cuda12")],
)
def test_an_absent_compiler_says_what_to_install(monkeypatch, topology, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install\s+'jax\[{extra}\]'"):
        open_topology(topology)


def test_the_command_stops_with_2_before_anything_heavy():
    command = [sys.executable, "-m", "jalign", "plan", "--config=configs/xlmr_base.py"]
    done = subprocess.run(
        [*command, "--topology=v9:2x2"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and "no chip 'v9'" in done.stderr


@pytest.mark.parametrize(
    ("said", "rest"),
    [  # of libtpu 0.0.42
        ("Ran out of memory in memory space hbm. Used 17.5G of 15.75G hbm. Exceeded", 17.5 - 3),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
         "temporaries (16.86G) exceeds available HBM (15.75G).", 16.86),
        ("Used 512M of 15.75G hbm", 0),
    ],
)  # fmt: skip
def test_what_a_step_needs_that_does_not_fit_is_read_off_the_error(said, rest):
    memory = read_out_of_memory(said, dict(parameters=GIB, optimiser=2 * GIB))
    assert (memory.pop("parameters"), memory.pop("optimiser")) == (GIB, 2 * GIB)
    assert list(memory.values()) == [int(rest * GIB)]


def test_another_error_of_the_compiler_says_nothing_about_memory():
    assert read_out_of_memory("INTERNAL: HLO temporaries are odd", {}) is None


def test_a_published_shape_stands_for_weights_that_are_not_here():
    entries = encoder_entries(dict(dropout=0.2, hidden=8), "models/none", "xlmr-large")
    assert entries == dict(SHAPES["xlmr-large"]) | dict(dropout=0.2)
    with pytest.raises(ConfigError, match="config.init=models/none is not here.*--shape="):
        encoder_entries({}, "models/none")


def test_a_config_json_alone_gives_the_shape(tmp_path):
    hf = dict(
        model_type="xlm-roberta", vocab_size=99, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=48, max_position_embeddings=66, pad_token_id=1,
        type_vocab_size=1, layer_norm_eps=1e-5, hidden_act="gelu",
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(hf))
    entries = encoder_entries(dict(dropout=0.0, attention_dropout=0.0), str(tmp_path))
    run = make_abstract_run(tiny(encoder=entries), jax.devices())
    assert run.state.params["encoder"]["word_embeddings"].shape == (99, 24)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_optimiser_and_parameters_per_chip_fall_with_fsdp_and_tensor(family):
    def held(**mesh):
        entries = dict(tiny().encoder) | dict(family=family, vocab_size=4096)
        cfg = with_changes(tiny(encoder=entries), **mesh)
        return state_bytes(make_abstract_run(cfg, jax.devices()))

    one, four, eight = held(fsdp=1), held(fsdp=4), held(fsdp=4, tensor=2)
    for name in ("parameters", "optimiser"):
        # norms, and what tensor does not cut, stay whole: a few per cent of so small a model
        assert four[name] == pytest.approx(one[name] / 4, rel=0.05)
        assert eight[name] == pytest.approx(one[name] / 8, rel=0.1)


def test_what_a_mesh_does_not_divide_is_said():
    odd = dict(tiny().encoder) | dict(vocab_size=1026)
    cfg = tiny(encoder=odd, mesh=dict(data=-1, fsdp=2, tensor=4))
    run = make_abstract_run(cfg, jax.devices())
    (note,) = [n for n in run.notes if "does not divide" in n]
    assert note.startswith("1,026 does not divide over config.mesh.tensor=4: its devices all hold")
    assert "encoder." in note and " and 1 more" in note  # the table and the output bias
    table = run.state.params["encoder"]["word_embeddings"]
    assert table.sharding.shard_shape(table.shape) == (1026, 32)
    run = make_abstract_run(with_changes(cfg, fsdp=4, tensor=2), jax.devices())
    assert not [n for n in run.notes if "does not divide" in n]


@pytest.fixture(scope="module")
def found():
    """A whole plan of a tiny step on eight simulated devices."""
    chip = Chip("test", "cpu", 1e12, 2**30, 1e11, 1e10, 1e9)
    topology = Topology("cpu:8", chip, (8,), 1, jax.devices())
    return search(tiny(), topology, budget=0), topology


def test_the_memory_classes_sum_up_to_what_the_compiler_says(found):
    plan = found[0].asked
    assert plan.fits and total(plan.memory) == plan.needed
    params = plan.run.state.params
    assert plan.memory["parameters"] == shard_bytes(params)
    assert plan.memory["optimiser"] == pytest.approx(2 * shard_bytes(params), rel=0.01)
    # at least the states that enter each layer, of both streams, wait for the backward pass
    assert plan.memory["activations"] > 2 * 2 * (2 * 64) * 64 * 4
    assert plan.memory["temporaries"] > 0
    batch = sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(plan.run.batches))
    assert plan.memory["batch"] == batch // 8


def test_compiled_flops_are_those_counted_by_hand(found):
    plan = found[0].asked
    assert sum(plan.flops.values()) == pytest.approx(plan.executed_flops, rel=0.1)
    assert plan.executed_flops > plan.analytic_flops


def test_the_plan_is_a_table_and_json(found):
    text, values = to_text(*found), json.loads(json.dumps(to_json(*found)))
    assert "fits" in text and "nowhere is not here" in text and "slots a second" in text
    step = values["step"]
    assert step["rows_per_chip"] == {"mono": 2, "pair": 2} and step["fits"]
    assert step["memory_needed"] == sum(step["memory"].values())
    longest = max(step["seconds"][n] for n in ("compute", "memory", "inside", "outside"))
    assert step["seconds"]["overlapped"] == longest
    assert step["hours"] == pytest.approx(10 * longest / 3600)
    assert set(CHIPS) >= {"v5e", "v5p", "v6e", "h100", "h200"}


def test_a_run_given_in_epochs_has_no_hours_and_says_why(found):
    plans, topology = found
    run = make_abstract_run(tiny(steps=0, epochs=2.0), jax.devices())
    assert run.steps is None and make_abstract_run(tiny(), jax.devices()).steps == 10
    asked = dataclasses.replace(plans.asked, run=run)
    epochs = dataclasses.replace(plans, asked=asked, suggestions=[asked])
    values, text = to_json(epochs, topology), to_text(epochs, topology)
    (note,) = [n for n in values["notes"] if "epochs" in n]
    assert "config.epochs=2 " in note and "no hours; give --config.steps=N" in note
    assert values["step"]["hours"] is None and values["step"]["hours_in_turn"] is None
    assert values["step"]["steps"] is None and values["step"]["tokens_per_s"] > 0
    assert f"note: {note}" in text and "hours at least" not in text
    assert "  10 steps: " in to_text(plans, topology)


@pytest.mark.slow
def test_the_search_finds_the_largest_batch_and_a_layout_that_fits(found):
    asked, topology = found[0].asked, found[1]
    room = int(asked.needed * 1.6)
    chip = dataclasses.replace(topology.chip, hbm=room)
    topology = dataclasses.replace(topology, chip=chip)
    lines = []
    result = search(tiny(), topology, budget=5, say=lines.append)
    assert result.compilations == len(lines) <= 6
    largest = result.largest
    assert largest.needed <= room and largest.rows_per_chip["mono"] > 2
    assert result.suggestions and all(s.fits for s in result.suggestions)
    speeds = [s.tokens_per_s for s in result.suggestions]
    assert speeds == sorted(speeds, reverse=True)
    chip = dataclasses.replace(chip, hbm=int(asked.needed * 0.8))
    tight = search(tiny(), dataclasses.replace(topology, chip=chip), budget=4)
    assert not tight.asked.fits and tight.largest.rows_per_chip["mono"] == 1
    assert "DOES NOT FIT" in to_text(tight, topology)
