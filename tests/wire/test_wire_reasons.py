"""Every code that an escalation, a part or a dead letter can meet is in the table with what to do, and nothing else is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from said_codes import codes_of

from outrider_wire.reasons import STAGES, TABLE, tables, what_to_do

ROOT = Path(__file__).parents[2]
WALKED = (
    "edge/outrider_edge/journey/*.py",
    "edge/outrider_edge/local_api/*.py",
    "edge/outrider_edge/outbox/*.py",
    "edge/outrider_edge/thermal/*.py",
    "edge/outrider_edge/uplink/*.py",
    "export/outrider_engine/decoder.py",
    "wire/outrider_link/blobs.py",
    "wire/outrider_link/connection.py",
    "wire/outrider_link/http.py",
    "wire/outrider_link/session.py",
    "wire/outrider_trust/*.py",
    "wire/outrider_wire/blobs.py",
    "wire/outrider_wire/codec.py",
    "wire/outrider_wire/images.py",
    "wire/outrider_wire/leaving.py",
    "wire/outrider_wire/metadata.py",
    "wire/outrider_wire/pictures.py",
    "wire/outrider_wire/*_steps.py",
    "wire/outrider_wire/sounds.py",
    "wire/outrider_wire/step_table.py",
    "wire/outrider_wire/steps.py",
    "wire/outrider_wire/topics.py",
    "cloud/outrider_cloud/answering/*.py",
    "cloud/outrider_cloud/deltas.py",
    "cloud/outrider_cloud/device_reports.py",
    "cloud/outrider_cloud/fleet.py",
    "cloud/outrider_cloud/forgetting.py",
    "cloud/outrider_cloud/hub.py",
    "cloud/outrider_cloud/intake/*.py",
    "cloud/outrider_cloud/large/*.py",
    "cloud/outrider_cloud/store/blobstore.py",
    "cloud/outrider_cloud/trust/*.py",
    "cloud/outrider_cloud/web/api.py",
    "cloud/outrider_cloud/web/device_blobs.py",
    "cloud/outrider_cloud/web/escalating.py",
    "cloud/outrider_cloud/web/trusting.py",
)
LEFT_OUT = {
    "edge/outrider_edge/journey/gate.py": "why an input is sent, which is no trouble",
    "edge/outrider_edge/outbox/looking.py": "of a command that reads the file, which says what to do",
    "cloud/outrider_cloud/large/checkpoints.py": "of a start",
    "cloud/outrider_cloud/large/table.py": "of a start",
}
SAYS = {"edge": "device", "cloud": "cloud"}


def walked() -> list[Path]:
    """The modules on the way."""
    found = [path for pattern in WALKED for path in sorted(ROOT.glob(pattern))]
    return [path for path in found if str(path.relative_to(ROOT)) not in LEFT_OUT]


def said() -> Iterator[tuple[str, Path]]:
    for path in walked():
        for code in codes_of(path):
            yield code, path


def test_every_code_that_can_be_said_is_in_the_table() -> None:
    missing = {(code, str(path.relative_to(ROOT))) for code, path in said() if code not in TABLE}
    assert not missing


def test_no_row_is_of_a_code_that_nothing_says() -> None:
    assert not TABLE.keys() - {code for code, _ in said()}


def test_a_row_names_whoever_says_its_code() -> None:
    wrong = {
        (code, path.name)
        for code, path in said()
        if (who := SAYS.get(path.relative_to(ROOT).parts[0])) and code in TABLE and who not in TABLE[code].by
    }
    assert not wrong


def test_what_is_left_out_is_there() -> None:
    assert all((ROOT / name).is_file() for name in LEFT_OUT)
    assert all(any(ROOT.glob(pattern)) for pattern in WALKED)


def test_every_stage_has_rows_and_every_row_a_way_out() -> None:
    assert {row.stage for row in TABLE.values()} == set(STAGES)
    assert all(row.means and row.do and row.by for row in TABLE.values())
    assert all("|" not in cell for row in TABLE.values() for cell in (row.means, row.do))


def test_no_code_has_two_rows() -> None:
    from outrider_wire.reason_rows import ROWS
    from outrider_wire.reason_rows_cloud import CLOUD_ROWS
    from outrider_wire.reason_rows_trust import TRUST_ROWS

    assert len(TABLE) == len(ROWS) + len(CLOUD_ROWS) + len(TRUST_ROWS)


def test_the_tables_hold_every_code_once() -> None:
    text = tables()
    assert all(text.count(f"\n| `{code}` |") == 1 for code in TABLE)


def test_what_to_do_names_who_acts() -> None:
    assert what_to_do("wrong_qos") == "publish at QoS 1 (application)"
    assert what_to_do("no_such_code") == ""


SPEECH = {
    "an error's": 'raise PeerError("it is so", reason="odd_one")',
    "a refusal's": 'Refusal(id=id_, reason="odd_one", detail="so")',
    "a choice": 'log(reason=error.reason if known else "odd_one")',
    "a function's": 'raise _refused("odd_one", "it is so")',
    "a worker's": 'worker.refuse(job, "odd_one", "it is so")',
    "an assignment": 'self.failed = "odd_one" if bad else ""',
    "a pair": 'code, note = "odd_one", "it is so"',
    "a return": 'def kept_back(task):\n    return "odd_one", "it is so"',
    "a member": 'Why = Literal["odd_one"]',
    "a name in a path": 'converted(text, Name, "one")',
}


@pytest.mark.parametrize("way", SPEECH)
def test_a_code_is_found_however_it_is_said(way: str, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(SPEECH[way] + "\n")
    assert codes_of(module) == {"invalid_one" if way == "a name in a path" else "odd_one"}


def test_a_code_that_is_made_up_at_run_time_is_refused(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("raise PeerError(what, reason=made_up(what))\n")
    with pytest.raises(ValueError, match="made_up"):
        codes_of(module)


def test_a_sentence_and_what_keeps_from_starting_are_no_codes(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        'raise OperatorConfigError("no", reason="at_start")\n_refused("It is so.", reason=error.reason)\n'
    )
    assert codes_of(module) == set()
