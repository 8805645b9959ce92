"""What every command does with its flags: hyphens, help, config files, and what a slip is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from absl import flags

from jalign.cli._config_file import load
from jalign.cli._flags import parse, read_config
from jalign.cli.main import commands, main
from jalign.errors import ConfigError, UserError
from jalign.train.run_config import RunConfig

CONFIGS = Path(__file__).parents[2] / "configs"
COMMANDS = [name.replace("_", "-") for name in commands()]
RETURNS = "from ml_collections import ConfigDict\n\ndef get_config():\n    "


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("command", ["pretrain", "finetune", "plan"])
def test_a_config_that_is_no_file_is_told_from_those_that_are(command, tmp_path, capsys):
    more = ["--topology=v5e:4x4"] if command == "plan" else [f"--workdir={tmp_path}/run"]
    for config, said in (
        (CONFIGS / "quikstart.py", "no such file; type --config={}/quickstart.py, or another of"),
        (f"{CONFIGS}/nosuch.py:small", "no such file; type --config={}/quickstart.py, or another"),
        (CONFIGS, "is a folder; type --config={}/quickstart.py, or another of"),
        (tmp_path / "no/such.py", "no such file; type --config=configs/quickstart.py"),
        ("", "no such file; type --config=configs/quickstart.py"),
    ):
        assert main([command, f"--config={config}", *more]) == 2
        err = capsys.readouterr().err
        assert said.format(CONFIGS) in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("quickstart.py:foo", "configs/quickstart.py takes small or mlm_tlm; got 'foo'\n"),
        ("xlmr_base.py:foo", "configs/xlmr_base.py takes no argument or :small; got 'foo'\n"),
        ("align_mlm.py:foo,trans", "one of mlm, xlm, dict_mlm, align_mlm; got 'foo,trans'\n"),
    ],
)
def test_a_wrong_argument_of_a_config_is_one_line(value, said, capsys):
    assert main(["pretrain", f"--config={CONFIGS}/{value}", "--workdir=unused"]) == 2
    err = capsys.readouterr().err
    assert err.endswith(said) and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef get_config(:\n", "{}:2: SyntaxError: invalid syntax"),
        ("\nimport nosuchmodule\n", "{}:2: ModuleNotFoundError: No module named 'nosuchmodule'"),
        (RETURNS + "return shape\n", "{}:4: NameError: name 'shape' is not defined"),
        (RETURNS + "return int('x')\n", "{}:4: ValueError: invalid literal for int"),
        (RETURNS + "c = ConfigDict()\n    c.lock()\n    c.foo = 1\n", "{}:6: AttributeError: "),
        ("import bare\n\ndef get_config():\n    bare.draw()\n", "bare.py:2: ZeroDivisionError"),
        ("y = 1\n", "it has no function get_config"),
        (RETURNS + "pass\n", "get_config returns NoneType; need an ml_collections.ConfigDict"),
        (RETURNS + "return {'steps': 1}\n", "get_config returns dict; need an"),
    ],
)
def test_what_is_wrong_in_a_config_file_is_named_with_its_line(
    text, said, tmp_path, monkeypatch, capsys
):
    write(tmp_path / "bare.py", "def draw():\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path / "mine.py", text)
    assert main(["pretrain", f"--config={path}", f"--workdir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert said.format(path) in err and "Traceback" not in err
    with pytest.raises(ConfigError):
        load(str(path))


def test_an_argument_that_a_config_does_not_take_is_told(tmp_path):
    path = write(tmp_path / "mine.py", RETURNS + "return ConfigDict()\n")
    assert load(str(path)).is_locked
    with pytest.raises(ConfigError, match=r"mine\.py: TypeError: .* but 1 was given"):
        load(f"{path}:small")


def parsed(*argv, config=False):
    fv = flags.FlagValues()
    flags.DEFINE_bool("all_layers", False, "every layer", flag_values=fv)
    flags.DEFINE_string("max_shard", "", "a text", flag_values=fv)
    parse(fv, "export", list(argv), config=config)
    return fv


def test_hyphens_stand_for_underscores_in_names_and_not_in_values():
    fv = parsed("--all-layers", "--max-shard=a-b=c-d")
    assert fv.all_layers and fv.max_shard == "a-b=c-d"
    assert parsed("--max-shard", "a-b").max_shard == "a-b"


def test_entries_of_a_config_keep_their_hyphens(tmp_path):
    path = write(tmp_path / "mine.py", RETURNS + "return ConfigDict({'en_de': 2, 'on': True})\n")
    fv = parsed(f"--config={path}", "--noconfig.on", "--config.en_de=3", config=True)
    assert fv.config.to_dict() == {"en_de": 3, "on": False}
    with pytest.raises(UserError):  # no other name for en_de
        parsed(f"--config={path}", "--config.en-de=3", config=True)


@pytest.mark.parametrize("flag", ["--config.steps.=1", "--config.a b=1", "--config.=1"])
def test_what_is_no_name_of_an_entry_exits_with_2(flag, capsys):
    assert main(["pretrain", f"--config={CONFIGS}/quickstart.py", flag]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_flag_file_is_read_with_hyphens_and_overrides_too(tmp_path):
    config = write(tmp_path / "mine.py", RETURNS + "return ConfigDict({'steps': 1})\n")
    lines = f"--max-shard=3\n--config={config}\n--config.steps=7\n"
    fv = parsed(f"--flagfile={write(tmp_path / 'flags', lines)}", config=True)
    assert (fv.max_shard, fv.config.steps) == ("3", 7)


@pytest.mark.parametrize("command", ["pretrain", "plan", "lexicon", "prepare"])
def test_a_flag_file_that_is_not_there_exits_with_2(command, capsys):
    assert main([command, "--flagfile=nosuch"]) == 2
    assert "Unable to open flagfile" in capsys.readouterr().err


def test_an_index_that_an_entry_does_not_take_exits_with_2(capsys):
    argv = [f"--config={CONFIGS}/xlmr_base.py:small", "--config.data[0]=1"]
    assert main(["pretrain", *argv]) == 2
    assert "0 is not a valid index" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("export", "--max-shard-mb=x"),
        ("report", "--stu-dy=x"),
        ("plan", "--sea-rch=x"),
        ("doctor", "--write-mib=x"),
        ("import", "--tole-rance=x"),
        ("lexicon", "--da-ta=x"),
    ],
)
def test_every_command_takes_hyphens(command, flag, capsys):
    assert main([command, flag]) == 2
    assert flag.partition("=")[0][2:].replace("-", "_") in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_usage_what_the_command_does_and_its_flags(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    head, _, listed = out.partition("\nflags, ")
    assert head.startswith(f"usage: jalign {command} [--flag=value …]\n\n")
    assert "In: " in head or "`--" in head
    assert "\n  --" in listed and "no help available" not in listed
    assert max(map(len, out.splitlines())) <= 130  # --method of align is one long word


def test_help_of_evaluate_leads_to_the_flags_of_every_task(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    out = capsys.readouterr().out
    for flag in ("--files", "--predictions", "--dev", "--dictionary", "--histograms", "--gold"):
        assert flag in out
    assert "`jalign evaluate --task=NAME --help`" in out
    with pytest.raises(SystemExit):
        main(["evaluate", "--task=bucc", "--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: jalign evaluate --task=bucc ") and "\n  --dev: " in out


def test_a_flag_of_another_task_is_told_to_type_the_task(capsys):
    assert main(["evaluate", "--model=M", "--files=de-en=a,b"]) == 2
    err = capsys.readouterr().err
    assert "'files'" in err and "type --task=NAME, such as --task=retrieval" in err


def test_an_unknown_flag_leads_to_the_help(capsys):
    assert main(["lexicon", "--foo-bar=1"]) == 2
    assert "'jalign lexicon --help' lists the flags" in capsys.readouterr().err


def test_without_a_config_read_config_says_what_to_type():
    with pytest.raises(ConfigError, match="type --config=configs/quickstart.py"):
        read_config(parsed(config=True), RunConfig)
    with pytest.raises(UserError, match="every argument is a flag"):
        parsed("surplus")
