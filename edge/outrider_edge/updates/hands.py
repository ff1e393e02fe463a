"""What a person may do at the device: look, check, install from a folder, keep, return, pin. The same rules hold as for the cloud.

A person stands for the cloud's order, never for a signature: where a root of trust is configured, a folder brings signed metadata, a
signed plan that has this device, and the releases.
"""

import asyncio
import dataclasses
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from outrider_edge.updates.device import Updater, metadata_of
from outrider_edge.updates.events import Assigned, Healthy, Returned, Tripped
from outrider_edge.updates.folder import FolderSource
from outrider_edge.updates.judging import Approved
from outrider_edge.updates.record import OTHER, SETTLED
from outrider_edge.updates.slots import check_fitting
from outrider_edge.updates.updater import TaskUpdater
from outrider_trust.sources import DirectorySource
from outrider_wire.errors import CallerInputError, CallerUnknownError, RuleRefusalError
from outrider_wire.limits import MANIFEST_BYTES
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest, manifest_digest
from outrider_wire.messages import Ended, SlotReport


class UpdatesView(Struct, kw_only=True, frozen=True):
    """How the updates of this device stand."""

    signed: bool
    """A root of trust is configured: nothing else is obeyed."""
    slots: list[SlotReport]
    held: str
    """Why nothing begins now; '' when nothing is in the way."""
    pinned: bool
    order: int
    stop: int
    stopped: bool
    attack: str
    metadata: dict[str, int]
    """Version of each role's metadata that is believed."""
    ends: list[Ended]


class Planned(Struct, kw_only=True, frozen=True):
    """What an installation begins, or would begin."""

    rollout: str
    releases: dict[str, str]
    """By task, the digest of the release."""
    dry_run: bool


class Hands:
    """A person's ways, over the device's updater."""

    def __init__(self, updater: Updater) -> None:
        self._updater = updater

    def view(self) -> UpdatesView:
        """How everything stands."""
        updater, ledger = self._updater, self._updater.ledger.now
        return UpdatesView(
            signed=updater.judge is not None,
            slots=updater.slots(),
            held=updater.held,
            pinned=ledger.pinned,
            order=ledger.order,
            stop=ledger.halt.number,
            stopped=ledger.halt.standing,
            attack=ledger.attack,
            metadata=metadata_of(updater.judge),
            ends=ledger.ends,
        )

    async def check(self) -> UpdatesView:
        """Asks for newer metadata now.

        Raises:
            RuleRefusalError: nothing is signed here.
            TrustError, UnreachableError: it cannot be had, or not be believed.
        """
        if (judge := self._updater.judge) is None:
            raise RuleRefusalError(
                "no root of trust is configured: there is nothing to check",
                reason="nothing_signed",
                fix="set [updates] root in edge.toml",
            )
        await asyncio.to_thread(judge.refresh)
        return self.view()

    async def install(self, path: Path, *, rollout: str = "", dry_run: bool = False) -> Planned:
        """Begins what a folder brings: a repository with ``metadata`` and ``targets``, or, where nothing is signed, a bundle.

        Raises:
            CallerUnknownError: there is no such folder.
            RuleRefusalError: it may not be carried out here; the reason says why.
            TrustError: its metadata is not to be believed.
            BundleError: it is no bundle.
        """
        if not path.is_absolute() or not await asyncio.to_thread(path.is_dir):
            raise CallerUnknownError(
                f"there is no folder {str(path)[:256]!r}",
                reason="no_such_folder",
                fix="give the whole path of a folder on this device",
            )
        if (held := self._updater.held_back) and not dry_run:
            raise RuleRefusalError(held, reason="updates_held", fix="see: outrider edge update status")
        source = FolderSource(path)
        approved = await (self._signed(path, source, rollout) if self._updater.judge else self._plain(path))
        planned = Planned(
            rollout=approved.rollout,
            releases={name: wish.release for name, wish in approved.wishes.items()},
            dry_run=dry_run,
        )
        if not dry_run:
            for name in approved.wishes:
                self._updater.tasks[name].source = source
            wishes = {name: dataclasses.replace(wish, by_hand=True) for name, wish in approved.wishes.items()}
            self._updater.hand_on(replace(approved, wishes=wishes))
        return planned

    async def commit(self, task: str) -> list[str]:
        """Ends a probation well; the tasks whose probation that is.

        Raises:
            CallerUnknownError: no such task.
            RuleRefusalError: nothing is on probation.
        """
        self._named(task)
        names = [name for name in self._updater.under_way(task) if self._state(name) == "probation"]
        if not names:
            raise RuleRefusalError(f"nothing of {task} is on probation", reason="not_on_probation")
        for name in names:
            self._updater.tasks[name].happen(Healthy())
        return names

    async def rollback(self, task: str, reason: str = "") -> str:
        """Returns to the release before, and refuses what runs; the digest that is returned to.

        Raises:
            CallerUnknownError: no such task.
            RuleRefusalError: there is nothing to return to, or something is under way.
        """
        updater, why = self._named(task), f"a person returned{': ' if reason else ''}{reason}"
        record = updater.record
        if record.state == "probation":
            updater.happen(Tripped(why, "by_hand"))
            return record.previous
        if record.state not in SETTLED:
            raise RuleRefusalError(
                f"an update of {task} is under way ({record.state})",
                reason="update_under_way",
                fix="pin first, or wait",
            )
        slot = OTHER[record.slot]
        if not record.previous or await asyncio.to_thread(updater.folder.holding, record.previous, slot) is None:
            raise RuleRefusalError(f"slot {slot} of {task} holds nothing that has run here", reason="nothing_before")
        updater.happen(Returned(why))
        return record.previous

    async def pin(self, *, pinned: bool, reason: str = "") -> UpdatesView:
        """Stays on what runs, over restarts, until it is unpinned. What is on its way waits."""
        ledger = self._updater.ledger
        await asyncio.to_thread(ledger.keep, lambda now: replace(now, pinned=pinned, pin_reason=reason[:256]))
        self._updater.meet()
        return self.view()

    async def _signed(self, path: Path, source: FolderSource, rollout: str) -> Approved:
        judge = self._updater.judge
        plans = [each for each in await asyncio.to_thread(source.plans) if rollout in ("", each[1])]
        if judge is None or not plans:
            what = f"plan of rollout {rollout}" if rollout else "signed plan"
            raise RuleRefusalError(f"the folder has no {what}", reason="no_plan", fix="copy the whole repository")
        here = [plan for plan in plans if plan[0] in self._updater.tasks]
        return await asyncio.to_thread(judge.carried, DirectorySource(path), here, self._updater.local())

    async def _plain(self, path: Path) -> Approved:
        """A bundle that nobody signed, where that is permitted."""
        if not self._updater.unsigned:
            raise RuleRefusalError(
                "what nobody signed is not installed on this device",
                reason="unsigned",
                fix="set [updates] root in edge.toml",
            )
        data = await asyncio.to_thread(_manifest, path)
        manifest, digest = decode_manifest(data), manifest_digest(data)
        updater = self._named(manifest.task)
        check_fitting(manifest, updater.folder.task)
        if digest in updater.record.refused:
            raise RuleRefusalError(f"release {digest[:12]}… was refused here before", reason="refused_before")
        wish = Assigned(release=digest, size=len(data), counter=updater.record.counter)
        return Approved(number=0, rollout="", wishes={manifest.task: wish})

    def _named(self, task: str) -> TaskUpdater:
        if (updater := self._updater.tasks.get(task)) is None:
            known = ", ".join(sorted(self._updater.tasks))
            raise CallerUnknownError(
                f"no task {task[:64]!r} is served here", reason="unknown_task", fix=f"one of: {known}"
            )
        return updater

    def _state(self, task: str) -> str:
        return self._updater.tasks[task].record.state


def _manifest(path: Path) -> bytes:
    try:
        with (path / MANIFEST_FILE).open("rb") as file:
            data = file.read(MANIFEST_BYTES + 1)
    except OSError as error:
        raise CallerUnknownError(
            f"{path} is no bundle: {error.strerror or error}", reason="no_such_folder", fix="name a bundle's folder"
        ) from error
    if len(data) > MANIFEST_BYTES:
        raise CallerInputError("its manifest is too long", reason="manifest_too_large")
    return data


__all__ = ["Hands", "Planned", "UpdatesView"]
