"""``outrider bench edge``: what the agent adds to a bare model, and what it costs to have one. Prints nothing.

The same inputs go through (a) ``InferenceSession.run`` on prepared feeds, (b) the agent in this process, wired as the daemon
wires it, without a broker, and (c) the HTTP API of a daemon of its own, one request after the other on one connection. The
three take turns, block by block, so that the machine's drift cancels.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from outrider.bench.inputs import KINDS, Parts, make_inputs
from outrider.bench.stopwatch import Timing, time_calls, timing
from outrider.client import Client
from outrider.processes import Processes, any_port
from outrider.progress import Tell
from outrider_edge.app import serving
from outrider_edge.budget.budget import gain_of
from outrider_edge.budget.spending import Spending
from outrider_edge.config import EdgeConfig, load_edge_config, read_task
from outrider_edge.journey.agent import Agent
from outrider_edge.journey.asked import Asked
from outrider_edge.journey.gate import decide
from outrider_edge.memory.answers import Answers, Remembered, digest_of_others, unit
from outrider_edge.outbox.clock import run_clock
from outrider_engine.model import Example, Model
from outrider_engine.session import load_runtime
from outrider_wire.report import AnswerReport
from outrider_wire.task import Budget, Task

BLOCK = 25
"""Inputs before the next variant's turn."""
STARTS = 3
MEMORY_ENTRIES = 10_000
MEMORY_WIDTH = 48
"""Of the shipped small students' encodings."""


@dataclass(frozen=True, kw_only=True)
class EdgePlan:
    """What to measure."""

    task: Path
    bundle: Path
    folder: Path
    """For everything that is written; empty."""
    inputs: int = 1000
    """Of each kind."""


class KindFigures(Struct, kw_only=True, frozen=True):
    """The three ways of one kind of input, in milliseconds."""

    raw_p50_ms: float
    raw_p95_ms: float
    pipeline_p50_ms: float
    pipeline_p95_ms: float
    pipeline_ratio: float
    """To ``raw_p50_ms``; that of HTTP as well."""
    http_p50_ms: float
    http_p95_ms: float
    http_ratio: float
    prepare_p50_ms: float
    """Decoding and preprocessing, as the agent's own reports tell it: inside the pipeline."""


class EdgeFigures(KindFigures, kw_only=True, frozen=True):
    """The JSON line: the kind ``kind`` on top, every one of them in ``kinds``."""

    kind: str
    kinds: dict[str, KindFigures]
    deciding_p50_ms: float
    """Score, support, threshold, two limits of a budget, gate and reason."""
    deciding_p95_ms: float
    memory_lookup_p50_ms: float
    """In ``memory_entries`` answers whose other parts are equal, embeddings of ``memory_width`` numbers."""
    memory_lookup_p95_ms: float
    memory_entries: int
    memory_width: int
    cold_start_s: float
    """From the start of the process until ``/health/ready`` answers; the median of a few starts."""
    first_start_s: float
    """The first of them, which installs the bundle in a slot."""
    rss_mb: float | None
    """Resident memory of the daemon, in 10⁶ bytes, once it has answered ``requests``; None where there is no ``/proc``."""
    requests: int
    inputs: int
    task: str
    model: str


@dataclass(kw_only=True)
class _Samples:
    raw: list[float] = field(default_factory=list)
    pipeline: list[float] = field(default_factory=list)
    http: list[float] = field(default_factory=list)
    prepare: list[float] = field(default_factory=list)

    def figures(self) -> KindFigures:
        raw, pipeline, http = timing(self.raw), timing(self.pipeline), timing(self.http)
        return KindFigures(
            raw_p50_ms=raw.p50_ms,
            raw_p95_ms=raw.p95_ms,
            pipeline_p50_ms=pipeline.p50_ms,
            pipeline_p95_ms=pipeline.p95_ms,
            pipeline_ratio=pipeline.p50_ms / raw.p50_ms,
            http_p50_ms=http.p50_ms,
            http_p95_ms=http.p95_ms,
            http_ratio=http.p50_ms / raw.p50_ms,
            prepare_p50_ms=timing(self.prepare).p50_ms,
        )


async def measure(plan: EdgePlan, tell: Tell) -> EdgeFigures:
    """Everything, from the cold start to the last request.

    Raises:
        OperatorError: the task or the machine lacks something.
        BundleError: the bundle cannot be used.
    """
    task = read_task(_config(plan).tasks[0])
    with Processes(logs=plan.folder / "logs") as processes:
        port = any_port()
        starts = [_start(processes, plan, port, last=n == STARTS - 1, tell=tell) for n in range(STARTS)]
        with Client(f"http://127.0.0.1:{port}") as client:
            async with serving(_config(plan)) as served:
                measured = _Measured(agent=served.agent, task=task, client=client, bundle=plan.bundle)
                kinds = {}
                for kind in KINDS:
                    inputs = make_inputs(task, kind, plan.inputs)
                    kinds[kind.name] = await measured.kind(inputs, _of(tell, f"inputs, {kind.name}"))
                example = make_inputs(task, KINDS[-1], 1)[0]
                deciding = measured.deciding(example, plan.inputs)
                lookup = memory_lookup(example, task.inputs[0].name, plan.inputs)
            requests = client.account().received
            rss_mb = resident_mb(processes.pid("agent"))
    headline = KINDS[-1].name
    return EdgeFigures(
        **{name: getattr(kinds[headline], name) for name in KindFigures.__struct_fields__},
        kind=headline,
        kinds=kinds,
        deciding_p50_ms=deciding.p50_ms,
        deciding_p95_ms=deciding.p95_ms,
        memory_lookup_p50_ms=lookup.p50_ms,
        memory_lookup_p95_ms=lookup.p95_ms,
        memory_entries=MEMORY_ENTRIES,
        memory_width=MEMORY_WIDTH,
        cold_start_s=statistics.median(starts),
        first_start_s=starts[0],
        rss_mb=rss_mb,
        requests=requests,
        inputs=plan.inputs,
        task=task.name,
        model=measured.model.manifest.version,
    )


class _Measured:
    """One task, three ways."""

    def __init__(self, *, agent: Agent, task: Task, client: Client, bundle: Path) -> None:
        self.model: Model = agent.runtimes[task.name].model
        self._agent = agent
        self._task = task
        self._client = client
        self._bare = bare_run(self.model)

    async def kind(self, inputs: Sequence[Parts], share: Callable[[float], None]) -> KindFigures:
        """All inputs of one kind, block by block; the first block is not counted."""
        samples = _Samples()
        blocks = [inputs[at : at + BLOCK] for at in range(0, len(inputs), BLOCK)]
        await self._block(blocks[0], _Samples())
        for done, block in enumerate(blocks):
            await self._block(block, samples)
            share((done + 1) / len(blocks))
        return samples.figures()

    async def _block(self, block: Sequence[Parts], samples: _Samples) -> None:
        name = self._task.name
        feeds = [_batch_of_one(self.model.prepare(parts)) for parts in block]
        for feed in feeds:
            started = time.perf_counter()
            self._bare(feed)
            samples.raw.append(_ms_since(started))
        for parts in block:
            started = time.perf_counter()
            report = await self._agent.submit(name, parts)
            samples.pipeline.append(_ms_since(started))
            samples.prepare.append(report.ms["prepare"])
        for parts in block:
            started = time.perf_counter()
            self._ask(parts)
            samples.http.append(_ms_since(started))

    def _ask(self, parts: Parts) -> AnswerReport:
        return self._client.ask(self._task.name, parts)

    def deciding(self, parts: Parts, n: int) -> Timing:
        """The rule, a budget and the gate on what the model says of one input; the budget is asked whatever the rule says."""
        [said] = self.model.infer([self.model.prepare(parts)])
        certified, name, most = not self.model.certified, self._task.name, 10 * n
        terms = Budget(escalations_per_hour=most, escalations_per_day=most)
        spending = Spending(terms={name: terms}, clock=run_clock(), saved={}, remember=lambda key, value: None)
        asked = Asked(
            task=self._task,
            parts=parts,
            wait=True,
            answer_within_ms=0,
            group="",
            insist=False,
            began=time.perf_counter(),
        )

        def decided(_: int) -> object:
            verdict = self.model.judge(said, parts)
            gain = gain_of(confidence=float(said.probabilities.max()), supported=verdict.why != "unsupported")
            over = spending.ask(name, gain=gain, size=asked.wire_size(), insist=False)
            return decide(
                verdict, certified=certified, wants_cloud=False, audit=False, may_send=True, affordable=not over
            )

        return time_calls(decided, n=n, warm_up=BLOCK)


def memory_lookup(parts: Parts, embedded: str, n: int) -> Timing:
    """Looking for the nearest of `MEMORY_ENTRIES` answers to one input: from its parts and embedding to a hit."""
    rng = np.random.default_rng(0)
    answers = Answers(max_entries=MEMORY_ENTRIES, keep_for_s=3_600, max_distance=2.0)
    others = digest_of_others(parts, [embedded])
    said = Remembered(label="", confidence=1.0, probabilities={}, large_model="", strategy="", at_s=0.0)
    for row in rng.normal(size=(MEMORY_ENTRIES, MEMORY_WIDTH)):
        if (direction := unit(row)) is not None:
            answers.add(others, direction, said)
    asked = rng.normal(size=(n, MEMORY_WIDTH)).astype(np.float32)

    def look(number: int) -> object:
        embedding = unit(asked[number % n])
        return None if embedding is None else answers.find(1.0, digest_of_others(parts, [embedded]), embedding)

    return time_calls(look, n=n, warm_up=BLOCK)


def bare_run(model: Model) -> Callable[[Any], Any]:
    """ONNX Runtime itself on the bundle's model: one thread, and everything else as it comes."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    data = model.bundle.read(model.variant.file)
    session = runtime.InferenceSession(data, options, providers=[model.variant.provider])
    return lambda feeds: session.run(None, feeds)


def resident_mb(pid: int) -> float | None:
    """Resident memory of a process in 10⁶ bytes; None where there is no ``/proc``."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kilobytes) * 1024 / 1e6


def _start(processes: Processes, plan: EdgePlan, port: int, *, last: bool, tell: Tell) -> float:
    """Seconds of one cold start; the last one stays."""
    tell("cold starts", 0.0)
    command = ["edge", "run", "--task", str(plan.task), "--bundle", str(plan.bundle), "--device", "bench"]
    started = time.perf_counter()
    processes.start("agent", [*command, "--data-dir", str(plan.folder / "daemon"), "--port", str(port)])
    processes.wait_ready("agent", f"http://127.0.0.1:{port}/health/ready", every_s=0.005)
    took_s = time.perf_counter() - started
    if last:
        tell("cold starts", 1.0)
    else:
        processes.stop("agent")
    return took_s


def _config(plan: EdgePlan) -> EdgeConfig:
    tasks = [{"file": str(plan.task.absolute()), "bundle": str(plan.bundle.absolute())}]
    inside = {"device": "bench", "data_dir": str(plan.folder / "inside"), "api": {"port": 0}}
    return load_edge_config(None, {"tasks": tasks, **inside})


def _of(tell: Tell, what: str) -> Callable[[float], None]:
    return lambda share: tell(what, share)


def _batch_of_one(example: Example) -> dict[str, Any]:
    return {name: array[None] for name, array in example.items()}


def _ms_since(started: float) -> float:
    return 1e3 * (time.perf_counter() - started)
