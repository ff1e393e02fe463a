"""The `easy-vqa` pictures and questions, dealt out to a large model's owner and to a device's world. Trains nothing.

`easy-vqa` (on PyPI, MIT): 5,000 pictures of 64 × 64, 48,248 questions, 13 answers. Three in four
questions are answered by yes or no, so that answering by the question alone already gets two in three right: every
figure of the demo stands beside that baseline.
"""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from outrider_wire.roles import Role, Shares, fraction_of, role_of

ROLE_KEY = "easy-vqa-demo"
SHARES = Shares(train=0.28, tuning=0.08, gate=0.08, certification=0.43, test=0.13)
LARGE_SHARE = 0.35
"""The pictures that the large model's owner has; the device's world never sees them."""
LABELLED = 300
"""Device pictures of the train role that a person has labelled; the rest is the unlabelled stream."""
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one picture."""

    picture: int
    text: str
    answer: str


@dataclass(frozen=True)
class Vqa:
    """All pictures, and every question with its true answer."""

    pictures: NDArray[np.uint8]
    """(n, 64, 64, 3)"""
    groups: tuple[str, ...]
    """Name of each picture: its questions are not independent of one another."""
    questions: tuple[Question, ...]
    labels: tuple[str, ...]

    @functools.cached_property
    def by_picture(self) -> dict[int, list[Question]]:
        """The questions of each picture."""
        found: dict[int, list[Question]] = defaultdict(list)
        for question in self.questions:
            found[question.picture].append(question)
        return dict(found)


def load() -> Vqa:
    """The whole data set, from the installed package."""
    import easy_vqa

    pictures: list[NDArray[np.uint8]] = []
    groups: list[str] = []
    questions: list[Question] = []
    for split in ("train", "test"):
        paths = getattr(easy_vqa, f"get_{split}_image_paths")()
        first = len(groups)
        for index in range(len(paths)):
            pictures.append(np.asarray(Image.open(paths[index]).convert("RGB")))
            groups.append(f"easy-vqa/{split}/{index}")
        texts, answers, images = getattr(easy_vqa, f"get_{split}_questions")()
        questions += [
            Question(picture=first + image, text=text, answer=answer)
            for text, answer, image in zip(texts, answers, images, strict=True)
        ]
    labels = tuple(sorted(easy_vqa.get_answers()))
    return Vqa(np.stack(pictures), tuple(groups), tuple(questions), labels)


@dataclass(frozen=True, kw_only=True)
class Deal:
    """Picture numbers by what they are for: no picture stands twice."""

    large: tuple[int, ...]
    labelled: tuple[int, ...]
    stream: tuple[int, ...]
    tuning: tuple[int, ...]
    gate: tuple[int, ...]
    certification: tuple[int, ...]
    test: tuple[int, ...]


def deal(vqa: Vqa) -> Deal:
    """Deals the pictures out by a keyed hash of their names, as the cloud's store does: the same for every seed."""
    large: list[int] = []
    roles: dict[Role, list[int]] = defaultdict(list)
    for number, group in enumerate(vqa.groups):
        if fraction_of(group, key=ROLE_KEY, salt="owner") < LARGE_SHARE:
            large.append(number)
        else:
            roles[role_of(group, key=ROLE_KEY, shares=SHARES)].append(number)
    train = sorted(roles["train"], key=lambda number: fraction_of(vqa.groups[number], key=ROLE_KEY, salt="labelled"))
    return Deal(
        large=tuple(large),
        labelled=tuple(train[:LABELLED]),
        stream=tuple(train[LABELLED:]),
        tuning=tuple(roles["tuning"]),
        gate=tuple(roles["gate"]),
        certification=tuple(roles["certification"]),
        test=tuple(roles["test"]),
    )


def ask(vqa: Vqa, pictures: Iterable[int], *, each: int | None, rng: np.random.Generator) -> list[Question]:
    """Up to ``each`` questions of every picture, drawn without replacement (all of them when None)."""
    asked: list[Question] = []
    for number in pictures:
        questions = vqa.by_picture.get(number, [])
        if each is not None and len(questions) > each:
            questions = [questions[k] for k in rng.choice(len(questions), each, replace=False)]
        asked += questions
    return asked


def question_only_accuracy(known: Sequence[Question], asked: Sequence[Question]) -> float:
    """Accuracy of the commonest known answer to each question text, without looking at a picture."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in known:
        counts[question.text][question.answer] += 1
    overall = Counter(question.answer for question in known).most_common(1)[0][0]
    guess = {text: count.most_common(1)[0][0] for text, count in counts.items()}
    return float(np.mean([guess.get(question.text, overall) == question.answer for question in asked]))


def attributes(vqa: Vqa) -> NDArray[np.int64]:
    """Colour and shape of each picture (n, 2) as far as its own questions and answers give them away; −1 where they do not.

    Targets of the auxiliary heads, without which the large model sits on the question-only plateau for minutes.
    """
    found = np.full((len(vqa.groups), 2), -1, np.int64)
    for question in vqa.questions:
        words = re.findall(r"[a-z]+", question.text.lower())
        if question.answer in ("yes", "no"):
            negated = "no" in words or "not" in words
            named = words if (question.answer == "yes") != negated else []
        else:
            named = [question.answer]
        for word in named:
            if word in COLOURS:
                found[question.picture, 0] = COLOURS.index(word)
            if word in SHAPES:
                found[question.picture, 1] = SHAPES.index(word)
    return found
