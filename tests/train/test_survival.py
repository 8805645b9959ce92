"""A run outlives damaged files, full disks, spikes and hangs, and ends with the same bits."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jalign import config
from jalign.data.pipeline import batch_of
from jalign.errors import BadData, ConfigError, Diverged
from jalign.train.board import Board
from jalign.train.checkpoint import Checkpoints, read_params
from jalign.train.goodput import Ledger
from jalign.train.log import Log
from jalign.train.loop import train
from jalign.train.run import make_run
from jalign.train.run_config import RunConfig
from jalign.train.skipped import Skipped, merge, parse_ranges
from jalign.types import TrainState
from tests.conftest import ROOT
from tests.tiny import run_entries, write_tiny_dataset

STATE = TrainState(jnp.int32(1), {"a": jnp.arange(100.0)}, {"m": jnp.ones(30)}, {})


def write_checkpoints(workdir, steps=(1, 2), **meta):
    checkpoints = Checkpoints(workdir, 3)
    for step in steps:
        checkpoints.save(step, STATE, {"is": step, **meta})
    checkpoints.close()
    return checkpoints


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def sound(workdir, **how):
    checkpoints = Checkpoints(workdir, 3)
    try:
        return checkpoints.sound_step(**how)
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A workdir with checkpoints 1 and 2."""
    workdir = tmp_path_factory.mktemp("two")
    write_checkpoints(workdir)
    return workdir


@pytest.mark.parametrize("fault", [flip, cut, os.remove])
def test_any_damaged_file_is_found_and_the_step_before_is_used(two, tmp_path, fault):
    folder = two / "checkpoints/2"
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 10 and sound(two) == (2, [])
    tried = 0
    for path in files:
        if path.name in ("_CHECKPOINT_METADATA", "commit_success.txt") and path.parent == folder:
            continue  # Orbax writes these last; nothing of the run is read from them
        content = path.read_bytes()
        fault(path)
        if path.name == "hashes.json" and fault is os.remove:
            step, notes = sound(two)
            assert step == 1 and "2 has no hashes.json: not used" in notes[0]
        else:
            step, notes = sound(two)
            assert step == 1 and "checkpoint 2 is damaged" in notes[0], path
        (two / "damaged/2").rename(folder)  # moved aside, not deleted
        path.write_bytes(content)
        tried += 1
    assert tried > 10 and sound(two) == (2, [])


def test_with_all_damaged_nothing_begins_again_by_itself(tmp_path):
    write_checkpoints(tmp_path)
    for step in (1, 2):
        flip(tmp_path / f"checkpoints/{step}/state/_METADATA")
    for _ in range(2):
        with pytest.raises(BadData, match="another --workdir"):
            sound(tmp_path)


def test_a_damaged_checkpoint_is_no_model(tmp_path):
    write_checkpoints(tmp_path, (1,))
    flip(next((tmp_path / "checkpoints/1/state/d").iterdir()))
    with pytest.raises(BadData, match="is damaged"):
        read_params(tmp_path / "checkpoints/1", {"a": jax.ShapeDtypeStruct((100,), np.float32)})


def test_checkpoints_of_before_there_were_hashes_still_serve(tmp_path):
    write_checkpoints(tmp_path)
    for step in (1, 2):
        (tmp_path / f"checkpoints/{step}/hashes.json").unlink()
    step, notes = sound(tmp_path)
    assert step == 2 and "not verified" in notes[0]


def test_a_checkpoint_trained_on_what_is_left_out_now_is_deleted(tmp_path):
    write_checkpoints(tmp_path)
    assert sound(tmp_path, agrees=lambda step, meta: meta["is"] < 2)[0] == 1
    assert not (tmp_path / "checkpoints/2").exists()


def test_a_checkpoint_that_left_out_more_than_the_list_says_is_not_thrown_away(tmp_path):
    write_checkpoints(tmp_path, skipped=[[0, 1]])

    def agrees(step, meta, by_hand=""):
        return Skipped(tmp_path, parse_ranges(by_hand)).agrees(step, meta["skipped"])

    with pytest.raises(ConfigError, match="skipped.json lacks batches 0, .*--skip_batches=0"):
        sound(tmp_path, agrees=agrees)
    assert sound(tmp_path, agrees=lambda *args: agrees(*args, by_hand="0"))[0] == 2
    again = Skipped(tmp_path, parse_ranges("0"))
    assert again.add_by_hand(2, [[0, 1]]) and Skipped(tmp_path).ranges == ((0, 1),)


def test_only_one_that_can_be_used_lets_others_be_deleted(tmp_path):
    write_checkpoints(tmp_path)
    flip(tmp_path / "checkpoints/1/state/_METADATA")
    with pytest.raises(BadData, match="another --workdir"):
        sound(tmp_path, agrees=lambda step, meta: meta["is"] < 2)
    assert (tmp_path / "checkpoints/2").exists()


def test_a_best_model_of_after_the_step_that_a_run_goes_on_from_is_taken_again(tmp_path):
    write_checkpoints(tmp_path)
    best = Checkpoints(tmp_path, 3)
    best.save(2, STATE, {}, best=True)
    best.close()
    assert sound(tmp_path)[0] == 2 and (tmp_path / "best/2").exists()
    flip(tmp_path / "checkpoints/2/state/_METADATA")
    assert sound(tmp_path)[0] == 1 and not (tmp_path / "best/2").exists()
    best = Checkpoints(tmp_path, 3)
    best.save(1, STATE, {}, best=True)
    best.close()
    (tmp_path / "checkpoints/1").rename(tmp_path / "elsewhere")
    step, notes = sound(tmp_path)
    assert step is None and "best model of step 1 is in" in notes[0]
    assert (tmp_path / "damaged/best-1/hashes.json").exists()


def test_ranges_are_read_joined_and_refused():
    assert parse_ranges("300,100-120,121-130") == ((100, 131), (300, 301))
    assert parse_ranges("") == ()
    for text in ("5-3", "a", "1-2-3"):
        with pytest.raises(ConfigError, match="no range of batches"):
            parse_ranges(text)


def test_steps_take_the_batches_that_are_not_left_out():
    skipped = merge([(7, 9), (3, 5), (4, 6), (20, 21)])
    kept = [b for b in range(40) if not any(begin <= b < end for begin, end in skipped)]
    assert [batch_of(step, skipped) for step in range(30)] == kept[:30]


def test_what_was_trained_on_cannot_be_left_out_later(tmp_path):
    list_ = Skipped(tmp_path, parse_ranges("10-12"))
    assert list_.add_by_hand(10, ()) == "skipping batches 10-12"  # ten steps took 0 to 9
    assert Skipped(tmp_path).ranges == ((10, 13),)
    assert Skipped(tmp_path, parse_ranges("11")).add_by_hand(40, [(10, 13)]) == ""  # as before
    late = Skipped(tmp_path, parse_ranges("9"))
    with pytest.raises(ConfigError, match="can no longer be skipped"):
        late.add_by_hand(10, [(10, 13)])
    for step, then, agrees in ((10, (), True), (11, (), False), (11, ((10, 13),), True)):
        assert late.agrees(step, then) is agrees


def test_a_spike_leaves_out_the_batches_of_its_steps(tmp_path):
    list_ = Skipped(tmp_path)
    assert list_.add_spike(20, 5, "rose") == "skipping batches 15-19"
    assert list_.add_spike(17, 3, "again") == "skipping batches 14-21"  # steps 15 to 17
    assert Skipped(tmp_path).ranges == ((14, 22),) and Skipped(tmp_path).num_rollbacks == 2


def test_a_best_model_whose_save_was_cut_short_is_saved_by_the_next_start(data, tmp_path):
    tasks = dict(heldout=dict(max_batches=1))
    best = dict(every=2, at_start=False, best="heldout/tlm/accuracy/all", tasks=tasks)
    cfg = config.build(RunConfig, run_entries(data, steps=2, evaluate=best))
    for _ in range(2):
        assert train(make_run(cfg), tmp_path) == 0
        shutil.rmtree(tmp_path / "best/2")


def test_time_after_a_checkpoint_that_was_lost_is_wasted(tmp_path):
    first = Ledger(tmp_path)
    first.seconds |= {"productive": 100.0, "save": 3.0}
    saved = first.totals()
    first.seconds["productive"] += 20.0
    first.write_alive()
    facts = json.loads((tmp_path / "alive.json").read_text())
    facts["time"] -= 50  # killed then
    (tmp_path / "alive.json").write_text(json.dumps(facts))
    second = Ledger(tmp_path)
    second.resume(saved)
    found = second.totals()
    assert found["productive"] == pytest.approx(100) and found["wasted"] == pytest.approx(20)
    assert found["down"] == pytest.approx(50, abs=1) and found["save"] == pytest.approx(3)
    second.seconds["productive"] += 30
    second.roll_back(saved)
    assert second.totals()["wasted"] == pytest.approx(50)
    assert second.goodput() == pytest.approx(100 / 203, rel=0.02)


def test_a_hang_ends_with_42_and_says_where(tmp_path):
    code = (
        "import sys, time\nfrom jalign.train.hang import HangWatch\n"
        "with HangWatch(0.5, lambda m: print(m, file=sys.stderr)) as hang:\n"
        "    for _ in range(4):\n        time.sleep(0.3)\n        hang.beat('step 7')\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 42
    assert "during: step 7" in done.stderr and "line 7 in <module>" in done.stderr


def test_a_board_that_cannot_be_written_is_said_once(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    said = []
    board = Board(tmp_path / "tensorboard", 0, said.append)
    for step in range(100):
        board.add_scalar("loss", 1.0, step)
    board.close()
    assert len(said) == 1 and "goes on without" in said[0]


def test_records_wait_for_room_on_a_full_disk(tmp_path, capsys):
    log = Log(tmp_path, 9, start=0, writes=True)
    record = dict.fromkeys(("loss", "tokens_per_s", "mfu", "memory_mib", "time_left_s"), 1.0)
    record |= dict.fromkeys(("pack_efficiency", "input_wait_frac", "goodput"), 1.0)
    log.metrics({"step": 1} | record)
    path = tmp_path / "metrics.jsonl"
    there = path.read_bytes()
    path.unlink()
    path.symlink_to("/dev/full")  # a device whose every write fails for want of room
    log.metrics({"step": 2} | record)
    log.metrics({"step": 3} | record)
    assert capsys.readouterr().err.count("No space left") == 1
    path.unlink()
    path.write_bytes(there)
    log.metrics({"step": 4} | record)
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("survival") / "data")


def bad_run(data, rollbacks):
    """A run of one layer on one device: batch 6 ruins its state, batch 9 has no finite loss."""
    entries = run_entries(data, steps=12, checkpoint_every=4, log_every=1)
    entries["encoder"]["layers"] = 1
    del entries["streams"]["mono"], entries["objectives"]["mlm"]
    entries["divergence"] = dict(factor=1.5, window=2, rollbacks=rollbacks)
    run = make_run(config.build(RunConfig, entries), jax.devices()[:1])
    rows, clean = run.cfg.streams["pair"].rows, run.step

    def step(state, batches, key):
        new, out = clean(state, batches, key)
        batch = batches["pair"]["row"][0] // rows
        params = jax.tree.map(lambda x: jnp.where(batch == 6, -20 * x, x), new.params)
        loss = jnp.where(batch == 9, jnp.nan, out.loss)
        return new.replace(params=params), out.replace(loss=loss, finite=jnp.isfinite(loss))

    return dataclasses.replace(run, step=jax.jit(step))


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [(r["step"], r["loss"]) for r in map(json.loads, lines)]


def test_a_run_that_went_back_is_one_that_never_saw_those_batches(data, tmp_path, capsys):
    by_itself, by_hand = tmp_path / "itself", tmp_path / "hand"
    with pytest.raises(Diverged, match="1 rollbacks did not help"):
        train(bad_run(data, rollbacks=1), by_itself)
    said = capsys.readouterr().err
    assert "rose from" in said and "Going back to step 4, skipping batches 6-7 (rollback 1" in said
    assert Skipped(by_itself).ranges == ((6, 8),) and sound(by_itself)[0] == 4
    assert train(bad_run(data, rollbacks=2), by_itself) == 0  # goes on, and goes back again
    assert "skipping batches 9 (rollback 2 of 2" in capsys.readouterr().err
    assert train(bad_run(data, rollbacks=0), by_hand, skip_batches=((6, 8), (9, 10))) == 0
    assert losses(by_itself) == losses(by_hand) and len(losses(by_hand)) == 12
    results = [json.loads(x) for x in (by_itself / "results.jsonl").read_text().splitlines()]
    found = {r["metric"]: r["value"] for r in results if r["task"] == "goodput"}
    shares = [value for name, value in found.items() if name.endswith("_frac")]
    assert found["wasted_frac"] > 0 and sum(shares) == pytest.approx(1)
