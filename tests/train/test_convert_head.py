"""`jalign export` writes the head of a fine-tuned model as transformers has it, and says where it
cannot.
"""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
import transformers

from jalign import config, plugin
from jalign.cli.main import main
from jalign.train.checkpoint import write_params
from jalign.train.mesh import RULES
from jalign.train.run import make_run
from jalign.train.run_config import RunConfig
from jalign.train.start import write_description
from tests.tiny_tasks import (
    LABELS,
    finetune_entries,
    task_stream,
    write_model,
    write_pairs,
    write_questions,
    write_tags,
)

KINDS = {
    "tag": ("TokenClassification", write_tags, task_stream),
    "classify": (
        "SequenceClassification",
        write_pairs,
        lambda path: task_stream(path, format="nli") | dict(layout="joint"),
    ),
    "span": (
        "QuestionAnswering",
        write_questions,
        lambda path: task_stream(path, format="qa", labels=()) | dict(layout="joint"),
    ),
}


def write_workdir(base, kind, model_type, *, head_entries=(), encoder=None, **shape):
    """Write a workdir of a run that has not begun; return the run and its parameters."""
    write_model(base / "model", model_type, **shape)
    _, write, stream = KINDS[kind]
    write(base / "train", 5)
    entries = finetune_entries(
        base,
        streams=dict(task=stream(base / "train")),
        objectives={kind: dict(head_entries)},
        encoder=dict(head=shape.get("head", False), dropout=0.0) | (encoder or {}),
        evaluate={},
        test={},
    )
    run = make_run(config.build(RunConfig, entries), jax.devices()[:1])
    with jax.set_mesh(run.mesh), nn.logical_axis_rules(RULES):
        params = jax.device_get(run.init_state().params)
    # Larger than they are drawn, so that their part in the logits can be seen.
    noise = np.random.default_rng(1)
    params[kind] = jax.tree.map(lambda x: x + noise.normal(0, 0.5, x.shape), params[kind])
    params[kind] = jax.tree.map(lambda x: x.astype(np.float32), params[kind])
    write_params(base / "run", params, run.facts())
    write_description(base / "run", run.tokenizer_folder, run.description)
    return run, params


def export(base, *flags):
    return main(["export", f"--input={base / 'run'}", f"--output={base / 'out'}", *flags])


def our_logits(run, params, kind):
    """Yield (ids, token types, our logits) of every example of the first rows."""
    module = plugin.load("objectives", kind)
    batch = run.source[0]["task"]
    logits = np.asarray(module.make_predict(module.Config(), run.encoder)(params, batch))
    for r, row in enumerate(batch["example"]):
        for number in range(1, row.max() + 1):
            at = row == number
            ids = batch["ids"][r][at]
            types = np.cumsum(ids == 2) - (ids == 2)
            yield ids, np.minimum(types, 1), logits[r][at]


def torch_logits(model, ids, types, kind):
    has_types = model.config.type_vocab_size > 1
    more = dict(token_type_ids=torch.tensor(types[None])) if has_types else {}
    with torch.no_grad():
        out = model(torch.tensor(ids[None].astype(np.int64)), **more)
    if kind == "span":
        return torch.stack([out.start_logits[0], out.end_logits[0]], -1).numpy()
    return out.logits[0].numpy()


@pytest.mark.parametrize(
    "kind, model_type, shape",
    [
        ("tag", "xlm-roberta", dict(head=True)),
        ("tag", "bert", dict()),
        ("classify", "xlm-roberta", dict()),
        ("classify", "bert", dict(pooler=True)),
        ("span", "bert", dict(head=True)),
    ],
)
def test_transformers_gets_the_same_logits_from_the_exported_head(
    tmp_path, capsys, kind, model_type, shape
):
    run, params = write_workdir(tmp_path, kind, model_type, **shape)
    assert export(tmp_path) == 0
    said = capsys.readouterr().err
    assert f"head '{kind}': " in said and f"PyTorch's AutoModelFor{KINDS[kind][0]}" in said
    settings = json.loads((tmp_path / "out/config.json").read_text())
    assert settings["architectures"][0].endswith(f"For{KINDS[kind][0]}")
    if kind != "span":
        assert settings["id2label"] == {str(i): label for i, label in enumerate(LABELS)}
    auto = getattr(transformers, f"AutoModelFor{KINDS[kind][0]}")
    model, loading = auto.from_pretrained(str(tmp_path / "out"), output_loading_info=True)
    assert not loading["missing_keys"]
    num, seen = 0, []
    for ids, types, ours in our_logits(run, params, kind):
        theirs = torch_logits(model.eval(), ids, types, kind)
        np.testing.assert_allclose(ours[0] if kind == "classify" else ours, theirs, atol=2e-5)
        num, seen = num + 1, [*seen, theirs.reshape(-1)]
    assert num > 8 and np.concatenate(seen).std() > 0.3
    card = (tmp_path / "out/README.md").read_text()
    assert f"AutoModelFor{KINDS[kind][0]}" in card


@pytest.mark.parametrize(
    "kind, model_type, head_entries, why",
    [
        ("tag", "modernbert", {}, "no 'tag' head of the form of ours for modernbert models"),
        ("classify", "xlm-roberta", dict(head="linear"), "has a dense layer before its classes"),
        ("classify", "bert", {}, "classifies from the pooler, which this encoder keeps"),
    ],
)
def test_a_head_of_another_form_stays_here_and_the_encoder_goes(
    tmp_path, capsys, kind, model_type, head_entries, why
):
    shape = dict(pooler=True) if model_type == "bert" else {}
    write_workdir(tmp_path, kind, model_type, head_entries=head_entries, encoder=shape, **shape)
    assert export(tmp_path) == 0
    said = capsys.readouterr().err
    assert f"the encoder alone, without its head '{kind}'" in said and why in said
    assert "For" not in json.loads((tmp_path / "out/config.json").read_text())["architectures"][0]
    assert export(tmp_path, f"--head={kind}", "--overwrite") == 2
    assert why in capsys.readouterr().err


def test_the_encoder_goes_alone_if_asked_and_an_unknown_head_is_refused(tmp_path, capsys):
    write_workdir(tmp_path, "tag", "xlm-roberta")
    assert export(tmp_path, "--head=none", "--dtype=bfloat16") == 0
    settings = json.loads((tmp_path / "out/config.json").read_text())
    assert settings["architectures"] == ["XLMRobertaModel"] and "head 'tag'" not in (
        capsys.readouterr().err
    )
    assert export(tmp_path, "--head=span", "--overwrite") == 2
    assert "has of labelled data these heads: tag" in capsys.readouterr().err
    assert export(tmp_path, "--dtype=bfloat16", "--overwrite") == 0  # rounded alike
    assert "head 'tag'" in capsys.readouterr().err
