"""Golden examples: inputs with the logits that the exporter saw, replayed on every device. Knows no processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct

from outrider_engine.model import Model
from outrider_wire.errors import BundleDamagedError, BundleMismatchError, CallerInputError
from outrider_wire.limits import LABELS, PARTS

MAX_EXAMPLES = 256


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One input as a device would receive it, and the model's answer to it."""

    parts: Mapping[str, bytes | str]
    logits: Sequence[float]


class _Row(Struct, frozen=True):
    """How an example is kept: MessagePack, text as UTF-8."""

    parts: Annotated[dict[str, bytes], Meta(max_length=PARTS)]
    logits: Annotated[list[float], Meta(max_length=LABELS)]


_DECODER = msgspec.msgpack.Decoder(list[_Row])


def encode_golden(examples: Sequence[Golden]) -> bytes:
    """The golden file; the same examples give the same bytes."""
    rows = [
        _Row({name: _bytes(part) for name, part in sorted(example.parts.items())}, list(example.logits))
        for example in examples
    ]
    return msgspec.msgpack.encode(rows)


def decode_golden(data: bytes) -> list[Golden]:
    """The examples of a golden file.

    Raises:
        BundleDamagedError: it does not parse, or holds none or too many.
    """
    try:
        rows = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise BundleDamagedError(
            f"the golden file does not parse: {error}", reason="golden_unparsable", fix="build the bundle again"
        ) from error
    if not 0 < len(rows) <= MAX_EXAMPLES:
        raise BundleDamagedError(
            f"the golden file holds {len(rows)} examples, not 1 to {MAX_EXAMPLES}", reason="golden_unparsable"
        )
    return [Golden(parts=row.parts, logits=row.logits) for row in rows]


def read_golden(model: Model) -> list[Golden]:
    """The golden examples of a model's bundle; none if it ships none."""
    name = model.manifest.golden
    return decode_golden(model.bundle.read(name)) if name else []


def check_golden(model: Model) -> list[str]:
    """Replays every golden example; one sentence for each that fails."""
    faults = (_fault(model, example) for example in read_golden(model))
    return [f"golden example {number}: {fault}" for number, fault in enumerate(faults, 1) if fault]


def _bytes(part: bytes | str) -> bytes:
    return part.encode() if isinstance(part, str) else part


def _fault(model: Model, example: Golden) -> str:
    try:
        logits = model.infer([model.prepare(example.parts)])[0].logits
    except (CallerInputError, BundleMismatchError) as error:
        return error.what
    if len(example.logits) != len(logits):
        return f"it has {len(example.logits)} logits, and the model {len(logits)}"
    apart = float(np.max(np.abs(logits.astype(np.float64) - np.asarray(example.logits))))
    most = tolerance(model)
    return "" if apart <= most else f"a logit is {apart:.4g} from its golden value, more than {most:g}"


def tolerance(model: Model) -> float:
    """How far a logit may be from its golden value, which the first variant gave.

    Another variant is as far from it as both were found to be from fp32 (``parity``), and as much again: that was on a few rows.
    """
    shipped = model.manifest.variants[0]
    if model.variant.name == shipped.name:
        return model.manifest.golden_tolerance
    apart = sum(variant.parity.get("max_abs", 0.0) for variant in (shipped, model.variant))
    return model.manifest.golden_tolerance + 2 * apart
