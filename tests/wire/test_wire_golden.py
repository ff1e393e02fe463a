"""The bytes of every message are fixed: a device in the field decodes what a newer cloud encodes, and the reverse.

To write the files for a new message (never to change an old one): OUTRIDER_WRITE_GOLDEN=1 pytest tests/wire/test_wire_golden.py
"""

import os
from pathlib import Path
from typing import get_args

import pytest

from outrider_wire.codec import JSON, MSGPACK, decode, encode
from outrider_wire.messages import (
    Answer,
    Assignment,
    BlobBlock,
    BlobGone,
    BlobWant,
    DeltaFound,
    DeltaWant,
    Desired,
    Ended,
    Escalation,
    Fact,
    FullForm,
    Message,
    MetadataFound,
    MetadataNotice,
    MetadataWant,
    Part,
    Presence,
    Receipt,
    Refusal,
    Reported,
    SlotReport,
    StopNotice,
    Telemetry,
)

GOLDEN = Path(__file__).parent / "golden"
CODINGS = {"msgpack": MSGPACK, "json": JSON}
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
DIGEST, OTHER = "a1" * 32, "0f" * 32

MESSAGES: dict[str, Message] = {
    "escalation": Escalation(
        id=ID,
        task="easy-vqa",
        parts=[
            Part(name="image", modality="image", media_type="image/png", size=4, sha256=DIGEST, inline=b"\x89PNG"),
            Part(name="clip", modality="audio", media_type="audio/wav", size=300_000, sha256=OTHER),
        ],
        why="low_confidence",
        model=DIGEST,
        label="blå",
        probabilities=[0.5, 0.25, 0.25],
        audit=0.02,
        answer_within_ms=1500,
        keep_for_s=86_400,
        group="clip-17",
        offer=2,
    ),
    "escalation-with-facts": Escalation(
        id=ID,
        task="easy-vqa",
        parts=[Part(name="question", modality="text", media_type="text/plain", size=3, sha256=DIGEST, inline=b"is?")],
        why="unsupported",
        model=DIGEST,
        label="blå",
        probabilities=[0.5, 0.25, 0.25],
        answer_within_ms=1500,
        keep_for_s=86_400,
        facts=[Fact(name="colour", label="red", confidence=0.75), Fact(name="shape", label="circle", confidence=0.5)],
    ),
    "escalation-first-form": Escalation(
        id=ID,
        task="easy-vqa",
        parts=[
            Part(
                name="image",
                modality="image",
                media_type="image/jpeg",
                size=3,
                sha256=DIGEST,
                inline=b"\xff\xd8\xff",
                full=FullForm(media_type="image/png", size=12_288, sha256=OTHER),
            )
        ],
        why="low_confidence",
        model=DIGEST,
        label="blå",
        probabilities=[0.5, 0.25, 0.25],
        answer_within_ms=1500,
        keep_for_s=86_400,
    ),
    "receipt": Receipt(id=ID),
    "answer": Answer(
        id=ID,
        task="easy-vqa",
        label="red",
        confidence=0.75,
        probabilities=[0.75, 0.25],
        strategy="soft-prune",
        model="onnx:easy-vqa-large@1",
        ms={"queue": 0.5, "total": 12.25},
    ),
    "answer-to-first-form": Answer(
        id=ID,
        task="easy-vqa",
        label="red",
        confidence=0.75,
        probabilities=[0.75, 0.25],
        strategy="shunt",
        model="onnx:easy-vqa-large@1",
        form="first",
    ),
    "refusal": Refusal(id=ID, reason="overloaded", detail="ask again", retry_after_s=2.5),
    "want": BlobWant(transfer="t-1", sha256=DIGEST, offset=65_536, count=8, block=65_536, worker="releases"),
    "block": BlobBlock(transfer="t-1", offset=65_536, data=bytes(range(8))),
    "gone": BlobGone(transfer="t-1", sha256=DIGEST, reason="not_here"),
    "delta-want": DeltaWant(transfer="t-2", sha256=DIGEST, bases=[OTHER]),
    "delta-found": DeltaFound(transfer="t-2", sha256=DIGEST, base=OTHER, delta="5c" * 32, size=4_096),
    "desired": Desired(assignments=[Assignment(task="easy-vqa", release=DIGEST, size=2048, counter=3)]),
    "desired-by-order": Desired(assignments=[], order=b'{"payloadType":"t"}'),
    "metadata-want": MetadataWant(transfer="t-1", path="metadata/timestamp.json"),
    "metadata-found": MetadataFound(
        transfer="t-1", path="metadata/timestamp.json", sha256=DIGEST, size=9, data=b'{"a": "b"'
    ),
    "metadata-absent": MetadataFound(transfer="t-1", path="metadata/2.root.json", sha256=""),
    "metadata": MetadataNotice(timestamp=7),
    "stop": StopNotice(envelope=b'{"payloadType":"t"}'),
    "reported": Reported(
        slots=[
            SlotReport(
                task="easy-vqa",
                running=DIGEST,
                version="2026.1",
                slot="b",
                state="refused",
                reason="its digest is another",
                offered=OTHER,
                counter=3,
                refused=[OTHER],
            )
        ]
    ),
    "reported-by-order": Reported(
        slots=[
            SlotReport(
                task="easy-vqa",
                running=DIGEST,
                version="2026.1",
                slot="b",
                state="probation",
                code="too_early",
                order=4,
                rollout="spring",
                release_counter=7,
                outcome="committed",
                left_s=60.5,
            )
        ],
        device="cam-1",
        sequence=12,
        clock_ms=1_800_000_000_000,
        order=4,
        stop=2,
        metadata={"root": 1, "timestamp": 9},
        attack="metadata_rolled_back",
        held="pinned to what runs",
        ends=[
            Ended(
                sequence=3,
                task="easy-vqa",
                order=4,
                rollout="spring",
                release=DIGEST,
                outcome="committed",
                clock_ms=1_800_000_000_000,
            )
        ],
        signed=b"{}",
    ),
    "presence": Presence(
        device="cam-7",
        online=True,
        boot_id="b00",
        agent="0.1.0",
        wire=[1],
        releases={"easy-vqa": DIGEST},
        capabilities={"provider": "CPUExecutionProvider"},
    ),
    "telemetry": Telemetry(
        device="cam-7",
        boot_id="b00",
        task="easy-vqa",
        uptime_s=61.5,
        account={"received": 10, "edge": 7, "cloud": 3},
        confidence=[0, 1, 9],
        edge_ms={"p50": 0.25},
        cloud_ms={"p50": 31.5},
    ),
    "telemetry-signed": Telemetry(
        device="cam-7",
        boot_id="b00",
        task="easy-vqa",
        uptime_s=61.5,
        account={"received": 10, "edge": 7, "cloud": 3},
        sequence=12,
        signed=b"{}",
    ),
}
CASES = [(name, ending) for name in MESSAGES for ending in CODINGS]


def golden_bytes(name: str, ending: str) -> bytes:
    path = GOLDEN / f"{name}.v1.{ending}"
    if os.environ.get("OUTRIDER_WRITE_GOLDEN") and not path.exists():
        path.write_bytes(encode(MESSAGES[name], CODINGS[ending]))
    return path.read_bytes()


def test_every_message_has_golden_bytes() -> None:
    assert {type(message) for message in MESSAGES.values()} == set(get_args(Message))


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.v1.{ending}" for name, ending in CASES}


@pytest.mark.parametrize(("name", "ending"), CASES)
def test_a_message_encodes_to_its_golden_bytes(name: str, ending: str) -> None:
    assert encode(MESSAGES[name], CODINGS[ending]) == golden_bytes(name, ending)


@pytest.mark.parametrize(("name", "ending"), CASES)
def test_golden_bytes_decode_to_their_message(name: str, ending: str) -> None:
    assert decode(golden_bytes(name, ending), CODINGS[ending]) == MESSAGES[name]
