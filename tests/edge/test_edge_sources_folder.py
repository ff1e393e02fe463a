"""When a file in a folder is whole, and where it goes afterwards."""

from pathlib import Path

import pytest

from outrider_edge.sources.folder import listing, put_away
from outrider_edge.sources.settling import Mark, Settling
from outrider_wire.errors import OperatorSetupError


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
    for content in (b"1", b"2", b"3"):
        (tmp_path / "a.png").write_bytes(content)
        put_away(tmp_path / "a.png", tmp_path / "done", refused=content == b"3")
    kept = {str(file.relative_to(tmp_path)): file.read_bytes() for file in tmp_path.rglob("*.png")}
    assert kept == {"done/a.png": b"1", "done/a-1.png": b"2", "done/refused/a.png": b"3"}
