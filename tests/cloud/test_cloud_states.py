"""The table of an input's states says what the code does: its reasons are the code's, its ends are the account's, nothing hangs."""

import re
from pathlib import Path
from typing import get_args

import outrider_cloud
from outrider_cloud.intake.admission import Why
from outrider_cloud.states import CHANGES, ENDS, State, diagram, rows
from outrider_cloud.store.inputs import Settled

SOURCES = {path: path.read_text() for path in Path(outrider_cloud.__file__).parent.rglob("*.py")}


def test_every_reason_to_put_off_is_in_the_table_and_none_else() -> None:
    assert {change.reason for change in CHANGES if change.told == "busy"} == set(get_args(Why))


def test_every_reason_by_which_the_cloud_itself_ends_an_input_is_in_the_table_and_none_else() -> None:
    """Reasons that a worker, a take-over or forgetting writes into a refusal; a model's and a message's own are ``any``."""
    places = ("answering/worker.py", "intake/intake.py", "intake/taking_over.py", "forgetting.py")
    text = "".join(text for path, text in SOURCES.items() if str(path).endswith(places))
    written = set(re.findall(r'(?:refuse\(\s*job,\s*|Refusal\([^)]*?reason=)"([a-z_]+)"', text))
    computed = {"mass_too_low"}  # of a model's reply, told by the strategy
    said = {change.reason for change in CHANGES if change.told == "refusal"} - {"any"}
    assert written - {"busy"} - computed == said


def test_the_ends_are_the_accounts() -> None:
    assert set(get_args(Settled)) == ENDS
    assert {change.then for change in CHANGES if change.state == "claimed"} >= ENDS


def test_a_receipt_or_an_answer_is_told_only_of_what_is_durable() -> None:
    for change in CHANGES:
        if change.told in ("receipt", "answer"):
            assert change.durable or change.state in ENDS or change.then in ("claimed", "answered"), change
            assert change.then in ("claimed", "answered")
        if change.told == "busy":
            assert change.then == "offered" and not change.durable, "what is put off leaves nothing behind"


def test_every_state_is_reached_and_left_or_is_an_end() -> None:
    states = set(get_args(State))
    assert {change.then for change in CHANGES} | {"offered"} == states
    left = {change.state for change in CHANGES if change.then != change.state}
    assert states - left <= ENDS | {"forgotten"}


def test_the_documents_show_the_whole_table() -> None:
    assert len(rows()) == len(CHANGES) and {len(row) for row in rows()} == {5}
    drawn = diagram().splitlines()
    assert len(drawn) == 2 + sum(change.then != change.state for change in CHANGES)
    assert all(re.fullmatch(r"    \w+ --> \w+: [^;:]+", line) for line in drawn[2:])
