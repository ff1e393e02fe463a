"""The models of the demo and of the gate's benchmark, as `outrider.bench.export` exports them. Measures nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outrider.bench.export_models import TEST_ROWS, Exportable, one_input, tensors
from outrider.bench.gate.networks import WordNet
from outrider.bench.gate.tasks.pair import Captures, Pair
from outrider.progress import Tell
from outrider_export.data import Tensors
from outrider_export.to_onnx import OPSET, canonical
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.roles import Role

Rows = Mapping[Role, NDArray[np.int64]]
_CALIBRATION_ROWS = 512
_TOKENS = 48
_TEXT_TUNING, _TEXT_TEST = 400, 600
"""A sentence encoder takes milliseconds a row and variant."""


def easy_vqa(seed: int, data: Path | None, folder: Path, tell: Tell) -> list[Exportable]:
    """The demo's two models, trained as the demo does or kept from it, and questions through its camera."""
    from outrider.demo.models import make_models
    from outrider.demo.world import QUESTIONS_PLAYED, make_world
    from outrider_export.checkpoint import checkpoint_path, load_checkpoint

    del data
    world = make_world(seed, tell)
    models = make_models(world, folder.parent / "demo" / "models", tell, threads=1)
    tuning = world.table(world.questions(world.deal.tuning, 4))
    test = world.table(world.questions(world.deal.test, QUESTIONS_PLAYED)[:TEST_ROWS])
    seen = world.table(world.questions(world.deal.labelled))
    found = []
    for name, bundle, support in (("small", models.small, seen), ("large", models.large, tuning)):
        module, architecture = load_checkpoint(checkpoint_path(bundle), world.task)
        inputs, bounds = architecture.inputs(world.task), world.task.inputs
        prepared = tuning.tensors(inputs, bounds)
        found.append(
            Exportable(
                name=f"easy-vqa-{name}",
                model=module,
                inputs=inputs,
                tuning=prepared,
                calibration=_first_of_groups(prepared),
                support=support.one_per_group("bench-export").tensors(inputs, bounds),
                test=test.tensors(inputs, bounds),
                risk=world.task.policy.target_risk,
                strata=test.strata(world.task.strata),
            )
        )
    return found


def mnist1d(seed: int, data: Path | None, folder: Path, tell: Tell) -> list[Exportable]:
    """Signals of forty samples through a sensor."""
    from outrider.bench.gate.tasks.mnist1d import TASK, made

    del data, folder
    pair, captures, roles, _ = made(seed, tell)
    return _pair("mnist1d", pair, captures, roles, TASK.risk)


def fashion(seed: int, data: Path | None, folder: Path, tell: Tell) -> list[Exportable]:
    """Garments through a turned and dim camera."""
    from outrider.bench.gate.tasks.fashion import TASKS, WIDE, Measuring

    del folder
    pair, captures, roles, _ = Measuring(task="fashion", cloud=WIDE).made(seed, data, tell)
    return _pair("fashion", pair, captures, roles, TASKS["fashion"].risk)


def text(seed: int, data: Path | None, folder: Path, tell: Tell) -> list[Exportable]:
    """Mail from its first words: a hashed n-gram net, and a sentence encoder (22.7 M parameters) with its head."""
    from outrider.bench.gate.tasks.base import need_data
    from outrider.bench.gate.tasks.text import TASK, encoder, made

    asked, roles = made(seed, need_data(TASK, data), folder, tell)
    own = [asked.mails.groups[number] for number in asked.mine.tolist()]
    labels = asked.mails.labels[asked.mine]
    small = _exportable("text-small", asked.small, asked.counts.numpy(), labels, own, roles, TASK.risk)
    tokenizer, module = encoder()
    draw = np.random.default_rng(seed)  # the corpus is ordered by label
    few: Rows = {
        "tuning": draw.permutation(roles["tuning"])[:_TEXT_TUNING],
        "test": draw.permutation(roles["test"])[:_TEXT_TEST],
    }
    rows = np.concatenate([few["tuning"], few["test"]])
    shown = [asked.mails.shown[asked.mine[row]] for row in rows.tolist()]
    tokens = tokenizer(shown, padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="np")
    values = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    places: Rows = {"tuning": np.arange(len(few["tuning"])), "test": np.arange(len(few["tuning"]), len(rows))}
    groups = [own[row] for row in rows.tolist()]
    every = tensors(values, labels[rows], groups)
    tuning = every.take(places["tuning"])
    large = Exportable(
        name="text-large",
        model=_encoder_onnx(module, asked.large, tell),
        inputs=[
            ModelInput(part="mail", tensor=name, steps=[Step(op="hashed_words")], shape=[_TOKENS]) for name in values
        ],
        tuning=tuning,
        calibration=tuning.take(np.arange(min(len(tuning), 128))),
        support=tuning,
        test=every.take(places["test"]),
        risk=TASK.risk,
    )
    return [small, large]


class _Mails(nn.Module):
    """Tokens (n, t) → logits: mean of the last hidden states, normalised, and the head."""

    def __init__(self, encoder: nn.Module, head: WordNet) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask[..., None].float()
        mean = (states * weight).sum(1) / weight.sum(1)
        logits: Tensor = self.head(nn.functional.normalize(mean))
        return logits


def _encoder_onnx(encoder: Any, head: WordNet, tell: Tell) -> bytes:
    """ONNX of fixed length and any batch: a module that reads whole numbers is no student's, and comes as one's own file does."""
    tell("exporting the sentence encoder", 0.0)
    batch = torch.export.Dim("batch")
    ids, mask = torch.arange(2 * _TOKENS).view(2, _TOKENS), torch.ones(2, _TOKENS, dtype=torch.int64)
    mask[1, _TOKENS // 2 :] = 0
    program = torch.onnx.export(
        _Mails(encoder, head).eval(),
        (ids, mask),
        dynamo=True,
        opset_version=OPSET,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": {0: batch}, "attention_mask": {0: batch}},
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch exported nothing")
    return canonical(program.model_proto)


def _pair(name: str, pair: Pair, captures: Captures, roles: Rows, risk: float) -> list[Exportable]:
    values = captures.inputs.numpy()
    return [
        _exportable(f"{name}-{size}", module, values, captures.labels, captures.groups, roles, risk)
        for size, module in (("small", pair.small), ("large", pair.large))
    ]


def _exportable(  # noqa: PLR0917 -- one call a model
    name: str,
    module: nn.Module,
    values: NDArray[Any],
    labels: NDArray[np.int64],
    groups: Any,
    roles: Rows,
    risk: float,
) -> Exportable:
    every = tensors({"input": values}, labels, groups)
    tuning = every.take(roles["tuning"])
    return Exportable(
        name=name,
        model=module,
        inputs=one_input(values),
        tuning=tuning,
        calibration=_first_of_groups(tuning),
        support=tuning,
        test=every.take(np.random.default_rng(0).permutation(roles["test"])[:TEST_ROWS]),
        risk=risk,
    )


def _first_of_groups(rows: Tensors) -> Tensors:
    _, first = np.unique(np.asarray(rows.groups), return_index=True)
    return rows.take(np.sort(first)[:_CALIBRATION_ROWS])
