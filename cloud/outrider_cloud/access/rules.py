"""Whether a device may join. Pure: an invitation, what is known of the name, and the time make a verdict.

A name belongs to the key that first joined under it: another key gets it only by an invitation that names the device.
"""

import hashlib
import hmac
from typing import Literal

from msgspec import Struct

from outrider_wire.errors import RuleRefusalError

State = Literal["waiting", "accepted", "revoked"]
_NO_SECRET = "0" * 64


class Invitation(Struct, kw_only=True, frozen=True):
    """What an operator handed out."""

    id: str
    secret_sha256: str
    device: str = ""
    group: str = ""
    ask: bool = False
    uses_left: int = 1
    expires_ms: int = 0
    created_ms: int = 0


class Identity(Struct, kw_only=True, frozen=True):
    """A device that asked to be let in."""

    device: str
    state: State
    invitation: str
    group: str
    key_sha256: str
    request: str
    certificate: str = ""
    serial: str = ""
    not_after_ms: int = 0
    asked_ms: int = 0
    changed_ms: int = 0
    granted: str = ""


class Asked(Struct, kw_only=True, frozen=True):
    """What a device says when it asks."""

    device: str
    invitation: str
    secret_sha256: str
    key_sha256: str
    request: str


def secret_digest(secret: str) -> str:
    """What is kept of a secret. It has 128 random bits or more, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def judge(asked: Asked, invitation: Invitation | None, known: Identity | None, *, now_ms: int) -> Identity:
    """The identity as it is to be from now on; the very one that is known when the same device asks again.

    Raises:
        RuleRefusalError: it may not join. Only who has the secret learns why.
    """
    kept = invitation.secret_sha256 if invitation else _NO_SECRET
    if not hmac.compare_digest(kept, asked.secret_sha256) or invitation is None:
        raise _refused("invitation_refused", "there is no such invitation", "ask for a new join line")
    if known and known.key_sha256 == asked.key_sha256 and known.invitation == invitation.id:
        if known.state == "revoked":
            raise _revoked(asked.device)
        return known
    if now_ms >= invitation.expires_ms:
        raise _refused("invitation_expired", "this invitation has run out", "ask for a new join line")
    if invitation.uses_left < 1:
        raise _refused("invitation_used", "this invitation has been used up", "ask for a new join line")
    if invitation.device and invitation.device != asked.device:
        raise _refused(
            "wrong_device", f"this invitation is for another device than {asked.device!r}", "ask for one of your own"
        )
    if known and not invitation.device:
        if known.state == "revoked":
            raise _revoked(asked.device)
        raise _refused(
            "name_taken",
            f"a device named {asked.device!r} has joined already",
            "choose another name, or to replace that device: outrider cloud invite --device NAME",
        )
    return Identity(
        device=asked.device,
        state="waiting" if invitation.ask else "accepted",
        invitation=invitation.id,
        group=invitation.group,
        key_sha256=asked.key_sha256,
        request=asked.request,
        asked_ms=now_ms,
        changed_ms=now_ms,
        granted=known.granted if known else "",
    )


def _revoked(device: str) -> RuleRefusalError:
    return _refused(
        "device_revoked", f"{device!r} has been revoked", "to let it in again: outrider cloud invite --device NAME"
    )


def _refused(reason: str, what: str, fix: str) -> RuleRefusalError:
    return RuleRefusalError(what, reason=reason, fix=fix)
