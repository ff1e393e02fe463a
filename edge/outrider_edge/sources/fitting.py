"""Which part of which task a source gives. Pure: settings and tasks in, an answer or a refusal out."""

from collections.abc import Mapping

from msgspec import Struct

from outrider_edge.sources.settings import SourceSettings
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import InputPart, Task


class Fitted(Struct, kw_only=True, frozen=True):
    """What a source's inputs are."""

    task: Task
    part: InputPart
    """That the source gives."""
    others: dict[str, str]
    """The input's other parts."""


def fit(settings: SourceSettings, tasks: Mapping[str, Task]) -> Fitted:
    """The task and the part.

    Raises:
        OperatorConfigError: no such task or part, or several could be meant.
    """
    if settings.task not in tasks and (settings.task or len(tasks) != 1):
        said = f"task {settings.task!r} is not served" if settings.task else "it does not say for which task"
        raise _unfit(settings, said, f"set task to one of: {', '.join(sorted(tasks))}")
    task = tasks[settings.task] if settings.task else next(iter(tasks.values()))
    for name in settings.parts:
        if (known := task.part(name)) is None or known.modality != "text":
            texts = ", ".join(part.name for part in task.inputs if part.modality == "text")
            raise _unfit(settings, f"parts.{name} is no text of task {task.name!r}", f"known ones: {texts or 'none'}")
    left = [part for part in task.inputs if part.name not in settings.parts]
    if settings.address.is_video:
        left = [part for part in left if part.modality == "image"]
    chosen = [part for part in left if part.name == settings.part] if settings.part else left
    if len(chosen) != 1:
        what = (
            f"part {settings.part!r} is none that it can give" if settings.part else "which part it gives is not clear"
        )
        raise _unfit(settings, what, f"set part to one of: {', '.join(part.name for part in left) or 'none'}")
    if lacking := [part.name for part in task.inputs if part.name not in settings.parts and part is not chosen[0]]:
        raise _unfit(settings, f"nothing gives part {lacking[0]!r}", f'set parts.{lacking[0]} = "…" for it')
    return Fitted(task=task, part=chosen[0], others=dict(settings.parts))


def _unfit(settings: SourceSettings, what: str, fix: str) -> OperatorConfigError:
    return OperatorConfigError(f"source {settings.name!r}: {what}", reason="source_unfit", fix=fix)
