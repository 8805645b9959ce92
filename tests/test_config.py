"""Configs: unknown keys and wrong types are errors that say what to type; every config builds."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from jalign import config
from jalign.errors import ConfigError
from jalign.train.run import RunConfig

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class Outer:
    size: int
    inner: Inner = Inner()
    many: Mapping[str, Inner] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    weight: float | Mapping[str, float] = 1.0
    rules: tuple[tuple, ...] = ()


def test_a_config_comes_back_from_json_as_it_was():
    values = dict(size=3, names=("a",), rules=(("bias$", 0.0), (".*", 0.1)))
    built = config.build(Outer, values)
    assert config.build(Outer, json.loads(json.dumps(asdict(built)))) == built


def test_sections_become_dataclasses_and_ints_become_floats():
    built = config.build(
        Outer, dict(size=3, inner=dict(rate=1), many=dict(x=dict(rate=0.5)), names=["a"])
    )
    assert built == Outer(3, Inner(1.0), {"x": Inner(0.5)}, ("a",), 1.0)
    assert config.build(Outer, dict(size=1, weight=dict(end=2))).weight == {"end": 2.0}


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(siez=3), r"config.siez is not an entry. Did you mean 'size'\?"),
        (dict(size=3, inner=dict(rat=1)), r"config.inner.rat is not an entry"),
        (dict(size="3"), "config.size='3': need int"),
        (dict(size=True), "config.size=True: need int"),
        (dict(size=3, inner=4), "config.inner=4: need a section"),
        (dict(size=3, names="a"), "config.names='a': need a tuple"),
        (dict(), "missing 1 required"),
    ],
)
def test_wrong_entries_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        config.build(Outer, values)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("arg", ["", "small"])
def test_every_config_builds_and_takes_small(path, arg):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "COMMAND" in module.__doc__ and "RESULT" in module.__doc__ and "TIME" in module.__doc__
    cfg = config.build(RunConfig, module.get_config(arg).to_dict())
    assert (cfg.steps > 0) != (cfg.epochs > 0) and cfg.objectives
