"""A fleet for the cloud's tests: many real MQTT sessions in one loop, each with an outbox of a few escalations. Knows no assertion."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from cloud_device import TOPICS, make_escalation
from msgspec.structs import replace

from outrider_link.session import Incoming, MqttSession, Outgoing
from outrider_wire.codec import decode, encode
from outrider_wire.errors import OutriderError
from outrider_wire.messages import Answer, Escalation, Receipt, Refusal
from outrider_wire.task import Task

RECEIPT_TIMER_S = 2.0


class Member:
    """One device: offers what has no receipt on a timer, after each reconnect, and when it was told to come again."""

    def __init__(self, url: str, name: str, escalations: Sequence[Escalation]) -> None:
        self.open = {each.id: each for each in escalations}
        self.answers: dict[str, list[Answer]] = {each.id: [] for each in escalations}
        self.busy = 0
        self._name = name
        self._received: set[str] = set()
        self._later: set[asyncio.Task[None]] = set()
        self.session = MqttSession(
            url=url,
            client_id=f"device-{name}",
            subscriptions=[f"{TOPICS.root}/{name}/down/#"],
            on_message=self._on_message,
            on_connected=self._offer_on,
        )

    async def _offer_on(self) -> None:
        self._received.clear()  # an answer may have been said while nobody listened
        while self.open:
            for escalation in list(self.open.values()):
                if escalation.id not in self._received:
                    await self._offer(escalation.id)
            await asyncio.sleep(RECEIPT_TIMER_S)

    async def _offer(self, input_id: str) -> None:
        escalation = self.open.get(input_id)
        if escalation is None:
            return
        self.open[input_id] = replace(escalation, offer=escalation.offer + 1)
        topic = TOPICS.of("escalate", self._name, task=escalation.task)
        try:
            await self.session.publish(Outgoing(topic, encode(escalation)))
        except OutriderError:
            return  # the next connection offers it

    async def _on_message(self, incoming: Incoming) -> None:
        match decode(incoming.payload, incoming.content_type):
            case Receipt(id=input_id):
                self._received.add(input_id)
            case Answer(id=input_id) as answer:
                self.answers[input_id].append(answer)
                self.open.pop(input_id, None)
            case Refusal(id=input_id, retry_after_s=float(after_s)):
                self.busy += 1
                task = asyncio.get_running_loop().create_task(self._come_again(input_id, after_s))
                self._later.add(task)
                task.add_done_callback(self._later.discard)

    async def _come_again(self, input_id: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if input_id not in self._received:
            await self._offer(input_id)


class Fleet:
    """``async with Fleet(url, task, devices=300, each=3) as fleet``: all of them, from the first connection on."""

    def __init__(self, url: str, task: Task, *, devices: int, each: int) -> None:
        self.members = [
            Member(
                url,
                f"cam-{k}",
                [
                    make_escalation(task, {"image": b"png", "question": str((k + n) % 3)}, keep_for_s=3600)
                    for n in range(each)
                ],
            )
            for k in range(devices)
        ]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for member in self.members:
            await self._stack.enter_async_context(member.session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def unanswered(self) -> int:
        """Escalations without an answer."""
        return sum(len(member.open) for member in self.members)

    async def until(self, unanswered: int, within_s: float) -> float:
        """Waits until no more than that are unanswered; how many seconds it took."""
        began = time.monotonic()
        async with asyncio.timeout(within_s):
            while self.unanswered > unanswered:  # noqa: ASYNC110  (nobody announces it)
                await asyncio.sleep(0.05)
        return time.monotonic() - began
