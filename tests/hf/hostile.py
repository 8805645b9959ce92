"""Build folders that are hostile or broken, each with the exit code and the words it must get."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CONFIG = {
    "model_type": "bert",
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}
GIB = 1 << 30


class Case(NamedTuple):
    """What to do to a good folder, the exit code that reading it gives, words of the message."""

    damage: Callable[[Path], Any]
    exit_code: int
    said: str


def entry(shape: list, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def put(path: Path, header: Any, data: bytes = b"") -> None:
    """Write a safetensors file from any header: an object, or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def single(header: Any, data: bytes = b"") -> Callable[[Path], None]:
    return lambda folder: put(folder / "model.safetensors", header, data)


def content(data: bytes, name: str = "model.safetensors") -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(data)


def cut(keep: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / "model.safetensors", keep)


def spaces(name: str, size: int) -> Callable[[Path], None]:
    """A file that takes no disk, and `size` bytes of memory from whoever reads it."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(b"{")
        os.truncate(folder / name, size)

    return damage


def other(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Something that is no file where a file was."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return damage


def replaced(*names: str) -> Callable[[Path], None]:
    """Other files instead of the safetensors."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        for name in names:
            (folder / name).write_bytes(b"\x80\x04never opened.")

    return damage


def sharded(weight_map: Any, missing: bool = False) -> Callable[[Path], None]:
    """An index, and the shards a.safetensors with `one`, b.safetensors with `two` and `three`."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        put(folder / "a.safetensors", {"one": entry([1], 0, 4)}, b"1234")
        if not missing:
            header = {"two": entry([1], 0, 4), "three": entry([1], 4, 8)}
            put(folder / "b.safetensors", header, b"56789012")
        index = {"metadata": {"total_size": 8}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


def config(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(CONFIG | changes))


def many(number: int) -> bytes:
    """A header of small values: 3 bytes each in the file, some 70 in memory."""
    return b'{"a":[' + b"{}," * number + b"{}]}"


TWICE = b"{%s,%s}" % ((b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',) * 2)
FILES = {
    "zero-length file": Case(cut(0), 3, "cut short"),
    "truncated length": Case(cut(5), 3, "cut short"),
    "truncated header": Case(cut(20), 3, "not even a whole header"),
    "truncated data": Case(
        lambda f: cut((f / "model.safetensors").stat().st_size - 1)(f), 3, "end"
    ),
    "header of 2^63 bytes": Case(content(struct.pack("<Q", 1 << 63) + b"{}"), 3, "9,223,372,036"),
    "header of 2^64-1 bytes": Case(content(b"\xff" * 64), 3, "header of 18,446,744"),
    "header of small values": Case(single(many(1_000_000)), 3, "more than 200,000 values"),
    "header of small values in emoji": Case(
        single(json.dumps({"a": "x" * 3_900_000 + "\U0001f600"}, ensure_ascii=False).encode()),
        3,
        "lacks one of dtype",
    ),
    "header of brackets": Case(single(b'{"a":' + b"[" * 1_000_000), 3, "nested too deeply"),
    "header not JSON": Case(single(b"{'a': 1}"), 3, "not valid JSON"),
    "header not UTF-8": Case(single(b'{"\xff": 1}'), 3, "not UTF-8"),
    "header a list": Case(single([]), 3, "holds a list"),
    "header with a number of 5,000 digits": Case(single(b'{"a":' + b"9" * 5_000 + b"}"), 3, "JSON"),
    "metadata of numbers": Case(single({"__metadata__": {"a": 1}}), 3, "metadata"),
    "metadata a list": Case(single({"__metadata__": []}), 3, "metadata"),
    "a tensor that is no object": Case(single({"a": 3}), 3, "lacks one of dtype"),
    "a tensor without offsets": Case(single({"a": {"dtype": "F32", "shape": [1]}}), 3, "lacks"),
    "overlapping offsets": Case(
        single({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"x" * 12), 3, "overlaps"
    ),
    "two tensors in one place": Case(
        single({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, b"x" * 8), 3, "overlaps"
    ),
    "a gap": Case(single({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"x" * 12), 3, "a gap"),
    "bytes before the first tensor": Case(single({"a": entry([1], 4, 8)}, b"x" * 8), 3, "a gap"),
    "bytes behind the last tensor": Case(single({"a": entry([1], 0, 4)}, b"x" * 8), 3, "end at"),
    "offsets beyond the file": Case(single({"a": entry([1024], 0, 4096)}, b"x"), 3, "cut short"),
    "offsets that go backwards": Case(single({"a": entry([1], 8, 4)}, b"x" * 8), 3, "span -4"),
    "three offsets": Case(
        single({"a": entry([1], 0, 4) | {"data_offsets": [0, 4, 4]}}, b"1234"), 3, "two numbers"
    ),
    "one offset": Case(single({"a": entry([1], 0, 4) | {"data_offsets": [0]}}), 3, "two numbers"),
    "offsets of 2^64": Case(single({"a": entry([1], 2**64, 2**64 + 4)}, b"x" * 4), 3, "offsets"),
    "negative shape": Case(single({"a": entry([-1, -1], 0, 4)}, b"1234"), 3, "[-1, -1]"),
    "shape of floats": Case(single({"a": entry([1.0], 0, 4)}, b"1234"), 3, "[1.0]"),
    "shape of bools": Case(single({"a": entry([True], 0, 4)}, b"1234"), 3, "[True]"),
    "shape a string": Case(single({"a": entry("1", 0, 4)}, b"1234"), 3, "'1'"),
    "shape of 100 dimensions": Case(single({"a": entry([1] * 100, 0, 4)}, b"1234"), 3, "a few"),
    "shape 2^40 x 2^40": Case(single({"a": entry([2**40] * 2, 0, 4)}, b"1234"), 3, "any machine"),
    "shape 2^40 x 2^40 x 0": Case(single({"a": entry([2**40] * 2 + [0], 0, 0)}), 3, "any machine"),
    "shape 2^30": Case(single({"a": entry([2**30], 0, 4)}, b"1234"), 3, "needs 4,294,967,296"),
    "unknown dtype": Case(single({"a": entry([1], 0, 4, "F33")}, b"1234"), 3, "'F33', none of U64"),
    "dtype a list": Case(single({"a": entry([1], 0, 4, [])}, b"1234"), 3, "[], none of"),
    "quantised dtype": Case(single({"a": entry([4], 0, 4, "F8_E4M3")}, b"1234"), 2, "quantised"),
    "a name twice": Case(single(TWICE, b"1234"), 3, "'a' comes twice"),
    "a name that is no text": Case(single({"\ud800": entry([1], 0, 4)}, b"1234"), 3, "surrogates"),
    "metadata that is no text": Case(single({"__metadata__": {"a": "\udfff"}}), 3, "surrogates"),
    "a shape of minus zero": Case(
        single(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), 3, "[-0.0]"
    ),
    "git LFS pointer": Case(
        content(b"version https://git-lfs.github.com/spec/v1\n"), 3, "lfs pull"
    ),
    "pickle renamed to safetensors": Case(content(b"\x80\x04\x95" + b"x" * 99), 2, "a pickle"),
    "torch.save renamed to safetensors": Case(content(b"PK\x03\x04" + b"x" * 99), 2, "a pickle"),
}
FOLDERS = {
    "folder instead of file": Case(other("model.safetensors", Path.mkdir), 3, "is a folder"),
    "pipe instead of file": Case(other("model.safetensors", os.mkfifo), 3, "a pipe"),
    "link to a device": Case(
        other("model.safetensors", lambda p: p.symlink_to("/dev/zero")), 3, "device"
    ),
    "link to nothing": Case(
        other("model.safetensors", lambda p: p.symlink_to("gone")), 2, "a link"
    ),
    "missing shard": Case(
        sharded({"one": "a.safetensors", "two": "b.safetensors"}, missing=True), 3, "not there"
    ),
    "shard ../evil": Case(sharded({"one": "../evil.safetensors"}), 3, "plain name"),
    "shard /etc/evil": Case(sharded({"one": "/etc/evil.safetensors"}), 3, "plain name"),
    "shard ..\\evil": Case(sharded({"one": "..\\evil.safetensors"}), 3, "plain name"),
    "shard that is a number": Case(sharded({"one": 7}), 3, "plain name"),
    "shard that is a pickle": Case(sharded({"one": "pytorch_model.bin"}), 3, "plain name"),
    "tensor not in its shard": Case(
        sharded({"one": "a.safetensors", "two": "b.safetensors", "four": "b.safetensors"}),
        3,
        "'four' is in 'b.safetensors', and it is not there",
    ),
    "tensor in another shard": Case(
        sharded({"one": "a.safetensors", "two": "b.safetensors", "three": "a.safetensors"}),
        3,
        "'three' is in 'a.safetensors', and it is not there",
    ),
    "tensor that the index lacks": Case(
        sharded({"one": "a.safetensors", "two": "b.safetensors"}),
        3,
        "'three' does not exist, and b.safetensors holds it",
    ),
    "tensor in two shards": Case(
        lambda folder: (
            sharded({"one": "a.safetensors", "two": "b.safetensors"})(folder),
            put(
                folder / "b.safetensors",
                {"one": entry([1], 0, 4), "two": entry([0], 4, 4)},
                b"1234",
            ),
        ),
        3,
        "'one' is in 'a.safetensors', and b.safetensors holds it",
    ),
    "10,000 shards": Case(
        sharded({str(i): f"{i}.safetensors" for i in range(10_000)}), 3, "than 200 shards"
    ),
    "index without weight_map": Case(sharded(None), 3, "weight_map"),
    "PyTorch pickle only": Case(replaced("pytorch_model.bin"), 2, "AutoModelForMaskedLM"),
    "sharded pickle": Case(replaced("pytorch_model-00001-of-00002.bin"), 2, "python -c"),
    "Flax only": Case(replaced("flax_model.msgpack"), 2, "from_flax=True"),
    "TensorFlow only": Case(replaced("tf_model.h5"), 2, "from_tf=True"),
    "NumPy objects only": Case(replaced("weights.npz"), 2, "never opens them"),
    "checkpoint only": Case(replaced("epoch3.ckpt"), 2, "never opens them"),
    "adapter only": Case(replaced("adapter_model.safetensors"), 2, "merge"),
    "another name": Case(replaced("model.fp16.safetensors"), 2, "rename"),
    "no weights": Case(replaced(), 2, "holds no weights"),
}
CONFIGS = {
    "config.json missing": Case(lambda f: (f / "config.json").unlink(), 2, "cannot read"),
    "config.json not JSON": Case(content(b"model_type: bert", "config.json"), 3, "not valid JSON"),
    "config.json empty": Case(content(b"", "config.json"), 3, "not valid JSON"),
    "config.json a list": Case(content(b"[1, 2]", "config.json"), 3, "holds a list"),
    "config.json with NaN": Case(content(b'{"a": NaN}', "config.json"), 3, "NaN"),
    "config.json with 1e999": Case(content(b'{"a": 1e999}', "config.json"), 3, "1e999"),
    "config.json with a key twice": Case(content(b'{"a":1,"a":2}', "config.json"), 3, "twice"),
    "config.json in UTF-16": Case(content('{"a":1}'.encode("utf-16"), "config.json"), 3, "UTF-8"),
    "config.json a git LFS pointer": Case(
        content(b"version https://git-lfs.github.com/spec/v1\n", "config.json"), 3, "lfs pull"
    ),
    "config.json of 1 GiB": Case(spaces("config.json", GIB), 3, "1,073,741,824 bytes"),
    "config.json a folder": Case(other("config.json", Path.mkdir), 3, "is a folder"),
    "config.json a pipe": Case(other("config.json", os.mkfifo), 3, "a pipe"),
    "tokenizer.json of 1 GiB": Case(spaces("tokenizer.json", GIB), 3, "tokenizer.json has"),
    "tokenizer.json a pipe": Case(other("tokenizer.json", os.mkfifo), 3, "a pipe"),
    "remote code": Case(config(auto_map={"AutoModel": "evil--x.Y"}), 2, "never runs code"),
    "remote code of the tokenizer": Case(
        content(b'{"auto_map": {"AutoTokenizer": ["x.Y", null]}}', "tokenizer_config.json"),
        2,
        "never runs code",
    ),
    "trust_remote_code": Case(config(trust_remote_code=True), 2, "never runs code"),
    "model_type missing": Case(content(b'{"modeltype": "bert"}', "config.json"), 2, "Did you mean"),
    "model_type misspelt": Case(config(model_type="xlm_roberta"), 2, "mean 'xlm-roberta'?"),
    "model_type a list": Case(config(model_type=["bert"]), 2, "['bert']"),
    "quantised": Case(config(quantization_config={"quant_method": "gptq"}), 2, "'gptq'"),
    "vocabulary of 10^12": Case(config(vocab_size=10**12), 2, "vocab_size=1000000000000"),
    "vocabulary of -1": Case(config(vocab_size=-1), 2, "vocab_size=-1"),
    "vocabulary a string": Case(config(vocab_size="11"), 2, "vocab_size='11'"),
    "no layers": Case(config(num_hidden_layers=0), 2, "num_hidden_layers=0"),
    "1,001 layers": Case(config(num_hidden_layers=1001), 2, "from 1 to 1,000"),
    "half a layer": Case(config(num_hidden_layers=0.5), 2, "num_hidden_layers=0.5"),
    "true layers": Case(config(num_hidden_layers=True), 2, "num_hidden_layers=True"),
    "hidden size of 2^20": Case(config(hidden_size=1 << 20), 2, "from 1 to 65,536"),
    "hidden size null": Case(config(hidden_size=None), 2, "hidden_size=None"),
    "heads that do not divide": Case(config(num_attention_heads=3), 2, "divisor of hidden_size=8"),
    "no heads": Case(config(num_attention_heads=0), 2, "num_attention_heads=0"),
    "MLP of 10^7": Case(config(intermediate_size=10**7), 2, "from 1 to 1,000,000"),
    "10^8 positions": Case(config(max_position_embeddings=10**8), 2, "max_position_embeddings="),
    "eps of 0": Case(config(layer_norm_eps=0), 2, "between 0 and 1"),
    "eps of 1": Case(config(norm_eps=1.0), 2, "between 0 and 1"),
    "eps a string": Case(config(layer_norm_eps="1e-5"), 2, "layer_norm_eps='1e-5'"),
    "dropout of 2": Case(config(hidden_dropout_prob=2), 2, "hidden_dropout_prob=2"),
    "negative rotary base": Case(config(rope_theta=-1.0), 2, "rope_theta=-1.0"),
    "rotary base inside": Case(
        config(rope_parameters={"full_attention": {"rope_theta": "x"}}), 2, "rope_theta='x'"
    ),
    "rotary parameters a list": Case(config(rope_parameters=[1]), 2, "rope_parameters=[1]"),
    "tied by a string": Case(config(tie_word_embeddings="false"), 2, "need true or false"),
    "padding outside the vocabulary": Case(config(pad_token_id=11), 2, "from 0 to 10"),
}
