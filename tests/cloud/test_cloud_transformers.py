"""Large models in process: a classifier's head, and a language model that scores labels instead of writing them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from large_server import TASK
from tiny_checkpoints import causal_model, image_classifier, text_classifier
from transformers import AutoModelForCausalLM, AutoTokenizer, BertForSequenceClassification

from factory import sure
from outrider_cloud.config import AskingSettings, TaskSettings
from outrider_cloud.large.base import LargeModel, LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.large.in_process import digest_of
from outrider_cloud.large.prompts import label_prompt, without_input
from outrider_cloud.large.table import load_large
from outrider_wire.errors import BundleUnsafeError, OperatorConfigError
from outrider_wire.task import AnswerSpace, InputPart, Prompt, Task

LONGER = Task(
    name="topics",
    inputs=TASK.inputs,
    answer=AnswerSpace(labels=["sport", "space flight", "a science"]),
    prompt=Prompt(text="what is this text about"),
)
PICTURES = Task(name="pictures", inputs=[InputPart(name="image", modality="image")], answer=TASK.answer)


def request(text: str = "a goal in the last minute", task: Task = LONGER, **fields: Any) -> LargeRequest:
    return LargeRequest(parts={"text": text.encode()}, labels=task.labels, small=[0.5, 0.3, 0.2], **fields)


def load(folder: Path, task: Task, **asking: Any) -> LargeModel:
    return load_large(TaskSettings(file="", large=f"transformers:{folder}", asking=AskingSettings(**asking)), task)


async def replies(large: LargeModel, batch: Sequence[LargeRequest]) -> list[LargeReply]:
    try:
        said = await large.answer(batch)
    finally:
        await large.close()
    assert all(isinstance(each, LargeReply) for each in said), said
    return [each for each in said if isinstance(each, LargeReply)]


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal_model(tmp_path_factory.mktemp("causal"))


def naive(folder: Path, task: Task, asked: LargeRequest) -> np.ndarray:
    """(labels,) log-likelihood of each label, by one plain forward pass over prompt and label."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer(label_prompt(task, asked).text + "\nAnswer:")["input_ids"]
    scores = []
    for label in task.labels:
        ids = tokenizer(f" {label}", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            told = torch.log_softmax(model(torch.tensor([prompt + ids])).logits[0].double(), -1)
        scores.append(sum(float(told[len(prompt) + place - 1, token]) for place, token in enumerate(ids)))
    return np.asarray(scores)


def normalised(scores: np.ndarray) -> list[float]:
    powers = np.exp(scores - scores.max())
    return list(powers / powers.sum())


async def test_labels_of_several_tokens_are_scored_as_a_plain_pass_over_each_would(causal: Path) -> None:
    [reply] = await replies(load(causal, LONGER, prior="none"), [request()])
    assert reply.probabilities == pytest.approx(normalised(naive(causal, LONGER, request())), abs=1e-5)


async def test_the_prior_is_what_the_model_says_of_no_input(causal: Path) -> None:
    [reply] = await replies(load(causal, LONGER), [request()])
    nothing = without_input(LONGER, request())
    expected = normalised(naive(causal, LONGER, request()) - naive(causal, LONGER, nothing))
    assert reply.probabilities == pytest.approx(expected, abs=1e-5)
    assert reply.probabilities != pytest.approx(normalised(naive(causal, LONGER, request())), abs=1e-3)


async def test_with_enough_inputs_seen_the_prior_is_their_mean(causal: Path) -> None:
    texts = ["goal", "atoms", "votes", "space", "flight", "last minute", "a goal", "the votes"] * 2
    batch = [request(text) for text in texts]
    said = await replies(load(causal, LONGER, prior="batch-mean"), batch)
    scores = np.stack([naive(causal, LONGER, each) for each in batch])
    wanted = [normalised(row) for row in scores - scores.mean(axis=0)]
    assert np.asarray([each.probabilities for each in said]) == pytest.approx(np.asarray(wanted), abs=1e-5)


async def test_candidates_alone_are_scored_and_paid_for(causal: Path) -> None:
    large = load(causal, LONGER, price_in=3.0, prior="none")
    few, all_ = await replies(large, [request(candidates=[0, 2]), request()])
    assert few.probabilities[1] == 0.0 and sum(few.probabilities) == pytest.approx(1.0)
    assert (few.cost.scores, all_.cost.scores) == (2, 3)
    assert few.cost.tokens < all_.cost.tokens
    assert few.cost.money == pytest.approx(few.cost.tokens * 3e-6)


async def test_the_tokens_of_the_prior_are_paid_once(causal: Path) -> None:
    first, second = await replies(load(causal, LONGER), [request(), request()])
    assert first.cost.tokens > second.cost.tokens and first.probabilities == second.probabilities


async def test_one_input_that_is_too_long_or_no_text_does_not_touch_the_others(causal: Path) -> None:
    large = load(causal, LONGER)
    bad = LargeRequest(parts={"text": b"\xff"}, labels=LONGER.labels, small=[1.0, 0.0, 0.0])
    said = await large.answer([request(), request("goal " * 200), bad, request()])
    await large.close()
    assert [getattr(each, "reason", "") for each in said] == ["", "prompt_too_long", "not_utf8", ""]


async def test_a_model_with_a_chat_template_is_asked_through_it(causal: Path, tmp_path: Path) -> None:
    folder = causal_model(tmp_path / "chat")
    template = "{% for m in messages %}[CLS] {{ m['content'] }} [SEP]{% endfor %}{% if add_generation_prompt %} answer :{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    [plain], [chat] = [await replies(load(each, LONGER, prior="none"), [request()]) for each in (causal, folder)]
    assert chat.probabilities != pytest.approx(plain.probabilities, abs=1e-4)


def test_labels_that_the_tokenizer_cannot_tell_apart_are_refused(causal: Path) -> None:
    strange = Task(name="t", inputs=TASK.inputs, answer=AnswerSpace(labels=["sport", "zebra"]))
    with pytest.raises(OperatorConfigError, match="zebra") as caught:
        load(causal, strange)
    assert caught.value.reason == "label_not_written"


def test_a_language_model_does_not_read_pictures(causal: Path) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        load(causal, PICTURES)
    assert caught.value.reason == "modality_not_read"


async def test_a_text_classifiers_labels_are_put_in_the_tasks_order(tmp_path: Path) -> None:
    folder = text_classifier(tmp_path, ["politics", "sport", "science"])
    model, tokenizer = (
        BertForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    texts = ["a goal in the last minute", "atoms", "votes " * 300]
    wanted = []
    for text in texts:
        with torch.inference_mode():
            ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
            wanted.append(torch.softmax(model(**ids).logits[0], -1)[[1, 2, 0]].tolist())
    said = await replies(load(folder, TASK), [request(text, TASK) for text in texts])
    assert np.asarray([each.probabilities for each in said]) == pytest.approx(np.asarray(wanted), abs=1e-5)
    assert [each.cost.tokens for each in said] == [6, 1, 64]


async def test_an_image_classifier_reads_a_picture_and_refuses_what_is_none(tmp_path: Path) -> None:
    large = load(image_classifier(tmp_path, TASK.labels), PICTURES)
    batch = [
        LargeRequest(parts={"image": data}, labels=TASK.labels, small=[1.0, 0.0, 0.0])
        for data in (sure(0), b"no picture", sure(1))
    ]
    red, none, green = await large.answer(batch)
    await large.close()
    assert isinstance(red, LargeReply) and isinstance(green, LargeReply)
    assert red.probabilities != pytest.approx(green.probabilities, abs=1e-3)
    assert isinstance(none, LargeRefusal) and none.reason == "not_an_image"


async def test_the_name_is_a_digest_of_what_was_loaded(tmp_path: Path) -> None:
    names = set()
    for seed in (0, 1):
        large = load(text_classifier(tmp_path / "model", TASK.labels, seed=seed), TASK)
        names.add(large.name)
        await large.close()
    for template in ("{{ messages }}", "{{ messages }}."):  # a chat template says what is asked
        (tmp_path / "model/chat_template.jinja").write_text(template)
        names.add(f"model@{digest_of(tmp_path / 'model')}")
    assert len(names) == 4 and all(name.startswith("model@") for name in names)


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    folder = text_classifier(tmp_path, TASK.labels)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BundleUnsafeError, match="safe_serialization=True") as caught:
        load(folder, TASK)
    assert caught.value.reason == "pickled_weights"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: (f / "config.json").unlink(), "no_large_model"),
        (lambda f: (f / "config.json").write_text("{"), "unreadable_file"),
        (lambda f: (f / "config.json").write_text('{"architectures": ["BertModel"]}'), "unknown_head"),
        (lambda f: (f / "model.safetensors").unlink(), "no_weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 64), "checkpoint_refused"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "checkpoint_refused"),
    ],
)
def test_a_folder_that_cannot_be_used_is_explained(tmp_path: Path, spoil: Any, reason: str) -> None:
    folder = text_classifier(tmp_path, TASK.labels)
    spoil(folder)
    with pytest.raises(OperatorConfigError) as caught:
        load(folder, TASK)
    assert caught.value.reason == reason and caught.value.fix


def test_a_classifier_of_another_task_is_refused(tmp_path: Path) -> None:
    folder = text_classifier(tmp_path, TASK.labels)
    for task, reason in ((LONGER, "labels_mismatch"), (PICTURES, "modality_not_read")):
        with pytest.raises(OperatorConfigError) as caught:
            load(folder, task)
        assert caught.value.reason == reason
