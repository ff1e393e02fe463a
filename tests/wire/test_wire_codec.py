"""Hostile bytes, case by case, each with the reason it gets; and whatever is sent arrives."""

import contextlib
import math
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_wire.codec import HELLOS, JSON, MSGPACK, common_version, decode, encode
from outrider_wire.errors import PeerError, PeerMessageError, PeerVersionError
from outrider_wire.limits import MESSAGE_BYTES
from outrider_wire.messages import Answer, Escalation, Message, Receipt

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
DIGEST = "a1" * 32
GOLDEN = Path(__file__).parent / "golden"
RECEIPT = {"type": "receipt", "id": ID, "v": 1}
ANSWER: dict[str, Any] = {
    "type": "answer",
    "id": ID,
    "task": "t",
    "label": "a",
    "confidence": 0.5,
    "probabilities": [0.5, 0.5],
    "strategy": "shunt",
    "model": "m",
}
WANT = {"type": "want", "transfer": "t", "sha256": DIGEST, "offset": 0, "count": 1, "block": 1, "worker": "w"}
BLOCK = {"type": "block", "transfer": "t", "offset": 0, "data": b""}


def pack(fields: dict[str, Any], **changed: Any) -> bytes:
    return msgspec.msgpack.encode(fields | changed)


def open_map(key: bytes) -> bytes:
    """The start of an answer whose last field is ``key``: the hostile value follows."""
    return b"\x82\xa4type\xa6answer" + bytes([0xA0 | len(key)]) + key


HUGE = b"\xff\xff\xff\xff"

HOSTILE: dict[str, tuple[bytes, str, str]] = {
    "nothing at all": (b"", MSGPACK, "unparsable"),
    "no JSON at all": (b"", JSON, "unparsable"),
    "random bytes": (bytes(range(255, 0, -1)), MSGPACK, "unparsable"),
    "JSON said to be MessagePack": (b'{"type":"receipt"}', MSGPACK, "unparsable"),
    "MessagePack said to be JSON": (pack(RECEIPT), JSON, "unparsable"),
    "an unknown coding": (pack(RECEIPT), "application/x-pickle", "unknown_content_type"),
    "an endless content type": (pack(RECEIPT), "x" * 100_000, "unknown_content_type"),
    "a number instead of a map": (b"\x07", MSGPACK, "unparsable"),
    "a list instead of a map": (b"\x91\xc0", MSGPACK, "unparsable"),
    "nil": (b"\xc0", MSGPACK, "unparsable"),
    "a map that ends early": (pack(RECEIPT)[:-3], MSGPACK, "unparsable"),
    "bytes after the end": (pack(RECEIPT) + b"\x00", MSGPACK, "unparsable"),
    "a type that does not exist": (pack(RECEIPT, type="shutdown"), MSGPACK, "unparsable"),
    "no type": (pack({"id": ID}), MSGPACK, "unparsable"),
    "a type that is a map": (pack(RECEIPT, type={}), MSGPACK, "unparsable"),
    "a required field missing": (pack({"type": "receipt"}), MSGPACK, "unparsable"),
    "a number for a text": (pack(RECEIPT, id=7), MSGPACK, "unparsable"),
    "a text for a number": (pack(ANSWER, confidence="0.5"), MSGPACK, "unparsable"),
    "a list of lists for a list of numbers": (pack(ANSWER, probabilities=[[0.5]]), MSGPACK, "unparsable"),
    "text that is not UTF-8": (b"\x82\xa4type\xa7receipt\xa2id\xb0" + b"\xff" * 16, MSGPACK, "unparsable"),
    "lists nested 100,000 deep": (open_map(b"x") + b"\x91" * 100_000, MSGPACK, "unparsable"),
    "maps nested 100,000 deep": (open_map(b"x") + b"\x81\xa1x" * 100_000, MSGPACK, "unparsable"),
    "JSON nested 100,000 deep": (b'{"x":' + b"[" * 100_000, JSON, "unparsable"),
    "a list that claims 4 billion items": (open_map(b"probabilities") + b"\xdd" + HUGE, MSGPACK, "unparsable"),
    "an unknown list that claims 4 billion items": (open_map(b"x") + b"\xdd" + HUGE, MSGPACK, "unparsable"),
    "a map that claims 4 billion keys": (open_map(b"ms") + b"\xdf" + HUGE, MSGPACK, "unparsable"),
    "a text that claims 4 GiB": (open_map(b"label") + b"\xdb" + HUGE, MSGPACK, "unparsable"),
    "bytes that claim 4 GiB": (open_map(b"label") + b"\xc6" + HUGE, MSGPACK, "unparsable"),
    "an extension that claims 4 GiB": (open_map(b"label") + b"\xc9" + HUGE + b"\x01", MSGPACK, "unparsable"),
    "a probability that is NaN": (pack(ANSWER, probabilities=[math.nan, 1.0]), MSGPACK, "unparsable"),
    "a probability above one": (pack(ANSWER, probabilities=[1.5]), MSGPACK, "unparsable"),
    "a probability below zero": (pack(ANSWER, probabilities=[-0.1]), MSGPACK, "unparsable"),
    "a confidence that is NaN": (pack(ANSWER, confidence=math.nan), MSGPACK, "unparsable"),
    "a duration that is NaN": (pack(ANSWER, ms={"total": math.nan}), MSGPACK, "unparsable"),
    "a duration that is infinite": (pack(ANSWER, ms={"total": math.inf}), MSGPACK, "unparsable"),
    "NaN spelt in JSON": (b'{"type":"answer","confidence":NaN}', JSON, "unparsable"),
    "more probabilities than labels can be": (pack(ANSWER, probabilities=[0.0] * 4097), MSGPACK, "unparsable"),
    "a task name of 65 letters": (pack(ANSWER, task="t" * 65), MSGPACK, "unparsable"),
    "an empty task name": (pack(ANSWER, task=""), MSGPACK, "unparsable"),
    "a task name with a topic wildcard": (pack(ANSWER, task="#"), MSGPACK, "unparsable"),
    "a task name that ends in a newline": (pack(ANSWER, task="t\n"), MSGPACK, "unparsable"),
    "an id that leads out of a folder": (pack(RECEIPT, id="../../../../etc/passwd"), MSGPACK, "unparsable"),
    "a label of 257 letters": (pack(ANSWER, label="a" * 257), MSGPACK, "unparsable"),
    "a stage name of 33 letters": (pack(ANSWER, ms={"s" * 33: 1.0}), MSGPACK, "unparsable"),
    "a digest in capitals": (pack(WANT, sha256="A1" * 32), MSGPACK, "unparsable"),
    "a want before the start": (pack(WANT, offset=-1), MSGPACK, "unparsable"),
    "a want of no blocks": (pack(WANT, count=0), MSGPACK, "unparsable"),
    "a want of a million blocks": (pack(WANT, count=1_000_000), MSGPACK, "unparsable"),
    "a want of blocks of nothing": (pack(WANT, block=0), MSGPACK, "unparsable"),
    "a want of a gigabyte a block": (pack(WANT, block=1 << 30), MSGPACK, "unparsable"),
    "a want beyond 64 bits": (pack(WANT, offset=2**64 - 1), MSGPACK, "unparsable"),
    "a block above the limit": (pack(BLOCK, data=bytes(64 * 1024 + 1)), MSGPACK, "unparsable"),
    "a whole message above the limit": (b"\x00" * (MESSAGE_BYTES + 1), MSGPACK, "too_large"),
    "a version from the future": (pack(RECEIPT, v=2), MSGPACK, "unsupported_version"),
    "a version from the future, in JSON": (b'{"type":"receipt","v":99}', JSON, "unsupported_version"),
    "a future version of an unknown type": (pack({"type": "quantum", "v": 99}), MSGPACK, "unsupported_version"),
    "a negative version": (pack(RECEIPT, v=-1), MSGPACK, "unsupported_version"),
    "version zero": (pack(RECEIPT, v=0), MSGPACK, "unparsable"),
    "a version in words": (pack(RECEIPT, v="one"), MSGPACK, "unparsable"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_get_their_reason(name: str) -> None:
    data, content_type, reason = HOSTILE[name]
    with pytest.raises(PeerError) as caught:
        decode(data, content_type)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 1000, "a hostile message must not flood the log"


def test_a_foreign_version_is_its_own_error_and_names_the_served_ones() -> None:
    with pytest.raises(PeerVersionError, match="speak one of 1"):
        decode(pack(RECEIPT, v=2))


def test_the_version_before_is_served_where_it_is_listed() -> None:
    assert decode(pack(RECEIPT, v=2), served=(1, 2)) == Receipt(id=ID, v=2)


def test_an_absent_content_type_means_messagepack() -> None:
    assert decode(pack(RECEIPT), "") == Receipt(id=ID)


def test_unknown_fields_of_a_newer_peer_are_ignored() -> None:
    assert decode(pack(RECEIPT, mood="sunny", deep={"a": [1, {"b": None}]})) == Receipt(id=ID)


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
