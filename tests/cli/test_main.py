import subprocess
import sys
from pathlib import Path

import pytest

from jalign import plugin
from jalign.cli import main as entry
from jalign.errors import BadData, ConfigError, Diverged, UserError


class Command:
    """A command module whose main raises or returns what it is given."""

    def __init__(self, outcome):
        self.outcome = outcome

    def main(self, argv):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def command(monkeypatch, tmp_path):
    def install(outcome, *argv):
        monkeypatch.setattr(entry, "commands", lambda: {"prepare": tmp_path / "prepare.py"})
        monkeypatch.setattr(plugin, "load", lambda kind, name: Command(outcome))
        return entry.main(["prepare", *argv])

    return install


def test_help_imports_nothing_heavy_and_names_every_command():
    code = (
        "import sys; from jalign.cli.main import main; code = main(['--help']);"
        "heavy = {'jax', 'numpy', 'flax', 'transformers'} & set(sys.modules);"
        "sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in entry.commands():
        assert f"  {name.replace('_', '-')} " in done.stdout


def test_every_command_opens_with_a_docstring_line():
    assert [n for n, path in entry.commands().items() if not entry.first_line(path)] == []


def test_no_command_prints_the_help_on_stderr_and_fails(capsys):
    assert entry.main([]) == 2
    assert "usage: jalign COMMAND" in capsys.readouterr().err


def test_version_is_printed(capsys):
    assert entry.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jalign ")


def test_an_unknown_command_gets_a_suggestion_and_exit_code_2(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(entry, "commands", lambda: {"pretrain": tmp_path / "pretrain.py"})
    assert entry.main(["pretrian"]) == 2
    assert "Did you mean 'pretrain'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "--config.stepz=5",
            "--config.stepz: the config has no entry 'stepz'. Did you mean 'steps'?",
        ),
        (
            "--config.objectives.mlm.tau=1",
            "--config.objectives.mlm.tau: the config has no entry 'tau'",
        ),
        ("--config.foo.bar=1", "--config.foo.bar: the config has no entry 'foo'. Write it into"),
        ("--config.steps=x", "--config.steps=x: invalid literal for int()"),
    ],
)
def test_a_wrong_flag_of_a_config_is_named(flag, said, tmp_path, capsys):
    path = Path(__file__).parents[2] / "configs" / "quickstart.py"
    argv = ["pretrain", f"--config={path}", f"--workdir={tmp_path}", flag]
    assert entry.main(argv) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError, 2), (ConfigError, 2), (BadData, 3), (Diverged, 4)],
)
def test_an_error_of_the_user_is_one_message_and_its_exit_code(command, capsys, error, code):
    assert command(error("corpus.tsv:7: two tabs")) == code
    assert capsys.readouterr().err == "jalign: corpus.tsv:7: two tabs\n"


def test_a_command_decides_its_own_exit_code(command):
    assert command(143) == 143


def test_any_other_error_stays_a_crash_with_its_traceback(command):
    with pytest.raises(ValueError, match="ours"):
        command(ValueError("ours"))


@pytest.mark.parametrize(
    "argv", [["--output=d/x"], ["--output", "./d/x"], ["--text=n=d/x"], ["--gold=n,a,d/x"]]
)
def test_a_file_that_an_argument_names_and_is_not_there_is_one_line(command, capsys, argv):
    assert command(FileNotFoundError(2, "No such file or directory", "d/x"), *argv) == 2
    assert "jalign: d/x: No such file or directory" in capsys.readouterr().err
    assert command(PermissionError(13, "Permission denied", "d/x"), *argv) == 2


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "d/x/state"),
        FileNotFoundError(2, "No such file or directory", "d"),
        FileNotFoundError("ours"),
        FileNotFoundError(2, "No such file or directory", 7),
        OSError(5, "Input/output error", "d/x"),
    ],
)
def test_any_other_file_that_is_not_there_stays_a_crash(command, error):
    with pytest.raises(OSError) as raised:
        command(error, "--output=d/x")
    assert raised.value is error


def test_a_full_disk_is_one_line_and_no_error_of_the_arguments(command, capsys):
    assert command(OSError(28, "No space left on device", "d/x"), "--output=d/x") == 1
    assert "No space left on device (d/x): make room" in capsys.readouterr().err


def test_an_interrupt_ends_without_traceback(command, capsys):
    assert command(KeyboardInterrupt()) == 130
    assert "Traceback" not in capsys.readouterr().err
