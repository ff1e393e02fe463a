"""The grants of `outrider_wire.access` in the words of mosquitto's dynamic-security plugin. Makes plain data, sends nothing.

One role a device, for ACLs of version 2.0 know no pattern of a client's own name. A client has no password: who it is, its
certificate has said. Removing one is ``deleteClient``: ``disableClient`` does not hold for a client with a certificate
(eclipse-mosquitto/mosquitto#2999).
"""

from collections.abc import Iterable
from typing import Any

from outrider_wire.access import SHARED, Action, Grant, cloud_grants
from outrider_wire.joining import CONTROL, WORKER_PREFIX
from outrider_wire.topics import Topics

COMMANDS = "$CONTROL/dynamic-security/v1"
RESPONSES = f"{COMMANDS}/response"

_TYPES: dict[Action, str] = {
    "say": "publishClientSend",
    "hear": "publishClientReceive",
    "subscribe": "subscribePattern",
}
_CLOSED = dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe"), False)
CLOUD_ROLE = "cloud"
_CONTROL_ROLE = "control"

Command = dict[str, Any]


def role_of(device: str) -> str:
    """The name of a device's role."""
    return f"device-{device}"


def acls(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """Grants as access rules; nothing is allowed beside them."""
    return [{"acltype": _type(grant), "topic": grant.topic, "priority": 0, "allow": True} for grant in sorted(grants)]


def _type(grant: Grant) -> str:
    return "subscribeLiteral" if grant.topic.startswith(SHARED) else _TYPES[grant.action]


def control_grants() -> list[Grant]:
    """What the identity that changes the rules may do."""
    return [Grant("say", COMMANDS), Grant("hear", RESPONSES), Grant("subscribe", RESPONSES)]


def first_rules(topics: Topics, *, group: str, workers: Iterable[str]) -> dict[str, Any]:
    """The plugin's file before the first device: everything closed, the cloud's workers and the control let in."""
    return {
        "defaultACLAccess": _CLOSED,
        "clients": [
            _client(CONTROL, _CONTROL_ROLE),
            *(_client(f"{WORKER_PREFIX}{worker}", CLOUD_ROLE) for worker in workers),
        ],
        "groups": [],
        "roles": [
            {"rolename": _CONTROL_ROLE, "acls": acls(control_grants())},
            {"rolename": CLOUD_ROLE, "acls": acls(cloud_grants(topics, group))},
        ],
    }


def admit(device: str, grants: Iterable[Grant]) -> list[Command]:
    """Lets a device in, or brings what it may do up to date. Whichever of it is there already is left or replaced."""
    role, rules = role_of(device), acls(grants)
    return [
        {"command": "createRole", "rolename": role, "acls": rules},
        {"command": "modifyRole", "rolename": role, "acls": rules},
        {"command": "createClient", **_client(device, role)},
        {"command": "modifyClient", **_client(device, role)},
    ]


def expel(device: str) -> list[Command]:
    """Ends a device's connection, and leaves it nothing."""
    return [
        {"command": "deleteClient", "username": device},
        {"command": "deleteRole", "rolename": role_of(device)},
    ]


HARMLESS = {
    "createRole": "Role already exists",
    "createClient": "Client already exists",
    "deleteClient": "Client not found",
    "deleteRole": "Role not found",
}
"""What the plugin says to a command that found its work done."""


def _client(name: str, role: str) -> dict[str, Any]:
    return {"username": name, "roles": [{"rolename": role, "priority": 0}]}
