"""Which of a device's reports and telemetry are believed: those signed with the key that it has kept, each newer than the last. Pure.

A key is believed at first sight, or because the device's certificate is for it; from then on a broker can neither make a report nor give
an old one for new. A device that was set up anew has another key: it is believed again once it is forgotten, or has joined anew.

Telemetry that nobody signed, as older agents send it, is shown and decides nothing: the figures that were believed last stay beside it.
"""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from outrider_trust.reports import key_id, open_report, open_telemetry, read_key
from outrider_wire.errors import PeerMessageError, TrustRefusedError
from outrider_wire.messages import Reported, Telemetry

_KEPT = ("sequence", "clock_ms", "order", "stop", "metadata", "attack", "held", "ends")
"""What is kept of a report beside the slots."""


def believed(said: Reported, *, device: str, kept: Mapping[str, Any], certified: str) -> dict[str, Any] | None:
    """What is to be stored of a report; None: it is known, or an older one, as a broker says again at a connection.

    Args:
        said: By the device, or by whoever speaks for it.
        device: Its name.
        kept: What is stored of its last report.
        certified: SHA-256 of the key that its certificate is for; '' where that is not known here.

    Returns:
        ``slots`` and ``report`` of its row.

    Raises:
        PeerMessageError: ``report_unsigned``, ``report_key``, ``envelope_invalid``, ``envelope_unsigned``, ``report_other_device``,
            ``report_other_key``: it is signed, with another key than the one that was kept.
    """
    known = base64.b64decode(kept.get("key", ""))
    if not said.signed:
        if known:
            raise PeerMessageError(
                f"{device!r} signs its reports, and this one is not signed", reason="report_unsigned"
            )
        return row_of(said)
    offered = said.key or b""
    try:
        if offered and (not known or key_id(read_key(offered)) == certified):
            known = offered
        told = open_report(said.signed, read_key(known), device=device)
    except TrustRefusedError as error:
        raise _not_believed(device, _other_key(said.signed, offered, device) or error) from error
    if not told.sequence or told.sequence <= kept.get("sequence", 0):
        return None
    return row_of(told, known)


def refusal_of(said: Reported, error: PeerMessageError, *, at_ms: int) -> dict[str, Any] | None:
    """What is kept for people of a report that was not believed for its key; None: of any other."""
    if error.reason != "report_other_key" or not said.key:
        return None
    named = key_id(read_key(said.key))
    return {"reason": error.reason, "what": error.what, "fix": error.fix, "key": named, "at_ms": at_ms}


def telemetry_row(
    said: Telemetry, *, device: str, kept: Mapping[str, Any], key: bytes, signed: bool
) -> dict[str, Any] | None:
    """What is to be stored of telemetry; None: it is known, or older.

    Args:
        said: By the device, or by whoever speaks for it.
        device: Its name.
        kept: What is stored of the last telemetry of that task.
        key: The device's, of its reports; empty: it has none yet.
        signed: Whether only what is signed is believed.

    Returns:
        The message, whether it was ``signed``, and under ``verified`` the newest figures that are believed.

    Raises:
        PeerMessageError: it is signed, and not believed; reasons as `believed` has them.
    """
    before: Mapping[str, Any] = kept.get("verified") or {}
    if not signed:
        return _shown(said) | {"verified": _figures(said)}
    if not said.signed or not key:
        return _shown(said) | {"signed": False} | ({"verified": before} if before else {})
    try:
        told = open_telemetry(said.signed, read_key(key), device=device)
    except TrustRefusedError as error:
        raise _not_believed(device, error) from error
    if told.task != said.task:
        raise PeerMessageError(
            f"telemetry of {device!r} is of another task under its signature", reason="task_mismatch"
        )
    if _place(_figures(told)) <= _place(before):
        return None
    return _shown(told) | {"signed": True, "verified": _figures(told)}


def _shown(said: Telemetry) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(said).items() if name not in ("signed", "sequence")}


def _figures(said: Telemetry) -> dict[str, Any]:
    told = msgspec.to_builtins(said)
    return {name: told[name] for name in ("sequence", "uptime_s", "account", "monitor") if name in told}


def _place(figures: Mapping[str, Any]) -> tuple[int, float]:
    """In the order in which a device tells them: by its newest report, then by how long its agent runs."""
    return figures.get("sequence", 0), figures.get("uptime_s", -1.0)


def _not_believed(device: str, error: TrustRefusedError) -> PeerMessageError:
    return PeerMessageError(f"a report of {device!r} is not believed: {error.what}", reason=error.reason, fix=error.fix)


def _other_key(signed: bytes, offered: bytes, device: str) -> TrustRefusedError | None:
    """Why a report is refused that is good by the key that it brings along, and not by the one that was kept; None: it is not good."""
    try:
        open_report(signed, read_key(offered), device=device)
    except TrustRefusedError:
        return None
    return TrustRefusedError(
        "it is signed with another key than those before",
        reason="report_other_key",
        fix=f"if {device} was set up anew: outrider cloud forget --device {device}, then restart its agent; else look who speaks for it",
    )


def row_of(told: Reported, key: bytes = b"") -> dict[str, Any]:
    """A report as it is stored; what it has nothing to say of is left out."""
    slots = {slot.task: msgspec.to_builtins(slot) for slot in told.slots}
    said = msgspec.to_builtins(told)
    report = {name: said[name] for name in _KEPT if name in said}
    return {"slots": slots, "report": {**report, "key": base64.b64encode(key).decode()} if key else report}
