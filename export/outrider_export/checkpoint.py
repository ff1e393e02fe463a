"""A module's weights on disk, beside its bundle: safetensors only, so that reading one runs nothing. Knows no training.

With the weights goes what its support distance was taken from, so that a later release may keep it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from outrider_export.beside import checkpoint_path
from outrider_export.students import Architecture, find_architecture, new_module
from outrider_export.support import Gaussian, Known
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import Task

__all__ = ["checkpoint_path", "load_checkpoint", "load_known", "load_weights", "save_checkpoint"]
_KNOWN = "outrider.known."
"""Begins the names of tensors that are not weights."""


def save_checkpoint(path: Path, module: nn.Module, architecture: str, known: Sequence[Known] = ()) -> None:
    """Weights and buffers of ``module``, the name of its architecture, and what its support distance was taken from."""
    from safetensors.torch import save

    weights = _tensors_of(known) | {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
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
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    architecture = find_architecture(name)
    return load_weights(path, architecture, task), architecture


def load_weights(path: Path, architecture: Architecture, task: Task) -> nn.Module:
    """The module of an architecture with the weights of a file, a checkpoint's or its own ``state_dict``, in evaluation mode.

    Raises:
        OperatorConfigError: the file cannot be read, or does not fit the architecture on this task.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    module = new_module(architecture, task, seed=0)
    try:
        module.load_state_dict({key: values for key, values in weights.items() if not key.startswith(_KNOWN)})
    except RuntimeError as error:
        raise OperatorConfigError(
            f"{path} does not hold the weights of {architecture.name} on task {task.name}: {error}",
            reason="checkpoint_mismatch",
            fix="use the architecture and the task that it was trained on",
        ) from error
    return module.eval()


def _unreadable(path: Path, error: Exception) -> OperatorConfigError:
    return OperatorConfigError(
        f"{path} is not a checkpoint: {error}", reason="checkpoint_unreadable", fix="name a .safetensors file"
    )


def load_known(path: Path) -> list[Known]:
    """What the support distance of a checkpoint was taken from, view by view; empty where the file does not tell.

    Raises:
        OperatorConfigError: it tells a part of it.
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        found = {key: file.get_tensor(key).numpy() for key in file.keys() if key.startswith(_KNOWN)}  # noqa: SIM118 -- as above
    try:
        return [_known(found, f"{_KNOWN}{view}") for view in range(len(found) // 4)]
    except KeyError as absent:
        raise OperatorConfigError(
            f"{path} does not tell all of what its support distance was taken from: {absent} is not there",
            reason="checkpoint_unreadable",
            fix="name the .safetensors file that was written with the bundle",
        ) from absent


def _known(found: Mapping[str, NDArray[np.float64]], view: str) -> Known:
    gaussian = Gaussian(mean=found[f"{view}.mean"], precision=found[f"{view}.precision"], n=int(found[f"{view}.n"]))
    return Known(gaussian=gaussian, unit=float(found[f"{view}.unit"]))


def _tensors_of(known: Sequence[Known]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for view, each in enumerate(known):
        found[f"{_KNOWN}{view}.mean"] = torch.from_numpy(each.gaussian.mean)
        found[f"{_KNOWN}{view}.precision"] = torch.from_numpy(each.gaussian.precision)
        found[f"{_KNOWN}{view}.n"] = torch.tensor(each.gaussian.n)
        found[f"{_KNOWN}{view}.unit"] = torch.tensor(each.unit, dtype=torch.float64)
    return found
