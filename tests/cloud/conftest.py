"""The cloud's tests know their broker by its address, and the store as either of the databases that it can be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mosquitto import AnyBroker
from postgres_server import PASSWORD, Postgres


@pytest.fixture(scope="module")
def broker(broker: AnyBroker) -> str:
    """Where a real broker for the tests of one file listens."""
    return broker.url


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests that do not kill it."""
    with Postgres() as running:
        yield running


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> str:
    """A database of it that holds an empty store."""
    return postgres.store_template()


@pytest.fixture(params=["file", "server"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """What `Store` is given to open an empty store of each kind."""
    if request.param == "file":
        return {"url": f"sqlite:///{tmp_path / 'cloud.db'}"}
    server, template = request.getfixturevalue("postgres"), request.getfixturevalue("template")
    return {"url": server.database(template), "password": PASSWORD}
