"""Start a run from pretrained weights (`config.init`), and describe the run's model in its workdir.

In: a Hugging Face folder, an imported model, or a workdir. Out: the encoder's entries, which come
from there but for those that are the run's choice, and its parameters on the run's shardings. A run
that has a checkpoint needs the folder no longer: its workdir's model.json says the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jalign import plugin
from jalign.data.records import Manifest
from jalign.errors import ConfigError
from jalign.hf.folder import copy_tokenizer_files
from jalign.train.checkpoint import complete_steps
from jalign.train.model_file import MODEL_FILE, read_model_file, write_model_file
from jalign.train.pretrained import Pretrained, read_pretrained, read_shape


@dataclasses.dataclass
class Start:
    """What a run starts from.

    `entries`: the whole encoder section. `described`: what goes into model.json of where the
    weights came from. `tokenizer_folder`: where the files of its tokenizer lie. `notes`: lines for
    the log. The weights are held until they are placed, and read again if they are asked for again.
    """

    init: str
    entries: dict[str, Any]
    described: dict[str, Any]
    tokenizer_folder: Path
    notes: list[str] = dataclasses.field(default_factory=list)
    held: Pretrained | None = None

    def take(self) -> dict[str, np.ndarray]:
        """Return the encoder's parameters by path, and let go of them."""
        found, self.held = self.held or read_pretrained(self.init), None
        flat = flatten_dict(found.params, sep="/")
        return {f"encoder/{name}": value for name, value in flat.items()}

    def sample_sha256(self) -> str:
        """Hash a thousand values of each parameter; "" where a checkpoint has them."""
        if self.held is None:
            return ""
        said = hashlib.sha256()
        for name, value in sorted(flatten_dict(self.held.params, sep="/").items()):
            values = np.asarray(value)
            said.update(name.encode() + values.flat[:: values.size // 1000 + 1].tobytes())
        return said.hexdigest()


def read_start(init: str, entries: Mapping[str, Any], workdir: Path | None) -> Start:
    """Find what `init` and the config's encoder section decide together.

    Raises: ConfigError where they contradict each other.
    """
    if workdir is not None and complete_steps(workdir / "checkpoints"):
        return _read_again(init, entries, workdir)
    found = read_pretrained(init)
    family = plugin.load("encoders", found.family)
    merged, left_out = _merge(found.cfg, entries, found.family, family.RUN_ENTRIES, init)
    described = {"model_type": found.model_type}
    if "hf_config" in found.details:  # entries that export hands on
        described["hf_config"] = found.details["hf_config"]
    where = f", step {found.step}" if found.step >= 0 else ""
    notes = [f"starts from {init} ({found.model_type}{where})", *left_out]
    return Start(init, merged, described, found.tokenizer_folder, notes, found)


def _read_again(init: str, entries: Mapping[str, Any], workdir: Path) -> Start:
    """Read the shape from the workdir: the weights are in its checkpoint."""
    name, found = read_shape(workdir)
    family = plugin.load("encoders", name)
    merged, _ = _merge(found, entries, name, family.RUN_ENTRIES, f"{workdir}/{MODEL_FILE}")
    described = {"model_type": read_model_file(workdir)["model_type"]}
    return Start(init, merged, described, workdir / "tokenizer")


def _merge(
    found: Any, entries: Mapping[str, Any], family: str, choices: tuple[str, ...], where: str
) -> tuple[dict[str, Any], list[str]]:
    """Return the checkpoint's entries with the run's choices, and what is said about the others."""
    theirs = {"family": family, **dataclasses.asdict(found)}
    merged = theirs | ({"head": True} if "head" in theirs else {})
    notes = []
    if theirs.get("pooler") and not entries.get("pooler"):
        merged["pooler"] = False
        notes.append(
            "the pooler is left out: weight decay would wear it down, as no loss trains it "
            "(config.encoder.pooler=True keeps it)"
        )
    if merged.get("head") and entries.get("head") is False:
        merged["head"] = False  # a run without masked words has no use for it
        notes.append("the masked-LM head is left out, as config.encoder.head=False says")
    for name, ours in entries.items():
        if name in choices or name not in theirs:  # config.build refuses a name that is no entry
            merged[name] = ours
        elif ours != merged[name] and (name, ours) != ("vocab_size", 0):
            raise ConfigError(
                f"config.encoder.{name}={ours!r}, and {where} has {merged[name]!r}: with "
                f"config.init the shape is the checkpoint's. Remove config.encoder.{name}; a run "
                f"chooses {', '.join(choices)}"
            )
    return merged, notes


def say_what_is_fresh(start: Start, shapes: Any) -> None:
    """Note which of the run's encoder parameters the checkpoint lacks: its masked-LM head."""
    if start.held is None:
        return
    there = flatten_dict(start.held.params, sep="/")
    fresh = [name for name in flatten_dict(shapes["encoder"], sep="/") if name not in there]
    if fresh:
        start.notes.append(f"it has no masked-LM head; drawn afresh: {', '.join(fresh)}")


def place(start: Start, shardings: Any, draw: Callable[[], Any]) -> Any:
    """Put the pretrained parameters on the run's shardings, one by one; draw those it lacks.

    `shardings` is a tree like the run's parameters, `draw` a pure function that returns them all,
    of which only what is needed is computed.
    """
    sharding_of = flatten_dict(shardings, sep="/")
    given, placed = start.take(), {}
    for name in list(given):
        value = given.pop(name)  # let go of as soon as it is placed
        if name in sharding_of:
            placed[name] = _put(value, sharding_of[name])
    rest = {name: s for name, s in sharding_of.items() if name not in placed}

    def draw_rest():
        drawn = flatten_dict(draw(), sep="/")
        return {name: drawn[name] for name in rest}

    if rest:
        placed |= jax.jit(draw_rest, out_shardings=rest)()
    return unflatten_dict(placed, sep="/")


def _put(value: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """Send each device its part, as a copy.

    The train step overwrites its state, and a CPU device may share its memory with NumPy.
    """
    return jax.make_array_from_callback(
        value.shape, sharding, lambda index: np.array(value[index], np.float32)
    )


def write_description(workdir: Path, tokenizer: Path, described: Mapping[str, Any]) -> None:
    """Write tokenizer/ and model.json into a workdir: what export and inference need besides a
    checkpoint.

    `tokenizer`: a folder with its files, perhaps among those of a model. The tokenizer first: where
    there is a model.json, all of it is there.
    """
    folder, partial = workdir / "tokenizer", workdir / "tokenizer.partial"
    if tokenizer.resolve() != folder.resolve():  # a resumed run may have it from here
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir()
        copy_tokenizer_files(tokenizer, partial)
        partial.rename(folder)
    write_model_file(workdir, described)


def describe(
    manifest: Manifest,
    family: str,
    encoder_cfg: Any,
    objectives: Mapping,
    heads: Mapping,
    labelled: Sequence[Mapping],
    start: Start | None,
) -> dict[str, Any]:
    """Return the content of a run's model.json; `heads` says what the numbers of each head mean,
    `labelled` which labelled files there were.
    """
    default = plugin.load("encoders", family).default_model_type(encoder_cfg)
    sources = [
        {"name": s.name, "stream": s.stream, "langs": s.langs, "count": s.splits["train"].count}
        for s in manifest.sources
        if "train" in s.splits
    ]
    return {
        "family": family,
        "model_type": default,
        "encoder": dataclasses.asdict(encoder_cfg),
        "tokenizer_sha256": manifest.tokenizer_sha256,
        "languages": sorted({*manifest.languages, *(x for s in labelled for x in s["langs"])}),
        "objectives": objectives,
        "heads": heads,
        "data": {"manifest_sha256": manifest.sha256, "sources": [*sources, *labelled]},
        "init": Path(start.init).expanduser().resolve().name if start else "",
        **(start.described if start else {}),
    }
