"""When a file in a folder is whole, and where it goes afterwards."""

from pathlib import Path

import pytest

from outrider_edge.sources.attempts import PAUSES_S, Attempts, is_of_the_file
from outrider_edge.sources.folder import listing, put_away
from outrider_edge.sources.settling import Mark, Settling
from outrider_wire.errors import (
    BundleMismatchError,
    CallerInputError,
    OperatorSetupError,
    OutriderError,
    PeerError,
    UnreachableError,
)

FAILS = BundleMismatchError("the model gave NaN", reason="not_finite", fix="roll back")


def test_a_file_is_whole_once_it_has_not_changed_between_two_looks() -> None:
    settling = Settling()
    looks = [Mark(1, 10, 7), Mark(2, 20, 7), Mark(2, 20, 7), Mark(2, 20, 7)]
    assert [settling.whole({"a.png": mark}) for mark in looks] == [[], [], ["a.png"], []]


def test_a_file_that_is_replaced_is_given_again_and_so_is_one_that_came_back() -> None:
    settling, old, new = Settling(), Mark(1, 10, 7), Mark(1, 10, 8)
    assert [settling.whole(each) for each in ({"a": old}, {"a": old}, {"a": new}, {"a": new})] == [[], ["a"], [], ["a"]]
    assert [settling.whole(each) for each in ({}, {"a": new}, {"a": new})] == [[], [], ["a"]]
    settling.again("a")
    assert settling.whole({"a": new}) == ["a"]


def test_what_is_being_written_is_left_alone_and_the_oldest_comes_first() -> None:
    settling = Settling()
    look = {
        "late.png": Mark(9, 1, 1),
        "early.png": Mark(3, 1, 2),
        ".rsync.png": Mark(1, 1, 3),
        "x.part": Mark(1, 1, 4),
        "empty": Mark(1, 0, 5),
    }
    settling.whole(look)
    assert settling.whole(look) == ["early.png", "late.png"]


def test_only_plain_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert [(name, mark.size) for name, mark in listing(tmp_path).items()] == [("a.png", 1)]
    with pytest.raises(OperatorSetupError, match="cannot be read"):
        listing(tmp_path / "nowhere")


def test_nothing_is_overwritten_where_files_are_put_away(tmp_path: Path) -> None:
    refused = CallerInputError("no picture", reason="not_an_image", fix="send a PNG")
    for content, trouble in ((b"1", None), (b"2", None), (b"3", refused), (b"4", FAILS), (b"5", FAILS)):
        (tmp_path / "a.png").write_bytes(content)
        put_away(tmp_path / "a.png", tmp_path / "done", trouble=trouble)
    kept = {str(file.relative_to(tmp_path / "done")): file.read_text() for file in tmp_path.rglob("*.*")}
    assert kept == {
        "a.png": "1",
        "a-1.png": "2",
        "refused/a.png": "3",
        "refused/a.png.error": f"not_an_image: {refused}\n",
        "failed/a.png": "4",
        "failed/a.png.error": f"not_finite: {FAILS}\n",
        "failed/a-1.png": "5",
        "failed/a-1.png.error": f"not_finite: {FAILS}\n",
    }


def test_a_file_on_which_the_model_fails_is_asked_about_three_times_with_pauses() -> None:
    attempts, mark, changed = Attempts(), Mark(1, 10, 7), Mark(2, 10, 7)
    first, second = PAUSES_S
    assert attempts.failed("a", mark, 0.0)
    assert (attempts.due(["a"], first - 1), attempts.due(["a"], first)) == ([], ["a"])
    assert attempts.due(["a"], first + 99) == [], "once a pause"
    assert attempts.failed("a", mark, 10.0)
    assert (attempts.due(["a"], 10 + second - 1), attempts.due(["a"], 10 + second)) == ([], ["a"])
    assert not attempts.failed("a", mark, 99.0)
    assert attempts.due(["a"], 1e9) == []
    assert attempts.failed("a", mark, 0.0) and attempts.failed("a", changed, 0.0) and attempts.failed("a", changed, 0.0)
    assert not attempts.failed("a", changed, 0.0)
    assert attempts.failed("b", mark, 0.0) and attempts.due([], 99.0) == attempts.due(["b"], 99.0) == []


@pytest.mark.parametrize(
    ("error", "its"),
    [
        (FAILS, True),
        (PeerError("500", reason="internal"), True),
        (CallerInputError("no picture", reason="not_an_image"), False),
        (OperatorSetupError("no decoder", reason="no_decoder"), False),
        (UnreachableError("nobody", reason="agent_unreachable"), False),
    ],
)
def test_what_this_machine_lacks_is_not_held_against_a_file(error: OutriderError, its: bool) -> None:
    assert is_of_the_file(error) is its
