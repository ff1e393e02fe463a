"""A secured site for tests: mosquitto with certificates and access rules, as `outrider broker init` lays it down. Knows no assertion."""

import contextlib
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import aiohttp
import mosquitto
from cloud_device import Device

from outrider import broker_site
from outrider.processes import any_port
from outrider_cloud.access import pki
from outrider_cloud.access.control import Mosquitto
from outrider_cloud.service import CloudService
from outrider_link.blobs import BlobHolder, BlobPuller
from outrider_link.envelope import Incoming, Tls
from outrider_link.session import MqttSession
from outrider_link.settings import read_secret
from outrider_wire.access import Grant, device_grants
from outrider_wire.toml_edit import with_settings
from outrider_wire.topics import TABLE, Topics

TOPICS = Topics()
HOSTS = ["localhost", "127.0.0.1"]


class SecuredBroker:
    """mosquitto on a free port, for as long as the block lasts; `device` makes identities without any cloud."""

    def __init__(self, folder: Path) -> None:
        self.site = broker_site.Site(
            folder=folder,
            hosts=HOSTS,
            port=any_port(),
            api_port=any_port(),
            listen="127.0.0.1",
            user=broker_site.current_user(),
            plugin=str(mosquitto.library("mosquitto_dynamic_security.so")),
            log=f"file {folder}/broker/log",
        )
        self.url = f"mqtts://127.0.0.1:{self.site.port}"
        self.ca_file = folder / "cloud/ca.pem"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        broker_site.write(broker_site.lay_out(self.site))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns once it listens, and has read its configuration again: what holds must hold after a revocation too."""
        conf = self.site.folder / "broker/mosquitto.conf"
        self._process = subprocess.Popen([mosquitto.require(), "-c", str(conf)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.site.port), timeout=1) as plain,
            ):
                self.worker_tls.context().wrap_socket(plain, server_hostname="localhost").close()
                self._process.send_signal(signal.SIGHUP)
                return
            time.sleep(0.02)
        raise RuntimeError(f"mosquitto does not come up: {self.log()}")

    def stop(self) -> None:
        """Harmless when it does not run."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def log(self) -> str:
        """What it has said."""
        file = self.site.folder / "broker/log"
        return file.read_text() if file.exists() else ""

    @property
    def authority(self) -> pki.Authority:
        """The site's own."""
        folder = self.site.folder / "authority"
        return pki.read_authority((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())

    @property
    def control(self) -> Mosquitto:
        """What changes the rules."""
        return Mosquitto(url=self.url, ca_file=self.ca_file, cert_file=self.site.folder / "cloud/control.pem")

    def certificate(self, name: str, *, days: float = 30.0) -> Path:
        """A client certificate and key in that name, signed by the site's authority whatever the name is."""
        key = pki.new_key()
        issued = pki.issue_service(self.authority, name, key, hosts=(), now=datetime.now(UTC), days=days)
        path = self.site.folder / f"{abs(hash((name, days)))}.pem"
        path.write_bytes(issued.pem.encode() + pki.key_pem(key))
        return path

    async def device(self, name: str, *, grants: Sequence[Grant] | None = None) -> Tls:
        """A device that has been let in: its certificate, and its role on the broker."""
        await self.control.admit(name, device_grants(TOPICS, name) if grants is None else grants)
        return self.tls(self.certificate(name))

    def tls(self, cert_file: Path) -> Tls:
        """What a client with that certificate connects with."""
        return Tls(ca_file=self.ca_file, cert_file=cert_file)

    @property
    def worker_tls(self) -> Tls:
        """The cloud worker's."""
        return self.tls(self.site.folder / "cloud/worker.pem")


def secure(config: Path, broker: SecuredBroker) -> Path:
    """The same ``cloud.toml``, made the cloud of the broker's site."""
    site = broker.site
    config.write_text(with_settings(config.read_text(), broker_site.cloud_settings(site), str(config)))
    return config


class Peer:
    """A session that keeps what it hears."""

    def __init__(
        self,
        url: str,
        name: str,
        tls: Tls,
        *,
        subscriptions: Sequence[str] | None = None,
        within_s: float = 30.0,
    ) -> None:
        self._within_s = within_s
        self.heard: list[Incoming] = []
        self.session = MqttSession(
            url=url,
            client_id=name,
            subscriptions=downlink(name) if subscriptions is None else subscriptions,
            on_message=self._hear,
            tls=tls,
        )

    async def __aenter__(self) -> Self:
        await self.session.__aenter__()
        try:
            await self.session.wait_connected(self._within_s)
        except BaseException:  # cancelled too: __aexit__ is not called for what never entered
            await self.session.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.__aexit__(None, None, None)

    async def _hear(self, message: Incoming) -> None:
        self.heard.append(message)


class SecuredDevice(Device):
    """The cloud tests' device, with a certificate and the subscriptions that it is allowed."""

    def __init__(self, url: str, name: str, tls: Tls) -> None:
        super().__init__(url, name)
        self.session = MqttSession(
            url=url, client_id=name, subscriptions=downlink(name), on_message=self._on_message, tls=tls
        )
        self._holder = BlobHolder(publish=self.session.publish, open_blob=self.blobs.get)
        self.puller = BlobPuller(publish=self.session.publish, timeout_s=1.0)


def downlink(device: str) -> list[str]:
    """What a device subscribes to."""
    return [TOPICS.of(row.kind, device, task="+", transfer="+") for row in TABLE if row.sender == "cloud"]


async def as_operator(service: CloudService, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and JSON body of a request with the site's token."""
    settings = service._config.api
    headers = {"Authorization": f"Bearer {read_secret(Path(settings.token_file), 'token')}"}
    return await over_tls(service, method, path, body, headers=headers)


async def over_tls(
    service: CloudService,
    method: str,
    path: str,
    body: object = None,
    *,
    cert_file: Path | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """The same without a token; with a client certificate, when one is named."""
    context = ssl.create_default_context(cafile=service._config.api.client_ca_file)
    if cert_file is not None:
        context.load_cert_chain(cert_file)
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.request(method, service.url + path, json=body, ssl=context) as response,
    ):
        kind = response.content_type
        return response.status, await (response.json() if kind == "application/json" else response.text())
