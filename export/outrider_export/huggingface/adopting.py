"""A checkpoint directory as what `outrider_export.build.build_bundle` takes: ONNX bytes, and an architecture that declares its steps.

The weights become ONNX by optimum (``onnx_export_from_model``), the processor's settings become steps of our own table.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from torch import nn

from outrider_engine.walk import ModelFacts, TensorFact, walk
from outrider_export.data import Tensors
from outrider_export.graphs import featuring, settled, with_head, with_pooling
from outrider_export.huggingface.comparing import check_same
from outrider_export.huggingface.folder import Checkpoint, Kind, label_order, part_of, read_checkpoint
from outrider_export.huggingface.images import image_inputs
from outrider_export.huggingface.libraries import library, quietly
from outrider_export.huggingface.sounds import sound_inputs
from outrider_export.huggingface.texts import text_inputs
from outrider_export.huggingface.weights import safe_folder
from outrider_export.probe import fit_probe
from outrider_export.students import LARGE_PLAN, Architecture
from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import ModelInput
from outrider_wire.task import InputPart, Task

_TASKS: Mapping[Kind | None, str] = {
    "image": "image-classification",
    "audio": "audio-classification",
    "text": "text-classification",
    None: "feature-extraction",
}
_CLASSES: Mapping[Kind | None, str] = {
    "image": "AutoModelForImageClassification",
    "audio": "AutoModelForAudioClassification",
    "text": "AutoModelForSequenceClassification",
    None: "AutoModel",
}
_MAY_BE_NEW = ("pooler.",)
"""Weights that an encoder may lack: they are not on the way to its hidden state."""


class Options(NamedTuple):
    """What a person may say behind the directory: ``DIR#tokens=64``, ``DIR#seconds=2``."""

    tokens: int | None = None
    seconds: float | None = None


def parse_options(text: str) -> Options:
    """What stands behind the ``#``.

    Raises:
        OperatorConfigError: another option, or no number.
    """
    if not text:
        return Options()
    key, _, value = text.partition("=")
    try:
        match key:
            case "tokens":
                tokens = int(value)
                if 1 <= tokens <= 4096:
                    return Options(tokens=tokens)
            case "seconds":
                seconds = float(value)
                if 0.1 <= seconds <= 600:
                    return Options(seconds=seconds)
    except ValueError as error:
        raise _wrong_option(text) from error
    raise _wrong_option(text)


def _wrong_option(text: str) -> OperatorConfigError:
    return OperatorConfigError(
        f"{text[:80]!r} is nothing that can be said of a checkpoint",
        reason="unknown_option",
        fix="say #tokens=1…4096 of texts, or #seconds=0.1…600 of sounds",
    )


class Adopted(NamedTuple):
    """What a checkpoint became."""

    architecture: Architecture
    model: bytes | None
    """None: an encoder."""
    finish: Callable[[Tensors], bytes] | None
    """Of an encoder: trains a linear head on labelled rows, prepared for it, and gives the whole model."""


def adopt_checkpoint(root: Path, task: Task, options: Options | None = None) -> Adopted:
    """The model of a checkpoint directory, for a task.

    Raises:
        OperatorConfigError: it cannot be used, or not for this task; says which file, setting or label is why.
        OperatorSetupError: transformers or optimum is missing.
        BundleUnsafeError: its weights are a pickle that cannot be converted.
    """
    options = options or Options()
    with quietly():
        checkpoint = read_checkpoint(root)
        part = part_of(checkpoint, task)
        order = [] if checkpoint.is_encoder else label_order(checkpoint.labels, task, str(root))
        kind: Any = checkpoint.kind or part.modality
        processor = _processor(root, kind)
        module, model, facts = _exported(checkpoint)
        inputs, files = _inputs(checkpoint, part, processor, facts.inputs, options)
        shapes = {entry.tensor: entry.shape for entry in inputs}
        check_same(module, model, shapes, int(checkpoint.config.get("vocab_size") or 0))
    architecture = Architecture(
        name=checkpoint.name,
        inputs=lambda _: inputs,
        build=_not_trainable,
        plan=LARGE_PLAN,
        files=files,
        notes=_notes(checkpoint),
        watched=True,
    )
    if not checkpoint.is_encoder:
        return Adopted(architecture, settled(model, shapes, logits=facts.outputs[0].name, order=order), None)
    hidden = facts.outputs[0]
    mask = "attention_mask" if kind == "text" and "attention_mask" in shapes else None
    features = with_pooling(model, hidden=hidden.name, rank=len(hidden.shape), mask=mask)

    def finish(rows: Tensors) -> bytes:
        return _with_probe(model, features, shapes, rows, len(task.labels))

    return Adopted(architecture, None, finish)


def _with_probe(
    encoder: onnx.ModelProto, features: str, shapes: Mapping[str, Sequence[int]], rows: Tensors, labels: int
) -> bytes:
    probe = fit_probe(featuring(encoder, features, shapes), features, rows, labels)
    whole = onnx.ModelProto()
    whole.CopyFrom(encoder)
    logits = with_head(whole, features, probe.weight, probe.bias)
    return settled(whole, shapes, logits=logits, order=range(labels))


def _inputs(
    checkpoint: Checkpoint,
    part: InputPart,
    processor: Mapping[str, Any],
    tensors: Sequence[TensorFact],
    options: Options,
) -> tuple[list[ModelInput], Mapping[str, bytes]]:
    if part.modality == "text":
        names = [fact.name for fact in tensors]
        return text_inputs(checkpoint.root, checkpoint.config, part=part.name, tensors=names, tokens=options.tokens)
    if part.modality == "image":
        found = image_inputs(processor, part=part.name, tensor=tensors[0].name)
    else:
        shapes = {
            fact.name: tuple(side if isinstance(side, int) else None for side in fact.shape[1:]) for fact in tensors
        }
        found = sound_inputs(processor, part=part.name, tensors=shapes, seconds=options.seconds)
    missing = {fact.name for fact in tensors} - {entry.tensor for entry in found}
    if missing:
        raise OperatorConfigError(
            f"the model reads {', '.join(sorted(missing))}, which its processor does not give",
            reason="unmapped_processor",
            fix="name a classifier of single inputs",
        )
    return found, {}


def _processor(root: Path, kind: Kind) -> Mapping[str, Any]:
    """Settings of the image processor or feature extractor, defaults filled in by the class that they name."""
    if kind == "text":
        return {}
    if not (root / "preprocessor_config.json").is_file():
        raise OperatorConfigError(
            f"{root} has no preprocessor_config.json",
            reason="no_processor",
            fix="save the image processor or feature extractor that the model was trained with into it",
        )
    loader = getattr(library("transformers"), "AutoImageProcessor" if kind == "image" else "AutoFeatureExtractor")
    extra = {"use_fast": False} if kind == "image" else {}
    try:
        found = loader.from_pretrained(str(root), local_files_only=True, trust_remote_code=False, **extra)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise OperatorConfigError(
            f"the preprocessor_config.json of {root} cannot be used: {str(error)[:300]}",
            reason="no_processor",
            fix="save the processor that the model was trained with again",
        ) from error
    key = "image_processor_type" if kind == "image" else "feature_extractor_type"
    return {**found.to_dict(), key: type(found).__name__}


def _exported(checkpoint: Checkpoint) -> tuple[nn.Module, onnx.ModelProto, ModelFacts]:
    """The module, the same by optimum, and what that reads and gives."""
    # The function first: it is what loads the table of architectures.
    export = library("optimum.exporters.onnx").onnx_export_from_model
    tasks = library("optimum.exporters.tasks").TasksManager
    task = _TASKS[checkpoint.kind]
    try:
        known = tasks.get_supported_tasks_for_model_type(
            checkpoint.model_type, exporter="onnx", library_name="transformers"
        )
    except KeyError:
        known = {}
    if task not in known:
        raise OperatorConfigError(
            f"optimum exports no {checkpoint.architecture} (model_type {checkpoint.model_type!r}) for {task}",
            reason="unmapped_architecture",
            fix="export it to ONNX yourself, and name that file with --reads",
        )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "weights").mkdir()
        module = _loaded(checkpoint, safe_folder(checkpoint.root, work / "weights"))
        export(module, work / "onnx", task=task, device="cpu", do_validation=False)
        data = (work / "onnx" / "model.onnx").read_bytes()
    return module, onnx.load_model_from_string(data), walk(data)


def _loaded(checkpoint: Checkpoint, folder: Path) -> nn.Module:
    """The module, every weight of it from the checkpoint."""
    loader = getattr(library("transformers"), _CLASSES[checkpoint.kind])
    try:
        module, said = loader.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        raise OperatorConfigError(
            f"the weights of {checkpoint.root} do not load: {type(error).__name__}: {str(error)[:300]}",
            reason="checkpoint_unreadable",
            fix="save the checkpoint again, or use the transformers that wrote it",
        ) from error
    lacking = sorted(name for name in said["missing_keys"] if not name.startswith(_MAY_BE_NEW))
    if lacking or said.get("mismatched_keys"):
        raise OperatorConfigError(
            f"the checkpoint {checkpoint.root} lacks weights of {checkpoint.architecture}: {', '.join(lacking[:3]) or 'of another shape'}",
            reason="weights_missing",
            fix="train its head first; or name an encoder, and a head is trained on your rows",
        )
    fitted: nn.Module = module.eval()
    return fitted


def _notes(checkpoint: Checkpoint) -> dict[str, str]:
    from importlib import metadata

    said = {name: metadata.version(name) for name in ("transformers", "optimum-onnx")}
    return {**said, "checkpoint": checkpoint.root.name, "checkpoint_architecture": checkpoint.architecture}


def _not_trainable(task: Task) -> nn.Module:
    raise OperatorConfigError(
        f"a checkpoint is not trained here, and {task.name} asks for that",
        reason="not_trainable",
        fix="train it with transformers, or name a torch module as module:attribute",
    )
