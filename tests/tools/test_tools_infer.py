"""``outrider edge infer``: a model asked once, in this process or through the agent, over files or a watched folder."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from edge_agents import SERVE, serve_environment, write_config

import factory
from outrider import Client
from outrider.task_template import Kind, task_text

SCRIPT = Path(sys.executable).parent / "outrider"


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


@contextmanager
def watching(folder, *arguments):
    """``outrider edge infer --watch`` as a process, and the lines that it prints."""
    child = subprocess.Popen(
        [SCRIPT, "edge", "infer", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        child.terminate()
        child.communicate(timeout=30)


def test_a_watched_folder_gives_a_line_a_whole_file_and_moves_it(site):
    inbox = site / "inbox"
    inbox.mkdir()
    (inbox / "red.png").write_bytes(factory.sure(0))
    with watching(site, *FLAGS, "--watch", "inbox", "--done", "done") as child:
        first = json.loads(child.stdout.readline())
        assert (first["file"], first["label"]) == ("inbox/red.png", "red")
        picture = factory.sure(2)
        (inbox / "half.png.part").write_bytes(picture[:20])  # whoever writes it renames it when it is whole
        (inbox / "broken.png").write_bytes(b"not a picture")
        assert json.loads(child.stdout.readline())["error"]["part"] == "image"
        (inbox / "half.png.part").write_bytes(picture)
        (inbox / "half.png.part").rename(inbox / "red.png")
        again = json.loads(child.stdout.readline())
        assert (again["file"], again["label"]) == ("inbox/red.png", "blue")
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    done = {str(path.relative_to(site / "done")) for path in (site / "done").rglob("*.png")}
    assert done == {"red.png", "red-1.png", "refused/broken.png"}
    assert list(inbox.iterdir()) == []


def test_a_running_agent_is_asked_with_wait_or_provisional(outrider, site):
    agent = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(write_config(site / "agent", answer_within_ms=10_000))],
        stdout=subprocess.PIPE,
        text=True,
        env=serve_environment(),
    )
    try:
        address = agent.stdout.readline().strip()
        question = ("--part", f"question={factory.QUESTION}", "--agent", address)
        waited = outrider("edge", "infer", "red.png", "broken.png", "--wait", "0.2", *question)
        assert waited.code == 1
        assert waited.lines[0]["label"] == "red"
        assert waited.lines[1]["error"]["reason"] == "not_an_image"
        [at_once] = outrider("edge", "infer", "between.png", "--provisional", "--task", "task.toml", *question).lines
        assert (at_once["why"], at_once["certified"]) == ("low_confidence", False)
        with Client(address) as client:
            account = client.account()
        assert (account.received, account.edge, account.refused) == (3, 2, 1)
    finally:
        agent.terminate()
        agent.wait(30)


@pytest.mark.usefixtures("site")
def test_without_an_agent_the_exit_code_says_so(outrider):
    ran = outrider("edge", "infer", "red.png", "--wait", "1", "--agent", "http://127.0.0.1:9")
    assert ran.code == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("red.png", "--watch", "."),
        ("red.png", "--done", "."),
        ("red.png", "--provisional", "--wait", "1"),
        ("red.png", "--provisional", "--explain"),
        ("red.png", "--provisional", "--demo"),
    ],
)
@pytest.mark.usefixtures("site")
def test_flags_that_contradict_each_other_are_refused(outrider, arguments):
    assert outrider("edge", "infer", *arguments).code == 2
