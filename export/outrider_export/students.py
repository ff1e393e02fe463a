"""The table of students that ship by name, and the way to one's own. Knows what each reads; trains nothing."""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from outrider_export.augment import Capture, Jitter
from outrider_export.networks import ImageNet, ImageTextNet, Shape
from outrider_export.sound_network import SoundNet, SoundShape
from outrider_export.text_network import TextNet
from outrider_export.training import TrainingPlan
from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.messages import Modality
from outrider_wire.task import InputPart, Task

TOKENIZER_FILE = "tokenizer.json"
_SILENCE = 1e-6
"""Energy of a mel band below which nothing is told apart."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model by name: what it reads of a task, how it is made, how it is trained."""

    inputs: Callable[[Task], list[ModelInput]]
    build: Callable[[Task], nn.Module]
    plan: TrainingPlan
    name: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What its steps need beside the weights, by name: a `TOKENIZER_FILE`. Part of every bundle."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Where it comes from, for the bundle's provenance."""
    watched: bool = False
    """It comes as ONNX, and gets a support distance on what that shows (`outrider_export.onnx_support`)."""


def image_input(part: InputPart, height: int, width: int, *, tensor: str = "") -> ModelInput:
    """An image as (3, height, width) in 0..1; the tensor is named after the part unless it has a name of its own."""
    steps = [
        Step(op="decode_image", args={"mode": "RGB"}),
        Step(op="resize", args={"height": height, "width": width, "method": "area"}),
        Step(op="scale", args={"by": 1 / 255}),
        Step(op="channels_first"),
    ]
    return ModelInput(part=part.name, tensor=tensor or part.name, steps=steps, shape=[3, height, width])


def text_input(part: InputPart, buckets: int, *, bigrams: bool, letters: int = 0, tensor: str = "") -> ModelInput:
    """A text as counts of hashed words (buckets,), and of runs of ``letters``."""
    runs = {"letters": letters} if letters else {}
    steps = [Step(op="hashed_words", args={"buckets": buckets, "bigrams": bigrams, **runs})]
    return ModelInput(part=part.name, tensor=tensor or part.name, steps=steps, shape=[buckets])


def sound_input(part: InputPart, shape: SoundShape, *, tensor: str = "") -> ModelInput:
    """A sound as one plane of log-mel frames (1, frames, mels), near 0 ± 1; what is longer is cut, silence fills up what is shorter."""
    log_mel = {
        "mels": shape.mels,
        "window": 400,
        "hop": shape.hop,
        "transform": 512,
        "low_hz": 20.0,
        "high_hz": 8000.0,
        "floor": _SILENCE,
        "centred": True,
    }
    steps = [
        Step(op="decode_audio"),
        Step(op="resample", args={"rate": 16_000}),
        Step(op="log_mel", args=log_mel),
        Step(op="fit", args={"length": shape.frames, "value": math.log(_SILENCE)}),
        Step(op="normalize", args={"mean": [-10.0], "std": [4.0]}),
        Step(op="one_plane"),
    ]
    return ModelInput(part=part.name, tensor=tensor or part.name, steps=steps, shape=[1, shape.frames, shape.mels])


def only_part(task: Task, modality: Modality) -> InputPart:
    """The one part of a task of one part of that modality.

    Raises:
        OperatorConfigError: the task has other parts.
    """
    if [part.modality for part in task.inputs] != [modality]:
        raise OperatorConfigError(
            f"this student reads one part of {modality}, and task {task.name} has "
            f"{', '.join(part.modality for part in task.inputs)}",
            reason="wrong_parts",
            fix=f"choose another of {', '.join(ARCHITECTURES)}, or name your own as module:attribute",
        )
    return task.inputs[0]


def inputs_for(task: Task, shape: Shape) -> list[ModelInput]:
    """What a student of that shape reads: the task's image, and its text when the student has words.

    Raises:
        OperatorConfigError: the task has other parts.
    """
    wanted = ["image", "text"] if shape.words else ["image"]
    if sorted(part.modality for part in task.inputs) != wanted:
        raise OperatorConfigError(
            f"this student reads one part each of {' and '.join(wanted)}, and task {task.name} has "
            f"{', '.join(part.modality for part in task.inputs)}",
            reason="wrong_parts",
            fix=f"choose another of {', '.join(ARCHITECTURES)}, or name your own as module:attribute",
        )
    by_modality = {part.modality: part for part in task.inputs}
    inputs = [image_input(by_modality["image"], shape.image, shape.image)]
    if shape.words:
        inputs.append(text_input(by_modality["text"], shape.words, bigrams=shape.bigrams))
    return inputs


def student(name: str, shape: Shape, plan: TrainingPlan) -> Architecture:
    """An architecture of one of the shipped networks at these sizes."""
    network = ImageTextNet if shape.words else ImageNet
    return Architecture(
        name=name,
        inputs=lambda task: inputs_for(task, shape),
        build=lambda task: network(shape, len(task.labels)),
        plan=plan,
    )


def sound_student(name: str, shape: SoundShape, plan: TrainingPlan) -> Architecture:
    """The shipped network of sounds at these sizes."""
    return Architecture(
        name=name,
        inputs=lambda task: [sound_input(only_part(task, "audio"), shape)],
        build=lambda task: SoundNet(shape, len(task.labels)),
        plan=plan,
    )


def text_student(name: str, buckets: int, width: int, plan: TrainingPlan, *, bigrams: bool) -> Architecture:
    """The shipped network of texts at these sizes."""
    return Architecture(
        name=name,
        inputs=lambda task: [text_input(only_part(task, "text"), buckets, bigrams=bigrams, letters=4)],
        build=lambda task: TextNet(buckets, width, len(task.labels)),
        plan=plan,
    )


SMALL = Shape(image=32, channels=(16, 24, 32), strides=(2, 2, 2), width=48)
LARGE = Shape(image=64, channels=(24, 32, 48, 64), strides=(2, 2, 2, 1), width=192, head=192)
SMALL_PLAN = TrainingPlan(
    epochs=240, subjects=32, learning_rate=4e-3, weight_decay=1e-2, jitter=Jitter(translate=3, gain=0.1, noise=0.03)
)
LARGE_PLAN = TrainingPlan(
    epochs=24,
    subjects=64,
    rows_per_subject=8,
    learning_rate=3e-3,
    weight_decay=1e-3,
    capture=Capture(),
    jitter=Jitter(translate=6),
)
SMALL_SOUND = SoundShape(frames=96, hop=320, mels=40, channels=(16, 24, 32), width=48, head=32)
LARGE_SOUND = SoundShape(frames=96, hop=320, mels=64, channels=(24, 32, 48, 64), width=128, head=96)
SOUND_PLAN = TrainingPlan(epochs=60, subjects=32, learning_rate=4e-3, weight_decay=1e-2, jitter=Jitter(translate=3))
TEXT_PLAN = TrainingPlan(epochs=40, subjects=32, learning_rate=5e-3, weight_decay=1e-2)
ARCHITECTURES = {
    each.name: each
    for each in (
        student("image-small", SMALL, SMALL_PLAN),
        student("image-large", LARGE, LARGE_PLAN),
        student("image-text-small", replace(SMALL, words=96), SMALL_PLAN),
        student("image-text-large", replace(LARGE, words=512, bigrams=True, word_layers=2), LARGE_PLAN),
        sound_student("audio-small", SMALL_SOUND, SOUND_PLAN),
        sound_student("audio-large", LARGE_SOUND, SOUND_PLAN),
        text_student("text-small", 4096, 12, TEXT_PLAN, bigrams=False),
        text_student("text-large", 16_384, 64, TEXT_PLAN, bigrams=True),
    )
}
"""Name → architecture."""


def find_architecture(name: str) -> Architecture:
    """An architecture of the table, or one's own as ``module:attribute``.

    The attribute is an `Architecture`, or a class or function that makes a module from a `Task` (it then reads what the
    shipped students read, and is trained as `image-large` is).

    Raises:
        OperatorConfigError: no such name, module or attribute, or it is neither of these.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise OperatorConfigError(
            f"there is no student {name!r}",
            reason="unknown_student",
            fix=f"choose {', '.join(ARCHITECTURES)}, or name your own as module:attribute",
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OperatorConfigError(
            f"student {name!r} cannot be imported: {error}",
            reason="unknown_student",
            fix="put its folder on PYTHONPATH and name it as module:attribute",
        ) from error
    if isinstance(found, Architecture):
        return replace(found, name=name)
    if not callable(found):
        raise OperatorConfigError(
            f"{name} is a {type(found).__name__}",
            reason="unknown_student",
            fix="name an Architecture, or a class or function that makes a torch module from a Task",
        )
    return Architecture(name=name, inputs=default_inputs, build=found, plan=LARGE_PLAN)


def default_inputs(task: Task) -> list[ModelInput]:
    """What an own module reads unless it says otherwise: images as 64 × 64, texts as 512 hashed words, in the task's order.

    Raises:
        OperatorConfigError: the task has a part of another modality.
    """
    makers: dict[str, Callable[[InputPart], ModelInput]] = {
        "image": lambda part: image_input(part, LARGE.image, LARGE.image),
        "text": lambda part: text_input(part, 512, bigrams=True),
    }
    strange = sorted({part.modality for part in task.inputs} - makers.keys())
    if strange:
        raise OperatorConfigError(
            f"there are no default steps for {strange[0]} parts",
            reason="wrong_parts",
            fix="name an Architecture whose inputs(task) says how each part becomes a tensor",
        )
    return [makers[part.modality](part) for part in task.inputs]


def new_module(architecture: Architecture, task: Task, *, seed: int) -> nn.Module:
    """An untrained module; the same seed gives the same weights, and the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture.build(task)
