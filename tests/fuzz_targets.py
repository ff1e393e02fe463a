"""What is fuzzed: one row a target, each a function of bytes that raises only on a finding. Knows no fuzzer.

A target swallows the errors that hostile bytes are *meant* to raise, of the one side that is guilty; whatever else comes out
(a `KeyError`, a `RecursionError`, a message that does not survive its own round trip) is a finding.
"""

import contextlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from outrider_cloud.intake.intake import read_id
from outrider_edge.local_api.form import form_fields
from outrider_engine.golden import decode_golden
from outrider_engine.protobuf import Reader, UnreadableError, messages, numbers, single, text
from outrider_engine.walk import walk
from outrider_link.envelope import Incoming
from outrider_wire.codec import JSON, MSGPACK, decode, encode
from outrider_wire.errors import (
    BundleError,
    CallerInputError,
    OperatorConfigError,
    PeerError,
    PeerMessageError,
)
from outrider_wire.images import decode_picture
from outrider_wire.manifest import decode_manifest, encode_manifest
from outrider_wire.task import parse_task
from outrider_wire.topics import Topics

TESTS = Path(__file__).parent
REGRESSIONS = TESTS / "fuzz" / "regressions"
"""Inputs that once found something, a folder a target; they are replayed with the other tests."""
EDGES = (
    b"",
    b"\0",
    b"\xff" * 64,
    b"[" * 2_000,
    b"a = " + b"[" * 2_000,
    b"a = " + b"9" * 5_000,
    b'{"x":' + b"[" * 2_000,
    b"\x81\xa1x" * 1_000,
    b"\x91" * 2_000,
    b"\x0a\xff\xff\xff\xff\x7f",
)
"""What every corpus begins with besides: depths and lengths that no small change of a sound value reaches."""
_PIXELS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Target:
    """One row."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    """Where its corpus begins."""
    max_len: int = 4096
    """Longest input, in bytes."""


def messagepack(data: bytes) -> None:
    """A message in MessagePack, and the id that a broken one is refused under."""
    _message(data, MSGPACK)


def json(data: bytes) -> None:
    """The same in JSON."""
    _message(data, JSON)


def _message(data: bytes, content_type: str) -> None:
    read_id(Incoming(topic="", payload=data, content_type=content_type))
    with contextlib.suppress(PeerError):
        message = decode(data, content_type)
        again = decode(encode(message, content_type), content_type)
        assert again == message, "a message is another one after its round trip"


def topic(data: bytes) -> None:
    """A topic as the broker hands it on."""
    with contextlib.suppress(PeerMessageError):
        address = Topics().parse(data.decode("utf-8", "replace"))
        built = Topics().of(
            address.kind, address.device, task=address.task, worker=address.worker, transfer=address.transfer
        )
        assert built == data.decode(), "a topic parses to an address that is not its own"


def manifest(data: bytes) -> None:
    """A bundle's manifest."""
    with contextlib.suppress(BundleError):
        read = decode_manifest(data)
        assert decode_manifest(encode_manifest(read)) == read, "a manifest is another one after its round trip"
        for variant in read.variants:
            read.certificate_fault(variant)


def task(data: bytes) -> None:
    """A task file."""
    try:
        said = data.decode("utf-8")
    except UnicodeDecodeError:
        return  # the file's reader refuses it before
    with contextlib.suppress(OperatorConfigError):
        parse_task(said, "task.toml")


def onnx(data: bytes) -> None:
    """The walk over a model."""
    with contextlib.suppress(BundleError):
        walk(data, fields=20_000)


def protobuf(data: bytes) -> None:
    """The protobuf reader, read every way at every level."""

    def read(message: memoryview, depth: int) -> None:
        for _, value in reader.fields(message):
            with contextlib.suppress(UnreadableError):
                numbers([value])
            with contextlib.suppress(UnreadableError):
                text(single([value]))
            if depth < 8 and not isinstance(value, int):
                with contextlib.suppress(UnreadableError):
                    read(messages([value])[0], depth + 1)

    reader = Reader(fields=500)
    with contextlib.suppress(UnreadableError):
        read(memoryview(data), 0)


def image(data: bytes) -> None:
    """A picture's header, metadata and pixels."""
    with contextlib.suppress(CallerInputError):
        made = decode_picture(data, part="image", mode="RGB", max_pixels=_PIXELS)
        assert made.mode == "RGB" and made.width * made.height <= _PIXELS, "more pixels than were allowed"


def golden(data: bytes) -> None:
    """A bundle's golden examples."""
    with contextlib.suppress(BundleError):
        decode_golden(data)


def form(data: bytes) -> None:
    """A multipart form of the local API; its boundary is ``x``."""
    with contextlib.suppress(CallerInputError):
        form_fields(data, "multipart/form-data; boundary=x")


def _files(*patterns: str) -> Callable[[], Iterable[bytes]]:
    return lambda: [path.read_bytes() for pattern in patterns for path in sorted(TESTS.glob(pattern))]


def _tasks() -> list[bytes]:
    return [path.read_bytes() for path in sorted((TESTS.parent / "edge").rglob("task.toml"))]


def _topics() -> list[bytes]:
    names = {"task": "t", "worker": "w", "transfer": "x"}
    return [Topics().of(kind, "cam-7", **names).encode() for kind in ("presence", "escalate", "answer", "blob-up")]


def _pictures() -> list[bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = []
    for kind, mode, options in (
        ("PNG", "RGB", {}),
        ("PNG", "P", {"exif": exif}),
        ("PNG", "LA", {}),
        ("JPEG", "RGB", {"exif": exif}),
        ("JPEG", "L", {"progressive": True}),
        ("JPEG", "CMYK", {}),
    ):
        made = io.BytesIO()
        noise.convert(mode).save(made, kind, **options)  # type: ignore[arg-type]  # options differ by kind
        out.append(made.getvalue())
    return out


_FORM = b'--x\r\nContent-Disposition: form-data; name="question"\r\n\r\nwhat colour is it?\r\n--x--\r\n'

TARGETS: dict[str, Target] = {
    "messagepack": Target(run=messagepack, seeds=_files("wire/golden/*.msgpack")),
    "json": Target(run=json, seeds=_files("wire/golden/*.json")),
    "topic": Target(run=topic, seeds=_topics, max_len=512),
    "manifest": Target(run=manifest, seeds=_files("assets/bundles/*/manifest.json"), max_len=16_384),
    "task": Target(run=task, seeds=_tasks, max_len=8_192),
    "onnx": Target(run=onnx, seeds=_files("assets/models/*.onnx", "assets/bombs/*.onnx"), max_len=16_384),
    "protobuf": Target(run=protobuf, seeds=_files("assets/bombs/*.onnx")),
    "image": Target(run=image, seeds=_pictures, max_len=8_192),
    "golden": Target(run=golden, seeds=_files("assets/bundles/sound/golden.msgpack")),
    "form": Target(run=form, seeds=lambda: [_FORM]),
}
