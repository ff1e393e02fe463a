"""Blobs between a puller and a holder: without a broker, on a wire that loses, repeats and reorders as it is told."""

import asyncio
import hashlib
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from outrider_link.blobs import MOST_WANTS, BlobHolder, BlobPuller
from outrider_link.envelope import Outgoing
from outrider_link.lanes import TRANSFERS_AT_ONCE, Lanes
from outrider_link.sinks import sweep_parts
from outrider_wire.codec import decode
from outrider_wire.errors import BundleDamagedError, PeerError, UnreachableError
from outrider_wire.messages import BlobBlock, BlobGone, BlobWant, Message
from outrider_wire.pace import LEAST_WINDOW

Judge = Callable[[Message], bool]
Serve = Callable[[BlobWant], Awaitable[None]]


class Wire:
    """Carries wants to a holder and blocks to a puller; ``lose`` says which messages vanish, ``up`` whether it is there at all."""

    def __init__(
        self,
        *,
        open_blob: Callable[[str], bytes | Path | None],
        lose: Judge = lambda _: False,
        block: int = 65_536,
        retries: int = 8,
        bytes_per_s: float | None = None,
    ) -> None:
        self.up = True
        self.lose = lose
        self.wants: list[BlobWant] = []
        self.blocks: list[BlobBlock] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.puller = BlobPuller(publish=self._from_puller, block=block, timeout_s=0.05, retries=retries)
        self.holder = BlobHolder(publish=self._from_holder, open_blob=open_blob, bytes_per_s=bytes_per_s)

    async def pull(self, data: bytes, *, to: Path | None = None, sha256: str = "", size: int = -1) -> bytes:
        result = await self.puller.pull(
            sha256=sha256 or sha(data),
            size=len(data) if size < 0 else size,
            want_topic=lambda transfer: f"holder/{transfer}",
            worker="puller",
            to=to,
        )
        return content(result)

    async def _from_puller(self, message: Outgoing) -> bool:
        self._check()
        want = decode(message.payload, message.content_type)
        assert isinstance(want, BlobWant)
        assert message.topic == f"holder/{want.transfer}"
        self.wants.append(want)
        if not self.lose(want):
            task = asyncio.create_task(self.holder.on_want(want, f"{want.worker}/{want.transfer}"))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _from_holder(self, message: Outgoing) -> bool:
        self._check()
        await asyncio.sleep(0)
        said = decode(message.payload, message.content_type)
        assert isinstance(said, BlobBlock | BlobGone)
        assert message.topic == f"puller/{said.transfer}"
        if isinstance(said, BlobBlock):
            self.blocks.append(said)
        if not self.lose(said):
            self.puller.on_message(said)
        return True

    def _check(self) -> None:
        if not self.up:
            raise UnreachableError("cut", reason="cut")


def content(result: bytes | Path) -> bytes:
    return result if isinstance(result, bytes) else result.read_bytes()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def holding(*blobs: bytes) -> Callable[[str], bytes | None]:
    return {sha(blob): blob for blob in blobs}.get


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000, 5_000_000])
async def test_a_blob_of_any_size_arrives_in_memory_and_in_a_file(size: int, tmp_path: Path) -> None:
    data = noise(size)
    wire = Wire(open_blob=holding(data))
    assert await wire.pull(data) == data
    assert await wire.pull(data, to=tmp_path / "deep" / "blob") == data
    assert names(tmp_path / "deep") == ["blob"]


async def test_it_arrives_although_every_third_message_is_lost() -> None:
    data = noise(300_000)
    count = 0

    def lose(_: Message) -> bool:
        nonlocal count
        count += 1
        return count % 3 == 0

    wire = Wire(open_blob=holding(data), lose=lose, block=16_384)
    assert await wire.pull(data) == data
    assert len(wire.blocks) > 300_000 // 16_384


async def test_blocks_that_come_twice_and_backwards_change_nothing() -> None:
    data = noise(300_000)
    wire = Wire(open_blob=holding(data), block=16_384)
    held: list[BlobBlock] = []

    def hold(message: Message) -> bool:
        if not isinstance(message, BlobBlock):
            return False
        held.append(message)
        if len(held) % 4 == 0 or message.offset + len(message.data) == len(data):
            for block in reversed(held[-4:]):
                wire.puller.on_message(block)
                wire.puller.on_message(block)
        return True

    wire.lose = hold
    assert await wire.pull(data) == data


async def test_a_pull_to_a_file_resumes_where_the_cut_was(tmp_path: Path) -> None:
    data = noise(5_000_000)
    to = tmp_path / "blob"
    wire = Wire(open_blob=holding(data), retries=1)

    def cut(message: Message) -> bool:
        if isinstance(message, BlobBlock) and message.offset > 3_000_000:
            wire.up = False
        return not wire.up

    wire.lose = cut
    with pytest.raises(UnreachableError) as caught:
        await wire.pull(data, to=to)
    assert caught.value.reason == "blob_timed_out"
    assert not to.exists()
    there = (tmp_path / "blob.part").stat().st_size
    assert 2_500_000 < there < 3_200_000

    again = Wire(open_blob=holding(data))
    assert await again.pull(data, to=to) == data
    assert min(want.offset for want in again.wants) == there
    assert not (tmp_path / "blob.part").exists()


@pytest.mark.parametrize("number", range(1, 9))
async def test_a_pull_that_is_cut_at_any_block_goes_on_there_with_a_new_puller_and_a_new_holder(
    number: int, tmp_path: Path
) -> None:
    data = noise(60_000)
    wire, seen = Wire(open_blob=holding(data), block=8192, retries=0), 0

    def cut(message: Message) -> bool:
        nonlocal seen
        seen += isinstance(message, BlobBlock)
        wire.up = wire.up and seen < number
        return not wire.up

    wire.lose = cut
    with pytest.raises(UnreachableError):
        await wire.pull(data, to=tmp_path / "blob")
    part = tmp_path / "blob.part"
    there = part.stat().st_size if part.exists() else 0
    assert there == sum(len(block.data) for block in wire.blocks[: number - 1])
    again = Wire(open_blob=holding(data))
    assert await again.pull(data, to=tmp_path / "blob") == data
    assert min(want.offset for want in again.wants) == there
    assert sum(len(block.data) for block in again.blocks) == len(data) - there


async def test_a_cut_shorter_than_the_retries_is_borne() -> None:
    data = noise(1_000_000)
    wire = Wire(open_blob=holding(data))

    def cut(message: Message) -> bool:
        if isinstance(message, BlobBlock) and message.offset == 524_288 and wire.up:
            wire.up = False
            asyncio.get_running_loop().call_later(0.12, setattr, wire, "up", True)
            wire.lose = lambda _: False
        return not wire.up

    wire.lose = cut
    assert await wire.pull(data) == data


async def test_a_wrong_beginning_from_an_earlier_pull_is_dropped_once(tmp_path: Path) -> None:
    data = noise(300_000)
    (tmp_path / "blob.part").write_bytes(bytes(200_000))
    wire = Wire(open_blob=holding(data))
    assert await wire.pull(data, to=tmp_path / "blob") == data
    offsets = [want.offset for want in wire.wants]
    assert (offsets[0], offsets.count(0)) == (200_000, 1)


async def test_a_part_longer_than_the_blob_is_started_over(tmp_path: Path) -> None:
    data = noise(1000)
    (tmp_path / "blob.part").write_bytes(bytes(2000))
    assert await Wire(open_blob=holding(data)).pull(data, to=tmp_path / "blob") == data


async def test_another_digest_is_damage_and_leaves_nothing_behind(tmp_path: Path) -> None:
    data = noise(100_000)
    wire = Wire(open_blob=lambda _: data)
    for to in (None, tmp_path / "blob"):
        with pytest.raises(BundleDamagedError) as caught:
            await wire.pull(data, to=to, sha256="0" * 64)
        assert caught.value.reason == "digest_mismatch"
    assert names(tmp_path) == []


async def test_a_blob_that_is_gone_is_a_peers_error_at_once() -> None:
    with pytest.raises(PeerError) as caught:
        await Wire(open_blob=lambda _: None).pull(b"x")
    assert caught.value.reason == "blob_gone"


async def test_a_file_that_vanished_is_gone(tmp_path: Path) -> None:
    with pytest.raises(PeerError) as caught:
        await Wire(open_blob=lambda _: tmp_path / "absent").pull(b"x")
    assert caught.value.reason == "blob_gone"


async def test_a_blob_shorter_than_promised_is_a_peers_error() -> None:
    data = noise(1000)
    with pytest.raises(PeerError) as caught:
        await Wire(open_blob=holding(data), retries=1).pull(data, size=2000)
    assert caught.value.reason == "wrong_blocks"


async def test_a_holder_that_never_answers_is_unreachable() -> None:
    wire = Wire(open_blob=lambda _: b"x", lose=lambda _: True, retries=2)
    with pytest.raises(UnreachableError) as caught:
        await wire.pull(b"x")
    assert caught.value.reason == "blob_timed_out"
    assert len(wire.wants) == 3


async def test_many_pulls_at_once_do_not_mix(tmp_path: Path) -> None:
    blobs = [noise(100_000 + number) for number in range(20)]
    wire = Wire(open_blob=holding(*blobs), block=8192)
    assert await asyncio.gather(*(wire.pull(blob) for blob in blobs)) == blobs


async def test_two_pulls_of_one_file_pull_once(tmp_path: Path) -> None:
    data = noise(300_000)
    wire = Wire(open_blob=holding(data))
    to = tmp_path / "blob"
    assert await asyncio.gather(*(wire.pull(data, to=to) for _ in range(2))) == [data, data]
    assert sum(len(block.data) for block in wire.blocks) == 300_000


async def test_a_file_is_served_as_bytes_are(tmp_path: Path) -> None:
    data = noise(300_000)
    (tmp_path / "held").write_bytes(data)
    assert await Wire(open_blob=lambda _: tmp_path / "held").pull(data) == data


async def test_no_more_is_ever_wanted_than_the_window_holds() -> None:
    data = noise(1_000_000)
    wire = Wire(open_blob=holding(data), block=10_000)
    under_way = most = widest = 0

    def watch(message: Message) -> bool:
        nonlocal under_way, most, widest
        widest = max(widest, wire.puller.lanes.of("").pace.window)
        under_way += message.count * message.block if isinstance(message, BlobWant) else -len(message.data)  # type: ignore[union-attr]  # nothing is gone here
        most = max(most, under_way - widest)
        return False

    wire.lose = watch
    assert await wire.pull(data) == data
    assert most <= 10_000
    assert wire.wants[0].count * wire.wants[0].block <= LEAST_WINDOW


async def test_transfers_over_one_lane_take_turns_and_share_its_window() -> None:
    blobs = [noise(200_000 + number) for number in range(6)]
    wire = Wire(open_blob=holding(*blobs))
    lane = wire.puller.lanes.of("")
    most = 0

    def watch(_: Message) -> bool:
        nonlocal most
        most = max(most, lane.transfers)
        return False

    wire.lose = watch
    assert await asyncio.gather(*(wire.pull(blob) for blob in blobs)) == blobs
    assert most == TRANSFERS_AT_ONCE
    assert (lane.transfers, lane.pace.under_way) == (0, 0)


async def test_the_holder_keeps_its_pace_over_all_wants() -> None:
    blobs = [noise(25_000), noise(25_001)]
    wire = Wire(open_blob=holding(*blobs), block=5_000, bytes_per_s=200_000, retries=50)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(wire.pull(blob) for blob in blobs))
    assert asyncio.get_running_loop().time() - began > 0.19


async def test_the_puller_asks_for_no_more_than_its_cap_over_all_pulls() -> None:
    blobs = [noise(25_000), noise(25_001)]
    wire = Wire(open_blob=holding(*blobs), retries=50)
    wire.puller.lanes = Lanes(bytes_per_s=200_000)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(wire.pull(blob) for blob in blobs))
    assert asyncio.get_running_loop().time() - began > 0.19


async def test_a_holder_serves_so_many_wants_and_no_more_and_none_for_ever() -> None:
    data, open_ = noise(10_000), asyncio.Event()
    published = 0

    async def publish(_: Outgoing) -> bool:
        nonlocal published
        published += 1
        await open_.wait()
        return True

    holder = BlobHolder(publish=publish, open_blob=holding(data))
    want = BlobWant(transfer="t", sha256=sha(data), offset=0, count=10, block=1000, worker="w")
    serving = [asyncio.create_task(holder.on_want(want, "t")) for _ in range(3 * MOST_WANTS)]
    await asyncio.sleep(0.01)
    assert sum(not task.done() for task in serving) == MOST_WANTS
    assert published * 1000 <= LEAST_WINDOW  # what is handed over at once, whoever wants how much
    open_.set()
    await asyncio.gather(*serving)
    assert published == MOST_WANTS * 10


async def test_what_a_holder_had_under_way_is_given_back_when_the_connection_goes() -> None:
    data = noise(100_000)

    async def publish(_: Outgoing) -> bool:
        await asyncio.sleep(0)
        raise UnreachableError("cut", reason="cut")

    holder = BlobHolder(publish=publish, open_blob=holding(data))
    want = BlobWant(transfer="t", sha256=sha(data), offset=0, count=100, block=1000, worker="w")
    await holder.on_want(want, "t")
    await asyncio.sleep(0)
    assert holder._lanes.of("").pace.under_way == 0


async def test_a_cancelled_pull_lets_go_of_its_file(tmp_path: Path) -> None:
    data = noise(300_000)
    wire = Wire(
        open_blob=holding(data), lose=lambda message: isinstance(message, BlobBlock) and message.offset > 70_000
    )
    pulling = asyncio.create_task(wire.pull(data, to=tmp_path / "blob"))
    await asyncio.sleep(0.02)
    pulling.cancel()
    await asyncio.gather(pulling, return_exceptions=True)
    assert 70_000 < (tmp_path / "blob.part").stat().st_size < 140_000
    wire.lose = lambda _: False
    assert await wire.pull(data, to=tmp_path / "blob") == data


def test_what_was_begun_is_swept_by_age_and_by_number(tmp_path: Path) -> None:
    for number in range(10):
        part = tmp_path / f"{number}.part"
        part.write_bytes(b"x")
        os.utime(part, (1000 + number, 1000 + number))
    sweep_parts(tmp_path, before_s=1003, most=4)
    assert sorted(names(tmp_path)) == ["6.part", "7.part", "8.part", "9.part"]
    sweep_parts(tmp_path, before_s=1008, most=4)
    assert sorted(names(tmp_path)) == ["8.part", "9.part"]


def test_what_belongs_to_no_pull_is_ignored() -> None:
    puller = Wire(open_blob=lambda _: None).puller
    puller.on_message(BlobBlock(transfer="nobody", offset=0, data=b"x"))
    puller.on_message(BlobGone(transfer="nobody", sha256="0" * 64, reason="gone"))
