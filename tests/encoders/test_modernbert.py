"""The encoder equals Hugging Face's ModernBERT in PyTorch, in weights, states and logits; packing,
cutting and sharding do not change a token's state.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from jalign.encoders import _names, modernbert
from jalign.errors import ConfigError
from jalign.nn.packed import unit_ids
from jalign.nn.rope import turn, turns
from jalign.train import mesh as mesh_lib
from tests.tiny import rows_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IDS = {"bos": 0, "eos": 2, "pad": 1, "unk": 3, "mask": 119, "cls": 0, "sep": 2}
# two whole periods; one and two layers left; pairs and one left; no period; all global
SHAPES = [
    dict(hidden=24, layers=7, heads=3, mlp=20, local_attention=8),
    dict(hidden=24, layers=6, heads=2, mlp=20, local_attention=7, tied=False),
    dict(hidden=32, layers=4, heads=2, mlp=24, local_attention=4, global_every=2),
    dict(hidden=16, layers=2, heads=2, mlp=12, local_attention=2, local_theta=10_000.0),
    dict(hidden=16, layers=3, heads=2, mlp=12, global_every=1, tied=False),
]


def make_torch(cfg: modernbert.Config):
    torch.manual_seed(0)
    hf = transformers.ModernBertConfig(
        **modernbert.to_hf_config(cfg, IDS), attn_implementation="eager"
    )
    model = transformers.ModernBertForMaskedLM(hf).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name == "decoder.bias":
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.15 * torch.randn_like(parameter))
    return model


def tensors_of(model):
    return {name: x.detach().numpy() for name, x in model.state_dict().items()}


def places_of(batch):
    """Return (row, slots) of every attention unit of two rows."""
    unit = np.asarray(unit_ids(batch))
    return unit, [(b, unit[b] == u) for b in range(2) for u in range(1, unit[b].max() + 1)]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def both(request):
    cfg = modernbert.Config(vocab_size=120, max_positions=64, **request.param)
    model = make_torch(cfg)
    params = _names.from_hf(
        modernbert.hf_names(cfg, "modernbert"), lambda name: tensors_of(model)[name]
    )
    return cfg, modernbert.make(cfg), params, model


@pytest.fixture(scope="module")
def one():
    """Return an encoder with two periods and a layer left, without PyTorch."""
    cfg = modernbert.Config(
        vocab_size=120, hidden=16, layers=6, heads=2, mlp=12, local_attention=6, global_every=2,
        max_positions=64, init_std=0.3,
    )  # fmt: skip
    module, rng = modernbert.make(cfg), np.random.default_rng(1)
    drawn = jax.jit(lambda key: nn.unbox(modernbert.init_params(module, key)))(jax.random.key(0))
    moved = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(x.dtype), drawn)
    return cfg, module, moved


def batch_args(layout="single"):
    batch = rows_of(layout).rows(0, 2)
    return batch["ids"], batch["position"], unit_ids(batch)


def test_hidden_states_and_logits_equal_hugging_face(both):
    cfg, module, params, model = both
    rng = np.random.default_rng(0)
    sizes = [40, 23, 3]
    ids = np.full((3, 40), 1)
    for row, size in zip(ids, sizes, strict=True):
        row[:size] = [0, *rng.integers(4, 119, size - 2), 2]
    real = np.arange(40) < np.array(sizes)[:, None]
    with torch.no_grad():
        theirs = model(
            torch.tensor(ids),
            attention_mask=torch.tensor(real.astype(int)),
            output_hidden_states=True,
        )
    position = np.where(real, np.arange(40), 0)
    states = jax.jit(partial(module.apply, all_layers=True))(
        {"params": params}, ids, position, real.astype(np.int32)
    )
    for mine, other in zip(states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(mine[real], other.numpy()[real], rtol=1e-5, atol=1e-5)

    def logits(module, h):
        table, bias = module.output()
        return module.transform(h) @ table.T + bias

    mine = np.asarray(nn.apply(logits, module)({"params": params}, states[-1]))
    np.testing.assert_allclose(mine[real], theirs.logits.numpy()[real], rtol=1e-5, atol=1e-5)


def test_tensors_come_back_bit_for_bit_under_all_names(both):
    cfg, module, params, model = both
    names, tensors = modernbert.hf_names(cfg, "modernbert"), tensors_of(model)
    written = _names.to_hf(names, params)
    copies = modernbert.hf_copies(cfg, "modernbert")
    assert set(written) == set(tensors) - set(copies)
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, tensors[name])
    for name, original in copies.items():
        np.testing.assert_array_equal(tensors[name], tensors[original])
    shapes = nn.unbox(jax.eval_shape(partial(modernbert.init_params, module), jax.random.key(0)))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
    assert _names.foretell(names, shapes) == {n: x.shape for n, x in written.items()}


def test_without_a_head_the_names_are_those_of_the_bare_model(both):
    cfg, _, params, model = both
    bare = replace(cfg, head=False)
    written = _names.to_hf(modernbert.hf_names(bare, "modernbert"), params)
    assert set(written) == set(model.model.state_dict())
    drawn = jax.eval_shape(
        partial(modernbert.init_params, modernbert.make(bare)), jax.random.key(0)
    )
    assert not {name for name in drawn if "head" in name or "output" in name}


def test_config_survives_both_ways_and_in_both_spellings(both):
    cfg, _, _, model = both
    written, tensors = modernbert.to_hf_config(cfg, IDS), set(tensors_of(model))
    old = {k: v for k, v in written.items() if k not in ("layer_types", "rope_parameters")}
    new = model.config.to_dict()  # what transformers 5 writes
    new = {k: v for k, v in new.items() if not k.startswith(("global_", "local_rope"))}
    for entries in (written, old, new):
        again = modernbert.from_hf_config(entries, tensors)
        # `layer_types` alone does not tell where the next global layer would have been
        assert again == replace(cfg, global_every=again.global_every)
        assert (again.periods, again.tail) == (cfg.periods, cfg.tail)
    assert modernbert.from_hf_config(old, tensors) == cfg
    bare = modernbert.from_hf_config(old, {"head.dense.weight", "classifier.weight"})
    assert bare == replace(cfg, head=False)


def test_mmbert_and_modernbert_as_on_the_hub():
    shared = dict(
        hidden_size=768, num_hidden_layers=22, num_attention_heads=12, intermediate_size=1152,
        global_attn_every_n_layers=3, local_attention=128, max_position_embeddings=8192,
        norm_eps=1e-5, hidden_activation="gelu", position_embedding_type="absolute",
    )  # fmt: skip
    tensors = {"head.dense.weight", "decoder.bias"}
    mmbert = dict(vocab_size=256_000, global_rope_theta=160_000, local_rope_theta=160_000, **shared)
    assert modernbert.from_hf_config(mmbert, tensors) == modernbert.Config()
    english = dict(vocab_size=50_368, global_rope_theta=160_000.0, local_rope_theta=10_000.0)
    cfg = modernbert.from_hf_config(shared | english, tensors)
    assert cfg == modernbert.Config(vocab_size=50_368, local_theta=10_000.0)
    assert (cfg.periods, cfg.tail, cfg.window, cfg.positions) == (7, 0, 64, 8192)
    same = modernbert.from_hf_config(shared | english | dict(local_rope_theta=None), tensors)
    assert same.local_theta == 160_000.0


@pytest.mark.parametrize(
    "entry",
    [
        dict(attention_bias=True),
        dict(mlp_bias=True),
        dict(norm_bias=True),
        dict(hidden_activation="silu"),
        dict(classifier_bias=True),
        dict(classifier_activation="relu"),
        dict(decoder_bias=False),
        dict(head_dim=16),
        dict(global_attn_every_n_layers=0),
        dict(layer_types=["sliding_attention"] * 22),
        dict(layer_types=["full_attention"] * 4 + ["sliding_attention"] * 18),
        dict(layer_types=["full_attention"]),
        dict(rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}),
        dict(rope_parameters={"full_attention": {"rope_type": "yarn", "factor": 4.0}}),
        dict(rope_scaling={"type": "linear", "factor": 2.0}),
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_honoured_is_named(entry):
    with pytest.raises(ConfigError, match=f"config.json has {next(iter(entry))}="):
        modernbert.from_hf_config(entry, {"head.dense.weight", "decoder.bias"})


@pytest.mark.parametrize("layout", ["single", "joint", "separate"])
def test_packed_states_equal_those_of_each_unit_alone(one, layout):
    cfg, module, params = one
    batch = rows_of(layout).rows(3, 2)
    unit, places = places_of(batch)
    assert len(places) >= 4 and max(at.sum() for _, at in places) > 4 * cfg.window
    ids, position, alone = np.full((3, 40, 64), [[[1]], [[0]], [[0]]])  # one unit per row, padded
    for row, (b, at) in enumerate(places):
        size = at.sum()
        ids[row, :size], position[row, :size], alone[row, :size] = (
            batch["ids"][b][at],
            np.arange(size),
            1,
        )
    encode = jax.jit(lambda *args: module.apply({"params": params}, *args, max_unit=64))
    packed, padded = encode(batch["ids"], batch["position"], unit), encode(ids, position, alone)
    for row, (b, at) in enumerate(places):
        np.testing.assert_allclose(packed[b][at], padded[row, : at.sum()], rtol=1e-5, atol=1e-5)


def test_a_local_layer_sees_its_window_and_a_global_one_its_unit(one):
    cfg, _, params = one
    ids, zero = np.arange(4, 44)[None], np.zeros((1, 40), int)
    other = np.where(np.arange(40) == 30, 50, ids)
    cut, kept = modernbert.first_layers(cfg, params, 2)  # layer 0 is global, layer 1 local

    encode = jax.jit(modernbert.make(cut).apply)

    def moved():
        a, b = (encode({"params": kept}, x, np.arange(40)[None], zero + 1) for x in (ids, other))
        return np.abs(a - b).max(axis=(0, 2)) > 1e-6

    assert moved().all()  # through layer 0
    kept["first"] = jax.tree.map(np.zeros_like, kept["first"])  # layer 0 adds nothing now
    np.testing.assert_array_equal(moved(), np.abs(np.arange(40) - 30) <= cfg.window)


def test_the_first_layers_alone_give_the_states_of_all_layers(one):
    cfg, module, params = one
    args = batch_args()
    states = jax.jit(partial(module.apply, all_layers=True))({"params": params}, *args)
    assert len(states) == cfg.layers + 1
    for num in range(cfg.layers + 1):
        cut, kept = modernbert.first_layers(cfg, params, num)
        drawn = jax.eval_shape(
            partial(modernbert.init_params, modernbert.make(cut)), jax.random.key(0)
        )
        assert jax.tree.structure(nn.unbox(drawn)) == jax.tree.structure(kept)
        last = jax.jit(modernbert.make(cut).apply)({"params": kept}, *args)
        np.testing.assert_allclose(last, states[num], rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="always has a final norm"):
        modernbert.to_hf_config(modernbert.first_layers(cfg, params, 2)[0], IDS)


def test_gradients_are_finite_and_unroll_and_remat_change_nothing_but_the_program(one):
    cfg, _, params = one
    args = batch_args()

    def value(**changes):
        module = modernbert.make(replace(cfg, **changes))

        def total(p):
            h_BLD = module.apply({"params": p}, *args)
            logits = nn.apply(lambda m, h: m.transform(h) @ m.output()[0].T, module)
            return jnp.square(logits({"params": p}, h_BLD)).mean()

        return jax.jit(jax.value_and_grad(total))(params)

    plain = value()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(plain))
    flat, _ = jax.tree_util.tree_flatten_with_path(plain[1])
    zero = {path[0].key for path, x in flat if not np.abs(x).any()}
    assert zero == {"head_bias"}  # it is not in these logits
    for changes in (dict(unroll=0), dict(remat=True)):
        for mine, theirs in zip(
            jax.tree.leaves(plain), jax.tree.leaves(value(**changes)), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=1e-5)


def test_dropout_acts_in_training_only(one):
    cfg, module, params = one
    args = batch_args()
    for changes in (dict(dropout=0.5), dict(attention_dropout=0.5)):
        other = modernbert.make(replace(cfg, **changes))

        def encode(deterministic, seed, other=other):
            rngs = {"dropout": jax.random.key(seed)}
            run = jax.jit(partial(other.apply, deterministic=deterministic))
            return run({"params": params}, *args, rngs=rngs)

        plain = jax.jit(module.apply)({"params": params}, *args)
        np.testing.assert_array_equal(encode(True, 0), plain)
        a, b = (encode(False, seed) for seed in (0, 1))
        assert np.isfinite(a).all() and np.abs(a - b).mean() > 0.1


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(one):
    cfg, _, _ = one
    small = replace(cfg, init_std=0.02)
    high, low = (modernbert.make(replace(small, dtype=d)) for d in ("float32", "bfloat16"))
    drawn = jax.jit(lambda key: nn.unbox(modernbert.init_params(low, key)))(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(drawn)} == {np.dtype("float32")}
    high_BLD, low_BLD = (jax.jit(m.apply)({"params": drawn}, *batch_args()) for m in (high, low))
    assert low_BLD.dtype == jnp.bfloat16
    np.testing.assert_allclose(high_BLD, low_BLD.astype(jnp.float32), atol=0.1)


def test_states_on_a_mesh_equal_those_on_one_device(one):
    cfg, module, params = one
    args = batch_args()
    theirs = jax.jit(module.apply)({"params": params}, *args)
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2))
    boxed = jax.eval_shape(partial(modernbert.init_params, module), jax.random.key(0))
    shardings = mesh_lib.param_shardings(boxed, mesh)
    assert shardings["periods"]["local_1"]["mlp_in"]["kernel"].spec == PartitionSpec(
        None, "fsdp", None, "tensor"
    )
    with jax.set_mesh(mesh), nn.logical_axis_rules(mesh_lib.RULES):
        rows = [jax.device_put(np.concatenate([x, x]), mesh_lib.batch_sharding(mesh)) for x in args]
        ours = jax.jit(module.apply)({"params": jax.device_put(params, shardings)}, *rows)
    np.testing.assert_allclose(ours, np.concatenate([theirs, theirs]), rtol=1e-5, atol=1e-5)


def test_a_turn_by_hand_and_only_the_distance_counts():
    at = jnp.array([[0, 3, 5, 8]])
    turns_2BLK = turns(at, 100.0, 4)  # frequencies 1 and 1 / 10
    x = jnp.ones((1, 4, 1, 1, 4))
    hand = [np.cos(3) - np.sin(3), np.cos(0.3) - np.sin(0.3), np.cos(3) + np.sin(3)]
    turned_BLTHK = turn(x, turns_2BLK)
    np.testing.assert_allclose(turned_BLTHK[0, 1, 0, 0, :3], hand, rtol=1e-6)
    dots_LL = jnp.einsum("BLTHK,BMTHK->LM", turned_BLTHK, turned_BLTHK)
    apart = 2 * np.cos(3) + 2 * np.cos(0.3)  # terms of 2 that nearly cancel, hence atol
    np.testing.assert_allclose([dots_LL[0, 1], dots_LL[2, 3]], apart, atol=2e-6)


def test_flops_equal_the_hand_count():
    cfg = modernbert.Config(
        vocab_size=100, hidden=4, layers=5, heads=2, mlp=8, local_attention=4, global_every=3
    )
    # dense weights 5 (4 x 16 + 3 x 32) = 800; attention: 2 global layers see 10 slots, 3 local ones
    # 5: 2 x 4 x 35 = 280; head 0.5 (16 + 400) = 208
    assert modernbert.flops_per_token(cfg, mean_unit=10, masked_frac=0.5) == 6 * (800 + 280 + 208)
    # units of 3: all 5 layers see 3 slots, 2 x 4 x 15 = 120
    assert modernbert.flops_per_token(cfg, mean_unit=3, masked_frac=0.0) == 6 * (800 + 120)


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(hidden=10, heads=3), "does not divide"),
        (dict(hidden=15, heads=3), "even size"),
        (dict(dtype="half"), "one of"),
        (dict(attention_dropout=1.0), "lie in"),
        (dict(global_every=0), "global_every=0: need at least 1"),
    ],
)
def test_impossible_shapes_are_refused(bad, message):
    with pytest.raises(ConfigError, match=message):
        modernbert.Config(**bad)
