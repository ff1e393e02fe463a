"""Checks of certificates, secrets and what is open to others: the part of the doctor that a site in production lives by.

Changes nothing, and connects with nobody's name: a second client of a device's name would push the running agent off the broker.
"""

import asyncio
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from outrider.doctor_findings import Finding, Subject
from outrider_link.envelope import Tls, parse_url
from outrider_link.settings import is_loopback, read_secret
from outrider_wire.errors import OutriderError, UnreachableError

BROKER_WITHIN_S = 3.0
_ALERT_WITHIN_S = 0.3
"""A broker that does not take a certificate says so right after the handshake (TLS 1.3); one that does waits for us."""
_LEAST_SECRET = 16
_SOON = 1 / 4
"""Share of a certificate's life; a device renews with a third left, so that less means that it does not."""


class _Certificate(NamedTuple):
    what: str
    path: str
    fix: str


def certificates(subject: Subject) -> Iterator[Finding]:
    """How long every certificate is still good, and whether others can read its key."""
    for each in _certificates(subject):
        yield _judged(each)


def _certificates(subject: Subject) -> Iterator[_Certificate]:
    edge, cloud = subject.edge, subject.cloud
    if edge is not None and edge.broker.cert_file:
        yield _Certificate("this device's", edge.broker.cert_file, "outrider edge join --renew, or a new join line")
    if cloud is not None:
        fix = "outrider broker init DIR --renew"
        for what, path in (
            ("the cloud's on the broker", cloud.broker.cert_file),
            ("the API's", cloud.api.cert_file),
            ("the control's", cloud.access.control_cert_file),
            ("the authority's", cloud.access.ca_file),
        ):
            if path:
                yield _Certificate(what, path, fix if what != "the authority's" else "lay down a new site in time")


def _judged(each: _Certificate) -> Finding:
    from cryptography import x509

    path = Path(each.path)
    try:
        data = path.read_bytes()
        found = x509.load_pem_x509_certificate(data)
    except (OSError, ValueError) as error:
        return Finding(
            check="certificate", level="bad", what=f"{each.what} ({path}) cannot be read: {error}", fix=each.fix
        )
    if b"PRIVATE KEY" in data and path.stat().st_mode & 0o077:
        fix = f"chmod 600 {path}, and replace the key if somebody may have read it"
        return Finding(check="certificate", level="bad", what=f"others can read the key in {path}", fix=fix)
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    left = ends - datetime.now(UTC)
    what = f"{each.what} is good until {ends:%Y-%m-%d}"
    if left <= timedelta(0):
        return Finding(check="certificate", level="bad", what=f"{each.what} ran out on {ends:%Y-%m-%d}", fix=each.fix)
    if left < (ends - begins) * _SOON:
        return Finding(check="certificate", level="warning", what=what, fix=each.fix)
    return Finding(check="certificate", level="ok", what=what)


async def handshake(url: str, tls: Tls) -> None:
    """Reaches a protected broker with the files that it will be met with.

    Raises:
        OperatorConfigError: the files cannot be used.
        UnreachableError: no connection, or it does not take this certificate, or its own is not to be trusted.
    """
    where, context = parse_url(url), tls.context()
    try:
        async with asyncio.timeout(BROKER_WITHIN_S):
            reader, writer = await asyncio.open_connection(where.host, where.port, ssl=context)
        try:
            async with asyncio.timeout(_ALERT_WITHIN_S):
                closed = not await reader.read(1)
        except TimeoutError:
            closed = False  # it waits for us to speak: it has taken the certificate
        finally:
            writer.close()
    except ssl.SSLCertVerificationError as error:
        raise _unreachable(url, f"its certificate is not to be trusted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise _unreachable(url, f"it does not take this certificate: {error.reason}") from error
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or f"no reply within {BROKER_WITHIN_S:g} s"
        raise _unreachable(url, why) from error
    if closed:
        raise _unreachable(url, "it does not take this certificate, or asks for one")


def _unreachable(url: str, why: str) -> UnreachableError:
    return UnreachableError(
        f"the broker at {url} does not answer ({why})",
        reason="broker_unreachable",
        fix="start it, correct broker.url, or renew the certificate",
    )


def production(subject: Subject) -> Iterator[Finding]:
    """What a laboratory may do and a fleet may not; only with ``--production``."""
    if not subject.production:
        return
    complaints = [*_of_brokers(subject), *_of_the_api(subject.cloud), *_of_secrets(subject)]
    yield from complaints
    if not complaints and (subject.edge or subject.cloud):
        yield Finding(check="production", level="ok", what="every way in is protected")


def _of_brokers(subject: Subject) -> Iterator[Finding]:
    for side, config in (("edge.toml", subject.edge), ("cloud.toml", subject.cloud)):
        if config is None or not config.broker.url:
            continue
        broker = config.broker
        if not broker.url.startswith("mqtts://"):
            fix = "secure the site: docs/access.md"
            yield _bad(f"{side}: {broker.url} is not protected: anyone on the way reads and writes", fix)
        elif not broker.cert_file:
            fix = "join by invitation, or set broker.cert_file"
            yield _bad(f"{side}: no certificate says who this is on the broker", fix)


def _of_the_api(cloud: Any) -> Iterator[Finding]:
    if cloud is None:
        return
    if not cloud.api.token_file:
        yield _bad("cloud.toml: no token guards the API: whoever reaches it is its operator", "set api.token_file")
    if not cloud.api.cert_file and not is_loopback(cloud.api.host):
        yield _bad(
            f"cloud.toml: the API on {cloud.api.host} has no TLS: its token can be read on the way", "set api.cert_file"
        )
    for task in cloud.tasks:
        if task.large.startswith("zero:"):
            yield _bad(f"cloud.toml: {task.large} stands for the large model of {task.file}", "name a real one")


def _of_secrets(subject: Subject) -> Iterator[Finding]:
    for what, path in _secret_files(subject):
        try:
            secret = read_secret(Path(path), what)
        except OutriderError as error:
            yield _bad(error.what, error.fix)
            continue
        if len(secret) < _LEAST_SECRET or len(set(secret)) < 6:
            yield _bad(f"the {what} in {path} can be guessed", "put a random one in it: openssl rand -base64 32")
        if Path(path).stat().st_mode & 0o077:
            yield _bad(f"others can read the {what} in {path}", f"chmod 600 {path}")


def _secret_files(subject: Subject) -> Iterator[tuple[str, str]]:
    if subject.cloud is not None and subject.cloud.api.token_file:
        yield "bearer token", subject.cloud.api.token_file
    for config in (subject.edge, subject.cloud):
        if config is not None and config.broker.password_file:
            yield "broker's password", config.broker.password_file


def _bad(what: str, fix: str) -> Finding:
    return Finding(check="production", level="bad", what=what, fix=fix)
