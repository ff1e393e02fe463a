"""Reads what the devices and the cloud have written of every input, from their files and beside them. Judges nothing."""

import sqlite3
from contextlib import closing
from pathlib import Path

from outrider.sim.audit import CloudBook, DeviceBook
from outrider_wire.report import Account, account_from

_CLOUD_STATES = {"answered": "cloud", "expired": "expired", "refused": "refused", "received": "received"}


def read_device(file: Path, account: Account) -> DeviceBook:
    """A device's outbox, input by input.

    Args:
        file: the outbox; the device may be running.
        account: as the device itself tells it.
    """
    with closing(_opened(file)) as connection:
        rows = dict(connection.execute("SELECT id, state FROM input").fetchall())
        tally = dict(connection.execute("SELECT name, sum(value) FROM tally GROUP BY name").fetchall())
    return DeviceBook(rows=rows, account=account, tally=account_from(tally))


def read_cloud(file: Path) -> CloudBook:
    """The cloud's store, input by input."""
    with closing(_opened(file)) as connection:
        rows = {
            (device, id_): state for device, id_, state in connection.execute("SELECT device, id, state FROM inputs")
        }
        counts = dict(connection.execute("SELECT name, sum(n) FROM counts GROUP BY name").fetchall())
    account = {mine: counts.get(theirs, 0) for theirs, mine in _CLOUD_STATES.items()}
    account["pending"] = sum(state == "claimed" for state in rows.values())
    return CloudBook(rows=rows, account=account_from(account))


def _opened(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)
