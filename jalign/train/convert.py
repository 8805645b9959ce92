"""Convert between the Hugging Face format and checkpoints; every conversion proves itself.

`import_folder`: a Hugging Face folder becomes a model folder (model.json, tokenizer/,
checkpoints/0), which `pretrain` continues and `load` opens. `export_folder`: the way back, from a
workdir too. Both write beside the target and rename, so that a target is whole or not there.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jalign.errors import BadData, ConfigError
from jalign.hf import compare
from jalign.hf.card import write_card
from jalign.hf.folder import copy_tokenizer_files, read_folder, write_folder
from jalign.hf.heads import PIPELINES
from jalign.train.beside import beside
from jalign.train.checkpoint import write_params
from jalign.train.convert_head import choose_head, prove_head
from jalign.train.model_file import write_model_file
from jalign.train.pretrained import Pretrained, read_pretrained

Say = Callable[[str], None]


def import_folder(
    source: Path,
    target: Path,
    say: Say,
    *,
    tolerance: float = compare.TOLERANCE,
    unverified: bool = False,
    overwrite: bool = False,
) -> None:
    """Read a Hugging Face folder and write it as a model folder of jalign.

    Its outputs are compared with PyTorch's, or with the fingerprint that the folder carries.
    Raises: ConfigError or BadData; nothing is written then.
    """
    with beside(source, target, overwrite) as partial:
        hf = read_folder(source)
        say(f"{hf.model_type}: {_size(hf.params)} of {source}")
        if hf.left_out:
            shown = ", ".join(hf.left_out[:5]) + ", ..." * (len(hf.left_out) > 5)
            say(f"left out, the encoder has no use for them: {len(hf.left_out)} tensors ({shown})")
        ids = compare.sentence_ids(hf.tokenizer, hf.cfg.positions)
        reference = _reference(source, hf.cfg, ids)
        if reference is None and not unverified:
            raise ConfigError(
                "PyTorch is not installed and the folder carries no fingerprint, so there is "
                "nothing to compare the imported model with: pip install torch, or type "
                "--unverified"
            )
        verdict = "not compared with anything"
        if reference is not None:
            ids, theirs, against = reference
            ours = compare.our_outputs(hf.family, hf.cfg, hf.params, ids)
            difference = compare.compare(ours, theirs, against)
            compare.check(difference, tolerance)
            verdict = str(difference)
        say(verdict)
        partial.mkdir(parents=True)
        copy_tokenizer_files(source, _made(partial / "tokenizer"))
        described = {
            "family": hf.family,
            "model_type": hf.model_type,
            "encoder": dataclasses.asdict(hf.cfg),
            "tokenizer_sha256": hf.tokenizer.sha256,
            "hf_config": hf.config,
            "left_out": list(hf.left_out),
            "init": source.name,
            "verified": verdict,
        }
        write_model_file(partial, described)
        write_params(partial, {"encoder": hf.params}, {"imported": source.name})
        outputs = compare.our_outputs(hf.family, hf.cfg, hf.params, ids)
        compare.write_fingerprint(partial, ids, outputs)


def _reference(folder: Path, cfg: Any, ids):
    """Return (ids, outputs, name) of PyTorch, else of the folder's fingerprint, else None."""
    if compare.has_torch():
        theirs = compare.torch_outputs(
            folder, head=cfg.head, pooler=getattr(cfg, "pooler", False), ids=ids
        )
        return ids, theirs, "PyTorch"
    stored = compare.read_fingerprint(folder)
    return None if stored is None else (*stored, "the stored fingerprint")


def export_folder(
    source: Path,
    target: Path,
    say: Say,
    *,
    step: int | str | None = None,
    dtype: str = "float32",
    license_id: str = "other",
    name: str = "",
    tolerance: float = compare.TOLERANCE,
    max_shard_bytes: int = 5 << 30,
    overwrite: bool = False,
    head: str | None = None,
) -> None:
    """Write a workdir's or an imported model's encoder as a Hugging Face folder, with model card.

    `head`: which head of a fine-tuned model goes with it, "" for none; None is the only one there
    is, where transformers has that form. The written folder is read again: its parameters must be
    those of the checkpoint bit for bit (rounded to `dtype`), and its outputs are compared with
    PyTorch's, else with ours and with the fingerprint of the import. Raises: ConfigError or
    BadData; nothing is written then.
    """
    with beside(source, target, overwrite) as partial:
        model = read_pretrained(source, step=step)
        where = f"step {model.step}" if model.step >= 0 else "a Hugging Face folder"
        say(f"{model.model_type}: {_size(model.params)} of {source} ({where})")
        task_head = choose_head(model, head, say)
        write_folder(
            partial,
            model.family,
            model.model_type,
            model.cfg,
            model.params,
            model.tokenizer_folder,
            dtype=dtype,
            config=model.details.get("hf_config"),
            max_shard_bytes=max_shard_bytes,
            head=task_head,
        )
        written = read_folder(partial)
        # BERT's pooler is the dense layer of its classifiers: no part of the encoder here
        _check_equal({name: written.params[name] for name in model.params}, model.params, dtype)
        difference = _prove(model, written, partial, tolerance)
        say(str(difference))
        if task_head:
            prove_head(task_head, written, partial, dtype, tolerance, say)
        ids = compare.sentence_ids(written.tokenizer, written.cfg.positions)
        outputs = compare.our_outputs(written.family, written.cfg, written.params, ids)
        compare.write_fingerprint(partial, ids, outputs)
        described = {"encoder": dataclasses.asdict(model.cfg), **model.details}
        if task_head:
            described |= {"auto": task_head.auto, "pipeline": PIPELINES[task_head.kind]}
        write_card(
            partial,
            described | {"model_type": model.model_type},
            _results(model),
            name=name or target.name,
            license_id=license_id,
            step=max(model.step, 0),
            num_params=_count(model.params),
            difference=str(difference),
        )


def _prove(model: Pretrained, written, folder: Path, tolerance: float) -> compare.Difference:
    ids = compare.sentence_ids(written.tokenizer, written.cfg.positions)
    stored = compare.read_fingerprint(model.path) if model.step == 0 else None
    if stored is not None:  # imported and exported again: PyTorch's numbers of then
        ours = compare.our_outputs(model.family, model.cfg, model.params, stored[0])
        difference = compare.compare(ours, stored[1], "the fingerprint of the import")
        compare.check(difference, tolerance)
    ours = compare.our_outputs(written.family, written.cfg, written.params, ids)
    if compare.has_torch():
        theirs = compare.torch_outputs(
            folder, head=written.cfg.head, pooler=getattr(written.cfg, "pooler", False), ids=ids
        )
        difference = compare.compare(ours, theirs, "PyTorch")
        compare.check(difference, tolerance)
    elif stored is None:
        theirs = compare.our_outputs(model.family, model.cfg, model.params, ids)
        difference = compare.compare(ours, theirs, "the checkpoint in jalign (no PyTorch here)")
        compare.check(difference, tolerance)
    return difference


def _check_equal(written: Mapping, ours: Mapping, dtype: str) -> None:
    import ml_dtypes

    kind = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}.get(dtype, np.float32)
    pairs = zip(jax.tree.leaves(written), jax.tree.leaves(ours), strict=True)
    if not all(np.array_equal(w, o.astype(kind).astype(np.float32)) for w, o in pairs):
        raise BadData(
            "reading the written folder again gives other parameters: is the disk full or broken?"
        )


def _results(model: Pretrained) -> list[dict[str, Any]]:
    """Return the lines of results.jsonl that were measured at the exported step; where a test gave
    the same score of the same name, the test's.
    """
    file = model.path / "results.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = [r for r in map(json.loads, lines) if r.get("step") == model.step]
    found = [r for r in found if r["task"] != "goodput"]
    found.sort(key=lambda r: "test" in r)
    return list({(r["task"], r["lang"], r["metric"]): r for r in found}.values())


def _count(params: Mapping) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def _size(params: Mapping) -> str:
    return f"{_count(params) / 1e6:.1f} M parameters"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
