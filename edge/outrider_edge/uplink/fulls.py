"""The full forms that are on offer beside a first one, so that the first want of each can be counted. Holds no bytes. Pure."""

from outrider_edge.ports import Pulled
from outrider_wire.messages import Escalation


class FullForms:
    """By digest; one that two inputs share is counted for the one that offered it first."""

    def __init__(self) -> None:
        self._offered: dict[str, tuple[str, Pulled]] = {}
        self._of: dict[str, list[str]] = {}

    def offer(self, escalation: Escalation) -> None:
        """From now on a worker may want them."""
        unseen = [part.unseen for part in escalation.parts if part.unseen is not None]
        if not unseen or escalation.id in self._of:
            return
        self._of[escalation.id] = [full.sha256 for full in unseen]
        for full in unseen:
            pulled = Pulled(task=escalation.task, size=full.size, audit=escalation.audit > 0)
            self._offered.setdefault(full.sha256, (escalation.id, pulled))

    def wanted(self, sha256: str) -> Pulled | None:
        """A full form that is wanted for the first time; None: it was before, or it is none."""
        found = self._offered.pop(sha256, None)
        return None if found is None else found[1]

    def close(self, id_: str) -> None:
        """Nobody will want those of that input any more."""
        for sha256 in self._of.pop(id_, ()):
            if (found := self._offered.get(sha256)) is not None and found[0] == id_:
                del self._offered[sha256]
