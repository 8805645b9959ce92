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
        case "dynamic-slice" | "slice" | "gather" | "slice-start":
            result = instruction.shapes[-1] if instruction.opcode == "slice-start" else None
            size = result.bytes if result else instruction.bytes
            written = 0 if (result or instruction.shapes[0]).space else size
            return written + (0 if operands[0].shapes[0].space else size)
        case "dynamic-update-slice" | "scatter":
            part = operands[-1 if instruction.opcode == "scatter" else 1]
            return part.main_bytes + (0 if instruction.shapes[0].space else part.bytes)
        case "fusion":
            name = instruction.attribute("calls").lstrip("%")
            return _of_fusion(instruction, operands, program.computations[name], program)
        case "copy-start":  # (to, from, context)
            return sum(s.bytes for s in instruction.shapes[:2] if not s.space)
    return instruction.main_bytes + sum(o.main_bytes for o in operands)


def _of_fusion(
    instruction: Instruction, operands: list[Instruction], inside: Computation, program: Program
) -> float:
    """Count what a fusion reads of each operand, and what it writes. A collective that runs beside
    it is counted where it starts.
    """
    if inside.ends_chain:
        return 0.0
    total, in_place = 0.0, 0
    if inside.starts_chain:  # it gives (what it sends, what it gathers, …)
        in_place = 0 if instruction.shapes[0].space else instruction.shapes[0].bytes
    else:
        in_place = sum(i.main_bytes for i in inside.instructions if i.is_chained)
    for parameter in (i for i in inside.instructions if i.opcode == "parameter"):
        operand = operands[int(parameter.arguments)]
        if operand.main_bytes:
            read, kept = _read(parameter, inside, program)
            total += min(read, parameter.bytes)
            in_place += kept
    return total + max(instruction.main_bytes - in_place, 0)


def _read(value: Instruction, inside: Computation, program: Program) -> tuple[int, int]:
    """Return (bytes read of a value inside a fusion, bytes that its updates leave as they were)."""
    read = kept = 0
    for user in inside.instructions:
        if value.name not in user.operands:
            continue
        match user.opcode:
            case "dynamic-slice" | "slice" | "gather":
                read += user.bytes
            case "tuple":  # passed on as it is, in its place
                kept += value.main_bytes
            case _ if user.is_chained:
                read += value.bytes if inside.starts_chain else 0
            case "dynamic-update-slice" if user.operands[0] == value.name:
                kept += value.bytes - inside.by_name[user.operands[1]].bytes
            case "bitcast":
                more = _read(user, inside, program)
                read, kept = read + more[0], kept + more[1]
            case "fusion":
                nested = program.computations[user.attribute("calls").lstrip("%")]
                number = str(user.operands.index(value.name))
                parameters = (i for i in nested.instructions if i.opcode == "parameter")
                parameter = next(i for i in parameters if i.arguments == number)
                more = _read(parameter, nested, program)
                read, kept = read + more[0], kept + more[1]
            case _:
                read += value.bytes
    return read, kept
