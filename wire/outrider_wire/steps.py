"""From the parts of an input to the tensors of a model, by the steps that the bundle declares. Runs no model.

Training, export and device share this module: what a model saw when it was certified is what it sees in the field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_wire.decodable import decodable
from outrider_wire.errors import BundleMismatchError, CallerInputError
from outrider_wire.images import Decode, decode_picture, pixels_of
from outrider_wire.limits import IMAGE_PIXELS, PART_BYTES
from outrider_wire.manifest import ModelInput
from outrider_wire.step import Encode, Flow, Function
from outrider_wire.step_table import STEPS
from outrider_wire.task import FACTS_PART, InputPart, Task

__all__ = ["STEPS", "Preparer", "bounds_of", "is_whole"]

_FACTS_BYTES = 64 * 1024
_BYTES = (bytes, bytearray, memoryview)
_WHOLE = frozenset({"tokenize", "sample_mask"})


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """One model input, compiled."""

    part: str
    tensor: str
    functions: tuple[Function, ...]
    shape: tuple[int, ...]
    silent: frozenset[int] = field(default=frozenset())
    """A tensor of nothing but these is one that the part left no trace in; none: it cannot be told."""


class Preparer:
    """The declared steps of one model, compiled once.

    Args:
        inputs: how each tensor is made, from the manifest.
        bounds: the parts of the task. Then exactly these must come, and their own limits hold; a part that no tensor
            reads is only measured. Without them, the parts that ``inputs`` name must come, under the wire's limits.
        decode: what turns pictures into pixels.
        encoders: what each tokenizer file that ``inputs`` name does to a text.

    Raises:
        BundleMismatchError: a step is unknown, its parameters are out of bounds, it does not fit the one before it or
            the declared shape, or ``inputs`` read a part that the task does not have.
    """

    def __init__(
        self,
        inputs: Sequence[ModelInput],
        *,
        bounds: Sequence[InputPart] = (),
        decode: Decode = decode_picture,
        encoders: Mapping[str, Encode] | None = None,
    ) -> None:
        by_name = {bound.name: bound for bound in bounds}
        self._chains = tuple(_compiled(entry, by_name.get(entry.part), decode, encoders or {}) for entry in inputs)
        read = {chain.part for chain in self._chains}
        if by_name and (foreign := sorted(read - by_name.keys())):
            raise BundleMismatchError(
                f"the model reads part {foreign[0]!r}, which the task does not have", reason="foreign_part"
            )
        if len({chain.tensor for chain in self._chains}) != len(self._chains):
            raise BundleMismatchError("two inputs of the model fill the same tensor", reason="duplicate_tensor")
        self._max_bytes = {name: by_name[name].max_bytes if by_name else PART_BYTES for name in by_name or read}
        self._parts = frozenset(self._max_bytes)

    @property
    def parts(self) -> frozenset[str]:
        """The parts that every input must have."""
        return self._parts

    def prepare(self, parts: Mapping[str, bytes | str]) -> dict[str, NDArray[Any]]:
        """One array a tensor, without a batch axis: float32, or int64 of tokens.

        Raises:
            CallerInputError: a part is missing, extra, too large, damaged or of the wrong type, or makes a tensor of
                another shape than the model takes or with a number that is not finite. ``error.part`` names it.
        """
        if parts.keys() != self._parts:
            raise self._wrong_parts(parts)
        for name, limit in self._max_bytes.items():
            _check_size(name, parts[name], limit)
        return {chain.tensor: _run(chain, parts[chain.part]) for chain in self._chains}

    def unread(self, tensors: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
        """The parts of which nothing reached the model: a vector of zeros, as a question in another script gives, or tokens
        of which none stands for a known word.

        Such an input is legal. The model answers it from its other parts alone, confidently and without knowing what
        was asked, so that whoever applies the acceptance rule must treat its support as infinite.
        """
        return tuple(chain.part for chain in self._chains if _says_nothing(tensors[chain.tensor], chain.silent))

    def _wrong_parts(self, parts: Mapping[str, bytes | str]) -> CallerInputError:
        wanted = f"this task takes {', '.join(sorted(self._parts))}"
        if missing := sorted(self._parts - parts.keys()):
            return CallerInputError(
                f"part {missing[0]!r} is missing", reason="missing_part", fix=wanted, part=missing[0]
            )
        extra = sorted(parts.keys() - self._parts)[0][:64]
        return CallerInputError(f"part {extra!r} is not one of this task", reason="extra_part", fix=wanted, part=extra)


def bounds_of(task: Task, inputs: Sequence[ModelInput]) -> list[InputPart]:
    """The parts of the task, and that of the facts where the task has sub-tasks and a large model reads their answers."""
    reads = task.subtasks and any(entry.part == FACTS_PART for entry in inputs)
    return [*task.inputs, InputPart(name=FACTS_PART, modality="text", max_bytes=_FACTS_BYTES)] if reads else task.inputs


def is_whole(entry: ModelInput) -> bool:
    """Whether a tensor holds whole numbers (int64) and not float32."""
    return entry.steps[-1].op in _WHOLE


def _says_nothing(tensor: NDArray[Any], silent: frozenset[int]) -> bool:
    if silent == {0}:
        return not tensor.any()
    return bool(silent) and bool(np.isin(tensor, list(silent)).all())


def _compiled(entry: ModelInput, bound: InputPart | None, decode: Decode, encoders: Mapping[str, Encode]) -> _Chain:
    flow = Flow(
        part=entry.part, max_pixels=bound.max_pixels if bound else IMAGE_PIXELS, decode=decode, encoders=encoders
    )
    functions: list[Function] = []
    for number, step in enumerate(entry.steps, 1):
        try:
            if (row := STEPS.get(step.op)) is None:
                raise ValueError("this Outrider has no such step")
            op = msgspec.convert(step.args, decodable(row))
            if flow.kind not in row.takes:
                raise ValueError(f"it takes {' or '.join(sorted(row.takes))}, and {flow.kind} comes before it")
            function, flow = op.compile(flow)
        except ValueError as error:  # msgspec.ValidationError is one
            raise _unfit(entry, f"step {number} ({step.op!r}): {error}") from error
        functions.append(function)
    if flow.kind in ("raw", "sound"):
        raise _unfit(entry, f"the steps end in a {flow.kind}, which is no array")
    _check_shape(entry, flow)
    if flow.kind == "image":
        functions.append(lambda image: pixels_of(image).astype(np.float32))
    judged = flow.kind in ("vector", "tokens")
    return _Chain(
        part=entry.part,
        tensor=entry.tensor,
        functions=tuple(functions),
        shape=tuple(entry.shape),
        silent=flow.silent if judged else frozenset(),
    )


def _check_shape(entry: ModelInput, flow: Flow) -> None:
    """The declared shape against what is known of the result before there is one."""
    fits = len(flow.shape) == len(entry.shape) and all(
        known in (None, side) for known, side in zip(flow.shape, entry.shape, strict=True)
    )
    if not fits:
        raise _unfit(entry, f"the steps make shape {_shape(flow.shape)}, and {_shape(tuple(entry.shape))} is declared")


def _unfit(entry: ModelInput, what: str) -> BundleMismatchError:
    return BundleMismatchError(
        f"input {entry.tensor!r} of the model cannot be prepared: {what}",
        reason="unfit_steps",
        fix="use a bundle made for this version of Outrider",
    )


def _shape(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"


def _check_size(name: str, value: bytes | str, limit: int) -> None:
    if isinstance(value, str):
        try:
            size = len(value.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise CallerInputError(
                f"part {name!r} holds half a character", reason="not_utf8", fix="send valid Unicode", part=name
            ) from error
    elif isinstance(value, _BYTES):
        size = len(value)
    else:
        raise CallerInputError(
            f"part {name!r} is neither bytes nor text but {type(value).__name__}", reason="wrong_type", part=name
        )
    if size > limit:
        raise CallerInputError(
            f"part {name!r} has {size} bytes, more than {limit}", reason="too_large", fix="send less", part=name
        )


def _run(chain: _Chain, value: bytes | str) -> NDArray[Any]:
    made: Any = value
    for function in chain.functions:
        made = function(made)
    tensor: NDArray[Any] = made
    if tensor.shape != chain.shape:
        raise CallerInputError(
            f"part {chain.part!r} makes shape {_shape(tensor.shape)}, and the model takes {_shape(chain.shape)}",
            reason="wrong_shape",
            fix="send it in the size that the task asks for",
            part=chain.part,
        )
    if not np.isfinite(tensor).all():
        raise CallerInputError(
            f"part {chain.part!r} makes a tensor with a number that is not finite",
            reason="not_finite",
            part=chain.part,
        )
    return tensor
