"""Read a config file and its overrides: `--config=file.py[:arg] --config.a.b=value`.

The ConfigDict ends here: commands get frozen dataclasses.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jalign import config
from jalign.errors import ConfigError, UserError


def parse(flag_values: flags.FlagValues, command: str, argv: list[str]) -> None:
    """Parse a command's arguments.

    Raises: UserError (exit code 2) for an unknown flag or a bad value.
    """
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=flag_values)
    try:
        rest = flag_values([command, *argv])
    except (AttributeError, KeyError) as error:  # of a ConfigDict, or of the config file
        raise UserError(f"jalign {command}: {_no_entry(error, argv)}") from error
    except (flags.Error, TypeError, FileNotFoundError, ValueError) as error:
        raise UserError(f"jalign {command}: {error}") from error
    if flag_values.help:
        sys.stdout.write(flag_values.main_module_help() or flag_values.get_help())
        raise SystemExit(0)
    if len(rest) > 1:
        raise UserError(
            f"jalign {command}: unexpected {rest[1:]}; every argument is a flag such as "
            "--workdir=DIR"
        )


def _no_entry(error: Exception, argv: list[str]) -> str:
    """Name the flag whose entry the config file does not have; what it said is quoted twice."""
    name = re.search(r"\w+", str(error))
    for flag in (arg.partition("=")[0] for arg in argv):
        if name and name[0] in flag.split("."):
            meant = re.search(r'Did you mean "(\w+)"', str(error))
            hint = f"Did you mean {meant[1]!r}?" if meant else "Write it into the config file."
            return f"{flag}: the config has no entry {name[0]!r}. {hint}"
    return str(error)


def define_config(flag_values: flags.FlagValues) -> None:
    """Add `--config`."""
    config_flags.DEFINE_config_file(
        "config", None, "config file, with :arg where it takes one", flag_values=flag_values
    )


def read_config(flag_values: flags.FlagValues, cls: type) -> Any:
    """Build the dataclass `cls` from `--config` and its overrides. Raises: ConfigError."""
    if flag_values.config is None:
        raise ConfigError(
            "--config is missing: type --config=configs/quickstart.py, or another file of configs/"
        )
    values = flag_values.config.to_dict()
    if isinstance(values.get("data"), str) and values["data"]:
        values["data"] = str(Path(values["data"]).expanduser())
    return config.build(cls, values)
