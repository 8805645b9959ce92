"""`jalign import` and `jalign export` prove every conversion, refuse a wrong one, and write a
target whole or not at all.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from huggingface_hub import ModelCard

from jalign import config
from jalign.cli.main import main
from jalign.errors import ConfigError
from jalign.hf import compare
from jalign.hf.folder import read_folder
from jalign.nn.masking import MaskRates, corrupt, select_tokens
from jalign.nn.packed import unit_ids
from jalign.objectives.mlm import EVAL_SEED
from jalign.train.convert import export_folder
from jalign.train.loop import train
from jalign.train.pretrained import read_pretrained
from jalign.train.run import RunConfig, make_run
from jalign.types import TokenIds
from tests.hf.torch_models import make_folder
from tests.tiny import run_entries, write_tiny_dataset


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "xlmr"
    make_folder(folder, "xlm-roberta", 0)
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A tiny run, trained for a few steps, with its scores."""
    base = tmp_path_factory.mktemp("run")
    data = write_tiny_dataset(base / "data")
    tasks = dict(heldout=dict(max_batches=0))
    entries = run_entries(data, evaluate=dict(every=6, at_start=False, best="", tasks=tasks))
    run = make_run(config.build(RunConfig, entries))
    assert train(run, base / "run") == 0
    return base / "run", run


def convert(command, source, target, *more):
    return main([command, f"--input={source}", f"--output={target}", *more])


def test_import_and_export_give_the_same_bytes_of_every_tensor(hf_folder, tmp_path, capsys):
    assert convert("import", hf_folder, tmp_path / "model") == 0
    said = capsys.readouterr().err
    assert "against PyTorch: largest difference" in said and "absolute" in said
    model, hf = read_pretrained(tmp_path / "model"), read_folder(hf_folder)
    assert (model.step, model.cfg, model.tokenizer.sha256) == (0, hf.cfg, hf.tokenizer.sha256)
    jax.tree.map(np.testing.assert_array_equal, model.params, hf.params)
    assert convert("export", tmp_path / "model", tmp_path / "out") == 0
    assert "against PyTorch" in capsys.readouterr().err
    one, two = (
        safetensors.numpy.load_file(f / "model.safetensors") for f in (hf_folder, tmp_path / "out")
    )
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (hf_folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_model_that_computes_otherwise_is_refused_and_leaves_nothing(
    hf_folder, tmp_path, capsys, monkeypatch
):
    broken = tmp_path / "broken"
    shutil.copytree(hf_folder, broken)
    settings = json.loads((broken / "config.json").read_text())
    honest = compare.torch_outputs

    def other_epsilon(path, **kwargs):  # PyTorch reads another folder than we do
        return honest(hf_folder, **kwargs)

    settings["layer_norm_eps"] = 0.5
    (broken / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(compare, "torch_outputs", other_epsilon)
    assert convert("import", broken, tmp_path / "model") == 3
    assert "does not compute the same" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_without_torch_an_export_of_ours_is_compared_with_its_fingerprint(
    hf_folder, tmp_path, capsys, monkeypatch
):
    assert convert("import", hf_folder, tmp_path / "model") == 0
    assert convert("export", tmp_path / "model", tmp_path / "out") == 0
    monkeypatch.setattr(compare, "has_torch", lambda: False)
    capsys.readouterr()
    assert convert("import", tmp_path / "out", tmp_path / "again") == 0
    assert "against the stored fingerprint" in capsys.readouterr().err
    assert convert("export", tmp_path / "again", tmp_path / "out2") == 0
    assert "against the fingerprint of the import" in capsys.readouterr().err
    tensors = safetensors.numpy.load_file(tmp_path / "out/model.safetensors")
    tensors["lm_head.bias"] = tensors["lm_head.bias"] + np.float32(0.01)
    safetensors.numpy.save_file(tensors, tmp_path / "out/model.safetensors")
    assert convert("import", tmp_path / "out", tmp_path / "third") == 3, "other weights"
    assert convert("import", hf_folder, tmp_path / "fourth") == 2
    assert "--unverified" in capsys.readouterr().err
    assert convert("import", hf_folder, tmp_path / "fourth", "--unverified") == 0
    assert "not compared with anything" in capsys.readouterr().err


def test_an_output_that_is_there_is_replaced_only_if_told_and_ours(hf_folder, tmp_path, capsys):
    model, out = tmp_path / "model", tmp_path / "out"
    assert convert("import", hf_folder, model) == 0
    assert convert("import", hf_folder, model) == 2
    assert "type --overwrite" in capsys.readouterr().err
    assert convert("export", model, out) == 0
    (out / "aligner.json").write_text("{}")  # chosen for the weights that are replaced
    for command, source, target in (("export", model, out), ("import", hf_folder, model)):
        assert convert(command, source, target, "--overwrite") == 0
        (target / "thesis.txt").write_text("mine")
        assert convert(command, source, target, "--overwrite") == 2
        assert "also holds thesis.txt" in capsys.readouterr().err
        assert (target / "thesis.txt").read_text() == "mine"
        (target / "thesis.txt").unlink()
    assert not (out / "aligner.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]
    (model / "checkpoints/7").mkdir()
    assert convert("import", hf_folder, model, "--overwrite") == 2
    assert "also holds checkpoints/7" in capsys.readouterr().err


def test_a_run_a_dataset_and_any_other_folder_are_never_replaced(
    workdir, hf_folder, tmp_path, capsys
):
    run = workdir[0]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    for target in (run, run.parent / "data", hf_folder, tmp_path / "other"):
        held = sorted(target.rglob("*"))
        source = hf_folder if target != hf_folder else run
        command = "import" if target != hf_folder else "export"
        assert convert(command, source, target, "--overwrite") == 2
        assert "is something else: name another --output" in capsys.readouterr().err
        assert sorted(target.rglob("*")) == held and held


@pytest.mark.parametrize("output", ["run", "run/checkpoints", "run/new", ".", "link", "link/new"])
def test_the_input_is_never_in_the_output_nor_around_it(workdir, tmp_path, capsys, output):
    base = tmp_path / "base"
    shutil.copytree(workdir[0], base / "run")
    (base / "link").symlink_to(base / "run")
    held = sorted(base.rglob("*"))
    assert convert("export", base / "run", base / output, "--overwrite") == 2
    said = capsys.readouterr().err
    assert "one holds the other: name another --output" in said or "is the input" in said
    assert sorted(base.rglob("*")) == held


def test_a_file_or_what_cannot_be_written_is_no_output(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for output, said in (
        ("file", "is a file; type a folder"),
        ("file/new", "file is a file; type another folder"),
        ("/proc/x", "--output=/proc/x cannot be written"),
        (".", "cannot be replaced; type one in it"),
    ):
        assert convert("export", workdir[0], output) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ConfigError, match="is a file: name a folder"):
        export_folder(workdir[0], tmp_path / "file", print)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_came_into_the_output_meanwhile_is_kept(workdir, tmp_path):
    def say(line):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/thesis.txt").write_text("mine")

    with pytest.raises(ConfigError, match="is something else"):
        export_folder(workdir[0], tmp_path / "out", say, overwrite=True)
    assert (tmp_path / "out/thesis.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_missing_arguments_and_folders_are_usage_errors(tmp_path, capsys):
    assert main(["import", "--input=x"]) == 2
    assert "--output is missing" in capsys.readouterr().err
    assert convert("export", tmp_path / "nothing", tmp_path / "out") == 2
    assert "is no folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert convert("export", tmp_path / "empty", tmp_path / "out") == 2
    assert main(["export", "--input=a", "--output=b", "--step=last"]) == 2


def test_a_trained_run_scores_the_same_masked_accuracy_in_torch(workdir, tmp_path):
    folder, run = workdir
    assert convert("export", folder, tmp_path / "out") == 0
    model = transformers.AutoModelForMaskedLM.from_pretrained(str(tmp_path / "out")).eval()
    ours = {
        (r["task"], r["metric"]): r
        for r in map(json.loads, (folder / "results.jsonl").read_text().splitlines())
        if r["step"] == 6
    }
    for name in ("mlm", "tlm"):
        right, count, loss = torch_masked_accuracy(model, run, name)
        assert count == ours[f"heldout/{name}", "accuracy"]["n"] > 100
        assert right / count == pytest.approx(ours[f"heldout/{name}", "accuracy"]["value"])
        assert loss / count == pytest.approx(ours[f"heldout/{name}", "loss"]["value"], rel=1e-5)


def torch_masked_accuracy(model, run, name):
    """Score the held-out rows of an objective in PyTorch, unit by unit, under the same masks."""
    from jalign.data.pipeline import make_stream

    stream = {"mlm": "mono", "tlm": "pair"}[name]
    cfg = run.cfg.streams[stream]
    rows = make_stream(run.manifest, run.setting.specials, stream, cfg, split="heldout", once=True)
    right = count = loss = 0
    for first in range(0, rows.packed.num_rows, cfg.rows):
        batch = rows.rows(first, cfg.rows)
        key = jax.random.key(EVAL_SEED)
        rates = MaskRates(0.15, 0.8, 0.1)
        selected = np.asarray(select_tokens(jax.random.fold_in(key, 0), batch, rates.select))
        tokens = TokenIds(run.encoder.tokens.mask, run.encoder.tokens.specials)
        size = run.encoder_cfg.vocab_size
        ids = np.asarray(corrupt(jax.random.fold_in(key, 1), batch, selected, size, tokens, rates))
        unit = np.asarray(unit_ids(batch))
        for r in range(cfg.rows):
            for u in range(1, unit[r].max() + 1):
                at = unit[r] == u
                with torch.no_grad():
                    logits = model(torch.tensor(ids[r][at][None].astype(np.int64))).logits[0]
                where = torch.tensor(selected[r][at])
                target = torch.tensor(batch["ids"][r][at].astype(np.int64))[where]
                right += int((logits[where].argmax(-1) == target).sum())
                count += int(where.sum())
                loss += float(
                    torch.nn.functional.cross_entropy(logits[where], target, reduction="sum")
                )
    return right, count, loss


def test_the_model_card_says_what_the_run_was(workdir, tmp_path):
    folder, _ = workdir
    assert convert("export", folder, tmp_path / "tiny", "--license=cc0-1.0") == 0
    card = ModelCard.load(tmp_path / "tiny/README.md")
    assert card.data.language == ["de", "en", "ru"] and card.data.license == "cc0-1.0"
    assert {"mlm", "tlm"} <= set(card.data.tags)
    assert {(e.task_type, e.metric_type) for e in card.data.eval_results} == {
        (f"heldout/{n}", m) for n in ("mlm", "tlm") for m in ("loss", "accuracy")
    }
    assert "en-de (200 pairs)" in card.text and "tlm (weight 0.5)" in card.text


def test_best_and_earlier_steps_can_be_exported(workdir, tmp_path, capsys):
    folder, _ = workdir
    assert convert("export", folder, tmp_path / "four", "--step=4", "--dtype=bfloat16") == 0
    stored = (tmp_path / "four/model.safetensors").stat().st_size
    assert convert("export", folder, tmp_path / "last") == 0
    assert stored < 0.6 * (tmp_path / "last/model.safetensors").stat().st_size
    assert convert("export", folder, tmp_path / "none", "--step=5") == 2
    assert "it has [2, 4, 6]" in capsys.readouterr().err
    assert convert("export", folder, tmp_path / "none", "--step=best") == 2


def test_jalign_imports_torch_only_to_compare():
    code = (
        "import sys, jalign.train.convert, jalign.train.run, jalign.hf.compare;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
