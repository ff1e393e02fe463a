"""The demo's world on disk: captures of the device's camera, tables of questions, the task. Trains and starts nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from outrider.demo.cameras import DEVICE, capture
from outrider.demo.dataset import ROLE_KEY, Deal, Question, Vqa, ask, attributes, deal, load
from outrider.demo.play import Item
from outrider_export.data import Example, Progress, Table
from outrider_wire.roles import fraction_of
from outrider_wire.strata import Stratum
from outrider_wire.task import AnswerSpace, InputPart, Policy, Prompt, Task

TASK_NAME = "easy-vqa"
CAPTURE_SEED = 99
QUESTIONS_PLAYED = 3
"""Questions asked about each test picture, before and after the update."""
FIRST_CERTIFICATE = 0.5
"""Share of the certification pictures that the first bundle's certificate uses; the update's gets the rest."""


def make_task(labels: tuple[str, ...]) -> Task:
    """The visual question task."""
    return Task(
        name=TASK_NAME,
        description="A picture of one coloured shape and a question about it",
        inputs=[
            InputPart(name="image", modality="image", max_bytes=1_000_000, max_pixels=1_000_000),
            InputPart(name="question", modality="text", max_bytes=512),
        ],
        answer=AnswerSpace(labels=list(labels)),
        strata=[
            Stratum(name="colour", part="question", any_of=["what color", "the color of"]),
            Stratum(name="shape", part="question", any_of=["what shape", "what is the"]),
        ],
        prompt=Prompt(text="Answer the question about the picture with one of the labels."),
        policy=Policy(target_risk=0.05, confidence=0.95, answer_within_ms=5_000, keep_for_s=3_600, audit_rate=0.02),
    )


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that is given: pictures, questions, captures, and who has which."""

    vqa: Vqa
    deal: Deal
    task: Task
    captures: dict[int, bytes]
    """Picture number → JPEG, as the device's camera sees it; all but the large model's pictures."""
    seed: int

    def table(self, questions: list[Question], *, clean: bool = False) -> Table:
        """Labelled rows of these questions; ``clean`` gives the pictures as they were drawn."""
        place = {label: number for number, label in enumerate(self.task.labels)}
        images = _clean(self.vqa, {question.picture for question in questions}) if clean else self.captures
        return Table.from_examples(
            Example(
                {"image": images[question.picture], "question": question.text},
                place[question.answer],
                self.vqa.groups[question.picture],
            )
            for question in questions
        )

    def auxiliary(self, questions: list[Question]) -> list[np.ndarray]:
        """Colour and shape of each row's picture (rows,), as its own answers give them away."""
        known = attributes(self.vqa)[[question.picture for question in questions]]
        return [known[:, 0], known[:, 1]]

    def questions(self, pictures: tuple[int, ...], each: int | None = None) -> list[Question]:
        """Questions about these pictures, the same for the same seed."""
        return ask(self.vqa, pictures, each=each, rng=np.random.default_rng(self.seed))

    def items(self, questions: list[Question]) -> list[Item]:
        """These questions as they are asked of an agent."""
        return [
            Item(image=self.captures[question.picture], question=question, group=self.vqa.groups[question.picture])
            for question in questions
        ]

    def certification(self, *, first: bool) -> tuple[int, ...]:
        """The certification pictures of the first bundle's certificate, or those that are left for the update's."""
        return tuple(
            number
            for number in self.deal.certification
            if (fraction_of(self.vqa.groups[number], key=ROLE_KEY, salt="first") < FIRST_CERTIFICATE) == first
        )


def make_world(seed: int, progress: Progress | None = None) -> World:
    """Loads `easy-vqa`, deals it out, and takes a picture of each device picture with the device's camera."""
    vqa = load()
    dealt = deal(vqa)
    theirs = set(dealt.large)
    mine = [number for number in range(len(vqa.groups)) if number not in theirs]
    rng = np.random.default_rng(CAPTURE_SEED + seed)
    captures: dict[int, bytes] = {}
    for done, number in enumerate(mine):
        captures[number] = capture(vqa.pictures[number], DEVICE, rng)
        if progress is not None and done % 100 == 0:
            progress("taking pictures", done / len(mine))
    return World(vqa=vqa, deal=dealt, task=make_task(vqa.labels), captures=captures, seed=seed)


def write_rows(world: World, questions: list[Question], folder: Path) -> Path:
    """A JSON-lines file of labelled rows with its pictures beside it, as ``outrider data import`` reads them."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for number in {question.picture for question in questions}:
        (pictures / f"{number}.jpg").write_bytes(world.captures[number])
    lines = [
        json.dumps(
            {
                "parts": {"image": f"pictures/{question.picture}.jpg", "question": question.text},
                "label": question.answer,
                "group": world.vqa.groups[question.picture],
            }
        )
        for question in questions
    ]
    file = folder / "labelled.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def _clean(vqa: Vqa, pictures: set[int]) -> dict[int, bytes]:
    import io

    from PIL import Image

    images: dict[int, bytes] = {}
    for number in pictures:
        buffer = io.BytesIO()
        Image.fromarray(vqa.pictures[number]).save(buffer, "PNG")
        images[number] = buffer.getvalue()
    return images
