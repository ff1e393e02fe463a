"""Export and INT8: reproducible bytes without a trace of the machine, the same answers, any batch size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from outrider_engine.session import OrtSession
from outrider_engine.walk import walk
from outrider_export.adopt import onnx_architecture, read_onnx
from outrider_export.data import Table, Tensors
from outrider_export.parity import parity, run_rows
from outrider_export.quantize import Quantized, to_int8
from outrider_export.students import Architecture
from outrider_export.support import Deployable, fit_known, pooled_features
from outrider_export.to_onnx import OPSET, export_onnx
from outrider_export.training import predict
from outrider_wire.errors import BundleDamagedError, OperatorConfigError
from outrider_wire.manifest import Outputs
from outrider_wire.task import AnswerSpace, InputPart, Task

OUTPUTS = Outputs(support="support")


@pytest.fixture(scope="module")
def rows(squares: Callable[[int, int], Table], architecture: Architecture, task: Task) -> Tensors:
    return squares(150, 4).tensors(architecture.inputs(task))


@pytest.fixture(scope="module")
def deployable(trained: torch.nn.Module, rows: Tensors) -> Deployable:
    return Deployable(trained, fit_known(pooled_features(trained, rows)))


@pytest.fixture(scope="module")
def exported(deployable: Deployable, architecture: Architecture, task: Task) -> bytes:
    return export_onnx(deployable, architecture.inputs(task), ["logits", "support"])


@pytest.fixture(scope="module")
def quantized(exported: bytes, rows: Tensors) -> Quantized:
    return to_int8(exported, list(rows.batches(50)), exact=["support"])


def test_the_same_module_gives_the_same_bytes(
    exported: bytes, deployable: Deployable, architecture: Architecture, task: Task
) -> None:
    assert export_onnx(deployable, architecture.inputs(task), ["logits", "support"]) == exported


def test_the_same_rows_give_the_same_int8_bytes(exported: bytes, quantized: Quantized, rows: Tensors) -> None:
    assert to_int8(exported, list(rows.batches(50)), exact=["support"]).data == quantized.data


def test_the_bytes_say_nothing_of_the_machine(exported: bytes, quantized: Quantized) -> None:
    for data in (exported, quantized.data):
        assert not [word for word in (b".py", b"site-packages", b"/home", str(Path.cwd()).encode()) if word in data]
        model = onnx.load_from_string(data)
        assert model.producer_name == "outrider"
        assert not model.metadata_props
        assert {entry.domain for entry in model.opset_import} == {""}


def test_a_device_would_load_them(exported: bytes, quantized: Quantized) -> None:
    for data in (exported, quantized.data):
        facts = walk(data)
        assert facts.opset == OPSET
        assert [fact.name for fact in facts.inputs] == ["image"]
        assert [fact.name for fact in facts.outputs] == ["logits", "support"]


@pytest.mark.parametrize("batch", [1, 7])
def test_any_batch_size_gives_torch_s_numbers(
    exported: bytes, deployable: Deployable, rows: Tensors, batch: int
) -> None:
    feeds = rows.batch(slice(0, batch))
    found = OrtSession(exported).run(feeds)
    with torch.inference_mode():
        logits, support = deployable(torch.from_numpy(feeds["image"]))

    assert np.allclose(found["logits"], logits.numpy(), atol=1e-4)
    assert np.allclose(found["support"], support.numpy(), rtol=1e-3)


def test_int8_answers_a_batch_as_it_answers_one_by_one(quantized: Quantized, rows: Tensors) -> None:
    session = OrtSession(quantized.data)
    together = session.run(rows.batch(slice(0, 20)))
    alone = [session.run(rows.batch(slice(row, row + 1))) for row in range(20)]

    for name in ("logits", "support"):
        assert np.allclose(together[name], np.concatenate([each[name] for each in alone]), atol=1e-3)


def test_int8_keeps_the_answers_and_the_support_distance(exported: bytes, quantized: Quantized, rows: Tensors) -> None:
    before, after = (run_rows(OrtSession(data), rows) for data in (exported, quantized.data))
    figures = parity(before, after, rows.labels, OUTPUTS)

    assert figures["agreement"] >= 0.98
    assert figures["support_correlation"] >= 0.97
    assert {fact for fact in walk(quantized.data).operators if "QuantizeLinear" in fact}


def test_the_support_branch_stays_in_floating_point(quantized: Quantized) -> None:
    graph = onnx.load_from_string(quantized.data).graph
    produced_by = {name: node.op_type for node in graph.node for name in node.output}
    branch = [node for node in graph.node if node.op_type in ("Log", "Sqrt", "ReduceSum", "MatMul")]

    assert branch
    assert not [node.name for node in branch if produced_by.get(node.input[0]) == "DequantizeLinear"]


def test_parity_of_a_model_with_itself_is_perfect(exported: bytes, rows: Tensors) -> None:
    found = run_rows(OrtSession(exported), rows)
    figures = parity(found, found, np.where(rows.labels == 0, -1, rows.labels), OUTPUTS)

    assert figures["max_abs"] == figures["support_max_abs"] == 0.0
    assert figures["agreement"] == figures["support_correlation"] == 1.0
    known = rows.labels > 0
    assert figures["accuracy"] == pytest.approx((found["logits"][known].argmax(1) == rows.labels[known]).mean())


def test_predict_is_what_the_exported_model_gives(exported: bytes, trained: torch.nn.Module, rows: Tensors) -> None:
    assert np.allclose(predict(trained, rows), run_rows(OrtSession(exported), rows)["logits"], atol=1e-4)


def test_an_own_onnx_file_reads_the_parts_that_fit_it(exported: bytes, task: Task) -> None:
    adopted = onnx_architecture(exported)

    assert [(entry.part, entry.tensor, entry.shape) for entry in adopted.inputs(task)] == [
        ("image", "image", [3, 16, 16])
    ]
    with pytest.raises(OperatorConfigError) as untrainable:
        adopted.build(task)
    assert untrainable.value.reason == "not_trainable"


def test_an_own_onnx_file_that_lacks_an_input_for_a_part_is_refused(exported: bytes) -> None:
    image, text = InputPart(name="photo", modality="image"), InputPart(name="ask", modality="text")
    vqa = Task(name="vqa", inputs=[image, text], answer=AnswerSpace(labels=["a", "b"]))

    with pytest.raises(OperatorConfigError, match="'ask'"):
        onnx_architecture(exported).inputs(vqa)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleDamagedError):
        onnx_architecture(b"\x00not onnx")
    with pytest.raises(OperatorConfigError):
        read_onnx(tmp_path / "absent.onnx")
