"""The outbox of the device on this machine, through its agent; while that is down, read from its file. Prints nothing."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from outrider.exchange import AGENT, START, decoded
from outrider.transport import Transport
from outrider_wire.errors import CallerUnknownError, UnreachableError

if TYPE_CHECKING:
    from outrider_edge.outbox.looking import LookRows

PAGE = 1_000
"""Entries fetched at a time, where all are wanted."""


class OutboxDesk:
    """What the command does.

    Args:
        address: of the agent's local API.
        folder: the outbox's, to be read while the agent is down; None: nobody knows where it is.
    """

    def __init__(self, address: str, *, folder: Path | None) -> None:
        self._http = Transport(address, what=AGENT, start=START, timeout_s=30.0)
        self._folder = folder

    def close(self) -> None:
        """Closes idle connections."""
        self._http.close()

    def page(self, query: Mapping[str, str | int]) -> dict[str, Any]:
        """One page of open entries: ``page`` as `outrider_edge.outbox.looking.Page`, ``outbox`` (the agent's view), ``read_from``.

        Raises:
            UnreachableError: the agent is down, and nobody knows where its file is.
            OperatorSetupError: that file cannot be read.
        """
        try:
            return {**self._asked("GET", f"/v1/outbox?{urlencode(query)}"), "read_from": "agent"}
        except UnreachableError:
            if self._folder is None:
                raise
        with _read(self._folder) as rows:
            page = rows.page(
                after=int(query.get("after", 0)),
                limit=int(query.get("limit", PAGE)),
                task=str(query.get("task", "")),
                delivery=str(query.get("delivery", "")),
            )
        return {"page": msgspec.to_builtins(page), "outbox": None, "read_from": "file"}

    def entry(self, id_: str) -> dict[str, Any]:
        """One entry, whole, and ``read_from``. Errors as `page`.

        Raises:
            CallerUnknownError: there is none of that id.
        """
        try:
            return {**self._asked("GET", f"/v1/outbox/{quote(id_, safe='')}"), "read_from": "agent"}
        except UnreachableError:
            if self._folder is None:
                raise
        with _read(self._folder) as rows:
            found = rows.entry(id_)
        if found is None:
            raise CallerUnknownError(f"no entry {id_[:64]!r} is in the outbox", reason="unknown_input")
        return {**msgspec.to_builtins(found), "read_from": "file"}

    def retry(self, id_: str = "") -> int:
        """Makes one, or all, due now; how many. Needs the agent."""
        path = f"/v1/outbox/{quote(id_, safe='')}/retry" if id_ else "/v1/outbox/retry"
        due: int = self._asked("POST", path)["due"]
        return due

    def drop(self, id_: str) -> bool:
        """Gives one up; False: it had ended already. Needs the agent."""
        dropped: bool = self._asked("DELETE", f"/v1/outbox/{quote(id_, safe='')}")["dropped"]
        return dropped

    def _asked(self, method: str, path: str) -> dict[str, Any]:
        reply = self._http.request(method, path)
        return decoded(reply.status, reply.body, dict[str, Any])


@contextmanager
def _read(folder: Path) -> Iterator["LookRows"]:
    from outrider_edge.outbox.clock import run_clock
    from outrider_edge.outbox.looking import open_read_only

    connection, rows = open_read_only(folder / "outbox.db", run_clock())
    with closing(connection):
        yield rows
