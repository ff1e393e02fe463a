"""What a service tells its manager, over a real socket: ready, alive as long as the event loop turns, stopping."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outrider_link.service_notice import ServiceNotice

Heard = Callable[[], list[str]]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        yield ear


def heard(ear: socket.socket) -> list[str]:
    """Everything that has come."""
    said = []
    while True:
        try:
            said.append(ear.recv(4096).decode())
        except BlockingIOError:
            return said


def test_what_is_said_arrives_as_one_datagram(manager: socket.socket) -> None:
    ServiceNotice(address=manager.getsockname()).say("READY=1", "STATUS=serves")
    assert heard(manager) == ["READY=1\nSTATUS=serves"]


def test_an_abstract_address_is_reached() -> None:
    name = f"outrider-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0{name}")
        ear.setblocking(False)
        ServiceNotice(address=f"@{name}").say("READY=1")
        assert heard(ear) == ["READY=1"]


def test_a_manager_that_is_gone_is_no_reason_to_end(tmp_path: Path) -> None:
    ServiceNotice(address=str(tmp_path / "nobody")).say("READY=1")
    ServiceNotice().say("READY=1")


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, 0.0),
        ({"NOTIFY_SOCKET": "/n"}, 0.0),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1500000"}, 1.5),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, 1.5),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "1500000"}, 0.0),
        ({"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "1500000"}, 0.0),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "-1"}, 0.0),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "²"}, 0.0),
    ],
)
def test_the_watchdog_is_ours_only_as_the_manager_says(environment: dict[str, str], watchdog_s: float) -> None:
    assert ServiceNotice.of_environment(environment, pid=7).watchdog_s == watchdog_s


async def beats(manager: socket.socket, count: int) -> None:
    """Waits until it has beaten so often."""
    async with asyncio.timeout(20):
        while (count := count - heard(manager).count("WATCHDOG=1")) > 0:  # noqa: ASYNC110 (a socket's other end)
            await asyncio.sleep(0.01)


async def test_it_beats_while_the_loop_turns_and_is_silent_while_it_hangs(manager: socket.socket) -> None:
    notice = ServiceNotice(address=manager.getsockname(), watchdog_s=0.15)
    async with notice.alive():
        await beats(manager, 3)
        heard(manager)
        time.sleep(0.5)  # noqa: ASYNC251 - the hang that the manager must notice
        assert heard(manager) == []
        await beats(manager, 1)
    heard(manager)  # one may have left meanwhile
    await asyncio.sleep(0.2)
    assert heard(manager) == []


async def test_no_beat_where_none_is_asked_for(manager: socket.socket) -> None:
    async with ServiceNotice(address=manager.getsockname()).alive():
        await asyncio.sleep(0.05)
    assert heard(manager) == []
