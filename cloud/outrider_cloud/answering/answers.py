"""The large model's reply and the small model's distribution become the answer that is sent. Pure."""

import math
from collections.abc import Mapping, Sequence

from msgspec import UNSET, UnsetType

from outrider_cloud.answering.strategies import LEAST_CAPTURED, STRATEGIES, Strategy, Terms
from outrider_cloud.large.base import LargeRefusal, LargeReply
from outrider_wire.messages import Answer
from outrider_wire.task import Task


def make_answer(
    *,
    input_id: str,
    task: Task,
    large: Sequence[float],
    small: Sequence[float],
    strategy: str,
    terms: Terms,
    model: str,
    ms: Mapping[str, float],
    form: str | UnsetType = UNSET,
) -> Answer:
    """The answer by ``strategy``; its label is the likeliest, the first of equals.

    Args:
        large: the large model's distribution, in the order of the task's labels.
        small: the small model's.
        terms: what the strategy computes with.
        model: name and revision of the large model.
        ms: milliseconds a stage.
        form: on which form it was decided, where there was a first one.
    """
    combined = [min(max(p, 0.0), 1.0) for p in STRATEGIES[strategy].combine(large, small, terms)]
    best = combined.index(max(combined))
    return Answer(
        id=input_id,
        task=task.name,
        label=task.labels[best],
        confidence=combined[best],
        probabilities=combined,
        strategy=strategy,
        model=model,
        ms={stage: round(value, 3) for stage, value in ms.items()},
        form=form,
    )


def mass_problem(reply: LargeReply, strategy: Strategy, terms: Terms) -> str:
    """Why the strategy cannot compute with that reply's distribution; '' where it can, or needs the arg-max alone."""
    if reply.captured >= LEAST_CAPTURED or not strategy.computes(terms):
        return ""
    return (
        f"only {reply.captured:.1%} of the large model's mass is on the labels, and the strategy needs "
        f"{LEAST_CAPTURED:.0%}: word the prompt so that it answers with a code, or use shunt"
    )


def spread(probabilities: Sequence[float], captured: float) -> Sequence[float]:
    """Where much of the mass was not seen, it is shared out evenly: nobody is told a confidence that the model never had."""
    if captured >= LEAST_CAPTURED:
        return probabilities
    rest = (1.0 - captured) / len(probabilities)
    return [captured * p + rest for p in probabilities]


def check_replies(replies: Sequence[LargeReply | LargeRefusal], asked: int, labels: int) -> None:
    """Whether a backend has kept to its protocol.

    Raises:
        ValueError: it has not: a reply is missing, or a distribution is not one over the labels.
    """
    if len(replies) != asked:
        raise ValueError(f"{asked} requests, {len(replies)} replies")
    for reply in replies:
        if isinstance(reply, LargeReply) and not (
            len(reply.probabilities) == labels
            and all(math.isfinite(p) and p >= 0.0 for p in reply.probabilities)
            and math.isclose(sum(reply.probabilities), 1.0, abs_tol=1e-3)
        ):
            raise ValueError(f"not a distribution over {labels} labels")
