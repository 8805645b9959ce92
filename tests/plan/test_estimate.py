"""Times of collectives, worked out by hand: what stays on an island, what leaves it, which axes of
a torus carry it.
"""

from __future__ import annotations

import itertools
import json
import math

import jax
import numpy as np
import pytest

from benchmarks import plans
from jalign.plan.collectives import Collective
from jalign.plan.estimate import Sent, bytes_sent, estimate
from jalign.plan.places import Spread, imagined_places, places_of
from jalign.plan.report import to_json
from jalign.plan.search import search
from jalign.plan.topology import CHIPS, Topology, axis_rates, open_topology, parse_topology
from jalign.train.mesh import AXES, MeshConfig, make_mesh
from tests.plan.test_plan import tiny

GRADIENTS = 1_110_000_000  # bytes of XLM-R base in float32


def mesh_of(dcn=1, data=1, fsdp=1, tensor=1):
    return dict(zip(AXES, (dcn, data, fsdp, tensor), strict=True))


def collective(operation, axes, group, leaves, payload=GRADIENTS):
    return Collective(operation, axes, group, leaves, 1, payload, 0.0, payload, "")


def times_of(topology, sent, slices=1):
    kind, sizes = parse_topology(topology)
    return estimate(0.0, 0.0, sent, CHIPS[kind], axis_rates(CHIPS[kind], sizes))


def test_an_all_reduce_over_two_nodes_shares_the_adapters_of_each():
    places = imagined_places("h100:8x2", 1, mesh_of(data=16))
    assert places.spread(("data",)) == Spread(8, 2, frozenset({0}))
    sent = bytes_sent(collective("all-reduce", ("data",), 16, True), places)
    assert sent.inside == 2 * 7 / 8 * GRADIENTS
    assert sent.outside == 2 * 1 / 2 * GRADIENTS / 8
    times = times_of("h100:8x2", [sent])
    assert times.inside == pytest.approx(1_942_500_000 / 450e9)  # 4.32 ms
    assert times.outside == pytest.approx(138_750_000 / 50e9)  # 2.78 ms, and not 42


def test_an_all_reduce_over_two_slices_uses_three_axes_and_all_chips_networks():
    places = imagined_places("v5p:4x4x4", 2, mesh_of(dcn=2, data=64))
    sent = bytes_sent(collective("all-reduce", ("dcn", "data"), 128, True), places)
    assert sent.axes == {0, 1, 2}
    times = times_of("v5p:4x4x4", [sent])
    assert times.inside == pytest.approx(2 * 63 / 64 * GRADIENTS / (3 * 180e9))  # 4.05 ms
    assert times.outside == pytest.approx(2 * 1 / 2 * GRADIENTS / 64 / 6.25e9)  # 2.78 ms
    between = bytes_sent(collective("all-reduce", ("dcn",), 2, True), places)
    assert (between.inside, between.outside) == (0, GRADIENTS)


@pytest.mark.parametrize(
    ("operation", "inside", "outside"),
    [  # of 16 chips, 8 on each of two nodes
        ("all-gather", 7 / 8, 1 / 2 / 8),
        ("reduce-scatter", 7 / 8, 1 / 2 / 8),
        ("all-reduce", 2 * 7 / 8, 2 * 1 / 2 / 8),
        ("all-to-all", 7 / 16, 8 / 16),
        ("collective-broadcast", 1, 1 / 8),
    ],
)
def test_each_operation_sends_its_share_inside_and_outside(operation, inside, outside):
    places = imagined_places("h100:8x2", 1, mesh_of(data=2, fsdp=8))
    sent = bytes_sent(collective(operation, ("data", "fsdp"), 16, True, 1600), places)
    assert (sent.inside, sent.outside) == (1600 * inside, 1600 * outside)


@pytest.mark.parametrize("axes", [("fsdp",), ("data",), ("data", "fsdp"), ("data", "tensor")])
def test_what_goes_inside_and_outside_is_in_all_what_a_ring_sends(axes):
    for fsdp, tensor in itertools.product((2, 4), (2, 4)):
        mesh = mesh_of(data=32 // fsdp // tensor, fsdp=fsdp, tensor=tensor)
        places = imagined_places("h100:8x4", 1, mesh)
        group = math.prod(mesh[name] for name in axes)
        leaves = places.spread(axes).islands > 1
        for operation, passes in (("all-reduce", 2), ("all-gather", 1), ("all-to-all", 1)):
            sent = bytes_sent(collective(operation, axes, group, leaves), places)
            ring = passes * (group - 1) / group * GRADIENTS
            assert sent.inside + sent.outside == pytest.approx(ring)


def test_a_mesh_axis_over_both_axes_of_a_torus_uses_the_links_of_both():
    everyone = imagined_places("v5e:16x16", 1, mesh_of(data=256))
    sent = bytes_sent(collective("all-reduce", ("data",), 256, False), everyone)
    assert times_of("v5e:16x16", [sent]).inside == pytest.approx(
        2 * 255 / 256 * GRADIENTS / (90e9 + 90e9)
    )
    square = imagined_places("v5e:16x16", 1, mesh_of(data=16, fsdp=16))
    sent = bytes_sent(collective("all-reduce", ("data",), 16, False), square)
    assert len(sent.axes) == 1
    assert times_of("v5e:16x16", [sent]).inside == pytest.approx(2 * 15 / 16 * GRADIENTS / 90e9)
    # fsdp=16 is a plane of the cube, data=4 the third axis
    cube = imagined_places("v5p:4x4x4", 1, mesh_of(data=4, fsdp=16))
    plane, line = cube.spread(("fsdp",)).axes, cube.spread(("data",)).axes
    assert (len(plane), len(line)) == (2, 1) and plane | line == {0, 1, 2}


@pytest.mark.parametrize(
    ("topology", "rates"),
    [
        ("v5e:16x16", (90e9, 90e9)),
        ("v5e:8x16", (45e9, 90e9)),  # a ring has sixteen chips
        ("v5e:4x4", (45e9, 45e9)),
        ("v5p:4x4x4", (180e9, 180e9, 180e9)),
        ("v5p:2x2x4", (90e9, 90e9, 90e9)),  # no whole cube: no ring
        ("h100:8x2", (450e9,)),
    ],
)
def test_an_axis_that_is_no_ring_has_half_the_rate(topology, rates):
    kind, sizes = parse_topology(topology)
    assert axis_rates(CHIPS[kind], sizes) == rates


def test_collectives_on_different_axes_may_run_together():
    first, second, both = frozenset({0}), frozenset({1}), frozenset({0, 1})
    lines = [Sent(90e9, 0, first), Sent(45e9, 0, second)]
    assert times_of("v5e:16x16", lines).inside == pytest.approx(1.0)  # the longer one
    # 225 GB over links of 180 GB/s: the third fills up what the second leaves idle
    assert times_of("v5e:16x16", [*lines, Sent(90e9, 0, both)]).inside == pytest.approx(1.25)
    assert times_of("v5e:16x16", [*lines, lines[0]]).inside == pytest.approx(2.0)
    assert times_of("v5e:16x16", []).inside == 0


def test_groups_that_are_not_alike_or_not_known_are_not_overrated():
    # threes on nodes of eight: some lie on one node, some are cut in two and one
    places = imagined_places("h100:8x3", 1, mesh_of(data=8, fsdp=3))
    assert places.spread(("fsdp",)) == Spread(3, 2, frozenset({0}))
    # four of the sixteen along an axis: at most two of them are neighbours, perhaps none
    places = imagined_places("h100:8x2", 1, mesh_of(data=16))
    sent = bytes_sent(collective("all-reduce", ("data",), 4, True, 1600), places)
    assert (sent.inside, sent.outside) == (0, 2 * 1 / 2 * 1600 / 2)
    sent = bytes_sent(collective("all-reduce", ("data",), 4, False, 1600), places)
    assert (sent.inside, sent.outside) == (2 * 3 / 4 * 1600, 0)
    pair = collective("collective-permute", ("data",), 2, True, 1600)
    assert bytes_sent(pair, places).outside == 1600
    pair = collective("collective-permute", ("data",), 2, False, 1600)
    assert bytes_sent(pair, places).inside == 1600


@pytest.mark.parametrize(
    ("topology", "slices"), [("v5e:2x2", 1), ("v5e:4x4", 1), ("v5p:4x4x4", 2), ("v5e:16x16", 1)]
)
def test_imagined_places_are_those_of_the_compilers_devices(monkeypatch, topology, slices):
    pytest.importorskip("libtpu", reason="needs libtpu: pip install 'jalign[tpu]'")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    devices = open_topology(topology, slices).devices
    island = len(devices) // slices
    for fsdp, tensor in itertools.product((1, 2, 4, 16), (1, 2, 4)):
        if island % (fsdp * tensor):
            continue
        mesh = make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor, dcn=slices), devices)
        found = places_of(dict(mesh.shape), mesh.devices.ravel(), island)
        imagined = imagined_places(topology, slices, dict(mesh.shape))
        np.testing.assert_array_equal(found.coordinates, imagined.coordinates)
        np.testing.assert_array_equal(found.island, imagined.island)


def test_stored_plans_get_their_times_without_compiling():
    encoder = dict(tiny().encoder) | dict(attention="dense")
    topology = Topology("h100:4x2", CHIPS["h100"], (4, 2), 1, jax.devices())
    cfg = tiny(encoder=encoder, steps=200_000)
    plan = json.loads(json.dumps(to_json(search(cfg, topology, budget=0), topology)))
    step = plan["step"]
    assert step["seconds"]["outside"] > 0 and step["hours"] > 0
    old = plan | {"step": dict(step, seconds=dict(compute=1.0, bound="compute"), hours=9.0)}
    del old["step"]["steps"]
    new = plans.estimated("xlmr_base", old)  # a config of 200,000 steps
    assert new["step"] == step and new["notes"] == plan["notes"]
    epochs = plans.estimated("adjust", old)
    assert epochs["step"]["seconds"] == step["seconds"]
    assert epochs["step"]["hours"] is None and epochs["step"]["steps"] is None
    assert "no hours" in epochs["notes"][-1]
    assert plans.estimated("adjust", epochs) == epochs
    assert plans.estimated("adjust", {"error": "no"}) == {"error": "no"}
