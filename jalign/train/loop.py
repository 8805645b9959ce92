"""Train: the loop, read top to bottom.

In: a checked `Run` and a workdir. Out: checkpoints, model.json and the tokenizer, metrics.jsonl,
results.jsonl, TensorBoard files, and an exit code: 0 done, 143 saved after SIGTERM, 130 after
Ctrl-C; `Diverged` carries 4, `SaveFailed` 42. Resumes by itself from the newest sound checkpoint.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import flax.linen as nn
import jax

from jalign.data.pipeline import Range, load_batches
from jalign.nn.attention import choose_attention
from jalign.train import mesh as mesh_lib
from jalign.train.checkpoint import Checkpoints
from jalign.train.evaluator import Evaluator
from jalign.train.goodput import Ledger
from jalign.train.hang import HangWatch
from jalign.train.job import Found, Job, find, roll_back, take
from jalign.train.log import Log, format_duration, say
from jalign.train.model_file import MODEL_FILE
from jalign.train.rates import Rates
from jalign.train.run import Run
from jalign.train.skipped import Skipped
from jalign.train.start import write_description
from jalign.train.stop import StopFlag
from jalign.train.watch import Spike, Watch
from jalign.types import TrainState

AGREE_EVERY = 10  # steps between asking the other processes whether to stop: it waits for them


def train(
    run: Run, workdir: Path, *, skip_batches: Sequence[Range] = (), began: float | None = None
) -> int:
    """Train to the end, to SIGTERM or to divergence; return the exit code.

    `skip_batches`: batches to leave out from now on. `began`: when the process began with this run.
    Raises: Diverged (exit code 4); SaveFailed (42); ConfigError where the workdir holds another
    run.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    first = jax.process_index() == 0
    ledger = Ledger(workdir, began, writes=first)
    checkpoints = Checkpoints(workdir, run.cfg.keep)
    rules = nn.logical_axis_rules(mesh_lib.RULES)
    hang = HangWatch(run.cfg.hang_s, say)
    with jax.set_mesh(run.mesh), rules, StopFlag() as stop, hang:
        skipped, watch = Skipped(workdir, skip_batches), Watch(run, workdir)
        found = find(run, checkpoints, skipped)
        state, start = take(run, checkpoints, watch, found), found.step
        if first:
            (workdir / "config.json").write_text(json.dumps(run.facts()["config"], indent=1))
        if first and (start == 0 or not (workdir / MODEL_FILE).exists()):
            write_description(workdir, run.tokenizer_folder, run.description)
        ledger.resume(found.meta.get("seconds"))
        log = Log(workdir, run.cfg.steps, start=start, writes=first)
        job = Job(run, workdir, checkpoints, log, stop, skipped, ledger, hang, watch)
        try:
            _introduce(run, log, start, found)
            code = _train_on(job, state, start)
            if code == 0 and ledger.worked:
                log.results(ledger.step, ledger.results())
            return code
        finally:
            try:
                hang.beat("end")
                checkpoints.close()
            finally:
                log.close()


def _train_on(job: Job, state: TrainState, start: int) -> int:
    """Run the loop; after a spike, go back and leave out its batches, as often as the config
    allows.
    """
    while True:
        try:
            code = _loop(job, state, start)
        except Spike as spike:
            allowed = job.run.cfg.divergence.rollbacks
            if job.skipped.num_rollbacks >= allowed:
                job.ledger.end()
                if allowed:
                    spike.args = (f"{spike.args[0]} {allowed} rollbacks did not help.",)
                raise
            state, start = roll_back(job, spike)
        else:
            job.ledger.end()
            return code


def _introduce(run: Run, log: Log, start: int, found: Found) -> None:
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
            + (f"; changed since: {', '.join(found.changed)}" if found.changed else "")
        )
    for note in found.notes:
        log.say(note)


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


def _loop(job: Job, state: TrainState, start: int) -> int:
    run, cfg, log, ledger = job.run, job.run.cfg, job.log, job.ledger
    if job.evaluator is None:
        job.evaluator = Evaluator(
            run, job.workdir, log, job.stop, job.hang.beat, job.checkpoints.best_step
        )
    evaluator = job.evaluator
    with ledger.during("evaluate"):
        best = evaluator.catch_up(start, state)
    if best:
        job.save(start, state, best=True)
    if start >= cfg.steps or evaluator.out_of_patience():
        why = evaluator.out_of_patience() or "nothing to do (raise config.steps to go on)"
        log.say(f"finished at step {start}: {why}")
        return _test(job, start, state)
    if job.compiled is None:
        job.hang.beat("compilation")
        with ledger.during("compile"):
            job.compiled = _compile(run, state, log)
        log.say((rates := Rates(run, ledger)).definition)
    else:
        rates = Rates(run, ledger)
    done, state = _steps(job, state, start, rates)
    if done < 0:
        return 128 - done
    job.save_and_wait(done, state)
    log.say(
        f"done: {done} steps in {format_duration(time.perf_counter() - rates.run_start)}, in "
        f"{job.workdir}"
    )
    return _test(job, done, state)


def _steps(job: Job, state: TrainState, start: int, rates: Rates) -> tuple[int, TrainState]:
    """Take the steps; return the last one, or minus the signal that asked to stop."""
    run, cfg, log, ledger = job.run, job.run.cfg, job.log, job.ledger
    evaluator, watch = job.evaluator, job.watch
    batches = load_batches(run.source, start)
    key = jax.random.key(cfg.seed)
    done, pending, evaluated = start, None, False
    ledger.enter("productive")
    while done < cfg.steps:
        agree_now = jax.process_count() == 1 or done % AGREE_EVERY == 0 or evaluated
        if agree_now and (asked := job.stop.agreed()):
            if pending is not None:
                watch.check(done, pending)
            return _save_and_leave(job, done, state, asked), state
        job.hang.beat(f"step {done + 1}")
        batch = rates.next(batches)
        state, out = job.compiled(state, run.put(batch), key)
        if pending is not None:
            watch.check(
                done, pending
            )  # one step behind, so that the device never waits for the host
        done, pending = done + 1, out
        log.step(done)
        ledger.step = done
        ledger.write_alive()
        if done % cfg.log_every == 0 or done == cfg.steps:
            log.metrics(rates.record(done, out))
        save = done % cfg.checkpoint_every == 0 or done == cfg.steps
        evaluated = evaluator.is_due(done)
        if save or evaluated:
            watch.check(done, out)  # what is saved is known to be good
            pending = None
        if save:
            job.save(done, state)
        if evaluated:
            begin = time.perf_counter()
            with ledger.during("evaluate"):
                best = evaluator.run_all(done, state)
            if best:
                job.save(done, state, best=True)
            rates.pause(time.perf_counter() - begin)
            if (why := evaluator.out_of_patience()) and done < cfg.steps:
                log.say(f"stopping early at step {done}: {why}")
                break
    ledger.enter("start")  # what follows is neither a step nor lost
    return done, state


def _test(job: Job, done: int, state: TrainState) -> int:
    """Take the tests of the config with the best model, or the last where none is kept."""
    run, checkpoints, evaluator = job.run, job.checkpoints, job.evaluator
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
    with job.ledger.during("evaluate"):
        taken = evaluator.test(step, params, aux)
    if taken:
        return 0
    asked = job.stop.agreed()
    job.log.say(f"{signal.Signals(asked).name}: tests cut short; run the same command again")
    return 128 + asked


def _save_and_leave(job: Job, done: int, state: TrainState, asked: int) -> int:
    """Save for good; return minus the signal's number."""
    job.save_and_wait(done, state)
    name = signal.Signals(asked).name
    job.log.say(f"{name}: saved step {done}; run the same command again to go on")
    return -asked
