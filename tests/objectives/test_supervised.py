"""Tag, classify, span: equal to transformers' heads, packed as alone, and by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen as nn

from jalign.objectives import classify, span, tag
from jalign.objectives._supervised import class_loss, text_types
from jalign.train.mesh import RULES, MeshConfig, make_mesh, put_batch
from tests.objectives.labelled import TASKS, alone, encoder_of, head_of, labelled_rows, make_torch

NAMES = tuple(TASKS)
WITH_BERT = [("tag", "XLMRoberta"), ("classify", "XLMRoberta"), ("span", "XLMRoberta"),
             ("classify", "Bert"), ("span", "Bert")]  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def task(request):
    """Return (name, objective, predict, params) for each objective, with transformers' weights."""
    return prepared(request.param)


def prepared(name, family="XLMRoberta", **changes):
    model = make_torch(name, family)
    encoder, params = encoder_of(model, **changes)
    params = {"encoder": params, name: head_of(name, model)}
    cfg = TASKS[name].config()
    objective, predict = (
        f(cfg, encoder) for f in (TASKS[name].module.make, TASKS[name].module.make_predict)
    )
    return name, objective, predict, params, model


def loss_of(objective, params, batch, key=None):
    return jax.jit(lambda p, b: objective.loss(p, {}, {"task": b}, key))(params, batch)


def hf_logits(name, model, row):
    """Run transformers on the ids of one example; logits per slot (of the whole for classify)."""
    size = int((row["example"] > 0).sum())
    types = np.zeros(size, np.int64)
    if model.config.type_vocab_size > 1:  # 0 up to and with the first end, 1 after it
        types[np.flatnonzero(row["ids"][:size] == 2)[0] + 1 :] = 1
    ids, types = (torch.tensor(np.asarray(x[:size], np.int64))[None] for x in (row["ids"], types))
    with torch.no_grad():
        out = model(ids, attention_mask=torch.ones_like(ids), token_type_ids=types)
    if name == "span":
        return torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1)
    return out.logits[0]


def hf_loss(name, logits, row):
    """Return transformers' loss of one example (total, count), in its formula; for spans over the
    allowed slots.
    """
    cross = torch.nn.functional.cross_entropy
    size = int((row["example"] > 0).sum())
    if name == "tag":
        label = torch.tensor(row["label"][:size].astype(np.int64))
        kept = int((label >= 0).sum())
        return float(cross(logits, label, ignore_index=-1, reduction="sum")) if kept else 0.0, kept
    if name == "classify":
        label = int(row["label"][0])
        return (float(cross(logits, torch.tensor(label))), 1) if label >= 0 else (0.0, 0)
    allowed = (row["side"][:size] == 2) | (row["position"][:size] == 0)
    ends = []
    for k, mark in enumerate(("answer_start", "answer_end")):
        gold = np.flatnonzero(row[mark])
        if not gold.size:
            return 0.0, 0
        column = logits[:, k].masked_fill(torch.tensor(~allowed), -torch.inf)
        ends.append(float(cross(column, torch.tensor(gold[0]))))
    return sum(ends) / 2, 1


@pytest.mark.parametrize(("name", "family"), WITH_BERT)
def test_logits_and_losses_of_packed_rows_equal_transformers_one_by_one(name, family):
    name, objective, predict, params, model = prepared(name, family)
    packed = labelled_rows(name)
    found = np.asarray(jax.jit(predict)(params, packed))
    assert found.dtype == np.float32
    total = count = 0
    rows = alone(packed)
    places = [(r, e == n) for r, e in enumerate(packed["example"]) for n in range(1, e.max() + 1)]
    for number, (r, mine) in enumerate(places):
        row = {k: v[number] for k, v in rows.items()}
        logits = hf_logits(name, model, row)
        ours = found[r, mine][0] if name == "classify" else found[r, mine]
        np.testing.assert_allclose(ours, logits.numpy(), atol=1e-5, rtol=1e-5)
        some, kept = hf_loss(name, logits, row)
        total, count = total + some, count + kept
    loss = loss_of(objective, params, packed)
    assert len(places) > 10 and loss.count == count > 5
    np.testing.assert_allclose(loss.total, total, rtol=1e-5)


def test_transformers_computes_the_mean_that_our_total_and_count_give():
    """The formula above is transformers' own: its `loss` on a batch without padding is our mean."""
    for name, labels in (("tag", "labels"), ("classify", "labels")):
        name, objective, _, params, model = prepared(name)
        rows = alone(labelled_rows(name, 4))
        row = {k: v[:1] for k, v in rows.items()}
        size = int((row["example"] > 0).sum())
        gold = row["label"][:, :size] if name == "tag" else row["label"][:, 0]
        gold = torch.tensor(np.where(gold < 0, -100, gold).astype(np.int64))
        ids = torch.tensor(row["ids"][:, :size].astype(np.int64))
        with torch.no_grad():
            theirs = model(ids, attention_mask=torch.ones_like(ids), **{labels: gold}).loss
        mine = loss_of(objective, params, row)
        np.testing.assert_allclose(mine.total / mine.count, theirs.numpy(), rtol=1e-5)


def test_packed_loss_and_gradients_equal_one_example_per_row(task):
    name, objective, predict, params, _ = task
    packed = labelled_rows(name)

    def mean(params, batch):
        loss = objective.loss(params, {}, {"task": batch}, None)
        return loss.total / loss.count, loss

    both = jax.jit(jax.value_and_grad(mean, has_aux=True))
    results = [both(params, batch) for batch in (packed, alone(packed))]
    ((mine, loss), grad), ((theirs, wanted), other) = results
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    assert loss.count == wanted.count
    for key, metric in loss.metrics.items():
        assert metric.total == wanted.metrics[key].total and metric.count == loss.count
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(other))
    for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_other_examples_of_the_row_do_not_matter(task):
    name, _, predict, params, _ = task
    packed = labelled_rows(name)
    first = packed["example"] == 1
    changed = packed | {"ids": np.where(first | (packed["side"] == 0), packed["ids"], 50)}
    before, after = (np.asarray(jax.jit(predict)(params, b)) for b in (packed, changed))
    np.testing.assert_allclose(before[first], after[first], atol=1e-5)
    assert np.abs(before - after)[packed["example"] > 1].max() > 1e-2


def test_rows_without_a_label_give_nothing_and_no_nan(task):
    name, objective, _, params, _ = task
    packed = labelled_rows(name)
    marks = {"label": -1} if "label" in packed else {"answer_start": 0, "answer_end": 0}
    blank = {n: np.full_like(packed[n], value) for n, value in marks.items()}
    empty = {n: np.zeros_like(v) for n, v in packed.items()} | blank
    grad_of = jax.jit(jax.grad(lambda p, b: objective.loss(p, {}, {"task": b}, None).total))
    for batch in (packed | blank, empty):
        loss = loss_of(objective, params, batch)
        grad = grad_of(params, batch)
        assert loss.total == loss.count == 0
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grad))


def test_groups_and_meshes_give_the_loss_of_one_device(task):
    name, _, _, params, model = task
    batch = labelled_rows(name, 8)
    wanted = loss_of(task[1], params, batch)
    for sizes in (dict(data=8), dict(data=2, fsdp=2, tensor=2)):
        mesh = make_mesh(MeshConfig(**sizes), jax.devices())
        encoder, _ = encoder_of(model, num_groups=8 if "tensor" not in sizes else 4)
        objective = TASKS[name].module.make(TASKS[name].config(), encoder)
        with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
            loss = loss_of(objective, params, put_batch(batch, mesh, 8))
        np.testing.assert_allclose(loss.total, wanted.total, rtol=1e-5)
        assert loss.count == wanted.count
        for key, metric in loss.metrics.items():
            assert metric.total == wanted.metrics[key].total


def test_the_loss_falls_in_thirty_steps_and_the_metric_rises(task):
    name, objective, _, params, _ = task
    batch, optimizer = labelled_rows(name, 4), optax.adam(5e-3)

    @jax.jit
    def step(params, opt):
        def mean(p):
            loss = objective.loss(p, {}, {"task": batch}, None)
            return loss.total / loss.count, loss

        (value, loss), grad = jax.value_and_grad(mean, has_aux=True)(params)
        updates, opt = optimizer.update(grad, opt)
        [metric] = loss.metrics.values()
        return optax.apply_updates(params, updates), opt, value, metric.total / metric.count

    opt, values = optimizer.init(params), []
    for _ in range(30):
        params, opt, *value = step(params, opt)
        values.append([float(x) for x in value])
    assert values[-1][0] < 0.5 * values[0][0] and values[-1][1] > values[0][1] + 0.3


@pytest.mark.parametrize(
    "name, where", [("tag", "head"), ("classify", "head"), ("span", "encoder")]
)
def test_dropout_acts_in_training_only_and_depends_on_the_key(name, where):
    _, plain, _, params, model = prepared(name)
    encoder, _ = encoder_of(model, 0.5 if where == "encoder" else 0.0)
    cfg = TASKS[name].config(**({"dropout": 0.5} if where == "head" else {}))
    dropping, batch = TASKS[name].module.make(cfg, encoder), labelled_rows(name)
    keys = [None, jax.random.key(0), jax.random.key(0), jax.random.key(1)]
    losses = [float(loss_of(dropping, params, batch, key).total) for key in keys]
    assert losses[0] == float(loss_of(plain, params, batch).total)
    assert losses[1] == losses[2] and len(set(losses)) == 3
    assert float(loss_of(plain, params, batch, keys[1]).total) == pytest.approx(losses[0], rel=1e-6)


def test_the_dense_head_drops_out_before_each_of_its_layers_as_transformers_does():
    eye = {"kernel": np.eye(24, dtype=np.float32), "bias": np.zeros(24, np.float32)}
    head = classify.Head(24, "dense", 0.5)
    out = head.apply({"params": {"dense": eye, "out": eye}}, jnp.ones((200, 24)), jax.random.key(0))
    np.testing.assert_allclose(np.unique(out), [0, 2 * np.tanh(2)], rtol=1e-6)
    assert 0.22 < (np.asarray(out) > 0).mean() < 0.28  # a quarter passes both


@pytest.mark.parametrize("name", ["classify", "span"])
def test_no_example_is_lost_where_they_are_as_short_as_can_be(name):
    """Rows of 63 slots full of `<s> </s> </s>`, as two empty texts give."""
    _, objective, _, params, _ = prepared(name)
    position = np.tile(np.arange(63, dtype=np.int32) % 3, (2, 1))
    start = position == 0
    batch = {"ids": np.where(start, 0, 2), "position": position, "side": 0 * position}
    batch["example"] = np.tile(1 + np.arange(63, dtype=np.int32) // 3, (2, 1))
    if name == "classify":
        batch["label"] = np.where(start, position % 5, -1)
    else:
        batch |= {"answer_start": start.astype(np.int32), "answer_end": start.astype(np.int32)}
    loss = loss_of(objective, params, batch)
    assert loss.count == 42
    if name == "span":  # the only place to be is the first slot
        np.testing.assert_allclose(loss.total, 0.0, atol=1e-5)
        assert loss.metrics["exact"].total == 42
    else:
        one = loss_of(objective, params, {k: v[:, :3] for k, v in batch.items()})
        np.testing.assert_allclose(loss.total, 21 * one.total, rtol=1e-5)


def test_the_linear_head_has_no_dense_layer_and_heads_are_drawn_like_transformers():
    encoder, _ = encoder_of(make_torch("classify"))
    sample = jnp.zeros((1, 24))
    for module, kinds in ((classify, ("dense", "linear")), (tag, ("",)), (span, ("",))):
        for kind in kinds:
            cfg = module.Config(**({"head": kind} if kind else {}))
            [(name, head)] = module.make(cfg, encoder).heads.items()
            params = nn.unbox(head.init(jax.random.key(0), sample)["params"])
            assert name == module.NAME
            assert set(params) == {"out", "dense"} - ({"dense"} if kind != "dense" else set())
            assert params["out"]["kernel"].shape == (24, 2 if module is span else 5)
            assert 0.01 < params["out"]["kernel"].std() < 0.03
            assert not params["out"]["bias"].any()


def test_class_loss_by_hand():
    logit = jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0], [9.0, 1.0], [1.0, 3.0]]))
    loss = class_loss(logit, jnp.array([1, 0, -1, 0]))
    np.testing.assert_allclose(loss.total, np.log(4 / 3) + np.log(2) + np.log(4), rtol=1e-6)
    assert loss.count == 3
    assert loss.metrics["accuracy"].total == 2  # of a tie the first class


def hand_batch():
    """Two windows in a row, and padding: <s> q </s> c c </s>, <s> q </s> c </s>."""
    return {
        "example": np.array([[1] * 6 + [2] * 5 + [0]]),
        "side": np.array([[0, 1, 0, 2, 2, 0, 0, 1, 0, 2, 0, 0]]),
        "position": np.array([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 0]]),
        "answer_start": np.array([[0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]]),
        "answer_end": np.array([[0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]]),
    }


def test_span_loss_by_hand():
    mass = np.full((1, 12, 2), 7.0)  # questions, ends and padding: large, and of no account
    mass[0, [0, 3, 4], 0] = 1, 2, 1  # start: 2 of 4
    mass[0, [0, 3, 4], 1] = 1, 2, 5  # end: 5 of 8
    mass[0, [6, 9], 0] = 3, 1  # first slot: 3 of 4
    mass[0, [6, 9], 1] = 1, 4  # 1 of 5
    loss = span.span_loss(jnp.log(mass), hand_batch())
    wanted = np.log([4 / 2, 8 / 5, 4 / 3, 5 / 1]).sum() / 2
    np.testing.assert_allclose(loss.total, wanted, rtol=1e-6)
    assert loss.count == 2 == loss.metrics["exact"].count
    assert loss.metrics["exact"].total == 1


def test_span_loss_is_not_disturbed_by_a_neighbour_of_another_magnitude():
    logit = np.zeros((1, 12, 2), np.float32)
    logit[0, :6] = 1e4
    logit[0, 6:] = -1e4
    loss = span.span_loss(jnp.array(logit), hand_batch())
    np.testing.assert_allclose(loss.total, np.log(3) + np.log(2), rtol=1e-5)
    grad = jax.grad(lambda x: span.span_loss(x, hand_batch()).total)(jnp.array(logit))
    assert np.isfinite(grad).all()
    allowed = [0, 3, 4, 6, 9]
    assert (np.asarray(grad)[0, allowed] != 0).all()
    assert not np.delete(np.asarray(grad)[0], allowed, axis=0).any()


def test_text_types_are_berts_token_types():
    types = text_types(hand_batch())
    assert types.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0]]
    fields = ("example", "side", "position")
    single = ([1, 1, 1, 2, 2, 0], [0, 1, 0, 0, 0, 0], [0, 1, 2, 0, 1, 0])
    assert not text_types(dict(zip(fields, np.array(single)[:, None], strict=True))).any()
    empty_side = ([1, 1, 1, 1], [0, 1, 0, 0], [0, 1, 2, 3])
    empty_side = dict(zip(fields, np.array(empty_side)[:, None], strict=True))
    assert text_types(empty_side).tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize("name", ["tag", "classify"])
def test_a_stream_without_labels_is_refused_with_what_to_set(name):
    encoder, _ = encoder_of(make_torch(name))
    for f in (TASKS[name].module.make, TASKS[name].module.make_predict):
        with pytest.raises(
            ValueError, match=r"stream 'ner' has no labels \(streams that have: task\)"
        ):
            f(TASKS[name].module.Config(stream="ner"), encoder)


@pytest.mark.parametrize(
    ("module", "entries", "said"),
    [
        (tag, {"dropout": 1.0}, "dropout=1.0"),
        (classify, {"dropout": -0.1}, "dropout=-0.1"),
        (classify, {"head": "pooler"}, "head='pooler': need one of dense, linear"),
    ],
)
def test_wrong_entries_are_refused(module, entries, said):
    with pytest.raises(ValueError, match=said):
        module.Config(**entries)
