"""`jalign align` as its user meets it: flags and files, a kill -9 part-way, memory, workdirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jalign
from jalign.align.methods import LAYOUTS, LEVELS, METHODS
from jalign.align.similarity import KINDS
from jalign.cli import align as command
from jalign.cli.main import main
from jalign.inference.align_output import LineFile
from jalign.inference.align_texts import OVERFLOW, UNITS
from tests.tiny import sentences, write_tiny_dataset

pytest.importorskip("torch")

from tests.hf.torch_models import make_folder  # noqa: E402

ALONE = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
WINDOW = 1024  # pairs that one device plans together
TINY_CONFIG = Path(__file__).parents[1] / "train" / "tiny_config.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("align") / "model"
    make_folder(folder, "xlm-roberta", 0)
    return folder


def pairs(num, seed=1):
    """Make short pairs as lines, of few words so that nothing but their number grows."""
    every = list(zip(sentences(seed, 1000), sentences(seed + 1, 1000), strict=True))
    return [f"{a}\t{b}" for a, b in every * -(-num // 1000)][:num]


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def start(folder, source, output, *flags):
    args = ["align", f"--model={folder}", f"--input={source}", f"--output={output}", *flags]
    return subprocess.Popen([sys.executable, "-m", "jalign", *args], env=ALONE, text=True,
                            stderr=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip


def expected_counts(lines):
    """Count lines that are no pairs and pairs with an empty side."""
    flaws = sum("\t" not in line for line in lines)
    return {"flaws": flaws, "empty": sum(line.endswith("\t") for line in lines)}


@pytest.mark.parametrize("name", ["align", "evaluate"])
def test_help_needs_no_jax_and_names_the_choices(name):
    code = (
        "import sys\nfrom jalign.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: code = end.code\n"
        "heavy = {'jax', 'flax', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    args = [sys.executable, "-c", code, name, "--help"]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--model" in done.stdout and "grow-diag-final-and" in "".join(done.stdout.split())


def test_the_flags_offer_what_the_library_has():
    fv = command._parse(["--model=m"])
    offered = {name: tuple(fv[name].parser.enum_values) for name in
               ("method", "similarity", "layout", "level", "on_overflow", "unit")}  # fmt: skip
    assert offered == dict(method=METHODS, similarity=KINDS, layout=LAYOUTS, level=LEVELS,
                           on_overflow=OVERFLOW, unit=UNITS)  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--model is missing: type --model=DIR"),
        (["--model=m", "--input=a", "--source=b", "--target=c"], "type either --input=FILE"),
        (["--model=m", "--source=b"], "type either --input=FILE"),
        (["--model=m", "--source=-", "--target=-"], "only one of --source and --target can be"),
        (["--model=m", "--input=nowhere"], "no file 'nowhere'; correct --input"),
        (["--model=m", "--source=pairs", "--target=."], "no file '.'; correct"),
        (["--model=m", "--input=pairs", "--output=no/links"], "there is no folder no; make it"),
        (["--model=m", "--input=pairs", "--output=."], "--output=. is a folder; type a file in it"),
        (["--model=m", "--input=pairs", "--output=/dev/null"], "is no plain file"),
        (["--model=m", "--input=pairs", "--output=../here/pairs"], "is the input; type another"),
        (["--model=m", "--input=pairs", "--step=two"], "need a number, or best"),
        (["--model=m", "--unit=char", "--pretokenized"], "leave out --unit=char"),
        (["--model=m", "--method=itermx"], "value should be one of <argmax|itermax|"),
        (["--model=m", "--layer=-2"], "layer"),
        (["--model=m", "--threshold=2"], "threshold"),
        (["--model=m", "--stuff=1"], "stuff"),
        (["--model=m", "pairs"], "unexpected ['pairs']"),
        (["--model=m", "--input=pairs"], "m is no folder: name a Hugging Face folder"),
    ],
)
def test_wrong_arguments_exit_with_2_and_say_what_to_type(
    flags, said, capsys, tmp_path, monkeypatch
):
    here = tmp_path / "here"
    here.mkdir()
    write(here / "pairs", ["a\tb"])
    monkeypatch.chdir(here)
    assert main(["align", *flags]) == 2
    assert said in capsys.readouterr().err
    assert [p.name for p in here.iterdir()] == ["pairs"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layer=3"], "layer=3: this encoder has 2 layers"),
        (["--method=argmax", "--threshold=0.1"], "only softmax and entmax have one, not argmax"),
        (["--step=3"], "is a Hugging Face folder: it has no checkpoint 3"),
    ],
)
def test_options_that_the_model_does_not_have_exit_with_2(folder, tmp_path, capsys, flags, said):
    source = write(tmp_path / "pairs", ["a\tb"])
    assert main(["align", f"--model={folder}", f"--input={source}", *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(folder, tmp_path):
    lines = pairs(8 * WINDOW)
    for at in (3, 9, 700):  # empty sides first, then lines that are no pairs, read ahead
        lines[at] = "the house\t"
    for at in range(WINDOW + 5, len(lines), WINDOW // 2):
        lines[at] = "no pair"
    source = write(tmp_path / "pairs", lines)
    output, whole, note = (tmp_path / n for n in ("links", "whole", "links.part.json"))
    flags = ["--method=softmax", "--scores", "--words"]
    killed = start(folder, source, output, *flags)
    while not note.exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    assert not output.exists()
    there = json.loads(note.read_text())
    assert 0 < there["lines"] < len(lines) and there["lines"] % WINDOW == 0
    part = (tmp_path / "links.part").read_bytes()[: there["bytes"]].decode()
    assert part.count("\n") == there["lines"]
    counted = {name: there["counts"].get(name, 0) for name in ("flaws", "empty")}
    assert counted == expected_counts(lines[: there["lines"]])
    assert there["counts"]["links"] == part.count("<sep>")
    again, other = (start(folder, source, path, *flags) for path in (output, whole))
    _, said = again.communicate()
    assert again.returncode == 0 and f"going on after line {there['lines']:,} of 8,192" in said
    assert other.wait() == 0
    assert output.read_bytes() == whole.read_bytes()
    total = expected_counts(lines)
    assert f"no pairs: {total['flaws']}; pairs with an empty side: {total['empty']}" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["links", "pairs", "whole"]


@pytest.fixture(scope="module")
def left_over(folder, tmp_path_factory):
    """What a run leaves that is interrupted before its end; its lines are then made recognisable.

    Returns (flags without --output, the part, its note).
    """
    path = tmp_path_factory.mktemp("left")
    source = write(path / "pairs", ["the house\tla maison", "le chat\tthe cat"])
    flags = ["align", f"--model={folder}", f"--input={source}"]

    def interrupt(file):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LineFile, "finish", interrupt)
        assert main([*flags, f"--output={path / 'links'}"]) == 130
    part, note = (path / f"links.part{x}" for x in ("", ".json"))
    return flags, b"x" * part.stat().st_size, note.read_bytes()


CHANGES = {
    "none": [],
    "scores": ["--scores"],
    "words": ["--words"],
    "unit": ["--unit=char"],
    "layer": ["--layer=2"],
    "overflow": ["--on-overflow=skip"],
    "format": ["--format=tsv"],
    "dtype": ["--dtype=bfloat16"],
}


@pytest.mark.parametrize("change", [*CHANGES, "input", "model"])
def test_only_the_same_command_goes_on_with_a_part(left_over, tmp_path, capsys, change):
    flags, part, note = left_over
    (tmp_path / "links.part").write_bytes(part)
    (tmp_path / "links.part.json").write_bytes(note)
    flags = [*flags, f"--output={tmp_path / 'links'}", *CHANGES.get(change, [])]
    if change == "input":
        source = write(tmp_path / "pairs", ["the house\tla maison", "le chat\tthe dog"])
        flags[2] = f"--input={source}"
    if change == "model":
        make_folder(tmp_path / "other", "xlm-roberta", 0, type_vocab_size=2)
        flags[1] = f"--model={tmp_path / 'other'}"
    assert main(flags) == 0
    goes_on = change == "none"
    assert ("going on after line 2 of 2" in capsys.readouterr().err) == goes_on
    assert ((tmp_path / "links").read_bytes() == part) == goes_on
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.slow
def test_a_workdir_of_a_run_is_a_model_at_any_of_its_steps(tmp_path, capsys):
    data, workdir = write_tiny_dataset(tmp_path / "data"), tmp_path / "run"
    flags = [f"--config={TINY_CONFIG}:{data}", f"--workdir={workdir}"]
    assert main(["pretrain", *flags]) == 0
    texts = [line.split("\t") for line in pairs(40)]
    source = write(tmp_path / "pairs", ["\t".join(pair) for pair in texts])
    found = {}
    for step in (None, 2, 6):
        capsys.readouterr()
        given = [] if step is None else [f"--step={step}"]
        assert main(["align", f"--model={workdir}", f"--input={source}", *given]) == 0
        found[step] = capsys.readouterr().out.split("\n")[:-1]
    assert found[None] == found[6] != found[2]
    links = jalign.load(workdir, step=6).align([tuple(pair) for pair in texts])
    assert found[6] == [" ".join(f"{i}-{j}" for i, j in x.pairs_A2.tolist()) for x in links]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(folder, tmp_path):
    """At most a tenth more for twenty times as many pairs."""
    code = (
        "import resource, sys; from jalign.cli.main import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    env = {**ALONE, "JAX_ENABLE_COMPILATION_CACHE": "false"}  # to compile takes memory: both do
    peaks = {}
    for num in (1_000, 20_000):
        source = write(tmp_path / f"{num}.tsv", pairs(num))
        args = [f"--model={folder}", f"--input={source}", f"--output={tmp_path / 'links'}"]
        done = subprocess.run(
            [sys.executable, "-c", code, "align", *args],
            env=env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks[num] = int(done.stdout.splitlines()[-1]) / 1024
    # MiB; measured: 615 and 650, for there are windows in preparation too
    assert peaks[20_000] < 1.1 * peaks[1_000], peaks
