"""The one table of attacks: what is thrown at which surface, and the reason that it must be refused for. Throws nothing itself.

Rows of `ATTACKS` are pure: one value, one parser, one refusal. `tests/hostile` throws them at the parsers, and again, with the
escalations, envelopes and replies below, at a cloud and an agent that run.

Not here: the attacks on updates (metadata, archives, downgrade, slow retrieval) and on the broker's access rules (shared
subscriptions, client ids, wills); training on poisoned examples, extraction and privacy, which are limits of a fleet and not of bytes.
Nothing unpacks a zip or zstd and nothing decodes audio: `tests/hostile/test_hostile_code.py` keeps the first true, and a sound is
bytes that no step reads.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hostile_messages import HOSTILE as MESSAGES
from hostile_pictures import HOSTILE as PICTURES

ASSETS = Path(__file__).parent / "assets"
Surface = Literal["message", "topic", "picture", "task", "manifest", "model", "form"]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One row."""

    surface: Surface
    name: str
    data: bytes
    reason: str
    coding: str = ""
    """Content type, where the surface has one."""

    def __str__(self) -> str:
        return f"{self.surface}: {self.name}"


_NAME_65 = "c" * 65
TOPICS: dict[str, str] = {
    "empty": "",
    "only the root": "outrider/1",
    "nothing after the root": "outrider/1/",
    "only a device": "outrider/1/cam-7",
    "one level too many": "outrider/1/cam-7/up/presence/",
    "ends in a newline": "outrider/1/cam-7/up/presence\n",
    "no device": "outrider/1//up/escalate/colours",
    "a device in capitals": "outrider/1/CAM/up/escalate/colours",
    "a device that is a wildcard": "outrider/1/+/up/escalate/colours",
    "a device that is every wildcard": "outrider/1/#",
    "a device of a shared group": "outrider/1/$share/up/escalate/colours",
    "the workers' own subscription": "$share/workers/outrider/1/+/up/escalate/+",
    "a device of 65 letters": f"outrider/1/{_NAME_65}/up/escalate/colours",
    "a device of 60,000 letters": f"outrider/1/{'c' * 60_000}/up/escalate/colours",
    "a device that leads out": "outrider/1/../up/escalate/colours",
    "a device with a slash that is escaped": "outrider/1/cam%2f7/up/escalate/colours",
    "a device that begins with a dash": "outrider/1/-rf/up/escalate/colours",
    "a device with a NUL": "outrider/1/cam\0/up/escalate/colours",
    "a device in another script": "outrider/1/саm-7/up/escalate/colours",
    "a device written with half a character": "outrider/1/\udcff/up/escalate/colours",
    "a task that is a wildcard": "outrider/1/cam-7/up/escalate/#",
    "a task with a slash": "outrider/1/cam-7/up/escalate/a/b",
    "no task": "outrider/1/cam-7/up/escalate/",
    "against its direction": "outrider/1/cam-7/down/escalate/colours",
    "another version of the root": "outrider/2/cam-7/up/presence",
    "something before the root": "x/outrider/1/cam-7/up/presence",
    "the broker's own": "$SYS/broker/uptime",
    "250 levels": "outrider/1/" + "a/" * 250,
    "60,000 levels": "a/" * 30_000,
}
"""All are refused as ``unknown_topic``."""

TASK = """name = "colours"
[[inputs]]
name = "image"
modality = "image"
[answer]
labels = ["red", "green"]
[policy]
target_risk = 0.05
"""


def _task(old: str, new: str) -> str:
    assert old in TASK
    return TASK.replace(old, new, 1)


TASKS: dict[str, tuple[str, str]] = {
    "no TOML": ("\0\1\2", "invalid_toml"),
    "lists nested 100,000 deep": ("a = " + "[" * 100_000, "invalid_toml"),
    "tables nested 10,000 deep": ("a = " + "{a=" * 10_000, "invalid_toml"),
    "a key of 1,000 dots": ("a" + ".a" * 1_000 + " = 1", "unknown_key"),
    "a key that stands twice": (_task("[answer]", 'name = "image"\n[answer]'), "invalid_toml"),
    "a table that stands twice": (TASK + "[answer]\n", "invalid_toml"),
    "a number of 10,000 digits": (_task("0.05", "9" * 10_000), "invalid_toml"),
    "a risk that is NaN": (_task("0.05", "nan"), "invalid_value"),
    "a risk that is infinite": (_task("0.05", "inf"), "invalid_value"),
    "a risk in words": (_task("0.05", '"low"'), "invalid_value"),
    "a name that leads out": (_task('"colours"', '"../colours"'), "invalid_value"),
    "a name that is a wildcard": (_task('"colours"', '"#"'), "invalid_value"),
    "5,000 labels": (_task('["red", "green"]', json.dumps([f"l{k}" for k in range(5_000)])), "invalid_value"),
    "a label that stands twice": (_task('"green"', '"red"'), "duplicate_name"),
    "a billion pixels": (_task('"image"\n[', '"image"\nmax_pixels = 1_000_000_000\n['), "invalid_value"),
    "a key that nobody knows": (_task("target_risk", "target_rsik"), "unknown_key"),
    "a date for a name": (_task('"colours"', "1979-05-27"), "invalid_value"),
}

MANIFEST = (ASSETS / "bundles" / "sound" / "manifest.json").read_bytes()


def _manifest(old: bytes, new: bytes) -> bytes:
    assert old in MANIFEST
    return MANIFEST.replace(old, new, 1)


MANIFESTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "manifest_unparsable"),
    "no JSON": (b"{", "manifest_unparsable"),
    "lists nested 100,000 deep": (b'{"x":' + b"[" * 100_000, "manifest_unparsable"),
    "5 MB of blanks": (b" " * (5 << 20), "manifest_too_large"),
    "a path that leads out": (_manifest(b'"model.onnx"', b'"../model.onnx"'), "path_outside_bundle"),
    "an absolute path": (_manifest(b'"model.onnx"', b'"/etc/passwd"'), "path_outside_bundle"),
    "a path with a backslash": (_manifest(b'"model.onnx"', b'"..\\\\model.onnx"'), "path_outside_bundle"),
    "a path with a NUL": (_manifest(b'"model.onnx"', b'"model.onnx\\u0000"'), "path_outside_bundle"),
    "a path that is a URL": (_manifest(b'"model.onnx"', b'"http://evil.example/m"'), "path_outside_bundle"),
    "a file of a negative size": (_manifest(b'"size": ', b'"size": -'), "manifest_unparsable"),
    "a file of 2^63 bytes": (_manifest(b'"size": ', b'"size": 9223372036854775807'), "manifest_unparsable"),
    "a temperature that is NaN": (_manifest(b'"temperature": 1.0', b'"temperature": NaN'), "manifest_unparsable"),
    "a threshold in words": (_manifest(b'"threshold": 0.8', b'"threshold": "0.8"'), "manifest_unparsable"),
    "a manifest that names itself": (_manifest(b'"golden.msgpack"', b'"manifest.json"'), "manifest_inconsistent"),
}

MODELS: dict[str, str] = {
    "a-text": "model_unparsable",
    "claims-a-negative-size": "tensor_shape",
    "claims-more-than-it-holds": "tensor_shape",
    "configures-the-runtime": "runtime_configuration",
    "empty": "model_unparsable",
    "external-data": "external_data",
    "external-data-at-a-memory-address": "external_data",
    "external-data-in-a-function": "external_data",
    "external-data-in-a-sparse-tensor": "external_data",
    "external-data-in-a-subgraph": "external_data",
    "external-data-in-a-training-graph": "external_data",
    "external-data-in-an-attribute": "external_data",
    "external-data-outside-the-bundle": "external_data",
    "foreign-function": "foreign_operator",
    "foreign-operator": "foreign_operator",
    "foreign-operator-in-a-function": "foreign_operator",
    "foreign-operator-in-a-subgraph": "foreign_operator",
    "holds-nothing": "tensor_shape",
    "nested-20-deep": "nested_too_deep",
    "nested-2000-deep": "nested_too_deep",
    "tensor-of-100-axes": "tensor_shape",
    "truncated": "model_unparsable",
    "two-graphs": "model_unparsable",
    "unfolds-to-terabytes": "tensor_shape",
    "unknown-element-type": "tensor_type",
    "unlisted-microsoft-operator": "foreign_operator",
    "without-a-graph": "model_unparsable",
}
"""Files of ``tests/assets/models``. Those that pass the walk and exhaust whoever runs them: ``tests/engine/test_engine_selftest.py``."""


def form_field(name: bytes, value: bytes, headers: bytes = b"") -> bytes:
    """One field of a form whose boundary is ``x``."""
    return b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n' + headers + b"\r\n" + value + b"\r\n"


FORM = "multipart/form-data; boundary=x"
_JSON = "application/json"
FORMS: dict[str, tuple[bytes, str, str]] = {
    "an empty body": (b"", _JSON, "empty_body"),
    "a body of another type": (b"<xml/>", "text/xml", "unsupported_media_type"),
    "JSON nested 100,000 deep": (b'{"parts":' + b"[" * 100_000, _JSON, "damaged_body"),
    "JSON that is no object": (b"[]", _JSON, "damaged_body"),
    "JSON with an unknown field": (b'{"parts":{},"exec":"rm"}', _JSON, "damaged_body"),
    "base64 that is none": (b'{"parts":{"image":{"base64":"!"}}}', _JSON, "damaged_body"),
    "half a character": (b'{"parts":{"question":"\\ud800"}}', _JSON, "damaged_body"),
    "a number for a part": (b'{"parts":{"question":1}}', _JSON, "damaged_body"),
    "no parts": (b'{"parts":{}}', _JSON, "missing_part"),
    "a part of no name": (b'{"parts":{"":"x","image":"x","question":"x"}}', _JSON, "extra_part"),
    "a form without a boundary": (b"x", "multipart/form-data", "damaged_body"),
    "a form that never ends": (form_field(b"question", b"x"), FORM, "damaged_body"),
    "a form whose boundary is a regular expression": (b"x", "multipart/form-data; boundary=(a+)+$", "damaged_body"),
    "a form of 17 fields": (b"".join(form_field(b"f%d" % k, b"") for k in range(17)) + b"--x--", FORM, "too_many_parts"),
    "a form with a field twice": (form_field(b"question", b"x") * 2 + b"--x--", FORM, "duplicate_part"),
    "a form encoded for transfer": (
        form_field(b"question", b"eA==", b"Content-Transfer-Encoding: base64\r\n") + b"--x--", FORM, "damaged_body"
    ),
    "a field with 9 KB of headers": (form_field(b"question", b"", b"X: " + b"y" * 9_000 + b"\r\n") + b"--x--", FORM, "damaged_body"),
    "a part of another name": (form_field(b"../../etc/passwd", b"x") + b"--x--", FORM, "missing_part"),
}  # fmt: skip


def _rows(surface: Surface, table: Mapping[str, tuple[bytes | str, str]]) -> list[Attack]:
    return [
        Attack(surface=surface, name=name, data=data.encode() if isinstance(data, str) else data, reason=reason)
        for name, (data, reason) in table.items()
    ]


ATTACKS: tuple[Attack, ...] = (
    *(
        Attack(surface="message", name=name, data=data, reason=reason, coding=coding)
        for name, (data, coding, reason) in MESSAGES.items()
    ),
    *(
        Attack(surface="topic", name=name, data=topic.encode("utf-8", "surrogateescape"), reason="unknown_topic")
        for name, topic in TOPICS.items()
    ),
    *_rows("picture", PICTURES),
    *_rows("task", TASKS),
    *_rows("manifest", MANIFESTS),
    *(
        Attack(surface="model", name=name, data=(ASSETS / "models" / f"{name}.onnx").read_bytes(), reason=reason)
        for name, reason in MODELS.items()
    ),
    *(
        Attack(surface="form", name=name, data=data, reason=reason, coding=coding)
        for name, (data, coding, reason) in FORMS.items()
    ),
)


def attacks_on(surface: Surface) -> list[Attack]:
    """The rows of one surface."""
    return [attack for attack in ATTACKS if attack.surface == surface]
