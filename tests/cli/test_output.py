"""What no command writes: its own input, a folder as a file, where nothing can be written; all of
it is said before any work, and nothing is changed.
"""

from __future__ import annotations

import os

import pytest

from jalign.cli._output import check_output_file, check_output_folder
from jalign.cli.main import main
from jalign.errors import ConfigError

SYNTHETIC = "synthetic --transformation=inv --text=n=a"
RETRIEVAL = "evaluate --task=retrieval --model=m --files=x-y=a,b"
TAGGING = "evaluate --task=tagging --model=m --files=x=a"
DISTANCES = "evaluate --task=distances --model=m --gold=x-y,a,b"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with files `a` and `b` of text, and a folder `d`."""
    here = tmp_path / "here"
    (here / "d").mkdir(parents=True)
    for name in "ab":
        (here / name).write_text(f"{name} dog\n")
    (here / "same").symlink_to("a")
    os.link(here / "a", here / "twin")
    monkeypatch.chdir(here)
    return here


def state(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("output", ["a", "./a", "../here/a", "same", "twin"])
@pytest.mark.parametrize(
    "command",
    [
        "align --model=m --input=a",
        "align --model=m --source=b --target=a",
        "embed --model=m --input=a",
        "mine --model=m --src=a --trg=b",
        "mine --model=m --src=b --trg=a",
        "dictionary --tokenizer=t --langs=en,de --input=a",
        "evaluate --model=m --gold=dev,a",
        "evaluate --model=m --gold=dev,b,a,base=1",
        "evaluate --task=embedding_alignment --model=m --dictionary=a",
        "evaluate --task=bucc --model=m --files=x-y=b,b,b --dev=x-y=b,b,a",
        RETRIEVAL,
        TAGGING,
        DISTANCES,
    ],
)
def test_no_command_writes_over_its_input(here, capsys, command, output):
    before = state(here)
    assert main([*command.split(), f"--output={output}"]) == 2
    assert f"--output={output} is the input; type another name" in capsys.readouterr().err
    assert state(here) == before


@pytest.mark.parametrize(
    "command, said",
    [
        (f"{DISTANCES} --histograms=b", "--histograms=b is the input"),
        ("embed --model=m --input=a.part --output=a", "is written as a.part, the input"),
        ("mine --model=m --src=a --trg=o.work/trg.txt --output=o", "o.work/trg.txt lies in o.work"),
        ("lexicon --data=d --output=d/../d", "is the input; type another folder"),
        ("links --data=d --lexicons=l --output=d", "is the input; type another folder"),
        ("synthetic --transformation=inv --text=n=d/text/n.en.txt --output=d", "would be replaced"),
        ("evaluate --task=retrieval --model=m --files=x-y=d/tatoeba/test-x.tsv,b --predictions=d",
         "predictions are written where d/tatoeba/test-x.tsv lies"),
        ("evaluate --task=tagging --name=t --model=m --files=x=d/t/test-x.tsv --predictions=d",
         "predictions are written where d/t/test-x.tsv lies"),
        (f"{RETRIEVAL} --output=m/results.jsonl", "holds what the run itself measured"),
        (f"{DISTANCES} --histograms=d/../m/results.jsonl", "holds what the run itself measured"),
    ],
)  # fmt: skip
def test_nor_by_another_way(here, capsys, command, said):
    for name in ("a.part", "o.work/trg.txt", "d/text/n.en.txt", "d/tatoeba/test-x.tsv",
                 "d/t/test-x.tsv", "m/results.jsonl"):  # fmt: skip
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("mine\n")
    before = state(here)
    assert main(command.split()) == 2
    assert said in capsys.readouterr().err
    assert state(here) == before


def test_standard_input_is_an_input_too(here, capsys):
    kept = os.dup(0)
    with (here / "a").open() as file:
        os.dup2(file.fileno(), 0)
    try:
        assert main(["embed", "--model=m", "--output=a"]) == 2
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert "is the input" in capsys.readouterr().err


FILES = (
    *("align --model=m --input=b", "embed --model=m --input=b", "mine --model=m --src=b --trg=b"),
    *("dictionary --tokenizer=t --langs=en,de --input=b", "evaluate --model=m --gold=dev,b"),
    *(RETRIEVAL, TAGGING, DISTANCES),
)


@pytest.mark.parametrize(
    "output, said",
    [
        ("d", "is a folder; type a file in it"),
        (".", "is a folder; type a file in it"),
        ("none/x", "there is no folder none; make it."),
        ("a/x", "there is no folder a; make it."),
        ("/proc/x", "cannot be written: No such file or directory; type another"),
        ("x" * 300, "cannot be written: File name too long; type another"),
    ],
)
@pytest.mark.parametrize("command", FILES)
def test_a_file_that_cannot_be_written_is_told_before_any_work(here, capsys, command, output, said):
    before = state(here)
    assert main([*command.split(), f"--output={output}"]) == 2
    assert f"--output={output}" in (err := capsys.readouterr().err) and said in err
    assert state(here) == before


@pytest.mark.parametrize(
    "output, said",
    [
        ("b", "b is a file; type a folder"),
        ("b/x/y", "b is a file; type another folder"),
        ("/proc/x/dq", "cannot be written: No such file or directory; type another"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        "lexicon --data=d --output=",
        "links --data=d --lexicons=l --output=",
        f"{SYNTHETIC} --output=",
        "prepare --corpus=lines,en,a --vocab_size=99 --output=",
        "export --input=d --output=",
        "import --input=d --output=",
        f"{RETRIEVAL} --predictions=",
        f"{TAGGING} --predictions=",
    ],
)
def test_a_folder_that_cannot_be_written_is_told_before_any_work(
    here, capsys, command, output, said
):
    before = state(here)
    assert main((command + output).split()) == 2
    assert said in capsys.readouterr().err
    assert state(here) == before


def test_what_can_be_written_leaves_no_trace_of_the_check(here):
    before = state(here)
    assert str(check_output_file("output", "b", ["a", "none", "-"])) == "b"
    assert check_output_file("output", "/dev/null", in_place=True).name == "null"
    assert check_output_folder("output", "d/new/er", ["d"]).name == "er"
    assert check_output_folder("output", "d", ["a"], whole=True).name == "d"
    assert state(here) == before


def test_only_what_is_written_in_place_may_be_a_device(here):
    with pytest.raises(ConfigError, match="is no plain file; type another name"):
        check_output_file("output", "/dev/null")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permissions_are_looked_at(here):
    (here / "d").chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        check_output_file("output", "d/x")
    (here / "a").chmod(0o400)
    with pytest.raises(ConfigError, match="is write-protected"):
        check_output_file("output", "a", in_place=True)
