"""Joining: from the line that a person carried here to a certificate, a broker and a configuration that says so.

Whatever cuts it off, the same line goes on where it ended: the key stays, and the cloud knows it again.
"""

import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from outrider_edge.joining import https, identity
from outrider_link.files import write_durably
from outrider_wire.errors import OperatorConfigError, OperatorSetupError, UndecidedError
from outrider_wire.joining import JoinLine, JoinReply, JoinRequest, RenewRequest, check_device_name
from outrider_wire.toml_edit import Value, with_settings

_ASK_AGAIN_S = 2.0


class Joined(NamedTuple):
    """What came of it."""

    device: str
    broker: str
    root: str
    group: str
    ca_file: Path
    cert_file: Path
    trust_file: Path | None = None
    """The root that releases are believed by; None: this cloud does not sign them."""


def join(line: JoinLine, *, device: str, folder: Path, wait_s: float, tell: Callable[[str], None]) -> Joined:
    """Asks to be let in, waits for a person's yes where one is needed, keeps what comes in ``folder``. Blocks.

    Raises:
        CallerInputError: no device can be called so.
        RuleRefusalError: the cloud is another one, or refuses this device.
        UndecidedError: nobody has accepted it within ``wait_s``.
        UnreachableError: the cloud does not answer.
        OperatorSetupError: key or certificate cannot be stored here.
    """
    check_device_name(device)
    authorities = https.pinned(line.url, "/v1/join/authorities", line.fingerprint)
    asked = JoinRequest(
        invitation=line.invitation,
        secret=line.secret,
        device=device,
        request=identity.pending_request(folder, device),
    )
    reply = _accepted(line.url, asked, authorities, wait_s=wait_s, tell=tell)
    cert_file = identity.store(folder, device=device, certificate=reply.certificate, authorities=authorities)
    return Joined(
        device=reply.device,
        broker=reply.broker,
        root=reply.root,
        group=reply.group,
        ca_file=folder / identity.AUTHORITIES,
        cert_file=cert_file,
        trust_file=identity.store_root(folder, reply.trust) if reply.trust else None,
    )


def renew(url: str, *, device: str, ca_file: Path, cert_file: Path) -> None:
    """Replaces this device's certificate by a new one for a new key. Blocks; errors as `join`."""
    folder = cert_file.parent
    if cert_file.name != identity.CERTIFICATE:
        raise OperatorConfigError(
            f"{cert_file} did not come from joining, so that it cannot be renewed here",
            reason="foreign_certificate",
            fix="renew it where it came from, or set cloud.renew = false",
        )
    context = https.with_certificate(ca_file, cert_file)
    wanted = RenewRequest(request=identity.pending_request(folder, device))
    reply = https.post(url, f"/v1/devices/{device}/certificate", wanted, JoinReply, context=context)
    identity.store(folder, device=device, certificate=reply.certificate)
    identity.forget_pending(folder)


def settings_of(joined: Joined, line: JoinLine, config: Path) -> Mapping[str, Mapping[str, Value]]:
    """What ``edge.toml`` says after joining."""
    broker: dict[str, Value] = {
        "url": joined.broker,
        "root": joined.root,
        "ca_file": _seen_from(config, joined.ca_file),
        "cert_file": _seen_from(config, joined.cert_file),
    }
    broker |= dict.fromkeys({"key_file", "username", "password_file"} & set(_table(config, "broker")), "")
    cloud: dict[str, Value] = {"url": line.url, "renew": True}
    cloud |= dict.fromkeys({"ca_file", "cert_file", "key_file"} & set(_table(config, "cloud")), "")
    settings: dict[str, Mapping[str, Value]] = {"": {"device": joined.device}, "broker": broker, "cloud": cloud}
    if joined.trust_file is not None:
        settings["updates"] = {"root": _seen_from(config, joined.trust_file)}
    return settings


def write_settings(joined: Joined, line: JoinLine, config: Path) -> None:
    """Puts them into the file, which is made when absent.

    Raises:
        OperatorConfigError: it cannot be changed by itself; the sentence says what to write.
        OperatorSetupError: it cannot be written.
    """
    text = config.read_text("utf-8") if config.exists() else "# Outrider on this device: outrider config schema edge\n"
    changed = with_settings(text, settings_of(joined, line, config), str(config))
    try:
        write_durably(config, changed.encode(), mode=0o644)
    except OSError as error:
        raise OperatorSetupError(
            f"{config} cannot be written: {error.strerror}", reason="folder_unwritable", fix="check its rights"
        ) from error


def folder_of(config: Path, *, default: str) -> Path:
    """Where the identity is kept: beside everything else that must survive, in the data folder that the file names."""
    data_dir = _top(config).get("data_dir", default)
    return config.absolute().parent / str(data_dir) / "identity"


def named_in(config: Path) -> str:
    """The device's name in the file; '' where it says none."""
    return str(_top(config).get("device", ""))


def _accepted(
    url: str, asked: JoinRequest, authorities: str, *, wait_s: float, tell: Callable[[str], None]
) -> JoinReply:
    context = https.trusting(authorities)
    deadline, told = time.monotonic() + wait_s, False
    while True:
        reply = https.post(url, "/v1/join", asked, JoinReply, context=context)
        if reply.state == "accepted":
            return reply
        if not told:
            tell(f"waiting for a person: outrider cloud devices accept {asked.device}")
            told = True
        if time.monotonic() + _ASK_AGAIN_S > deadline:
            raise UndecidedError(
                f"nobody has accepted {asked.device!r} yet",
                reason="not_accepted_yet",
                fix="run the same command again once it is accepted",
            )
        time.sleep(_ASK_AGAIN_S)


def _seen_from(config: Path, path: Path) -> str:
    folder = config.absolute().parent
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _top(config: Path) -> dict[str, Any]:
    if not config.exists():
        return {}
    try:
        return tomllib.loads(config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OperatorConfigError(
            f"{config} cannot be read: {error}", reason="invalid_toml", fix="correct it, or name another with --config"
        ) from error


def _table(config: Path, name: str) -> dict[str, Any]:
    found = _top(config).get(name, {})
    return found if isinstance(found, dict) else {}
