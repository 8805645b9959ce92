"""Storage: columns, records and manifest agree, and a damaged folder is named as such."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from array_record.python import array_record_module

from jalign.data import records
from jalign.data.records import Example, Text
from jalign.data.verify import check_columns, read_memory


def make_text(rng, num_words):
    words = ["".join(rng.choice(list("abcdéж漢"), 3)) for _ in range(num_words)]
    word = np.repeat(np.arange(num_words), rng.integers(1, 4, num_words)).astype(np.int32)
    return Text(" ".join(words), rng.integers(5, 50, len(word)).astype(np.int32), word)


def make_examples(num, num_sides, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Example(
            tuple(make_text(rng, int(rng.integers(1, 9))) for _ in range(num_sides)),
            f"f.tsv:{i + 1}",
        )
        for i in range(num)
    ]


@pytest.fixture
def pairs():
    return make_examples(20, 2)


@pytest.fixture
def manifest(tmp_path, pairs):
    return records.write_dataset(
        tmp_path / "out",
        {
            ("pair", "en-zh-Hans"): {"train": pairs[:15], "heldout": pairs[15:]},
            ("mono", "sw"): {"train": make_examples(7, 1, seed=1), "heldout": []},
        },
        langs={"en-zh-Hans": ("en", "zh-Hans"), "sw": ("sw",)},
        vocab_size=50,
    )


def flip_a_bit(path):
    content, stat = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def assert_same(source, examples):
    assert source.num_examples == len(examples)
    for i, example in enumerate(examples):
        for side, text in zip(source.sides, example.sides, strict=True):
            part = slice(side.offsets[i], side.offsets[i + 1])
            np.testing.assert_array_equal(side.ids[part], text.ids)
            np.testing.assert_array_equal(side.word[part], text.word)


def test_columns_and_texts_come_back_as_written(manifest, pairs):
    read = records.read_manifest(manifest.folder)
    assert read == manifest
    assert read.languages == ("en", "sw", "zh-Hans")
    source = records.open_source(read, "en-zh-Hans", "pair", "train")
    assert_same(source, pairs[:15])
    assert isinstance(source.sides[0].ids.base, np.memmap)  # a view of the map, nothing read yet
    assert source.sides[0].ids.dtype == np.uint16
    texts = records.read_texts(read, "en-zh-Hans", "pair", "heldout", [4, 0])
    assert texts == [tuple(s.text for s in pairs[i].sides) for i in (19, 15)]
    assert [
        e.origin for e in records.read_examples(read, "en-zh-Hans", "pair", "heldout", [1])
    ] == ["f.tsv:17"]


def test_missing_columns_are_rebuilt_from_the_records_byte_for_byte(manifest, pairs):
    folder = manifest.folder / "columns"
    files = [p for p in folder.rglob("*") if p.is_file()]
    before = {p.relative_to(folder): p.read_bytes() for p in files}
    shutil.rmtree(folder)
    assert_same(records.open_source(manifest, "en-zh-Hans", "pair", "heldout"), pairs[15:])
    records.open_source(manifest, "en-zh-Hans", "pair", "train")
    records.open_source(manifest, "sw", "mono", "train")
    assert {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    } == before


def test_columns_that_were_changed_cut_or_swapped_are_found(manifest):
    folder = manifest.folder / "columns/pair/en-zh-Hans"
    ids = folder / "train/trg.ids.npy"
    content = ids.read_bytes()
    ids.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(records.ManifestError, match="trg.ids.npy holds other bytes"):
        check_columns(manifest)
    ids.write_bytes(content[:-8])
    with pytest.raises(records.ManifestError, match="trg.ids.npy has .* bytes of"):
        records.open_source(manifest, "en-zh-Hans", "pair", "train")
    shutil.rmtree(folder / "train")
    shutil.copytree(folder / "heldout", folder / "train")
    with pytest.raises(records.ManifestError, match="it holds something else"):
        records.open_source(manifest, "en-zh-Hans", "pair", "train")
    shutil.rmtree(folder / "train")  # as the message says
    records.open_source(manifest, "en-zh-Hans", "pair", "train")
    check_columns(manifest)


def test_what_was_found_whole_is_read_again_only_after_a_change(manifest, tmp_path):
    memory = tmp_path / "run" / "checked.json"
    assert read_memory(memory) == {}
    check_columns(manifest, memory)
    ids = manifest.folder / "columns/pair/en-zh-Hans/train/trg.ids.npy"
    content, stat = ids.read_bytes(), ids.stat()
    ids.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(records.ManifestError, match="trg.ids.npy holds other bytes"):
        check_columns(manifest, memory)
    os.utime(ids, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    check_columns(manifest, memory)  # the same size and time: it was not read
    memory.write_text("{")
    with pytest.raises(records.ManifestError, match="trg.ids.npy holds other bytes"):
        check_columns(manifest, memory)
    ids.write_bytes(content)
    check_columns(manifest, memory)


def test_a_check_goes_on_where_one_before_was_cut_short(manifest, tmp_path):
    memory = tmp_path / "run" / "checked.json"
    folder = manifest.folder / "columns/pair/en-zh-Hans"
    flip_a_bit(folder / "heldout/trg.ids.npy")
    with pytest.raises(records.ManifestError, match="heldout is not what"):
        check_columns(manifest, memory)
    flip_a_bit(folder / "heldout/trg.ids.npy")
    flip_a_bit(folder / "train/trg.ids.npy")  # found whole, so it is not read again
    check_columns(manifest, memory)
    assert [p.name for p in memory.parent.iterdir()] == ["checked.json"]


@pytest.mark.parametrize("left", ["nothing", "an incomplete folder"])
def test_a_rebuild_keeps_what_another_process_has_finished(manifest, pairs, monkeypatch, left):
    folder = manifest.folder / "columns/pair/en-zh-Hans/train"
    shutil.rmtree(folder)
    if left != "nothing":
        folder.mkdir()
        (folder / "src.ids.npy").write_bytes(b"cut short")
    write_hashes, opened = records.write_hashes, []

    def write_after_another(*args, **kwargs):
        write_hashes(*args, **kwargs)
        if not opened:  # the quicker one begins later and ends before
            opened.append(None)
            opened[0] = records.open_source(manifest, "en-zh-Hans", "pair", "train")
            opened.append((folder / "src.ids.npy").stat().st_ino)

    monkeypatch.setattr(records, "write_hashes", write_after_another)
    slower = records.open_source(manifest, "en-zh-Hans", "pair", "train")
    assert (folder / "src.ids.npy").stat().st_ino == opened[1]
    assert_same(opened[0], pairs[:15])
    assert_same(slower, pairs[:15])
    assert [p.name for p in folder.parent.iterdir() if p.name not in ("train", "heldout")] == []


def test_many_shards_read_as_one_in_order(tmp_path, pairs, monkeypatch):
    monkeypatch.setattr("jalign.data.tfds_source._EXAMPLES_PER_SHARD", 6)
    monkeypatch.setattr("jalign.data.tfds_source._EXAMPLES_PER_WRITE", 4)
    sources = {("pair", "en-de"): {"train": pairs}}
    written = records.write_dataset(
        tmp_path / "o", sources, langs={"en-de": ("en", "de")}, vocab_size=50
    )
    assert len(list(tmp_path.glob("o/records/pair/en-de/1.0.0/*array_record*"))) > 2
    read = records.read_examples(written, "en-de", "pair", "train")
    assert [e.origin for e in read] == [e.origin for e in pairs]


def test_an_empty_split_is_left_out_and_named_when_asked_for(manifest):
    with pytest.raises(
        records.ManifestError, match="has no mono/sw/heldout; it has mono/sw/train, pair/"
    ):
        records.open_source(manifest, "sw", "mono", "heldout")


def test_content_hash_ignores_the_place_and_the_origin_but_not_a_token(tmp_path, pairs):
    def sha256(name, examples):
        return records.write_dataset(
            tmp_path / name,
            {("pair", "en-de"): {"train": examples}},
            langs={"en-de": ("en", "de")},
            vocab_size=50,
        ).sha256

    moved = [e._replace(origin="elsewhere:1") for e in pairs]
    other = [*pairs[:-1], pairs[-1]._replace(sides=(pairs[-1].sides[1], pairs[-1].sides[0]))]
    assert sha256("a", pairs) == sha256("b", moved) != sha256("c", other)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: shutil.rmtree(f), "does not exist"),
        (lambda f: (f / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "is damaged"),
        (
            lambda f: (f / "manifest.json").write_text('{"version": 9}'),
            "version 9, this jalign reads 1",
        ),
        (lambda f: shutil.move(f, records.partial_folder(f)), "did not finish"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(manifest, break_it, message):
    break_it(manifest.folder)
    with pytest.raises(records.ManifestError, match=message):
        records.read_manifest(manifest.folder)


def test_a_manifest_changed_by_hand_is_refused(manifest):
    path = manifest.folder / "manifest.json"
    data = json.loads(path.read_text())
    data["sources"][0]["splits"]["train"]["count"] += 1
    path.write_text(json.dumps(data))
    with pytest.raises(records.ManifestError, match="changed by hand"):
        records.read_manifest(manifest.folder)


def test_ids_outside_the_vocabulary_are_refused_with_their_origin(tmp_path, pairs):
    with pytest.raises(Exception, match=r"f\.tsv:\d+: token ids outside 0\.\.9"):
        records.write_dataset(
            tmp_path / "o",
            {("pair", "en-de"): {"train": pairs}},
            langs={"en-de": ("en", "de")},
            vocab_size=10,
        )
    with pytest.raises(records.ManifestError, match="did not finish"):
        records.read_manifest(tmp_path / "o")


def test_records_are_readable_by_tfds_alone_and_without_tensorflow(manifest, pairs):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(manifest.folder / "records/pair/en-zh-Hans/1.0.0"))
    record = builder.as_data_source("train")[3]
    assert record["trg_text"].decode() == pairs[3].sides[1].text
    np.testing.assert_array_equal(record["trg_ids"], pairs[3].sides[1].ids)
    assert "tensorflow" not in sys.modules


def test_records_are_serialized_in_one_order(manifest):
    """Left alone, a protocol buffer's map is written in an order that changes with the process."""
    [path] = manifest.folder.glob("records/pair/en-zh-Hans/1.0.0/*-train.array_record*")
    reader = array_record_module.ArrayRecordReader(str(path))
    names = [b"origin", b"src_ids", b"src_text", b"src_word", b"trg_ids", b"trg_text", b"trg_word"]
    for raw in reader.read_all():
        assert names == sorted(names, key=lambda name: raw.index(b"\n%c" % len(name) + name))
