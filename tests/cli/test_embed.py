"""`jalign embed`: a vector for every line, in order, in constant memory, also after a kill -9."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import zstandard

import jalign
from jalign.cli.main import main
from jalign.hf.compare import SENTENCES
from tests.tiny import sentences

pytest.importorskip("torch")

from tests.hf.torch_models import make_folder  # noqa: E402

LINES = [*SENTENCES, "", "the house", "a\x0bb\u2028c", "  ", *sentences(3, 20), ""]
ALONE = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed") / "model"
    make_folder(folder, "xlm-roberta", 2)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return jalign.load(folder)


@pytest.fixture
def embed(folder, tmp_path, capsys):
    """Run the command on lines or bytes; return its exit code, vectors, and what it said."""

    def run(content, *flags, name="lines.txt"):
        if isinstance(content, list):
            content = "".join(line + "\n" for line in content).encode()
        (tmp_path / name).write_bytes(content)
        output = tmp_path / "v.npy"
        code = main(
            ["embed", f"--model={folder}", f"--input={tmp_path / name}", f"--output={output}"]
            + list(flags)
        )
        said = capsys.readouterr()
        return code, np.load(output) if output.exists() else None, said

    return run


def test_every_line_gets_its_vector_in_order(embed, model):
    code, vectors, said = embed(LINES)
    assert code == 0
    np.testing.assert_array_equal(vectors, model.embed(LINES))
    assert f"float32 [{len(LINES)}, 48]" in said.out and "tokens/s" in said.out


def test_options_are_those_of_the_model(embed, model):
    flags = ["--pooling=cls", "--layer=0", "--normalize", "--on-overflow=error"]
    _, vectors, _ = embed(LINES, *flags)
    np.testing.assert_array_equal(
        vectors, model.embed(LINES, pooling="cls", layer=0, normalize=True)
    )


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_packed_files_are_unpacked(embed, model, suffix, pack):
    _, vectors, _ = embed(pack("\n".join(LINES[:5]).encode()), name="lines.txt" + suffix)
    np.testing.assert_array_equal(vectors, model.embed(LINES[:5]))


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_text(embed, model):
    _, vectors, _ = embed(b"\xef\xbb\xbfthe house\r\n\r\nla maison")
    np.testing.assert_array_equal(vectors, model.embed(["the house", "", "la maison"]))


def test_an_empty_file_gives_no_rows(embed):
    assert embed(b"")[1].shape == (0, 48)


@pytest.mark.parametrize("given", [["--input=-"], []])
def test_standard_input_is_read(folder, model, tmp_path, monkeypatch, given):
    data = "\ufeffthe house\r\n\nдом".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    output = tmp_path / "v.npy"
    assert main(["embed", f"--model={folder}", f"--output={output}", *given]) == 0
    np.testing.assert_array_equal(np.load(output), model.embed(["the house", "", "дом"]))


def test_invalid_utf8_is_bad_data_with_its_line_before_any_work(embed, tmp_path):
    code, vectors, said = embed(b"the\nhouse\nl\xe9o\n")
    assert code == 3 and vectors is None
    assert f"{tmp_path / 'lines.txt'}:3: byte 0xe9 at position 1 is not UTF-8" in said.err
    assert not list(tmp_path.glob("*.part*"))


def test_a_damaged_archive_and_an_endless_line_are_bad_data(embed):
    code, _, said = embed(gzip.compress(b"the house\n" * 99)[:-12], name="lines.txt.gz")
    assert code == 3 and "lines.txt.gz:" in said.err and "cut short" in said.err
    code, _, said = embed(b"the\n" + b"x" * (1 << 20) + b"y\n")
    assert code == 3 and "lines.txt:2: a line of more than" in said.err


def test_a_line_over_the_limit_is_windowed_cut_or_an_error_with_its_place(embed, model, tmp_path):
    lines = ["the house", " ".join(SENTENCES), "la maison"]
    np.testing.assert_array_equal(embed(lines)[1], model.embed(lines))
    code, vectors, said = embed(lines, "--on-overflow=truncate")
    assert code == 0 and said.err.count("cut 1 of 3 texts, longer than the 128 tokens") == 1
    assert not np.allclose(vectors[1], model.embed(lines)[1], atol=1e-4)
    code, _, said = embed(lines, "--on-overflow=error")
    assert code == 2 and f"{tmp_path / 'lines.txt'}:2 has" in said.err
    assert "--on-overflow=window" in said.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output=v.npy"], "--model is missing: type --model=DIR"),
        (["--model=m"], "--output is missing: type --output=F.npy"),
        (["--model=m", "--output=no/v.npy", "--input=x"], "there is no folder no; make it"),
        (["--model=m", "--output=v.npy", "--input=nowhere.txt"], "no file 'nowhere.txt'; type"),
        (["--model=m", "--output=v.npy", "--input=.", "--step=two"], "need a number, or best"),
        (["--model=m", "--output=v.npy", "--pooling=max"], "value should be one of <mean|cls|po"),
        (["--model=m", "--output=v.npy", "--layer=-3"], "layer"),
        (["--model=m", "--output=v.npy", "--stuff=1"], "stuff"),
        (["--model=m", "--output=v.npy", "file.txt"], "unexpected ['file.txt']"),
    ],
)
def test_wrong_arguments_exit_with_2_and_say_what_to_type(
    flags, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_layer_that_is_not_there_exits_with_2(embed):
    code, _, said = embed(["a"], "--layer=2")
    assert code == 2 and "this encoder has 1 layers" in said.err


def process(folder, source, output, **kw):
    args = ["embed", f"--model={folder}", f"--input={source}", f"--output={output}"]
    return subprocess.Popen([sys.executable, "-m", "jalign", *args], env=ALONE, text=True,
                            stderr=subprocess.PIPE, stdout=subprocess.PIPE, **kw)  # fmt: skip


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(folder, tmp_path):
    source, output, whole = (tmp_path / n for n in ("lines.txt", "v.npy", "whole.npy"))
    lines = sentences(1, 500) * 32
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    note = tmp_path / "v.npy.part.json"
    killed = process(folder, source, output)
    while not note.exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    assert not output.exists()
    rows = json.loads(note.read_text())["rows"]
    assert 0 < rows < len(lines)
    again, other = process(folder, source, output), process(folder, source, whole)
    _, said = again.communicate()
    assert again.returncode == 0 and f"going on after line {rows:,} of 16,000" in said
    assert other.wait() == 0
    assert output.read_bytes() == whole.read_bytes()
    assert np.load(output).shape == (16_000, 48)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lines.txt", "v.npy", "whole.npy"]


def test_other_options_do_not_go_on_with_a_part(embed, tmp_path, model):
    part, note = (tmp_path / f"v.npy.part{x}" for x in ("", ".json"))
    part.write_bytes(bytes(128 + 48 * 4))
    made_of = {"model": model.sha256, "input": "0", "lines": 1, "size": 48}
    note.write_text(json.dumps({"rows": 1, "counts": {}, "made_of": made_of}))
    _, vectors, said = embed(["the house"])
    np.testing.assert_array_equal(vectors, model.embed(["the house"]))
    assert "going on" not in said.err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(folder, tmp_path):
    code = (
        "import resource, sys; from jalign.cli.main import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    peaks = {}
    texts = [" ".join(sentences(i, 4)) for i in range(1000)]
    for num in (8_000, 64_000):
        source = tmp_path / f"{num}.txt"
        source.write_text("\n".join(texts * (num // 1000)), encoding="utf-8")
        args = [f"--model={folder}", f"--input={source}", f"--output={tmp_path / 'v.npy'}"]
        done = subprocess.run(
            [sys.executable, "-c", code, "embed", *args],
            env=ALONE, capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks[num] = int(done.stdout.splitlines()[-1]) / 1024
    # MiB; measured: 31, and 517 when one window takes all texts
    assert peaks[64_000] - peaks[8_000] < 100, peaks
