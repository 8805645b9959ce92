"""The last layer's attention, computed apart, is that of Hugging Face's models in PyTorch."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jalign.encoders import _names, bert, modernbert
from jalign.errors import ConfigError
from jalign.nn.attention import attention_probs
from tests.encoders import test_bert, test_modernbert

torch = pytest.importorskip("torch")


def bert_and_torch():
    cfg = bert.Config(
        vocab_size=120, max_positions=66, hidden=24, layers=2, heads=3, mlp=40,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    model = test_bert.make_torch(cfg)
    return bert, cfg, test_bert.params_from(model, cfg), model


def modernbert_and_torch(layers):
    shape = dict(hidden=16, heads=2, mlp=12, local_attention=4, global_every=2, max_positions=64)
    cfg = modernbert.Config(vocab_size=120, layers=layers, **shape)
    model = test_modernbert.make_torch(cfg)
    tensors = test_modernbert.tensors_of(model)
    names = modernbert.hf_names(cfg, "modernbert")
    return modernbert, cfg, _names.from_hf(names, lambda name: tensors[name]), model


@pytest.mark.parametrize(
    "make", [bert_and_torch, lambda: modernbert_and_torch(3), lambda: modernbert_and_torch(1)]
)
def test_the_last_attention_equals_hugging_face(make):
    family, cfg, params, model = make()
    model.set_attn_implementation("eager")
    ids = np.random.default_rng(0).integers(4, 119, (2, 20))
    with torch.no_grad():
        theirs = model(torch.tensor(ids), output_attentions=True).attentions[-1].numpy()

    @jax.jit
    def attention(params, ids_BL):
        position_BL = np.tile(np.arange(20), (2, 1))
        unit_BL = np.ones((2, 20), np.int32)
        cut, first = family.first_layers(cfg, params, cfg.layers - 1)
        h_BLD = family.make(cut).apply({"params": first}, ids_BL, position_BL, unit_BL)
        queries = family.top_queries(cfg, params, h_BLD, position_BL)
        return attention_probs(*queries, unit_BL)

    np.testing.assert_allclose(attention(params, ids), theirs, rtol=1e-4, atol=1e-6)


def test_a_last_layer_with_a_window_is_refused():
    cfg = modernbert.Config(vocab_size=120, hidden=16, layers=6, heads=2, mlp=12)
    with pytest.raises(ConfigError, match="set encoder.layers=4 or 7"):
        modernbert.top_queries(cfg, {}, np.zeros((1, 4, 16)), np.zeros((1, 4), np.int32))
