"""UUIDv7 as RFC 9562 writes it."""

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_wire.ids import uuid7
from outrider_wire.names import Identifier

TIMES = st.integers(0, (1 << 48) - 1)
RANDOM = st.binary(min_size=10, max_size=16)


def test_the_example_of_the_rfc() -> None:
    """RFC 9562, appendix A.6: 2022-02-22 19:22:22 UTC, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F."""
    random = (0xCC3 << 68 | 0x18C4DC0C0C07398F & ((1 << 62) - 1)).to_bytes(10, "big")
    assert uuid7(0x017F22E279B0, random) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(TIMES, RANDOM)
def test_it_is_a_uuid_of_version_7_with_its_time_in_front(unix_ms: int, random: bytes) -> None:
    parsed = uuid.UUID(uuid7(unix_ms, random))
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == unix_ms


@given(TIMES, RANDOM)
def test_it_is_an_identifier_on_the_wire(unix_ms: int, random: bytes) -> None:
    assert msgspec.convert(uuid7(unix_ms, random), Identifier)


@given(TIMES, TIMES, RANDOM, RANDOM)
def test_ids_sort_by_time(one: int, other: int, first: bytes, second: bytes) -> None:
    if one < other:
        assert uuid7(one, first) < uuid7(other, second)


@given(st.sets(st.integers(0, (1 << 74) - 1), min_size=2, max_size=2))
def test_all_74_random_bits_count(bits: set[int]) -> None:
    made = {uuid7(1, (b >> 62 << 68 | b & ((1 << 62) - 1)).to_bytes(10, "big")) for b in bits}
    assert len(made) == 2


def test_a_time_or_randomness_that_cannot_be_is_refused() -> None:
    for unix_ms, random in ((-1, bytes(10)), (1 << 48, bytes(10)), (0, bytes(9))):
        with pytest.raises(ValueError, match=r"Unix time|random bytes"):
            uuid7(unix_ms, random)
