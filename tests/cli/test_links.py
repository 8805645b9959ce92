"""`jalign links`: what `jalign align`, or both directions of a lexicon, say of prepared pairs."""

from __future__ import annotations

import numpy as np
import pytest

from jalign.cli.main import main
from jalign.data.lexicon import load_lexicon
from jalign.data.lexicon_cells import Pairs
from jalign.data.pipeline import StreamConfig, make_stream
from jalign.data.records import open_source, read_manifest, read_texts
from jalign.data.rows import Specials
from jalign.errors import UserError
from tests.tiny import write_tiny_dataset
from tests.tiny_tasks import write_model

NUM = {"en-de": 60, "en-ru": 30}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("links")
    write_tiny_dataset(base / "data", 60)
    return base


def check_is_read(data, folder):
    """Check that a stream takes the files; return its links."""
    cfg = StreamConfig(
        "separate", rows=4, row_length=64, pair_sides=False, alpha=0.7, links=str(folder)
    )
    batch = make_stream(read_manifest(data), Specials(0, 2, 1), "pair", cfg).rows(0, 4)
    assert (batch["links"] >= 0).sum() > 20


def test_a_models_links_are_those_of_jalign_align(base, tmp_path, capsys):
    model = write_model(base / "model")
    flags = [f"--model={model}", "--method=intersection", "--layer=1"]
    argv = ["links", f"--data={base / 'data'}", f"--output={tmp_path / 'out'}", *flags]
    assert main(argv) == 0
    assert "en-ru: " in capsys.readouterr().out
    manifest = read_manifest(base / "data")
    for name, num in NUM.items():
        texts = read_texts(manifest, name, "pair", "train", range(num))
        tsv = tmp_path / "pairs.tsv"
        tsv.write_text("".join(f"{src}\t{trg}\n" for src, trg in texts), encoding="utf-8")
        wanted = tmp_path / f"{name}.wanted"
        assert main(["align", f"--input={tsv}", f"--output={wanted}", *flags]) == 0
        found = (tmp_path / f"out/{name}.links").read_text()
        assert found == wanted.read_text() and found.count("\n") == num and found.count("-") > num
    check_is_read(base / "data", tmp_path / "out")
    (tmp_path / "out/en-de.links").write_text("mine\n")
    assert main(argv) == 0  # what is there stays
    assert (tmp_path / "out/en-de.links").read_text() == "mine\n"


def test_lexicons_link_what_is_best_in_both_directions(base, tmp_path):
    data, lexicons = base / "data", base / "lexicons"
    assert main(["lexicon", f"--data={data}", f"--output={lexicons}"]) == 0
    argv = ["links", f"--data={data}", f"--lexicons={lexicons}", f"--output={tmp_path}"]
    assert main(argv) == 0
    for name, num in NUM.items():
        sides = open_source(read_manifest(data), name, "pair", "train").sides
        lexicon, wanted, one_way = load_lexicon(lexicons / f"{name}.npz"), [], 0
        for e in range(num):
            at = [slice(s.offsets[e], s.offsets[e + 1]) for s in sides]
            ids, word = ([getattr(s, n)[a] for s, a in zip(sides, at, strict=True)]
                         for n in ("ids", "word"))  # fmt: skip
            [there, back] = lexicon.align(Pairs.of(ids[:1], ids[1:]))[0]
            sets = [{(word[0][i], word[1][j]) for i, j in links} for links in (there, back)]
            one_way += len(sets[0] ^ sets[1])
            wanted.append(" ".join(f"{i}-{j}" for i, j in sorted(sets[0] & sets[1])))
        assert (tmp_path / f"{name}.links").read_text().splitlines() == wanted
        assert one_way > 0 and np.mean([bool(line) for line in wanted]) > 0.5
    check_is_read(data, tmp_path)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--output=x"], "--data is missing"),
        (["--data={data}"], "--output is missing"),
        (["--data={data}", "--output=x"], "type either --model=DIR or --lexicons=DIR"),
        (["--data={data}", "--output=x", "--lexicons=l", "--layer=1"], "--layer is for --model"),
        (["--data={data}", "--output=x", "--lexicons=none"], "no lexicon for en-de, en-ru"),
    ],
)
def test_usage_errors_say_what_to_type(base, flags, message):
    from jalign.cli.links import main as links

    with pytest.raises(UserError, match=message):
        links([flag.format(data=base / "data") for flag in flags])
