"""How the broker is told whom to let in: a session of its own that may change rules and nothing else. Decides about nobody."""

import asyncio
import json
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from outrider_cloud.access import dynsec
from outrider_link.envelope import Tls
from outrider_link.session import Incoming, MqttSession, Outgoing
from outrider_wire.access import Grant
from outrider_wire.decodable import decodable
from outrider_wire.errors import PeerError, UndecidedError
from outrider_wire.joining import CONTROL

_WITHIN_S = 3.0


class BrokerControl(Protocol):
    """Changes who may do what on the broker. Real: `Mosquitto`, and `Elsewhere` where another hand keeps the rules."""

    async def admit(self, device: str, grants: Iterable[Grant]) -> None:
        """Lets a device do what the grants say; raises `OutriderError` when the broker does not say yes."""
        ...

    async def expel(self, device: str) -> None:
        """Ends the device's connection and leaves it no rights; errors as `admit`."""
        ...

    async def allow_cloud(self, grants: Iterable[Grant]) -> None:
        """Lets the cloud's workers do what the grants say; errors as `admit`."""
        ...


class Elsewhere:
    """The broker's rules are kept by other means (EMQX and HiveMQ have their own): here only the store and the list change."""

    async def admit(self, device: str, grants: Iterable[Grant]) -> None:
        """Nothing."""

    async def expel(self, device: str) -> None:
        """Nothing."""

    async def allow_cloud(self, grants: Iterable[Grant]) -> None:
        """Nothing."""


class _Told(msgspec.Struct):
    command: str = ""
    error: str = ""
    correlation: str = msgspec.field(name="correlationData", default="")
    data: dict[str, Any] = {}


class _Responses(msgspec.Struct):
    responses: list[_Told]


class Mosquitto:
    """mosquitto's dynamic-security plugin. Connects for each order and goes again: orders are rare.

    Args:
        url: the broker.
        cert_file: certificate and key of the identity that may change rules.
        ca_file: who vouches for the broker.
    """

    def __init__(self, *, url: str, ca_file: Path, cert_file: Path) -> None:
        self._url = url
        self._tls = Tls(ca_file=ca_file, cert_file=cert_file)
        self._one_at_a_time = asyncio.Lock()

    async def admit(self, device: str, grants: Iterable[Grant]) -> None:
        """As `BrokerControl.admit`."""
        await self._order(dynsec.admit(device, grants))

    async def expel(self, device: str) -> None:
        """As `BrokerControl.expel`."""
        await self._order(dynsec.expel(device))

    async def allow_cloud(self, grants: Iterable[Grant]) -> None:
        """As `BrokerControl.allow_cloud`. Changing a role disconnects who has it, so that it is changed only where it differs."""
        rules = dynsec.acls(grants)
        (told,) = await self._order([{"command": "getRole", "rolename": dynsec.CLOUD_ROLE}])
        if _as_set(told.data.get("role", {}).get("acls", [])) != _as_set(rules):
            await self._order([{"command": "modifyRole", "rolename": dynsec.CLOUD_ROLE, "acls": rules}])

    async def _order(self, commands: Sequence[dynsec.Command]) -> list[_Told]:
        """What the broker says to each.

        Raises:
            OperatorError | UnreachableError | UndecidedError: the broker cannot be reached, or is silent.
            PeerError: it will not do it.
        """
        mark = secrets.token_hex(8)
        told: asyncio.Future[list[_Told]] = asyncio.get_running_loop().create_future()

        async def hear(message: Incoming) -> None:
            responses = _responses(message)
            if not told.done() and any(each.correlation == mark for each in responses):
                told.set_result(responses)

        session = MqttSession(
            url=self._url, client_id=CONTROL, subscriptions=[dynsec.RESPONSES], on_message=hear, tls=self._tls
        )
        async with self._one_at_a_time, session:
            await session.wait_connected(_WITHIN_S)
            marked = [{**command, "correlationData": mark} for command in commands]
            await session.publish(Outgoing(dynsec.COMMANDS, json.dumps({"commands": marked}).encode(), content_type=""))
            try:
                async with asyncio.timeout(_WITHIN_S):
                    responses = await told
            except TimeoutError as error:
                raise UndecidedError(
                    "the broker does not say whether it has changed its rules",
                    reason="broker_silent",
                    fix="check that the dynamic-security plugin is loaded",
                ) from error
        _check(responses)
        return responses


def _check(responses: Iterable[_Told]) -> None:
    for each in responses:
        if each.error and each.error != dynsec.HARMLESS.get(each.command):
            raise PeerError(
                f"the broker's rules cannot be changed: {each.command}: {each.error}",
                reason="broker_rules",
                fix="see the broker's log",
            )


def _as_set(rules: Iterable[Any]) -> set[tuple[str, str]]:
    return {(str(each.get("acltype")), str(each.get("topic"))) for each in rules if each.get("allow")}


def _responses(message: Incoming) -> list[_Told]:
    try:
        found: Any = msgspec.json.decode(message.payload, type=decodable(_Responses))
    except msgspec.MsgspecError:
        return []
    return list(found.responses)
