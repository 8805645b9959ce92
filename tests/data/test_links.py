"""Links from outside reach the rows as slots of the right pair, from a lexicon or from a file."""

from __future__ import annotations

import numpy as np
import pytest

from jalign.cli.main import main
from jalign.data.links import file_links, open_link_files
from jalign.data.pipeline import StreamConfig, make_stream
from jalign.data.records import open_source, read_manifest
from jalign.data.rows import Specials
from jalign.errors import BadData, ConfigError
from tests.tiny import write_tiny_dataset

SPECIALS = Specials(0, 2, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("links") / "data")


@pytest.fixture(scope="module")
def lexicons(data):
    assert main(["lexicon", f"--data={data}", f"--output={data.parent / 'lexicons'}"]) == 0
    return data.parent / "lexicons"


def stream(data, **entries):
    cfg = StreamConfig("joint", rows=4, row_length=64, pair_sides=False, **entries)
    return make_stream(read_manifest(data), SPECIALS, "pair", cfg)


def links_of(batch):
    """Yield (row, source slot, target slot, weight) of every link."""
    for r, (links, weights) in enumerate(zip(batch["links"], batch["link_weight"], strict=True)):
        real = links[:, 0] >= 0
        assert (weights[real] > 0).all() and (weights[~real] == 0).all()
        yield from ((r, i, j, w) for (i, j), w in zip(links[real], weights[real], strict=True))


def test_lexicon_links_join_content_slots_of_one_pair(data, lexicons):
    rows = stream(data, lexicons=str(lexicons))
    assert {"links", "link_weight"} <= set(rows.fields)
    batch = rows.rows(0, 4)
    assert batch["links"].shape == (4, 64, 2)
    found = list(links_of(batch))
    assert len(found) > 20
    for r, i, j, _ in found:
        assert batch["example"][r, i] == batch["example"][r, j] > 0
        assert (batch["side"][r, i], batch["side"][r, j]) == (1, 2)
    alone = rows.rows(2, 1)
    np.testing.assert_array_equal(alone["links"][0], batch["links"][2])


def test_links_do_not_change_the_rows(data, lexicons):
    plain, linked = stream(data).rows(1, 2), stream(data, lexicons=str(lexicons)).rows(1, 2)
    assert set(linked) - set(plain) == {"links", "link_weight"}
    for name, values in plain.items():
        np.testing.assert_array_equal(values, linked[name])


def test_file_links_join_the_first_pieces_of_words(data, tmp_path):
    manifest = read_manifest(data)
    for name in ("en-de", "en-ru"):
        source = open_source(manifest, name, "pair", "train")
        words = [
            [int(side.word[side.offsets[e] : side.offsets[e + 1]].max()) for side in source.sides]
            for e in range(len(source.sides[0].offsets) - 1)
        ]
        lines = [f"0-{b} {a}-0" if a else f"0-{b}" for a, b in words]
        (tmp_path / f"{name}.links").write_text("\n".join(lines) + "\n")
    rows = stream(data, links=str(tmp_path))
    batch, linked = rows.rows(0, 2), 0
    for r, i, j, weight in links_of(batch):
        assert weight == 1.0
        assert batch["example"][r, i] == batch["example"][r, j]
        word = batch["word"][r]
        assert 0 in (word[i], word[j])
        for slot in (i, j):
            assert word[slot - 1] != word[slot] or batch["side"][r, slot - 1] == 0, "first piece"
        linked += 1
    assert linked > 10


def test_missing_or_short_files_say_what_is_needed(data, tmp_path):
    with pytest.raises(ConfigError, match="jalign lexicon --data"):
        stream(data, lexicons=str(tmp_path))
    with pytest.raises(ConfigError, match="need a file of 200 Pharaoh lines"):
        stream(data, links=str(tmp_path))
    (tmp_path / "en-de.links").write_text("0-0\n")
    with pytest.raises(BadData, match="has 1 lines, and source en-de has 200"):
        open_link_files(tmp_path, {"en-de": 200})
    with pytest.raises(ValueError, match="one of them only"):
        StreamConfig("joint", rows=4, lexicons="a", links="b")
    with pytest.raises(ValueError, match="no pairs to link"):
        StreamConfig("single", rows=4, lexicons="a")


def test_a_link_to_a_word_that_is_not_there_names_its_line(data):
    from jalign.data.links import PairText

    two = np.array([5, 6]), np.array([0, 1])
    pair = PairText("en-de", 3, *two, *two)
    with pytest.raises(BadData, match=r"en-de.links:4: a link to word 2 \(from 0\)"):
        file_links({"en-de": ["", "", "", "0-2"]})([pair])


def test_lexicon_without_arguments_or_pairs_is_a_usage_error(capsys):
    assert main(["lexicon", "--data=x"]) == 2
    assert "--output is missing" in capsys.readouterr().err
