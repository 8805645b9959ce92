"""Turn nested mappings (from a config file and its flags) into frozen dataclasses, checking every
key.

In: a mapping and a dataclass. Out: the dataclass, or a ConfigError that names the entry, what it
got and what to type.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from jalign.errors import ConfigError
from jalign.plugin import did_you_mean


def build(cls: type, values: Mapping[str, Any], where: str = "config") -> Any:
    """Build the dataclass `cls` from a mapping; nested dataclasses and mappings of them are built
    too.

    Raises: ConfigError for an unknown key (with did-you-mean), a missing one, a wrong type, or a
    value that the dataclass refuses.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            hint = did_you_mean(str(key), list(fields))
            raise ConfigError(
                f"{where}.{key} is not an entry.{hint} {where} has: {', '.join(fields)}."
            )
    try:
        return cls(
            **{key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
        )
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def check_choices(section: object, choices: Mapping[str, Sequence[str]]) -> None:
    """Compare entries with what is served. Raises: ValueError naming the first that is not."""
    for name, served in choices.items():
        if (got := getattr(section, name)) not in served:
            raise ValueError(f"{name}={got!r}: need one of {', '.join(served)}")


def check_some(section: object, name: str, served: Sequence[str]) -> None:
    """Compare an entry that lists several. Raises: ValueError where it lists none, or others."""
    got = getattr(section, name)
    if not got or not set(got) <= set(served):
        raise ValueError(f"{name}={got!r}: need some of {', '.join(served)}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{where}={value!r}: need a section with "
                f"{[f.name for f in dataclasses.fields(hint)]}"
            )
        return build(hint, value, where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if origin is tuple or hint is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{where}={value!r}: need a tuple")
        inner = args[0] if args else Any
        return tuple(_convert(inner, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin in (dict, Mapping) or hint is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}={value!r}: need a section")
        inner = args[1] if args else Any
        return {key: _convert(inner, v, f"{where}.{key}") for key, v in value.items()}
    return _convert_scalar(hint, value, where)


def _convert_union(args: tuple, value: Any, where: str) -> Any:
    for hint in args:
        try:
            return _convert(hint, value, where)
        except ConfigError:
            continue
    names = " or ".join(getattr(a, "__name__", str(a)) for a in args)
    raise ConfigError(f"{where}={value!r}: need {names}")


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is types.NoneType:
        ok = value is None
    elif hint is float:
        ok = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if ok else value
    elif hint is int:
        ok = isinstance(value, int) and not isinstance(value, bool)
    else:
        ok = isinstance(value, hint)
    if not ok:
        raise ConfigError(f"{where}={value!r}: need {getattr(hint, '__name__', hint)}")
    return value
