"""Brings the broker and the list of revoked certificates to what the store says. Decides about nobody.

The store changes first; whatever of this fails is tried again until it is done, also after a restart.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from outrider_cloud.access import pki
from outrider_cloud.access.control import BrokerControl
from outrider_cloud.access.roster import Roster
from outrider_cloud.access.rules import Identity
from outrider_cloud.clock import now_ms
from outrider_cloud.store import identities
from outrider_cloud.store.store import Store
from outrider_link.files import write_durably
from outrider_wire.access import cloud_grants, device_grants, digest
from outrider_wire.errors import OperatorSetupError, OutriderError
from outrider_wire.topics import Topics

log = logging.getLogger(__name__)

EVERY_S = 2.0
_RELOAD_WITHIN_S = 20.0


class RevocationFile:
    """The list that the broker reads, and how it is made to read it again.

    Args:
        authority: signs it.
        path: where it is; None: the broker's certificates are checked by other means.
        pid_file: of a broker on this machine, which reads it again on SIGHUP.
        command: run instead, for a broker elsewhere.
    """

    def __init__(
        self, *, authority: pki.Authority, path: Path | None, pid_file: Path | None, command: Sequence[str]
    ) -> None:
        self._authority = authority
        self._path = path
        self._pid_file = pid_file
        self._command = list(command)
        self._listed: frozenset[str] | None = None
        """What the broker is known to have read; None: nothing is known of it."""

    async def bring_to(self, serials: Sequence[str]) -> None:
        """Adds what is not on it yet; raises `OperatorError` when it cannot be written, or the broker not be told."""
        wanted = frozenset(serials)
        if self._path is None or (self._listed is not None and wanted <= self._listed):
            return
        before = self._path.read_bytes() if self._path.exists() else b""
        if not before or not wanted <= pki.revoked_serials(before):
            crl = pki.revocations(self._authority, serials, now=pki.utc_now_from_ms(now_ms()), before=before)
            try:
                write_durably(self._path, crl, mode=0o644)
            except OSError as error:
                raise _not_told(f"{self._path} cannot be written: {error.strerror}") from error
        await self._reload()
        self._listed = wanted

    async def _reload(self) -> None:
        if self._command:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=asyncio.subprocess.DEVNULL)
            try:
                async with asyncio.timeout(_RELOAD_WITHIN_S):
                    code = await process.wait()
            except TimeoutError as error:
                process.kill()
                raise _not_told(f"{self._command[0]} does not end") from error
            if code:
                raise _not_told(f"{self._command[0]} ended with exit code {code}")
        elif self._pid_file is not None:
            _hang_up(self._pid_file)


def _hang_up(pid_file: Path) -> None:
    """Has the broker of a pid file read its list again; one that does not run reads it when it starts.

    The number in an old file may be another process's by now, which a SIGHUP would end: only a mosquitto gets one.
    """
    try:
        pid = int(pid_file.read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() == "mosquitto":
            os.kill(pid, signal.SIGHUP)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _not_told(f"the process of {pid_file} cannot be told: {error}") from error


async def read_roster(store: Store, roster: Roster) -> None:
    """Who is refused, from the store: another worker may have revoked one."""
    names, serials = await store.read(partial(identities.refused, now_ms=now_ms()))
    roster.replace(devices=names, serials=serials)


class Gatekeeper:
    """One loop, and `settle` for whoever cannot wait for its next turn."""

    def __init__(
        self,
        *,
        store: Store,
        topics: Topics,
        group: str,
        control: BrokerControl,
        revocations: RevocationFile,
        roster: Roster,
    ) -> None:
        self._store = store
        self._topics = topics
        self._control = control
        self._revocations = revocations
        self._roster = roster
        self._cloud = cloud_grants(topics, group)
        self._wanted = digest(device_grants(topics, "device"))  # of the rows, whatever the device is called
        self._cloud_told = False
        self._settling = asyncio.Lock()
        self._said = ""

    async def read_roster(self) -> None:
        """As the function of that name."""
        await read_roster(self._store, self._roster)

    async def settle(self) -> None:
        """Returns when broker and list are as the store says.

        Raises:
            OutriderError: one of them is not; it will be tried again.
        """
        async with self._settling:
            await self.read_roster()
            _, serials = await self._store.read(partial(identities.refused, now_ms=now_ms()))
            failed: list[OutriderError] = []
            standing = await self._store.read(partial(identities.unsettled, wanted=self._wanted))
            steps: list[Callable[[], Awaitable[None]]] = [
                partial(self._revocations.bring_to, serials),
                self._tell_of_cloud,
                *(partial(self._bring, each) for each in standing),
            ]
            for step in steps:
                try:
                    await step()
                except OutriderError as error:  # what else there is to do must not wait for it
                    failed.append(error)
            if failed:
                raise failed[0]

    async def bring(self, device: str) -> None:
        """Returns when the broker knows what the store says of one device; errors as `settle`."""
        async with self._settling:
            await self.read_roster()
            if (identity := await self._store.read(partial(identities.find, device=device))) is not None:
                await self._bring(identity)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.settle()
                self._said = ""
            except OutriderError as error:
                if str(error) != self._said:  # once, not every turn
                    log.warning("access.unsettled", extra={"reason": error.reason, "what": str(error)})
                self._said = str(error)
            except Exception:  # supervised: a store that is busy now must not leave a revoked device in for good
                log.exception("access.failed")
            await asyncio.sleep(EVERY_S)

    async def _bring(self, identity: Identity) -> None:
        device = identity.device
        if identity.state == "revoked" and identity.granted:
            await self._control.expel(device)
            log.info("access.expelled", extra={"device": device})
            await self._store.write(partial(identities.note_granted, device=device, granted=""))
            return
        in_force = identity.state == "accepted" and identity.certificate
        if in_force and identity.granted != self._wanted:
            await self._control.admit(device, device_grants(self._topics, device))
            log.info("access.admitted", extra={"device": device})
            await self._store.write(partial(identities.note_granted, device=device, granted=self._wanted))

    async def _tell_of_cloud(self) -> None:
        """What a worker may do changes with the topic table, that is, with a new version."""
        if not self._cloud_told:
            await self._control.allow_cloud(self._cloud)
            self._cloud_told = True


def _not_told(why: str) -> OperatorSetupError:
    return OperatorSetupError(
        f"the broker does not know yet which certificates are revoked: {why}",
        reason="crl_not_told",
        fix="check access.crl_file and access.broker_pid_file or access.reload_command",
    )
