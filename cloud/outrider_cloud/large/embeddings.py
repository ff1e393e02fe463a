"""Whether a large model can read a part of which only an embedding leaves the device. Loads nothing."""

from collections.abc import Sequence

from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import ModelInput
from outrider_wire.task import Task


def check_embeddings(task: Task, inputs: Sequence[ModelInput] = (), *, named: str) -> None:
    """Whether every such part is read as an embedding.

    Args:
        task: that says what leaves.
        inputs: of the model, as its manifest says; none: it reads pictures, sounds or text alone.
        named: what the model is called in the configuration.

    Raises:
        OperatorConfigError: one is not.
    """
    alone = {name for name, terms in task.privacy.parts.items() if terms.embedding_only}
    read = {entry.part for entry in inputs if entry.steps and entry.steps[0].op == "embedding"}
    otherwise = {entry.part for entry in inputs if not entry.steps or entry.steps[0].op != "embedding"}
    if unread := sorted(alone - (read - otherwise)):
        raise OperatorConfigError(
            f"{unread[0]!r} leaves the devices of task {task.name!r} as an embedding only, and {named} cannot read that",
            reason="embedding_unread",
            fix="name an expert bundle whose first step for that part is `embedding`, or let the part itself leave",
        )
