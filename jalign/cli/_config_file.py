"""Load the file of `--config=FILE.py[:ARG]`, and say in one line what is wrong with it.

ml_collections would load it too, but quotes tracebacks, or raises only when the config is used.
"""

from __future__ import annotations

import difflib
import sys
import traceback
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from absl import flags
from ml_collections import ConfigDict

from jalign.errors import ConfigError

JALIGN = Path(__file__).resolve().parents[1]


class ConfigFileParser(flags.ArgumentParser):
    """Parse the value of `--config`."""

    def parse(self, path: str) -> ConfigDict:
        """Return the config."""
        return load(path)


def load(value: str) -> ConfigDict:
    """Call `get_config` of FILE.py, with ARG where there is one, and lock what it returns: an
    override of an entry that is not there is refused.

    Raises: ConfigError.
    """
    name, colon, arg = value.partition(":")
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(_no_file(name, path))
    try:
        module = _import(path)
        if not hasattr(module, "get_config"):
            raise ConfigError("it has no function get_config, which returns the config")
        config = module.get_config(*[arg] * bool(colon))
        if not isinstance(config, ConfigDict):
            kind = type(config).__name__
            raise ConfigError(f"get_config returns {kind}; need an ml_collections.ConfigDict")
        return config.lock()
    except ConfigError:
        raise
    except Exception as error:  # whatever the user's Python raises is the user's to mend
        if arg and isinstance(error, ValueError):  # most likely about the argument
            raise ConfigError(str(error)) from error
        text = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigError(f"{_place(error, path)}: {type(error).__name__}: {text}") from error


def _import(path: Path) -> ModuleType:
    loader = SourceFileLoader("config_config", str(path))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def _no_file(name: str, path: Path) -> str:
    """Say what is there instead, and what to type."""
    what = "is a folder" if name and path.is_dir() else "no such file"
    folder = path if path.is_dir() else path.parent
    have = sorted(p.name for p in folder.glob("*.py")) if name else []
    if not have:
        return f"{what}; type --config=configs/quickstart.py, or another config file"
    close = difflib.get_close_matches(path.name, have, n=1)
    meant = close or [n for n in have if n == "quickstart.py"] or have
    return f"{what}; type --config={folder / meant[0]}, or another of {folder}: {', '.join(have)}"


def _place(error: Exception, path: Path) -> str:
    """Return file:line of an error: the innermost line of the config, or of a file beside it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    folder = path.resolve().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        foreign = JALIGN in file.parents or "site-packages" in file.parts or not file.is_file()
        if folder in file.parents and not foreign:
            return f"{frame.filename}:{frame.lineno}"
    return str(path)
