"""A broker that goes in the middle, with what it remembers and without: every input still ends in one state, with the right answer."""

import time
from pathlib import Path

import pytest
from accounting import check_final, cloud_account, in_the_middle, settled
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
