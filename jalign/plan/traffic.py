"""Count the bytes that a compiled program moves between a chip and its memory.

Every instruction outside of fusions reads its operands and writes its result, but for what only
points; a slice of a stacked array, and an update in place, count with the part that they touch.
"""

from __future__ import annotations

from jalign.plan.hlo import Computation, Instruction, Program

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "async-start",
    "async-update", "async-done", "copy-done", "all-reduce-done", "all-gather-done",
    "collective-permute-done", "send", "recv", "send-done", "recv-done", "domain",
}  # fmt: skip


def count_bytes(program: Program) -> float:
    """Return the bytes read and written in one run, on one chip."""
    total = 0.0
    for instruction, computation, times, fused in program.walk():
        if not fused and instruction.opcode not in _FREE:
            total += times * _moved(instruction, computation, program)
    return total


def _moved(instruction: Instruction, computation: Computation, program: Program) -> float:
    operands = computation.operands(instruction)
    match instruction.opcode:
        case "dynamic-slice" | "slice" | "gather":
            return 2 * instruction.bytes
        case "dynamic-update-slice" | "scatter":
            return 2 * operands[-1 if instruction.opcode == "scatter" else 1].bytes
        case "fusion":
            name = instruction.attribute("calls").lstrip("%")
            return _of_fusion(instruction, operands, program.computations[name])
        case "copy-start":
            return 2 * operands[0].bytes
    return instruction.bytes + sum(o.bytes for o in operands)


def _of_fusion(instruction: Instruction, operands: list[Instruction], inside: Computation) -> float:
    """Count what a fusion reads of each operand, and what it writes."""
    users: dict[str, list[Instruction]] = {}
    for user in inside.instructions:
        for name in user.operands:
            users.setdefault(name, []).append(user)
    updates = [i for i in inside.instructions if i.opcode == "dynamic-update-slice"]
    updated = {_source(u.operands[0], inside) for u in updates}
    total = 0.0
    for parameter in (i for i in inside.instructions if i.opcode == "parameter"):
        uses = users.get(parameter.name, [])
        if parameter.name in updated:
            continue  # in place: the part that is written is counted below
        if uses and all(u.opcode in ("dynamic-slice", "slice", "gather") for u in uses):
            total += sum(u.bytes for u in uses)
        else:
            total += parameter.bytes
    written = instruction.bytes
    for update in updates:
        size = inside.by_name[update.operands[1]].bytes
        written += size - update.bytes if update.bytes <= written else 0
    return total + max(written, 0)


def _source(name: str, inside: Computation) -> str:
    """Follow bitcasts and copies back to the parameter that a value is."""
    while name in inside.by_name and inside.by_name[name].opcode in ("bitcast", "copy", "convert"):
        name = inside.by_name[name].operands[0]
    return name
