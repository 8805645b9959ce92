"""The encoder equals Hugging Face's XLM-R in PyTorch, and packing does not change a token's
state.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jalign.encoders import bert
from jalign.nn.packed import unit_ids
from tests.tiny import rows_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPES = [dict(hidden=24, layers=2, heads=3, mlp=40), dict(hidden=32, layers=3, heads=2, mlp=64)]


def make_torch(cfg: bert.Config):
    torch.manual_seed(0)
    hf = transformers.XLMRobertaConfig(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.hidden,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        intermediate_size=cfg.mlp,
        max_position_embeddings=cfg.max_positions,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=cfg.layer_norm_eps,
        initializer_range=0.3,
    )
    model = transformers.XLMRobertaForMaskedLM(hf).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms too
    return model


def params_from(model, cfg: bert.Config):
    w = {k.removeprefix("roberta."): v.detach().numpy() for k, v in model.state_dict().items()}

    def dense(names, shape=None):
        kernels = [
            np.stack([w[f"encoder.layer.{y}.{n}.weight"].T for y in range(cfg.layers)])
            for n in names
        ]
        biases = [
            np.stack([w[f"encoder.layer.{y}.{n}.bias"] for y in range(cfg.layers)]) for n in names
        ]
        if len(names) == 1:
            return {"kernel": kernels[0], "bias": biases[0]}
        return {"kernel": np.stack(kernels, axis=2), "bias": np.stack(biases, axis=1)}

    def norm(name, layered=True):
        if not layered:
            return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}
        pick = {"scale": "weight", "bias": "bias"}
        return {
            k: np.stack([w[f"encoder.layer.{y}.{name}.{v}"] for y in range(cfg.layers)])
            for k, v in pick.items()
        }

    return {
        "word_embeddings": w["embeddings.word_embeddings.weight"],
        "position_embeddings": w["embeddings.position_embeddings.weight"],
        "type_embeddings": w["embeddings.token_type_embeddings.weight"],
        "embedding_norm": norm("embeddings.LayerNorm", layered=False),
        "layers": {
            "qkv": dense([f"attention.self.{n}" for n in ("query", "key", "value")]),
            "out": dense(["attention.output.dense"]),
            "attention_norm": norm("attention.output.LayerNorm"),
            "mlp_in": dense(["intermediate.dense"]),
            "mlp_out": dense(["output.dense"]),
            "mlp_norm": norm("output.LayerNorm"),
        },
        "head_dense": {"kernel": w["lm_head.dense.weight"].T, "bias": w["lm_head.dense.bias"]},
        "head_norm": norm("lm_head.layer_norm", layered=False),
        "head_bias": w["lm_head.bias"],
    }


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def both(request):
    cfg = bert.Config(
        vocab_size=120, max_positions=66, dropout=0.0, attention_dropout=0.0, **request.param
    )
    model = make_torch(cfg)
    return cfg, bert.make(cfg), params_from(model, cfg), model


def test_hidden_states_and_logits_equal_hugging_face(both):
    cfg, module, params, model = both
    rng = np.random.default_rng(0)
    sizes = [12, 7, 3]
    ids = np.full((3, 12), 1)
    for row, size in zip(ids, sizes, strict=True):
        row[:size] = [0, *rng.integers(4, 119, size - 2), 2]
    real = ids != 1
    with torch.no_grad():
        theirs = model(
            torch.tensor(ids),
            attention_mask=torch.tensor(real.astype(int)),
            output_hidden_states=True,
        )
    position = np.where(real, np.arange(12), 0)
    states = jax.jit(partial(module.apply, all_layers=True))(
        {"params": params}, ids, position, real.astype(np.int32)
    )
    for mine, other in zip(states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(mine[real], other.numpy()[real], rtol=1e-5, atol=1e-5)

    def logits(module, h):
        table, bias = module.output()
        return module.transform(h) @ table.T + bias

    mine = nn.apply(logits, module)({"params": params}, states[-1])
    np.testing.assert_allclose(
        np.asarray(mine)[real], theirs.logits.numpy()[real], rtol=1e-5, atol=2e-5
    )


@pytest.mark.parametrize("layout", ["single", "joint", "separate"])
def test_packed_states_equal_those_of_each_unit_alone(both, layout):
    _, module, params, _ = both
    batch = rows_of(layout).rows(3, 2)
    unit = np.asarray(unit_ids(batch))
    places = [(b, unit[b] == u) for b in range(2) for u in range(1, unit[b].max() + 1)]
    assert len(places) >= 4
    ids, position, alone = np.full((3, 40, 64), [[[1]], [[0]], [[0]]])  # one unit per row, padded
    for row, (b, at) in enumerate(places):
        size = at.sum()
        ids[row, :size], position[row, :size], alone[row, :size] = (
            batch["ids"][b][at],
            np.arange(size),
            1,
        )
    encode = jax.jit(lambda *args: module.apply({"params": params}, *args))
    packed, padded = encode(batch["ids"], batch["position"], unit), encode(ids, position, alone)
    for row, (b, at) in enumerate(places):
        np.testing.assert_allclose(packed[b][at], padded[row, : at.sum()], rtol=1e-5, atol=1e-5)


def test_unroll_and_remat_change_nothing_but_the_program(both):
    cfg, module, params, _ = both
    batch = rows_of("single").rows(0, 2)
    unit = unit_ids(batch)

    def value(changes):
        other = bert.make(bert.Config(**{**cfg.__dict__, **changes}))

        def total(p):
            return jnp.square(
                other.apply({"params": p}, batch["ids"], batch["position"], unit)
            ).sum()

        return jax.jit(jax.value_and_grad(total))(params)

    plain = value({})
    for changes in (dict(unroll=0), dict(remat=True)):
        for mine, theirs in zip(
            jax.tree.leaves(plain), jax.tree.leaves(value(changes)), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-4)


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(both):
    cfg, module, params, _ = both
    low = bert.make(bert.Config(**{**cfg.__dict__, "dtype": "bfloat16"}))
    drawn = jax.jit(lambda key: nn.unbox(bert.init_params(low, key)))(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(drawn)} == {np.dtype("float32")}
    batch = rows_of("single").rows(0, 2)
    args = batch["ids"], batch["position"], unit_ids(batch)
    high_BLD, low_BLD = (jax.jit(m.apply)({"params": drawn}, *args) for m in (module, low))
    assert low_BLD.dtype == jnp.bfloat16
    np.testing.assert_allclose(high_BLD, low_BLD.astype(jnp.float32), atol=0.1)


def test_flops_equal_the_hand_count():
    cfg = bert.Config(vocab_size=100, hidden=4, layers=2, heads=2, mlp=8)
    # dense weights 2 (4 x 16 + 2 x 32) = 256; attention 2 x 2 x 4 x 10 = 160; head 0.5 (16 + 400)
    # = 208
    assert bert.flops_per_token(cfg, mean_unit=10, masked_frac=0.5) == 6 * (256 + 160 + 208)


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(hidden=10, heads=3), "does not divide"),
        (dict(dtype="half"), "one of"),
        (dict(dropout=1.0), "lie in"),
    ],
)
def test_impossible_shapes_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        bert.Config(**bad)
