"""The AsyncAPI 3.0 document of the wire, made from the topic table and the message structs. Knows no rule of its own and no client.

Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0, and its MQTT bindings, version 0.2.0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from outrider_wire.asyncapi_rules import FIELDS, NAMES, RULES
from outrider_wire.codec import JSON, MSGPACK
from outrider_wire.limits import MESSAGE_BYTES, SERVED_VERSIONS, WIRE_VERSION
from outrider_wire.messages import Message
from outrider_wire.topics import RELEASES, TABLE, WORKERS, Kind, Topic, Topics

Doc = dict[str, Any]
CODINGS = {"": MSGPACK, "-json": JSON}
"""Content type by what is added to a message's name."""
_BINDING = {"bindingVersion": "0.2.0"}


@dataclass(frozen=True, kw_only=True)
class _Use:
    """What the table does not say of a topic: its MQTT 5 properties, its reply, and who subscribes how."""

    expiry: str = ""
    correlated: bool = False
    reply: Kind | None = None
    filters: tuple[str, ...] = ()
    """Subscriptions of the receiver, where they are not simply the topic with a ``+`` for each name that it does not know."""


def _uses(topics: Topics) -> dict[Kind, _Use]:
    wants = topics.of("blob-up", "+", worker=RELEASES, transfer="+")
    return {
        "escalate": _Use(
            expiry="`keep_for_s`, computed anew at each offer",
            correlated=True,
            reply="answer",
            filters=(topics.shared_escalations(),),
        ),
        "answer": _Use(expiry="what is left of the escalation's `keep_for_s`", correlated=True),
        "blob-up": _Use(
            filters=(
                f"$share/{WORKERS}-{RELEASES}/{wants}",
                topics.of("blob-up", "+", worker="{worker}", transfer="+"),
            ),
        ),
    }


def document(topics: Topics | None = None) -> Doc:
    """The document of the wire under a root, as JSON values.

    Operations are named after their role (``device-sends-escalate``, ``cloud-receives-escalate``) and tagged with it: a document
    of one application is what is left when the other's operations are taken away.
    """
    under = topics or Topics()
    uses = _uses(under)
    return {
        "asyncapi": "3.0.0",
        "id": "urn:outrider:wire",
        "info": {
            "title": "Outrider's wire",
            "version": str(WIRE_VERSION),
            "description": RULES,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": "device"}, {"name": "cloud"}],
            "x-wire-versions": list(SERVED_VERSIONS),
        },
        "defaultContentType": MSGPACK,
        "servers": _servers(under),
        "channels": {row.kind: _channel(row, under) for row in TABLE},
        "operations": dict(_operations(under, uses)),
        "components": {
            "messages": dict(_messages(uses)),
            "schemas": _schemas(),
            "securitySchemes": {
                "certificate": {
                    "type": "X509",
                    "description": "Mutual TLS; the subject's common name is the device's name, and the client id is bound to it.",
                }
            },
        },
    }


# --- servers


def _servers(topics: Topics) -> Doc:
    will = {"topic": topics.of("presence", "{device}"), "qos": 1, "retain": True}
    client = {
        "clientId": "{device}",
        "cleanSession": True,
        "lastWill": {**will, "message": "presence with `online: false`"},
        "keepAlive": 20,
        "sessionExpiryInterval": 0,
        "maximumPacketSize": MESSAGE_BYTES + 64 * 1024,
        **_BINDING,
    }
    host: Doc = {"variables": {"host": {"default": "localhost", "description": "Where the broker is."}}}
    common = {**host, "protocolVersion": "5", "bindings": {"mqtt": client}}
    return {
        "fleet": {
            **common,
            "host": "{host}:8883",
            "protocol": "secure-mqtt",
            "description": "A broker with access rules: each device may publish under its own `up/` and hear its own `down/`.",
            "security": [{"$ref": "#/components/securitySchemes/certificate"}],
        },
        "loopback": {
            **common,
            "host": "{host}:1883",
            "protocol": "mqtt",
            "description": "A broker on the same machine, for a first run and for tests; it asks nobody who they are.",
        },
    }


# --- channels and operations


def _channel(row: Topic, topics: Topics) -> Doc:
    names = [level[1:-1] for level in row.pattern.split("/") if level.startswith("{")]
    return {
        "address": f"{topics.root}/{row.pattern}",
        "summary": row.what,
        "description": f"Said by the {row.sender}. {'Retained.' if row.retained else 'Not retained.'}",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _names(row)},
        "parameters": {name: {"description": NAMES[name]} for name in names},
    }


def _names(row: Topic) -> list[str]:
    return [tag_of(kind) + suffix for kind in row.messages for suffix in CODINGS]


def tag_of(kind: type) -> str:
    """What a message of that struct says as its ``type``."""
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]  # every message is a tagged struct


def _operations(topics: Topics, uses: dict[Kind, _Use]) -> Iterator[tuple[str, Doc]]:
    for row in TABLE:
        receiver = "cloud" if row.sender == "device" else "device"
        use = uses.get(row.kind, _Use())
        filters = use.filters or (_plain_filter(row, topics, receiver),)
        yield f"{row.sender}-sends-{row.kind}", _sending(row, use)
        yield (
            f"{receiver}-receives-{row.kind}",
            {
                "action": "receive",
                **_common(row, receiver),
                "description": f"Subscribe, QoS 1: {' and '.join(f'`{each}`' for each in filters)}.",
                "bindings": {"mqtt": {"qos": 1, **_BINDING}},
                "x-subscriptions": list(filters),
            },
        )


def _sending(row: Topic, use: _Use) -> Doc:
    binding: Doc = {"qos": 1, "retain": row.retained, **_BINDING}
    operation: Doc = {"action": "send", **_common(row, row.sender), "bindings": {"mqtt": binding}}
    if use.expiry:
        operation["description"] = f"Message Expiry Interval: {use.expiry}."
        binding["messageExpiryInterval"] = {"type": "integer", "minimum": 1, "description": use.expiry}
    if use.reply:
        channel = f"#/channels/{use.reply}"
        replies = next(other for other in TABLE if other.kind == use.reply)
        operation["reply"] = {
            "channel": {"$ref": channel},
            "messages": [{"$ref": f"{channel}/messages/{name}"} for name in _names(replies)],
        }
    return operation


def _common(row: Topic, role: str) -> Doc:
    channel = f"#/channels/{row.kind}"
    return {
        "channel": {"$ref": channel},
        "summary": row.what,
        "tags": [{"name": role}],
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in _names(row)],
    }


def _plain_filter(row: Topic, topics: Topics, receiver: str) -> str:
    device = "{device}" if receiver == "device" else "+"
    return topics.of(row.kind, device, task="+", worker="+", transfer="+")


# --- messages and their schemas


def _messages(uses: dict[Kind, _Use]) -> Iterator[tuple[str, Doc]]:
    for kind in get_args(Message):
        correlated = any(kind in row.messages and uses.get(row.kind, _Use()).correlated for row in TABLE)
        for suffix, content_type in CODINGS.items():
            yield tag_of(kind) + suffix, _message(kind, content_type, correlated=correlated)


def _message(kind: type, content_type: str, *, correlated: bool) -> Doc:
    binding: Doc = {"contentType": content_type, **_BINDING}
    message: Doc = {
        "name": tag_of(kind),
        "title": kind.__name__,
        "summary": (kind.__doc__ or "").split("\n")[0],
        "contentType": content_type,
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "bindings": {"mqtt": binding},
    }
    if correlated:
        what = "Any bytes, the id as a rule; a reply carries those of its request."
        binding["correlationData"] = {"type": "string", "description": what}
        message["headers"] = {"type": "object", "properties": {"correlationData": binding["correlationData"]}}
        message["correlationId"] = {"location": "$message.header#/correlationData", "description": what}
    return message


def _schemas() -> Doc:
    _, schemas = msgspec.json.schema_components(get_args(Message), ref_template="#/components/schemas/{name}")
    for (struct, field), what in FIELDS.items():
        schemas[struct]["properties"][field]["description"] = what
    for schema in schemas.values():
        schema["additionalProperties"] = True  # unknown fields are ignored
    return schemas
