"""Sources at the command line: what ``--source`` stands for, and ``outrider doctor`` over them."""

import sys
from pathlib import Path

import pytest

import factory
from outrider import start
from outrider.doctor_findings import Finding, Subject
from outrider.doctor_sources import sources
from outrider.task_template import Kind, task_text
from outrider_edge.config import load_edge_config
from outrider_wire.errors import OperatorConfigError

ASKS = 'parts = { question = "what colour is it?" }\n'


def examined(folder: Path, said: str) -> list[Finding]:
    (folder / "task.toml").write_text(task_text(name="colours", labels=factory.LABELS, kind=Kind.IMAGE_TEXT))
    text = f'[[tasks]]\nfile = "task.toml"\nbundle = "bundle"\n[[sources]]\nname = "line"\n{said}'
    (folder / "edge.toml").write_text(f'device = "cam"\ndata_dir = "data"\n{text}')
    return list(sources(Subject(edge=load_edge_config(folder / "edge.toml"))))


def test_what_a_source_gives_is_told_and_what_it_lacks_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "clip.mkv").touch()
    monkeypatch.setenv("PATH", "/nowhere")
    for said, level, what in (
        ('url = "dir:in"\n', "ok", "gives image of colours"),
        ('url = "dir:away"\n', "bad", "no such folder"),
        ('url = "file:clip.mkv"\n', "ok", "clip.mkv"),
        ('url = "file:none.mkv"\n', "warning", "no such file"),
        ('url = "camera:97"\n', "warning", "no such device"),
        ('url = "csi:0"\n', "bad", "gst-launch-1.0"),
        ('url = "camera:0"\ntask = "other"\n', "bad", "not served"),
    ):
        [found] = examined(tmp_path, said + ASKS)
        assert (found.level, what in found.what) == (level, True), found
        assert found.fix or level == "ok"


def test_a_camera_without_pyav_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("outrider.doctor_sources.find_spec", lambda name: None)
    [found] = examined(tmp_path, 'url = "rtsp://10.0.0.5/live"\n' + ASKS)
    assert (found.level, found.fix) == ("bad", "pip install 'outrider[video]'")


def test_flags_stand_for_sources_with_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = start.sources(["dir:in", "camera:0", "rtsp://h/x"], start.texts(["question=is it = red?"]))["sources"]
    assert [(each["name"], each["url"]) for each in found] == [
        ("dir-1", f"dir:{tmp_path}/in"),
        ("camera-2", "camera:0"),
        ("rtsp-3", "rtsp://h/x"),
    ]
    assert {each["parts"]["question"] for each in found} == {"is it = red?"}
    assert start.sources([], {}) == {}
    for wrong in (lambda: start.sources([], {"a": "b"}), lambda: start.texts(["no name"])):
        with pytest.raises(OperatorConfigError):
            wrong()
