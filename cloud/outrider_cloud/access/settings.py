"""What ``[access]`` and the TLS part of ``[api]`` may say in ``cloud.toml``, and the server's TLS. Opens no socket."""

import ssl
from collections.abc import Callable
from typing import Annotated, Literal, Self

from msgspec import Meta, Struct
from msgspec.structs import replace

from outrider_wire.errors import OperatorConfigError
from outrider_wire.joining import is_https


class TlsServerSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How the HTTP API is protected."""

    cert_file: str = ""
    """Its certificate (with those above it), PEM; empty: plain HTTP."""
    key_file: str = ""
    """Its key; empty: in cert_file as well."""
    client_ca_file: str = ""
    """Who signs the devices' certificates. One is asked for and may be absent, for a device that joins has none yet."""
    public_url: str = ""
    """``https://HOST:PORT`` as devices reach it: stands in join lines."""

    def anchored(self, anchor: Callable[[str], str]) -> Self:
        """The same with every path absolute."""
        return replace(
            self, **{name: anchor(getattr(self, name)) for name in ("cert_file", "key_file", "client_ca_file")}
        )


class AccessSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How devices are let in. Off while ``ca_key_file`` is empty: then certificates and rules are another's business."""

    ca_file: str = ""
    """The authority that signs devices, and those above it: what devices trust."""
    ca_key_file: str = ""
    rules: Literal["mosquitto", "elsewhere"] = "mosquitto"
    """Who keeps the broker's rules: its dynamic-security plugin, told from here; or you, by other means."""
    control_cert_file: str = ""
    """Certificate and key of the identity that may change the broker's rules."""
    crl_file: str = ""
    """The list of revoked certificates that the broker reads."""
    broker_pid_file: str = ""
    """Of a broker on this machine: it is sent SIGHUP when the list has changed."""
    reload_command: list[str] = []
    """Run instead of that, for a broker elsewhere; it has to bring the list there."""
    broker_url: str = ""
    """What devices are told; empty: broker.url."""
    certificate_days: Annotated[float, Meta(gt=0, le=825)] = 90.0
    """How long a device's certificate is good for; it renews by itself when a third is left."""

    @property
    def on(self) -> bool:
        """Devices can join here."""
        return bool(self.ca_key_file)

    def anchored(self, anchor: Callable[[str], str]) -> Self:
        """The same with every path absolute."""
        names = ("ca_file", "ca_key_file", "control_cert_file", "crl_file", "broker_pid_file")
        return replace(self, **{name: anchor(getattr(self, name)) for name in names})


def check(access: AccessSettings, api: TlsServerSettings, broker_url: str, source: str) -> None:
    """What the types cannot say.

    Raises:
        OperatorConfigError: devices are let in, and something that this needs is missing.
    """
    if api.public_url and not is_https(api.public_url):
        raise _lacks(source, f"api.public_url {api.public_url!r} is no address", "write https://HOST:PORT")
    if not access.on:
        return
    needed = {
        "access.ca_file": access.ca_file,
        "api.cert_file": api.cert_file,
        "api.client_ca_file": api.client_ca_file,
    }
    if access.rules == "mosquitto":
        needed["access.control_cert_file"] = access.control_cert_file
        needed["access.crl_file"] = access.crl_file
    for name, value in needed.items():
        if not value:
            raise _lacks(source, f"access.ca_key_file is set and {name} is not", f"set {name} too")
    if not api.public_url:
        raise _lacks(source, "devices join over api.public_url, and there is none", "set it to https://HOST:PORT")
    for name, url in (("broker.url", broker_url), ("access.broker_url", access.broker_url or broker_url)):
        if not url.startswith("mqtts://"):
            raise _lacks(source, f"devices are let in by certificate and {name} is not mqtts://", "protect the broker")


def server_tls(api: TlsServerSettings) -> ssl.SSLContext | None:
    """The API's TLS, 1.2 or later; None: plain.

    Raises:
        OperatorConfigError: a file is missing, or is not what it should be.
    """
    if not api.cert_file:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(api.cert_file, api.key_file or None)
        if api.client_ca_file:
            context.load_verify_locations(api.client_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the authority may itself be signed by another
    except OSError as error:  # ssl.SSLError is one
        raise OperatorConfigError(
            f"the API's TLS files cannot be used: {error}",
            reason="tls_files",
            fix="check api.cert_file, api.key_file and api.client_ca_file",
        ) from error
    return context


def _lacks(source: str, what: str, fix: str) -> OperatorConfigError:
    return OperatorConfigError(f"{source}: {what}", reason="access_incomplete", fix=fix)
