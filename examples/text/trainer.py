"""Mail sorted from its first words: writes the device's data, trains a large model on the cloud's mails, and fits a small one.

Data: the SpamAssassin public mail corpus (see get_data.sh). The device shows a subject and ninety characters, in lower case, some of
them lost. Over half of the threads are the cloud owner's, who has labelled them all; of the others the device's owner has labelled
some. Usage: ``python trainer.py --data MAILS -o OUT``. This folder needs nothing of the other examples.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from outrider.bench.gate.tasks import text
from outrider_export.checkpoint import save_checkpoint
from outrider_export.data import Example, Table
from outrider_export.students import new_module, text_student
from outrider_export.training import TrainingPlan, train
from outrider_wire.roles import fraction_of
from outrider_wire.task import Task, parse_task

HERE = Path(__file__).parent
CLOUD_SHARE = 0.55
LARGE = text_student(
    "mails-large", 8192, 64, TrainingPlan(epochs=20, subjects=32, learning_rate=5e-3, weight_decay=1e-2), bigrams=True
)
"""Words, pairs of words and runs of four letters: 0.5 million parameters."""
Row = tuple[str, str, str]
"""What the device shows, label, thread."""


def deal(mails: text.Mails, seed: int) -> tuple[list[Row], list[Row]]:
    """(the cloud's, the device's) mails: a thread is one owner's, and a text that is shown twice is one row.

    The cloud's owner has them undamaged, and shows each to the large model through two poor screens.
    """
    theirs, ours = [], {}
    for number in np.random.default_rng(seed).permutation(len(mails.labels)).tolist():
        label, thread = text.LABELS[mails.labels[number]], mails.groups[number]
        if fraction_of(thread, key=f"mails-{seed}", salt="owner") < CLOUD_SHARE:
            screens = [text.damaged(mails.full[number], key=f"{number}/{screen}") for screen in range(2)]
            theirs += [(shown, label, thread) for shown in screens if shown]
        elif shown := mails.shown[number]:
            ours.setdefault(shown, (shown, label, thread))
    return theirs, list(ours.values())


def write_rows(file: Path, rows: list[Row]) -> None:
    """As `outrider distill fit` reads them; the mails of one thread share a group."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ({"parts": {"text": shown}, "label": label, "group": thread[:80]} for shown, label, thread in rows)
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def train_large(task: Task, rows: list[Row], file: Path, seed: int) -> None:
    """The weights of `LARGE`, trained on these texts."""
    examples: Iterator[Example] = (
        Example({"text": shown}, task.labels.index(label), thread) for shown, label, thread in rows
    )
    tensors = Table.from_examples(examples).tensors(LARGE.inputs(task), task.inputs)
    module = new_module(LARGE, task, seed=seed)
    train(module, tensors, LARGE.plan, seed=seed, progress=lambda what, share: print(f"large: {what} {share:.0%}"))
    save_checkpoint(file, module, "trainer:LARGE")


def main() -> None:
    """Data, large model, small model."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", type=Path, required=True, help="folder of the mails (see get_data.sh)")
    asked.add_argument("-o", "--out", type=Path, required=True)
    asked.add_argument("--rows", type=int, default=2000, help="that the device's owner has labelled")
    asked.add_argument("--seed", type=int, default=0, help="deals the threads out")
    given = asked.parse_args()
    torch.set_num_threads(1)
    task = parse_task((HERE / "task.toml").read_text(), "task.toml")
    theirs, ours = deal(text.read(given.data), given.seed)
    write_rows(given.out / "device.jsonl", ours[: given.rows])
    write_rows(given.out / "stream.jsonl", ours[given.rows :])
    train_large(task, theirs, given.out / "large.safetensors", given.seed)
    fit = ["distill", "fit", "--task", str(HERE / "task.toml"), "--data", str(given.out / "device.jsonl")]
    fit += ["--teacher", f"trainer:LARGE#{given.out / 'large.safetensors'}", "--student", "text-small"]
    here = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "outrider", *fit, "-o", str(given.out / "fit")]
    sys.exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": here}, check=False).returncode)


if __name__ == "__main__":
    main()
