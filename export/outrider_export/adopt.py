"""An ONNX file of one's own as an architecture: what of a task fills its inputs. Runs and trains nothing."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from outrider_engine.walk import TensorFact, walk
from outrider_export.students import LARGE_PLAN, Architecture, image_input, text_input
from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import ModelInput
from outrider_wire.task import InputPart, Task

_AXES = {"image": 4, "text": 2}


def onnx_architecture(data: bytes, *, name: str = "onnx") -> Architecture:
    """The architecture of an fp32 ONNX model whose first output is the logits; only a bundle can be built of it.

    Image parts fill inputs (batch, 3, height, width) with values in 0..1, text parts inputs (batch, buckets) with hashed
    words and pairs; a part takes the input of its own name, else the first that fits and is free.

    Raises:
        BundleError: not an ONNX file that a device would load.
    """
    facts = walk(data).inputs

    def build(task: Task) -> nn.Module:
        raise OperatorConfigError(
            f"an ONNX file has no weights that could be trained on {task.name}",
            reason="not_trainable",
            fix="name a torch module as module:attribute",
        )

    return Architecture(name=name, inputs=lambda task: _inputs(task, facts), build=build, plan=LARGE_PLAN)


def read_onnx(path: Path) -> bytes:
    """The bytes of an ONNX file.

    Raises:
        OperatorConfigError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperatorConfigError(
            f"{path} cannot be read: {error}", reason="unreadable_file", fix="name an ONNX file"
        ) from error


def _inputs(task: Task, facts: Sequence[TensorFact]) -> list[ModelInput]:
    free = list(facts)
    taken: dict[str, ModelInput] = {}
    for part in sorted(task.inputs, key=lambda part: part.name not in {fact.name for fact in facts}):
        fitting = [fact for fact in free if _fits(part, fact)]
        if not fitting:
            raise OperatorConfigError(
                f"no free input of the ONNX file takes part {part.name!r} ({part.modality})",
                reason="onnx_inputs",
                fix="images need a float input (batch, 3, height, width), texts one (batch, buckets)",
            )
        fact = next((each for each in fitting if each.name == part.name), fitting[0])
        free.remove(fact)
        taken[fact.name] = _filled(part, fact)
    return [taken[fact.name] for fact in facts if fact.name in taken]


def _fits(part: InputPart, fact: TensorFact) -> bool:
    sizes = fact.shape[1:]
    known = len(fact.shape) == _AXES.get(part.modality) and all(isinstance(size, int) for size in sizes)
    return fact.dtype == "float32" and known and (part.modality != "image" or sizes[0] == 3)


def _filled(part: InputPart, fact: TensorFact) -> ModelInput:
    sizes = [size for size in fact.shape[1:] if isinstance(size, int)]
    if part.modality == "image":
        return image_input(part, sizes[1], sizes[2], tensor=fact.name)
    return text_input(part, sizes[0], bigrams=True, tensor=fact.name)
