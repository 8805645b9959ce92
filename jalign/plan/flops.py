"""Count the floating-point operations of the matrix products of a compiled program, on one chip.

Elementwise work is not counted: it is a few per cent, and the chips' peaks are those of products.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict

from jalign.plan.hlo import Computation, Instruction, Program, Shape

# What a kernel that the compiler cannot look into computes: products of [L, L, K] per head.
# Forward: scores and output. Backward: scores again and four gradients' products; the two kernels
# of splash do the scores and the gradient of the scores each for itself.
_KERNEL_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
_CUDNN_FORWARD, _CUDNN_BACKWARD = 2, 5
_NUMBERS = ("bf16", "f16", "f32")


def count_flops(program: Program) -> dict[str, float]:
    """Return the FLOPs of one run by kind: products, and attention inside kernels."""
    flops: dict[str, float] = defaultdict(float)
    for instruction, computation, times, _ in program.walk():
        if instruction.opcode == "dot":
            flops["products"] += times * _dot(instruction, computation)
        elif instruction.opcode == "convolution":
            flops["products"] += times * _convolution(instruction, computation)
        elif instruction.opcode == "custom-call":
            kind, number = _custom_call(instruction, computation)
            flops[kind] += times * number
    return {kind: number for kind, number in flops.items() if number}


def _dot(instruction: Instruction, computation: Computation) -> float:
    lhs = computation.operands(instruction)[0].shapes[0]
    axes = _numbers(instruction.attribute("lhs_contracting_dims"))
    inner = math.prod(lhs.sizes[axis] for axis in axes)
    return 2.0 * math.prod(instruction.shapes[0].sizes) * inner


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"-?\d+", text)]


def _convolution(instruction: Instruction, computation: Computation) -> float:
    """Count a convolution, which is how the TPU compiler writes a product."""
    lhs, rhs = (i.shapes[0] for i in computation.operands(instruction)[:2])
    labels = instruction.attribute("dim_labels")
    lhs_labels, rhs_labels, out_labels = re.split(r"_|->", labels)
    out = instruction.shapes[0]
    window = _window(instruction.attribute("window"), sum(c.isdigit() for c in rhs_labels))
    flops = 2.0 * out.sizes[out_labels.index("b")] * out.sizes[out_labels.index("f")]
    flops *= rhs.sizes[rhs_labels.index("i")]
    for axis, place in enumerate(window):
        size = lhs.sizes[lhs_labels.index(str(axis))]
        flops *= _valid_positions(size, out.sizes[out_labels.index(str(axis))], place)
    return flops / max(1, *_numbers(instruction.attribute("batch_group_count") or "1"))


def _window(text: str, axes: int) -> list[dict[str, tuple[int, ...]]]:
    """Read `{size=12x1 stride=11x1 pad=0_0x1_1 lhs_dilate=12x1}`: one mapping per axis."""
    found = dict(re.findall(r"(\w+)=([\dx_-]+)", text))
    default = {"size": 1, "stride": 1, "pad": 0, "lhs_dilate": 1, "rhs_dilate": 1}
    places = []
    for axis in range(axes):
        place = {}
        for name, value in default.items():
            parts = found[name].split("x") if name in found else []
            place[name] = tuple(map(int, parts[axis].split("_"))) if parts else (value,)
        places.append(place)
    return places


def _valid_positions(size: int, out: int, place: dict[str, tuple[int, ...]]) -> int:
    """Count the pairs of an output and a kernel position that meet an input, not padding: a batch
    axis of a product is written as a dilated axis on which each output meets one.
    """
    kernel, stride, low = place["size"][0], place["stride"][0], place["pad"][0]
    dilate, rhs_dilate = place["lhs_dilate"][0], place["rhs_dilate"][0]
    reach = (size - 1) * dilate
    if kernel == 1 and stride == 1 and low == 0 and dilate == 1:
        return out
    count = 0
    for k in range(kernel):
        offset = k * rhs_dilate - low
        count += sum(
            1
            for o in range(out)
            if 0 <= o * stride + offset <= reach and (o * stride + offset) % dilate == 0
        )
    return count


def _custom_call(instruction: Instruction, computation: Computation) -> tuple[str, float]:
    target = instruction.attribute("custom_call_target").strip('"')
    operands = [s for i in computation.operands(instruction) for s in i.shapes]
    if not operands:
        return "", 0.0
    if target.startswith("__cublas"):
        return "products", _cublas(instruction, operands)
    if target.startswith("__cudnn$fmha"):
        products = _CUDNN_BACKWARD if "Backward" in target else _CUDNN_FORWARD
        return "attention kernels", products * _attention(operands)
    for name, products in _KERNEL_PRODUCTS.items():
        if instruction.name.startswith(name) or name in instruction.op_name:
            return "attention kernels", products * _attention(operands)
    return "", 0.0


def _cublas(instruction: Instruction, operands: list[Shape]) -> float:
    found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.rest)
    axes = _numbers(found[1]) if found else [len(operands[0].sizes) - 1]
    inner = math.prod(operands[0].sizes[axis] for axis in axes)
    return 2.0 * math.prod(instruction.shapes[0].sizes) * inner


def _attention(operands: list[Shape]) -> float:
    """Return the FLOPs of one product [L, K] x [K, L] of all heads. The queries are the first
    operand of numbers, [B, H, L, K] or [B, L, H, K], and a row is longer than there are heads.
    """
    queries = next(s for s in operands if s.dtype in _NUMBERS and len(s.sizes) >= 3)
    return 2.0 * math.prod(queries.sizes) * max(queries.sizes[-3:-1])
