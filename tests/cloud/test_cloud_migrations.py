"""A store of the first released schema opens with everything that was in it: the dump in ``assets/stores`` has rows in its every table."""

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from cloud_service import HeldModel, account, eventually, make_service, write_config

from outrider_cloud.lease_clock import Lease
from outrider_cloud.store import dead_letters, inputs
from outrider_cloud.store.file_dialect import FileDialect
from outrider_cloud.store.migrations import upgrade
from outrider_cloud.store.schema import METADATA
from outrider_cloud.store.store import Store
from outrider_wire.codec import MSGPACK
from outrider_wire.errors import OperatorSetupError

FIRST = Path(__file__).parent.parent / "assets/stores/r0001.sql"

LATER = {"invitations", "identities", "certificates", "rollouts", "rollout_members", "orders", "stops", "forgotten"}
"""Tables that the first schema had not."""


def restore(path: Path) -> dict[str, int]:
    """Makes a database of the dump; rows a table."""
    connection = sqlite3.connect(path)
    connection.executescript(FIRST.read_text())
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}  # noqa: S608  names of our own dump
    connection.close()
    rows.pop("alembic_version")
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    restore(tmp_path / "cloud.db")
    made = Store(url=f"sqlite:///{tmp_path / 'cloud.db'}")
    made.open()
    yield made
    made.close()


def test_no_row_of_any_table_is_lost(store: Store, tmp_path: Path) -> None:
    before = restore(tmp_path / "again.db")
    assert set(before) == set(METADATA.tables) - LATER and min(before.values()) >= 1
    for name in before:
        count = sa.select(sa.func.count()).select_from(METADATA.tables[name])
        assert store.run(lambda c, count=count: c.execute(count).scalar_one()) == before[name], name


def test_dead_letters_keep_the_bytes_that_they_had(store: Store) -> None:
    newest, oldest = store.run(partial(dead_letters.latest, limit=9))
    assert (newest["whole"], newest["head"]) == (True, "c16162")
    assert (oldest["whole"], oldest["size"], oldest["head"]) == (False, 300, bytes(range(256)).hex())
    letter = store.run(partial(dead_letters.find, letter_id=2))
    assert letter is not None and (letter.payload, letter.content_type, letter.correlation) == (
        b"\xc1ab",
        MSGPACK,
        None,
    )


def test_a_lease_of_before_is_void(store: Store) -> None:
    change = partial(inputs.take_over, worker="two", tasks=["colours"], lease=Lease("b", 1, 9), most=9, own=False)
    [row] = store.submit(change).result(10)
    assert (row["worker"], row["boot"], row["claims"]) == ("two", "b", 2)


def test_the_migrations_can_be_taken_back_and_made_again(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    from outrider_cloud.store import migrations

    before = restore(tmp_path / "cloud.db")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'cloud.db'}")
    upgrade(engine, FileDialect())
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    upgrade(engine, FileDialect())
    engine.dispose()
    connection = sqlite3.connect(tmp_path / "cloud.db")
    for table, rows in before.items():
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == rows  # noqa: S608  as above


async def test_a_cloud_answers_what_was_waiting_in_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    restore(tmp_path / "data/cloud.db")
    model = HeldModel()
    async with make_service(write_config(tmp_path, "mqtt://127.0.0.1:9"), model) as service:

        async def all_settled() -> bool:
            return (await account(service))["pending"] == 0

        await eventually(all_settled)
        said = await account(service)
    assert (said["received"], said["cloud"], said["refused"]) == (3, 2, 1)
    assert model.questions == ["waiting"]


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    restore(tmp_path / "cloud.db")
    with sqlite3.connect(tmp_path / "cloud.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(OperatorSetupError, match="9999") as refused:
        Store(url=f"sqlite:///{tmp_path / 'cloud.db'}").open()
    assert refused.value.reason == "store_too_new"
    connection = sqlite3.connect(tmp_path / "cloud.db")
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()
