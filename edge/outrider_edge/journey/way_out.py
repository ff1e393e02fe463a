"""The way out of the device: what of an input leaves, made beside the event loop where that takes more than a moment.

The one place that turns an input into what the outbox keeps: no entry ever holds anything else.
"""

import asyncio
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from outrider_edge.journey.pipeline import LocalAnswer, Parts
from outrider_edge.ports import OutboxFull, OutboxPart
from outrider_wire.errors import OperatorConfigError
from outrider_wire.images import Decode, decode_picture
from outrider_wire.leaving import Leaver, Leaves, LeavingPart
from outrider_wire.manifest import Manifest
from outrider_wire.privacy import EMBEDDING
from outrider_wire.task import Task

log = logging.getLogger(__name__)

LOOP_BYTES = 16 * 1024
"""A part of more bytes is made fit to leave beside the event loop …"""
LOOP_TEXT = 4096
"""… and so is a text of more characters."""


class Left(Struct, kw_only=True, frozen=True):
    """What leaves of one input."""

    parts: list[OutboxPart]
    group: str = ""

    @property
    def readable(self) -> Parts:
        """All that may leave of it, for another model of this device; empty where a part leaves as an embedding."""
        if any(part.media_type == EMBEDDING for part in self.parts):
            return {}
        return {part.name: part.full.data if part.full else part.data for part in self.parts}


class WayOut:
    """One task's.

    Args:
        task: whose inputs they are.
        key: secret that groups' pseudonyms are made with.
        redacted: counts how often each of the task's patterns was taken out.
        decode: turns pictures into pixels.
    """

    def __init__(self, task: Task, *, key: str, redacted: Counter[str], decode: Decode = decode_picture) -> None:
        self._leaver = Leaver(task, key=key, decode=decode)
        self._texts = {part.name for part in task.inputs if part.modality == "text"}
        self._task = task.name
        self._thread: ThreadPoolExecutor | None = None
        self._redacted = redacted
        self.changes_size = self._leaver.changes_size
        """As `Leaver.changes_size`, found once: it is asked of every input."""

    async def leave(self, parts: Parts, local: LocalAnswer, *, group: str) -> Left:
        """What may leave of an input that the device has answered.

        Raises:
            RuleRefusalError: a part cannot be made fit to leave; nothing of the input may.
        """
        if self._quick(parts):
            made = self._leaver.leave(parts, group=group, embedding=local.embedding)
        else:
            made = await asyncio.get_running_loop().run_in_executor(self._executor(), self._made, parts, local, group)
        self._note(made)
        return Left(parts=[_outgoing(part) for part in made.parts], group=made.group)

    def close(self) -> None:
        """Waits for the input in hand."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _quick(self, parts: Parts) -> bool:
        small = all(len(value) <= (LOOP_TEXT if name in self._texts else LOOP_BYTES) for name, value in parts.items())
        return small and not self._leaver.draws

    def _made(self, parts: Parts, local: LocalAnswer, group: str) -> Leaves:
        return self._leaver.leave(parts, group=group, embedding=local.embedding)

    def _executor(self) -> ThreadPoolExecutor:
        self._thread = self._thread or ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"way-out-{self._task}")
        return self._thread

    def _note(self, made: Leaves) -> None:
        """Says what was taken out, never its content."""
        if made.redacted:
            self._redacted.update(made.redacted)
            log.info("input.redacted", extra={"task": self._task, "taken_out": dict(made.redacted)})


def check_way_out(task: Task, manifest: Manifest) -> None:
    """Whether the bundle makes what the task lets leave.

    Raises:
        OperatorConfigError: a part leaves as an embedding only, and there is none.
    """
    for name, terms in task.privacy.parts.items():
        if terms.embedding_only and (manifest.outputs.embedding is None or name not in manifest.embedding_parts):
            raise OperatorConfigError(
                f"task {task.name!r} lets {name!r} leave as an embedding only, and the bundle makes none of it",
                reason="no_embedding",
                fix="export the bundle with an embedding: outrider export run --embedding",
            )


def _outgoing(part: LeavingPart) -> OutboxPart:
    if part.first is None:
        form, full = part.full, None
    else:
        form, full = part.first, OutboxFull(media_type=part.full.media_type, data=part.full.data)
    return OutboxPart(name=part.name, modality=part.modality, media_type=form.media_type, data=form.data, full=full)
