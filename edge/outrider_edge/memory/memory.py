"""One task's answer memory in an input's journey: asked, taught, audited. Knows no account and no way to the cloud."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from outrider_edge.journey.pipeline import LocalAnswer, Parts
from outrider_edge.memory.answers import Answers, Hit, Remembered, Unit, digest_of_others, unit
from outrider_edge.memory.watch import MemoryWatch
from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import Manifest
from outrider_wire.messages import Answer
from outrider_wire.report import AnswerReport
from outrider_wire.task import Task

log = logging.getLogger(__name__)


class MemoryView(Struct, kw_only=True, frozen=True):
    """How a memory fares. Counts are since the start or the last change of the model."""

    entries: int
    hits: int
    """Inputs that it answered."""
    audited: int
    """Of these, those of which the large model has been asked and has answered."""
    disagreed: int
    off: bool
    """It was shown to be wrong too often, and waits for another model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expected:
    """An input of which the large model is being asked."""

    model: str
    others: bytes
    embedding: Unit
    hit: Hit | None
    """What the memory said of it: an audit."""


class TaskMemory:
    """One task's memory. Everything runs on one event loop.

    Args:
        task: whose memory is enabled.
        now: run time in seconds.
    """

    def __init__(self, *, task: Task, now: Callable[[], float]) -> None:
        terms = task.memory
        self._now = now
        self._most = terms.max_entries
        self._answers = Answers(
            max_entries=terms.max_entries, keep_for_s=terms.keep_for_s, max_distance=terms.max_distance
        )
        self._watch = MemoryWatch(risk=terms.risk, delta=task.delta)
        self._labels = task.labels
        self._name = task.name
        self._model = ""
        self._hits = 0
        self._expected: OrderedDict[str, _Expected] = OrderedDict()

    def recall(self, parts: Parts, local: LocalAnswer) -> Hit | None:
        """What the large model said of an input that is nearly this one; None: nothing, or the memory is off."""
        self._follow(local.model.digest)
        embedding = unit(local.embedding)
        if self._watch.off or embedding is None:
            return None
        others = digest_of_others(parts, local.model.manifest.embedding_parts)
        hit = self._answers.find(self._now(), others, embedding)
        self._hits += hit is not None
        return hit

    def expect(self, input_id: str, parts: Parts, local: LocalAnswer, hit: Hit | None = None) -> None:
        """The large model is asked of this input: what it says will be remembered. ``hit``: what the memory said of it."""
        self._follow(local.model.digest)
        if (embedding := unit(local.embedding)) is None:
            return
        others = digest_of_others(parts, local.model.manifest.embedding_parts)
        self._expected[input_id] = _Expected(model=local.model.digest, others=others, embedding=embedding, hit=hit)
        while len(self._expected) > self._most:
            self._expected.popitem(last=False)

    def ended(self, report: AnswerReport) -> None:
        """An input that was pending has its terminal state."""
        expected = self._expected.pop(report.id, None)
        if expected is not None and report.state == "cloud" and report.label is not None:
            self._learn(
                expected,
                Remembered(
                    label=report.label,
                    confidence=report.confidence,
                    probabilities=report.probabilities,
                    large_model=report.large_model,
                    strategy=report.strategy,
                    at_s=self._now(),
                ),
            )

    def answered(self, answer: Answer) -> None:
        """The large model's answer to an input that was answered without it."""
        if (expected := self._expected.pop(answer.id, None)) is None:
            return
        if expected.hit is not None and expected.model == self._model:
            self._judge(expected.hit, answer.label)
        self._learn(
            expected,
            Remembered(
                label=answer.label,
                confidence=answer.confidence,
                probabilities=dict(zip(self._labels, answer.probabilities, strict=False)),
                large_model=answer.model,
                strategy=answer.strategy,
                at_s=self._now(),
            ),
        )

    def age_s(self, hit: Hit) -> float:
        """How long ago its answer came."""
        return self._now() - hit.answer.at_s

    def view(self) -> MemoryView:
        """How it fares."""
        return MemoryView(
            entries=len(self._answers),
            hits=self._hits,
            audited=self._watch.audited,
            disagreed=self._watch.disagreed,
            off=self._watch.off,
        )

    def _follow(self, model: str) -> None:
        """Embeddings of another model are not these."""
        if model != self._model:
            self._model = model
            self._hits = 0
            self._answers.clear()
            self._expected.clear()
            self._watch.restart()

    def _judge(self, hit: Hit, label: str) -> None:
        agrees = hit.answer.label == label
        if not agrees:
            self._answers.remove(hit.entry)
        if self._watch.saw(agrees=agrees):
            self._answers.clear()
            log.warning(
                "memory.switched_off",
                extra={"task": self._name, "audited": self._watch.audited, "disagreed": self._watch.disagreed},
            )

    def _learn(self, expected: _Expected, answer: Remembered) -> None:
        if expected.model == self._model and not self._watch.off:
            self._answers.add(expected.others, expected.embedding, answer)


def lacks_embedding(task: Task, manifest: Manifest) -> str:
    """Why a model cannot serve the memory that its task asks for; '' when it can."""
    if not task.memory.enabled or manifest.outputs.embedding is not None:
        return ""
    return f"task {task.name!r} has a memory, and bundle {manifest.version} exports no embedding to find answers by"


def check_embedding(task: Task, manifest: Manifest) -> None:
    """Whether a model can serve the memory that its task asks for.

    Raises:
        OperatorConfigError: it exports no embedding.
    """
    if problem := lacks_embedding(task, manifest):
        raise OperatorConfigError(
            problem,
            reason="no_embedding",
            fix="build the bundle with: outrider export run --embedding; or set [memory] enabled = false in the task",
        )
