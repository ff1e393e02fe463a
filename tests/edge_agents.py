"""An agent over a real model and a real outbox, with an uplink whose cloud is the test."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from factory import make_bundle, make_task
from outrider_edge.budget.spending import Spending
from outrider_edge.journey.agent import Agent
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.memory.memory import TaskMemory
from outrider_edge.metrics import Metrics
from outrider_edge.outbox.clock import RunClock, run_clock
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.outcomes import Answered, Expired, Outcome, Refused
from outrider_edge.ports import MaySpare, OnAside, OnFinal, OnPulled, OutboxEntry
from outrider_edge.uplink.escalations import envelope_of
from outrider_engine.model import load_model
from outrider_wire.errors import RuleRefusalError
from outrider_wire.messages import Answer, Refusal
from outrider_wire.task import Policy, Task

QUIET = Policy(answer_within_ms=5_000, keep_for_s=600, audit_rate=0.0)
"""No audits, and time enough for a slow machine."""


SERVE = """
import asyncio, logging, sys
from pathlib import Path
from outrider_edge.app import serve
from outrider_edge.config import load_edge_config

class Ready(logging.Handler):
    def emit(self, record):
        if record.getMessage() == "agent.ready":
            print(record.addresses, flush=True)

logging.getLogger().addHandler(Ready())
logging.getLogger().setLevel("INFO")
asyncio.run(serve(load_edge_config(Path(sys.argv[1]))))
print("ended", flush=True)
"""
"""The agent as a process of its own: prints its addresses when it is ready, and `ended` when it has stopped in good order."""


class HandUplink:
    """`outrider_edge.ports.UplinkPort`: keeps entries in a real outbox and lets the test be the cloud."""

    def __init__(self, *, outbox: Outbox) -> None:
        self.enabled = True
        self.connected = True
        self.full = False
        self.sent: asyncio.Queue[OutboxEntry] = asyncio.Queue()
        self._outbox = outbox
        self._on_final: OnFinal | None = None
        self._on_aside: OnAside | None = None

    def listen(self, on_final: OnFinal) -> None:
        """Names whom to tell."""
        self._on_final = on_final

    def listen_aside(self, on_aside: OnAside) -> None:
        """Names whom to tell."""
        self._on_aside = on_aside

    def spare_when(self, may_spare: MaySpare) -> None:
        """The test asks the agent itself."""

    def listen_pulled(self, on_pulled: OnPulled) -> None:
        """The test pulls nothing."""

    async def escalate(self, entry: OutboxEntry) -> None:
        """Durable, and in `sent`; refused when `full`."""
        if self.full:
            raise RuleRefusalError("the outbox is full", reason="outbox_full")
        await self._outbox.put(entry, envelope_of(entry))
        self.sent.put_nowait(entry)

    async def retry(self, id_: str = "") -> int:
        """Nothing is offered but by the test."""
        return 1 if id_ else self._outbox.view().count

    async def answer(self, input_id: str, label: str = "blue") -> None:
        """The large model answers."""
        told = Answer(
            id=input_id,
            task="colours",
            label=label,
            confidence=0.9,
            probabilities=[0.05, 0.05, 0.9],
            strategy="shunt",
            model="large-1",
        )
        await self._settle(input_id, Answered(told))

    async def refuse(self, input_id: str) -> None:
        """The cloud will not answer it, ever."""
        await self._settle(input_id, Refused(Refusal(id=input_id, reason="unknown_task")))

    async def expire(self, input_id: str) -> None:
        """Its time is over."""
        await self._settle(input_id, Expired())

    async def _settle(self, input_id: str, outcome: Outcome) -> None:
        settled = await self._outbox.settle(input_id, outcome)
        if settled.report is not None and self._on_final is not None:
            await self._on_final(settled.report)
        elif isinstance(outcome, Answered) and self._on_aside is not None:
            await self._on_aside(outcome.answer)


class Bench:
    """What a test needs at hand."""

    def __init__(self, *, agent: Agent, uplink: HandUplink, outbox: Outbox, metrics: Metrics) -> None:
        self.agent = agent
        self.uplink = uplink
        self.outbox = outbox
        self.metrics = metrics


@asynccontextmanager
async def running_agent(
    folder: Path, *, task: Task | None = None, policy: Policy = QUIET, clock: RunClock | None = None, **bundle: Any
) -> AsyncIterator[Bench]:
    """An agent on one task of the factory's; ``bundle`` as in `factory.make_bundle`."""
    task = task or make_task(policy=policy)
    home = folder / "bundle"
    model = load_model(home if home.exists() else make_bundle(home, task, **bundle), bounds=task.inputs)
    outbox = Outbox(folder=folder / "outbox", flush_s=0.05)
    await outbox.start()
    clock = clock or run_clock()
    memories = {task.name: TaskMemory(task=task, now=clock.now)} if task.memory.enabled else {}
    uplink, metrics = HandUplink(outbox=outbox), Metrics(tasks=[task.name])
    runtime = TaskRuntime(task=task, model=model)
    agent = Agent(
        runtimes={task.name: runtime},
        ledger=outbox,
        uplink=uplink,
        metrics=metrics,
        audit_key="a secret of the test",
        spending=Spending(
            terms={task.name: task.budget}, clock=clock, saved=outbox.remembered, remember=outbox.remember
        ),
        memories=memories,
    )
    uplink.listen(agent.on_final)
    uplink.listen_aside(agent.on_aside)
    uplink.spare_when(agent.may_spare)
    try:
        yield Bench(agent=agent, uplink=uplink, outbox=outbox, metrics=metrics)
        await agent.drain(1.0)
        assert agent.account().adds_up
    finally:
        runtime.close()
        await outbox.stop()


def write_config(folder: Path, *, extra: str = "", answer_within_ms: int = 50) -> Path:
    """A task, its bundle and an ``edge.toml`` on a free port, alone unless ``extra`` says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    task = make_task(policy=Policy(answer_within_ms=answer_within_ms, audit_rate=0.0))
    if not (folder / "bundle").exists():
        make_bundle(folder / "bundle", task)
    (folder / "task.toml").write_text(
        f'name = "{task.name}"\n'
        + "".join(f'[[inputs]]\nname = "{part.name}"\nmodality = "{part.modality}"\n' for part in task.inputs)
        + f"[answer]\nlabels = {json.dumps(task.labels)}\n[policy]\nanswer_within_ms = {answer_within_ms}\naudit_rate = 0.0\n"
    )
    path = folder / "edge.toml"
    path.write_text(
        f'device = "cam-7"\ndata_dir = "data"\n{extra}[api]\nport = 0\n[[tasks]]\nfile = "task.toml"\nbundle = "bundle"\n'
    )
    return path


def serve_environment() -> dict[str, str]:
    """In which a child finds the rooms that a device has."""
    root = Path(__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(root / room) for room in ("wire", "export", "edge"))}
