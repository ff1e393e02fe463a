"""The cloud's tests know their broker by its address."""

import pytest
from mosquitto import AnyBroker


@pytest.fixture(scope="module")
def broker(broker: AnyBroker) -> str:
    """Where a real broker for the tests of one file listens."""
    return broker.url
