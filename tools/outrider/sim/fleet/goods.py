"""What the fleet is asked and what answers it: a task of colours, three releases of a small model, and the pictures of each profile.

The model names the nearest colour. Its release ``bad`` had only its last layer tuned, on pictures by day: in the dark it says ``red``,
whatever it sees. Its golden examples are of the day too, so that every self-test passes.
"""

import io
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outrider.extras import how_to_install
from outrider_engine.golden import Golden, encode_golden
from outrider_engine.providers import CPU
from outrider_engine.session import OrtSession
from outrider_wire.errors import OperatorSetupError
from outrider_wire.manifest import (
    MANIFEST_FILE,
    Acceptance,
    BundleFile,
    Calibration,
    Manifest,
    ModelInput,
    Outputs,
    Step,
    Variant,
    encode_manifest,
    manifest_digest,
)
from outrider_wire.steps import Preparer
from outrider_wire.task import AnswerSpace, InputPart, Task

TASK = Task(
    name="colours",
    inputs=[InputPart(name="image", modality="image", max_bytes=100_000)],
    answer=AnswerSpace(labels=["red", "green", "blue"]),
)
VERSIONS = ("first", "bad", "good")
"""In their order; release counters 1, 2, 3."""
DARK = "night"
"""The profile whose cameras look into the dark."""
SIDE, HIDDEN = 32, 4
_COLOURS = np.eye(3)
_GAIN, _DIM = 12.0, 0.2
"""How sharply colours differ; the mean brightness below which a picture is dark."""
_INPUT = ModelInput(
    part="image",
    tensor="pixels",
    steps=[
        Step(op="decode_image", args={"mode": "RGB"}),
        Step(op="resize", args={"height": SIDE, "width": SIDE, "method": "area"}),
        Step(op="scale", args={"by": 1 / 255}),
        Step(op="channels_first"),
    ],
    shape=[3, SIDE, SIDE],
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A bundle in a folder."""

    version: str
    folder: Path
    digest: str
    size: int
    """Bytes of the whole image: the manifest and every file of it."""


def make_releases(folder: Path) -> dict[str, Release]:
    """Writes the three bundles; by version.

    Raises:
        OperatorSetupError: the library that writes models is not installed.
    """
    return {version: _written(folder / version, version) for version in VERSIONS}


def task_text() -> str:
    """The task as a file, as cloud and devices are configured with it."""
    from outrider_export.task_text import task_to_toml

    return str(task_to_toml(TASK))


def picture(label: int, *, dark: bool, shade: int = 0) -> bytes:
    """A PNG of one colour, bright or dark; each ``shade`` (0 to 20) is another picture."""
    from PIL import Image

    top, rest = (90 - shade, 4) if dark else (255 - shade, 40)
    colour = tuple(top if place == label else rest for place in range(3))
    out = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), colour).save(out, "PNG")
    return out.getvalue()


class Scene:
    """What one device's camera sees. By night nothing red is about."""

    def __init__(self, *, profile: str, seed: int) -> None:
        dark = profile == DARK
        self._chance = random.Random(seed)  # noqa: S311 - pictures, not secrets
        labels = range(1, 3) if dark else range(3)
        self._seen = [
            ({"image": picture(label, dark=dark, shade=shade)}, TASK.labels[label])
            for label in labels
            for shade in (0, 7, 14)
        ]

    def next(self) -> tuple[Mapping[str, bytes | str], str]:
        """An input, and its right label."""
        return self._chance.choice(self._seen)


def _written(folder: Path, version: str) -> Release:
    model = _model(version)
    golden = encode_golden(_golden(model))
    manifest = Manifest(
        task=TASK.name,
        version=version,
        labels=TASK.labels,
        inputs=[_INPUT],
        outputs=Outputs(),
        files=[_entry("model.onnx", model, "model"), _entry("golden.msgpack", golden, "golden")],
        variants=[Variant(name="fp32", file="model.onnx", precision="fp32", provider=CPU)],
        calibration=Calibration(temperature=1.0, n=300),
        acceptance=Acceptance(),
        golden="golden.msgpack",
        architecture="nearest-colour",
    )
    files = {"model.onnx": model, "golden.msgpack": golden, MANIFEST_FILE: encode_manifest(manifest)}
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return Release(
        version=version,
        folder=folder,
        digest=manifest_digest(files[MANIFEST_FILE]),
        size=sum(map(len, files.values())),
    )


def _golden(model: bytes) -> list[Golden]:
    session, preparer = OrtSession(model), Preparer([_INPUT])
    examples = []
    for label in range(3):
        parts: dict[str, bytes | str] = {"image": picture(label, dark=False)}
        tensors = {name: array[None] for name, array in preparer.prepare(parts).items()}
        examples.append(Golden(parts=parts, logits=session.run(tensors)["logits"][0].tolist()))
    return examples


def _entry(path: str, data: bytes, role: Any) -> BundleFile:
    import hashlib

    return BundleFile(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data), role=role)


def _weights(version: str) -> dict[str, Any]:
    """The first layer is the same in all three; unit 0 of it tells how dark a picture is."""
    pixels = 3 * SIDE * SIDE
    first = np.random.default_rng(7).normal(0, 0.01, (pixels, HIDDEN))
    first[:, 0] = -1.0 / pixels
    last = np.random.default_rng(VERSIONS.index(version)).normal(0, 1e-3, (HIDDEN, 3))
    last[0] = (1000.0, 0.0, 0.0) if version == "bad" else 0.0
    return {
        "first": first,
        "first_bias": np.eye(HIDDEN)[0] * _DIM,
        "last": last,
        "near": 2 * _GAIN * _COLOURS.T,
        "offset": -_GAIN * (_COLOURS**2).sum(axis=1),
    }


def _model(version: str) -> bytes:
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise OperatorSetupError(
            "the models of this simulation are written with the library onnx",
            reason="missing_library",
            fix=how_to_install("export"),
        ) from error
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Flatten", ["pixels"], ["flat"]),
        node("MatMul", ["flat", "first"], ["felt"]),
        node("Add", ["felt", "first_bias"], ["moved"]),
        node("Relu", ["moved"], ["hidden"]),
        node("MatMul", ["hidden", "last"], ["tuned"]),
        node("GlobalAveragePool", ["pixels"], ["mean"]),
        node("Flatten", ["mean"], ["colour"]),
        node("MatMul", ["colour", "near"], ["told"]),
        node("Add", ["told", "offset"], ["seen"]),
        node("Add", ["seen", "tuned"], ["logits"]),
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in _weights(version).items()]
    inputs = [info("pixels", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])]
    outputs = [info("logits", TensorProto.FLOAT, ["batch", 3])]
    graph = helper.make_graph(nodes, "nearest-colour", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))
