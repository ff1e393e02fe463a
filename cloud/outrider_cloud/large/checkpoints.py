"""What a transformers checkpoint's folder holds, before anything of it is loaded. Reads one small file; imports no torch.

Weights are safetensors, or one GGUF file: a pickle can run code, and is never opened.
"""

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from outrider_wire.decodable import decodable
from outrider_wire.errors import BundleUnsafeError, OperatorConfigError

Head = Literal["text-classifier", "image-classifier", "causal"]

CONFIG_FILE = "config.json"
_CONFIG_BYTES = 1024 * 1024
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".msgpack", ".h5")
_HEADS: dict[str, Head] = {
    "ForSequenceClassification": "text-classifier",
    "ForImageClassification": "image-classifier",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
}
"""What the architecture's name ends with → what it is."""


class _Config(Struct):
    architectures: list[str] = []
    id2label: dict[str, str] = {}


class Checkpoint(Struct, kw_only=True, frozen=True):
    """A folder that may be loaded."""

    folder: Path
    head: Head
    labels: list[str] = []
    """Of a classifier, in the order of its logits."""
    gguf: str = ""
    """File name of the GGUF weights; empty: safetensors."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """What is in that folder.

    Raises:
        OperatorConfigError: no checkpoint, or one whose head answers no task.
        BundleUnsafeError: its weights are pickled.
    """
    if not folder.is_dir():
        raise OperatorConfigError(
            f"there is no folder {folder}", reason="no_large_model", fix='name one: large = "transformers:DIR"'
        )
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    ggufs = [name for name in names if name.endswith(".gguf")]
    if len(ggufs) == 1:
        return Checkpoint(folder=folder, head="causal", gguf=ggufs[0])
    if CONFIG_FILE not in names:
        raise OperatorConfigError(
            f"{folder} holds no checkpoint: neither {CONFIG_FILE} nor one GGUF file",
            reason="no_large_model",
            fix="name a folder that save_pretrained wrote",
        )
    if not any(name.endswith(".safetensors") for name in names):
        _refuse_pickles(folder, names)
    config = _read_config(folder)
    head = next((kind for name in config.architectures for end, kind in _HEADS.items() if name.endswith(end)), None)
    if head is None:
        raise OperatorConfigError(
            f"{folder} holds {', '.join(config.architectures)[:200] or 'no architecture'}, which answers no task",
            reason="unknown_head",
            fix="use a model for sequence classification, image classification or causal language modelling",
        )
    places = sorted(config.id2label, key=lambda place: (len(place), place))
    return Checkpoint(folder=folder, head=head, labels=[config.id2label[place] for place in places])


def label_order(checkpoint: Checkpoint, labels: list[str], task: str) -> list[int]:
    """For each of the task's labels, the place of its logit.

    Raises:
        OperatorConfigError: the classifier has other labels.
    """
    if sorted(checkpoint.labels) != sorted(labels):
        strange = sorted(set(checkpoint.labels) ^ set(labels))[:4]
        raise OperatorConfigError(
            f"the classifier in {checkpoint.folder} has other labels than task {task!r}: {', '.join(strange)}",
            reason="labels_mismatch",
            fix=f"set id2label in its {CONFIG_FILE} to the task's labels",
        )
    return [checkpoint.labels.index(label) for label in labels]


def _refuse_pickles(folder: Path, names: list[str]) -> None:
    pickled = [name for name in names if name.endswith(_PICKLES)]
    if pickled:
        raise BundleUnsafeError(
            f"the weights in {folder} are a pickle ({pickled[0]}), which can run code when it is opened",
            reason="pickled_weights",
            fix="where you trust it, save it again with model.save_pretrained(DIR, safe_serialization=True)",
        )
    raise OperatorConfigError(
        f"{folder} holds no weights", reason="no_weights", fix="copy its model.safetensors there as well"
    )


def _read_config(folder: Path) -> _Config:
    file = folder / CONFIG_FILE
    try:
        if file.stat().st_size > _CONFIG_BYTES:
            raise ValueError(f"it has more than {_CONFIG_BYTES} bytes")
        return msgspec.json.decode(file.read_bytes(), type=decodable(_Config))
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise OperatorConfigError(
            f"{file} cannot be read: {error}", reason="unreadable_file", fix="copy the checkpoint again"
        ) from error
