"""Whether every input of a table is one: told of all of them at once, before hours of training meet the first. Trains nothing."""

from collections.abc import Callable, Mapping

import numpy as np

from outrider_export.data import PartValue, Table
from outrider_wire.errors import CallerInputError, OperatorConfigError
from outrider_wire.images import decode_picture
from outrider_wire.messages import Modality
from outrider_wire.sounds import decode_wav
from outrider_wire.task import InputPart, Task

_NAMED = 5
_DECODERS: Mapping[Modality, Callable[[PartValue, InputPart], object]] = {
    "image": lambda value, part: decode_picture(value, part=part.name, mode="RGB", max_pixels=part.max_pixels),
    "audio": lambda value, part: decode_wav(value, part=part.name),
}


def check_readable(table: Table, task: Task) -> None:
    """Decodes every picture and sound, and measures every part.

    Raises:
        OperatorConfigError: some cannot be read; names the first few, and says how many there are.
    """
    faults: list[str] = []
    for part in task.inputs:
        for place, value in enumerate(table.values[part.name]):
            if fault := _fault(value, part):
                row = int(np.argmax(table.index[part.name] == place))
                faults.append(f"{table.groups[row]}: {fault}")
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise OperatorConfigError(
            f"{len(faults)} input(s) cannot be read: {'; '.join(faults[:_NAMED])}{more}",
            reason="unreadable_inputs",
            fix="replace them, or take them out of the data",
        )


def _fault(value: PartValue, part: InputPart) -> str:
    size = len(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value)
    if size > part.max_bytes:
        return f"part {part.name!r} has {size} bytes, and the task allows {part.max_bytes}"
    try:
        if (decode := _DECODERS.get(part.modality)) is not None:
            decode(value, part)
    except CallerInputError as error:
        return error.what
    return ""
