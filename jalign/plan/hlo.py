"""Read the text of a compiled program: its instructions, and how often each of them runs.

The compiler's own cost analysis counts the body of a loop once; here a loop's body counts as often
as the loop turns, and what a fusion or an asynchronous call runs counts where it is called.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "s4": 0.5, "u4": 0.5,
}  # fmt: skip
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](?:\{[^}]*?(?:S\((\d+)\))?\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([^\s=]+) = ")
_NAME = re.compile(r"%([^\s,(){}]+)")


@dataclass(frozen=True)
class Shape:
    """One array of one device: dtype and sizes. `space`: 0 for the chip's main memory, another for
    memory on the core itself.
    """

    dtype: str
    sizes: tuple[int, ...]
    space: int = field(default=0, compare=False)

    @property
    def bytes(self) -> int:
        """Return its size; 0 for what is no array, such as a token."""
        return int(BYTES.get(self.dtype, 0) * math.prod(self.sizes))


@dataclass(frozen=True)
class Instruction:
    """One instruction; a tuple has several `shapes`. `rest` is the text after the operands."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    rest: str
    arguments: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Return the size of all that it gives."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def main_bytes(self) -> int:
        """Return the size of what it gives that lies in the chip's main memory."""
        return sum(shape.bytes for shape in self.shapes if not shape.space)

    def attribute(self, name: str) -> str:
        """Return the text of an attribute such as `replica_groups`, "" where it has none."""
        found = re.search(rf"\b{name}=", self.rest)
        return _balanced(self.rest, found.end()) if found else ""

    @property
    def op_name(self) -> str:
        """Return the path of the JAX operation that it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def is_chained(self) -> bool:
        """Tell whether this is one mention of a collective that the TPU compiler runs beside
        fusions: it stands in the fusion that starts it, in each that it runs beside, and in the one
        that waits for it.
        """
        return "chain_id=" in self.rest


@dataclass(frozen=True)
class Computation:
    """A list of instructions, in the order in which they run."""

    name: str
    instructions: Sequence[Instruction]
    by_name: Mapping[str, Instruction] = field(repr=False, default_factory=dict)

    @property
    def root(self) -> Instruction:
        """Return the instruction whose value the computation gives."""
        return next(i for i in self.instructions if i.is_root)

    @property
    def starts_chain(self) -> bool:
        """Tell whether it does nothing but start a collective that runs beside fusions."""
        return '"AsyncCollectiveStart"' in self.root.rest

    @property
    def ends_chain(self) -> bool:
        """Tell whether it does nothing but wait for such a collective."""
        return '"AsyncCollectiveDone"' in self.root.rest

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Return the instructions that give the operands."""
        return [self.by_name[name] for name in instruction.operands if name in self.by_name]


@dataclass(frozen=True)
class Program:
    """All computations of a compiled program."""

    computations: Mapping[str, Computation]
    entry: Computation
    text: str = field(repr=False, default="")

    def walk(self) -> Iterator[tuple[Instruction, Computation, int, bool]]:
        """Yield every instruction that runs: (instruction, its computation, times, fused).

        `fused`: it is part of a fusion, so that its result never lies in memory.
        """
        yield from self._walk(self.entry, 1, False)

    def _walk(self, computation: Computation, times: int, fused: bool):
        for instruction in computation.instructions:
            yield instruction, computation, times, fused
            for name, repeats, inside in self._called(instruction):
                if name in self.computations:
                    called = self.computations[name]
                    yield from self._walk(called, times * repeats, fused or inside)

    def _called(self, instruction: Instruction) -> list[tuple[str, int, bool]]:
        """Return (computation, times, whether it is fused) of what an instruction calls."""
        if instruction.opcode == "while":
            trips = self.trips(instruction)
            return [(instruction.attribute("body").lstrip("%"), trips, False)]
        if instruction.opcode == "conditional":
            names = instruction.attribute("branch_computations") or " ".join(
                instruction.attribute(f"{which}_computation") for which in ("true", "false")
            )
            return [(name, 1, False) for name in _NAME.findall(names)]
        if instruction.opcode in ("fusion", "call", "async-start"):
            name = instruction.attribute("calls") or instruction.attribute("to_apply")
            return [(name.lstrip("%"), 1, instruction.opcode == "fusion")]
        return []

    def trips(self, loop: Instruction) -> int:
        """Return how often a loop turns: what the compiler found, or the constant that it counts
        to; 1 where neither is there.
        """
        known = re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.rest)
        if known:
            return int(known[1])
        condition = self.computations[loop.attribute("condition").lstrip("%")]
        limits = [
            int(i.arguments)
            for i in condition.instructions
            if i.opcode == "constant" and i.arguments.lstrip("-").isdigit()
        ]
        return max([1, *limits])


def parse(text: str) -> Program:
    """Parse `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, name, found = "", "", []
    for line in text.splitlines():
        header = _COMPUTATION.match(line) if not line.startswith(" ") else None
        if header:
            name, found = header[2].lstrip("%"), []
            entry = name if header[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, tuple(found), {i.name: i for i in found})
        elif name:
            instruction = _parse_instruction(line)
            if instruction:
                found.append(instruction)
    return Program(computations, computations[entry], text)


def _parse_instruction(line: str) -> Instruction | None:
    begin = _INSTRUCTION.match(line)
    if not begin:
        return None
    kind = _balanced(line, begin.end())
    opcode, _, tail = line[begin.end() + len(kind) :].lstrip().partition("(")
    arguments = _balanced("(" + tail, 0)[1:-1]
    rest = tail[len(arguments) + 1 :]
    operands = tuple(_NAME.findall(arguments))
    return Instruction(
        begin[2].lstrip("%"), opcode, shapes_in(kind), operands, rest, arguments, bool(begin[1])
    )


def shapes_in(text: str) -> tuple[Shape, ...]:
    """Return the arrays that a type names, in order."""
    return tuple(
        Shape(dtype, tuple(int(n.lstrip("<=")) for n in sizes.split(",") if n), int(space or 0))
        for dtype, sizes, space in _SHAPE.findall(text)
    )


def _balanced(text: str, start: int) -> str:
    """Return the text from `start` up to a comma or a space outside of all brackets."""
    depth, quoted = 0, False
    for at in range(start, len(text)):
        letter = text[at]
        if letter == '"' and text[at - 1] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
            if depth < 0:
                return text[start:at]
            if depth == 0 and text[start] == "(":
                return text[start : at + 1]
        elif letter in ", " and depth == 0:
            return text[start:at]
    return text[start:]
