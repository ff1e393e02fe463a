"""Answers to sub-tasks on the device: they travel with what is sent, and with nothing else."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from edge_agents import write_config
from edge_cloud import FakeCloud
from mosquitto import AnyBroker

from factory import make_bundle, make_task, parts_of, sure, unsure
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_edge.journey.subtasks import load_subtasks
from outrider_engine.model import load_model
from outrider_export.task_text import task_to_toml
from outrider_wire.errors import BundleMismatchError, OperatorConfigError
from outrider_wire.messages import Escalation, Fact, Message
from outrider_wire.task import Subtask, Task, parse_task

COLD = Subtask(name="cold", labels=["warm", "cold"])
TASK = make_task(subtasks=[COLD, Subtask(name="size", labels=["small", "large"])])


def cold_bundle(folder: Path, labels: list[str] | None = None) -> Path:
    """A model of its own: red is warm, green is cold."""
    names = labels or COLD.labels
    return make_bundle(folder, make_task("coldness", names), certified=False)


@pytest.fixture
async def cloud(broker: AnyBroker) -> AsyncIterator[FakeCloud]:
    async with FakeCloud(broker.url) as cloud:
        yield cloud


@pytest.fixture
def config(cloud: FakeCloud, tmp_path: Path) -> Iterator[Path]:
    path = write_config(tmp_path, extra=f'[broker]\nurl = "{cloud.session.url}"\n', answer_within_ms=10_000)
    task_file = tmp_path / "task.toml"
    task = parse_task(task_file.read_text())
    task_file.write_text(task_to_toml(msgspec.structs.replace(task, subtasks=TASK.subtasks)))
    cold_bundle(tmp_path / "cold")
    yield path


def listened(cloud: FakeCloud) -> dict[str, Escalation]:
    """What comes to the cloud from now on, by id; it answers as ever."""
    sent: dict[str, Escalation] = {}

    async def reply(escalation: Escalation) -> list[Message]:
        sent[escalation.id] = escalation
        return await cloud.answer(escalation)

    cloud.reply = reply
    return sent


def answering(path: Path, subtasks: str) -> Path:
    """The same configuration, whose task names models for its sub-tasks."""
    path.write_text(path.read_text().replace("[[tasks]]\n", f"[[tasks]]\nsubtasks = {subtasks}\n"))
    return path


@pytest.mark.broker
async def test_what_is_sent_carries_the_facts_that_this_device_can_answer(config: Path, cloud: FakeCloud) -> None:
    sent = listened(cloud)
    async with serving(load_edge_config(answering(config, '{ cold = "cold" }'))) as served:
        report = await served.agent.submit("colours", parts_of(unsure(shade=3)))
        assert report.state == "cloud"
        assert (await served.agent.submit("colours", parts_of(sure(0)))).state == "edge"
    [fact] = sent[report.id].known
    assert (fact.name, fact.label in COLD.labels, 0.4 <= fact.confidence <= 0.6) == ("cold", True, True)


@pytest.mark.broker
async def test_a_device_without_such_models_sends_no_facts(config: Path, cloud: FakeCloud) -> None:
    sent = listened(cloud)
    async with serving(load_edge_config(config)) as served:
        report = await served.agent.submit("colours", parts_of(unsure()))
    assert sent[report.id].facts is msgspec.UNSET


async def test_a_sub_task_is_answered_from_the_parts_of_the_input(tmp_path: Path) -> None:
    models = load_subtasks(
        {"cold": str(cold_bundle(tmp_path / "b"))}, TASK, lambda b: load_model(b, bounds=TASK.inputs)
    )
    warm, cold = [await models.facts(parts_of(sure(label))) for label in (0, 1)]
    nothing = await models.facts(parts_of(b"no picture"))
    models.close()
    assert [(fact.name, fact.label) for fact in (*warm, *cold)] == [("cold", "warm"), ("cold", "cold")]
    assert all(isinstance(fact, Fact) and fact.confidence > 0.99 for fact in (*warm, *cold))
    assert nothing == [], "what its model cannot read is left out"


@pytest.mark.parametrize(
    ("name", "labels", "task", "error"),
    [
        ("colour", None, TASK, OperatorConfigError),
        ("cold", None, make_task(), OperatorConfigError),
        ("cold", ["cold", "warm"], TASK, BundleMismatchError),
    ],
)
def test_a_model_that_answers_no_sub_task_is_refused_before_it_serves(
    tmp_path: Path, name: str, labels: list[str] | None, task: Task, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        load_subtasks({name: str(cold_bundle(tmp_path / "b", labels))}, task, load_model)
    assert getattr(caught.value, "fix", "")
