"""``outrider broker``: what a secured site consists of, and what the embedded broker will not do."""

import re
import runpy
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from outrider import broker_site, durations
from outrider_cloud.access import pki
from outrider_cloud.config import load_cloud_config
from outrider_wire.errors import CallerInputError

SAMPLES = Path(__file__).parents[2] / "firmware_configs/broker"
EVERYWHERE = "0.0.0.0"  # noqa: S104  that it is refused is what is tested


def test_the_embedded_broker_listens_on_this_machine_alone(outrider):
    ran = outrider("broker", "run", "--host", EVERYWHERE, "--port", 0)
    assert ran.code == 2
    assert "no access rules" in ran.err


def test_a_site_is_laid_down_with_its_keys_closed(outrider, tmp_path):
    (tmp_path / "cloud.toml").write_text('[[tasks]]\nfile = "task.toml"\nlarge = "zero:echo"\n')
    shown = outrider(
        "broker", "init", "site", "--host", "cloud.example", "--cloud-config", "cloud.toml", "--dry-run", "--json"
    )
    assert shown.json["dry_run"] and not (tmp_path / "site").exists()
    assert "[broker]" not in (tmp_path / "cloud.toml").read_text()
    ran = outrider("broker", "init", "site", "--host", "cloud.example", "--cloud-config", "cloud.toml", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["files"] == shown.json["files"]
    secret = [path for path in (tmp_path / "site").rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert len(secret) == 5
    for path in [*secret, tmp_path / "site/cloud/token", tmp_path / "site/broker/dynamic-security.json"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    config = load_cloud_config(tmp_path / "cloud.toml")
    assert config.access.on and config.api.public_url == "https://cloud.example:8780"
    again = outrider("broker", "init", "site")
    assert again.code == 2 and "there already" in again.err


def site_in(folder: Path, **wishes) -> broker_site.Site:
    return broker_site.Site(folder=folder / "site", **{"hosts": ["cloud.example"], **wishes})


def test_a_renewal_makes_new_certificates_under_the_same_names_and_leaves_the_rest(tmp_path):
    broker_site.write(broker_site.lay_out(site_in(tmp_path, hosts=["cloud.example", "10.0.0.7"], worker="two")))
    before = {path: path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file()}
    broker_site.write(broker_site.lay_out(broker_site.as_it_is(site_in(tmp_path)), renew=True))
    changed = {str(path.relative_to(tmp_path / "site")) for path, data in before.items() if path.read_bytes() != data}
    assert changed == {
        "cloud/worker.pem",
        "cloud/control.pem",
        "cloud/api.pem",
        "broker/broker.pem",
        "broker/broker.key",
    }
    server = x509.load_pem_x509_certificate((tmp_path / "site/broker/broker.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each.value) for each in names] == ["cloud.example", "10.0.0.7"]
    worker = x509.load_pem_x509_certificate((tmp_path / "site/cloud/worker.pem").read_bytes())
    assert worker.subject.rfc4514_string() == "CN=outrider-cloud-two"


def test_an_authority_of_ones_own_pki_signs_and_is_trusted_with_those_above_it(tmp_path):
    above = pki.new_authority("root of ours", now=datetime.now(UTC))
    mine = pki.new_authority("issuing of ours", now=datetime.now(UTC))
    chain, key = tmp_path / "chain.pem", tmp_path / "ca.key"
    chain.write_text(mine.chain + above.chain)
    key.write_bytes(pki.key_pem(mine.key))
    broker_site.write(broker_site.lay_out(site_in(tmp_path), ca_files=broker_site.own_authority(chain, key)))
    assert (tmp_path / "site/broker/ca.pem").read_text() == mine.chain + above.chain
    server = x509.load_pem_x509_certificate((tmp_path / "site/broker/broker.pem").read_bytes())
    server.verify_directly_issued_by(mine.certificate)
    with pytest.raises(CallerInputError):
        broker_site.own_authority(chain, None)


@pytest.mark.parametrize("wrong", [{"worker": "A B"}, {"hosts": ["a\nlistener 1883"]}, {"worker": "w" * 60}])
def test_a_name_that_cannot_be_one_is_refused(tmp_path, wrong):
    with pytest.raises(CallerInputError):
        broker_site.lay_out(site_in(tmp_path, **wrong))


def test_what_cannot_be_reached_or_read_is_said_with_the_way_out(outrider):
    ran = outrider("cloud", "invite", "--cloud", "http://127.0.0.1:9")
    assert ran.code == 4 and "outrider cloud serve" in ran.err
    joined = outrider("edge", "join", "https://cloud.example#nonsense")
    assert joined.code == 1 and "outrider cloud invite" in joined.err and "nonsense" not in joined.err


@pytest.mark.parametrize(("text", "wanted"), [("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800)])
def test_durations_are_written_as_people_do(text, wanted):
    assert durations.seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "soon", "1", "h", "-1h", "1.5h", "1y"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(CallerInputError):
        durations.seconds(text)


# --- the samples


def test_the_samples_are_what_the_topic_table_makes_of_them():
    path = Path(__file__).parents[1] / "assets/make_broker_samples.py"
    samples = runpy.run_path(str(path))["samples"]()
    different = [name for name, text in samples.items() if (SAMPLES / name).read_text() != text]
    assert different == [], f"run: python {path.relative_to(Path(__file__).parents[2])}"


def test_every_line_of_the_configuration_is_explained():
    words = {
        line.split()[0] for line in (SAMPLES / "mosquitto.conf").read_text().splitlines() if line and line[0] != "#"
    }
    explained = set(re.findall(r"`([a-z_]+)`", (SAMPLES / "README.md").read_text()))
    assert words - explained == set()
