"""A small world to learn in: noisy images of one colour, a large model that knows the nearest colour, a small one that was shown few.

Everything is real (bundles, weights, store); only the pictures are made up. Knows no assertion.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from factory import COLOURS, QUESTION, make_bundle, make_task
from outrider_cloud.config import CloudConfig, load_cloud_config
from outrider_cloud.learning.opening import OpenTask, opened
from outrider_cloud.store.examples import NewExample, add_all
from outrider_engine.model import Model, load_model
from outrider_export.asking import ask_rows
from outrider_export.data import Example, Table
from outrider_export.task_text import task_to_toml
from outrider_wire.acceptance import accepted
from outrider_wire.roles import DEFAULT_SHARES, Role, role_of
from outrider_wire.task import Policy, Task

KEY = "learning-world"
INPUTS = 2200
LABELLED = 90
"""Inputs of the train role that a person has labelled; the others are the stream."""
SEED = 0
TASK = "colours"


def world_task() -> Task:
    """Which of eight colours; at most 10 % wrong of what is kept, with confidence 0.9."""
    return make_task(TASK, list(COLOURS), policy=Policy(target_risk=0.1, confidence=0.9))


def picture(rng: np.random.Generator) -> tuple[bytes, int]:
    """A noisy PNG between the colours, and the number of the nearest."""
    colour = rng.integers(0, 256, 3)
    known = np.array(list(COLOURS.values()))
    pixels = np.clip(colour + rng.normal(0, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue(), int(((known - pixels.mean((0, 1))) ** 2).sum(1).argmin())


def inputs(prefix: str, n: int, seed: int) -> list[Example]:
    """Labelled inputs, each a group of its own."""
    rng = np.random.default_rng(seed)
    drawn = [picture(rng) for _ in range(n)]
    return [
        Example({"image": image, "question": QUESTION}, label, f"{prefix}-{number}")
        for number, (image, label) in enumerate(drawn)
    ]


def of_role(examples: list[Example], role: Role) -> list[Example]:
    """Those whose group has that role."""
    return [each for each in examples if role_of(each.group, key=KEY, shares=DEFAULT_SHARES) == role]


@dataclass(frozen=True, kw_only=True)
class World:
    """What a learning round finds: models, configuration, and a store that is still empty."""

    folder: Path
    task: Task
    examples: list[Example]

    @property
    def base(self) -> Path:
        """The deployed bundle."""
        return self.folder / "small"

    @property
    def labelled(self) -> list[Example]:
        """What a person has labelled: all of the judging roles, a few of the train role."""
        judging: tuple[Role, ...] = ("tuning", "gate", "certification")
        return of_role(self.examples, "train")[:LABELLED] + [
            each for role in judging for each in of_role(self.examples, role)
        ]

    @property
    def stream(self) -> list[Example]:
        """What the device sees."""
        return of_role(self.examples, "train")[LABELLED:]

    def config(self, name: str, *, large: str = "large") -> CloudConfig:
        """A cloud with a store of its own, and that large model."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        (home / "roles.key").write_text(KEY)
        (home / "cloud.toml").write_text(
            f'[roles]\nkey_file = "roles.key"\n[[tasks]]\nfile = "../task.toml"\nlarge = "onnx:../{large}"\n'
            'strategy = "shunt"\n'
        )
        return load_cloud_config(home / "cloud.toml")


def make_world(folder: Path) -> World:
    """Trains the small model and writes all files."""
    from outrider_export.build import build_bundle
    from outrider_export.students import find_architecture, new_module
    from outrider_export.training import train

    task = world_task()
    (folder / "task.toml").write_text(task_to_toml(task))
    make_bundle(folder / "large", task, certified=False, version="large")
    make_bundle(folder / "sees-red", task, certified=False, version="sees-red", bias=[8.0] + [0.0] * 7)
    world = World(folder=folder, task=task, examples=inputs("world", INPUTS, SEED))
    architecture = find_architecture("image-text-small")
    labelled = Table.from_examples(of_role(world.examples, "train")[:LABELLED])
    module = new_module(architecture, task, seed=SEED)
    plan = replace(architecture.plan, epochs=12)
    train(module, labelled.tensors(architecture.inputs(task)), plan, seed=SEED)
    build_bundle(
        task=task,
        model=module,
        architecture=architecture,
        tuning=Table.from_examples(of_role(world.examples, "tuning")),
        certification=Table.from_examples(of_role(inputs("before", 1200, SEED + 1), "certification")),
        support=labelled,
        out=world.base,
        version="1",
        precisions=("int8",),
    )
    return world


def fill(work: OpenTask, world: World, *, certification: int | None = None) -> None:
    """Imports what is labelled, and escalates what the deployed model refuses of the stream to the task's large model.

    ``certification``: at most so many rows of that role.
    """
    last = of_role(world.labelled, "certification")[certification:] if certification is not None else []
    left_out = {each.group for each in last}
    rows = [each for each in world.labelled if each.group not in left_out]
    work.library.add(Table.from_examples(rows), key=KEY, shares=DEFAULT_SHARES, now_ms=1)
    escalate(work, world, load_model(Path(work.settings.large.removeprefix("onnx:"))))


def escalate(work: OpenTask, world: World, large: Model, stream: Sequence[Example] | None = None) -> None:
    """Puts the refused inputs of the stream (by default the world's) into the store, with what ``large`` says of them."""
    stream = world.stream if stream is None else stream
    table = Table.from_examples(stream)
    deployed = load_model(world.base)
    refused = ~accepted(deployed.manifest.acceptance, ask_rows(deployed, table).signals)
    said = ask_rows(large, table).probabilities
    new = [
        NewExample(
            task=TASK,
            group=example.group,
            role="train",
            source="escalation",
            device="device",
            input=example.group,
            why="low_confidence",
            small_model=deployed.digest,
            created_ms=2,
            teacher_probabilities=said[row].tolist(),
            teacher_model=f"{large.manifest.version}@{large.digest[:12]}",
            **_parts(example),
        )
        for row, example in enumerate(stream)
        if refused[row]
    ]
    work.library.store.submit(partial(add_all, new=new)).result()


@contextmanager
def open_world(world: World, name: str, *, large: str = "large") -> Iterator[OpenTask]:
    """The world's task, opened on the store of that name."""
    with opened(world.config(name, large=large), TASK) as work:
        yield work


def _parts(example: Example) -> dict[str, Any]:
    data = {name: value.encode() if isinstance(value, str) else value for name, value in example.parts.items()}
    digests = {name: hashlib.sha256(value).hexdigest() for name, value in data.items()}
    return {"parts": digests, "payloads": {digests[name]: value for name, value in data.items()}}
