"""Labelled data that a tiny checkpoint can learn in seconds, and that checkpoint trained on it: pictures, sounds, texts."""

from pathlib import Path

import numpy as np
import tiny_checkpoints
import torch
from torch.nn import functional
from waves import tone, wav

import factory
from outrider_export.data import Tensors
from outrider_export.huggingface.images import image_inputs
from outrider_export.sources import from_folder
from outrider_wire.task import Task

COLOURS = ("blue", "green", "red")
PITCHES = {"high": 2400.0, "low": 300.0, "middle": 900.0}
TOPICS = {
    "politics": "votes politics language confidence known",
    "space": "space flight atoms model small",
    "sport": "sport goal minute last labels",
}
FILLER = "a in the what is this about with one of these and that it"


def colours(folder: Path, n: int, *, seed: int = 0) -> Path:
    """Noisy squares of a colour, one sub-folder each."""
    draw = np.random.default_rng(seed)
    for number in range(n):
        label = COLOURS[number % 3]
        colour = np.clip(np.array(factory.COLOURS[label]) + draw.integers(-70, 71, 3), 0, 255)
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.png").write_bytes(factory.png(tuple(map(int, colour)), size=16))
    return folder


def pitches(folder: Path, n: int, *, seed: int = 0) -> Path:
    """Tones in noise, one sub-folder a pitch."""
    draw = np.random.default_rng(seed)
    for number in range(n):
        label = sorted(PITCHES)[number % 3]
        hertz = PITCHES[label] * float(draw.uniform(0.85, 1.15))
        (folder / label).mkdir(parents=True, exist_ok=True)
        sound = tone(hertz, seconds=float(draw.uniform(0.3, 0.6)), noise=0.1, seed=number)
        (folder / label / f"{number}.wav").write_bytes(wav(sound))
    return folder


def topics(folder: Path, n: int, *, seed: int = 0) -> Path:
    """Sentences with two words of their topic, one sub-folder each."""
    draw = np.random.default_rng(seed)
    for number in range(n):
        label = sorted(TOPICS)[number % 3]
        words = [*draw.choice(FILLER.split(), 5), *draw.choice(TOPICS[label].split(), 2)]
        draw.shuffle(words)
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.txt").write_text(f"{' '.join(words)} {number % 10}")
    return folder


def taught(module: torch.nn.Module, tensors: Tensors, *, steps: int = 150, rate: float = 5e-3) -> torch.nn.Module:
    """The module after some steps on prepared rows; its labels are the rows'."""
    optimiser = torch.optim.AdamW(module.parameters(), rate)
    choice = np.random.default_rng(0)
    answers = torch.from_numpy(tensors.labels)
    module.train()
    for _ in range(steps):
        rows = choice.choice(len(tensors), 32)
        feeds = {name: torch.from_numpy(values) for name, values in tensors.batch(rows).items()}
        loss = functional.cross_entropy(module(**feeds).logits, answers[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return module.eval()


def picture_teacher(folder: Path, data: Path, task: Task) -> Path:
    """A tiny ViT that has learnt the colours of ``data``; its labels stand in another order than the task's."""
    import transformers

    order = list(reversed(task.labels))
    tiny_checkpoints.image_classifier(folder, order)
    module = transformers.ViTForImageClassification.from_pretrained(folder)
    processor = transformers.ViTImageProcessor.from_pretrained(folder)
    settings = {**processor.to_dict(), "image_processor_type": "ViTImageProcessor"}
    rows = from_folder(data, task).tensors(image_inputs(settings, part="image", tensor="pixel_values"))
    flipped = Tensors(values=rows.values, index=rows.index, labels=len(order) - 1 - rows.labels, groups=rows.groups)
    taught(module, flipped).save_pretrained(folder)
    return folder
