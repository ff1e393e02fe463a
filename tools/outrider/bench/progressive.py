"""``outrider bench progressive``: what a first form saves and what it costs, on the demo's escalated inputs. Prints nothing.

The demo's small model chooses what is escalated; its large model sees each picture whole, and in each first form that the
device's own code makes of it. Temperatures are fitted a form on tuning pictures, so that *sure enough* means the same for all.
Bytes are those of the messages that an escalation and its pull consist of, without MQTT's own headers.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from outrider.demo.dataset import Question
from outrider.demo.models import look, make_models
from outrider.demo.world import QUESTIONS_PLAYED, World, make_world
from outrider.progress import Tell
from outrider_cloud.answering.grades import ENOUGH
from outrider_edge.ports import OutboxEntry, OutboxFull, OutboxPart
from outrider_edge.uplink.escalations import envelope_of, offer_of
from outrider_engine.model import Model, load_model
from outrider_export.asking import ask_rows
from outrider_export.data import Example, Table
from outrider_wire.calibration import fit_temperature, softmax
from outrider_wire.codec import encode
from outrider_wire.leaving import Leaver, LeavingPart
from outrider_wire.limits import BLOCK_BYTES, MESSAGE_BYTES
from outrider_wire.messages import BlobBlock, BlobWant
from outrider_wire.privacy import FirstForm
from outrider_wire.report import AnswerReport
from outrider_wire.task import Task

FIRSTS: Mapping[str, FirstForm] = {
    "jpeg-50": FirstForm(kind="jpeg", quality=50),
    "thumbnail-16": FirstForm(kind="thumbnail", side=16),
}
TUNING_QUESTIONS = 4
"""Of each tuning picture."""
_ID = "01990000-0000-7000-8000-000000000001"
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class ProgressivePlan:
    """What to measure."""

    folder: Path
    """Where the demo keeps its models."""
    seed: int = 0
    """Of the demo's world and models."""


class Way(Struct, kw_only=True, frozen=True):
    """One way of sending, over all escalated inputs."""

    bytes: float
    """An escalation, on average."""
    accuracy: float
    """Of the large model's answers."""
    pulled: float = 0.0
    """Share of inputs of which the full form was asked for."""
    first_accuracy: float | None = None
    """Where the first form was enough; None: there was none, or it never was."""


class ProgressiveFigures(Struct, kw_only=True, frozen=True):
    """The JSON line."""

    seed: int
    escalated: int
    enough: float
    temperatures: dict[str, float]
    """Of the large model, by what it is shown."""
    sources: dict[str, dict[str, Way]]
    """By how the camera codes its pictures (``png``, ``jpeg-90``), then ``full``, and for each first form ``NAME`` (that alone)
    and ``NAME-then-full``."""


@dataclass(frozen=True)
class _Seen:
    """What the large model says of each input, in one form."""

    right: NDArray[np.bool_]
    logits: NDArray[np.float64]


def measure(plan: ProgressivePlan, tell: Tell) -> ProgressiveFigures:
    """Everything; trains the demo's models when they are not there yet."""
    world = make_world(plan.seed, tell)
    models = make_models(world, plan.folder / "models", tell)
    large = load_model(models.large)
    tuning = world.questions(world.deal.tuning, TUNING_QUESTIONS)
    asked = world.questions(world.deal.test, QUESTIONS_PLAYED)
    kept = look(models.small, world.table(asked)).accepted
    asked = [question for question, here in zip(asked, kept, strict=True) if not here]
    temperatures: dict[str, float] = {}
    sources: dict[str, dict[str, Way]] = {}
    for source, pictures in (("png", _lossless(world)), ("jpeg-90", world.captures)):
        tell(f"asking about {source} pictures", len(sources) / 2)
        study = _Study(world=world, large=large, pictures=pictures)
        temperatures.setdefault("full", study.temperature(tuning, None))
        ways = {"full": study.alone(asked, None)}
        for name, first in FIRSTS.items():
            temperature = temperatures.setdefault(name, study.temperature(tuning, first))
            ways |= {name: study.alone(asked, first), f"{name}-then-full": study.then_full(asked, first, temperature)}
        sources[source] = ways
    return ProgressiveFigures(
        seed=plan.seed, escalated=len(asked), enough=ENOUGH, temperatures=temperatures, sources=sources
    )


class _Study:
    """One camera's pictures, as they leave the device and as the large model sees them."""

    def __init__(self, *, world: World, large: Model, pictures: Mapping[int, bytes]) -> None:
        self._world = world
        self._large = large
        self._pictures = pictures
        self._left: dict[tuple[int, str], LeavingPart] = {}

    def alone(self, asked: Sequence[Question], first: FirstForm | None) -> Way:
        """One form and nothing after it."""
        return Way(bytes=self.sent_bytes(asked, first), accuracy=float(self.seen(asked, first).right.mean()))

    def then_full(self, asked: Sequence[Question], first: FirstForm, temperature: float) -> Way:
        """A first form, and the full one where that is not enough."""
        seen, full = self.seen(asked, first), self.seen(asked, None)
        enough = softmax(seen.logits, temperature).max(axis=1) >= ENOUGH
        pulled = np.where(enough, 0, self.pull_bytes(asked))
        return Way(
            bytes=self.sent_bytes(asked, first) + float(pulled.mean()),
            accuracy=float(np.where(enough, seen.right, full.right).mean()),
            pulled=float((~enough).mean()),
            first_accuracy=float(seen.right[enough].mean()) if enough.any() else None,
        )

    def seen(self, asked: Sequence[Question], first: FirstForm | None) -> _Seen:
        """The large model on all of these, shown the first form or (None) everything."""
        place = {label: number for number, label in enumerate(self._world.task.labels)}
        table = Table.from_examples(
            Example(
                {"image": self._shown(question, first), "question": question.text},
                place[question.answer],
                self._world.vqa.groups[question.picture],
            )
            for question in asked
        )
        said = ask_rows(self._large, table)
        return _Seen(said.answers == table.labels, np.log(np.maximum(said.probabilities, _TINY)))

    def temperature(self, tuning: Sequence[Question], first: FirstForm | None) -> float:
        """That makes the large model as sure as it is right of what it is shown."""
        place = {label: number for number, label in enumerate(self._world.task.labels)}
        return fit_temperature(self.seen(tuning, first).logits, [place[question.answer] for question in tuning])

    def sent_bytes(self, asked: Sequence[Question], first: FirstForm | None) -> float:
        """Of the message that offers an input, on average."""
        task = self._world.task
        return float(np.mean([_message_bytes(task, question, self._leaving(question, first)) for question in asked]))

    def pull_bytes(self, asked: Sequence[Question]) -> NDArray[np.int64]:
        """Of the messages that bring the full form of each."""
        return np.asarray([_pull_bytes(self._leaving(question, None).full.data) for question in asked], np.int64)

    def _shown(self, question: Question, first: FirstForm | None) -> bytes:
        left = self._leaving(question, first)
        return (left.first or left.full).data

    def _leaving(self, question: Question, first: FirstForm | None) -> LeavingPart:
        key = (question.picture, repr(first))
        if key not in self._left:
            task = self._world.task
            image = replace(task.inputs[0], first=first)
            leaver = Leaver(replace(task, inputs=[image, *task.inputs[1:]]), key="bench")
            parts: dict[str, bytes | str] = {"image": self._pictures[question.picture], "question": question.text}
            self._left[key] = leaver.leave(parts).parts[0]
        return self._left[key]


def _message_bytes(task: Task, question: Question, image: LeavingPart) -> int:
    form = image.first or image.full
    full = OutboxFull(media_type=image.full.media_type, data=image.full.data) if image.first else None
    text = question.text.encode()
    report = AnswerReport(
        id=_ID,
        task=task.name,
        state="pending",
        label=task.labels[0],
        confidence=0.5,
        threshold=None,
        answered_by="edge",
        final=False,
        certified=False,
        why="low_confidence",
        model="",
        model_digest="",
    )
    entry = OutboxEntry(
        id=_ID,
        task=task.name,
        parts=[
            OutboxPart(name="image", modality="image", media_type=form.media_type, data=form.data, full=full),
            OutboxPart(name="question", modality="text", media_type="text/plain; charset=utf-8", data=text),
        ],
        why="low_confidence",
        model="0" * 64,
        label=task.labels[0],
        probabilities=[1 / len(task.labels)] * len(task.labels),
        answer_within_ms=task.policy.answer_within_ms,
        keep_for_s=task.policy.keep_for_s,
        group=f"easy-vqa/test/{question.picture}",
        state="pending",
        report=report,
    )
    offer = offer_of(envelope_of(entry), [form.data, text], age_s=0.0, offer=1, packet_limit=MESSAGE_BYTES)
    return len(encode(offer))


def _pull_bytes(data: bytes) -> int:
    """The want of the worker and the one block that answers it: no picture of the demo needs two."""
    want = BlobWant(transfer="0" * 16, sha256="0" * 64, offset=0, count=1, block=BLOCK_BYTES, worker="worker")
    return len(encode(want)) + len(encode(BlobBlock(transfer="0" * 16, offset=0, data=data)))


def _lossless(world: World) -> dict[int, bytes]:
    """The same pictures as a device has them that takes frames from its sensor."""
    frames: dict[int, bytes] = {}
    for number in (*world.deal.tuning, *world.deal.test):
        out = io.BytesIO()
        Image.open(io.BytesIO(world.captures[number])).save(out, "PNG")
        frames[number] = out.getvalue()
    return frames
