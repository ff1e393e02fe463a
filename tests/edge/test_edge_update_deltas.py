"""An update by delta ends as one by whole files does; whatever is wrong with a delta, the whole file is fetched by itself."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from delta_pairs import bundle_with, model_of, sha, some_weights
from edge_entries import until
from edge_releases import TASK, Device, ShelfSource
from mosquitto import AnyBroker

from outrider_edge.uplink.delta_asking import DeltaAsking
from outrider_engine.delta.make import make_delta
from outrider_link.envelope import Outgoing
from outrider_link.files import write_durably
from outrider_wire.codec import decode
from outrider_wire.errors import PeerError, UnreachableError
from outrider_wire.messages import BlobGone, DeltaFound, DeltaWant

BEFORE = some_weights(1)
OLD = model_of(BEFORE)
NEW = model_of(BEFORE | {"layer.3.weight": BEFORE["layer.3.weight"] + np.float32(1e-3)})


class DeltaShelf(ShelfSource):
    """A shelf with deltas, by their base's and target's digest."""

    def __init__(self, *bundles: Path) -> None:
        super().__init__(*bundles)
        self.deltas: dict[tuple[str, str], bytes] = {}
        self.trouble: Exception | None = None
        self.asked: list[list[str]] = []

    async def pull_delta(self, *, sha256: str, size: int, bases: Sequence[str], to: Path) -> str | None:
        """As `outrider_edge.updates.deltas.DeltaSource`."""
        self.asked.append(list(bases))
        if self.trouble is not None:
            raise self.trouble
        for base in bases:
            if (data := self.deltas.get((base, sha256))) is not None:
                write_durably(to, data)
                return base
        return None


class World:
    """A device that runs the old release, and a shelf with the new one."""

    def __init__(self, folder: Path) -> None:
        self.new = bundle_with(folder / "new", TASK, NEW, "2")
        self.source = DeltaShelf(self.new)
        bundle_with(folder / "factory", TASK, OLD, "1")
        self.device = Device(folder, self.source)

    async def updated(self) -> None:
        """Runs the update to probation; the slot then holds the new file, and nothing lies about."""
        updater = self.device.run()
        updater.assign(self.device.wish(self.new))
        await until(lambda: updater.report().state == "probation")
        assert (self.device.slots().path("b") / "large.onnx").read_bytes() == NEW
        assert not (self.device.slots().folder / "deltas").exists()
        await updater.stop()

    @property
    def whole(self) -> int:
        """How often the whole file was pulled."""
        return self.source.pulled[sha(NEW)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_file_is_made_of_the_one_in_the_slot_and_a_delta(world: World) -> None:
    world.source.deltas[sha(OLD), sha(NEW)] = make_delta(OLD, NEW)
    await world.updated()
    assert world.whole == 0
    assert world.source.asked == [[sha(OLD)]], "small files are not worth a question"


FOREIGN = make_delta(NEW, OLD)
WRONG: dict[str, Callable[[], bytes]] = {
    "cut": lambda: make_delta(OLD, NEW)[:-7],
    "flipped": lambda: bytes([*(good := make_delta(OLD, NEW))[:-9], good[-9] ^ 0x10, *good[-8:]]),
    "for another base": lambda: make_delta(OLD + b"?", NEW),
    "to another file": lambda: make_delta(OLD, OLD),
    "the other way round": lambda: FOREIGN,
    "empty": lambda: b"",
    "noise": lambda: np.random.default_rng(0).bytes(4_000),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_whatever_is_wrong_with_a_delta_the_whole_file_is_fetched(world: World, wrong: str) -> None:
    world.source.deltas[sha(OLD), sha(NEW)] = WRONG[wrong]()
    await world.updated()
    assert (world.whole, len(world.source.asked)) == (1, 1)


async def test_a_source_that_has_no_delta_any_more_is_asked_for_the_file(world: World) -> None:
    world.source.trouble = PeerError("swept", reason="blob_gone")
    await world.updated()
    assert world.whole == 1


async def test_a_file_in_the_slot_that_was_changed_by_hand_is_no_base(world: World) -> None:
    world.source.deltas[sha(OLD), sha(NEW)] = make_delta(OLD, NEW)
    updater = world.device.run()
    (world.device.slots().path("a") / "large.onnx").write_bytes(OLD[:-1] + b"?")
    updater.assign(world.device.wish(world.new))
    await until(lambda: updater.report().state == "probation")
    assert world.whole == 1
    await updater.stop()


async def test_an_update_goes_on_after_a_delta_s_source_was_away(world: World) -> None:
    world.source.deltas[sha(OLD), sha(NEW)] = make_delta(OLD, NEW)
    world.source.trouble = UnreachableError("nobody answers", reason="blob_timed_out")
    updater = world.device.run()
    updater.assign(world.device.wish(world.new))
    await until(lambda: len(world.source.asked) >= 2)
    world.source.trouble = None
    await until(lambda: updater.report().state == "probation")
    assert world.whole == 0
    await updater.stop()


async def test_what_a_kill_left_of_a_delta_is_in_nobody_s_way(world: World) -> None:
    left = world.device.slots().folder / "deltas"
    left.mkdir(parents=True)
    for name in ("rebuilt", ".rebuilt.rebuilt", f"{sha(NEW)[:16]}.delta.part"):
        (left / name).write_bytes(b"half")
    world.source.deltas[sha(OLD), sha(NEW)] = make_delta(OLD, NEW)
    await world.updated()
    assert world.whole == 0


class Line:
    """Where questions go; answers each with what ``says`` makes of it."""

    def __init__(self, says: Callable[[DeltaWant], list[DeltaFound | BlobGone]]) -> None:
        self.wants: list[DeltaWant] = []
        self.says = says
        self.asking = DeltaAsking(
            publish=self.publish, topic=lambda transfer: f"t/{transfer}", timeout_s=0.05, again_s=0.01, patience_s=1.0
        )

    async def publish(self, message: Outgoing) -> bool:
        want = decode(message.payload)
        assert isinstance(want, DeltaWant) and message.topic == f"t/{want.transfer}"
        self.wants.append(want)
        for reply in self.says(want):
            assert self.asking.take(reply)
        return True

    async def ask(self) -> DeltaFound | None:
        return await self.asking.ask(sha256=sha(NEW), bases=[sha(OLD)])


def found(want: DeltaWant, **changed: str) -> DeltaFound:
    said = {"sha256": want.sha256, "base": want.bases[0], "delta": "5c" * 32} | changed
    return DeltaFound(transfer=want.transfer, size=10, **said)


def gone(want: DeltaWant, reason: str) -> BlobGone:
    return BlobGone(transfer=want.transfer, sha256=want.sha256, reason=reason)


async def test_a_delta_that_is_being_made_is_asked_for_again() -> None:
    line = Line(lambda want: [gone(want, "delta_pending") if len(line.wants) < 4 else found(want)])
    reply = await line.ask()
    assert reply is not None and reply.delta == "5c" * 32
    assert len({want.transfer for want in line.wants}) == 4


async def test_a_cloud_that_says_no_is_asked_once_and_one_that_never_says_anything_twice() -> None:
    refusing = Line(lambda want: [gone(want, "delta_not_worth")])
    assert (await refusing.ask(), len(refusing.wants)) == (None, 1)
    silent = Line(lambda _: [])
    assert (await silent.ask(), len(silent.wants)) == (None, 2)


async def test_a_delta_that_is_never_finished_is_not_waited_for_for_ever() -> None:
    line = Line(lambda want: [gone(want, "delta_pending")])
    async with asyncio.timeout(20):
        assert await line.ask() is None


async def test_a_reply_about_another_file_or_of_a_base_that_is_not_here_is_none() -> None:
    for changed in ({"sha256": "0" * 64}, {"base": "0" * 64}):
        assert await Line(lambda want, changed=changed: [found(want, **changed)]).ask() is None  # type: ignore[misc]  # a default binds it
    assert not Line(lambda _: []).asking.take(found(DeltaWant(transfer="t", sha256="0" * 64, bases=["1" * 64])))


@pytest.mark.broker
async def test_an_uplink_asks_the_cloud_over_the_broker_and_pulls_the_delta(broker: AnyBroker, tmp_path: Path) -> None:
    from edge_cloud import FakeCloud

    from outrider_edge.metrics import Metrics
    from outrider_edge.outbox.outbox import Outbox
    from outrider_edge.uplink.uplink import BrokerAccess, Uplink

    delta = make_delta(OLD, NEW)
    async with FakeCloud(broker.url) as cloud:
        cloud.deltas[sha(OLD), sha(NEW)] = delta
        outbox = Outbox(folder=tmp_path / "outbox")
        await outbox.start()
        uplink = Uplink(
            device="cam-7", access=BrokerAccess(url=broker.url), outbox=outbox, figures=Metrics(tasks=[TASK.name])
        )
        await uplink.start()
        await uplink.wait_connected(10)
        bases = ["0" * 64, sha(OLD)]
        to = tmp_path / "it.delta"
        assert await uplink.pull_delta(sha256=sha(NEW), size=len(NEW), bases=bases, to=to) == sha(OLD)
        assert to.read_bytes() == delta
        assert await uplink.pull_delta(sha256=sha(OLD), size=len(OLD), bases=[sha(NEW)], to=to) is None
        too_small = tmp_path / "other"
        assert await uplink.pull_delta(sha256=sha(NEW), size=len(delta), bases=bases, to=too_small) is None
        assert not too_small.exists()
        await uplink.stop()
        await outbox.stop()
