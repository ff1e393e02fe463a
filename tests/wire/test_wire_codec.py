"""Whatever is sent arrives, and nothing else does. The hostile messages, case by case: ``tests/hostile``."""

import contextlib
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hostile_messages import ANSWER, DIGEST, ID, RECEIPT, pack, twice
from hypothesis import given
from hypothesis import strategies as st

from outrider_cloud.intake.intake import read_id
from outrider_link.envelope import Incoming
from outrider_wire.codec import HELLOS, JSON, MSGPACK, common_version, decode, encode
from outrider_wire.errors import PeerError, PeerMessageError, PeerVersionError
from outrider_wire.messages import Answer, Escalation, Message, Receipt

GOLDEN = Path(__file__).parent / "golden"


def test_a_foreign_version_is_its_own_error_and_names_the_served_ones() -> None:
    with pytest.raises(PeerVersionError, match="speak one of 1"):
        decode(pack(RECEIPT, v=2))


def test_the_version_before_is_served_where_it_is_listed() -> None:
    assert decode(pack(RECEIPT, v=2), served=(1, 2)) == Receipt(id=ID, v=2)


def test_an_absent_content_type_means_messagepack() -> None:
    assert decode(pack(RECEIPT), "") == Receipt(id=ID)


def test_unknown_fields_of_a_newer_peer_are_ignored() -> None:
    assert decode(pack(RECEIPT, mood="sunny", deep={"a": [1, {"b": None}]})) == Receipt(id=ID)


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_of_a_field_that_stands_twice_everyone_reads_the_last(content_type: str) -> None:
    """No two readers of one message may see two different inputs in it."""
    other = ID.replace("0", "1")
    data = twice("id", ID.encode(), other.encode())
    if content_type == JSON:
        data = f'{{"type":"receipt","id":"{ID}","id":"{other}"}}'.encode()
    assert decode(data, content_type) == Receipt(id=other)
    assert read_id(Incoming(topic="", payload=data, content_type=content_type)) == other


def test_a_lower_limit_may_be_asked_for() -> None:
    with pytest.raises(PeerMessageError, match="more than the 10"):
        decode(pack(RECEIPT), limit=10)


@given(st.binary(max_size=200), st.sampled_from([MSGPACK, JSON]))
def test_any_bytes_give_a_message_or_a_peer_error(data: bytes, content_type: str) -> None:
    try:
        decode(data, content_type)
    except PeerError as error:
        assert error.reason in {"unparsable", "unsupported_version"}


@given(st.data(), st.integers(0, 255))
def test_a_flipped_byte_gives_a_message_or_a_peer_error(data: st.DataObject, value: int) -> None:
    damaged = bytearray(pack(ANSWER))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = value
    with contextlib.suppress(PeerError):
        assert isinstance(decode(bytes(damaged)), get_args(Message))


def of_info(info: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 -- one return a kind of type
    """A strategy for whatever msgspec says a type is: new messages and fields are covered as they come."""
    match info:
        case msgspec.inspect.StructType():
            return st.builds(info.cls, **{field.name: of_info(field.type) for field in info.fields})
        case msgspec.inspect.UnionType():
            return st.one_of([of_info(member) for member in info.types])
        case msgspec.inspect.LiteralType():
            return st.sampled_from(info.values)
        case msgspec.inspect.ListType():
            return st.lists(of_info(info.item_type), min_size=info.min_length or 0, max_size=3)
        case msgspec.inspect.DictType():
            return st.dictionaries(of_info(info.key_type), of_info(info.value_type), max_size=3)
        case msgspec.inspect.StrType() if info.pattern:
            return st.from_regex(info.pattern, fullmatch=True)
        case msgspec.inspect.StrType():
            return st.text(min_size=info.min_length or 0, max_size=min(info.max_length or 20, 20))
        case msgspec.inspect.IntType():
            return st.integers(info.ge, info.le if info.le is not None else info.lt - 1)
        case msgspec.inspect.FloatType():
            return st.floats(info.ge, info.le if info.le is not None else 1e300)
        case msgspec.inspect.BytesType():
            return st.binary(max_size=50)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
    raise AssertionError(f"no strategy for {info}")


ANY_MESSAGE = st.one_of([of_info(msgspec.inspect.type_info(kind)) for kind in get_args(Message)])
EVERY_VERSION = range(1, 1001)


@given(ANY_MESSAGE, st.sampled_from([MSGPACK, JSON]))
def test_whatever_is_encoded_decodes_to_itself(message: Message, content_type: str) -> None:
    assert decode(encode(message, content_type), content_type, served=EVERY_VERSION) == message


@given(ANY_MESSAGE, st.sampled_from([MSGPACK, JSON]))
def test_a_version_that_is_not_served_is_refused_in_all_but_hellos(message: Message, content_type: str) -> None:
    if message.__struct_config__.tag in HELLOS:
        assert decode(encode(message, content_type), content_type, served=()) == message
        return
    with pytest.raises(PeerVersionError):
        decode(encode(message, content_type), content_type, served=())


@pytest.mark.parametrize(
    ("theirs", "ours", "common"), [([1], (1,), 1), ([1, 2], (2, 3), 2), ([3], (1, 2), None), ([], (1,), None)]
)
def test_two_peers_speak_the_newest_version_of_both(theirs: list[int], ours: tuple[int, ...], common: object) -> None:
    assert common_version(theirs, ours) == common


def test_an_answer_may_come_without_probabilities() -> None:
    answer = decode(pack(ANSWER, probabilities=[]))
    assert isinstance(answer, Answer)
    assert answer.probabilities == []


def test_an_escalation_without_facts_says_nothing_of_them_and_an_older_one_is_read() -> None:
    sent = {
        "id": ID,
        "task": "t",
        "parts": [{"name": "p", "modality": "text", "media_type": "", "size": 0, "sha256": DIGEST}],
    }
    sent |= {"type": "escalation", "why": "audit", "model": DIGEST, "label": "a", "probabilities": [1.0]}
    older = decode(pack(sent, answer_within_ms=1, keep_for_s=1))
    assert isinstance(older, Escalation) and older.known == []
    assert b"facts" not in encode(older) and b"facts" not in encode(older, JSON)


def test_seventeen_facts_are_too_many() -> None:
    golden = (GOLDEN / "escalation-with-facts.v1.msgpack").read_bytes()
    fields = msgspec.msgpack.decode(golden)
    with pytest.raises(PeerMessageError, match="length <= 16"):
        decode(pack(fields, facts=[fields["facts"][0]] * 17))
