"""What may be said of sources in edge.toml, and what each fits."""

from pathlib import Path

import pytest
from edge_agents import write_config

from factory import make_task
from outrider_edge.config import load_edge_config
from outrider_edge.sources.address import parse_address
from outrider_edge.sources.fitting import fit
from outrider_edge.sources.settings import LocalBrokerSettings, SourceSettings
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import AnswerSpace, InputPart, Task

ADDRESSES = {
    "dir:/in": ("dir", "/in"),
    "file:clip.mkv": ("file", "clip.mkv"),
    "camera:0": ("camera", "/dev/video0"),
    "camera:/dev/v4l/by-id/usb-x": ("camera", "/dev/v4l/by-id/usb-x"),
    "csi:1": ("csi", "1"),
    "mqtt:line/+/picture": ("mqtt", "line/+/picture"),
    "mqtt:line/#": ("mqtt", "line/#"),
    "rtsp://10.0.0.5/live": ("stream", "rtsp://10.0.0.5/live"),
    "https://cam/stream.mjpg": ("stream", "https://cam/stream.mjpg"),
    "udp://127.0.0.1:9000": ("stream", "udp://127.0.0.1:9000"),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_says_what_it_is(text: str) -> None:
    assert parse_address(text) == ADDRESSES[text]


@pytest.mark.parametrize(
    "text",
    ["", "camera", "camera:", "camera:x", "camera:../../etc/passwd", "csi:-1", "csi:999", "ftp://x/y", "rtsp://", "rtsp:///x",
     "tcp://host", "rtsp://user:secret@host/x", "rtsp://user@host/x", "mqtt:a/b#", "mqtt:a/#/b", "mqtt:a+/b", "mqtt:$SYS/x",
     "concat:a|b", "hls+http://x", "camera:٣"],
)  # fmt: skip
def test_what_is_no_address_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


WRONG = {
    "a user in the address": ('url = "rtsp://u:hunter2@cam/x"', "set username and password_file"),
    "no source at all": ('url = "webcam"', "write dir:PATH"),
    "a folder for a camera": ('url = "camera:0"\ndone = "x"', "leave done out"),
    "a user for a folder": ('url = "dir:in"\nusername = "x"', "leave username out"),
    "half a size": ('url = "camera:0"\nwidth = 640', "give both"),
    "an open quotation": ('url = "csi:0"\npipeline = "a \'b"', "close the quotation"),
    "a topic without a broker": ('url = "mqtt:a/b"', "[local_broker]"),
    "a key that is none": ('url = "dir:in"\nmaxfps = 3', "did you mean 'max_fps'?"),
    "a gate that is none": ('url = "camera:0"\ngate = "sound"', "correct the value"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_source_is_refused_with_the_way_out(tmp_path: Path, what: str) -> None:
    said, fix = WRONG[what]
    path = write_config(tmp_path)
    path.write_text(f'{path.read_text()}[[sources]]\nname = "line"\n{said}\n')
    with pytest.raises(OperatorConfigError) as caught:
        load_edge_config(path)
    assert fix in str(caught.value)
    assert "hunter2" not in caught.value.fix


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text() + '[[sources]]\nname = "a"\nurl = "dir:x"\n' * 2)
    with pytest.raises(OperatorConfigError, match="twice"):
        load_edge_config(path)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text() + '[[sources]]\nname = "a"\nurl = "dir:in"\ndone = "out"\n')
    [source] = load_edge_config(path).sources
    assert (source.address.place, source.done) == (str(tmp_path / "in"), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        (LocalBrokerSettings(url="mqtt://10.0.0.7:1883"), "allow_plain"),
        (LocalBrokerSettings(url="http://127.0.0.1"), "mqtt://127.0.0.1:1883"),
        (LocalBrokerSettings(url="mqtt://127.0.0.1", events="a/#"), "levels"),
    ],
)
def test_a_broker_that_events_may_not_be_told_to_is_refused(settings: LocalBrokerSettings, fix: str) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        settings.check("edge.toml")
    assert fix in str(caught.value)
    LocalBrokerSettings(url="mqtt://10.0.0.7:1883", allow_plain=True).check("edge.toml")


def source(url: str = "camera:0", **about: object) -> SourceSettings:
    return SourceSettings(name="line", url=url, **about)  # type: ignore[arg-type]


def test_a_camera_gives_the_only_picture_and_the_rest_is_said() -> None:
    task = make_task()
    fitted = fit(source(parts={"question": "what colour is it?"}), {"colours": task})
    assert (fitted.part.name, fitted.others) == ("image", {"question": "what colour is it?"})
    for unfit, what in (
        (source(), "nothing gives part 'question'"),
        (source(parts={"image": "x", "question": "x"}), "no text"),
        (source(task="other", parts={"question": "x"}), "not served"),
        (source(part="question", parts={"question": "x"}), "none that it can give"),
        (source("mqtt:a"), "not clear"),
    ):
        with pytest.raises(OperatorConfigError, match=what):
            fit(unfit, {"colours": task})


def test_of_several_tasks_one_is_named() -> None:
    words = Task(
        name="words",
        inputs=[InputPart(name="text", modality="text")],
        answer=AnswerSpace(labels=["a", "b"]),
    )
    tasks = {"colours": make_task(), "words": words}
    with pytest.raises(OperatorConfigError, match="for which task"):
        fit(source("dir:in"), tasks)
    assert fit(source("dir:in", task="words"), tasks).part.name == "text"
    with pytest.raises(OperatorConfigError, match="not clear"):
        fit(source(task="words"), tasks)
