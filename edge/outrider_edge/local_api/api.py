"""The local HTTP API: one table of routes over the agent. Knows how an answer is asked for, not how it is found."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from outrider_edge.journey.agent import Agent, unknown_task
from outrider_edge.journey.asked import MAX_WAIT_MS
from outrider_edge.local_api.answering import answered, report_json
from outrider_edge.local_api.openapi import document
from outrider_edge.local_api.replies import Handler, coded_reply, json_reply, speak_json
from outrider_edge.local_api.submission import read_body, read_wishes, whole_number
from outrider_edge.local_api.views import LiveView, ReadyView, StatusView, task_view
from outrider_wire.errors import CallerError, CallerInputError
from outrider_wire.report import TERMINAL, AnswerReport
from outrider_wire.task import Task

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
KEEP_ALIVE_S = 15.0
"""A comment this often keeps an event stream from looking dead."""
_OVERHEAD_BYTES = 64 * 1024
"""Boundaries, headers and names of a body."""


class RouteGroup(Protocol):
    """Routes that belong together."""

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """The table: method, path, handler."""
        ...


class Api:
    """The routes.

    Args:
        agent: answers.
        status: how the device fares.
        metrics: the metrics page, as text.
        groups: more routes, each group in a module of its own.
    """

    def __init__(
        self,
        *,
        agent: Agent,
        status: Callable[[], StatusView],
        metrics: Callable[[], bytes],
        groups: Sequence[RouteGroup] = (),
    ) -> None:
        self._groups = groups
        self._agent = agent
        self._status = status
        self._metrics = metrics

    @property
    def max_bytes(self) -> int:
        """Of a body."""
        return body_limit([runtime.task for runtime in self._agent.runtimes.values()])

    def application(self) -> web.Application:
        """The routes as an application; bodies are bounded by what the tasks' inputs may weigh."""
        app = web.Application(client_max_size=self.max_bytes, middlewares=[speak_json])
        for method, path, handler in self.routes():
            app.router.add_route(method, path, handler)
        return app

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """The table: method, path, handler."""
        return (
            *(row for group in self._groups for row in group.routes()),  # before what would take their names for an id
            ("POST", "/v1/tasks/{task}/answers", self._submit),
            ("GET", "/v1/answers/{id}", self._answer),
            ("GET", "/v1/answers/{id}/events", self._events),
            ("GET", "/v1/tasks", self._tasks),
            ("GET", "/v1/account", self._account),
            ("GET", "/v1/status", self._show_status),
            ("GET", "/health/live", self._live),
            ("GET", "/health/ready", self._ready),
            ("GET", "/metrics", self._show_metrics),
            ("GET", "/openapi.json", self._openapi),
        )

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        task = request.match_info["task"]
        if task not in self._agent.runtimes:
            raise self._agent.refused(task, unknown_task(task, self._agent.runtimes))
        try:
            wishes, body = read_wishes(request), await read_body(request)
        except CallerError as error:
            raise self._agent.refused(task, error) from error
        return _report(await answered(self._agent, task, body, request.headers.get("Content-Type", ""), wishes))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        wait_ms = whole_number(request.query.get("wait_ms", "0"), "wait_ms")
        if wait_ms > MAX_WAIT_MS:
            raise CallerInputError(
                f"wait_ms is more than {MAX_WAIT_MS}", reason="invalid_parameter", fix="wait less, and ask again"
            )
        return _report(await self._agent.wait_final(request.match_info["id"], wait_ms / 1e3))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: ``provisional`` (when it is), then ``final``, then the end."""
        input_id = request.match_info["id"]
        report = await self._agent.get(input_id)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await stream.prepare(request)
        if report.state not in TERMINAL:
            await _send(stream, "provisional", report)
        while report.state not in TERMINAL and not self._agent.stopping:
            report = await self._agent.wait_final(input_id, KEEP_ALIVE_S)
            if report.state not in TERMINAL:
                await stream.write(b": still waiting\n\n")
        if report.state in TERMINAL:
            await _send(stream, "final", report)
        return stream

    async def _tasks(self, _: web.Request) -> web.StreamResponse:
        return json_reply(
            {"tasks": [task_view(runtime, self._agent.promise(runtime)) for runtime in self._agent.runtimes.values()]}
        )

    async def _account(self, request: web.Request) -> web.StreamResponse:
        task = request.query.get("task", "")
        if task and task not in self._agent.runtimes:
            raise unknown_task(task, self._agent.runtimes)
        return json_reply(self._agent.account(task))

    async def _show_status(self, _: web.Request) -> web.StreamResponse:
        return json_reply(self._status())

    async def _live(self, _: web.Request) -> web.StreamResponse:
        return json_reply(LiveView(live=True))

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        """Models are loaded before the port opens: not ready is only who stops."""
        ready = not self._agent.stopping
        return json_reply(ReadyView(ready=ready, tasks=sorted(self._agent.runtimes)), 200 if ready else 503)

    async def _show_metrics(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics(), headers={"Content-Type": METRICS_TYPE})

    async def _openapi(self, _: web.Request) -> web.StreamResponse:
        return json_reply(document())


def body_limit(tasks: Sequence[Task]) -> int:
    """The largest body that an input of any of these tasks can need, in bytes: its parts as base64."""
    largest = max((sum(part.max_bytes for part in task.inputs) for task in tasks), default=0)
    return largest * 4 // 3 + _OVERHEAD_BYTES


def _report(report: AnswerReport) -> web.Response:
    return coded_reply(*report_json(report))


async def _send(stream: web.StreamResponse, event: str, report: AnswerReport) -> None:
    await stream.write(b"event: %s\ndata: %s\n\n" % (event.encode(), msgspec.json.encode(report)))
