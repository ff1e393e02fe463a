"""A module's weights on disk, beside its bundle: safetensors only, so that reading one runs nothing. Knows no training."""

import os
from pathlib import Path

from torch import nn

from outrider_export.beside import checkpoint_path
from outrider_export.students import Architecture, find_architecture, new_module
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import Task

__all__ = ["checkpoint_path", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, module: nn.Module, architecture: str) -> None:
    """Weights and buffers of ``module``, and the name of its architecture."""
    from safetensors.torch import save

    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(save(weights, metadata={"architecture": architecture}))
    partial.replace(path)


def load_checkpoint(path: Path, task: Task) -> tuple[nn.Module, Architecture]:
    """The module of a checkpoint, in evaluation mode, and its architecture.

    Raises:
        OperatorConfigError: the file cannot be read, or does not fit its architecture on this task.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            name = (file.metadata() or {}).get("architecture", "")
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- not a mapping
    except (OSError, SafetensorError) as error:
        raise OperatorConfigError(
            f"{path} is not a checkpoint: {error}", reason="checkpoint_unreadable", fix="name a .safetensors file"
        ) from error
    architecture = find_architecture(name)
    module = new_module(architecture, task, seed=0)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise OperatorConfigError(
            f"{path} does not fit {name} on task {task.name}: {error}",
            reason="checkpoint_mismatch",
            fix="use the task that it was trained on",
        ) from error
    return module.eval(), architecture
