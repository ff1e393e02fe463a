"""A look at every byte of an ONNX model that could do harm, before ONNX Runtime sees it. Loads and runs nothing.

Refused: tensors kept outside the file, operators outside the allowed domains, tensors that claim more than they hold,
deep nesting. Walked: the graph, its subgraphs, local functions, training graphs, and every tensor in them, also sparse ones
and attributes. A model that only *computes* something huge passes: the limited child of `outrider_engine.selftest` catches it.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import math
from collections import Counter
from typing import NamedTuple

from outrider_engine.protobuf import Reader, UnreadableError, Value, messages, numbers, single, text
from outrider_wire.errors import BundleDamagedError, BundleUnsafeError
from outrider_wire.limits import MODEL_BYTES

MAX_DEPTH = 16
"""Graphs within graphs."""
MAX_RANK = 32
"""Axes of a tensor."""
MAX_FIELDS = 1_000_000
"""Protobuf fields of the whole file; a model of 10,000 operators has about 100,000."""

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MICROSOFT_DOMAIN = "com.microsoft"
QUANTIZED_OPERATORS = frozenset(
    {
        "DequantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuantizeLinear",
    }
)
"""What ONNX Runtime's own quantizer writes into the domain ``com.microsoft``; the rest of that domain is refused."""

_TYPES: dict[int, tuple[str, int]] = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("string", 0), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16), 17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8), 19: ("float8e5m2", 8), 20: ("float8e5m2fnuz", 8), 21: ("uint4", 4), 22: ("int4", 4),
    23: ("float4e2m1", 4), 24: ("float8e8m0", 8), 25: ("uint2", 2), 26: ("int2", 2),
}  # fmt: skip
"""TensorProto.DataType: name and bits an element."""
_TYPED_DATA = (4, 5, 6, 7, 10, 11)
"""float, int32, string, int64, double and uint64 data: bytes at least as many as a quarter of the elements (2-bit types)."""


class TensorFact(NamedTuple):
    """An input or output of a model."""

    name: str
    dtype: str
    """numpy's name of the element type; '' where it is not a tensor."""
    shape: tuple[int | str | None, ...]
    """A number where the size is fixed, a name or None where it is not."""


class ModelFacts(NamedTuple):
    """What the bytes say of themselves."""

    inputs: list[TensorFact]
    outputs: list[TensorFact]
    operators: dict[str, int]
    """How often each operator stands in it: ``Conv``, or ``com.microsoft.QGemm`` outside the default domain."""
    opset: int
    parameters_bytes: int


def walk(data: bytes, *, fields: int = MAX_FIELDS) -> ModelFacts:
    """Walks an ONNX model of at most so many protobuf fields.

    Raises:
        BundleUnsafeError: it refers to data outside itself, to a foreign operator, lies about a size, or nests too deep.
        BundleDamagedError: it is not an ONNX model, or is truncated.
    """
    if len(data) > MODEL_BYTES:
        raise BundleUnsafeError(f"the model has {len(data)} bytes, more than {MODEL_BYTES}", reason="model_too_large")
    try:
        return _Walker(fields).model(memoryview(data))
    except UnreadableError as error:
        raise BundleDamagedError(
            f"the model is not readable as ONNX: {error}", reason="model_unparsable", fix="export or fetch it again"
        ) from error


class _Walker:
    """One walk: what it has counted so far."""

    def __init__(self, fields: int) -> None:
        self.reader = Reader(fields=fields)
        self.operators: Counter[str] = Counter()
        self.parameters_bytes = 0

    def model(self, view: memoryview) -> ModelFacts:
        found = self.reader.collect(view, (7, 8, 14, 20, 25))
        graph = single(found[7])
        if graph is None:
            raise UnreadableError("it has no graph")
        for entry in messages(found[14]):
            if text(single(self.reader.collect(entry, (1,))[1])) == "ort_config":
                raise _unsafe("it carries a configuration for the runtime", "runtime_configuration")
        for function in messages(found[25]):
            self.function(function)
        for training in messages(found[20]):
            for part in self.reader.collect(training, (1, 2)).values():
                if inner := single(part):
                    self.graph(inner, 1)
        inputs, outputs = self.graph(graph, 0)
        return ModelFacts(inputs, outputs, dict(self.operators), self.opset(messages(found[8])), self.parameters_bytes)

    def opset(self, imports: list[memoryview]) -> int:
        """Version of the default domain."""
        for entry in imports:
            found = self.reader.collect(entry, (1, 2))
            if text(single(found[1])) in ("", "ai.onnx") and (version := numbers(found[2])):
                return version[-1]
        return 0

    def function(self, view: memoryview) -> None:
        found = self.reader.collect(view, (1, 7, 10, 11))
        domain, name = text(single(found[10])), text(single(found[1]))
        if domain not in STANDARD_DOMAINS:
            raise _foreign(domain, name)
        for node in messages(found[7]):
            self.node(node, 1)
        for attribute in messages(found[11]):
            self.attribute(attribute, 1)

    def graph(self, view: memoryview, depth: int) -> tuple[list[TensorFact], list[TensorFact]]:
        if depth > MAX_DEPTH:
            raise _unsafe(f"it nests graphs more than {MAX_DEPTH} deep", "nested_too_deep")
        found = self.reader.collect(view, (1, 5, 11, 12, 15))
        constants = {self.tensor(tensor) for tensor in messages(found[5])}
        for sparse in messages(found[15]):
            constants.add(self.sparse(sparse))
        for node in messages(found[1]):
            self.node(node, depth)
        inputs = [self.value_info(entry) for entry in messages(found[11])]
        outputs = [self.value_info(entry) for entry in messages(found[12])]
        return [fact for fact in inputs if fact.name not in constants], outputs

    def node(self, view: memoryview, depth: int) -> None:
        found = self.reader.collect(view, (4, 5, 7))
        operator, domain = text(single(found[4])), text(single(found[7]))
        if domain not in STANDARD_DOMAINS and not (domain == MICROSOFT_DOMAIN and operator in QUANTIZED_OPERATORS):
            raise _foreign(domain, operator)
        self.operators[operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"] += 1
        for attribute in messages(found[5]):
            self.attribute(attribute, depth)

    def attribute(self, view: memoryview, depth: int) -> None:
        found = self.reader.collect(view, (5, 6, 10, 11, 22, 23))
        for one in (5, 6, 22):
            single(found[one])
        for tensor in messages(found[5] + found[10]):
            self.tensor(tensor)
        for sparse in messages(found[22] + found[23]):
            self.sparse(sparse)
        for graph in messages(found[6] + found[11]):
            self.graph(graph, depth + 1)

    def sparse(self, view: memoryview) -> str:
        """Checks a sparse tensor; returns its name."""
        found = self.reader.collect(view, (1, 2, 3))
        values, indices = single(found[1]), single(found[2])
        if _elements(numbers(found[3])) > MODEL_BYTES:
            raise _unsafe("a sparse tensor unfolds to more than a model may have", "tensor_shape")
        if indices is not None:
            self.tensor(indices)
        return self.tensor(values) if values is not None else ""

    def tensor(self, view: memoryview) -> str:
        """Checks that a tensor is all here, and just as large as it claims; returns its name."""
        found = self.reader.collect(view, (1, 2, 8, 9, 13, 14, *_TYPED_DATA))
        name = text(single(found[8]))
        if found[13] or any(numbers(found[14])):
            raise _unsafe(f"tensor {name[:64]!r} is kept outside the file", "external_data")
        kind = _TYPES.get((numbers(found[2]) or [0])[-1])
        if kind is None:
            raise _unsafe(f"tensor {name[:64]!r} is of an unknown type", "tensor_type")
        count = _elements(numbers(found[1]))
        if (raw := single(found[9])) is not None:
            fits = len(raw) == (count * kind[1] + 7) // 8
        else:
            fits = count <= 4 * sum(_length(value) for number in _TYPED_DATA for value in found[number])
        if not fits:
            raise _unsafe(f"tensor {name[:64]!r} claims another size than it has", "tensor_shape")
        self.parameters_bytes += len(view)
        return name

    def value_info(self, view: memoryview) -> TensorFact:
        found = self.reader.collect(view, (1, 2))
        kind = single(found[2])
        tensor = single(self.reader.collect(kind, (1,))[1]) if kind is not None else None
        if tensor is None:
            return TensorFact(text(single(found[1])), "", ())
        described = self.reader.collect(tensor, (1, 2))
        dtype = _TYPES.get((numbers(described[1]) or [0])[-1], ("", 0))[0]
        shape = single(described[2])
        sizes = messages(self.reader.collect(shape, (1,))[1]) if shape is not None else []
        return TensorFact(text(single(found[1])), dtype, tuple(self.size(entry) for entry in sizes))

    def size(self, view: memoryview) -> int | str | None:
        """One axis of a shape."""
        found = self.reader.collect(view, (1, 2))
        fixed = numbers(found[1])
        return fixed[-1] if fixed else text(single(found[2])) or None


def _elements(shape: list[int]) -> int:
    if len(shape) > MAX_RANK:
        raise _unsafe(f"a tensor has more than {MAX_RANK} axes", "tensor_shape")
    return math.prod(shape)


def _length(value: Value) -> int:
    return 8 if isinstance(value, int) else max(len(value), 1)


def _unsafe(what: str, reason: str) -> BundleUnsafeError:
    return BundleUnsafeError(
        f"the model is refused: {what}", reason=reason, fix="do not install it; export it as one plain ONNX file"
    )


def _foreign(domain: str, operator: str) -> BundleUnsafeError:
    return _unsafe(f"operator {operator[:64]!r} of domain {domain[:64]!r} is not allowed", "foreign_operator")
