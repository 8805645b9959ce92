import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jalign.errors import BadData, ConfigError, UserError
from jalign.hf import limits
from jalign.hf.json_files import read_json
from jalign.hf.limits import check_config, check_shapes
from jalign.hf.tensors import open_tensors, write_tensors

from . import hostile

KNOWN = ("bert", "roberta", "xlm-roberta", "modernbert")
SHAPES = {
    "bert.embeddings.word_embeddings.weight": (11, 8),
    "bert.embeddings.position_embeddings.weight": (32, 8),
    "bert.pooler.dense.weight": (8, 8),
    "cls.predictions.bias": (11,),
}


def check(folder):
    """Do what comes before any tensor of a folder is opened."""
    check_config(read_json(folder / "config.json", max_bytes=1 << 24), folder, KNOWN)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    write_tensors(folder, {name: np.ones(s, np.float32) for name, s in SHAPES.items()})
    (folder / "config.json").write_text(json.dumps(hostile.CONFIG))
    return folder


@pytest.mark.parametrize("name", hostile.CONFIGS)
@pytest.mark.timeout(20)
def test_an_absurd_config_is_refused_with_what_to_do(folder, name):
    damage, exit_code, said = hostile.CONFIGS[name]
    check(folder)
    damage(folder)
    with pytest.raises(UserError) as caught:
        check(folder)
    message = str(caught.value)
    assert said in message and caught.value.exit_code == exit_code, message
    assert str(folder) in message and message.isprintable() and len(message) < 1000
    words = ("again", "take", "remove", "Add", "mend", "convert", "pull")
    assert any(word in message for word in words)


def test_configs_of_every_kind_of_encoder_pass(folder):
    more = (
        {"layer_norm_eps": 1e-12, "pad_token_id": 0, "classifier_dropout": None, "auto_map": None},
        {"pad_token_id": None, "tie_word_embeddings": True, "hidden_dropout_prob": 0},
        {"vocab_size": 250_002, "max_position_embeddings": 514, "pad_token_id": 1},
        {
            "model_type": "modernbert",
            "norm_eps": 1e-5,
            "global_rope_theta": 160_000,
            "local_attention": 128,
        },
        {"rope_parameters": {"full_attention": {"rope_theta": 160000.0, "rope_type": "default"}}},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        {"rope_parameters": None},
    )
    for entries in more:
        check_config(hostile.CONFIG | entries, folder, KNOWN)
    check_config({"model_type": "bert"}, folder, KNOWN)  # the rest is the family's default


def test_python_files_in_the_folder_are_neither_run_nor_an_error(folder):
    (folder / "modeling_evil.py").write_text("raise SystemExit('run')")
    check(folder)
    assert len(open_tensors(folder)) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_mapping_is_refused_too(folder, value):
    with pytest.raises(ConfigError, match="layer_norm_eps"):
        check_config(hostile.CONFIG | {"layer_norm_eps": value}, folder, KNOWN)


def test_shapes_that_fit_return_what_is_left_over(folder):
    tensors = open_tensors(folder)
    assert check_shapes(SHAPES, tensors) == []
    few = {name: shape for name, shape in SHAPES.items() if "bert." in name}
    assert check_shapes(few, tensors) == ["cls.predictions.bias"]
    found = {"embeddings.word_embeddings.weight": "bert.embeddings.word_embeddings.weight"}
    rest = check_shapes(dict.fromkeys(found, (11, 8)), tensors, found)
    assert sorted(rest) == sorted(SHAPES.keys() - found.values())


@pytest.mark.parametrize("vocab_size", [10, 12])
def test_a_vocabulary_off_by_one_is_said_in_plain_words(folder, vocab_size):
    expected = {n: (vocab_size, *s[1:]) if s[0] == 11 else s for n, s in SHAPES.items()}
    with pytest.raises(BadData) as caught:
        check_shapes(expected, open_tensors(folder))
    message = str(caught.value)
    assert f"config.json says vocab_size={vocab_size}, the table" in message
    assert "has 11 rows" in message and "set vocab_size to 11" in message
    assert "2 of another shape" in message and "cls.predictions.bias" not in message


def test_missing_tensors_and_wrong_shapes_are_listed_together(folder):
    expected = SHAPES | {"bert.pooler.dense.weight": (8, 9), "bert.pooler.dense.bias": (8,)}
    with pytest.raises(BadData) as caught:
        check_shapes(expected, open_tensors(folder))
    message = str(caught.value)
    assert "of 5 tensors, 1 missing, 1 of another shape" in message
    assert "'bert.pooler.dense.weight' is [8, 8]; config.json needs [8, 9]" in message
    assert "'bert.pooler.dense.bias' is missing; need [8]" in message
    assert message.endswith("take both from their origin again.")


def test_at_most_ten_faults_are_shown_and_all_are_counted(folder):
    expected = SHAPES | {f"encoder.layer.{i}.weight": (8, 8) for i in range(25)}
    expected.pop("bert.pooler.dense.weight")
    with pytest.raises(BadData) as caught:
        check_shapes(expected, open_tensors(folder))
    message = str(caught.value)
    assert "25 missing" in message and "and 15 more" in message
    assert message.count("is missing") == limits.MAX_SHOWN
    assert "1 others, such as 'bert.pooler.dense.weight'" in message


def test_weights_of_integers_are_found_before_they_are_read(folder):
    write_tensors(folder, {name: np.ones(shape, np.int8) for name, shape in SHAPES.items()})
    with pytest.raises(BadData, match="4 not floating point"):
        check_shapes(SHAPES, open_tensors(folder))


MEASURE = """
import sys
from pathlib import Path
from jalign.errors import UserError
from jalign.hf.json_files import read_json
from jalign.hf.limits import check_config, check_shapes
from jalign.hf.tensors import open_tensors

def peak(name):  # not ru_maxrss: that of a child includes its parent's before exec
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

resident, virtual = peak("VmHWM:"), peak("VmPeak:")
for name in sys.argv[2:]:
    folder = Path(sys.argv[1], name)
    if name == "control":
        taken = bytes(100 << 20).replace(b"\\0", b"x")
    elif name == "one of many":
        assert open_tensors(folder).read("small").tolist() == [0.0] * 4
        virtual = peak("VmPeak:")  # the mapping is address space and no memory
    else:
        try:
            config = read_json(folder / "config.json", max_bytes=1 << 24)
            check_config(config, folder, ("bert",))
            check_shapes({"one": (10**6, 10**6)}, open_tensors(folder))
        except UserError as error:
            assert str(folder) in str(error)
        else:
            raise SystemExit("not refused")
    print(peak("VmHWM:") - resident, peak("VmPeak:") - virtual, name)
"""
HUNGRY = {
    name: case.damage
    for name, case in (hostile.FILES | hostile.FOLDERS | hostile.CONFIGS).items()
    if any(w in name for w in ("2^", "10^", "1 GiB", "small values", "brackets", "device"))
}
HUNGRY |= {
    "config.json of small values": hostile.content(hostile.many(1_000_000), "config.json"),
    "model.safetensors of 64 GiB": hostile.spaces("model.safetensors", 1 << 36),
    "index of 64 GiB": lambda folder: (
        (folder / "model.safetensors").unlink(),
        hostile.spaces("model.safetensors.index.json", 1 << 36)(folder),
    ),
    "expected shapes of 10^12": lambda folder: None,
}


def measure(parent, *names):
    """Return, after each folder, how many MiB resident memory and address space have grown."""
    command = [sys.executable, "-c", MEASURE, str(parent), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return {name: (float(resident), float(virtual)) for resident, virtual, name in lines}


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc"
)


@needs_proc
def test_hostile_folders_take_little_memory_and_what_they_took_would_be_noticed(folder, tmp_path):
    for i, damage in enumerate(HUNGRY.values()):
        shutil.copytree(folder, tmp_path / str(i))
        damage(tmp_path / str(i))
    grown = list(measure(tmp_path, *map(str, range(len(HUNGRY))), "control").values())
    *grown, control = grown
    named = dict(zip(HUNGRY, grown, strict=True))
    assert {k: v for k, v in named.items() if v[0] > 50 or v[1] > 100} == {}
    assert min(control) > 100


@needs_proc
def test_reading_one_tensor_does_not_load_the_file(folder):
    size = 1 << 30
    header = {"large": hostile.entry([size // 4], 0, size)}
    header |= {"small": hostile.entry([4], size, size + 16)}
    hostile.put(folder / "model.safetensors", header)
    os.truncate(folder / "model.safetensors", 8 + len(json.dumps(header)) + size + 16)
    folder.rename(folder.with_name("one of many"))
    assert max(measure(folder.parent, "one of many")["one of many"]) < 50
