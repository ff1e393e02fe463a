"""Log events: one line each, whatever they carry."""

import io
import json
import logging

import pytest

from outrider.logs import LogFormat, LogLevel, set_up


@pytest.fixture
def stream():
    """Where the events go; the loggers are put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], _ = before
    root.setLevel(before[1])


def test_the_console_shows_event_and_facts(stream):
    set_up(stream=stream)
    logging.getLogger("outrider_edge.journey.agent").info(
        "escalation.answered", extra={"task": "easy-vqa", "ms": 12.54321}
    )
    line = stream.getvalue()
    assert line.endswith("INFO    escalation.answered task=easy-vqa ms=12.54\n")


def test_a_fact_with_spaces_or_line_breaks_stays_on_the_line(stream):
    set_up(stream=stream)
    logging.getLogger("x").info("odd\nevent", extra={"what": 'a "b"\nc', "empty": ""})
    assert stream.getvalue().count("\n") == 1
    assert r'what="a \"b\"\nc" empty=""' in stream.getvalue()


def test_json_lines_carry_the_same(stream):
    set_up(form=LogFormat.JSON, stream=stream)
    logging.getLogger("outrider_edge.journey.agent").warning("outbox.full", extra={"level": "forged", "left": 3})
    entry = json.loads(stream.getvalue())
    assert (entry["event"], entry["level"], entry["logger"], entry["left"]) == (
        "outbox.full",
        "warning",
        "outrider_edge.journey.agent",
        3,
    )
    assert entry["time"].endswith("+00:00")


def test_a_traceback_is_in_the_json_line(stream):
    set_up(form=LogFormat.JSON, stream=stream)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").exception("it.failed")
    assert "ValueError: why" in json.loads(stream.getvalue())["traceback"]


def test_the_level_is_the_least_that_is_said(stream):
    set_up(level=LogLevel.WARNING, stream=stream)
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()
