"""A second try for a message that could not be taken, when a person asks for it: as if it came on its topic now.

What made it fail may have been mended meanwhile: a task that was not served, a bound that was too low.
"""

from functools import partial
from typing import Literal

from msgspec import Struct

from outrider_cloud.hub import Hub
from outrider_cloud.intake.intake import Intake
from outrider_cloud.store import dead_letters
from outrider_cloud.store.dead_letters import DeadLetter
from outrider_cloud.store.store import Store
from outrider_link.envelope import Incoming
from outrider_wire.errors import CallerUnknownError, PeerError, RuleRefusalError, UnreachableError
from outrider_wire.topics import Topics

Would = Literal["taken", "claimed", "repeated", "busy", "refused"]
"""What it comes to: an escalation is claimed, known already or put off for want of room; any other message is taken."""


class Outcome(Struct, kw_only=True, frozen=True):
    """What a second try comes to, or would."""

    id: int
    dry_run: bool
    outcome: Would
    reason: str = ""
    """Of a refusal."""
    detail: str = ""


class Requeue:
    """Reads a letter, judges it, and takes it in."""

    def __init__(self, *, store: Store, topics: Topics, hub: Hub, intake: Intake) -> None:
        self._store = store
        self._topics = topics
        self._hub = hub
        self._intake = intake

    async def requeue(self, letter_id: int, *, dry_run: bool) -> Outcome:
        """Takes a parked message in again and lets its letter go; with ``dry_run``, only says what would become of it.

        Raises:
            CallerUnknownError: there is no such letter.
            RuleRefusalError: it would be refused again, or was too large to be kept whole.
            UnreachableError: there is no room for it now.
        """
        mark = self._store.forgotten
        letter = await self._store.read(partial(dead_letters.find, letter_id=letter_id))
        if letter is None:
            raise CallerUnknownError(
                f"there is no dead letter {letter_id}",
                reason="unknown_letter",
                fix="see outrider cloud dead-letters ls",
            )
        outcome = await self._judge(letter_id, letter, dry_run=dry_run)
        if dry_run:
            return outcome
        _check(outcome)
        try:
            await self._take(letter, mark)
        except PeerError as error:  # what only the one whom it concerns could see
            raise _refused(letter_id, error.reason, str(error)) from error
        await self._store.write(partial(dead_letters.remove, letter_id=letter_id))
        return outcome

    async def _judge(self, letter_id: int, letter: DeadLetter, *, dry_run: bool) -> Outcome:
        def outcome(would: str, reason: str = "", detail: str = "") -> Outcome:
            said: dict[str, Would] = {name: name for name in ("taken", "claimed", "repeated", "busy")}
            return Outcome(
                id=letter_id, dry_run=dry_run, outcome=said.get(would, "refused"), reason=reason, detail=detail
            )

        if not letter.whole:
            kept = f"only {len(letter.payload)} of its {letter.size} bytes were kept"
            return outcome("refused", "not_whole", kept)
        incoming = _incoming(letter)
        try:
            address = self._topics.parse(letter.topic)
            if address.kind == "escalate":
                return outcome(await self._intake.would(self._intake.read(address, incoming)))
            if incoming.payload:
                self._hub.expected(address, incoming)
        except PeerError as error:
            return outcome("refused", error.reason, str(error))
        return outcome("taken")

    async def _take(self, letter: DeadLetter, mark: int) -> None:
        incoming, address = _incoming(letter), self._topics.parse(letter.topic)
        if address.kind == "escalate":
            job = self._intake.read(address, incoming)
            job.mark = mark
            await self._intake.offer(job)
        else:
            await self._hub.take(incoming)


def _incoming(letter: DeadLetter) -> Incoming:
    return Incoming(
        topic=letter.topic, payload=letter.payload, content_type=letter.content_type, correlation=letter.correlation
    )


def _check(outcome: Outcome) -> None:
    """Whether it may be taken in.

    Raises:
        RuleRefusalError: it would be refused again.
        UnreachableError: there is no room now.
    """
    if outcome.outcome == "refused":
        raise _refused(outcome.id, outcome.reason, outcome.detail)
    if outcome.outcome == "busy":
        raise UnreachableError(
            f"there is no room for dead letter {outcome.id} now", reason="busy", fix="try again in a while"
        )


def _refused(letter_id: int, reason: str, detail: str) -> RuleRefusalError:
    what = f"dead letter {letter_id} would be refused again: {detail}"
    return RuleRefusalError(what, reason=reason, fix="mend what it fails on first")
