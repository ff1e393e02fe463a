"""What a half-secured configuration is told, and how a device's certificate is kept and renewed."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from outrider_cloud.access import pki
from outrider_cloud.config import load_cloud_config
from outrider_edge.config import load_edge_config
from outrider_edge.joining import identity
from outrider_edge.joining.join import Joined, folder_of, named_in, renew, write_settings
from outrider_edge.joining.renewing import Renewing
from outrider_wire.errors import OperatorConfigError, PeerError, UnreachableError
from outrider_wire.joining import JoinLine

WHOLE = {
    "broker.url": "mqtts://b",
    "api.cert_file": "api.pem",
    "api.client_ca_file": "ca.pem",
    "api.public_url": "https://cloud.example:8780",
    "access.ca_file": "ca.pem",
    "access.ca_key_file": "ca.key",
    "access.control_cert_file": "control.pem",
    "access.crl_file": "crl.pem",
}
LINE = JoinLine("https://cloud.example:8780", "0" * 16, "s" * 32, "f" * 64)


def written(folder: Path, **changes: str) -> Path:
    tables: dict[str, list[str]] = {}
    for name, value in {**WHOLE, **changes}.items():
        table, key = name.split(".")
        tables.setdefault(table, []).append(f'{key} = "{value}"')
    lines = (f"[{table}]\n" + "\n".join(values) for table, values in tables.items())
    path = folder / "cloud.toml"
    path.write_text("\n".join(lines) + '\n[[tasks]]\nfile = "t.toml"\nlarge = "zero:echo"\n')
    return path


def test_a_whole_one_is_taken_and_its_paths_are_its_own_folders(tmp_path: Path) -> None:
    config = load_cloud_config(written(tmp_path))
    assert config.access.on
    assert (config.access.crl_file, config.api.client_ca_file) == (str(tmp_path / "crl.pem"), str(tmp_path / "ca.pem"))


@pytest.mark.parametrize("lacking", [name for name in WHOLE if name not in ("broker.url", "access.ca_key_file")])
def test_what_is_missing_is_named(lacking: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        load_cloud_config(written(tmp_path, **{lacking: ""}))
    assert lacking in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("broker.url", "mqtt://b"),
        ("api.public_url", "http://x"),
        ("api.public_url", "https://u:p@x"),
        ("access.broker_url", "mqtt://x"),
    ],
)
def test_what_is_open_is_refused(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError):
        load_cloud_config(written(tmp_path, **{name: value}))


def test_rules_that_are_kept_elsewhere_need_no_control(tmp_path: Path) -> None:
    changes = {"access.rules": "elsewhere", "access.control_cert_file": "", "access.crl_file": ""}
    assert load_cloud_config(written(tmp_path, **changes)).access.rules == "elsewhere"


# --- the device's side


@pytest.fixture
def authority() -> pki.Authority:
    return pki.new_authority("test", now=datetime.now(UTC))


def certified(authority: pki.Authority, folder: Path, *, days: float = 90) -> Path:
    request = identity.pending_request(folder, "cam")
    issued = pki.issue_device(authority, "cam", request, now=datetime.now(UTC), days=days)
    path = identity.store(folder, device="cam", certificate=issued.pem, authorities=authority.chain)
    identity.forget_pending(folder)
    return path


def test_the_same_request_is_made_until_its_certificate_is_kept(authority: pki.Authority, tmp_path: Path) -> None:
    first = pki.key_digest(identity.pending_request(tmp_path, "cam"))
    assert pki.key_digest(identity.pending_request(tmp_path, "cam")) == first
    path = certified(authority, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert pki.key_digest(identity.pending_request(tmp_path, "cam")) != first
    assert (tmp_path / identity.NEXT_KEY).stat().st_mode & 0o777 == 0o600


def test_a_certificate_for_another_key_or_name_is_not_kept(authority: pki.Authority, tmp_path: Path) -> None:
    other = pki.issue_device(
        authority, "cam", identity.pending_request(tmp_path / "other", "cam"), now=datetime.now(UTC)
    )
    mine = pki.issue_device(authority, "cam", identity.pending_request(tmp_path, "cam"), now=datetime.now(UTC))
    for device, certificate in (("cam", other.pem), ("dog", mine.pem), ("cam", "nonsense")):
        with pytest.raises(PeerError):
            identity.store(tmp_path, device=device, certificate=certificate)
    assert not (tmp_path / identity.CERTIFICATE).exists()


async def test_a_certificate_is_left_alone_until_it_is_time(authority: pki.Authority, tmp_path: Path) -> None:
    young = certified(authority, tmp_path / "young")
    old = certified(authority, tmp_path / "old", days=0.001)
    nobody = "https://127.0.0.1:9"
    for path, asks in ((young, False), (old, True)):
        renewing = Renewing(url=nobody, device="cam", ca_file=path.parent / "ca.pem", cert_file=path)
        if asks:
            with pytest.raises(UnreachableError):
                await renewing.turn()
        else:
            assert not await renewing.turn()
    assert old.exists(), "what cannot be renewed is kept"


def test_a_certificate_from_elsewhere_is_not_renewed_here(tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError):
        renew("https://x", device="cam", ca_file=tmp_path / "ca.pem", cert_file=tmp_path / "theirs.pem")


def test_joining_writes_its_part_of_the_file_and_leaves_the_rest(authority: pki.Authority, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        '# ours\ndevice = "old"\ndata_dir = "data"\n[broker]\nurl = "mqtt://old"\npassword_file = "p"\n'
        '[[tasks]]\nfile = "t.toml"\nbundle = "b"\n'
    )
    assert (named_in(config), folder_of(config, default="x")) == ("old", tmp_path / "data/identity")
    path = certified(authority, tmp_path / "data/identity")
    joined = Joined("cam", "mqtts://b:8883", "outrider/1", "", path.parent / "ca.pem", path)
    write_settings(joined, LINE, config)
    found = load_edge_config(config)
    assert config.read_text().startswith("# ours\n")
    assert (found.device, found.broker.url, found.broker.cert_file) == ("cam", "mqtts://b:8883", str(path))
    assert (found.broker.password_file, found.cloud.url, found.cloud.renew) == ("", LINE.url, True)
    assert LINE.secret not in config.read_text()


def test_a_device_without_a_file_gets_one(authority: pki.Authority, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    path = certified(authority, tmp_path / "identity")
    write_settings(Joined("cam", "mqtts://b", "r", "", path.parent / "ca.pem", path), LINE, config)
    text = config.read_text()
    assert 'cert_file = "identity/device.pem"' in text and 'device = "cam"' in text


def test_renewing_without_a_certificate_is_a_mistake_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(
        '[cloud]\nurl = "https://x"\nrenew = true\n[[tasks]]\nfile = "t.toml"\nbundle = "b"\n'
    )
    with pytest.raises(OperatorConfigError):
        load_edge_config(tmp_path / "edge.toml")
