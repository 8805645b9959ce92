"""Every family, read from a Hugging Face folder, computes what PyTorch computes, padded and packed;
written again it is the same, bit for bit, and PyTorch opens it.
"""

from __future__ import annotations

import json
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from jalign import plugin
from jalign.data.rows import Layout, Part, RowSource, Side, Specials
from jalign.data.tokenizer import load_tokenizer
from jalign.errors import BadData, ConfigError
from jalign.hf.compare import SENTENCES, sentence_ids
from jalign.hf.folder import read_folder, write_folder
from jalign.nn.packed import unit_ids
from tests.hf.torch_models import MODEL_TYPES, SHAPES, make_folder

CASES = [(kind, shape) for kind in MODEL_TYPES for shape in range(len(SHAPES))]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0]}-{c[1]}")
def pair(request, tmp_path_factory):
    """A folder that PyTorch wrote, as we read it; the PyTorch model; its outputs per sentence."""
    kind, shape = request.param
    folder = tmp_path_factory.mktemp("hf") / "model"
    untied = {"tie_word_embeddings": False} if shape == 1 else {}
    model = make_folder(folder, kind, shape, **untied)
    hf = read_folder(folder)
    outputs = []
    for ids in sentence_ids(hf.tokenizer, hf.cfg.positions):
        with torch.no_grad():
            out = model(torch.tensor(ids[None].astype(np.int64)), output_hidden_states=True)
        states = np.stack([h[0].numpy() for h in out.hidden_states])
        outputs.append((ids, states, out.logits[0].numpy()))
    return folder, hf, model, outputs


def everything(module, ids, position, unit):
    """All layers' states and the logits."""
    h_YBLD = module(ids, position, unit, all_layers=True)
    table_VD, bias_V = module.output()
    return h_YBLD, module.transform(h_YBLD[-1]) @ table_VD.T + bias_V


def run(hf, *args):
    module = plugin.load("encoders", hf.family).make(hf.cfg)
    return jax.jit(partial(nn.apply(everything, module), {"params": hf.params}))(*args)


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, np.abs(theirs).max()))


def test_hidden_states_and_logits_equal_torch_padded(pair):
    _, hf, _, outputs = pair
    assert len(outputs) == len(SENTENCES) >= 8
    longest = max(len(ids) for ids, _, _ in outputs)
    ids = np.full((len(outputs), longest), hf.tokenizer.pad_id)
    for row, (sentence, _, _) in zip(ids, outputs, strict=True):
        row[: len(sentence)] = sentence
    size = np.array([[len(sentence)] for sentence, _, _ in outputs])
    unit = (np.arange(longest) < size).astype(np.int32)
    states, logits = run(hf, ids, np.arange(longest) * unit, unit)
    for i, (sentence, their_states, their_logits) in enumerate(outputs):
        assert_close(states[:, i, : len(sentence)], their_states)
        assert_close(logits[i, : len(sentence)], their_logits)


def test_hidden_states_and_logits_equal_torch_packed(pair):
    _, hf, _, outputs = pair
    inner = [ids[1:-1] for ids, _, _ in outputs]
    offsets = np.cumsum([0, *map(len, inner)])
    side = Side(offsets, np.concatenate(inner), np.zeros(offsets[-1], np.int32))
    specials = Specials(hf.tokenizer.bos_id, hf.tokenizer.eos_id, hf.tokenizer.pad_id)
    layout = Layout("single", hf.cfg.positions, hf.cfg.positions)
    source = RowSource([Part("x", (side,), (0,))], layout, specials, once=True)
    batch = source.rows(0, source.packed.num_rows)
    unit = np.asarray(unit_ids(batch))
    assert unit.max() >= 2, "rows hold several sentences"
    states, logits = run(hf, batch["ids"], batch["position"], unit)
    for r in range(len(unit)):
        for u, (_, number) in enumerate(source.records(r), start=1):
            at = unit[r] == u
            assert_close(states[:, r, at], outputs[number][1])
            assert_close(logits[r, at], outputs[number][2])


def test_round_trip_is_bit_equal(pair, tmp_path):
    folder, hf, model, _ = pair
    write_folder(
        tmp_path / "out",
        hf.family,
        hf.model_type,
        hf.cfg,
        hf.params,
        folder,
        config=hf.config,
        max_shard_bytes=20_000,
    )
    assert (tmp_path / "out/model.safetensors.index.json").exists(), "shards are covered too"
    again = read_folder(tmp_path / "out")
    assert again.cfg == hf.cfg and again.left_out == hf.left_out == ()
    jax.tree.map(np.testing.assert_array_equal, again.params, hf.params)
    written = {}
    for shard in (tmp_path / "out").glob("*.safetensors"):
        written |= safetensors.numpy.load_file(shard)
    original = safetensors.numpy.load_file(folder / "model.safetensors")
    assert written.keys() == original.keys()
    same = {n for n in original if np.array_equal(written[n], original[n])}
    # Untied RoBERTa and BERT store a second bias that nothing reads: transformers computes with
    # the decoder's.
    assert set(original) - same <= {"lm_head.bias", "cls.predictions.bias"}
    was, now = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "out"))
    was.pop("transformers_version")
    assert {k: v for k, v in now.items() if was.get(k, v) != v} == {}


def test_torch_opens_what_we_write_and_agrees(pair, tmp_path):
    folder, hf, _, outputs = pair
    out = tmp_path / "out"
    write_folder(out, hf.family, hf.model_type, hf.cfg, hf.params, folder)
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(
        str(out), output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(out))
    for text, (ids, _, logits) in zip(SENTENCES, outputs, strict=True):
        encoded = tokenizer(text, truncation=True, max_length=hf.cfg.positions)["input_ids"]
        assert encoded == ids.tolist()
        with torch.no_grad():
            theirs = model.eval()(torch.tensor([encoded])).logits[0].numpy()
        assert_close(theirs, logits)


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
def test_token_types_and_pooler_equal_torch(kind, tmp_path):
    model = make_folder(tmp_path / "hf", kind, 1, head=False, type_vocab_size=3)
    hf = read_folder(tmp_path / "hf")
    assert hf.cfg.pooler and not hf.cfg.head and hf.cfg.type_vocab_size == 3
    ids = sentence_ids(hf.tokenizer, hf.cfg.positions)[2]
    types = np.arange(len(ids)) % 3
    with torch.no_grad():
        out = model(
            torch.tensor(ids[None].astype(np.int64)), token_type_ids=torch.tensor(types[None])
        )

    def states_and_pooled(module, ids, types):
        where = np.arange(ids.size)[None]
        h_1LD = module(ids[None], where, np.ones_like(where), type_BL=types[None])
        return h_1LD[0], module.pool(h_1LD[0, 0])

    module = plugin.load("encoders", hf.family).make(hf.cfg)
    states, pooled = nn.apply(states_and_pooled, module)({"params": hf.params}, ids, types)
    assert_close(states, out.last_hidden_state[0].numpy())
    assert_close(pooled, out.pooler_output[0].numpy())


def test_a_bare_encoder_is_written_so_that_auto_model_opens_it(tmp_path):
    make_folder(tmp_path / "hf", "bert", 0, head=False)
    hf = read_folder(tmp_path / "hf")
    write_folder(tmp_path / "out", hf.family, "bert", hf.cfg, hf.params, tmp_path / "hf")
    model, info = transformers.AutoModel.from_pretrained(
        str(tmp_path / "out"), output_loading_info=True
    )
    assert type(model).__name__ == "BertModel"
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype, tmp_path):
    make_folder(tmp_path / "hf", "xlm-roberta", 0)
    hf = read_folder(tmp_path / "hf")
    for name in ("one", "two"):
        write_folder(
            tmp_path / name, hf.family, hf.model_type, hf.cfg, hf.params, tmp_path / "hf",
            dtype=dtype,
        )  # fmt: skip
        rounded = read_folder(tmp_path / name)
        kind = getattr(torch, dtype)
        expected = jax.tree.map(
            lambda x, kind=kind: torch.tensor(np.array(x)).to(kind).float().numpy(), hf.params
        )
        jax.tree.map(np.testing.assert_array_equal, rounded.params, expected)
        hf = rounded


def test_old_names_and_other_prefixes_are_understood(tmp_path):
    folder = tmp_path / "hf"
    make_folder(folder, "bert", 0)
    expected = read_folder(folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        .removeprefix("bert."): x
        for n, x in tensors.items()
    }  # fmt: skip
    old["embeddings.position_ids"] = np.arange(130)[None]
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    old["cls.seq_relationship.weight"] = np.zeros((2, 24), np.float32)
    safetensors.numpy.save_file(old, folder / "model.safetensors")
    found = read_folder(folder)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    assert found.left_out == ("cls.seq_relationship.weight",), "buffers and copies say nothing new"


def test_a_tied_decoder_that_differs_is_refused(tmp_path):
    folder = tmp_path / "hf"
    make_folder(folder, "xlm-roberta", 0)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["lm_head.decoder.weight"] = tensors["roberta.embeddings.word_embeddings.weight"] + 1
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadData, match="lm_head.decoder.weight differs from"):
        read_folder(folder)


def test_a_tokenizer_that_differs_in_one_id_is_refused(tmp_path):
    make_folder(tmp_path / "hf", "xlm-roberta", 0)
    hf = read_folder(tmp_path / "hf")
    out = tmp_path / "out"
    write_folder(out, hf.family, hf.model_type, hf.cfg, hf.params, tmp_path / "hf")
    content = json.loads((out / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    vocab[100], vocab[101] = vocab[101], vocab[100]
    (out / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(out).vocab_size == hf.tokenizer.vocab_size
    with pytest.raises(ConfigError, match="some token has another id"):
        read_folder(out)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(vocab_size=284), "vocab_size=284"),
        (dict(pad_token_id=0), "pad_token_id=0 and the tokenizer's pad id is 1"),
        (dict(hidden_act="relu"), "hidden_act='relu'"),
        (dict(model_type="gpt2"), "gpt2"),
    ],
)
def test_a_config_that_is_not_the_models_is_refused(changes, message, tmp_path):
    folder = tmp_path / "hf"
    make_folder(folder, "xlm-roberta", 0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises((ConfigError, BadData), match=message):
        read_folder(folder)


def test_more_tokens_than_rows_are_refused(tmp_path):
    make_folder(tmp_path / "hf", "xlm-roberta", 0, vocab_size=284)
    with pytest.raises(ConfigError, match="the tokenizer has 285 ids and the model 284 rows"):
        read_folder(tmp_path / "hf")
