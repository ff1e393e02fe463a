"""What a checkpoint directory says of itself: which kind of model, which labels, which weights. Loads no weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from outrider_wire.errors import OperatorConfigError
from outrider_wire.limits import MODEL_BYTES
from outrider_wire.task import InputPart, Task

Kind = Literal["image", "audio", "text"]
CONFIG = "config.json"
SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_CONFIG_BYTES = 4 * 1024 * 1024
_LARGEST = 1 << 24
"""Of any size in a configuration: a vocabulary has a million entries; a hostile file asks for 10¹²."""
_LAYERS = 1_024
_NAMES = frozenset({"id2label", "label2id"})
"""Tables of names, whose numbers are no sizes."""
_ONE_ANSWER = ("", "single_label_classification")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A directory that can be used. Made by `read_checkpoint`."""

    root: Path
    config: dict[str, Any]
    model_type: str
    architecture: str
    """Class that it was saved from: ``ViTForImageClassification``."""
    kind: Kind | None
    """What it reads; None: an encoder, which reads what the task has."""
    labels: Sequence[str]
    """In the order of its logits; none: an encoder."""

    @property
    def is_encoder(self) -> bool:
        """Whether it gives features, and a head is still to be trained."""
        return self.kind is None

    @property
    def name(self) -> str:
        """What people call it."""
        return f"huggingface:{self.architecture}"


def is_checkpoint(text: str) -> bool:
    """Whether a name is a directory that transformers saved."""
    return (Path(text) / CONFIG).is_file()


def read_checkpoint(root: Path) -> Checkpoint:
    """Looks at a checkpoint's configuration.

    Raises:
        OperatorConfigError: unreadable, beyond a bound, code of its own, or an architecture that is not mapped.
    """
    config = read_json(root / CONFIG)
    _check_sizes(root, config)
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    model_type = str(config.get("model_type", ""))
    if config.get("auto_map"):
        raise _unfit(
            root, "brings code of its own (auto_map)", "own_code", "export it to ONNX where you trust it, and name that"
        )
    kind = _kind_of(model_type, architecture)
    if kind == "":
        raise _unfit(
            root,
            f"is a {architecture or 'model of no stated architecture'} (model_type {model_type!r}), which is not mapped",
            "unmapped_architecture",
            "name one that classifies images, sounds or texts, an encoder, or an ONNX file",
        )
    problem = str(config.get("problem_type") or "")
    if problem not in _ONE_ANSWER:
        raise _unfit(root, f"was trained for {problem}", "wrong_problem", "name one that gives one label of several")
    labels = [] if kind is None else _labels(root, config)
    return Checkpoint(
        root=root, config=config, model_type=model_type, architecture=architecture, kind=kind, labels=labels
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a small file.

    Raises:
        OperatorConfigError: it is none.
    """
    try:
        if file.stat().st_size > _CONFIG_BYTES:
            raise ValueError(f"more than {_CONFIG_BYTES} bytes")
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OperatorConfigError(
            f"{file} cannot be read: {error}", reason="checkpoint_unreadable", fix="save the checkpoint again"
        ) from error
    if not isinstance(found, dict):
        raise OperatorConfigError(f"{file} holds no object", reason="checkpoint_unreadable", fix="save it again")
    return found


def _check_sizes(root: Path, config: dict[str, Any]) -> None:
    left: list[tuple[str, Any]] = list(config.items())
    while left:  # parts of a model have configurations of their own, and stages a list of sizes
        key, value = left.pop()
        if isinstance(value, dict) and key not in _NAMES:
            left.extend((str(name), inner) for name, inner in value.items())
        elif isinstance(value, list):
            left.extend((key, inner) for inner in value)
        size = value if isinstance(value, int) and not isinstance(value, bool) else 0
        if abs(size) > (_LAYERS if "layers" in key else _LARGEST):
            raise _unfit(root, f"asks for {key} = {value}", "checkpoint_too_large", "do not use it")


def _kind_of(model_type: str, architecture: str) -> Kind | Literal[""] | None:
    """What a class reads by transformers' own tables; None: an encoder; '': it is in none of them."""
    from transformers.models.auto import modeling_auto as known

    tables: list[tuple[Kind | None, Any]] = [
        ("image", known.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
        ("audio", known.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES),
        ("text", known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        (None, known.MODEL_MAPPING_NAMES),
    ]
    for kind, table in tables:
        names = table.get(model_type, ())
        if architecture and architecture in ((names,) if isinstance(names, str) else tuple(names)):
            return kind
    return ""


def _labels(root: Path, config: dict[str, Any]) -> list[str]:
    names = config.get("id2label")
    try:
        found = {int(place): str(name) for place, name in dict(names or {}).items()}
    except (TypeError, ValueError) as error:
        raise _unfit(root, "has an id2label that is none", "wrong_labels", "save it again") from error
    if sorted(found) != list(range(len(found))) or len(found) < 2:
        raise _unfit(root, f"names {len(found)} labels", "wrong_labels", "write id2label, 0 to n − 1, into config.json")
    return [found[place] for place in range(len(found))]


def label_order(labels: Sequence[str], task: Task, whose: str) -> list[int]:
    """For each label of the task, its place among a model's ``labels``.

    Raises:
        OperatorConfigError: they are not the same labels; both are named.
    """
    places = {label: place for place, label in enumerate(labels)}
    if sorted(labels) != sorted(task.labels) or len(places) != len(labels):
        raise OperatorConfigError(
            f"{whose} answers {_some(labels)}, and task {task.name} has {_some(task.labels)}",
            reason="label_mismatch",
            fix="give the task these labels (sub-folders are labels), or correct id2label in config.json",
        )
    return [places[label] for label in task.labels]


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:8])
    return f"{shown} and {len(labels) - 8} more" if len(labels) > 8 else shown


def part_of(checkpoint: Checkpoint, task: Task) -> InputPart:
    """The one part of the task, which the checkpoint reads.

    Raises:
        OperatorConfigError: the task has several parts, or one of another kind.
    """
    wanted = checkpoint.kind or "image, audio or text"
    if len(task.inputs) != 1 or task.inputs[0].modality not in ([checkpoint.kind] if checkpoint.kind else _KINDS):
        has = ", ".join(part.modality for part in task.inputs)
        raise OperatorConfigError(
            f"{checkpoint.root} reads one part of {wanted}, and task {task.name} has {has}",
            reason="wrong_parts",
            fix="name a checkpoint for the parts of this task",
        )
    return task.inputs[0]


_KINDS: tuple[Kind, ...] = ("image", "audio", "text")


def weight_files(root: Path) -> tuple[list[Path], bool]:
    """The files of a checkpoint's weights, and whether they are safetensors (else pickles).

    Raises:
        OperatorConfigError: there are none, one is named that is not there, or they are larger than any bundle may be.
    """
    for single, index, safe in ((SAFE, SAFE_INDEX, True), (PICKLED, PICKLED_INDEX, False)):
        files = [root / single] if (root / single).is_file() else _shards(root, index)
        if files:
            size = sum(file.stat().st_size for file in files)
            if size > MODEL_BYTES:
                raise _unfit(
                    root,
                    f"has {size / 1e6:.0f} MB of weights, more than the {MODEL_BYTES / 1e6:.0f} MB of a bundle's model",
                    "checkpoint_too_large",
                    "name a smaller one, or serve it as the cloud's large model: transformers:DIR",
                )
            return files, safe
    raise _unfit(root, f"has neither {SAFE} nor {PICKLED}", "no_weights", "save it with save_pretrained()")


def _shards(root: Path, index: str) -> list[Path]:
    if not (root / index).is_file():
        return []
    named = read_json(root / index).get("weight_map")
    names = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
    for name in names:
        if Path(name).name != name or not (root / name).is_file():
            raise _unfit(root, f"names the weights {name[:80]!r}, which are not there", "no_weights", "save it again")
    return [root / name for name in names]


def _unfit(root: Path, what: str, reason: str, fix: str) -> OperatorConfigError:
    return OperatorConfigError(f"checkpoint {root} {what}", reason=reason, fix=fix)
