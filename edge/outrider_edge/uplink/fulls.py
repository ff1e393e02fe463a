"""The full forms that are on offer beside a first one, so that the first want of each can be counted. Holds no bytes. Pure."""

from outrider_wire.messages import Escalation


class FullForms:
    """By digest; one that two inputs share is counted for the one that offered it first."""

    def __init__(self) -> None:
        self._offered: dict[str, tuple[str, str, int]] = {}
        self._of: dict[str, list[str]] = {}

    def offer(self, escalation: Escalation) -> None:
        """From now on a worker may want them."""
        unseen = [part.unseen for part in escalation.parts if part.unseen is not None]
        if not unseen or escalation.id in self._of:
            return
        self._of[escalation.id] = [full.sha256 for full in unseen]
        for full in unseen:
            self._offered.setdefault(full.sha256, (escalation.id, escalation.task, full.size))

    def wanted(self, sha256: str) -> tuple[str, int] | None:
        """Task and bytes of a full form that is wanted for the first time; None: it was before, or it is none."""
        found = self._offered.pop(sha256, None)
        return None if found is None else found[1:]

    def close(self, id_: str) -> None:
        """Nobody will want those of that input any more."""
        for sha256 in self._of.pop(id_, ()):
            if self._offered.get(sha256, ("",))[0] == id_:
                del self._offered[sha256]
