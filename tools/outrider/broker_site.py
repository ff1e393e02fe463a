"""What a secured site needs before its first device: an authority, certificates, the broker's configuration and rules, as files.

Plans first, then writes; prints nothing. `outrider_cloud.access` knows certificates and rules, mosquitto's own words are here.
"""

import os
import pwd
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from outrider_cloud.access import dynsec, pki
from outrider_link.files import write_durably
from outrider_link.settings import read_text
from outrider_wire.errors import CallerInputError, OperatorConfigError, OperatorSetupError
from outrider_wire.joining import CONTROL, WORKER_PREFIX
from outrider_wire.limits import MESSAGE_BYTES
from outrider_wire.names import NAME_GRAMMAR
from outrider_wire.toml_edit import Value, with_settings
from outrider_wire.topics import DEFAULT_ROOT, WORKERS, Topics

PLUGINS = (
    "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so",
    "/usr/lib/aarch64-linux-gnu/mosquitto_dynamic_security.so",
    "/usr/lib/mosquitto_dynamic_security.so",
    "/usr/local/lib/mosquitto_dynamic_security.so",
)
"""Where distributions put it."""
BROKER_PACKET_BYTES = MESSAGE_BYTES + 64 * 1024
SECRET, PUBLIC = 0o600, 0o644

_CONF = """\
# mosquitto for Outrider: every client has a certificate, which says who it is and, with the rules, what it may do.
# Made by `outrider broker init`; README.md beside the sample tells what every line is for.

per_listener_settings false
{user}
listener {port}{bind}
cafile {folder}/ca.pem
certfile {folder}/broker.pem
keyfile {folder}/broker.key
crlfile {folder}/crl.pem
require_certificate true
tls_version tlsv1.2
use_identity_as_username true
use_username_as_clientid true

allow_anonymous false
allow_zero_length_clientid false
plugin {plugin}
plugin_opt_config_file {folder}/dynamic-security.json

max_packet_size {packet}
max_inflight_messages 20
max_queued_messages 1000
max_queued_bytes 67108864
max_keepalive 120
persistent_client_expiration 1d

persistence true
persistence_location {folder}/
autosave_interval 60
pid_file {folder}/mosquitto.pid
log_dest {log}
log_type error
log_type warning
log_type notice
"""


class Site(NamedTuple):
    """What is wished for."""

    folder: Path
    hosts: Sequence[str]
    """Names and addresses that devices reach the broker and the cloud by; the first is the one they are told."""
    port: int = 8883
    api_port: int = 8780
    listen: str = ""
    """Address to listen on; empty: every one."""
    worker: str = "one"
    group: str = WORKERS
    root: str = DEFAULT_ROOT
    user: str = ""
    """System user that the broker runs as; empty: whoever starts it."""
    plugin: str = ""
    """Where mosquitto's dynamic-security plugin is; empty: looked for."""
    log: str = "stderr"


class File(NamedTuple):
    """One file to write."""

    path: Path
    data: bytes
    mode: int
    what: str


def lay_out(site: Site, *, ca_files: tuple[Path, Path] | None = None, renew: bool = False) -> list[File]:
    """Every file of the site, nothing written yet; with ``renew`` only what runs out, signed by the authority that is there.

    Args:
        ca_files: certificate (with those above it) and key of an authority of one's own PKI; None: one is made.

    Raises:
        OperatorError: the site is there already (without ``renew``), or is not (with it), or its authority cannot be used.
        CallerInputError: a name that cannot be one.
    """
    _check(site, renew=renew)
    now = datetime.now(UTC)
    ours = (site.folder / "authority/ca.pem", site.folder / "authority/ca.key")
    if renew or ca_files:
        chain, key = ca_files or ours
        authority = pki.read_authority(read_text(chain).encode(), read_text(key).encode())
    else:
        authority = pki.new_authority(f"Outrider site {secrets.token_hex(4)}", now=now)
    files = list(_certificates(site, authority, now))
    if renew:
        return files
    return [*_authority(site, authority), *files, *_broker(site, authority, now), *_cloud(site, authority)]


def write(files: Sequence[File], *, owner: str = "") -> None:
    """Writes them, secrets readable by their owner alone; the broker's folder goes to the user ``owner``.

    Raises:
        OperatorSetupError: a file or its owner cannot be set.
    """
    try:
        for file in files:
            file.path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            write_durably(file.path, file.data, mode=file.mode)
        if owner:
            broker = next(file.path.parent for file in files if file.path.parent.name == "broker")
            for path in (broker, *broker.rglob("*")):
                shutil.chown(path, owner, None)
    except (OSError, LookupError) as error:
        raise OperatorSetupError(
            f"the site cannot be written: {error}", reason="site_unwritable", fix="check the folder's rights and --user"
        ) from error


def cloud_settings(site: Site) -> Mapping[str, Mapping[str, Value]]:
    """What ``cloud.toml`` has to say to be the cloud of this site."""
    folder = site.folder.absolute()
    mine = folder / "cloud"
    pid_file = folder / "broker/mosquitto.pid"
    return {
        "": {"worker": site.worker},
        "broker": {
            "url": f"mqtts://{_bracketed(site.hosts[0])}:{site.port}",
            "root": site.root,
            "group": site.group,
            "ca_file": str(mine / "ca.pem"),
            "cert_file": str(mine / "worker.pem"),
        },
        "api": {
            "host": site.listen or "0.0.0.0",  # noqa: S104  devices join here; TLS and a token guard it
            "port": site.api_port,
            "public_url": f"https://{_bracketed(site.hosts[0])}:{site.api_port}",
            "cert_file": str(mine / "api.pem"),
            "client_ca_file": str(mine / "ca.pem"),
            "token_file": str(mine / "token"),
        },
        "access": {
            "ca_file": str(mine / "ca.pem"),
            "ca_key_file": str(folder / "authority/ca.key"),
            "control_cert_file": str(mine / "control.pem"),
            "crl_file": str(folder / "broker/crl.pem"),
            "broker_pid_file": str(pid_file),
        },
    }


def mosquitto_conf(site: Site, folder: str, plugin: str) -> str:
    """The broker's configuration, for a broker whose files are in ``folder``."""
    return _CONF.format(
        user=f"user {site.user}\n" if site.user else "",
        port=site.port,
        bind=f" {site.listen}" if site.listen else "",
        folder=folder,
        plugin=plugin,
        packet=BROKER_PACKET_BYTES,
        log=site.log,
    )


def rules_json(site: Site) -> bytes:
    """The plugin's first rules, as it reads and writes them."""
    rules = dynsec.first_rules(Topics(site.root), group=site.group, workers=[site.worker])
    return msgspec.json.format(msgspec.json.encode(rules), indent=2) + b"\n"


def _check(site: Site, *, renew: bool) -> None:
    there = site.folder / "broker/mosquitto.conf"
    if there.exists() is not renew:
        raise OperatorSetupError(
            f"{there} is not there" if renew else f"{there} is there already",
            reason="no_site" if renew else "site_exists",
            fix="name the folder of the site" if renew else "name another folder, or add --renew for new certificates",
        )
    if not re.fullmatch(NAME_GRAMMAR, site.worker) or len(WORKER_PREFIX + site.worker) > 64:
        raise CallerInputError(f"{site.worker!r} can be no worker's name", reason="invalid_worker", fix="use a-z 0-9 -")
    for host in site.hosts:
        if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", host):
            raise CallerInputError(f"{host!r} is no host", reason="invalid_host", fix="give a name or an address")


def _authority(site: Site, authority: pki.Authority) -> Iterator[File]:
    folder = site.folder / "authority"
    yield File(folder / "ca.pem", authority.chain.encode(), PUBLIC, "the authority that everyone here trusts")
    yield File(folder / "ca.key", pki.key_pem(authority.key), SECRET, "its key: whoever has it can be any device")


def _certificates(site: Site, authority: pki.Authority, now: datetime) -> Iterator[File]:
    """What runs out and is made anew: the three identities of the cloud, and the broker's."""
    cloud, broker = site.folder / "cloud", site.folder / "broker"
    for path, name, hosts, what in (
        (cloud / "worker.pem", WORKER_PREFIX + site.worker, (), "the cloud's certificate and key on the broker"),
        (cloud / "control.pem", CONTROL, (), "certificate and key that change the broker's rules"),
        (cloud / "api.pem", site.hosts[0], site.hosts, "the HTTP API's certificate and key"),
    ):
        key = pki.new_key()
        issued = pki.issue_service(authority, name, key, hosts=hosts, now=now)
        yield File(path, issued.pem.encode() + pki.key_pem(key), SECRET, what)
    key = pki.new_key()
    issued = pki.issue_service(authority, site.hosts[0], key, hosts=site.hosts, now=now)
    yield File(broker / "broker.pem", issued.pem.encode(), PUBLIC, "the broker's certificate")
    yield File(broker / "broker.key", pki.key_pem(key), SECRET, "its key")


def _broker(site: Site, authority: pki.Authority, now: datetime) -> Iterator[File]:
    folder = site.folder / "broker"
    yield File(folder / "ca.pem", authority.chain.encode(), PUBLIC, "whose certificates the broker takes")
    yield File(folder / "crl.pem", pki.revocations(authority, [], now=now), PUBLIC, "whose it takes no more")
    yield File(folder / "dynamic-security.json", rules_json(site), SECRET, "who may say and hear what")
    plugin = site.plugin or next((path for path in PLUGINS if Path(path).exists()), PLUGINS[0])
    conf = mosquitto_conf(site, str(folder.absolute()), plugin)
    yield File(folder / "mosquitto.conf", conf.encode(), PUBLIC, "the broker's configuration")


def _cloud(site: Site, authority: pki.Authority) -> Iterator[File]:
    folder = site.folder / "cloud"
    yield File(folder / "ca.pem", authority.chain.encode(), PUBLIC, "whom the cloud trusts")
    yield File(folder / "token", f"{secrets.token_urlsafe(32)}\n".encode(), SECRET, "the operator's token for the API")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def own_authority(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Certificate and key of an authority of one's own; None: one is to be made.

    Raises:
        CallerInputError: only one of the two is named.
    """
    if (certificate is None) is not (key is None):
        raise CallerInputError(
            "an authority is a certificate and its key", reason="half_an_authority", fix="give --ca-cert and --ca-key"
        )
    return (certificate, key) if certificate and key else None


def changed_config(site: Site, path: Path) -> File:
    """``cloud.toml`` with the site's settings in it.

    Raises:
        OperatorConfigError: it cannot be changed by itself; the sentence says what to write.
    """
    text = with_settings(read_text(path) if path.exists() else "", cloud_settings(site), str(path))
    return File(path, text.encode(), PUBLIC, "the cloud's configuration")


def as_it_is(site: Site) -> Site:
    """The site under its own names and its worker's, as its certificates say them: what a renewal keeps.

    Raises:
        OperatorConfigError: they cannot be read.
    """
    from cryptography import x509

    try:
        server = x509.load_pem_x509_certificate(read_text(site.folder / "broker/broker.pem").encode())
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        worker = x509.load_pem_x509_certificate(read_text(site.folder / "cloud/worker.pem").encode())
    except (ValueError, x509.ExtensionNotFound) as error:
        raise OperatorConfigError(
            f"the certificates of {site.folder} cannot be read: {error}", reason="no_site", fix="name the site's folder"
        ) from error
    name = str(worker.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
    return site._replace(hosts=[str(each.value) for each in names], worker=name.removeprefix(WORKER_PREFIX))


def current_user() -> str:
    """Who runs this: mosquitto started by root would become another user, who cannot read its files."""
    return pwd.getpwuid(os.geteuid()).pw_name


def default_hosts() -> list[str]:
    """This machine by its name and on the loopback."""
    return list(dict.fromkeys([os.uname().nodename, "localhost", "127.0.0.1"]))
