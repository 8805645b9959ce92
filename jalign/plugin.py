"""Turn a name in a config into the module of that name: no registry, no decorators.

`load("objectives", "mlm")` imports `jalign/objectives/mlm.py`; an unknown name is a ValueError that
lists what there is.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType


def available(kind: str) -> list[str]:
    """List the plugin names of a kind: the files of the folder `jalign/<kind>`."""
    package = importlib.import_module("jalign." + kind.replace("/", "."))
    return sorted(
        m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")
    )


def did_you_mean(name: str, choices: list[str]) -> str:
    """Return a hint such as ` Did you mean 'mlm'?`, or nothing where no choice comes close."""
    close = difflib.get_close_matches(name, choices, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def load(kind: str, name: str) -> ModuleType:
    """Import `jalign/<kind>/<name>.py`.

    Raises: ValueError for a name that is no file of that folder, listing those that are.
    """
    names = available(kind)
    if name not in names:
        hint = did_you_mean(name, names)
        raise ValueError(f"no {kind} named {name!r}.{hint} There are: {', '.join(names)}.")
    return importlib.import_module(f"jalign.{kind.replace('/', '.')}.{name}")
