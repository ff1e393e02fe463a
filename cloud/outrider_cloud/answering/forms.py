"""First forms and full ones: what could still be had of an escalation, whether it is needed, and what it was decided on. Pure."""

from collections.abc import Mapping, Sequence

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from outrider_cloud.answering.grades import ENOUGH, Grade, grade_of
from outrider_wire.messages import Escalation, Part


def unseen(escalation: Escalation) -> list[Part]:
    """The parts of which only a first form came, each as the full form that can be pulled."""
    return [
        replace(part, media_type=full.media_type, size=full.size, sha256=full.sha256, inline=None)
        for part in escalation.parts
        if (full := part.unseen) is not None
    ]


def completed(escalation: Escalation, fetched: Mapping[str, bytes | None]) -> Escalation:
    """The same with full forms in the place of first ones.

    Args:
        escalation: some of whose parts are first forms.
        fetched: the pulled bytes by part; None: they lie in the blob store.
    """
    full = {part.name: replace(part, inline=fetched[part.name]) for part in unseen(escalation) if part.name in fetched}
    return replace(escalation, parts=[full.get(part.name, part) for part in escalation.parts])


def suffices(large: Sequence[float], parts: Sequence[Part], grades: Sequence[Grade]) -> bool:
    """Whether the large model is sure enough of what it saw.

    Args:
        large: its distribution, the grade's temperature applied.
        parts: what it saw.
        grades: the task's.
    """
    grade = grade_of(parts, grades)
    return max(large) >= (ENOUGH if grade is None else grade.enough)


def decided_on(escalation: Escalation) -> str | UnsetType:
    """`Answer.form` of an answer to it, as far as its parts tell."""
    if all(part.full is UNSET for part in escalation.parts):
        return UNSET
    return "first" if any(part.unseen for part in escalation.parts) else "full"
