"""Parse a command's flags, and read a config: `--config=file.py[:arg] --config.a.b=value`.

The ConfigDict ends here: commands get frozen dataclasses.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jalign import config, plugin
from jalign.cli._config_file import ConfigFileParser
from jalign.errors import ConfigError, UserError

USAGE = """usage: jalign {command} [--flag=value …]

{about}

flags, with hyphens or underscores:
"""
UNLISTED = ("h", "help")


def parse(
    flag_values: flags.FlagValues,
    command: str,
    argv: Sequence[str],
    *,
    config: bool = False,
    about: str = "",
) -> None:
    """Parse a command's arguments, `--config` among them if `config`; `--help` prints `about` (the
    docstring of the command) and the flags. Hyphens in a flag's name stand for underscores.

    Raises: UserError (exit code 2) for an unknown flag or a bad value.
    """
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=flag_values)
    args = list(argv)
    try:
        args = flag_values.read_flags_from_files(args, force_gnu=False)
        args = [_underscored(arg) for arg in args]
        if config:
            _define_config(flag_values, args)
        rest = flag_values([command, *args])
    except (AttributeError, KeyError) as error:  # of a ConfigDict
        raise UserError(f"jalign {command}: {_no_entry(error, args)}") from error
    except flags.UnrecognizedFlagError as error:
        raise UserError(
            f"jalign {command}: {error}. 'jalign {command} --help' lists the flags."
        ) from error
    except (flags.Error, TypeError, IndexError, ValueError) as error:
        raise UserError(f"jalign {command}: {error}") from error
    if flag_values.help:
        about = about or plugin.load("cli", command).__doc__ or ""
        sys.stdout.write(USAGE.format(command=command, about=about.strip()))
        sys.stdout.write("".join(f"{line}\n" for line in _flag_lines(flag_values)))
        raise SystemExit(0)
    if len(rest) > 1:
        raise UserError(
            f"jalign {command}: unexpected {rest[1:]}: every argument is a flag, --name=value"
        )


def _underscored(arg: str) -> str:
    """Let --on-overflow=x stand for --on_overflow=x; an entry of a config keeps its name."""
    name, equals, value = arg.partition("=")
    if not name.startswith("--") or re.match(r"--(no)?config\.", name):
        return arg
    return "--" + name[2:].replace("-", "_") + equals + value


def _flag_lines(flag_values: flags.FlagValues) -> Iterator[str]:
    """Yield the lines of the help: each flag with what it is for, its default and its values."""
    for name in sorted(set(flag_values) - set(UNLISTED)):
        flag = flag_values[name]
        default = flag.default_as_str.strip("'") if flag.default else ""
        notes = (default and f"default {default}", flag.parser.syntactic_help)
        said = "; ".join(note for note in notes if note)
        about = " ".join(flag.help.split())  # absl adds line breaks
        text = f"--{'[no]' * bool(flag.boolean)}{name}: {about}" + f" ({said})" * bool(said)
        yield textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="      ",
                            break_on_hyphens=False, break_long_words=False)  # fmt: skip
    yield "  --flagfile: file of more flags, one a line"


def _no_entry(error: Exception, argv: Sequence[str]) -> str:
    """Name the flag whose entry the config file does not have; what it said is quoted twice."""
    name = re.search(r"\w+", str(error))
    for flag in (arg.partition("=")[0] for arg in argv):
        if name and name[0] in flag.split("."):
            meant = re.search(r'Did you mean "(\w+)"', str(error))
            hint = f"Did you mean {meant[1]!r}?" if meant else "Write it into the config file."
            return f"{flag}: the config has no entry {name[0]!r}. {hint}"
    return str(error)


def _define_config(flag_values: flags.FlagValues, argv: list[str]) -> None:
    config_flags.DEFINE_config_file(
        "config",
        None,
        "config file, with :arg where it takes one; --config.a.b=value sets an entry",
        flag_values=flag_values,
        sys_argv=argv,
    )
    flag_values["config"].parser = ConfigFileParser()


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
