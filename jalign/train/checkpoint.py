"""Save and restore a run: state and data cursor together, asynchronously, the last k and the best.

In: a TrainState on any mesh. Out: `workdir/checkpoints/<step>` (the last k) and
`workdir/best/<step>`. The data cursor is the step itself: batches are a pure function of it. Orbax
writes to a temporary name and renames, so that a kill during a save leaves the previous step whole.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jalign.errors import BadData, ConfigError
from jalign.types import TrainState

# What a checkpoint manager writes lacks a file that Orbax looks for in every folder that it reads.
logging.getLogger("absl").addFilter(lambda r: "_CHECKPOINT_METADATA" not in r.getMessage())


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: Path, keep: int) -> None:
        """Open, or create, the folders of a workdir."""
        self._last = _manager(workdir / "checkpoints", keep)
        self._best = _manager(workdir / "best", 1)

    def latest_step(self) -> int | None:
        """Return the newest complete step, None where there is none."""
        return self._last.latest_step()

    def save(
        self, step: int, state: TrainState, meta: Mapping[str, Any], *, best: bool = False
    ) -> None:
        """Start saving; returns once the arrays are copied. A step that is there already is left as
        it is.

        Raises: whatever went wrong in the previous save: an asynchronous failure is never silent.
        """
        manager = self._best if best else self._last
        manager.check_for_errors()
        if step in manager.all_steps():
            return
        items = {
            "state": ocp.args.StandardSave(_as_dict(state)),
            "meta": ocp.args.JsonSave(dict(meta)),
        }
        manager.save(step, args=ocp.args.Composite(**items), force=True)

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
        """Return the step of the best model, None where none was kept."""
        return self._best.latest_step()

    def restore_best(self, abstract: TrainState) -> tuple[Any, Any]:
        """Read parameters and auxiliary state of the best model, without the optimiser's."""
        folder = self._best.directory / str(self.best_step()) / "state"
        item = {"params": abstract.params, "aux": abstract.aux}
        how = ocp.checkpoint_utils.construct_restore_args(item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
        with ocp.PyTreeCheckpointer() as reader:
            found = reader.restore(folder, args=args)
        return found["params"], found["aux"]

    def wait(self) -> None:
        """Wait for the save under way, and raise what went wrong in it."""
        for manager in (self._last, self._best):
            manager.wait_until_finished()
            manager.check_for_errors()

    def close(self) -> None:
        """Wait and release the background threads."""
        self.wait()
        self._last.close()
        self._best.close()


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=True, create=True
    )
    return ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "meta"))


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
