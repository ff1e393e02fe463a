"""Task files: the one that is written passes the check, and says what its promise costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import factory
from outrider.task_template import Kind, task_text
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import parse_task


@pytest.mark.parametrize("kind", Kind)
def test_the_starting_task_of_every_kind_passes_the_check(outrider, kind):
    written = outrider("task", "init", "gates.toml", "--kind", kind, "--label", "open", "--label", "shut")
    assert written.code == 0, written.err
    checked = outrider("task", "check", "gates.toml", "--json").json
    assert checked["ok"]
    assert checked["task"]["name"] == "gates"
    assert checked["task"]["answer"]["labels"] == ["open", "shut"]
    assert [part["modality"] for part in checked["task"]["inputs"]] == kind.split("-")


def test_the_starting_task_explains_every_setting():
    """A setting line without a comment is a setting that nobody explained, but for the self-evident."""
    text = task_text(name="gates", labels=["open", "shut"])
    settings = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    bare = {line.split("=")[0].strip() for line in settings if "#" not in line}
    assert bare <= {"schema", "description", "name", "kind"}


def test_the_labels_can_come_from_a_folder_of_images(outrider, tmp_path):
    for label in ("scratched", "fine"):
        (tmp_path / "My Parts" / label).mkdir(parents=True)
        (tmp_path / "My Parts" / label / "1.png").write_bytes(factory.png("red"))
    assert outrider("task", "init", "--from-folder", "My Parts").code == 0
    task = outrider("task", "check", "task.toml", "--json").json["task"]
    assert task["answer"]["labels"] == ["fine", "scratched"]
    assert task["name"] == "my-parts"


def test_a_folder_without_classes_is_refused_in_a_sentence(outrider, tmp_path):
    (tmp_path / "flat").mkdir()
    ran = outrider("task", "init", "--from-folder", "flat")
    assert ran.code == 2
    assert "one sub-folder a class" in ran.err


def test_a_file_that_exists_is_not_overwritten(outrider, tmp_path):
    (tmp_path / "task.toml").write_text("mine")
    assert outrider("task", "init").code == 2
    assert (tmp_path / "task.toml").read_text() == "mine"
    assert outrider("task", "init", "--force").code == 0


def test_the_check_says_how_many_rows_the_promise_takes(outrider):
    outrider("task", "init")
    assert "at least 59 kept certification rows" in outrider("task", "check", "task.toml").out


def test_what_the_starting_task_says_of_privacy_is_right_once_it_is_set(outrider, tmp_path):
    """Every commented setting of what leaves, uncommented, but for the one that excludes the others."""
    text = task_text(name="gates", labels=["open", "shut"], kind=Kind.IMAGE_TEXT)
    keys = ("[inputs.first]", "as =", "quality", "redact", "[privacy.", "plate", "crop", "blur")
    lines = [
        line.removeprefix("# ") if line.removeprefix("# ").startswith(keys) else line for line in text.splitlines()
    ]
    assert sum(line not in text.splitlines() for line in lines) == 10
    (tmp_path / "task.toml").write_text("\n".join(lines))
    ran = outrider("task", "check", "task.toml", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["task"]["privacy"]["parts"]["image"]["crop"] == [0.0, 0.2, 1.0, 1.0]
    assert any("plate" in what for what in ran.json["leaves"])
    shown = outrider("task", "check", "task.toml").out
    assert "leaves the device" in shown and "at first as a JPEG of quality 50" in shown


def test_the_check_names_the_line_and_the_nearest_key(outrider, tmp_path):
    text = task_text(name="gates", labels=["open", "shut"]).replace("target_risk", "target_rsik")
    (tmp_path / "task.toml").write_text(text)
    ran = outrider("task", "check", "task.toml")
    line = 1 + text[: text.index("target_rsik")].count("\n")
    assert ran.code == 2
    assert ran.err == f"error: task.toml:{line}: unknown key 'target_rsik'; did you mean 'target_risk'?\n"


@given(st.lists(st.text(min_size=1, max_size=40), min_size=2, max_size=5, unique=True))
def test_any_labels_come_back_as_they_were(labels):
    try:
        text = task_text(name="gates", labels=labels)
    except OperatorConfigError:
        assert any("\ud800" <= letter <= "\udfff" for label in labels for letter in label)
    else:
        assert parse_task(text).labels == labels
