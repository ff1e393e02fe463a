"""A PostgreSQL server that is killed with SIGKILL, all processes at once, while clouds write to it: nothing acknowledged is lost."""

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from cloud_device import Device, make_escalation
from cloud_service import HeldModel, account, eventually, get, make_service, ready, the_task, write_config
from postgres_server import PASSWORD, Postgres
from store_rows import life

from outrider_cloud.store import inputs
from outrider_cloud.store.schema import METADATA
from outrider_cloud.store.server_dialect import ServerDialect
from outrider_cloud.store.store import Store
from outrider_wire.errors import OperatorSetupError
from outrider_wire.messages import Answer, Escalation, Refusal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def mortal() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


class Recorder:
    """Writes one life after another to a store of its own, and notes those that it was told are durable."""

    def __init__(self, url: str, name: str) -> None:
        self.store = Store(url=url, password=PASSWORD)
        self.store.open()
        self.durable: set[str] = set()
        self.failed = 0
        self._name = name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        k = 0
        while not self._stop.is_set():
            batch = [life(f"{self._name}-{k + n}") for n in range(8)]
            k += 8
            futures = [self.store.submit(partial(inputs.record, lives=[one])) for one in batch]
            for (claim, _), future in zip(batch, futures, strict=True):
                try:
                    future.result(60)
                    self.durable.add(claim.id)
                except sa.exc.SQLAlchemyError:
                    self.failed += 1
                    time.sleep(0.02)


def test_what_was_acknowledged_before_a_kill_is_there_after_it_and_counted_once(mortal: Postgres) -> None:
    url = mortal.store_database()
    writers = [Recorder(url, "a"), Recorder(url, "b")]
    try:
        for _ in range(3):
            before = [len(writer.durable) for writer in writers]
            _until(lambda before=before: all(len(w.durable) > n + 40 for w, n in zip(writers, before, strict=True)))
            mortal.kill()
            _until(lambda: all(writer.store.trouble for writer in writers))
            mortal.start()
        before = [len(writer.durable) for writer in writers]
        _until(lambda: all(len(w.durable) > n + 40 for w, n in zip(writers, before, strict=True)))
    finally:
        for writer in writers:
            writer.end()
    store = writers[0].store
    there = store.run(lambda c: set(c.execute(sa.select(METADATA.tables["inputs"].c.id)).scalars()))
    said = store.run(inputs.accounts)["t"]
    assert all(writer.durable <= there and writer.failed for writer in writers)
    assert (said.received, said.cloud, said.pending) == (len(there), len(there), 0) and said.adds_up
    assert [writer.store.trouble for writer in writers] == ["", ""]
    for writer in writers:
        writer.store.close()


def _until(true: object, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.broker
async def test_two_workers_outlive_their_server_and_answer_every_input_once(
    broker: str, mortal: Postgres, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    more = f'[store]\nurl = "{mortal.database()}"\npassword_file = "password"\n'
    paths = [write_config(tmp_path, broker, worker=worker, more=more) for worker in ("one", "two")]
    model, sent = HeldModel(), []
    async with (
        make_service(paths[0], model) as one,
        make_service(paths[1], model) as two,
        Device(broker, "cam-pg") as device,
    ):
        await asyncio.gather(ready(one), ready(two))

        async def answered(escalation: Escalation) -> bool:
            """Offers it as an outbox does."""
            if device.of(Answer, escalation.id):
                return True
            await device.escalate(escalation)
            await asyncio.sleep(0.3)
            return False

        async def answer_all(n: int) -> None:
            new = [
                make_escalation(the_task(tmp_path), {"image": b"x", "question": f"{len(sent)}-{k}"}) for k in range(n)
            ]
            sent.extend(new)
            await asyncio.gather(*(eventually(partial(answered, each), 60) for each in new))

        await answer_all(40)
        mortal.kill()
        late = make_escalation(the_task(tmp_path), {"image": b"x", "question": "late"})
        sent.append(late)
        await device.escalate(late)
        refusal = await device.hears(Refusal, late.id, within_s=30)
        assert (refusal.reason, refusal.detail) == ("busy", "store")

        async def said() -> bool:
            waiting = [(await get(service, "/health/ready"))[1]["waiting_for"] for service in (one, two)]
            return any("store" in what for each in waiting for what in each)

        await eventually(said, 30)
        mortal.start()
        await eventually(partial(answered, late), 60)
        await answer_all(40)
        await asyncio.gather(ready(one), ready(two))
        assert all({a.label for a in device.of(Answer, each.id)} == {"green"} for each in sent)
        store = Store(url=more.split('"')[1], password=PASSWORD)
        await asyncio.to_thread(store.open)
        standing = store.run(inputs.accounts)["colours"]
        workers = set(store.run(lambda c: c.execute(sa.select(METADATA.tables["inputs"].c.worker)).scalars().all()))
        store.close()
        assert (standing.received, standing.cloud, standing.pending) == (81, 81, 0) and standing.adds_up
        assert workers == {"one", "two"}
        for service in (one, two):
            await account(service)


def test_a_worker_that_stands_still_in_a_commit_makes_the_others_busy_and_not_hang(mortal: Postgres) -> None:
    """What waits together for its turn gives up together, not each in its own time."""
    url = mortal.store_database()
    store = Store(url=url, password=PASSWORD)
    store.open()
    still = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg", password=PASSWORD))
    with still.connect() as connection:
        ServerDialect().enter(connection)
        started = time.monotonic()
        futures = [store.submit(partial(inputs.count, task="t", name="received")) for _ in range(30)]
        for future in futures:
            with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
                future.result(60)
        assert 5 < time.monotonic() - started < 50, "one wait for the first, and one for those that came meanwhile"
        assert "lock timeout" in store.trouble
    store.submit(partial(inputs.count, task="t", name="received")).result(30)
    assert store.trouble == "" and store.run(inputs.accounts)["t"].received == 1
    store.close()
    still.dispose()


def test_a_server_that_does_not_write_to_the_disk_is_refused(mortal: Postgres) -> None:
    url = mortal.database()
    mortal.sql("ALTER SYSTEM SET fsync = off")
    mortal.sql("SELECT pg_reload_conf()")
    try:
        time.sleep(0.5)
        with pytest.raises(OperatorSetupError, match="fsync off"):
            Store(url=url, password=PASSWORD).open()
    finally:
        mortal.sql("ALTER SYSTEM RESET fsync")
        mortal.sql("SELECT pg_reload_conf()")
