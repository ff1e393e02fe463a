"""``outrider edge infer``: a model asked once, in this process, and what it says of the decision."""

import pytest

import factory
from outrider.task_template import Kind, task_text


@pytest.fixture
def site(tmp_path):
    """A task and its bundle, and some pictures."""
    (tmp_path / "task.toml").write_text(task_text(name="colours", labels=factory.LABELS, kind=Kind.IMAGE_TEXT))
    factory.make_bundle(tmp_path / "bundle")
    (tmp_path / "red.png").write_bytes(factory.sure(0))
    (tmp_path / "between.png").write_bytes(factory.unsure())
    (tmp_path / "noise.png").write_bytes(factory.foreign())
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    return tmp_path


FLAGS = ("--task", "task.toml", "--bundle", "bundle", "--part", f"question={factory.QUESTION}")


@pytest.mark.usefixtures("site")
def test_each_file_gets_a_line_with_the_decision(outrider):
    ran = outrider("edge", "infer", *FLAGS, "red.png", "between.png", "noise.png")
    assert ran.code == 0, ran.err
    red, between, noise = ran.lines
    assert (red["file"], red["label"], red["certified"], red["why"]) == ("red.png", "red", True, "accepted")
    assert red["note"] == ""
    assert (between["certified"], between["why"]) == (False, "low_confidence")
    assert "nothing is sent" in between["note"]
    assert noise["why"] == "unsupported"


@pytest.mark.usefixtures("site")
def test_a_bad_file_does_not_stop_the_others(outrider):
    ran = outrider("edge", "infer", *FLAGS, "broken.png", "nowhere.png", "red.png")
    assert ran.code == 1
    broken, nowhere, red = ran.lines
    assert broken["error"]["part"] == "image"
    assert nowhere["error"]["reason"] == "unreadable_file"
    assert red["label"] == "red"


@pytest.mark.usefixtures("site")
def test_every_part_may_be_given_by_name(outrider):
    ran = outrider("edge", "infer", *FLAGS, "--part", "image=@red.png")
    assert [line["label"] for line in ran.lines] == ["red"]
    assert ran.lines[0]["file"] == ""


@pytest.mark.usefixtures("site")
def test_explain_says_the_decision_in_words(outrider):
    out = outrider("edge", "infer", *FLAGS, "red.png", "between.png", "noise.png", "--explain").out
    assert "kept: max probability 1.0000 ≥ threshold 0.8000" in out
    assert "not kept: max probability 0.5" in out
    assert "looks unlike those that the model knows" in out
    assert "would ask the large model" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is nothing to ask"),
        (("--part", "no-value"), "has no name"),
        (
            (
                "--task",
                "task.toml",
                "--bundle",
                "bundle",
                "red.png",
                "--part",
                "image=@red.png",
                "--part",
                "question=?",
            ),
            "which part",
        ),
        (("red.png",), "there is no edge.toml in this folder"),
        (("red.png", "--bundle", "bundle"), "--bundle belongs to a task"),
    ],
)
@pytest.mark.usefixtures("site")
def test_what_cannot_be_asked_is_said_in_a_sentence(outrider, arguments, said):
    ran = outrider("edge", "infer", *arguments)
    assert ran.code in (1, 2)
    assert said in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.usefixtures("site")
def test_a_bundle_of_another_task_is_refused(outrider, tmp_path):
    factory.make_bundle(tmp_path / "other", factory.make_task("shapes"))
    ran = outrider("edge", "infer", "--task", "task.toml", "--bundle", "other", "--part", "question=?", "red.png")
    assert ran.code == 3
    assert "built for this task" in ran.err
