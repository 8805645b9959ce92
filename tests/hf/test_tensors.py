import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from jalign.errors import BadData, ConfigError, UserError
from jalign.hf.header import DTYPES
from jalign.hf.tensors import INDEX, SINGLE, open_tensors, write_tensors

from . import hostile

FLOATS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def random_array(dtype, shape, seed):
    """Random bits: NaNs with payloads, infinities and subnormal numbers included."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    bits = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return (bits & 1 if dtype == np.bool_ else bits).view(dtype).reshape(shape)


@st.composite
def models(draw, dtypes):
    names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    names = draw(st.lists(names.filter(lambda n: n != "__metadata__"), max_size=6, unique=True))
    return {
        name: random_array(
            draw(st.sampled_from(dtypes)),
            draw(st.lists(st.integers(0, 4), max_size=4)),
            draw(st.integers(0, 1000)),
        )
        for name in names
    }


def assert_same_bits(tensors, model):
    assert sorted(tensors) == sorted(model) and len(tensors) == len(model)
    for name, array in model.items():
        ours = tensors.read_raw(name)
        assert ours.dtype == array.dtype and ours.shape == array.shape
        assert ours.tobytes() == array.tobytes()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    write_tensors(folder, {"one": np.ones((2, 3), np.float32), "two": np.zeros(4, np.float32)})
    (folder / "config.json").write_text(json.dumps(hostile.CONFIG))
    return folder


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_file_with_changed_bytes_is_refused_or_read_as_the_reference_reads_it(data):
    arrays = {"one": np.arange(6, dtype=np.float32).reshape(2, 3), "two": np.arange(3)}
    good = safetensors.numpy.save(arrays, {"format": "pt"})
    header = 8 + int.from_bytes(good[:8], "little")
    at = data.draw(st.integers(0, header))
    end = data.draw(st.integers(at, min(at + 3, header)))
    piece = data.draw(st.binary(max_size=3) | st.text('0123456789-[]{},:" ', max_size=3))
    piece = piece if isinstance(piece, bytes) else piece.encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SINGLE
        path.write_bytes(good[:at] + piece + good[end:])
        try:
            tensors = open_tensors(folder)
        except UserError:
            return
        theirs = safetensors.numpy.load_file(path)
        assert_same_bits(tensors, theirs)


ADVICE = ("again", "download", "take", "pull", "convert", "merge", "rename", "shards", "remove")


@pytest.mark.parametrize("name", hostile.FILES | hostile.FOLDERS)
@pytest.mark.timeout(20)
def test_a_hostile_folder_is_refused_with_what_to_do(folder, name):
    damage, exit_code, said = (hostile.FILES | hostile.FOLDERS)[name]
    assert open_tensors(folder).names == ("one", "two")
    damage(folder)
    with pytest.raises(UserError) as caught:
        open_tensors(folder)
    message = str(caught.value)
    assert said in message and caught.value.exit_code == exit_code, message
    assert str(folder) in message and any(word in message for word in ADVICE)
    assert all(line.isprintable() and len(line) < 1000 for line in message.splitlines())


REFERENCE_IS_LAXER = ("a name twice", "quantised dtype", "shape of 100 dimensions")


@pytest.mark.parametrize("name", hostile.FILES)
@pytest.mark.timeout(20)
def test_the_reference_refuses_the_same_files(folder, name):
    hostile.FILES[name].damage(folder)
    if name in REFERENCE_IS_LAXER:
        with safetensors.safe_open(folder / SINGLE, "np") as file:
            assert file.keys()
    else:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.safe_open(folder / SINGLE, "np")


@settings(max_examples=60, deadline=None)
@given(models([*DTYPES.values()]), st.none() | st.just({"format": "pt", "by": "x"}))
def test_every_file_of_the_reference_is_read_bit_for_bit(model, metadata):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SINGLE
        path.write_bytes(safetensors.numpy.save(model, metadata))
        tensors = open_tensors(folder)
        assert_same_bits(tensors, model)
        assert all(info.file == path for info in tensors.info.values())


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(FLOATS)))
def test_a_single_file_is_byte_for_byte_that_of_the_reference(data, dtype):
    model = data.draw(models([FLOATS[dtype], np.int64, np.int32, np.uint8, np.bool_]))
    with tempfile.TemporaryDirectory() as folder:
        assert write_tensors(folder, model, dtype=dtype) == [Path(folder) / SINGLE]
        written = (Path(folder) / SINGLE).read_bytes()
        assert written == safetensors.numpy.save(model, {"format": "pt"})
        assert os.listdir(folder) == [SINGLE]


@settings(max_examples=60, deadline=None)
@given(models([np.float32, np.int16]), st.integers(1, 200), st.booleans())
def test_shards_keep_every_bit_and_the_limit(model, limit, stream):
    with tempfile.TemporaryDirectory() as folder:
        items = iter(model.items()) if stream else model
        files = write_tensors(folder, items, max_shard_bytes=limit)
        assert_same_bits(open_tensors(folder), model)
        assert sorted(os.listdir(folder)) == sorted(path.name for path in files)
        shards = [path for path in files if path.name != INDEX]
        theirs = [safetensors.numpy.load_file(path) for path in shards]
        for shard in theirs:
            assert len(shard) <= 1 or sum(a.nbytes for a in shard.values()) <= limit
        if len(shards) > 1:
            index = json.loads((Path(folder) / INDEX).read_text())
            held = {n: p.name for p, shard in zip(shards, theirs, strict=True) for n in shard}
            assert index["weight_map"] == held
            assert index["metadata"]["total_size"] == sum(a.nbytes for a in model.values())
        first = {path.name: path.read_bytes() for path in files}
        write_tensors(folder, model, max_shard_bytes=limit)
        assert first == {path.name: path.read_bytes() for path in files}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["F32", "F16", "BF16", "F64"]), st.integers(0, 1000))
def test_read_gives_float32_of_exactly_the_same_value(code, seed):
    array = random_array(DTYPES[code], (5, 7), seed)
    if code == "F64":  # those that float32 can hold; the others have their own test
        with np.errstate(invalid="ignore"):
            array = random_array(np.float32, (5, 7), seed).astype(np.float64)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SINGLE).write_bytes(safetensors.numpy.save({"a": array}))
        ours = open_tensors(folder).read("a")
        theirs = safetensors.torch.load_file(Path(folder) / SINGLE)["a"].double().numpy()
    assert ours.dtype == np.float32 and not ours.flags.writeable
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(ours.astype(np.float64), theirs)


@pytest.mark.parametrize("value", [1 + 2**-40, 1e300])
def test_float64_that_float32_cannot_hold_is_refused(tmp_path, value):
    safetensors.numpy.save_file({"a": np.array([1.0, value])}, tmp_path / SINGLE)
    with pytest.raises(ConfigError, match=r"model\.float\(\)"):
        open_tensors(tmp_path).read("a")
    assert open_tensors(tmp_path).read_raw("a")[1] == value


def test_integers_are_no_weights_but_can_be_read_raw(tmp_path):
    safetensors.numpy.save_file({"ids": np.arange(5)}, tmp_path / SINGLE)
    with pytest.raises(ConfigError, match="'ids' is I64"):
        open_tensors(tmp_path).read("ids")
    assert open_tensors(tmp_path).read_raw("ids").tolist() == [0, 1, 2, 3, 4]


def test_an_unknown_name_gets_a_suggestion(folder):
    with pytest.raises(BadData, match="Did you mean 'one'"):
        open_tensors(folder).read("on")


@pytest.mark.parametrize("pad", range(8))
def test_a_header_of_any_length_gives_aligned_arrays(tmp_path, pad):
    text = json.dumps({"a": hostile.entry([3], 0, 12)}).encode() + b" " * pad
    hostile.put(tmp_path / SINGLE, text, np.arange(3, dtype=np.float32).tobytes())
    array = open_tensors(tmp_path).read("a")
    assert array.tolist() == [0, 1, 2] and array.flags.aligned and not array.flags.writeable


def test_the_shards_of_the_hostile_folders_are_good_with_a_good_index(folder):
    weight_map = {"one": "a.safetensors", "two": "b.safetensors", "three": "b.safetensors"}
    hostile.sharded(weight_map)(folder)
    assert open_tensors(folder).read_raw("three").tobytes() == b"9012"


def test_linked_files_are_read_as_in_a_hub_cache(folder, tmp_path):
    (folder / SINGLE).rename(tmp_path / "blob")
    (folder / SINGLE).symlink_to(tmp_path / "blob")
    assert open_tensors(folder).read("one").shape == (2, 3)


def test_a_bare_encoder_is_converted_by_its_own_class(folder):
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    for named, used in (
        (["BertModel"], "import AutoTokenizer, BertModel;"),
        (["BertForMaskedLM"], "AutoModelForMaskedLM"),
        (['x"; import os; Model'], "AutoModelForMaskedLM"),
        ("BertModel", "AutoModelForMaskedLM"),
    ):
        (folder / "config.json").write_text(json.dumps({"architectures": named}))
        with pytest.raises(ConfigError) as caught:
            open_tensors(folder)
        assert used in str(caught.value)
        assert "import os" not in str(caught.value)


@pytest.mark.slow
def test_the_printed_command_converts(tmp_path, monkeypatch):
    model = tiny_bert()
    old = tmp_path / "a 'quoted' name"
    model.save_pretrained(old)
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    (old / SINGLE).unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
    (old / "vocab.txt").write_text("\n".join(words))
    with pytest.raises(ConfigError) as caught:
        open_tensors(old)
    command = next(line for line in str(caught.value).splitlines() if "python -c" in line)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run(command, shell=True, check=True, capture_output=True)
    converted = tmp_path / "a 'quoted' name-safetensors"
    assert str(converted) in str(caught.value)
    tensors = open_tensors(converted)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensors.read(name), tensor.numpy())


def tiny_bert():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**hostile.CONFIG)).eval()


@pytest.mark.parametrize("limit", ["1GB", "2KB"])
def test_folders_of_transformers_are_read_and_ours_are_read_by_it(tmp_path, limit):
    model = tiny_bert()
    model.save_pretrained(tmp_path / "theirs", max_shard_size=limit)
    tensors = open_tensors(tmp_path / "theirs")
    state = model.state_dict()
    assert sorted(tensors) == sorted(state)
    for name in tensors:
        np.testing.assert_array_equal(tensors.read(name), state[name].numpy())
    limits = {"1GB": 10**9, "2KB": 2000}
    arrays = {name: tensors.read(name) for name in tensors}
    files = write_tensors(tmp_path / "ours", arrays, max_shard_bytes=limits[limit])
    assert (len(files) > 2) == (limit == "2KB")
    shutil.copy(tmp_path / "theirs/config.json", tmp_path / "ours")
    again = transformers.BertModel.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_that_of_torch(tmp_path, dtype):
    x = np.random.default_rng(0).normal(size=10_000).astype(np.float32) * 100
    x[:4] = [np.nan, np.inf, -np.inf, 1e-7]
    write_tensors(tmp_path, {"a": x, "ids": np.arange(3)}, dtype=dtype)
    theirs = torch.from_numpy(x).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(open_tensors(tmp_path).read("a"), theirs)
    assert open_tensors(tmp_path).info["ids"].dtype == "I64"


def test_a_number_too_large_for_float16_is_refused_and_leaves_the_folder(folder):
    with pytest.raises(ConfigError, match="bfloat16"):
        write_tensors(folder, {"a": np.array([1e5], np.float32)}, dtype="float16")
    assert open_tensors(folder).names == ("one", "two")
    assert sorted(os.listdir(folder)) == ["config.json", SINGLE]


def test_what_cannot_be_written_says_so(tmp_path):
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        write_tensors(tmp_path, {}, dtype="int8")
    with pytest.raises(ValueError, match="comes twice"):
        write_tensors(tmp_path, [("a", np.ones(1)), ("a", np.ones(1))], max_shard_bytes=1)
    with pytest.raises(ValueError, match="safetensors has none"):
        write_tensors(tmp_path, {"a": np.array([None])})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_tensors(tmp_path / "file", {"a": np.ones(1)})


def test_views_and_foreign_byte_orders_are_written_by_value(tmp_path):
    x = np.arange(24.0).reshape(2, 3, 4)
    arrays = {"t": x.T, "s": x[:, ::2], "b": x.astype(">f4"), "i": np.arange(3, dtype=">i4")}
    write_tensors(tmp_path, arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(open_tensors(tmp_path).read_raw(name), array)


MODELS = {  # of equal shape, so that a mixture of old and new would open
    "old": {f"layer.{i}": np.full(4, -1, np.float32) for i in range(4)},
    "new": {f"layer.{i}": np.full(4, i + 1, np.float32) for i in range(4)},
}


@pytest.mark.parametrize("new_limit", [16, 32, 1000])
@pytest.mark.parametrize("old_limit", [16, 32, 1000])
def test_a_kill_at_any_moment_never_mixes_old_and_new(tmp_path, monkeypatch, old_limit, new_limit):
    changes = 0  # of the folder, before the kill

    def killed(method):
        def wrapper(self, *args, **kwargs):
            nonlocal changes
            if changes == 0:
                raise KeyboardInterrupt
            changes -= 1
            return method(self, *args, **kwargs)

        return wrapper

    whole = {k: {n: a.tolist() for n, a in model.items()} for k, model in MODELS.items()}
    for moment in range(1, 40):
        folder = tmp_path / str(moment)
        write_tensors(folder, MODELS["old"], max_shard_bytes=old_limit)
        changes, done = moment, False
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed(Path.replace))
            patch.setattr(Path, "unlink", killed(Path.unlink))
            with contextlib.suppress(KeyboardInterrupt):
                write_tensors(folder, MODELS["new"], max_shard_bytes=new_limit)
                done = True
        try:
            tensors = open_tensors(folder)
            found = {name: tensors.read(name).tolist() for name in tensors}
        except UserError:
            assert not done
            continue
        assert found == whole["new"] or (not done and found == whole["old"])
        write_tensors(folder, MODELS["old"])  # the next export clears what the kill left
        assert os.listdir(folder) == [SINGLE]
        if done:
            break
    assert done and moment > 2


def test_an_export_over_a_model_in_use_leaves_what_was_read(folder):
    array = open_tensors(folder).read("one")
    write_tensors(folder, {"one": np.zeros((2, 3), np.float32), "two": np.ones(4, np.float32)})
    assert array.tolist() == [[1] * 3] * 2
    assert open_tensors(folder).read("one").tolist() == [[0] * 3] * 2


def test_an_error_in_the_middle_leaves_the_old_model(folder):
    def tensors():
        yield "one", np.zeros(100, np.float32)
        yield "two", np.zeros(100, np.float32)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_tensors(folder, tensors(), max_shard_bytes=4)
    assert open_tensors(folder).read("one").tolist() == [[1] * 3] * 2
    assert sorted(os.listdir(folder)) == ["config.json", SINGLE]
