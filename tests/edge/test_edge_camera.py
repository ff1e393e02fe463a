"""Cameras through the limited child: a file, a stream over TCP, RTSP, GStreamer; garbage, a stall, a crash, and what it may do."""

import asyncio
import io
import logging
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from absent import skip_without
from PIL import Image
from video_world import GREY, SIZE, encoded, passing, rtsp_camera, still, tcp_camera, write_clip

from outrider_edge.video.camera import EndOfVideo, Frame, camera
from outrider_edge.video.frames_av import options_of
from outrider_edge.video.frames_gst import command_of
from outrider_edge.video.newest import Counts, Newest
from outrider_edge.video.protocol import HEIGHT, WIDTH, Plan
from outrider_wire.errors import OperatorSetupError, PeerMessageError, UnreachableError


def plan(**about: Any) -> Plan:
    settled = {"max_fps": 50.0, "max_pixels": 1_000_000, "quality": 90, "timeout_s": 3.0}
    settled |= {"picture_pixels": 1_000_000, "picture_bytes": 200_000}
    return Plan(**{**settled, "memory_mb": 1024, **about})


async def seen(told: Plan, count: int, *, stall_s: float = 5.0) -> list[Frame]:
    async with camera("gate", told, stall_s=stall_s) as opened:
        return [await opened.next() for _ in range(count)]


def without_network_here() -> bool:
    return os.uname().machine in ("x86_64", "aarch64")


def of_process(pid: int, what: str) -> bytes:
    return Path(f"/proc/{pid}/{what}").read_bytes()


async def test_a_file_is_played_at_its_own_pace_to_its_end(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", still(20))
    async with camera("gate", plan(kind="file", place=str(clip)), stall_s=5.0) as opened:
        frames = [await opened.next()]
        picture = Image.open(io.BytesIO(await opened.picture()))
        assert (picture.format, picture.size) == ("JPEG", SIZE)
        assert all(abs(had - wanted) < 8 for had, wanted in zip(picture.getpixel((80, 60)), GREY, strict=True))  # type: ignore[arg-type]  # RGB
        with pytest.raises(EndOfVideo):
            while True:
                frames.append(await opened.next())
    assert frames[0].grey.shape == (HEIGHT, WIDTH)
    assert abs(float(frames[-1].grey.mean()) - GREY[0]) < 8
    assert opened.counts.read == 20
    assert 0.5 < frames[-1].at_s - frames[0].at_s < 10


@pytest.mark.slow
async def test_a_kept_frame_is_the_one_that_is_drawn(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", [*still(10, (0, 0, 255)), *still(20, (255, 0, 0))])
    async with camera("gate", plan(kind="file", place=str(clip)), stall_s=5.0) as opened:
        await opened.next()
        opened.keep()
        while opened.counts.read < 20:
            await opened.next()
        kept, last = [Image.open(io.BytesIO(await opened.picture())).getpixel((80, 60)) for _ in range(2)]
    assert (kept[2] > 200, kept[0] < 60) == (last[0] > 200, last[2] < 60) == (True, True)  # type: ignore[index,operator]


async def test_a_picture_fits_the_tasks_part(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", passing(20))
    told = plan(kind="file", place=str(clip), picture_bytes=900, picture_pixels=10_000)
    async with camera("gate", told, stall_s=5.0) as opened:
        await opened.next()
        made = await opened.picture()
        assert len(made) <= 900
    width, height = Image.open(io.BytesIO(made)).size
    assert width * height <= 10_000
    assert abs(width / height - SIZE[0] / SIZE[1]) < 0.05


async def test_an_mpeg_stream_over_tcp() -> None:
    async with tcp_camera(encoded(still(50), "mpegts"), lasts_s=2.0) as url:
        assert len(await seen(plan(kind="stream", place=url), 5)) == 5
        async with camera("gate", plan(kind="stream", place=url), stall_s=5.0) as opened:
            await opened.next()
            assert b"Seccomp:\t2" not in of_process(opened.pid, "status"), "a stream needs its network"


async def test_an_mpeg_stream_over_udp_without_a_thread_more() -> None:
    video = encoded(passing(100), "mpegts")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
    ):
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
        taken.close()

        async def send() -> None:
            while True:
                for begin in range(0, len(video), 1316):
                    out.sendto(video[begin : begin + 1316], address)
                    await asyncio.sleep(4 * 1316 / len(video))

        sending = asyncio.create_task(send())
        told = plan(kind="stream", place=f"udp://127.0.0.1:{address[1]}")
        async with camera("gate", told, stall_s=5.0) as opened:
            for _ in range(3):
                await opened.next()
            assert b"Threads:\t2" in of_process(opened.pid, "status")
        sending.cancel()


async def test_rtsp_with_a_password_that_no_command_line_shows() -> None:
    async with rtsp_camera(still(100), user="viewer:pa ss") as (server, url):
        told = plan(kind="stream", place=url, username="viewer", password="pa ss")
        async with camera("gate", told, stall_s=5.0) as opened:
            frames = [await opened.next() for _ in range(5)]
            assert b"viewer" not in of_process(opened.pid, "cmdline") + of_process(opened.pid, "environ")
        assert (server.players, server.refused) == (1, 1)
        with pytest.raises(UnreachableError, match=r"401|[Aa]uthori") as caught:
            await seen(plan(kind="stream", place=url, username="viewer", password="wrong"), 1)
        assert "wrong" not in str(caught.value)
    assert abs(float(frames[-1].grey.mean()) - GREY[0]) < 8


GARBAGE = {
    "random bytes": os.urandom(200_000),
    "a page": b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>" + b"x" * 10_000,
    "a playlist that names a file of this machine": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n"
    * 20,
    "a list of files": b"ffconcat version 1.0\nfile '/etc/passwd'\n" * 50,
    "nothing": b"",
}


@pytest.mark.parametrize(
    "what",
    [pytest.param(each, marks=[pytest.mark.slow] if "file" in each[:11] or "page" in each else []) for each in GARBAGE],
)
async def test_a_camera_that_sends_garbage_is_an_error_with_its_name(what: str) -> None:
    async with tcp_camera(GARBAGE[what], lasts_s=0.1) as url:
        with pytest.raises((PeerMessageError, UnreachableError), match="camera 'gate'"):
            await seen(plan(kind="stream", place=url), 1)


async def test_a_video_that_is_torn_gives_frames_or_an_error_and_never_a_dead_agent() -> None:
    video = bytearray(encoded(passing(50), "mpegts"))
    for place in range(2_000, len(video), 97):
        video[place] ^= 0x5A
    async with tcp_camera(bytes(video), lasts_s=1.0) as url:
        with pytest.raises((PeerMessageError, UnreachableError), match="camera 'gate'"):
            await seen(plan(kind="stream", place=url), 500)


async def test_frames_of_more_pixels_than_the_task_takes_are_never_decoded(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", still(10))
    with pytest.raises((PeerMessageError, UnreachableError), match="camera 'gate'"):
        await seen(plan(kind="file", place=str(clip), max_pixels=1_000), 1)


@pytest.mark.slow
async def test_a_camera_that_says_nothing_more_has_stalled() -> None:
    async with tcp_camera(encoded(still(25), "mpegts"), lasts_s=0.5, hold=True) as url:
        with pytest.raises(UnreachableError) as caught:
            await seen(plan(kind="stream", place=url, timeout_s=30.0), 500, stall_s=1.0)
    assert caught.value.reason == "camera_stalled"


async def test_a_child_that_is_killed_costs_an_error(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", still(200))
    async with camera("gate", plan(kind="file", place=str(clip)), stall_s=5.0) as opened:
        await opened.next()
        os.kill(opened.pid, signal.SIGKILL)
        with pytest.raises(PeerMessageError) as caught:
            while True:
                await opened.next()
    assert caught.value.reason == "camera_crashed"


NONSENSE = {
    "an answer without a question": b"\x02\x05\x00\x00\x00hello",
    "a frame of another size": b"\x01\x05\x00\x00\x00hello",
    "more than anybody reads": b"\x01\xff\xff\xff\xff",
    "a word that is none": b'\x03\x05\x00\x00\x00{"a":',
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_what_a_child_says_is_believed_no_more_than_the_camera(what: str) -> None:
    command = (
        sys.executable,
        "-c",
        f"import sys,time; sys.stdout.buffer.write({NONSENSE[what]!r}); sys.stdout.flush(); time.sleep(60)",
    )
    async with camera("gate", plan(kind="file", place="x"), stall_s=5.0, command=command) as opened:
        with pytest.raises(PeerMessageError, match="nonsense"):
            await opened.next()


async def test_the_child_may_do_little_and_ends_with_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_EDGE_BROKER_PASSWORD", "of the agent")
    clip = write_clip(tmp_path / "clip.ts", still(200))
    async with camera("gate", plan(kind="file", place=str(clip)), stall_s=5.0) as opened:
        await opened.next()
        lines = of_process(opened.pid, "limits").decode().splitlines()
        limits = {line[:26].strip(): line[26:].split()[0] for line in lines}
        assert (limits["Max file size"], limits["Max core file size"], limits["Max processes"]) == ("0", "0", "0")
        assert int(limits["Max address space"]) == 1024 << 20
        assert int(limits["Max open files"]) < 10
        status = of_process(opened.pid, "status")
        assert b"NoNewPrivs:\t1" in status
        assert (b"Seccomp:\t2" in status) is without_network_here()
        assert b"Threads:\t2" in status
        assert b"of the agent" not in of_process(opened.pid, "environ")
    assert not psutil.pid_exists(opened.pid)


async def test_what_is_not_there_is_unreachable(tmp_path: Path) -> None:
    for told in (
        plan(kind="file", place=str(tmp_path / "none.mkv")),
        plan(kind="camera", place="/dev/video97"),
        plan(kind="stream", place="rtsp://127.0.0.1:9/x"),
    ):
        with pytest.raises(UnreachableError, match="camera 'gate'"):
            await seen(told, 1)


async def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "av.py").write_text("raise ImportError('none here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(OperatorSetupError, match=r"outrider\[video\]"):
        await seen(plan(kind="file", place="x"), 1)


# GStreamer


def gstreamer() -> None:
    if shutil.which("gst-launch-1.0") is None:
        skip_without("gst-launch-1.0", "apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base")


def living_in(group: int) -> list[int]:
    """The processes of a group that have not ended; others come and go meanwhile."""
    living = []
    for each in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(each.pid) == group and each.status() != psutil.STATUS_ZOMBIE:
                living.append(each.pid)
    return living


async def test_gstreamer_gives_the_frames_of_a_pipeline() -> None:
    gstreamer()
    pipeline = ["videotestsrc", "is-live=true", "pattern=blue", "!", "videoconvert"]
    told = plan(kind="csi", place="0", pipeline=pipeline, width=322, height=240)
    async with camera("gate", told, stall_s=10.0) as opened:
        frames = [await opened.next() for _ in range(10)]
        picture = Image.open(io.BytesIO(await opened.picture()))
        group = opened.pid
    assert picture.size == (322, 240)
    assert picture.getpixel((160, 120))[2] > 240  # type: ignore[index]
    assert opened.counts.read >= len(frames)
    async with asyncio.timeout(15):
        while living_in(group):  # noqa: ASYNC110 (GStreamer ends too, and nobody announces it)
            await asyncio.sleep(0.05)


async def test_a_pipeline_that_cannot_be_is_an_error_with_gstreamers_word() -> None:
    gstreamer()
    with pytest.raises(UnreachableError, match="nosuchelement"):
        await seen(plan(kind="csi", place="0", pipeline=["nosuchelement"]), 1, stall_s=10.0)


async def test_without_gstreamer_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OperatorSetupError, match="GStreamer"):
        await seen(plan(kind="csi", place="0"), 1)


def test_a_sensor_of_a_jetson_is_asked_through_its_own_elements() -> None:
    words = command_of(plan(kind="csi", place="1", width=1920, height=1080))
    assert words[2:8] == [
        "nvarguscamerasrc",
        "sensor-id=1",
        "!",
        "video/x-raw(memory:NVMM),width=1920,height=1080",
        "!",
        "nvvidconv",
    ]
    assert words[8:] == ["!", "video/x-raw,format=BGRx,width=1920,height=1080", "!", "fdsink", "fd=1", "sync=false"]


def test_a_video_device_is_asked_for_what_the_settings_say() -> None:
    options = options_of(plan(kind="camera", place="/dev/video0", width=640, height=480, pixel_format="mjpeg"))
    assert (options["video_size"], options["input_format"], options["format_whitelist"]) == (
        "640x480",
        "mjpeg",
        "video4linux2,v4l2",
    )
    assert "http" not in options["protocol_whitelist"]


# The newest wins


def test_what_nobody_took_is_replaced_and_counted() -> None:
    newest: Newest[str] = Newest(max_fps=1000)
    for number in range(5):
        newest.offer(f"frame {number}", number * 0.01)
    assert newest.take() == ("frame 4", 0.04, Counts(read=5, paced=0, dropped=4))


@pytest.mark.parametrize(("given", "wanted", "kept"), [(25, 10, 50), (30, 5, 25), (10, 25, 50), (50, 50, 250)])
def test_of_a_faster_camera_as_many_frames_are_let_in_as_are_wanted(given: int, wanted: int, kept: int) -> None:
    newest: Newest[int] = Newest(max_fps=wanted)
    taken = 0
    for number in range(5 * given):
        newest.offer(number, 100 + number / given)
        if newest._waiting is not None:
            newest.take()
            taken += 1
    assert abs(taken - kept) <= 1
    assert newest._counts.paced == 5 * given - taken


def test_after_a_pause_there_is_no_burst() -> None:
    newest: Newest[int] = Newest(max_fps=10)
    times = [0.0, *(5.0 + number / 100 for number in range(100))]
    taken = 0
    for number, at_s in enumerate(times):
        newest.offer(number, at_s)
        if newest._waiting is not None:
            newest.take()
            taken += 1
    assert taken <= 12


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
