"""A model as a person names it: a student of the table, one's own module or pipeline, its weights, a checkpoint directory, an ONNX
file or a bundle. Trains nothing."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from outrider_export.adopt import onnx_architecture, read_onnx
from outrider_export.checkpoint import checkpoint_path, load_checkpoint, load_weights
from outrider_export.data import Tensors
from outrider_export.huggingface.folder import is_checkpoint
from outrider_export.pipelines import adopt_pipeline, is_pipeline, refuse_pickle
from outrider_export.students import Architecture, find_architecture
from outrider_wire.manifest import MANIFEST_FILE
from outrider_wire.task import Task


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a name stands for."""

    architecture: Architecture
    model: nn.Module | bytes | None
    """With its weights; ONNX bytes; None: still to be trained."""
    finish: Callable[[Tensors], bytes] | None = None
    """Of an encoder, which has no head yet: trains one on labelled rows and gives the whole as ONNX bytes."""


def find_named(text: str, task: Task) -> Named:
    """``NAME``, ``module:attribute``, either with ``#FILE.safetensors``, ``FILE.onnx``, a checkpoint directory as transformers saves
    it (``DIR#tokens=64``, ``DIR#seconds=2``), or a bundle with its checkpoint.

    Raises:
        OperatorConfigError: it is none of these, or its weights do not fit it.
        BundleError: not an ONNX file that a device would load, or weights that only unpickling would read.
    """
    name, _, rest = text.partition("#")
    refuse_pickle(name)
    if Path(name).suffix == ".onnx":
        data = read_onnx(Path(name))
        return Named(architecture=onnx_architecture(data, name=Path(name).name), model=data)
    if is_bundle(name):
        module, architecture = load_checkpoint(checkpoint_path(Path(name).resolve()), task)
        return Named(architecture=architecture, model=module)
    if is_checkpoint(name):
        return _checkpoint(Path(name), rest, task)
    if (pipeline := _pipeline(name)) is not None:
        architecture, data = adopt_pipeline(pipeline, name, task)
        return Named(architecture=architecture, model=data)
    architecture = find_architecture(name)
    return Named(architecture=architecture, model=load_weights(Path(rest), architecture, task) if rest else None)


def is_bundle(text: str) -> bool:
    """Whether a name is the directory of a bundle."""
    return (Path(text) / MANIFEST_FILE).is_file()


def _checkpoint(root: Path, options: str, task: Task) -> Named:
    from outrider_export.huggingface.adopting import adopt_checkpoint, parse_options

    adopted = adopt_checkpoint(root, task, parse_options(options))
    return Named(architecture=adopted.architecture, model=adopted.model, finish=adopted.finish)


def _pipeline(name: str) -> object | None:
    """A scikit-learn model as ``module:attribute``; None: something else, or nothing, which whoever looks next says."""
    module, _, attribute = name.partition(":")
    if not attribute:
        return None
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    return found if is_pipeline(found) else None
