"""Preparing on Apache Beam writes the bytes of the local path, and stops with its messages."""

import random
import sys
from pathlib import Path

import pytest

from jalign.cli.main import main
from jalign.data.prepare import prepare
from jalign.data.prepare_steps import Options
from jalign.data.tokenizer import train_tokenizer
from jalign.errors import BadData, ConfigError, UserError

SRC = "the red green big old house cat dog tree sees a is runs walks eats".split()
TRG = "das rote grüne große alte Haus Tier Hund Baum sieht ein ist rennt geht isst".split()
PO = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'


def make_pairs(num, seed):
    """Make pairs so short that some repeat."""
    rng = random.Random(seed)
    chosen = [[rng.randrange(len(SRC)) for _ in range(rng.randrange(2, 5))] for _ in range(num)]
    return [(" ".join(SRC[i] for i in c), " ".join(TRG[i] for i in c)) for c in chosen]


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines))


def write_corpora(folder, *, flawed):
    """Write six sources of every format, the first one of four parts; return the `--corpus`."""
    a, b, c, d = (make_pairs(30, seed) for seed in range(4))
    if not flawed:
        a, b, c, d = (list(dict.fromkeys(x)) for x in (a, b, c, d))
        b, c, d = ([p for p in x if p not in set(sum(y, []))] for x, y in
                   ((b, [a]), (c, [a, b]), (d, [a, b, c])))  # fmt: skip
    lines = {name: ["\t".join(p) for p in x] for name, x in (("a", a), ("b", b))}
    if flawed:
        lines["a"][5:5] = [b"caf\xe9\tx", "no tab", "CRLF\tdas\r", lines["a"][0]]
        lines["b"][0:0] = [lines["a"][-1], "the\t" + "das " * 300]
    for name, content in lines.items():
        write_lines(folder / f"{name}.tsv", content)
    write_lines(folder / "c.en", [p[0] for p in c])
    write_lines(folder / "c.de", [p[1] for p in c])
    write_lines(folder / "d.bar", [" ||| ".join(p) for p in d])
    mono = [f"{p[0]} {i}" for i, p in enumerate(make_pairs(40, 9))]
    write_lines(folder / "e.txt", mono + (mono[:3] + ["\x00 the", ""] if flawed else []))
    write_lines(folder / "f.txt", [x for p in make_pairs(9, 10) for x in (*p, "")])
    entries = [f'msgid "{s} {i}"\nmsgstr "{t}"\n' for i, (s, t) in enumerate(make_pairs(8, 11))]
    entries.append('msgid "old"\nmsgstr ""\n')  # untranslated: counted as left out
    write_lines(folder / "fr.po", [PO, *entries])
    write_lines(folder / "blank.txt", ["", ""] if flawed else ["Sawa sawa."])
    return (
        "tsv,en,de,../*.tsv", "moses,en,de,../c.en,../c.de", "triple_bar,en,de,../d.bar",
        "lines,en,../e.txt", "documents,de,../f.txt", "gettext,en,fr,../fr.po",
        "lines,sw,../blank.txt",
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([" ".join(p) for p in make_pairs(60, 8)], folder, 60)
    return folder


@pytest.fixture
def beam(monkeypatch):
    """Skip without Beam; cut parts into many chunks."""
    pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install apache-beam")
    from jalign.data import prepare_beam

    monkeypatch.setattr(prepare_beam, "ROWS_PER_CHUNK", 7)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Prepare in a folder of its own, so that the command is the same."""

    def run(name, corpora, runner="", beam_options="", **options):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        asked = Options(Path("out"), corpora, **options)
        return prepare(asked, runner=runner, beam_options=beam_options)[0]

    return run


def tree(folder):
    """Return all that is in a folder: bytes by path, nothing for folders."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else b""
        for p in sorted(folder.rglob("*"))
    }


def assert_same_bytes(tmp_path):
    here, there = tree(tmp_path / "local"), tree(tmp_path / "beam")
    assert list(here) == list(there)
    assert [name for name in here if here[name] != there[name]] == []


# Every bundle is run twice: what a worker did before it died, or beside another, does no harm.
TWICE = "--direct_runner_bundle_repeat=1"


def test_flawed_corpora_and_a_new_tokenizer_give_the_same_bytes(beam, run, tmp_path):
    corpora = write_corpora(tmp_path, flawed=True)
    # so few characters that languages have to be sampled
    asked = dict(on_error="quarantine", heldout=0.2, vocab_size=60, tokenizer_chars=3000)
    here = run("local", corpora, **asked)
    run("beam", corpora, "direct", TWICE, **asked)
    assert_same_bytes(tmp_path)
    found = {f"{r['stream']}.{r['name']}": r for r in here.details["sources"]}
    assert found["pair.en-de"]["quarantined"].keys() >= {"bad_utf8", "duplicate", "length_ratio"}
    assert found["pair.en-fr"]["left_out"] == {"untranslated": 1}
    assert (found["mono.sw"]["read"], found["mono.sw"]["train"]) == (2, 0)
    assert len(here.sources) == 4


def test_clean_corpora_and_a_given_tokenizer_give_the_same_bytes(beam, run, tmp_path, tokenizer):
    corpora = write_corpora(tmp_path, flawed=False)
    for name, runner in (("local", ""), ("beam", "direct")):
        run(name, corpora, runner, heldout=0.2, tokenizer=tokenizer)
    assert_same_bytes(tmp_path)


@pytest.mark.slow  # processes that import everything anew
def test_two_worker_processes_give_the_same_bytes(beam, run, tmp_path, tokenizer):
    corpora = write_corpora(tmp_path, flawed=True)
    asked = dict(on_error="quarantine", heldout=0.2, vocab_size=60)
    run("local", corpora, **asked)
    workers = "--direct_running_mode=multi_processing --direct_num_workers=2"
    run("beam", corpora, "direct", workers, **asked)
    assert_same_bytes(tmp_path)


def test_a_job_server_takes_the_jobs_and_gives_the_same_bytes(beam, run, tmp_path, tokenizer):
    corpora = write_corpora(tmp_path, flawed=True)
    absolute = tuple(c.replace("../", f"{tmp_path}/") for c in corpora)
    asked = dict(on_error="quarantine", heldout=0.2, tokenizer=tokenizer)
    run("local", absolute, **asked)
    run("beam", absolute, "portable", "--job_endpoint=embed --environment_type=LOOPBACK", **asked)
    assert_same_bytes(tmp_path)


# What is wrong, by file; the mode; a part of the message. Parts are read in the order a.tsv, b.tsv.
ERRORS = {
    "the first flaw of two": ({"b": ["x"], "a": ["y", "z\tz"]}, "strict", "a.tsv:1: missing_sep"),
    "a flaw before repeats": ({"a": ["x\ty", "x\ty"], "b": ["z"]}, "strict", "b.tsv:1: missing"),
    "the first repeat": (
        {"a": [f"x{i}\ty" for i in range(9)], "b": ["x8\ty", "x2\ty", "x2\ty"]}, "strict",
        "b.tsv:1: duplicate: an exact repeat of ../a.tsv:9;",
    ),
    "a file cut short": ({"a": ["x\ty"], "b.gz": ["not packed"]}, "quarantine", "b.tsv.gz:1: the"),
    "nothing to train on": ({"a": ["x", "y"]}, "quarantine", "no text is left to train on; 2 rec"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_the_first_error_in_order_stops_with_the_same_message(beam, run, tmp_path, case, tokenizer):
    files, mode, said = ERRORS[case]
    for name, lines in files.items():
        base, _, packed = name.partition(".")
        write_lines(tmp_path / f"{base}.tsv{'.' + packed if packed else ''}", lines)
    asked = dict(on_error=mode, tokenizer=tokenizer)
    with pytest.raises(UserError) as here:
        run("local", ("tsv,en,de,../*.tsv*",), **asked)
    with pytest.raises(UserError) as there:
        run("beam", ("tsv,en,de,../*.tsv*",), "direct", **asked)
    assert said in str(here.value)
    assert (type(there.value), str(there.value)) == (BadData, str(here.value))
    assert list((tmp_path / "beam").iterdir()) == []


def test_the_command_stops_with_3_and_file_and_line(beam, tmp_path, tokenizer, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "a.tsv", ["x\ty", "one side"])
    args = ["--output=out", f"--tokenizer={tokenizer}", "--corpus=tsv,en,de,a.tsv"]
    assert main(["prepare", *args, "--runner=direct"]) == 3
    said = capsys.readouterr().err
    assert "jalign: a.tsv:2: missing_separator" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("runner", "beam_options", "said"),
    [
        ("flnk", "", "Did you mean 'flink'? There are: direct, portable, flink, spark, dataflow"),
        ("", "--streaming", "type --runner=NAME as well"),
        ("direct", "--direct_num_worker=2", "no option 'direct_num_worker'. Did you mean 'direct_"),
        ("direct", "--direct_num_workers=two", "invalid int value: 'two'"),
        ("direct", "--runner=FlinkRunner", "the runner is a flag of its own"),
        ("direct", "two", "'two' is no option"),
        ("direct", "'--x", "No closing quotation"),
        ("flink", "--flink_master=localhost:8081 --parallelism=4", "type absolute paths"),
    ],
)
def test_what_beam_cannot_do_is_refused_before_anything_is_read(
    beam, run, tmp_path, tokenizer, runner, beam_options, said
):
    write_lines(tmp_path / "a.tsv", ["x\ty"])
    with pytest.raises(ConfigError) as error:
        run("beam", ("tsv,en,de,../a.tsv",), runner, beam_options, tokenizer=tokenizer)
    assert said in str(error.value)
    assert list((tmp_path / "beam").iterdir()) == []


@pytest.mark.parametrize(
    ("beam_options", "said"),
    [
        ("--job_endpoint=localhost:1 --job_server_timeout=1", "no job server took the job (Future"),
        ("", "You must specify a --job_endpoint"),
    ],
)
def test_a_job_server_that_does_not_answer_is_named(
    beam, run, tmp_path, tokenizer, beam_options, said
):
    write_lines(tmp_path / "a.tsv", ["x\ty"])
    with pytest.raises(ConfigError) as error:
        run("beam", (f"tsv,en,de,{tmp_path}/a.tsv",), "portable", beam_options, tokenizer=tokenizer)
    assert said in str(error.value)
    assert list((tmp_path / "beam").iterdir()) == []


def test_without_beam_the_message_says_what_to_install(run, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "jalign.data.prepare_beam", raising=False)
    write_lines(tmp_path / "a.tsv", ["x\ty"])
    with pytest.raises(ConfigError, match=r"type pip install apache-beam"):
        run("beam", ("tsv,en,de,../a.tsv",), "direct", tokenizer=tokenizer)
