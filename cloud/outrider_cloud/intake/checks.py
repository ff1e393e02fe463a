"""Whether an escalation is one that this cloud can answer. Pure: says no with a reason, does nothing about it."""

import hashlib
from collections.abc import Mapping

from msgspec import UNSET

from outrider_link.envelope import Incoming
from outrider_wire.errors import PeerMessageError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import Escalation, Part
from outrider_wire.task import InputPart, Task


def check_manner(message: Incoming) -> None:
    """Whether a message was sent as it must be: only QoS 1 and MQTT 5 tell its sender when the broker refuses it.

    Raises:
        PeerMessageError: it came at QoS 0, or without a content type, which MQTT 3.1.1 cannot give.
    """
    if message.qos != 1:
        raise PeerMessageError("it came at QoS 0", reason="wrong_qos", fix="publish at QoS 1")
    if not message.content_type:
        raise PeerMessageError(
            "it has no content type", reason="no_content_type", fix="speak MQTT 5 and say the payload's content type"
        )


def check_escalation(escalation: Escalation, task_in_topic: str, tasks: Mapping[str, Task]) -> Task:
    """The task that the escalation is of, when it fits.

    Raises:
        PeerMessageError: unknown task, another task than the topic's, or parts, label or distribution that are not the task's.
    """
    if escalation.task != task_in_topic:
        raise _refused("task_mismatch", f"it is of task {escalation.task!r} and came on the topic of {task_in_topic!r}")
    if (task := tasks.get(escalation.task)) is None:
        raise _refused("unknown_task", f"task {escalation.task!r} is not served here")
    check_labels(escalation, task)
    sent, wanted = [part.name for part in escalation.parts], [part.name for part in task.inputs]
    if missing := sorted(set(wanted) - set(sent)):
        raise _refused("missing_part", f"it lacks part {missing[0]!r}")
    if extra := sorted(set(sent) - set(wanted)):
        raise _refused("extra_part", f"the task has no part {extra[0]!r}")
    if len(sent) != len(wanted):
        raise _refused("extra_part", "it has a part twice")
    for part in escalation.parts:
        declared = task.part(part.name)
        if declared is not None:
            _check_part(part, declared)
    return task


def check_labels(escalation: Escalation, task: Task) -> None:
    """Whether the device's answer is over the task's labels, and its facts over the sub-tasks'.

    Raises:
        PeerMessageError: it is not.
    """
    if len(escalation.probabilities) != len(task.labels) or escalation.label not in task.labels:
        raise _refused(
            "labels_mismatch", f"its label or distribution is not over the {len(task.labels)} labels of the task"
        )
    labels = {each.name: each.labels for each in task.subtasks}
    for fact in escalation.known:
        if fact.label not in labels.pop(fact.name, ()):
            raise _refused("facts_mismatch", f"fact {fact.name!r} answers no sub-task of the task, or answers it twice")


def _check_part(part: Part, declared: InputPart) -> None:
    if part.modality != declared.modality:
        raise _refused(
            "wrong_modality", f"part {part.name!r} is {part.modality}, and the task wants {declared.modality}"
        )
    if part.size > declared.max_bytes:
        raise _refused(
            "part_too_large", f"part {part.name!r} has {part.size} bytes, more than the {declared.max_bytes} allowed"
        )
    if part.full is not UNSET and part.full.size > declared.max_bytes:
        raise _refused(
            "part_too_large",
            f"all of part {part.name!r} has {part.full.size} bytes, more than the {declared.max_bytes} allowed",
        )
    if part.inline is None:
        return
    if len(part.inline) > INLINE_BYTES:
        raise _refused("part_too_large", f"part {part.name!r} is inline and longer than {INLINE_BYTES} bytes")
    if len(part.inline) != part.size or hashlib.sha256(part.inline).hexdigest() != part.sha256:
        raise _refused("part_damaged", f"part {part.name!r} is not what its size and digest say")


def _refused(reason: str, what: str) -> PeerMessageError:
    return PeerMessageError(what, reason=reason)
