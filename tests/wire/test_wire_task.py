"""What a valid task is, and what is said of an invalid one."""

import pytest

from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import Budget, Memory, Task, parse_task

GOOD = """
name = "easy-vqa"

[[inputs]]
name = "image"
modality = "image"

[[inputs]]
name = "question"
modality = "text"
max_bytes = 1000

[answer]
labels = ["yes", "no"]

[policy]
target_risk = 0.02
confidence = 0.9
"""


def test_a_task_is_read_from_toml_with_its_defaults() -> None:
    task = parse_task(GOOD)
    assert (task.labels, task.policy.target_risk, task.delta) == (["yes", "no"], 0.02, 0.1)
    assert (task.policy.mode, task.privacy.escalate, task.policy.durability) == ("live", True, "disk")


def test_a_budget_and_a_memory_are_off_unless_they_are_asked_for() -> None:
    task = parse_task(GOOD)
    assert (task.budget, task.memory) == (Budget(), Memory())
    assert (task.budget.escalations_per_day, task.budget.when_spent, task.memory.enabled) == (None, "drop", False)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("[budget]\nescalations_per_day = -1", ">= 0"),
        ("[budget]\nescalations_a_day = 1", "did you mean 'escalations_per_day'"),
        ("[budget]\nmoney_per_day = 1.0", "needs price_per_escalation"),
        ('[budget]\nwhen_spent = "keep"\n[privacy]\nkeep_examples = false', "forbids that"),
        ("[memory]\nmax_entries = 0", ">= 1"),
        ("[memory]\nrisk = 0", "> 0.0"),
    ],
)
def test_a_budget_or_a_memory_that_cannot_be_is_explained(added: str, message: str) -> None:
    with pytest.raises(OperatorConfigError, match=message):
        parse_task(f"{GOOD}{added}\n", "my.toml")


def test_delta_is_a_round_number() -> None:
    assert parse_task(GOOD.replace("0.9", "0.95")).delta == 0.05


def test_a_part_is_found_by_name() -> None:
    task: Task = parse_task(GOOD)
    assert task.part("question") is task.inputs[1]
    assert task.part("sound") is None


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"no"', '"yes"', "label 'yes' stands twice"),
        ('name = "question"', 'name = "image"', "input 'image' stands twice"),
        ('["yes", "no"]', '["yes"]', "length >= 2"),
        ('"easy-vqa"', '"Easy VQA"', "matching regex"),
        ('"easy-vqa"', '"easy-vqa\\n"', "matching regex"),
        ('"text"', '"smell"', "Invalid enum value"),
        ("0.02", "0", "> 0.0"),
        ("0.02", "1", "< 1.0"),
        ("0.9", "nan", "Expected `float`"),
        ("max_bytes = 1000", "max_bytes = 0", ">= 1"),
        ("target_risk", "target_rsik", "did you mean 'target_risk'"),
    ],
)
def test_a_task_that_cannot_be_is_explained(before: str, after: str, message: str) -> None:
    assert before in GOOD
    with pytest.raises(OperatorConfigError, match=message):
        parse_task(GOOD.replace(before, after), "my.toml")


SUBTASKS = """
[[subtasks]]
name = "colour"
labels = ["red", "green"]

[[subtasks]]
name = "shape"
labels = ["circle", "red"]
"""


def test_a_task_may_name_sub_tasks() -> None:
    assert [(each.name, each.labels) for each in parse_task(GOOD + SUBTASKS).subtasks] == [
        ("colour", ["red", "green"]),
        ("shape", ["circle", "red"]),
    ]
    assert parse_task(GOOD).subtasks == []


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"shape"', '"colour"', "duplicate_name"),
        ('"circle"', '"red"', "duplicate_name"),
        ('"image"\nmod', '"facts"\nmod', "reserved_name"),
    ],
)
def test_sub_tasks_that_cannot_be_are_explained(before: str, after: str, reason: str) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        parse_task((GOOD + SUBTASKS).replace(before, after))
    assert caught.value.reason == reason and caught.value.fix
