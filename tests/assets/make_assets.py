"""Writes the hostile models and bundles beside it, each named after its one defect. Run it after changing the bundle format::

    python tests/assets/make_assets.py

``models/`` holds ONNX files that the walk must refuse; ``bombs/`` those that pass it and must be stopped by the limited
child; ``bundles/`` whole bundles. What each is refused with stands in ``tests/engine``. Needs the ``onnx`` package.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from factory import file_entry, make_bundle, onnx_bytes, write_bundle  # noqa: E402  found through the line above
from outrider_engine.bundle import open_bundle  # noqa: E402  as above
from outrider_engine.golden import Golden, decode_golden, encode_golden  # noqa: E402  as above
from outrider_wire.manifest import MANIFEST_FILE, Manifest  # noqa: E402  as above

LABELS = ["red", "green", "blue"]
INT64_MAX = 2**63 - 1


def sound() -> onnx.ModelProto:
    """A model without a defect: words in, logits and support out."""
    return onnx.load_from_string(onnx_bytes(LABELS, text_only=True))


def external(location: str = "weights.bin") -> TensorProto:
    """A tensor that is kept in another file."""
    tensor = TensorProto(name="elsewhere", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def subgraph(*nodes: onnx.NodeProto, tensor: TensorProto | None = None) -> onnx.GraphProto:
    """A branch of an If that yields ``branch``."""
    output = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), "branch", [], [output], [tensor] if tensor is not None else [])


def with_nodes(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """The sound model with nodes more."""
    model = sound()
    model.graph.node.extend(nodes)
    return model


def with_if(branch: onnx.GraphProto) -> onnx.ModelProto:
    """The sound model with an If of that branch."""
    return with_nodes(helper.make_node("If", ["told"], ["chosen"], then_branch=branch, else_branch=branch))


def with_tensor(tensor: TensorProto) -> onnx.ModelProto:
    """The sound model with a constant more."""
    model = sound()
    model.graph.initializer.append(tensor)
    return model


def with_function(node: onnx.NodeProto, domain: str = "") -> onnx.ModelProto:
    """The sound model with a local function of one node."""
    model = sound()
    model.functions.append(helper.make_function(domain, "Local", ["a"], ["b"], [node], [helper.make_opsetid("", 18)]))
    return model


def sparse(values: TensorProto, size: int) -> onnx.ModelProto:
    """The sound model with a sparse constant."""
    model = sound()
    indices = numpy_helper.from_array(np.asarray([0], dtype=np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [size]))
    return model


def nested(depth: int) -> onnx.ModelProto:
    """Ifs within Ifs."""
    leaf = branch = subgraph(helper.make_node("Constant", [], ["branch"], value_float=1.0))
    for _ in range(depth):
        branch = subgraph(helper.make_node("If", ["told"], ["branch"], then_branch=branch, else_branch=leaf))
    return with_nodes(helper.make_node("If", ["told"], ["chosen"], then_branch=branch, else_branch=leaf))


def field(number: int, value: bytes) -> bytes:
    """A protobuf field of bytes."""
    length, size = b"", len(value)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def nested_by_hand(depth: int) -> bytes:
    """Ifs within Ifs, deeper than any library builds or parses."""
    graph = b""
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(4, b"If") + field(5, branch))
    return b"\x08\x0a" + field(7, graph)


def training(tensor: TensorProto) -> onnx.ModelProto:
    """The sound model with a training graph that has a constant."""
    model = sound()
    model.training_info.add().initialization.CopyFrom(subgraph(tensor=tensor))
    return model


def configured() -> onnx.ModelProto:
    """The sound model with settings for the runtime in its metadata."""
    model = sound()
    model.metadata_props.add(key="ort_config", value='{"session_options": {"intra_op_num_threads": 64}}')
    return model


def small_value() -> TensorProto:
    return numpy_helper.from_array(np.asarray([1], dtype=np.float32), "value")


ALIEN = helper.make_node("Exfiltrate", ["told"], ["b"], domain="evil.example")
MODELS: dict[str, Callable[[], onnx.ModelProto | bytes]] = {
    "external-data": lambda: with_tensor(external()),
    "external-data-outside-the-bundle": lambda: with_tensor(external("../../../etc/passwd")),
    "external-data-at-a-memory-address": lambda: with_tensor(external("*/_ORT_MEM_ADDR_/*")),
    "external-data-in-an-attribute": lambda: with_nodes(helper.make_node("Constant", [], ["c"], value=external())),
    "external-data-in-a-subgraph": lambda: with_if(subgraph(tensor=external())),
    "external-data-in-a-function": lambda: with_function(helper.make_node("Constant", [], ["b"], value=external())),
    "external-data-in-a-sparse-tensor": lambda: sparse(external(), 4),
    "external-data-in-a-training-graph": lambda: training(external()),
    "foreign-operator": lambda: with_nodes(ALIEN),
    "foreign-operator-in-a-subgraph": lambda: with_if(subgraph(ALIEN)),
    "foreign-operator-in-a-function": lambda: with_function(ALIEN),
    "foreign-function": lambda: with_function(helper.make_node("Relu", ["a"], ["b"]), "evil.example"),
    "unlisted-microsoft-operator": lambda: with_nodes(
        helper.make_node("MatMulNBits", ["told"], ["b"], domain="com.microsoft")
    ),
    "claims-more-than-it-holds": lambda: with_tensor(
        TensorProto(name="short", data_type=TensorProto.FLOAT, dims=[1_000_000], raw_data=b"1234")
    ),
    "claims-a-negative-size": lambda: with_tensor(
        TensorProto(name="negative", data_type=TensorProto.FLOAT, dims=[-1], raw_data=b"1234")
    ),
    "holds-nothing": lambda: with_tensor(TensorProto(name="empty", data_type=TensorProto.FLOAT, dims=[1 << 40])),
    "unfolds-to-terabytes": lambda: sparse(small_value(), 1 << 40),
    "tensor-of-100-axes": lambda: with_tensor(
        TensorProto(name="deep", data_type=TensorProto.FLOAT, dims=[1] * 100, raw_data=b"1234")
    ),
    "unknown-element-type": lambda: with_tensor(TensorProto(name="odd", data_type=99, dims=[1], raw_data=b"1234")),
    "nested-20-deep": lambda: nested(20),
    "nested-2000-deep": lambda: nested_by_hand(2_000),
    "configures-the-runtime": configured,
    "two-graphs": lambda: sound().SerializeToString() * 2,
    "truncated": lambda: sound().SerializeToString()[:-7],
    "without-a-graph": lambda: onnx.ModelProto(ir_version=10),
    "empty": lambda: b"",
    "a-text": lambda: b"This is not a model.",
}


def after_words(*nodes: onnx.NodeProto, constants: dict[str, Any]) -> onnx.ModelProto:
    """The sound model whose logits also need ``extra`` (one number), which the nodes compute."""
    model = sound()
    for node in model.graph.node:
        if "logits" in node.output:
            node.output[0] = "plain"
    model.graph.node.extend([*nodes, helper.make_node("Add", ["plain", "extra"], ["logits"])])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return model


def constant_bomb() -> onnx.ModelProto:
    """A few bytes that ask for 16 GiB."""
    fill = helper.make_node("ConstantOfShape", ["size"], ["huge"])
    total = helper.make_node("ReduceMax", ["huge"], ["extra"], keepdims=0)
    return after_words(fill, total, constants={"size": np.asarray([1 << 32], dtype=np.int64)})


def folding_bomb() -> onnx.ModelProto:
    """Two numbers of 64 bits that become 4 GiB when constants are folded, before anything runs."""
    fill = helper.make_node("ConstantOfShape", ["size"], ["row"])
    widen = helper.make_node("Expand", ["row", "wide"], ["huge"])
    total = helper.make_node("ReduceMax", ["huge"], ["extra"], keepdims=0)
    constants = {"size": np.asarray([1, 1 << 15], dtype=np.int64), "wide": np.asarray([1 << 15, 1], dtype=np.int64)}
    return after_words(fill, widen, total, constants=constants)


def endless_loop() -> onnx.ModelProto:
    """A loop of 2^63 − 1 turns."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "carried"], ["doubled"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            info("turn", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("carried", TensorProto.FLOAT, []),
        ],
        [info("go_on", TensorProto.BOOL, []), info("doubled", TensorProto.FLOAT, [])],
    )
    loop = helper.make_node("Loop", ["turns", "true", "start"], ["extra"], body=body)
    constants = {"turns": np.int64(INT64_MAX), "true": np.bool_(True), "start": np.float32(0)}
    return after_words(loop, constants=constants)


def gives_nan() -> onnx.ModelProto:
    """0 / 0."""
    divide = helper.make_node("Div", ["nought", "nought"], ["extra"])
    return after_words(divide, constants={"nought": np.float32(0)})


BOMBS: dict[str, Callable[[], onnx.ModelProto]] = {
    "asks-for-16-gib": constant_bomb,
    "folds-to-4-gib": folding_bomb,
    "loops-for-ever": endless_loop,
}


def make_bundles(to: Path) -> None:
    """Whole bundles, each with one defect."""
    make_bundle(to / "sound", text_only=True)
    bundle = open_bundle(to / "sound")
    files = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}

    def write(name: str, change: dict[str, Any] | None = None, **replaced: bytes) -> None:
        """A bundle whose digests are right: only its contents are wrong."""
        contents = files | {path.replace("_", "."): data for path, data in replaced.items()}
        entries = [file_entry(entry.path, contents[entry.path], entry.role) for entry in bundle.manifest.files]
        manifest = msgspec.structs.replace(bundle.manifest, files=entries, **(change or {}))
        write_bundle(to / name, manifest, contents)

    def disturb(name: str, path: str, data: bytes | None) -> None:
        """The sound bundle with one file changed behind the manifest's back."""
        shutil.copytree(to / "sound", to / name)
        (to / name / path).unlink(missing_ok=True)
        if data is not None:
            (to / name / path).write_bytes(data)

    model = files["model.onnx"]
    disturb("flipped-byte", "model.onnx", model[:100] + bytes([model[100] ^ 1]) + model[101:])
    disturb("truncated-file", "model.onnx", model[:-1])
    disturb("longer-file", "model.onnx", model + b"\0")
    disturb("missing-file", "golden.msgpack", None)
    disturb("file-that-no-manifest-names", "extra.so", b"\x7fELF")
    disturb("missing-manifest", MANIFEST_FILE, None)
    disturb("manifest-that-is-no-json", MANIFEST_FILE, b"{")
    disturb("path-outside", MANIFEST_FILE, _manifest(bundle.manifest, b'"model.onnx"', b'"../sound/model.onnx"'))
    disturb("absolute-path", MANIFEST_FILE, _manifest(bundle.manifest, b'"golden.msgpack"', b'"/etc/hostname"'))
    disturb("linked-file", "model.onnx", None)
    (to / "linked-file" / "model.onnx").symlink_to("../sound/model.onnx")
    write("external-data", model_onnx=(HERE / "models" / "external-data.onnx").read_bytes())
    write("foreign-operator", model_onnx=(HERE / "models" / "foreign-operator.onnx").read_bytes())
    write("asks-for-16-gib", model_onnx=constant_bomb().SerializeToString())
    write("folds-to-4-gib", model_onnx=folding_bomb().SerializeToString())
    write("loops-for-ever", model_onnx=endless_loop().SerializeToString())
    write("gives-nan", model_onnx=gives_nan().SerializeToString())
    write("wrong-golden", golden_msgpack=_wrong(files["golden.msgpack"]))
    write("golden-that-is-no-messagepack", golden_msgpack=b"\xc1")
    write("more-labels-than-logits", {"labels": [*LABELS, "yellow"]})
    write("tensor-that-the-model-lacks", {"inputs": [_renamed(bundle.manifest)]})
    write(
        "certificate-of-another-rule",
        {"acceptance": msgspec.structs.replace(bundle.manifest.acceptance, threshold=0.1)},
    )


def _manifest(manifest: Manifest, old: bytes, new: bytes) -> bytes:
    return msgspec.json.encode(manifest).replace(old, new)


def _renamed(manifest: Manifest) -> Any:
    return msgspec.structs.replace(manifest.inputs[0], tensor="phrases")


def _wrong(golden: bytes) -> bytes:
    return encode_golden(
        [
            Golden(parts=example.parts, logits=[value + 1 for value in example.logits])
            for example in decode_golden(golden)
        ]
    )


def main() -> None:
    """Writes everything anew."""
    for folder in ("models", "bombs", "bundles"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    for folder, table in (("models", MODELS), ("bombs", BOMBS)):
        for name, make in table.items():
            model = make()
            data = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
            (HERE / folder / f"{name}.onnx").write_bytes(data)
    make_bundles(HERE / "bundles")


if __name__ == "__main__":
    main()
