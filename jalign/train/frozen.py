"""Read the frozen copies that objectives ask for by name: encoders of other models.

In: a model folder or workdir, and the run's encoder. Out: its parameters where the run's own lie.
Needed at a run's first start only: from then on they are in its checkpoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from jalign import plugin
from jalign.errors import ConfigError
from jalign.train.pretrained import Pretrained, read_pretrained
from jalign.train.start import Start, place
from jalign.types import Objective, Params

NOT_SHAPE = ("head", "pooler", "tied")  # what lies above the hidden states


def read_frozen(
    objectives: Mapping[str, Objective],
    encoder_cfg: Any,
    family: str,
    tokenizer_sha256: str,
    shardings: Any,
) -> dict[str, Params]:
    """Return {objective: {"encoder": parameters}} of those that name a frozen model.

    `shardings` is a tree like the run's encoder.
    Raises: ConfigError where such a model is another than the run's: shape, family or tokenizer.
    """
    frozen, read = {}, {}
    for name, objective in objectives.items():
        if objective.frozen:
            path = objective.frozen
            if path not in read:
                with nn.logical_axis_rules(()):  # the run's are for arrays, and these are shapes
                    found = read_pretrained(path)
                where = f"config.objectives.{name}.frozen={path!r}"
                _check(where, found, encoder_cfg, family, tokenizer_sha256, shardings)
                read[path] = _place(found, shardings)
            frozen[name] = read[path]
    return frozen


def _check(
    where: str,
    found: Pretrained,
    encoder_cfg: Any,
    family: str,
    tokenizer_sha256: str,
    shardings: Any,
) -> None:
    if found.family != family:
        raise ConfigError(f"{where} is a {found.family}, and this run trains a {family}")
    free = (*plugin.load("encoders", family).RUN_ENTRIES, *NOT_SHAPE)
    mine, theirs = dataclasses.asdict(encoder_cfg), dataclasses.asdict(found.cfg)
    differ = [n for n in mine if n not in free and mine[n] != theirs[n]]
    if differ:
        said = ", ".join(f"{n}={theirs[n]!r} (this run: {mine[n]!r})" for n in differ)
        raise ConfigError(f"{where} has {said}: name a model of the same shape")
    if found.tokenizer.sha256 != tokenizer_sha256:
        raise ConfigError(
            f"{where} has tokenizer {found.tokenizer.sha256[:12]}, and this run "
            f"{tokenizer_sha256[:12]}: the ids mean other words"
        )
    there = flatten_dict(found.params, sep="/")
    lacking = [n for n in flatten_dict(shardings, sep="/") if n not in there]
    if lacking:
        raise ConfigError(
            f"{where} lacks {', '.join(lacking)}: leave the masked-LM head out of this run "
            "(config.encoder.head=False), or name a model that has one"
        )


def _place(found: Pretrained, shardings: Any) -> Params:
    start = Start(str(found.path), {}, {}, found.tokenizer_folder, [], found)
    return place(start, {"encoder": shardings}, dict)


def frozen_shardings(aux: Any, params: Any, whole: Any) -> Any:
    """Return where auxiliary state lies: a copy of a parameter where the parameter lies.

    `aux` is a tree of shapes, `params` one of shardings; a copy is known by the end of its path,
    such as `adjust/frozen/encoder/embed/word`. Everything else lies `whole` on every device.
    """
    by_path = flatten_dict(params, sep="/")

    def sharding(path: tuple, _: Any) -> Any:
        name = "/" + jax.tree_util.keystr(path, simple=True, separator="/")
        return next((s for n, s in by_path.items() if name.endswith("/" + n)), whole)

    return jax.tree_util.tree_map_with_path(sharding, aux)
