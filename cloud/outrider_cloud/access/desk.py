"""Where devices are let in, renewed and put out. Knows no HTTP: what is asked of it comes in as values.

Every step is durable before the next, and a device that asks again goes on where it was cut off.
"""

import logging
import secrets
from functools import partial
from typing import Any

from outrider_cloud.access import pki
from outrider_cloud.access.gatekeeper import Gatekeeper
from outrider_cloud.access.rules import Asked, Identity, Invitation, secret_digest
from outrider_cloud.clock import now_ms
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import identities
from outrider_cloud.store.store import Store
from outrider_wire.errors import CallerInputError, OutriderError, RuleRefusalError
from outrider_wire.joining import JoinLine, JoinReply, JoinRequest, check_device_name

log = logging.getLogger(__name__)

MAX_USES = 10_000
MAX_S = 90 * 86_400


class Desk:
    """Invites, lets in, renews, puts out.

    Args:
        store: where it all stands.
        authority: signs.
        gatekeeper: carries it to the broker.
        url: of this API, as devices reach it.
        broker: of the broker, as devices reach it.
        root: what every topic begins with.
        days: how long a device's certificate is good for.
        metrics: counts.
        root_of_trust: root metadata that a device is given; empty: releases are not signed here.
    """

    def __init__(
        self,
        *,
        store: Store,
        authority: pki.Authority,
        gatekeeper: Gatekeeper,
        url: str,
        broker: str,
        root: str,
        days: float,
        metrics: Metrics,
        root_of_trust: str = "",
    ) -> None:
        self._root_of_trust = root_of_trust
        self._store = store
        self._authority = authority
        self._gatekeeper = gatekeeper
        self._url = url
        self._broker = broker
        self._root = root
        self._days = days
        self._metrics = metrics

    @property
    def authorities(self) -> str:
        """What a device trusts, PEM."""
        return self._authority.chain

    async def invite(
        self, *, count: int = 1, expires_s: int = 3600, group: str = "", ask: bool = False, device: str = ""
    ) -> JoinLine:
        """A join line for ``count`` devices; with ``device`` for that one alone, which it may replace.

        Raises:
            CallerInputError: a number or a name out of bounds.
        """
        if not (1 <= count <= MAX_USES and 1 <= expires_s <= MAX_S) or (device and count != 1):
            raise CallerInputError(
                f"an invitation is for 1 to {MAX_USES} devices (or for one that is named) and for at most {MAX_S // 86_400} days",
                reason="invalid_invitation",
                fix="change --count or --expires",
            )
        if device:
            check_device_name(device)
        secret, stamp = secrets.token_urlsafe(24), now_ms()
        invitation = Invitation(
            id=secrets.token_hex(8),
            secret_sha256=secret_digest(secret),
            device=device,
            group=group,
            ask=ask,
            uses_left=count,
            expires_ms=stamp + expires_s * 1000,
            created_ms=stamp,
        )
        await self._store.write(partial(identities.invite, invitation=invitation))
        log.info("access.invited", extra={"invitation": invitation.id, "count": count, "group": group})
        return JoinLine(self._url, invitation.id, secret, pki.fingerprint(self._authority.chain))

    async def join(self, request: JoinRequest) -> JoinReply:
        """What becomes of a device that asks.

        Raises:
            RuleRefusalError: it may not join.
            CallerInputError: its name or its request is none.
            OutriderError: the broker could not be told; asked again, it goes on from there.
        """
        try:
            reply = await self._join(request)
        except OutriderError as error:
            self._metrics.joins.labels(error.reason).inc()
            log.warning("access.refused", extra={"device": request.device, "reason": error.reason})
            raise
        self._metrics.joins.labels(reply.state).inc()
        return reply

    async def renew(self, device: str, request: str) -> JoinReply:
        """A new certificate for a device that is in; the old one stays good until it runs out.

        Raises:
            RuleRefusalError: it is not in.
            CallerInputError: its request is none.
        """
        known = await self._store.read(partial(identities.find, device=device))
        if known is None or known.state != "accepted":
            raise RuleRefusalError(f"{device!r} is not let in", reason="device_revoked", fix="ask for a join line")
        known = await self._sign(device, request, renewed=True)
        log.info("access.renewed", extra={"device": device, "serial": known.serial})
        self._metrics.joins.labels("renewed").inc()
        return self._reply(known)

    async def accept(self, device: str) -> Identity:
        """A person lets a waiting device in. It has its certificate when it next asks.

        Raises:
            OutriderError: it never asked, or has been revoked.
        """
        known = await self._store.write(partial(identities.accept, device=device, now_ms=now_ms()))
        log.info("access.accepted", extra={"device": device})
        return known

    async def revoke(self, device: str) -> bool:
        """Takes everything back. From the return on nothing of the device is taken here; whether the broker knows it as well.

        Raises:
            CallerInputError: no device can be called so.
        """
        check_device_name(device)
        await self._store.write(partial(identities.revoke, device=device, now_ms=now_ms()))
        await self._gatekeeper.read_roster()
        log.warning("access.revoked", extra={"device": device})
        try:
            await self._gatekeeper.settle()
        except OutriderError as error:
            log.error("access.unsettled", extra={"device": device, "reason": error.reason, "what": str(error)})
            return False
        return True

    async def listed(self) -> list[dict[str, Any]]:
        """Everyone who asked, by name."""
        return await self._store.read(identities.view)

    async def _join(self, request: JoinRequest) -> JoinReply:
        check_device_name(request.device)
        asked = Asked(
            device=request.device,
            invitation=request.invitation,
            secret_sha256=secret_digest(request.secret),
            key_sha256=pki.key_digest(request.request),
            request=request.request,
        )
        known = await self._store.write(partial(identities.ask, asked=asked, now_ms=now_ms()))
        if known.state == "waiting":
            log.info("access.waiting", extra={"device": known.device})
            return JoinReply(device=known.device, state="waiting", group=known.group)
        if not known.certificate:
            known = await self._sign(known.device, known.request, renewed=False)
            log.info("access.joined", extra={"device": known.device, "serial": known.serial})
        await self._gatekeeper.bring(known.device)
        return self._reply(known)

    async def _sign(self, device: str, request: str, *, renewed: bool) -> Identity:
        stamp = now_ms()
        issued = pki.issue_device(self._authority, device, request, now=pki.utc_now_from_ms(stamp), days=self._days)
        signed = identities.Signed(
            certificate=issued.pem,
            serial=issued.serial,
            not_after_ms=round(issued.not_after.timestamp() * 1000),
            key_sha256=pki.key_digest(request),
            renewed=renewed,
        )
        return await self._store.write(partial(identities.sign, device=device, signed=signed, now_ms=stamp))

    def _reply(self, known: Identity) -> JoinReply:
        return JoinReply(
            device=known.device,
            state="accepted",
            certificate=known.certificate,
            broker=self._broker,
            root=self._root,
            group=known.group,
            trust=self._root_of_trust,
        )
