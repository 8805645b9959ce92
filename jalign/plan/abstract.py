"""Build the train step of a run in shapes alone: no data, no weights, no devices of this machine.

In: a `RunConfig` and the devices of a topology. Out: the same jitted step that `jalign pretrain`
runs, with the shapes and shardings of its arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from jalign.data.records import Manifest, read_manifest
from jalign.data.rows import FIELDS, LINK_FIELDS
from jalign.data.tasks.rows import LABEL_FIELDS
from jalign.data.tokenizer import load_tokenizer
from jalign.errors import ConfigError
from jalign.plan.shapes import encoder_entries
from jalign.train import mesh as mesh_lib
from jalign.train.parts import make_encoder, make_objectives
from jalign.train.run import make_state, make_step
from jalign.train.run_config import RunConfig
from jalign.train.step import check_objectives
from jalign.types import Objective, TrainState

# A run whose steps are counted in epochs of data that are not here: the schedule's shape does not
# change the program.
SOME_STEPS = 1000


class Vocabulary(NamedTuple):
    """What a step depends on of a tokenizer; ids that XLM-R has, where no tokenizer is here."""

    mask_id: int
    special_ids: tuple[int, ...]
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class AbstractRun:
    """A step and the shapes of its arguments, to lower and compile.

    `steps`: of the whole run, None where its data say how many. `notes`: what was assumed because
    it is not here, and what the mesh does not divide.
    """

    cfg: RunConfig
    mesh: Mesh
    encoder_cfg: Any
    objectives: Mapping[str, Objective]
    step: Callable
    state: TrainState
    batches: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]
    key: jax.ShapeDtypeStruct
    steps: int | None = None
    notes: Sequence[str] = ()

    def lower(self) -> jax.stages.Lowered:
        """Trace the step and lower it for the mesh's devices."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(mesh_lib.RULES):
            return self.step.lower(self.state, self.batches, self.key)


def make_abstract_run(
    cfg: RunConfig, devices: Sequence[jax.Device], *, shape: str = "", platform: str = ""
) -> AbstractRun:
    """Build the run on `devices` of `platform` (tpu, gpu; "" for this machine's own).

    Raises: ConfigError as `make_run` does, for what does not need the data.
    """
    entries = encoder_entries(cfg.encoder, cfg.init, shape)
    if platform and entries.get("attention", "auto") == "auto":
        entries["attention"] = f"auto:{platform}"
    steps = cfg.steps or None
    cfg = dataclasses.replace(cfg, encoder=entries, steps=steps or SOME_STEPS)
    manifest, vocabulary, notes = _words_of(cfg)
    if steps is None:
        notes.append(no_hours(cfg.epochs))
    mesh = mesh_lib.make_mesh(cfg.mesh, devices)
    encoder, encoder_cfg = make_encoder(cfg, manifest, vocabulary, mesh)
    objectives, weights = make_objectives(cfg, encoder)
    fields = {name: _fields(stream) for name, stream in cfg.streams.items()}
    check_objectives(objectives, {n: set(found) for n, found in fields.items()}, cfg.accumulate)
    optimizer, state, _, undivided = make_state(
        cfg, mesh, encoder, objectives, None, None, vocabulary.sha256
    )
    sharding, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    batches = {
        name: {
            field: jax.ShapeDtypeStruct((cfg.streams[name].rows, *size), dtype, sharding=sharding)
            for field, (size, dtype) in found.items()
        }
        for name, found in fields.items()
    }
    for name, stream in cfg.streams.items():
        mesh_lib.check_rows(mesh, name, stream.rows, cfg.accumulate)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
    step = make_step(cfg, objectives, weights, optimizer, state, mesh)
    notes = (*notes, *undivided)
    return AbstractRun(cfg, mesh, encoder_cfg, objectives, step, state, batches, key, steps, notes)


def no_hours(epochs: float) -> str:
    """Say why a run that is given in epochs has no hours."""
    return (
        f"the data say how many steps config.epochs={epochs:g} are, and plan does not read them: "
        "no hours; give --config.steps=N to have them"
    )


def _words_of(cfg: RunConfig) -> tuple[Manifest, Vocabulary, list[str]]:
    """Return the languages and the tokenizer of the prepared data, or what stands for them."""
    if cfg.data and Path(cfg.data).exists():
        manifest, tokenizer = read_manifest(cfg.data), load_tokenizer(Path(cfg.data) / "tokenizer")
        specials = tuple(tokenizer.special_ids)
        return manifest, Vocabulary(tokenizer.mask_id, specials, manifest.tokenizer_sha256), []
    size = cfg.encoder.get("vocab_size")
    notes = [f"{cfg.data or 'config.data'} is not here: two languages assumed"]
    if not size:
        size = 256_000 if cfg.encoder.get("family") == "modernbert" else 250_002
        notes.append(f"config.encoder.vocab_size is that of the data: {size:,} assumed")
    manifest = Manifest(Path(cfg.data), "", ("en", "fr"), "", size, ())
    return manifest, Vocabulary(size - 1, (0, 1, 2, 3, size - 1)), notes


def _fields(stream: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the fields of a stream's batches, each with the shape of a row and its dtype."""
    length = stream.row_length
    fields = {name: ((length,), np.int32) for name in FIELDS} | {"row": ((), np.int32)}
    if stream.task.format:
        labels = LABEL_FIELDS[stream.task.kind]
        return fields | {name: ((length,), np.int32) for name in labels}
    if stream.lexicons or stream.links or stream.thesaurus.files:
        links, weight = LINK_FIELDS
        return fields | {links: ((length, 2), np.int32), weight: ((length,), np.float32)}
    return fields


def with_changes(cfg: RunConfig, **changes: Any) -> RunConfig:
    """Return the run with another `fsdp`, `tensor`, `dcn`, `remat`, or `rows` (a factor of all).

    Raises: ConfigError for a batch that is no longer whole.
    """
    mesh = {name: changes[name] for name in ("dcn", "fsdp", "tensor") if name in changes}
    if mesh:
        mesh_cfg = dataclasses.replace(cfg.mesh, data=-1, **mesh)
        cfg = dataclasses.replace(cfg, mesh=mesh_cfg)
    if "remat" in changes:
        cfg = dataclasses.replace(cfg, encoder={**cfg.encoder, "remat": changes["remat"]})
    if "rows" in changes:
        streams = {}
        for name, stream in cfg.streams.items():
            rows = stream.rows * changes["rows"]
            if rows != int(rows) or rows < 1:
                raise ConfigError(
                    f"config.streams.{name}.rows={stream.rows} times {changes['rows']}"
                )
            streams[name] = dataclasses.replace(stream, rows=int(rows))
        cfg = dataclasses.replace(cfg, streams=streams)
    return cfg
