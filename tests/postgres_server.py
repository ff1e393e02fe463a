"""A real PostgreSQL server for tests: its own folder, its own port, on the disk; and the kill that a power cut is to it."""

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from absent import skip_without

from outrider.processes import any_port
from outrider_cloud.store.schema import METADATA
from outrider_cloud.store.store import Store

PASSWORD = "a password that is in no log"
_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_SERVER = "postgres"
_QUITS_S = 20.0


def binaries() -> Path | None:
    """Where the newest installed server's programs are; None: there is none, or no user to run it as."""
    if os.geteuid() == 0 and subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
        return None
    return next((folder for folder in _FOLDERS if (folder / _SERVER).exists()), None)


def require() -> Path:
    """The same; skips the test where there is none."""
    folder = binaries()
    if folder is None:
        skip_without("a PostgreSQL server", "apt-get install postgresql")
    return folder


class Postgres:
    """``with Postgres() as server``: runs inside the block, and may be killed and started again there."""

    def __init__(self) -> None:
        self._programs = require()
        self._user = "postgres" if os.geteuid() == 0 else getpass.getuser()
        self.folder = Path(tempfile.mkdtemp(prefix="outrider-pg-"))
        self.port = any_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._settled = False

    def __enter__(self) -> Self:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self.folder, secret):
                shutil.chown(path, self._user)
        self._run(
            "initdb", "-D", self.folder / "data", "-U", "outrider", "-E", "UTF8", "--locale=C",
            "--auth=scram-sha-256", f"--pwfile={secret}",
        )  # fmt: skip
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:  # a killed server leaves its System V segment, which a machine has only so many of
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_QUITS_S)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Starts it; returns when it takes connections. Where another has taken the port meanwhile, at another."""
        deadline = time.monotonic() + 120
        self._launch()
        while not self._is_ready():
            ended = self.process is None or self.process.poll() is not None
            assert time.monotonic() < deadline and not (ended and self._settled), self.log()
            if ended:
                self.port = any_port()
                self._launch()
            time.sleep(0.1)
        self._settled = True  # whoever has its address finds it there again

    def _is_ready(self) -> bool:
        """By what it says of itself: who listens at the port may be another."""
        try:
            said = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        ours = self.process is not None and said[:1] == [str(self.process.pid)]
        return ours and len(said) > 7 and said[7].strip() == "ready"

    def _launch(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self._programs / _SERVER, "-D", self.folder / "data", "-p", str(self.port),
                    "-c", f"unix_socket_directories={self.folder}", "-c", "listen_addresses=127.0.0.1",
                    "-c", "dynamic_shared_memory_type=mmap",  # what a kill leaves lies in its folder, not in /dev/shm
                ],
                stdout=log, stderr=log, start_new_session=True, cwd=self.folder, user=self._as(),
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL to every process of it at once."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for left in self._sessions():
                _kill(left)
            self.process = None

    def log(self) -> str:
        """What it has said."""
        return (self.folder / "log").read_text(errors="replace")

    def url(self, database: str) -> str:
        """As ``store.url`` says it, without the password."""
        return f"postgresql://outrider@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"t{self._made}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Runs one statement outside of any transaction."""
        url = sa.make_url(self.url(database)).set(drivername="postgresql+psycopg", password=PASSWORD)
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def store_database(self) -> str:
        """The URL of a database that holds an empty store."""
        url = self.database()
        made = Store(url=url, password=PASSWORD)
        made.open()
        made.close()
        return url

    def emptied(self, url: str) -> None:
        """Deletes every row of the store in that database."""
        tables = ", ".join(table.name for table in METADATA.sorted_tables)
        self.sql(f"TRUNCATE {tables} RESTART IDENTITY", url.rpartition("/")[2])

    def _sessions(self) -> list[int]:
        """Processes of the server that the signal to its group did not reach: each of them leads a session of its own."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if str(self.folder / "data") == str((folder / "cwd").readlink()):
                        found.append(int(folder.name))
                except OSError:
                    continue
        return found

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [self._programs / program, *arguments], check=True, capture_output=True, cwd=self.folder, user=self._as()
        )

    def _as(self) -> str | None:
        return self._user if os.geteuid() == 0 else None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
