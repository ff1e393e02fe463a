"""``outrider doctor``: each finding has a level, and a bad one the way out and exit code 1."""

import socket

import pytest

import factory
from outrider.task_template import Kind, task_text

EDGE = """\
device = "cam-7"
data_dir = "data"

[[tasks]]
file = "task.toml"
bundle = "bundle"

[api]
port = {port}

[broker]
url = "{broker}"
"""


@pytest.fixture
def site(tmp_path):
    """A folder with a task, its bundle, and an edge.toml written by the returned function."""
    (tmp_path / "task.toml").write_text(
        task_text(name="colours", labels=factory.LABELS, kind=Kind.IMAGE_TEXT).replace("4000000", "1000000")
    )
    factory.make_bundle(tmp_path / "bundle")

    def write(*, port=0, broker=""):
        (tmp_path / "edge.toml").write_text(EDGE.format(port=port, broker=broker))

    write()
    return write


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def by_check(ran):
    return {finding["check"]: finding for finding in ran.json["findings"]}


def test_a_machine_without_a_configuration_is_told_where_to_begin(outrider):
    ran = outrider("doctor", "--json")
    found = by_check(ran)
    assert found["python"]["level"] == "ok"
    assert "CPU" in found["onnx runtime"]["what"]
    assert found["configuration"]["level"] == "warning"
    assert "outrider edge run --demo" in found["configuration"]["fix"]


def test_a_sound_device_has_nothing_to_fix(outrider, site):
    ran = outrider("doctor", "--json")
    assert ran.code == 0, ran.out
    found = by_check(ran)
    assert found["task"]["level"] == "ok"
    assert found["disk"]["level"] in ("ok", "warning")
    assert found["broker"] == {
        "check": "broker",
        "level": "warning",
        "what": "none configured: this device is alone",
        "fix": "set broker.url to send what the device is unsure of",
    }


def test_the_list_for_people_marks_each_line(outrider, site):
    lines = outrider("doctor").out.splitlines()
    assert any(line.startswith("✓ python") for line in lines)
    assert any(line.startswith("‼ broker") for line in lines)
    assert lines[-1].startswith("0 to fix")


def test_an_occupied_port_is_bad_and_exits_with_1(outrider, site, listener):
    site(port=listener)
    ran = outrider("doctor", "--json")
    assert ran.code == 1
    assert by_check(ran)["port of the agent"]["level"] == "bad"
    assert "api.port" in by_check(ran)["port of the agent"]["fix"]


def test_a_broker_that_listens_is_ok(outrider, site, listener):
    site(broker=f"mqtt://127.0.0.1:{listener}")
    assert by_check(outrider("doctor", "--json"))["broker"]["level"] == "ok"


def test_no_broker_is_said_with_the_fix(outrider, site):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    site(broker=f"mqtt://127.0.0.1:{port}")
    found = by_check(outrider("doctor", "--json"))["broker"]
    assert found["level"] == "bad"
    assert "outrider broker run" in found["fix"]


def test_a_wrong_configuration_is_a_finding_not_an_end(outrider, site, tmp_path):
    (tmp_path / "edge.toml").write_text('devise = "x"\n')
    found = by_check(outrider("doctor", "--json"))
    assert "did you mean 'device'" in found["configuration"]["fix"]
    assert "clock" in found


def test_a_damaged_bundle_is_found(outrider, site, tmp_path):
    (tmp_path / "bundle" / "golden.msgpack").write_bytes(b"")
    found = by_check(outrider("doctor", "--json"))
    assert found["task"]["level"] == "bad"


def test_a_bundle_without_a_certificate_is_worth_knowing(outrider, site, tmp_path):
    factory.make_bundle(tmp_path / "plain", certified=False)
    (tmp_path / "edge.toml").write_text(EDGE.format(port=0, broker="").replace('"bundle"', '"plain"'))
    found = by_check(outrider("doctor", "--json"))
    assert found["task"]["level"] == "warning"
    assert "everything of it escalates" in found["task"]["fix"]


def test_it_says_what_leaves_the_device(outrider, site, tmp_path):
    task = tmp_path / "task.toml"
    task.write_text(task.read_text().replace("[privacy]", '[privacy]\nredact = ["email"]'))
    said = by_check(outrider("doctor", "--json", "--config", "edge.toml"))["leaves the device"]
    assert said["level"] == "ok"
    assert "image: without metadata; question: redacted; taken out of text: email" in said["what"]
