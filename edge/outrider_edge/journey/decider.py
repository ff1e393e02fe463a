"""Everything that has a say over one input, in its order: privacy and mode, the watch, memory, budget, the gate. Sends nothing.

The gate (`outrider_edge.journey.gate`) decides; this asks for what it must know, and spends the budget of what is sent.
"""

import os
import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from outrider_edge.budget.budget import gain_of
from outrider_edge.budget.spending import Spending
from outrider_edge.journey.asked import Asked
from outrider_edge.journey.gate import Decision, Suspended, decide, keeps_here, sampled
from outrider_edge.journey.pipeline import LocalAnswer
from outrider_edge.journey.reports import STANDS, kept_back, samples_all
from outrider_edge.journey.watch import Watch, shadow_entry
from outrider_edge.memory.answers import Hit
from outrider_edge.memory.memory import TaskMemory
from outrider_edge.ports import WatchPort
from outrider_wire.ids import RANDOM_BYTES, uuid7
from outrider_wire.roles import is_audited


class Judged(NamedTuple):
    """What is to become of one input."""

    id: str
    decision: Decision
    suspended: Suspended | None
    """The certificate is not claimed any more."""
    hit: Hit | None
    """The memory's answer, which is given in place of the device's own."""
    audit_hit: bool
    """A random sample of the memory's answers is sent as well."""
    held_back: str
    """Under which code it counts as not sent; '' when it is sent, or was never meant to be."""
    note: str
    """The same for a person."""
    spare: bool
    """Kept to be learnt from, and offered when the budget has room."""


class Decider:
    """Judges inputs, each once.

    Args:
        watch: whether a certificate may still be claimed.
        watches: records what shadow mode would have done.
        spending: the tasks' budgets.
        memories: of the tasks that have one.
        audit_key: secret of the keyed hash that chooses the audits.
    """

    def __init__(
        self,
        *,
        watch: Watch,
        watches: WatchPort,
        spending: Spending,
        memories: Mapping[str, TaskMemory],
        audit_key: str,
    ) -> None:
        self._watch = watch
        self._watches = watches
        self._spending = spending
        self._memories = memories
        self._audit_key = audit_key

    def judge(self, asked: Asked, local: LocalAnswer, *, alone: bool) -> Judged:
        """What is to become of an input of which the device says ``local``; ``alone``: there is no broker."""
        task, now_ms = asked.task, time.time_ns() // 1_000_000
        input_id = uuid7(now_ms, os.urandom(RANDOM_BYTES))
        suspended = self._watch.suspended(task, local.model)
        code, note = kept_back(task, alone=alone)
        of_all = samples_all(task, alone=alone)
        audit = (local.verdict.accepted or of_all) and self._draws(input_id, task.policy.audit_rate)
        keeps = not local.model.certified and keeps_here(local.verdict, suspended)
        hit = None if keeps or asked.insist or (audit and of_all) else self._remembered(asked, local)
        over = "" if code or hit or (keeps and not asked.insist) else self._over_budget(asked, local)
        decide_if = partial(
            decide,
            local.verdict,
            certified=not local.model.certified,
            wants_cloud=asked.insist,
            suspended=suspended,
        )
        decision = decide_if(audit=audit, may_send=not code, affordable=not hit and not over)
        if code == "shadow":
            live = decide_if(audit=False, may_send=True)
            self._watches.shadowed(shadow_entry(input_id, now_ms, local, live))
            decision = sampled(decision, local.verdict) if audit and of_all else decision
        if over:
            code, note = "budget", f"{over}; {STANDS}"
        held_back = code if not hit and (decision.uncertified or asked.insist) else ""
        return Judged(
            id=input_id,
            decision=decision,
            suspended=suspended,
            hit=hit,
            audit_hit=bool(hit and not code) and self._draws(input_id, task.memory.audit_rate, salt="memory"),
            held_back=held_back,
            note=note if held_back else "",
            spare=bool(over) and decision.uncertified and self._keeps(asked),
        )

    def weighs(self, asked: Asked, local: LocalAnswer, *, alone: bool) -> bool:
        """Whether the budget will be asked about that input, unless the memory knows its answer."""
        if asked.task.name not in self._spending or kept_back(asked.task, alone=alone)[0]:
            return False
        suspended = self._watch.suspended(asked.task, local.model)
        return asked.insist or bool(local.model.certified) or not keeps_here(local.verdict, suspended)

    def _keeps(self, asked: Asked) -> bool:
        """Whether an input that the budget does not send is kept to be learnt from: not if no budget will ever send it."""
        task = asked.task
        return task.budget.when_spent == "keep" and self._spending.could_afford(task.name, size=asked.wire_size())

    def _draws(self, input_id: str, rate: float, *, salt: str = "audit") -> bool:
        return rate > 0 and is_audited(input_id, key=self._audit_key, rate=rate, salt=salt)

    def _remembered(self, asked: Asked, local: LocalAnswer) -> Hit | None:
        memory = self._memories.get(asked.task.name)
        return memory.recall(asked.parts, local) if memory is not None else None

    def _over_budget(self, asked: Asked, local: LocalAnswer) -> str:
        """'' and its cost is spent, or why the budget does not send it."""
        if asked.task.name not in self._spending:
            return ""
        gain = gain_of(confidence=max(local.probabilities), supported=local.verdict.why != "unsupported")
        return self._spending.ask(asked.task.name, gain=gain, size=asked.wire_size(), insist=asked.insist)
