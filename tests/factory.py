"""Tiny tasks, inputs and complete valid bundles for the tests of every room. Knows ONNX graphs; trains nothing.

The bundle's model answers with the nearest label colour, so that a test can choose what the gate does:

* `sure` (an image of the label's own colour) is accepted under the certificate, with confidence > 0.99;
* `unsure` (halfway between the first two colours) has confidence about 0.5: ``low_confidence``;
* `foreign` (black-and-white noise) has a large support distance: ``unsupported``.

A label's name in the question adds a little to that label (``text_only``: it alone decides, and says it surely).
"""

import hashlib
import io
import random
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from outrider_engine.golden import Golden, encode_golden
from outrider_engine.providers import CPU
from outrider_engine.session import OrtSession
from outrider_wire.manifest import (
    MANIFEST_FILE,
    Acceptance,
    BundleFile,
    Calibration,
    Certificate,
    Manifest,
    ModelInput,
    Outputs,
    Step,
    Variant,
    encode_manifest,
)
from outrider_wire.steps import Preparer
from outrider_wire.task import AnswerSpace, InputPart, Task

Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
"""Label number k has the k-th colour, whatever it is called: at most 8 labels."""
LABELS = ("red", "green", "blue")
QUESTION = "what colour is it?"
BUCKETS = 96
THRESHOLD = 0.8
SUPPORT_THRESHOLD = {False: 0.01, True: 32.0}
"""By ``text_only``: the variance of the pixels; the number of words."""


def make_task(name: str = "colours", labels: Sequence[str] = LABELS, *, text_only: bool = False, **fields: Any) -> Task:
    """A task with the parts ``image`` and ``question`` (``text_only``: only the question); ``fields`` as in `Task`."""
    image = InputPart(name="image", modality="image", max_bytes=200_000, max_pixels=1_000_000)
    question = InputPart(name="question", modality="text", max_bytes=2_000)
    inputs = [question] if text_only else [image, question]
    return Task(name=name, inputs=inputs, answer=AnswerSpace(labels=list(labels)), **fields)


def png(colour: str | Colour = "red", *, size: int = 64) -> bytes:
    """A PNG of one colour: a name from `COLOURS`, or red, green and blue of 0–255."""
    return _png(Image.new("RGB", (size, size), COLOURS[colour] if isinstance(colour, str) else colour))


def sure(label: int = 0, *, shade: int = 0) -> bytes:
    """An image that is surely of label number ``label``; each ``shade`` (0–20) is another image."""
    red, green, blue = list(COLOURS.values())[label]
    return png((abs(red - shade), abs(green - shade), abs(blue - shade)))


def unsure(*, shade: int = 0) -> bytes:
    """An image between the first two labels: refused for its confidence; each ``shade`` (0–20) is another image."""
    return png((128 - shade, 128 - shade, 0))


def foreign(*, seed: int = 0) -> bytes:
    """Black-and-white noise: refused for its support distance."""
    noise = random.Random(seed).choices((0, 255), k=32 * 32)
    small = Image.frombytes("L", (32, 32), bytes(noise))
    return _png(small.resize((64, 64), Image.Resampling.NEAREST).convert("RGB"))


def parts_of(image: bytes | None = None, question: str = QUESTION) -> dict[str, bytes | str]:
    """The parts of one input of `make_task`; without an image, of a ``text_only`` one."""
    return {"question": question} if image is None else {"image": image, "question": question}


def make_bundle(
    path: Path,
    task: Task | None = None,
    labels: Sequence[str] | None = None,
    *,
    seed: int = 0,
    bias: float | Sequence[float] = 0.0,
    certified: bool = True,
    text_only: bool = False,
    version: str = "1",
    threshold: float = THRESHOLD,
    parent: str | None = None,
    embedding: bool = False,
) -> Path:
    """Writes a complete valid bundle into the empty or new directory ``path`` and returns ``path``.

    Args:
        path: the bundle's directory.
        task: the task that it is for; without one, `make_task` of ``labels`` and ``text_only``.
        labels: at most 8; without them, the task's.
        seed: another seed is another model (digest), with the same answers.
        bias: added to the logits: one number to the first label's (20: the model says nothing else), or one a label.
        certified: False leaves out certificate and threshold: everything escalates.
        text_only: reads only the part ``question``.
        version: the manifest's version.
        threshold: the acceptance rule's.
        parent: digest of the bundle that it claims to come from.
        embedding: it exports the mean colour of the image as one.
    """
    names = list(labels or (task.labels if task else LABELS))
    task = task or make_task(labels=names, text_only=text_only)
    shifts = [bias] + [0.0] * (len(names) - 1) if isinstance(bias, (int, float)) else list(bias)
    model = onnx_bytes(names, seed=seed, bias=shifts, text_only=text_only, embedding=embedding)
    inputs = model_inputs(text_only=text_only)
    golden = encode_golden(_golden(names, model, inputs, text_only))
    draft = Manifest(
        task=task.name,
        version=version,
        labels=names,
        inputs=inputs,
        outputs=Outputs(support="support", embedding="embedding" if embedding else None),
        embedding_parts=["image"] if embedding else [],
        files=[file_entry("model.onnx", model, "model"), file_entry("golden.msgpack", golden, "golden")],
        variants=[Variant(name="fp32", file="model.onnx", precision="fp32", provider=CPU)],
        calibration=Calibration(temperature=1.0, n=300),
        acceptance=Acceptance(
            threshold=threshold if certified else None, support_threshold=SUPPORT_THRESHOLD[text_only]
        ),
        golden="golden.msgpack",
        parent=parent,
        architecture="nearest-colour",
    )
    manifest = with_certificate(draft) if certified else draft
    write_bundle(path, manifest, {"model.onnx": model, "golden.msgpack": golden})
    return path


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Writes a manifest and its files as they are, sound or not."""
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    (path / MANIFEST_FILE).write_bytes(encode_manifest(manifest))


def with_certificate(manifest: Manifest) -> Manifest:
    """The same manifest with a certificate that binds its first variant (its figures are consistent and invented)."""
    variant = manifest.variants[0]
    certificate = Certificate(
        method="fixed-sequence",
        risk=0.05,
        delta=0.05,
        n=400,
        groups=400,
        accepted=240,
        errors=4,
        coverage=0.6,
        risk_bound=0.0377,
        label_source="ground_truth",
        data_digest=hashlib.sha256(b"certification groups").hexdigest(),
        provider=variant.provider,
        precision=variant.precision,
        claims=manifest.claims(variant),
    )
    return Manifest(
        **{**{name: getattr(manifest, name) for name in Manifest.__struct_fields__}, "certificate": certificate}
    )


def model_inputs(*, text_only: bool = False) -> list[ModelInput]:
    """The preprocessing: a 32×32 area-downscale in [0, 1], channels first; hashed words."""
    words = ModelInput(
        part="question",
        tensor="words",
        steps=[Step(op="hashed_words", args={"buckets": BUCKETS})],
        shape=[BUCKETS],
    )
    image = ModelInput(
        part="image",
        tensor="pixels",
        steps=[
            Step(op="decode_image", args={"mode": "RGB"}),
            Step(op="resize", args={"height": 32, "width": 32, "method": "area"}),
            Step(op="scale", args={"by": 1 / 255}),
            Step(op="channels_first"),
        ],
        shape=[3, 32, 32],
    )
    return [words] if text_only else [image, words]


def onnx_bytes(
    labels: Sequence[str],
    *,
    seed: int = 0,
    bias: Sequence[float] | None = None,
    text_only: bool = False,
    embedding: bool = False,
) -> bytes:
    """The graph: logits of the nearest colour plus the words, a support distance, and the colour as an embedding."""
    from onnx import TensorProto, helper, numpy_helper

    jitter = np.random.default_rng(seed).normal(0, 1e-4, len(labels))
    offset = np.asarray(bias if bias is not None else np.zeros(len(labels))) + jitter
    colours = np.asarray(list(COLOURS.values())[: len(labels)]) / 255
    gain = 12.0  # e^-12: how unlikely a colour one unit further away is
    constants = {
        "word_weights": _word_weights(labels, 8.0 if text_only else 0.5),
        "colour_weights": 2 * gain * colours.T,
        "offset": offset - (0 if text_only else gain * (colours**2).sum(axis=1)),
    }
    node = helper.make_node
    nodes = [node("MatMul", ["words", "word_weights"], ["told"])]
    if text_only:
        nodes += [
            node("Add", ["told", "offset"], ["logits"]),
            node("ReduceSum", ["words", "axis"], ["support"], keepdims=0),
        ]
        constants = {name: value for name, value in constants.items() if name != "colour_weights"}
    else:
        nodes += [
            node("GlobalAveragePool", ["pixels"], ["mean"]),
            node("Flatten", ["mean"], ["colour"]),
            node("MatMul", ["colour", "colour_weights"], ["near"]),
            node("Add", ["near", "offset"], ["seen"]),
            node("Add", ["seen", "told"], ["logits"]),
            node("Sub", ["pixels", "mean"], ["deviation"]),
            node("Mul", ["deviation", "deviation"], ["squared"]),
            node("Flatten", ["squared"], ["spread"]),
            node("ReduceMean", ["spread", "axis"], ["support"], keepdims=0),
        ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    tensors.append(numpy_helper.from_array(np.asarray([1], dtype=np.int64), "axis"))
    info = helper.make_tensor_value_info
    inputs = [info("words", TensorProto.FLOAT, ["batch", BUCKETS])]
    if not text_only:
        inputs.insert(0, info("pixels", TensorProto.FLOAT, ["batch", 3, 32, 32]))
    outputs = [
        info("logits", TensorProto.FLOAT, ["batch", len(labels)]),
        info("support", TensorProto.FLOAT, ["batch"]),
    ]
    if embedding:
        nodes.append(node("Identity", ["colour"], ["embedding"]))
        outputs.append(info("embedding", TensorProto.FLOAT, ["batch", 3]))
    graph = helper.make_graph(nodes, "nearest-colour", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def _word_weights(labels: Sequence[str], gain: float) -> np.ndarray:
    """(buckets, labels): a label's own name speaks for it."""
    weights = np.zeros((BUCKETS, len(labels)))
    for column, label in enumerate(labels):
        weights[zlib.crc32(label.lower().encode()) % BUCKETS, column] = gain
    return weights


def _golden(names: Sequence[str], model: bytes, inputs: list[ModelInput], text_only: bool) -> list[Golden]:
    session, preparer = OrtSession(model), Preparer(inputs)
    asked = [parts_of(None if text_only else sure(k), f"is it {name}?") for k, name in enumerate(names)]
    if not text_only:
        asked += [parts_of(unsure()), parts_of(foreign())]
    return [
        Golden(
            parts=parts,
            logits=session.run({name: array[None] for name, array in preparer.prepare(parts).items()})["logits"][
                0
            ].tolist(),
        )
        for parts in asked
    ]


def file_entry(path: str, data: bytes, role: Any) -> BundleFile:
    """The manifest's entry of a file."""
    return BundleFile(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data), role=role)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
