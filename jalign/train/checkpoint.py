"""Save and restore a run: state and data cursor together, asynchronously, the last k and the best.

In: a TrainState on any mesh. Out: `workdir/checkpoints/<step>` (the last k) and
`workdir/best/<step>`. The data cursor is the step itself: batches are a pure function of it. Orbax
writes to a temporary name and renames, so that a kill during a save leaves the previous step whole;
the files' hashes are written before the renaming, and compared before anything is read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jalign.data.hashes import find_damage, write_hashes
from jalign.errors import BadData, ConfigError, SaveFailed
from jalign.train.together import tell
from jalign.types import TrainState

# What a checkpoint manager writes lacks a file that Orbax looks for in every folder that it reads.
logging.getLogger("absl").addFilter(lambda r: "_CHECKPOINT_METADATA" not in r.getMessage())


DAMAGED = "damaged"  # folder of a workdir: what is not to be used lies there to be looked at
ADDED_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")  # by Orbax, just before it renames


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: Path, keep: int) -> None:
        """Open, or create, the folders of a workdir."""
        self.workdir, self._keep, self._failed = workdir, keep, False
        self._last = _manager(workdir / "checkpoints", keep)
        self._best = _manager(workdir / "best", 1)

    def latest_step(self) -> int | None:
        """Return the newest complete step, None where there is none."""
        return self._last.latest_step()

    def steps(self) -> list[int]:
        """List the complete steps."""
        return sorted(self._last.all_steps())

    def sound_step(
        self, agrees: Callable[[int, Mapping[str, Any]], bool] = lambda step, meta: True
    ) -> tuple[int | None, list[str]]:
        """Return the newest step whose files are as they were written and whose facts agree, None
        where there is none; and what is to be said of newer ones.

        Once there is such a step, those that are damaged are moved to workdir/damaged, and those
        that do not agree are deleted, and any best model that is newer; process 0 decides for all.
        Steps of before there were hashes serve where no other does.
        Raises: BadData where all that there were are damaged.
        """
        found, notes = None, []
        if jax.process_index() == 0:
            found, notes = _choose(self.workdir, agrees)
            if found != ALL_DAMAGED:
                notes += _remove_newer_best(self.workdir, found)
        found = tell(found)
        for manager in (self._last, self._best):
            manager.reload()
        if found == ALL_DAMAGED:
            what = "\n".join(notes) or "process 0 says which files"
            raise BadData(
                f"no checkpoint in {self.workdir} can be used:\n{what}\nRestore them from a copy, "
                "or begin again from step 0 in another --workdir"
            )
        return found, notes

    def save(
        self, step: int, state: TrainState, meta: Mapping[str, Any], *, best: bool = False
    ) -> None:
        """Start saving; returns once the arrays are copied. A step that is there already is left as
        it is.

        Raises: SaveFailed where this save cannot begin, or the previous one went wrong (an
        asynchronous failure is never silent); the next call tries again.
        """
        manager = self._best if best else self._last
        items = {
            "state": ocp.args.StandardSave(_as_dict(state)),
            "meta": ocp.args.JsonSave(dict(meta)),
        }
        if self._failed:  # its threads may have gone on writing after the folders were opened anew
            self._failed = False
            self._remove_unfinished()
        with self._failures():
            manager.check_for_errors()
            if tell(step in manager.all_steps()):
                return
            manager.save(step, args=ocp.args.Composite(**items), force=True)

    @contextlib.contextmanager
    def _failures(self):
        """Turn what a save raises into SaveFailed, and open the folders anew."""
        try:
            yield
        except Exception as error:  # OSError, ValueError and RuntimeError, as Orbax has it
            if jax.process_count() == 1:
                self._reopen()
            raise SaveFailed(self.workdir, error) from error

    def _remove_unfinished(self) -> None:
        for name in ("checkpoints", "best"):
            remove_unfinished(self.workdir / name)

    def _reopen(self) -> None:
        for manager in (self._last, self._best):
            with contextlib.suppress(Exception):  # it is the failure that has been told
                manager.close()
        self._failed = True
        self._remove_unfinished()
        self._last = _manager(self.workdir / "checkpoints", self._keep)
        self._best = _manager(self.workdir / "best", 1)

    def read_meta(self, step: int) -> dict[str, Any]:
        """Read what was saved beside the state."""
        return self._last.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
            "meta"
        ]

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """Read a state onto the shardings of `abstract`, whatever mesh wrote it.

        Raises: ConfigError where the checkpoint holds other shapes than the config asks for.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_as_dict(abstract)))
        try:
            state = self._last.restore(step, args=args)["state"]
        except ValueError as error:
            raise ConfigError(
                f"checkpoint {step} does not fit this config (encoder, objectives or optimiser "
                f"differ): {str(error)[:400]}\n"
                "Use the run's own config, or another --workdir."
            ) from error
        return TrainState(**state)

    def best_step(self) -> int | None:
        """Return the step of the best model, None where none was kept. All processes ask."""
        return tell(self._best.latest_step())

    def restore_best(self, abstract: TrainState) -> tuple[Any, Any]:
        """Read parameters and auxiliary state of the best model, without the optimiser's."""
        kept = Path(self._best.directory) / str(self.best_step())
        check_hashes(kept)
        folder = kept / "state"
        item = {"params": abstract.params, "aux": abstract.aux}
        how = ocp.checkpoint_utils.construct_restore_args(item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
        with ocp.PyTreeCheckpointer() as reader:
            found = reader.restore(folder, args=args)
        return found["params"], found["aux"]

    def wait(self) -> None:
        """Wait for the save under way. Raises: SaveFailed."""
        with self._failures():
            for manager in (self._last, self._best):
                manager.wait_until_finished()
                manager.check_for_errors()

    def close(self) -> None:
        """Wait and release the background threads. Raises: SaveFailed."""
        self.wait()
        self._last.close()
        self._best.close()


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    def write_hashes_of_unfinished() -> None:  # in the background, with all files written
        if jax.process_index() == 0:
            for path in _unfinished(folder):
                write_hashes(path, leave_out=ADDED_LATER)

    if jax.process_index() == 0:
        remove_unfinished(folder)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        enable_async_checkpointing=True,
        create=True,
        # Two saves may be under way: without names of their own they would meet at one barrier.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=folder.name
        ),
        async_options=ocp.AsyncOptions(post_finalization_callback=write_hashes_of_unfinished),
    )
    return ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "meta"))


def _unfinished(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.orbax-checkpoint-tmp*"))


def remove_unfinished(folder: Path) -> None:
    """Delete what killed or failed saves have left, which nobody else would."""
    for path in _unfinished(folder):
        shutil.rmtree(path, ignore_errors=True)


def _remove_newer_best(workdir: Path, chosen: int | None) -> list[str]:
    """Delete a best model of after the step that a run goes on from, which it will take again.

    Where it begins anew, the model is moved aside: its checkpoints may be gone by mistake.
    """
    notes = []
    for step in complete_steps(workdir / "best"):
        folder = workdir / "best" / str(step)
        if chosen is None:
            notes.append(f"begins anew: the best model of step {step} is in {workdir / DAMAGED}")
            _move_aside(workdir, folder, f"best-{step}")
        elif step > chosen:
            shutil.rmtree(folder)
    return notes


ALL_DAMAGED = -2


def _choose(
    workdir: Path, agrees: Callable[[int, Mapping[str, Any]], bool]
) -> tuple[int | None, list[str]]:
    """Find the step that sound_step returns, ALL_DAMAGED where none can be used."""
    notes, damaged, other, unhashed, chosen = [], [], [], [], None
    for step in reversed(complete_steps(workdir / "checkpoints")):
        folder = workdir / "checkpoints" / str(step)
        damage = find_damage(folder)
        if damage:
            damaged.append(folder)
            notes.append(f"checkpoint {step} is damaged ({'; '.join(damage[:3])}): not used")
        elif not agrees(step, _meta_of(folder)):
            other.append(folder)
            notes.append(f"checkpoint {step} is from before batches were skipped: not used")
        elif damage is None:
            unhashed.append(folder)
        else:
            chosen = step
            notes += [f"checkpoint {p.name} has no hashes.json: not used" for p in unhashed]
            damaged += unhashed
            break
    if chosen is None and unhashed:
        chosen = int(unhashed[0].name)
        notes.append(f"checkpoint {chosen} has no hashes.json: not verified")
    if chosen is None and damaged:  # they stay: the next start must not begin again from step 0
        return ALL_DAMAGED, notes
    for folder in damaged:
        _move_aside(workdir, folder)
    for folder in other:
        shutil.rmtree(folder)
    return chosen, notes


def _meta_of(folder: Path) -> dict[str, Any]:
    """Read what was saved beside the state, without the manager, which needs all processes."""
    try:
        return json.loads((folder / "meta" / "metadata").read_bytes())
    except (OSError, ValueError):
        return {}


def _move_aside(workdir: Path, folder: Path, name: str = "") -> None:
    place = workdir / DAMAGED / (name or folder.name)
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    folder.rename(place)


def check_hashes(folder: Path) -> None:
    """Compare the files of a checkpoint with their hashes, where it has any. Raises: BadData."""
    if damage := find_damage(folder):
        raise BadData(f"{folder} is damaged ({'; '.join(damage[:3])}): use another checkpoint")


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "params": state.params, "opt": state.opt, "aux": state.aux}


def complete_steps(folder: Path) -> list[int]:
    """List the steps of a folder such as `workdir/checkpoints`; half-written ones have other
    names.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(p.name) for p in found if p.name.isdigit() and (p / "state").is_dir())


def write_params(workdir: Path, params: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write parameters alone as the checkpoint of step 0."""
    checkpoints = Checkpoints(workdir, keep=1)
    try:
        checkpoints.save(0, TrainState(np.int32(0), params, {}, {}), meta)
    finally:
        checkpoints.close()


def read_params(folder: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Read the parameters of `workdir/checkpoints/STEP` that `expected` (a tree of shapes) names,
    as NumPy arrays: neither heads nor optimiser state.

    Raises: BadData where one is missing or has another shape.
    """
    folder = folder.absolute()  # orbax finds nothing under a relative path
    check_hashes(folder)
    with ocp.PyTreeCheckpointer() as reader:
        stored = reader.metadata(folder / "state").item_metadata.tree["params"]
        _check_shapes(folder, stored, expected)
        item = {"params": expected}
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
        return reader.restore(folder / "state", args=args)["params"]


def stored_shapes(folder: Path) -> dict[str, Any]:
    """Return the shapes of all parameters of `workdir/checkpoints/STEP`, as a tree."""
    with ocp.PyTreeCheckpointer() as reader:
        stored = reader.metadata(folder.absolute() / "state").item_metadata.tree["params"]
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        stored,
        is_leaf=lambda x: hasattr(x, "shape"),
    )


def _check_shapes(folder: Path, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    def shapes(tree) -> dict[str, tuple]:
        leaves, _ = jax.tree.flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
        return {jax.tree_util.keystr(k, simple=True, separator="/"): v.shape for k, v in leaves}

    there = shapes(stored)
    for name, shape in shapes(expected).items():
        if there.get(name) != shape:
            got = there.get(name, "missing")
            raise BadData(
                f"{folder}: {name} is {got}, and model.json asks for {shape}: they are not of the "
                "same model; copy the whole folder again"
            )


def check_same_run(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare a checkpoint's facts with this run's: what must be equal, and what merely changed.

    Returns: names of changed entries that may change (steps, mesh, learning rate, logging).
    Raises: ConfigError where data, tokenizer, seed, streams, objectives or encoder differ: the run
    would not be a continuation.
    """
    hints = {
        "tokenizer_sha256": "the tokenizer is not the one of this run; "
        "prepare the data with the run's tokenizer",
        "manifest_sha256": "the data is not what this run was trained on",
    }
    for name, hint in hints.items():
        if saved[name] != now[name]:
            raise ConfigError(
                f"{name} was {saved[name][:12]} and is {now[name][:12]}: {hint}, or use another "
                "--workdir"
            )
    for stream, sha256 in saved.get("labelled_sha256", {}).items():
        if now["labelled_sha256"].get(stream, sha256) != sha256:
            raise ConfigError(
                f"the files of config.streams.{stream}.task are not what this run was trained on: "
                "put them back, or use another --workdir"
            )
    before, after = json.loads(json.dumps(saved["config"])), json.loads(json.dumps(now["config"]))
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    fixed = [k for k in ("seed", "streams", "objectives", "encoder") if k in changed]
    if fixed:
        details = "; ".join(
            f"config.{k} was {before.get(k)!r} and is {after.get(k)!r}" for k in fixed
        )
        raise ConfigError(
            f"this workdir holds another run: {details}. Set it back, or use another --workdir."
        )
    return changed
