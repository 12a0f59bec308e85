"""What a .pte file holds, read from its bytes: the operators of its first method, those inside XNNPACK delegates included.

Nothing of ExecuTorch is needed. The fields are those of its schema/program.fbs and, for the delegates,
backends/xnnpack/serialization/runtime_schema.fbs; the encoding is FlatBuffers' "Internals".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import UserError

XNNPACK = "XnnpackBackend"
KERNEL_CALL, DELEGATE_CALL = 1, 2  # program.fbs: InstructionArguments
BOOL, TENSOR = 3, 5  # program.fbs: KernelTypes
IN_SEGMENT = 1  # program.fbs: DataLocation
QUANTIZED_VALUE = 2  # runtime_schema.fbs: XValueUnion
HEADER, DELEGATE_HEADER = b"eh00", b"XH00"
# scalar_type.fbs and runtime_schema.fbs: XNNDatatype, as bytes per element
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 11: 1, 15: 2}
WIDE = (3, 4)  # int32 and int64
XNN_WIDTHS = {1: 4, 2: 2, 3: 1, 4: 1, 5: 4, 6: 1, 7: 4, 8: 0.5, 9: 1, 10: 0.5, 11: 1, 12: 4, 13: 4, 14: 2}
# runtime_schema.fbs: XNodeUnion, whose first entry is number 1
NODES = (
    "Add FullyConnected Softmax Sigmoid StaticTranspose Clamp Conv2d Div StaticResizeBilinear2D StaticConstantPad"
    " AvgPooling2d Minimum DepthwiseConv2d MaxPooling2d Multiply Subtract Floor Convert GlobalAvgPooling2d StaticReshape"
    " ArgMaxPooling2d SquareRoot Ceiling Hardswish LeakyReLU Maximum Negate Square ELU Abs PReLU Concatenate2 Concatenate3"
    " Concatenate4 StaticSlice ScaledDotProductAttention BatchMatrixMultiply Concatenate5 ConvTranspose2d"
    " ReciprocalSquareRoot Log Gelu Tanh Exp Sin Copy Cos".split()
)
# Where a node's inputs and its output stand among its fields; nodes with one input that comes before its output are the rule.
TWO, CAT, CONV, POOL = ((0, 1), 2), ((1, 2, 3, 4, 7), 5), ((15, 16, 17), 18), ((10,), 11)
ENDS = {
    **dict.fromkeys(("Add", "Div", "Minimum", "Multiply", "Subtract", "Maximum", "PReLU", "BatchMatrixMultiply"), TWO),
    **{f"Concatenate{count}": (CAT[0][:count], CAT[1]) for count in range(2, 6)},
    **dict.fromkeys(("Conv2d", "DepthwiseConv2d", "ConvTranspose2d"), CONV),
    **dict.fromkeys(("AvgPooling2d", "MaxPooling2d"), POOL),
    "FullyConnected": ((0, 1, 2), 3),
    "StaticTranspose": ((2,), 3),
    "StaticResizeBilinear2D": ((2,), 3),
    "StaticConstantPad": ((3,), 4),
    "StaticReshape": ((2,), 3),
    "StaticSlice": ((3,), 4),
    "ArgMaxPooling2d": ((6,), 7),
    "LeakyReLU": ((1,), 2),
    "ELU": ((1,), 2),
    "ScaledDotProductAttention": ((0, 1, 2, 3, 4), 5),
}
ONE = ((0,), 1)


@dataclass(frozen=True)
class Value:
    """A tensor: its shape, bytes per element, whether the file holds its data, what tells it from others, and whether its type
    is one that weights have: wide integers are sizes, axes and indices."""

    shape: tuple[int, ...]
    width: float
    constant: bool
    key: tuple[int, int]
    weight: bool = True


@dataclass(frozen=True)
class Call:
    """One operator. `place` is its instruction in the method's chain, or that of the delegate it is part of.

    `type` is ATen's name with its overload (convolution.out), or that of XNNPACK's node (Conv2d); `flags` are the booleans
    among a kernel's arguments, in their order.
    """

    type: str
    delegate: str | None
    place: int
    inputs: tuple[Value, ...]
    output: Value | None
    flags: tuple[bool, ...] = ()


class Table:
    """A table of a flatbuffer. Raises struct.error where an offset leads out of the data."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place
        (back,) = struct.unpack_from("<i", data, place)
        self.fields = place - back
        if self.fields < 0:
            raise struct.error("a table has no field list")
        (self.length,) = struct.unpack_from("<H", data, self.fields)

    @classmethod
    def root(cls, data: bytes) -> Table:
        """The table that a flatbuffer begins with."""
        return cls(data, int(struct.unpack_from("<I", data, 0)[0]))

    def at(self, field: int) -> int | None:
        """Where a field's content is, None when it is left out."""
        entry = 4 + 2 * field
        if entry + 2 > self.length:
            return None
        (offset,) = struct.unpack_from("<H", self.data, self.fields + entry)
        return self.place + int(offset) if offset else None

    def number(self, field: int, form: str = "I", default: int = 0) -> int:
        """A whole number; `form` is its type as the struct module writes it."""
        place = self.at(field)
        return default if place is None else int(struct.unpack_from(f"<{form}", self.data, place)[0])

    def target(self, field: int) -> int | None:
        """What a field's offset leads to."""
        place = self.at(field)
        return None if place is None else place + int(struct.unpack_from("<I", self.data, place)[0])

    def table(self, field: int) -> Table:
        """A table. Raises struct.error when it is left out."""
        place = self.target(field)
        if place is None:
            raise struct.error(f"field {field} is left out")
        return Table(self.data, place)

    def numbers(self, field: int, form: str = "i") -> tuple[int, ...]:
        """A vector of whole numbers."""
        place = self.target(field)
        if place is None:
            return ()
        (count,) = struct.unpack_from("<I", self.data, place)
        if count > len(self.data):
            raise struct.error("a vector is longer than the file")
        return struct.unpack_from(f"<{count}{form}", self.data, place + 4)

    def tables(self, field: int) -> list[Table]:
        """A vector of tables."""
        place = self.target(field)
        steps = self.numbers(field, "I")
        return [Table(self.data, (place or 0) + 4 + 4 * index + step) for index, step in enumerate(steps)]

    def text(self, field: int) -> str:
        """A string, "" when it is left out."""
        place = self.target(field)
        if place is None:
            return ""
        (count,) = struct.unpack_from("<I", self.data, place)
        return self.data[place + 4 : place + 4 + count].decode("utf-8", "replace")


def calls(path: Path) -> list[Call]:
    """The operators of a program's first method, in their order. Raises UserError for what is no such file, or a damaged one."""
    data = path.read_bytes()
    if data[4:6] != b"ET":
        raise UserError(f"{path.name} is no ExecuTorch program (its identifier is not ET..)")
    try:
        return list(_calls(data))
    except (struct.error, IndexError) as error:
        message = f"{path.name} is damaged: what it says of its operators leads nowhere ({error})"
        raise UserError(message, "export it again") from error


def _calls(data: bytes) -> Iterator[Call]:
    program = Table.root(data)
    plan = program.tables(1)[0]
    values = plan.tables(2)
    names = [".".join(filter(None, (entry.text(0), entry.text(1)))) for entry in plan.tables(6)]
    for chain in plan.tables(5)[:1]:
        for place, instruction in enumerate(chain.tables(2)):
            kind, call = instruction.number(0, "B"), instruction.table(1)
            if kind == KERNEL_CALL:
                yield _kernel(names[call.number(0, "i")].removeprefix("aten::"), place, call.numbers(1), values)
            elif kind == DELEGATE_CALL:
                delegate = plan.tables(7)[call.number(0, "i")]
                backend = delegate.text(0)
                if backend == XNNPACK:
                    yield from _nodes(_processed(data, program, delegate), place)
                else:
                    yield Call("DELEGATE_CALL", backend, place, (), None)


def _kernel(name: str, place: int, arguments: Sequence[int], values: Sequence[Table]) -> Call:
    """A kernel's call: its last tensor is the one it fills, which stands among its arguments twice."""
    tensors, flags = [], []
    for index in arguments:
        kind = values[index].number(0, "B")
        if kind == TENSOR:
            tensors.append(_tensor(values[index].table(1), index))
        elif kind == BOOL:
            flags.append(bool(values[index].table(1).number(0, "B")))
    output = tensors[-1] if tensors else None
    return Call(name, None, place, tuple(value for value in tensors if value != output), output, tuple(flags))


def _tensor(table: Table, index: int) -> Value:
    shape = tuple(max(size, 0) for size in table.numbers(2))
    constant = table.number(5) > 0 and table.at(6) is None
    scalar = table.number(0, "b")
    return Value(shape, WIDTHS.get(scalar, 4), constant, (-1, index), scalar not in WIDE)


def _processed(data: bytes, program: Table, delegate: Table) -> bytes:
    """What a delegate was made of: inside the program, or in a segment behind it."""
    reference = delegate.table(1)
    index = reference.number(1)
    if reference.number(0, "b") != IN_SEGMENT:
        inline = program.tables(3)[index]
        place = (inline.target(0) or 0) + 4
        return data[place : place + len(inline.numbers(0, "B"))]
    if data[8:12] != HEADER:
        raise struct.error("a delegate is in a segment, and the file has no header that says where these are")
    (base,) = struct.unpack_from("<Q", data, 24)
    segment = program.tables(4)[index]
    start = base + segment.number(0, "Q")
    return data[start : start + segment.number(1, "Q")]


def _nodes(blob: bytes, place: int) -> Iterator[Call]:
    """The nodes of an XNNPACK graph."""
    if blob[4:8] == DELEGATE_HEADER:
        start, size = struct.unpack_from("<II", blob, 10)
        blob = blob[start : start + size]
    graph = Table.root(blob)
    values: dict[int, Value] = {}
    for entry in graph.tables(2):
        table = entry.table(1)
        base = table.table(0) if entry.number(0, "B") == QUANTIZED_VALUE else table
        number = base.number(6)
        width = XNN_WIDTHS.get(base.number(0, "h"), 4)
        values[number] = Value(base.numbers(2, "I"), width, base.number(3) > 0, (place, number))
    for entry in graph.tables(1):
        number = entry.number(0, "B")
        name = NODES[number - 1] if 0 < number <= len(NODES) else f"node {number}"
        node = entry.table(1)
        inputs, output = ENDS.get(name, ONE)
        found = (values.get(node.number(field)) for field in inputs)
        taken = tuple(value for value in found if value is not None)
        yield Call(name, XNNPACK, place, taken, values.get(node.number(output)))
