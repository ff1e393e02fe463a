"""Hostile messages, each with its content type and the reason that it is refused for: bytes that no peer may be hurt by."""

import math
from typing import Any

import msgspec

from outrider_wire.codec import JSON, MSGPACK
from outrider_wire.limits import MESSAGE_BYTES

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
DIGEST = "a1" * 32
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
TELEMETRY = {"type": "telemetry", "device": "d", "boot_id": "b", "task": "t", "uptime_s": 1.0, "account": {}}
PRESENCE = {"type": "presence", "device": "d", "online": True, "boot_id": "b"}
BLOCK = {"type": "block", "transfer": "t", "offset": 0, "data": b""}


def pack(fields: dict[str, Any], **changed: Any) -> bytes:
    return msgspec.msgpack.encode(fields | changed)


def twice(key: str, first: object, second: object) -> bytes:
    """A receipt with a field that stands twice: text as bytes."""
    fields = [("type", "receipt"), ("id", ID), (key, first), (key, second)]
    if key == "type":
        del fields[0]
    said = [(name, value.decode() if isinstance(value, bytes) else value) for name, value in fields]
    return bytes([0x80 | len(said)]) + b"".join(msgspec.msgpack.encode(each) for pair in said for each in pair)


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
    "a type that stands twice": (twice("type", b"receipt", b"answer"), MSGPACK, "unparsable"),
    "a version that stands twice": (twice("v", 1, 99), MSGPACK, "unsupported_version"),
    "a version that stands twice, in JSON": (
        b'{"type":"receipt","id":"' + ID.encode() + b'","v":1,"v":2}',
        JSON,
        "unsupported_version",
    ),
    "infinity spelt in JSON": (b'{"type":"answer","confidence":Infinity}', JSON, "unparsable"),
    "a number that overflows a float, in JSON": (b'{"type":"answer","confidence":1e999}', JSON, "unparsable"),
    "a number of 10,000 digits, in JSON": (b'{"type":"receipt","v":' + b"9" * 10_000 + b"}", JSON, "unparsable"),
    "half a character in JSON": (b'{"type":"receipt","id":"\\ud800"}', JSON, "unparsable"),
    "an UTF-16 body": ('{"type":"receipt"}'.encode("utf-16"), JSON, "unparsable"),
    "a byte order mark before JSON": (b"\xef\xbb\xbf" + b'{"type":"receipt"}', JSON, "unparsable"),
    "a pickle": (b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93.", MSGPACK, "unparsable"),
    "a zip archive": (b"PK\x03\x04" + bytes(26), MSGPACK, "unparsable"),
    "a zstd frame that declares a gibibyte": (
        b"\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x40" + bytes(8),
        MSGPACK,
        "unparsable",
    ),
    "a telemetry of 65 states": (pack(TELEMETRY, account={f"s{k}": 1 for k in range(65)}), MSGPACK, "unparsable"),
    "a presence of 65 capabilities": (
        pack(PRESENCE, capabilities={f"c{k}": "" for k in range(65)}),
        MSGPACK,
        "unparsable",
    ),
    "an answer of 65 stages": (pack(ANSWER, ms={f"m{k}": 1.0 for k in range(65)}), MSGPACK, "unparsable"),
}
