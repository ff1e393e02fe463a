"""The cloud's tests know their broker by its address, and the store as either of the databases that it can be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mosquitto import AnyBroker
from postgres_server import PASSWORD, Postgres
from rollout_office import Office

from outrider_cloud.store.store import Store


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
def one_database(postgres: Postgres) -> str:
    """URL of a database of it that holds a store."""
    return postgres.store_database()


@pytest.fixture
def url(postgres: Postgres, one_database: str) -> str:
    """URL of a store on that server with nothing in it."""
    postgres.emptied(one_database)
    return one_database


def _opens(kind: str, request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    if kind == "file":
        return {"url": f"sqlite:///{folder / 'cloud.db'}"}
    return {"url": request.getfixturevalue("url"), "password": PASSWORD}


@pytest.fixture(params=["file", "server"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """What `Store` is given to open an empty store of each kind."""
    return _opens(request.param, request, tmp_path)


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.slow)])
def store_toml(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same as a table of ``cloud.toml``; the password lies in a file beside it."""
    opens = _opens(request.param, request, tmp_path)
    (tmp_path / "store-password").write_text(opens.get("password", "none asked for"))
    return f'[store]\nurl = "{opens["url"]}"\npassword_file = "store-password"\n'


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind; a test may name both, to run on both in any run."""
    made = Store(**_opens(request.param, request, tmp_path))
    made.open()
    yield made
    made.close()


@pytest.fixture
async def office(tmp_path: Path, store: Store) -> Office:
    """The rollouts of a cloud on it."""
    return Office(tmp_path, store)
