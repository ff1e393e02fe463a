"""How the models that ``outrider bench export`` exports are come by, task by task. Imports what trains them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from outrider.bench import export_audio, export_tasks
from outrider.bench.export_models import Exportable
from outrider.progress import Tell
from outrider_wire.errors import OperatorConfigError


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a task's models are come by."""

    make: Callable[[int, Path | None, Path, Tell], list[Exportable]]
    """(seed, folder of the data or None, folder to keep things in, tell) → its models."""
    data: str = ""
    """Name of its data; '' when a Python package carries them."""


SOURCES: Mapping[str, Source] = {
    "easy-vqa": Source(make=export_tasks.easy_vqa),
    "mnist1d": Source(make=export_tasks.mnist1d),
    "fashion": Source(make=export_tasks.fashion, data="fashion"),
    "text": Source(make=export_tasks.text, data="text"),
    "digits": Source(make=export_audio.digits, data="digits"),
}
"""Task → how its models are come by."""


def find_source(name: str) -> Source:
    """The source of that name.

    Raises:
        OperatorConfigError: there is none.
    """
    if name not in SOURCES:
        raise OperatorConfigError(
            f"there is no task {name!r} to export models of", reason="unknown_task", fix=f"choose {', '.join(SOURCES)}"
        )
    return SOURCES[name]
