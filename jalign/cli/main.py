"""Find the command named on the command line and turn its outcome into an exit code.

`jalign COMMAND …` calls `main(argv) -> int` of `jalign/cli/COMMAND.py` with the arguments after the
command. Nothing heavy is imported before the command is known: `jalign --help` answers at once.
"""

from __future__ import annotations

import ast
import errno
import importlib.metadata
import os
import pkgutil
import re
import sys
import traceback
from pathlib import Path

from jalign import cli, plugin
from jalign.cli._memory import use_huge_pages
from jalign.errors import UserError

AGREED = (0, 130, 143)  # exit codes that all processes of a job end with together
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
NOT_THERE = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM)
USAGE = """usage: jalign COMMAND [--flag=value …]

{summary}

commands:
{commands}

`jalign COMMAND --help` shows a command's flags; `jalign --version` the version.
"""


def commands() -> dict[str, Path]:
    """Return the file of each command by its name, without importing any."""
    folder = Path(cli.__path__[0])
    names = (m.name for m in pkgutil.iter_modules([str(folder)]))
    return {n: folder / f"{n}.py" for n in sorted(names) if n != "main" and not n.startswith("_")}


def first_line(path: Path) -> str:
    """Read the first line of a module's docstring without importing the module."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def usage() -> str:
    """Write the help page: every command with the first line of its docstring."""
    files = commands()
    width = max(map(len, files), default=0) + 2
    lines = [f"  {name.replace('_', '-'):{width}}{first_line(p)}" for name, p in files.items()]
    summary = first_line(Path(cli.__path__[0]).parent / "__init__.py")
    return USAGE.format(summary=summary, commands="\n".join(lines))


def version() -> str:
    """Return the installed version, or say that the package runs from its source."""
    try:
        return importlib.metadata.version("jalign")
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"


def dispatch(argv: list[str]) -> int:
    """Run the command that `argv` names and return its exit code.

    Raises: UserError for an unknown command, and what the command raises.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        out = sys.stdout if argv else sys.stderr
        out.write(usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version", "version"):
        sys.stdout.write(f"jalign {version()}\n")
        return 0
    name, known = argv[0].replace("-", "_"), list(commands())
    if name not in known:
        hint = plugin.did_you_mean(name, known)
        raise UserError(f"no command {argv[0]!r}.{hint} There are: {', '.join(known)}.")
    return plugin.load("cli", name).main(argv[1:])


def main(argv: list[str]) -> int:
    """Run a command; an error of the user becomes one message on stderr and its exit code."""
    try:
        return dispatch(argv)
    except UserError as error:
        sys.stderr.write(f"jalign: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("jalign: interrupted\n")
        return 130
    except BrokenPipeError:  # `jalign align … | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in NO_ROOM:
            where = f" ({error.filename})" if error.filename else ""
            sys.stderr.write(
                f"jalign: {error.strerror}{where}: make room, or writable, and run it again\n"
            )
            return 1
        if not _is_named(error, argv):
            raise
        sys.stderr.write(f"jalign: {error.filename}: {error.strerror}; correct the argument\n")
        return 2


def _is_named(error: OSError, argv: list[str]) -> bool:
    """Tell whether an argument names the very file that is not there or not to be opened: of any
    other, even one in a folder that was named, the fault may be ours.
    """
    if error.errno not in NOT_THERE or not isinstance(error.filename, str):
        return False
    named = {path for arg in argv for path in (arg, arg.partition("=")[2], *re.split("[=,]", arg))}
    places = {os.path.abspath(os.path.expanduser(path)) for path in named if path}
    return os.path.abspath(error.filename) in places


def run() -> None:
    """Run as the console script `jalign`."""
    if sys.argv[1:2] in (["pretrain"], ["finetune"]):
        use_huge_pages()
    try:
        code = main(sys.argv[1:])
    except Exception:
        if not _is_one_of_several():
            raise
        traceback.print_exc()
        code = 1
    if code not in AGREED and _is_one_of_several():
        # As Python ends, JAX waits five minutes for the others, who wait for this process, and
        # then aborts with an exit code that hides the real one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return bool(jax) and jax.distributed.is_initialized()
