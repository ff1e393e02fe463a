"""ONNX files before and after an update, made by hand: for the tests of deltas in every room. Trains nothing."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from factory import file_entry, make_bundle, write_bundle
from outrider_engine.delta.apply import apply_delta
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest
from outrider_wire.task import Task

Weights = Mapping[str, NDArray[Any]]


def sha(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def model_of(weights: Weights, *, typed: tuple[str, ...] = (), doc: str = "") -> bytes:
    """An ONNX file with these initialisers, those of ``typed`` as lists instead of raw bytes."""
    tensors = [
        helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.flatten().tolist())
        if name in typed
        else numpy_helper.from_array(array, name)
        for name, array in weights.items()
    ]
    first = next(iter(weights))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", [first], ["y"])], "graph", [], [result], tensors)
    return bytes(helper.make_model(graph, doc_string=doc).SerializeToString(deterministic=True))


def some_weights(seed: int = 0, *, dtype: str = "float32", rows: int = 200) -> dict[str, NDArray[Any]]:
    """A few layers as training leaves them."""
    rng = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for layer in range(4):
        weight = rng.normal(0, 0.05, (rows, 64))
        found[f"layer.{layer}.weight"] = (
            (weight * 600).round().astype(dtype) if "int" in dtype else weight.astype(dtype)
        )
        found[f"layer.{layer}.bias"] = rng.normal(0, 0.05, 64).astype("float32")
    return found


def rebuilt(folder: Path, base: bytes, delta: bytes, target: bytes) -> bytes:
    """What a device makes of the base and the delta, where the manifest names ``target``."""
    (folder / "base").write_bytes(base)
    (folder / "delta").write_bytes(delta)
    out = apply_delta(folder / "base", folder / "delta", to=folder / "out", sha256=sha(target), size=len(target))
    return out.read_bytes()


def bundle_with(folder: Path, task: Task, data: bytes, version: str) -> Path:
    """A release for the task with one large file more."""
    bundle = make_bundle(folder, task, version=version)
    manifest = decode_manifest((bundle / MANIFEST_FILE).read_bytes())
    files = [*manifest.files, file_entry("large.onnx", data, "other")]
    write_bundle(bundle, msgspec.structs.replace(manifest, files=files), {"large.onnx": data})
    return bundle
