"""A broker that goes in the middle, with what it remembers and without: every input still ends in one state, with the right answer."""

import time
from pathlib import Path

import pytest
from accounting import check_final, cloud_account, in_the_middle, play, settled
from running import System

pytestmark = [pytest.mark.broker, pytest.mark.slow]
INPUTS = 150


@pytest.mark.parametrize(
    ("kind", "persistence", "end"),
    [
        pytest.param("embedded", False, "kill", id="embedded, killed"),
        pytest.param("mosquitto", False, "stop", id="mosquitto that remembers nothing, stopped"),
        pytest.param("mosquitto", True, "stop", id="mosquitto that remembers, stopped"),
        pytest.param("mosquitto", True, "kill", id="mosquitto that remembers, killed before it saved"),
    ],
)
def test_a_broker_that_restarts_in_the_middle_loses_no_input(
    tmp_path: Path, kind: str, persistence: bool, end: str
) -> None:
    with System(tmp_path, broker_kind=kind, persistence=persistence) as system:
        client = system.start_agent("cam-1")
        with in_the_middle(client, INPUTS) as player:
            getattr(system.processes, end)("broker")
            time.sleep(0.5)
            system.start_broker()
            reports = player.result(120)
        account = settled(client)

        assert len(reports) == INPUTS
        check_final(client, reports)
        assert account.adds_up and account.received == INPUTS
        assert account.cloud > 0 and account.edge > 0 and account.expired == account.refused == 0
        cloud = cloud_account(system)
        assert cloud.adds_up and cloud.pending == 0
        assert cloud.cloud == account.cloud + account.audited, "each of them once"


@pytest.mark.timeout(240)
def test_a_broker_that_drops_what_it_has_acknowledged_loses_no_input(tmp_path: Path) -> None:
    """mosquitto queues 1,000 messages for a client that is behind, and drops the next ones after a PUBACK that says success.

    An escalation that is dropped has no receipt, and is offered again; an answer that is dropped is asked after in a minute.
    """
    narrow = "max_inflight_messages 5\nmax_queued_messages 10"
    with System(tmp_path, broker_kind="mosquitto", broker_extra=narrow) as system:
        client = system.start_agent("cam-1")
        system.processes.stop("broker")
        reports = play(client, range(INPUTS), lambda _: None)
        system.start_broker()
        account = settled(client, within_s=150)

        assert "Outgoing messages are being dropped for client" in system.log("broker")
        assert len(reports) == INPUTS
        check_final(client, reports)
        assert account.adds_up and account.expired == account.refused == 0
        cloud = cloud_account(system)
        assert cloud.adds_up and cloud.pending == 0
        assert cloud.cloud == account.cloud + account.audited, "each of them once"
