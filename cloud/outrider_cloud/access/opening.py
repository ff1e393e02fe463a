"""Makes what lets devices in, as the configuration asks for it. Wires, and decides nothing."""

from pathlib import Path

from outrider_cloud.access import pki
from outrider_cloud.access.control import BrokerControl, Elsewhere, Mosquitto
from outrider_cloud.access.desk import Desk
from outrider_cloud.access.gatekeeper import Gatekeeper, RevocationFile
from outrider_cloud.access.roster import Roster
from outrider_cloud.config import CloudConfig
from outrider_cloud.metrics import Metrics
from outrider_cloud.store.store import Store
from outrider_link.settings import read_text
from outrider_wire.topics import Topics


def open_access(
    config: CloudConfig, *, store: Store, roster: Roster, topics: Topics, metrics: Metrics, root_of_trust: str = ""
) -> tuple[Desk, Gatekeeper]:
    """The desk, and who carries its word to the broker.

    Raises:
        OperatorConfigError: the authority cannot be used.
    """
    access = config.access
    authority = pki.read_authority(
        read_text(Path(access.ca_file)).encode(), read_text(Path(access.ca_key_file)).encode()
    )
    revocations = RevocationFile(
        authority=authority,
        path=Path(access.crl_file) if access.crl_file else None,
        pid_file=Path(access.broker_pid_file) if access.broker_pid_file else None,
        command=access.reload_command,
    )
    gatekeeper = Gatekeeper(
        store=store,
        topics=topics,
        group=config.broker.group,
        control=_control(config),
        revocations=revocations,
        roster=roster,
    )
    desk = Desk(
        store=store,
        authority=authority,
        gatekeeper=gatekeeper,
        url=config.api.public_url.rstrip("/"),
        broker=access.broker_url or config.broker.url,
        root=config.broker.root,
        days=access.certificate_days,
        metrics=metrics,
        root_of_trust=root_of_trust,
    )
    return desk, gatekeeper


def _control(config: CloudConfig) -> BrokerControl:
    if config.access.rules == "elsewhere":
        return Elsewhere()
    broker = config.broker
    ca_file = Path(broker.ca_file or config.access.ca_file)
    return Mosquitto(url=broker.url, ca_file=ca_file, cert_file=Path(config.access.control_cert_file))
