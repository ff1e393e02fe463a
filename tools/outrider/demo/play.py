"""Plays questions through running agents and keeps what each was told. Knows the local API, not what is behind it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from outrider.client import AsyncClient
from outrider.demo.dataset import Question
from outrider_wire.errors import OutriderError
from outrider_wire.report import AnswerReport

AT_ONCE = 4
"""Questions under way at each agent."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question as it is asked: the picture's bytes, its group, and the true answer (which no agent is told)."""

    image: bytes
    question: Question
    group: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one item came to: the agent's report, or why there was none."""

    item: Item
    report: AnswerReport | None
    wall_ms: float
    problem: str = ""

    @property
    def right(self) -> bool:
        """Whether the answer is the true one; no answer is wrong."""
        return self.report is not None and self.report.label == self.item.question.answer


@dataclass
class Tally:
    """The figures of one play, kept up as it runs."""

    total: int
    told: list[Told] = field(default_factory=list)

    def count(self, by: str) -> int:
        """Items answered by ``edge`` or ``cloud``."""
        return sum(1 for one in self.told if one.report is not None and one.report.answered_by == by)

    @property
    def failed(self) -> int:
        """Items that got no answer at all."""
        return sum(1 for one in self.told if one.report is None)

    @property
    def accuracy(self) -> float:
        """Share of right answers among all items asked so far."""
        return float(np.mean([one.right for one in self.told])) if self.told else 0.0

    def latency_ms(self, by: str, quantile: float) -> float:
        """Quantile of the caller's own waiting time for answers by ``edge`` or ``cloud``; 0 when there are none."""
        times = [one.wall_ms for one in self.told if one.report is not None and one.report.answered_by == by]
        return float(np.quantile(times, quantile)) if times else 0.0


async def play(
    items: Sequence[Item],
    agents: Sequence[str],
    *,
    task: str,
    answer_within_ms: int,
    watch: Callable[[Tally], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> Tally:
    """Asks every item of one of the agents (in turn), a few at a time; ends early when ``stop`` is set."""
    tally = Tally(total=len(items))
    waiting = iter(items)

    async def worker(client: AsyncClient) -> None:
        for item in waiting:
            if stop is not None and stop.is_set():
                return
            tally.told.append(await _ask(client, item, task=task, answer_within_ms=answer_within_ms))
            watch(tally)

    clients = [AsyncClient(address) for address in agents]
    try:
        await asyncio.gather(*(worker(client) for client in clients for _ in range(AT_ONCE)))
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    return tally


async def _ask(client: AsyncClient, item: Item, *, task: str, answer_within_ms: int) -> Told:
    started = time.perf_counter()
    try:
        report = await client.ask(
            task,
            {"image": item.image, "question": item.question.text},
            answer_within_ms=answer_within_ms,
            group=item.group,
        )
    except OutriderError as error:
        return Told(item=item, report=None, wall_ms=1e3 * (time.perf_counter() - started), problem=str(error))
    return Told(item=item, report=report, wall_ms=1e3 * (time.perf_counter() - started))
