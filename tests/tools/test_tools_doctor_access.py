"""``outrider doctor`` over certificates and secrets, and what ``--production`` complains of."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from outrider import broker_site
from outrider.doctor_access import certificates, handshake, production
from outrider.doctor_findings import Finding, Subject
from outrider_cloud.access import pki
from outrider_cloud.config import load_cloud_config
from outrider_edge.config import load_edge_config
from outrider_link.envelope import Tls
from outrider_wire.errors import UnreachableError

NOW = datetime.now(UTC)


@pytest.fixture
def site(tmp_path: Path) -> broker_site.Site:
    made = broker_site.Site(folder=tmp_path / "site", hosts=["cloud.example"])
    broker_site.write(broker_site.lay_out(made))
    return made


def cloud(folder: Path, text: str = "", *, site: broker_site.Site | None = None, large: str = "onnx:x") -> Any:
    """A configuration of the cloud; with a site, a secured one."""
    path = folder / "cloud.toml"
    path.write_text(f'{text}\n[[tasks]]\nfile = "task.toml"\nlarge = "{large}"\n')
    if site is not None:
        path.write_bytes(broker_site.changed_config(site, path).data)
    return load_cloud_config(path)


def edge(folder: Path, broker: str) -> Any:
    path = folder / "edge.toml"
    path.write_text(f'device = "cam"\n[broker]\n{broker}\n[[tasks]]\nfile = "task.toml"\nbundle = "b"\n')
    return load_edge_config(path)


def device_certificate(site: broker_site.Site, *, days: float, age_days: float = 0) -> Path:
    folder = site.folder / "authority"
    authority = pki.read_authority((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())
    key = pki.new_key()
    issued = pki.issue_service(authority, "cam", key, hosts=(), now=NOW - timedelta(days=age_days), days=days)
    path = site.folder / "device.pem"
    path.write_bytes(issued.pem.encode() + pki.key_pem(key))
    path.chmod(0o600)
    return path


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


@pytest.mark.parametrize(("days", "age", "level"), [(90, 0, "ok"), (90, 70, "warning"), (90, 91, "bad")])
def test_a_certificate_that_runs_out_is_said_in_time(
    days: float, age: float, level: str, site: broker_site.Site, tmp_path: Path
) -> None:
    path = device_certificate(site, days=days, age_days=age)
    config = edge(tmp_path, f'url = "mqtts://x"\ncert_file = "{path}"')
    (finding,) = certificates(Subject(edge=config))
    assert finding.level == level
    assert level == "ok" or "outrider edge join" in finding.fix


def test_a_key_that_others_can_read_is_bad(site: broker_site.Site, tmp_path: Path) -> None:
    path = device_certificate(site, days=90)
    path.chmod(0o644)
    (finding,) = certificates(Subject(edge=edge(tmp_path, f'url = "mqtts://x"\ncert_file = "{path}"')))
    assert (finding.level, "chmod 600" in finding.fix) == ("bad", True)


def test_a_certificate_that_is_none_is_bad(tmp_path: Path) -> None:
    (finding,) = certificates(Subject(edge=edge(tmp_path, 'url = "mqtts://x"\ncert_file = "edge.toml"')))
    assert finding.level == "bad"


def test_all_of_a_secured_cloud_is_looked_at_and_nothing_is_wrong(site: broker_site.Site, tmp_path: Path) -> None:
    subject = Subject(cloud=cloud(tmp_path, site=site), production=True)
    assert levels(list(certificates(subject))) == ["ok"] * 4
    assert [(finding.level, finding.what) for finding in production(subject)] == [("ok", "every way in is protected")]


def test_only_who_asks_for_production_hears_of_it(tmp_path: Path) -> None:
    assert list(production(Subject(cloud=cloud(tmp_path)))) == []


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("", "is not protected"),
        ("", "no token guards the API"),
        ('[broker]\nurl = "mqtts://b"', "no certificate says who this is"),
        ('[api]\nhost = "0.0.0.0"\ntoken_file = "token"', "has no TLS"),
        ('[api]\ntoken_file = "weak"', "can be guessed"),
        ('[api]\ntoken_file = "readable"', "others can read"),
        ('[api]\ntoken_file = "absent"', "cannot be read"),
        ('[broker]\npassword_file = "weak"\nusername = "u"', "broker's password"),
    ],
)
def test_what_a_fleet_may_not_do(said: str, complaint: str, tmp_path: Path) -> None:
    for name, secret, mode in (("token", "k" * 2 + "abcdefghijklmnop", 0o600), ("weak", "outrider", 0o600)):
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(mode)
    (tmp_path / "readable").write_text("abcdefghijklmnopqrstuvwxyz")
    (tmp_path / "readable").chmod(0o644)
    found = list(production(Subject(cloud=cloud(tmp_path, said), production=True)))
    assert set(levels(found)) == {"bad"}
    assert any(complaint in finding.what and finding.fix for finding in found), [finding.what for finding in found]


def test_a_large_model_that_is_none_is_complained_of(site: broker_site.Site, tmp_path: Path) -> None:
    subject = Subject(cloud=cloud(tmp_path, site=site, large="zero:echo"), production=True)
    assert [finding.level for finding in production(subject)] == ["bad"]


def test_a_device_without_a_protected_broker_is_complained_of_and_one_alone_is_not(tmp_path: Path) -> None:
    assert levels(list(production(Subject(edge=edge(tmp_path, 'url = "mqtt://b"'), production=True)))) == ["bad"]
    assert levels(list(production(Subject(edge=edge(tmp_path, ""), production=True)))) == ["ok"]


def test_a_broker_that_speaks_no_tls_is_not_taken_for_one_that_does() -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\r\n")
        writer.close()

    async def meet() -> None:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        async with server:
            await handshake(f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}", Tls())

    with pytest.raises(UnreachableError):
        asyncio.run(meet())
