"""HTTP/1.1 to one address, over TCP, TLS or a Unix socket, with the standard library alone. Knows no API of ours."""

import http.client
import select
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from outrider_wire.errors import OperatorConfigError, PeerError, UndecidedError, UnreachableError

UNIX = "unix:"


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class Address(NamedTuple):
    """Where a server is: a socket's path, or scheme, host and port."""

    path: str
    tls: bool = False
    host: str = "localhost"
    port: int = 0

    @property
    def base(self) -> str:
        """What URLs begin with."""
        if self.path:
            return "http://localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def __str__(self) -> str:
        return f"{UNIX}{self.path}" if self.path else self.base


def parse_address(text: str) -> Address:
    """``http://host:port``, ``https://host``, ``unix:/run/x.sock``, or a path to a socket.

    Raises:
        OperatorConfigError: it is none of these.
    """
    if text.startswith(UNIX) or text.startswith(("/", "./")):
        return Address(path=text.removeprefix(UNIX).removeprefix("//"))
    try:
        found = urlsplit(text)
        port = found.port or (443 if found.scheme == "https" else 80)
    except ValueError:
        found, port = urlsplit(""), 0
    if found.scheme not in ("http", "https") or not found.hostname or found.path.strip("/"):
        raise OperatorConfigError(
            f"{text!r} is no address of a server",
            reason="invalid_address",
            fix="write http://HOST:PORT, or unix:/path/of/a.sock",
        )
    return Address(path="", tls=found.scheme == "https", host=found.hostname, port=port)


class Transport:
    """Keeps idle connections and reuses those the server has not closed. Safe to use from several threads.

    Args:
        address: as `parse_address` takes it.
        what: who is there, for the sentences of errors: ``the agent``.
        start: the command that starts it.
        timeout_s: how long one reply may take.
        headers: sent with every request.
        ca_file: who vouches for the server over TLS; None: the system's authorities.
    """

    def __init__(
        self,
        address: str,
        *,
        what: str,
        start: str,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self.address = parse_address(address)
        self.what = what
        self.start = start
        self.timeout_s = timeout_s
        self._headers = dict(headers or {})
        self._tls = _tls(ca_file) if self.address.tls else None
        self._idle: deque[http.client.HTTPConnection] = deque()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        """One request and its whole reply, whatever its status.

        Raises:
            UnreachableError: nobody is there, or the connection broke.
            UndecidedError: no reply within the time.
            PeerError: what came back is not HTTP.
        """
        within_s = self.timeout_s if timeout_s is None else timeout_s
        connection = self._connection(within_s)
        try:
            connection.request(method, path, body=body, headers={**self._headers, **(headers or {})})
            answer = connection.getresponse()
            reply = Reply(answer.status, answer.read())
        except TimeoutError as error:
            connection.close()
            raise timed_out(self.what, within_s) from error
        except (http.client.RemoteDisconnected, OSError) as error:
            connection.close()
            raise unreachable(self.what, str(self.address), self.start, error) from error
        except http.client.HTTPException as error:
            connection.close()
            raise not_http(self.what, str(self.address)) from error
        if answer.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return reply

    def stream(self, path: str, *, silence_s: float) -> Iterator[bytes | Reply]:
        """The lines of a reply that has no end; or one whole `Reply`, when its status says that it is none.

        Args:
            path: what is asked for.
            silence_s: longer than that the server never says nothing.

        Raises:
            UnreachableError: nobody is there, the connection broke, or it went silent.
            PeerError: what came back is not HTTP.
        """
        connection = self._connection(silence_s)
        try:
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            if answer.status >= 300:
                yield Reply(answer.status, answer.read())
                return
            while line := answer.readline():
                yield line
        except OSError as error:
            raise unreachable(self.what, str(self.address), self.start, error) from error
        except http.client.HTTPException as error:
            raise not_http(self.what, str(self.address)) from error
        finally:
            connection.close()

    def close(self) -> None:
        """Closes what is idle. The transport can be used again."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        while self._idle:
            kept = self._idle.pop()
            if kept.sock is not None and not select.select([kept.sock], [], [], 0)[0]:
                kept.sock.settimeout(timeout_s)
                return kept
            kept.close()
        if self.address.path:
            return _UnixConnection(self.address.path, timeout=timeout_s)
        if self._tls is not None:
            return http.client.HTTPSConnection(
                self.address.host, self.address.port, timeout=timeout_s, context=self._tls
            )
        return http.client.HTTPConnection(self.address.host, self.address.port, timeout=timeout_s)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise OperatorConfigError(
            f"{ca_file} holds no certificates of authorities: {error}", reason="tls_files", fix="check --ca-file"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the file may hold an authority that another one signed
    return context


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Opens the socket at the path."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.settimeout(self.timeout)
        try:
            opened.connect(self._path)
        except OSError:
            opened.close()
            raise
        self.sock = opened


def unreachable(what: str, address: str, start: str, error: Exception) -> UnreachableError:
    """Nobody is there, or the connection broke."""
    why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
    return UnreachableError(
        f"{what} at {address} does not answer ({why})", reason="unreachable", fix=f"start it with: {start}"
    )


def timed_out(what: str, within_s: float) -> UndecidedError:
    """No reply within the time."""
    return UndecidedError(
        f"{what} gave no reply within {within_s:g} s", reason="timed_out", fix="ask again, or allow more time"
    )


def not_http(what: str, address: str) -> PeerError:
    """Something else listens there."""
    return PeerError(
        f"what listens at {address} is not {what}", reason="not_http", fix="check the address and the port"
    )
