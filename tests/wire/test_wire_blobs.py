"""A blob arrives whole in any weather, or is given up with a reason; nothing is ever written twice or elsewhere."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outrider_wire.blobs import BLOCK_BYTES, Pull, block_size, blocks_for
from outrider_wire.messages import BlobWant

DIGEST = "a1" * 32


def pull(**changed: Any) -> Pull:
    return Pull(**({"sha256": DIGEST, "size": 100, "block": 10, "window": 40} | changed))


def want(offset: int, count: int, block: int) -> BlobWant:
    return BlobWant(transfer="t", sha256=DIGEST, offset=offset, count=count, block=block, worker="w")


def served(blob: bytes, wants: list[tuple[int, int, int]]) -> list[tuple[int, bytes]]:
    """What an honest holder sends."""
    return [
        (offset, blob[offset : offset + length])
        for at, count, block in wants
        for offset, length in blocks_for(want(at, count, block), len(blob))
    ]


def test_an_honest_holder_fills_it() -> None:
    blob, machine, written = bytes(range(95)), pull(size=95), bytearray()
    while not machine.done:
        for offset, data in served(blob, machine.next_wants()):
            for at, piece in machine.on_block(offset, data):
                assert at == len(written)
                written += piece
    assert bytes(written) == blob
    assert machine.failed == ""


def test_one_want_asks_for_the_whole_window() -> None:
    assert pull().next_wants() == [(0, 4, 10)]


def test_nothing_is_asked_while_more_than_half_the_window_is_under_way() -> None:
    machine = pull()
    machine.next_wants()
    machine.on_block(0, bytes(10))
    assert machine.next_wants() == []
    machine.on_block(10, bytes(10))
    assert machine.next_wants() == [(40, 2, 10)]


def test_an_early_block_waits_for_the_one_before() -> None:
    machine = pull()
    machine.next_wants()
    assert machine.on_block(10, b"b" * 10) == []
    assert machine.on_block(0, b"a" * 10) == [(0, b"a" * 10), (10, b"b" * 10)]


def test_it_resumes_where_the_prefix_ends() -> None:
    machine = pull(have=33)
    assert machine.next_wants() == [(33, 4, 10)]
    assert machine.on_block(33, bytes(10)) == [(33, bytes(10))]


def test_a_prefix_longer_than_the_blob_is_started_over() -> None:
    assert pull(have=101).received == 0


def test_a_blob_of_nothing_is_done_at_once() -> None:
    machine = pull(size=0)
    assert machine.done
    assert machine.next_wants() == []


def test_a_whole_prefix_is_done_at_once() -> None:
    assert pull(have=100).done


@pytest.mark.parametrize(
    ("offset", "length"),
    [(-10, 10), (5, 10), (40, 10), (100, 10), (1 << 40, 10), (0, 9), (0, 11), (0, 0)],
    ids=["before", "off the grid", "beyond the window", "at the end", "far out", "short", "long", "empty"],
)
def test_a_block_that_is_not_as_asked_is_ignored(offset: int, length: int) -> None:
    machine = pull()
    machine.next_wants()
    assert machine.on_block(offset, bytes(length)) == []
    assert (machine.received, machine.ignored) == (0, 1)


def test_a_block_that_was_never_asked_for_is_ignored() -> None:
    machine = pull()
    assert machine.on_block(0, bytes(10)) == []
    assert (machine.received, machine.ignored) == (0, 1)


def test_blocks_grow_and_shrink_while_the_old_ones_are_under_way() -> None:
    machine = pull()
    assert machine.next_wants() == [(0, 4, 10)]
    for offset in (0, 10, 30):
        machine.on_block(offset, bytes(10))
    machine.block, machine.window = 25, 100
    assert machine.next_wants() == [(40, 3, 25)]
    machine.on_timeout()
    machine.block = 7
    assert machine.next_wants() == [(20, 1, 7), (27, 1, 3), (40, 9, 7)]
    assert machine.on_block(20, bytes(10)) == []


def test_a_window_smaller_than_a_block_still_asks_for_one() -> None:
    machine = pull(window=3)
    assert machine.next_wants() == [(0, 1, 10)]
    assert machine.next_wants() == []


def test_a_run_is_never_longer_than_a_want_may_say() -> None:
    assert pull(size=1000, block=1, window=600).next_wants() == [(0, 256, 1), (256, 256, 1), (512, 88, 1)]


def test_a_repeated_block_is_ignored() -> None:
    machine = pull()
    machine.next_wants()
    machine.on_block(0, bytes(10))
    assert machine.on_block(0, b"x" * 10) == []


def test_a_timeout_asks_again_for_what_is_missing_only() -> None:
    machine = pull()
    machine.next_wants()
    machine.on_block(10, bytes(10))
    machine.on_timeout()
    assert machine.next_wants() == [(0, 1, 10), (20, 2, 10)]


def test_silence_is_given_up_after_the_retries() -> None:
    machine = pull(retries=2)
    for _ in range(3):
        assert machine.failed == ""
        machine.next_wants()
        machine.on_timeout()
    assert machine.failed == "timed_out"
    assert machine.next_wants() == []
    assert machine.on_block(0, bytes(10)) == []


def test_progress_forgives_earlier_silence() -> None:
    machine = pull(retries=1)
    machine.on_timeout()
    machine.next_wants()
    machine.on_block(0, bytes(10))
    machine.on_timeout()
    assert machine.failed == ""


def test_a_holder_of_wrong_blocks_is_named() -> None:
    machine = pull(retries=0)
    machine.next_wants()
    machine.on_block(0, bytes(3))
    machine.on_timeout()
    assert machine.failed == "wrong_blocks"


def test_gone_ends_it_with_the_reason() -> None:
    machine = pull()
    machine.on_gone("not_here")
    assert (machine.failed, machine.done) == ("not_here", False)


def test_gone_after_the_end_changes_nothing() -> None:
    machine = pull(have=100)
    machine.on_gone("not_here")
    assert machine.done


@given(st.integers(0, 2000), st.integers(0, 3000), st.integers(1, 256), st.integers(1, 200))
def test_a_holder_sends_only_what_lies_inside_the_blob(size: int, offset: int, count: int, block: int) -> None:
    blocks = blocks_for(want(offset, count, block), size)
    assert len(blocks) <= count
    assert all(at >= 0 and 1 <= length <= min(block, size - at) for at, length in blocks)
    assert sum(length for _, length in blocks) == max(0, min(size, offset + count * block) - offset)


def test_a_block_fits_the_packet_and_a_quarter_second_of_the_link() -> None:
    assert block_size(0) == BLOCK_BYTES
    assert block_size(268_435_455) == BLOCK_BYTES
    assert block_size(10_240) == 10_240 - 512
    assert block_size(10_240, link_bytes_per_s=8_000) == 2_000
    assert block_size(0, link_bytes_per_s=10) == 256
    assert block_size(600) == 88
    assert block_size(100) == 1


class Weather(RuleBasedStateMachine):
    """Blocks are delivered in any order, twice, damaged or never; the holder may vanish."""

    @initialize(size=st.integers(0, 300), block=st.integers(1, 40), window=st.integers(1, 300), data=st.data())
    def start(self, size: int, block: int, window: int, data: st.DataObject) -> None:
        self.blob = bytes(number * 7 % 251 for number in range(size))
        have = data.draw(st.integers(0, size))
        self.written = bytearray(self.blob[:have])
        self.most = max(window, block)
        self.machine = pull(size=size, block=block, window=window, have=have, retries=3)
        self.flying: list[tuple[int, bytes]] = []

    @rule()
    def ask(self) -> None:
        self.flying += served(self.blob, self.machine.next_wants())

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "arrives", "arrives twice", "is lost", "is cut short"]))
    def deliver(self, data: st.DataObject, fate: str) -> None:
        offset, content = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        if fate == "is cut short":
            self.write(offset, content[:-1])
        elif fate != "is lost":
            self.write(offset, content)
        if fate == "arrives twice":
            self.flying.append((offset, content))

    @rule(offset=st.integers(-50, 400), length=st.integers(0, 60))
    def stray(self, offset: int, length: int) -> None:
        """A block of another transfer: it may only matter when it could be the right one."""
        content = self.blob[offset : offset + length] if offset >= 0 else bytes(length)
        self.write(offset, content)

    @rule(block=st.integers(1, 40), window=st.integers(1, 300))
    def the_link_changes(self, block: int, window: int) -> None:
        self.machine.block, self.machine.window = block, window
        self.most = max(self.most, window, block)

    @rule()
    def silence(self) -> None:
        self.machine.on_timeout()

    @rule(reason=st.sampled_from(["not_here", ""]))
    @precondition(lambda self: len(self.written) > len(self.blob) // 2)
    def vanish(self, reason: str) -> None:
        self.machine.on_gone(reason)

    def write(self, offset: int, content: bytes) -> None:
        for at, piece in self.machine.on_block(offset, content):
            assert at == len(self.written), "a block is written exactly where the last one ended"
            self.written += piece

    @invariant()
    def what_is_written_is_a_prefix(self) -> None:
        if hasattr(self, "machine"):
            assert bytes(self.written) == self.blob[: len(self.written)]
            assert self.machine.received == len(self.written)

    @invariant()
    def memory_is_bounded_by_the_window(self) -> None:
        if hasattr(self, "machine"):
            early = sum(map(len, self.machine._early.values()))
            assert early + self.machine.under_way <= 2 * self.most

    def teardown(self) -> None:
        """From wherever the weather left it, an honest holder completes it, or a silent one has it give up."""
        if not hasattr(self, "machine"):
            return
        for _ in range(len(self.blob) + 20):
            if self.machine.done or self.machine.failed:
                break
            sent = served(self.blob, self.machine.next_wants())
            for offset, content in sent:
                self.write(offset, content)
            if not sent:
                self.machine.on_timeout()
        assert self.machine.done != bool(self.machine.failed)
        if self.machine.done:
            assert bytes(self.written) == self.blob


TestWeather = Weather.TestCase
TestWeather.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
