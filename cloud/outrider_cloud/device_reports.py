"""Which of a device's reports are believed: those signed with the key that it has kept, each newer than the last. Pure.

A key is believed at first sight, or because the device's certificate is for it; from then on a broker can neither make a report nor give
an old one for new. A device that was set up anew has another key: it is believed again once it is forgotten, or has joined anew.
"""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from outrider_trust.reports import key_id, open_report, read_key
from outrider_wire.errors import PeerMessageError, TrustRefusedError
from outrider_wire.messages import Reported

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
        PeerMessageError: ``report_unsigned``, ``report_key``, ``envelope_invalid``, ``envelope_unsigned``, ``report_other_device``.
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
        raise PeerMessageError(
            f"a report of {device!r} is not believed: {error.what}", reason=error.reason, fix=error.fix
        ) from error
    if not told.sequence or told.sequence <= kept.get("sequence", 0):
        return None
    return row_of(told, known)


def row_of(told: Reported, key: bytes = b"") -> dict[str, Any]:
    """A report as it is stored; what it has nothing to say of is left out."""
    slots = {slot.task: msgspec.to_builtins(slot) for slot in told.slots}
    said = msgspec.to_builtins(told)
    report = {name: said[name] for name in _KEPT if name in said}
    return {"slots": slots, "report": {**report, "key": base64.b64encode(key).decode()} if key else report}
