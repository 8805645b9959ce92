"""What `jalign pretrain` is told of data and machines that a run cannot use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from jalign.cli.main import main
from jalign.data.pipeline import StreamConfig, make_stream
from jalign.data.records import read_manifest
from jalign.errors import ConfigError
from tests.tiny import SPECIALS, write_tiny_dataset

CONFIG = Path(__file__).parents[1] / "train/tiny_config.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "data")


def without(manifest, stream="", split=""):
    """Return the manifest as it is where no such stream or split was prepared."""
    sources = tuple(
        dataclasses.replace(s, splits={n: i for n, i in s.splits.items() if n != split})
        for s in manifest.sources
        if s.stream != stream
    )
    return dataclasses.replace(manifest, sources=sources)


def test_a_stream_of_pairs_without_pairs_says_how_to_go_without(data):
    manifest = without(read_manifest(data), stream="pair")
    with pytest.raises(ConfigError) as raised:
        make_stream(manifest, SPECIALS, "pair", StreamConfig("joint", 8))
    said = str(raised.value)
    assert "stream 'pair' (layout 'joint') reads pairs" in said and "mono/en" in said
    assert "--corpus=tsv" in said and "take out of the config file streams.pair" in said
    assert make_stream(manifest, SPECIALS, "mono", StreamConfig("single", 8)).index[0].size == 200


def test_a_stream_of_text_without_text_is_told_what_there_is(data):
    cfg = StreamConfig("single", 8, pair_sides=False)
    with pytest.raises(ConfigError, match="has pair/en-de, pair/en-ru. Prepare it with --corpus"):
        make_stream(without(read_manifest(data), stream="mono"), SPECIALS, "mono", cfg)


def test_sources_that_the_dataset_lacks_are_named(data, tmp_path, capsys):
    config = CONFIG.parents[2] / "configs/xlmr_base.py:small"
    flags = [f"--config.data={data}", "--config.streams.pair.sources=('foo',)"]
    assert main(["pretrain", f"--config={config}", f"--workdir={tmp_path}/run", *flags]) == 2
    err = capsys.readouterr().err
    assert "config.streams.pair.sources=('foo',)" in err and "pair/en-de" in err


def test_a_dataset_with_nothing_held_out_is_to_be_prepared_again(data):
    manifest = without(read_manifest(data), split="heldout")
    for name, cfg in (("mono", StreamConfig("single", 8)), ("pair", StreamConfig("joint", 8))):
        with pytest.raises(ConfigError, match="jalign prepare --heldout=0.01") as raised:
            make_stream(manifest, SPECIALS, name, cfg, split="heldout")
        assert f"stream '{name}'" in str(raised.value) and "sources" not in str(raised.value)


def test_a_file_in_place_of_a_prepared_folder_is_called_a_file(tmp_path, capsys):
    path = tmp_path / "corpus.txt"
    path.write_text("a\n")
    assert main(["pretrain", f"--config={CONFIG}:{path}", f"--workdir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert f"config.data={path} is a file; need a folder that jalign prepare made" in err
    assert not (tmp_path / "run").exists()


def test_a_run_that_memory_cannot_hold_exits_with_2_and_names_what_is_smaller(
    data, tmp_path, capsys
):
    # more bytes than a process can address, wherever this runs
    big = ["--config.encoder.hidden=16384", f"--config.encoder.mlp={1 << 30}"]
    argv = [f"--config={CONFIG}:{data}", f"--workdir={tmp_path}/run", *big]
    assert main(["pretrain", *argv]) == 2
    err = capsys.readouterr().err
    assert "does not fit into the memory of its devices" in err and "ut of memory" in err
    for what in ("--config.accumulate=N", "rows or row_length", ":small", "'jalign plan'"):
        assert what in err
