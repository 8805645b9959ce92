"""Train: the loop, read top to bottom.

In: a checked `Run` and a workdir. Out: checkpoints, model.json and the tokenizer, metrics.jsonl,
results.jsonl, TensorBoard files, and an exit code: 0 done, 143 saved after SIGTERM, 130 after
Ctrl-C; `Diverged` carries 4. Resumes by itself from the newest complete checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax

from jalign import config
from jalign.data.pipeline import load_batches
from jalign.errors import ConfigError
from jalign.nn.attention import choose_attention
from jalign.train import mesh as mesh_lib
from jalign.train.checkpoint import Checkpoints, check_same_run
from jalign.train.evaluator import Evaluator
from jalign.train.log import Log, format_duration
from jalign.train.model_file import MODEL_FILE
from jalign.train.rates import Rates
from jalign.train.run import Run
from jalign.train.run_config import RunConfig
from jalign.train.start import write_description
from jalign.train.stop import StopFlag
from jalign.train.watch import Watch
from jalign.types import TrainState

AGREE_EVERY = 10  # steps between asking the other processes whether to stop: it waits for them


def train(run: Run, workdir: Path) -> int:
    """Train to the end, to SIGTERM or to divergence; return the exit code.

    Raises: Diverged (exit code 4); ConfigError where the workdir holds another run.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir, run.cfg.keep)
    rules = nn.logical_axis_rules(mesh_lib.RULES)
    with jax.set_mesh(run.mesh), rules, StopFlag() as stop:
        state, start, notes = _restore_or_init(run, checkpoints)
        if start == 0 and jax.process_index() == 0:
            (workdir / "config.json").write_text(json.dumps(run.facts()["config"], indent=1))
        if jax.process_index() == 0 and (start == 0 or not (workdir / MODEL_FILE).exists()):
            write_description(workdir, run.tokenizer_folder, run.description)
        log = Log(workdir, run.cfg.steps, start=start, writes=jax.process_index() == 0)
        try:
            _introduce(run, log, start, notes)
            return _loop(run, workdir, state, start, checkpoints, log, stop)
        finally:
            checkpoints.close()
            log.close()


def _restore_or_init(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, int, list[str]]:
    latest = checkpoints.latest_step()
    if latest is None:
        return run.init_state(), 0, []
    saved = checkpoints.read_meta(latest)
    if "config" not in saved:
        raise ConfigError(
            "this workdir is an imported model, not a run: name it as config.init, and another "
            "--workdir"
        )
    with contextlib.suppress(ConfigError):  # entries that came later stand there as they were then
        saved["config"] = dataclasses.asdict(config.build(RunConfig, saved["config"]))
    changed = check_same_run(saved, run.facts())
    return checkpoints.restore(latest, run.abstract), latest, changed


def _introduce(run: Run, log: Log, start: int, changed: list[str]) -> None:
    """Say once what will run, where, and what was left out."""
    cfg, encoder = run.cfg, run.encoder_cfg
    num_params = sum(math.prod(x.shape) for x in jax.tree.leaves(run.abstract.params))
    device = jax.devices()[0]
    log.say(
        f"{cfg.name}: {num_params / 1e6:.1f} M parameters, mesh {dict(run.mesh.shape)} of "
        f"{device.device_kind}, {jax.process_count()} process(es), {encoder.dtype}"
    )
    for note in () if start else run.notes:
        log.say(note)
    for name, stream in run.source.streams.items():
        layout, shares = (
            stream.layout,
            sorted(zip(stream.shares, stream.index, strict=True), key=lambda x: -x[0]),
        )
        top = ", ".join(f"{i.part.name} {100 * share:.1f} %" for share, i in shares[:4])
        impl = encoder.attention
        if impl == "auto":
            impl = choose_attention(
                device.platform,
                encoder.dtype,
                layout.row_length,
                encoder.hidden // encoder.heads,
                layout.max_unit,
                dropout=encoder.attention_dropout > 0,
            )
        log.say(
            f"stream {name}: {layout.kind}, {cfg.streams[name].rows} rows of {layout.row_length}, "
            f"attention {impl}, {sum(i.size for i in stream.index):,} examples of {len(shares)} "
            f"sources ({top}" + (", ..." if len(shares) > 4 else "") + ")"
        )
        for what, counts in (
            ("longer than max_unit left out", stream.num_left_out),
            ("cut into pieces", stream.num_cut),
        ):
            if counts:
                log.say(f"stream {name}: {sum(counts.values()):,} examples {what}: {counts}")
        for what, number in getattr(stream, "counts", {}).items():  # of labelled files
            log.say(f"stream {name}: {number:,} x {what}")
    if start:
        log.say(
            f"resuming at step {start}"
            + (f"; changed since: {', '.join(changed)}" if changed else "")
        )


def _compile(run: Run, state: TrainState, log: Log) -> Callable:
    """Compile the step ahead of time, so that its cost is said once and never counted as
    training.
    """
    begin = time.perf_counter()
    compiled = run.step.lower(state, run.put(run.source[0]), jax.random.key(run.cfg.seed)).compile()
    memory = compiled.memory_analysis()
    temp = f", {memory.temp_size_in_bytes / 2**20:,.0f} MiB of temporaries" if memory else ""
    log.say(f"compiled the step in {time.perf_counter() - begin:.1f} s{temp}")
    return compiled


def _loop(
    run: Run,
    workdir: Path,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    log: Log,
    stop: StopFlag,
) -> int:
    cfg, watch, evaluator = run.cfg, Watch(run, workdir), Evaluator(run, workdir, log, stop)
    if evaluator.catch_up(start, state):
        checkpoints.save(start, state, run.facts(), best=True)
    if start >= cfg.steps or evaluator.out_of_patience():
        why = evaluator.out_of_patience() or "nothing to do (raise config.steps to go on)"
        log.say(f"finished at step {start}: {why}")
        return _test(run, start, state, checkpoints, evaluator, log, stop)
    step_fn, rates = _compile(run, state, log), Rates(run)
    log.say(rates.definition)
    batches = load_batches(run.source, start)
    key = jax.random.key(cfg.seed)
    done, pending = start, None
    while done < cfg.steps:
        agree_now = jax.process_count() == 1 or done % AGREE_EVERY == 0
        if agree_now and (asked := stop.agreed()):
            return _save_and_leave(checkpoints, done, state, run, log, asked)
        batch = rates.next(batches)
        state, out = step_fn(state, run.put(batch), key)
        if pending is not None:
            watch.check(
                done, pending
            )  # one step behind, so that the device never waits for the host
        done, pending = done + 1, out
        log.step(done)
        if done % cfg.log_every == 0 or done == cfg.steps:
            log.metrics(rates.record(done, out))
        save = done % cfg.checkpoint_every == 0 or done == cfg.steps
        if save or evaluator.is_due(done):
            watch.check(done, out)  # what is saved is known to be good
            pending = None
        if save:
            checkpoints.save(done, state, run.facts())
        if evaluator.is_due(done):
            begin = time.perf_counter()
            if evaluator.run_all(done, state):
                checkpoints.save(done, state, run.facts(), best=True)
            rates.pause(time.perf_counter() - begin)
            if (why := evaluator.out_of_patience()) and done < cfg.steps:
                log.say(f"stopping early at step {done}: {why}")
                checkpoints.save(done, state, run.facts())
                break
    checkpoints.wait()
    log.say(
        f"done: {done} steps in {format_duration(time.perf_counter() - rates.run_start)}, in "
        f"{workdir}"
    )
    return _test(run, done, state, checkpoints, evaluator, log, stop)


def _test(
    run: Run,
    done: int,
    state: TrainState,
    checkpoints: Checkpoints,
    evaluator: Evaluator,
    log: Log,
    stop: StopFlag,
) -> int:
    """Take the tests of the config with the best model, or the last where none is kept."""
    if not run.cfg.test:
        return 0
    checkpoints.wait()
    best = checkpoints.best_step() if run.cfg.evaluate.best else None
    step = done if best is None else best
    if not evaluator.tests_left(step):
        return 0
    params, aux = state.params, state.aux
    if step != done:
        params, aux = checkpoints.restore_best(run.abstract)
    if evaluator.test(step, params, aux):
        return 0
    asked = stop.agreed()
    log.say(f"{signal.Signals(asked).name}: tests cut short; run the same command again")
    return 128 + asked


def _save_and_leave(
    checkpoints: Checkpoints, done: int, state: TrainState, run: Run, log: Log, asked: int
) -> int:
    checkpoints.save(done, state, run.facts())
    checkpoints.wait()
    name = signal.Signals(asked).name
    log.say(f"{name}: saved step {done}; run the same command again to go on")
    return 128 + asked
