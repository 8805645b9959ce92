"""Hold the errors that are the user's to mend: one message, no traceback, a fixed exit code.

`jalign.cli.main` is the only place that turns them into exit codes; any other exception is a crash
(exit code 1). The message says what came, what is needed, and what to type instead.
"""

from __future__ import annotations


class UserError(Exception):
    """Stop because of what the user typed or asked for."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """Stop because of a config entry; also a ValueError for those who call the library."""


class AbsentFiles(ConfigError):
    """Stop because none of the files named for an evaluation is there."""


class BadData(UserError, ValueError):
    """Stop because of the data; the message names file and line."""

    exit_code = 3


class Diverged(UserError):
    """Stop because the loss is NaN or far off; the message names the objective and the records."""

    exit_code = 4


class SaveFailed(UserError):
    """Stop because a checkpoint could not be written: a full disk, one that is read-only now.

    Exit code 42: earlier checkpoints are whole, and a restart goes on from there.
    """

    exit_code = 42

    def __init__(self, workdir: object, error: BaseException) -> None:
        """Name the place and the reason."""
        super().__init__(
            f"a checkpoint in {workdir} could not be written: {str(error)[:300]}\nThe earlier ones "
            "are whole. Make room (or writable), and run the same command again"
        )
