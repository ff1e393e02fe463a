"""The line that fails: each kind of weather does to a stream what it says, and no more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from outrider.sim.link import FAIR, Link, Weather

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def line() -> AsyncIterator[tuple[Link, Ends, Ends]]:
    """A link, the end that connected, and the end that it leads to."""
    arrived: asyncio.Queue[Ends] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await arrived.put((reader, writer))

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    link = Link(to=server.sockets[0].getsockname()[1])
    await link.start()
    near = await asyncio.open_connection("127.0.0.1", link.port)
    far = await asyncio.wait_for(arrived.get(), 5)
    try:
        yield link, near, far
    finally:
        await link.stop()
        server.close()
        near[1].close()
        far[1].close()


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), 0.15)
    except TimeoutError:
        return True
    return False


async def test_in_fair_weather_everything_passes_in_order() -> None:
    async with line() as (_, near, far):
        sent = bytes(range(256)) * 1000
        near[1].write(sent)
        assert await asyncio.wait_for(far[0].readexactly(len(sent)), 5) == sent
        far[1].write(b"back")
        assert await asyncio.wait_for(near[0].readexactly(4), 5) == b"back"
        near[1].close()
        assert await asyncio.wait_for(far[0].read(), 5) == b""


async def test_a_hole_swallows_one_way_and_gives_it_back_when_it_is_over() -> None:
    async with line() as (link, near, far):
        await link.change(Weather(hole=frozenset({"up"})))
        near[1].write(b"up")
        far[1].write(b"down")
        assert await asyncio.wait_for(near[0].readexactly(4), 5) == b"down"
        assert await nothing_comes(far[0])
        await link.change(FAIR)
        assert await asyncio.wait_for(far[0].readexactly(2), 5) == b"up"


async def test_a_stall_stops_in_the_middle_of_what_was_sent() -> None:
    async with line() as (link, near, far):
        await link.change(Weather(stall_after=3))
        near[1].write(b"packet")
        assert await asyncio.wait_for(far[0].readexactly(3), 5) == b"pac"
        assert await nothing_comes(far[0])
        await link.change(FAIR)
        assert await asyncio.wait_for(far[0].readexactly(3), 5) == b"ket"


async def test_a_late_line_keeps_the_order() -> None:
    async with line() as (link, near, far):
        await link.change(Weather(delay_s=0.05, jitter_s=0.05))
        for k in range(20):
            near[1].write(bytes([k]))
            await near[1].drain()
            await asyncio.sleep(0.001)
        assert await asyncio.wait_for(far[0].readexactly(20), 5) == bytes(range(20))


async def test_a_slow_line_lets_no_more_through_than_it_says() -> None:
    async with line() as (link, near, far):
        await link.change(Weather(bytes_per_s=20_000))
        near[1].write(bytes(8_000))
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(far[0].readexactly(8_000), 10)
        assert asyncio.get_running_loop().time() - began >= 0.35


async def test_a_reset_is_seen_at_both_ends() -> None:
    async with line() as (link, near, far):
        await link.reset()
        for end in (near, far):
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(end[0].read(1), 5)


async def test_a_lossy_line_resets_after_some_bytes() -> None:
    async with line() as (link, near, far):
        await link.change(Weather(cut_after=10_000))
        with pytest.raises(ConnectionError):
            for _ in range(100):
                near[1].write(bytes(4_096))
                await near[1].drain()
                await asyncio.sleep(0.005)
        with pytest.raises(ConnectionResetError):
            while await asyncio.wait_for(far[0].read(65_536), 5):
                pass


async def test_a_half_open_line_says_nothing_and_a_new_one_works() -> None:
    async with line() as (link, near, far):
        await link.half_open()
        near[1].write(b"is anybody there?")
        assert await nothing_comes(far[0]) and await nothing_comes(near[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        assert link.connections == 2
        assert await nothing_comes(reader)  # it is open: nobody has said anything yet
        writer.close()
