"""The routes under ``/v2``: the Open Inference Protocol over the agent. Every input goes the way of all others, `Agent.submit`."""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from outrider_edge.journey.agent import Agent, unknown_task
from outrider_edge.journey.pipeline import Parts, TaskRuntime
from outrider_edge.local_api.kserve.mapping import OUTPUTS, deadline_ms, model_view, outputs_of, parts_of
from outrider_edge.local_api.kserve.messages import (
    ErrorText,
    InferParameters,
    InferReply,
    InferRequest,
    LiveReply,
    ModelReady,
    ReadyReply,
    ServerView,
)
from outrider_edge.local_api.kserve.tensors import HEADER, read_request, write_reply
from outrider_edge.local_api.replies import Handler, json_reply, status_of
from outrider_edge.local_api.submission import read_body
from outrider_wire.errors import CallerError, CallerInputError, CallerUnknownError, OutriderError
from outrider_wire.report import AnswerReport

EXTENSIONS = ["binary_tensor_data"]
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"


class KserveRoutes:
    """The group of routes.

    Args:
        agent: answers.
        version: of Outrider.
    """

    def __init__(self, *, agent: Agent, version: str) -> None:
        self._agent = agent
        self._version = version

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """The table: method, path, handler."""
        of_models = (("GET", "", self._model), ("GET", "/ready", self._model_ready), ("POST", "/infer", self._infer))
        return (
            ("GET", "/v2", _spoken(self._server)),
            ("GET", "/v2/health/live", _spoken(self._live)),
            ("GET", "/v2/health/ready", _spoken(self._ready)),
            *((method, base + path, _spoken(to)) for base in (_MODEL, _VERSION) for method, path, to in of_models),
        )

    async def _server(self, _: web.Request) -> web.StreamResponse:
        return json_reply(ServerView(name="outrider", version=self._version, extensions=EXTENSIONS))

    async def _live(self, _: web.Request) -> web.StreamResponse:
        return json_reply(LiveReply(live=True))

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        ready = not self._agent.stopping
        return json_reply(ReadyReply(ready=ready), 200 if ready else 503)

    async def _model(self, request: web.Request) -> web.StreamResponse:
        return json_reply(model_view(self._named(request)))

    async def _model_ready(self, request: web.Request) -> web.StreamResponse:
        name, ready = self._named(request).task.name, not self._agent.stopping
        return json_reply(ModelReady(name=name, ready=ready), 200 if ready else 503)

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["model"]
        try:
            runtime = self._named(request)
            asked, tensors = read_request(await read_body(request), request.headers.get(HEADER))
            wanted, batch = _wanted(asked), parts_of(runtime.task, tensors)
            within_ms = deadline_ms(asked.parameters)
        except CallerError as error:
            raise self._agent.refused(name, error) from error
        reports = await self._answers(name, batch, asked.parameters, within_ms)
        outputs = {output.name: output for output in outputs_of(runtime.task, reports)}
        body, head = write_reply(
            InferReply(model_name=name, model_version=reports[0].model, id=asked.id, outputs=[]),
            [outputs[output] for output in wanted],
            list(wanted.values()),
        )
        if head is None:
            return web.Response(body=body, content_type="application/json")
        return web.Response(body=body, content_type="application/octet-stream", headers={HEADER: str(head)})

    async def _answers(
        self, task: str, batch: Sequence[Parts], wishes: InferParameters, within_ms: int | None
    ) -> list[AnswerReport]:
        """The report of each; when one errs, the others are answered and counted all the same, and its error is the reply."""
        asked = (
            self._agent.submit(
                task,
                parts,
                wait=wishes.wait == "final",
                answer_within_ms=within_ms,
                group=wishes.group,
                insist=wishes.insist,
            )
            for parts in batch
        )
        reports: list[AnswerReport] = []
        for told in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(told, BaseException):
                raise told
            reports.append(told)
        return reports

    def _named(self, request: web.Request) -> TaskRuntime:
        """What the path names.

        Raises:
            CallerUnknownError: no such task, or another version of its model is in use.
        """
        name, version = request.match_info["model"], request.match_info.get("version")
        if (runtime := self._agent.runtimes.get(name)) is None:
            raise unknown_task(name, self._agent.runtimes)
        current = runtime.model.manifest.version
        if version not in (None, current):
            raise CallerUnknownError(
                f"task {name!r} is answered by version {current!r}, not by {version[:64]!r}",
                reason="unknown_version",
                fix="leave the version out: which model answers is the updater's choice",
            )
        return runtime


def _wanted(asked: InferRequest) -> dict[str, bool]:
    """The outputs to give, in their order, and whether each is to be binary.

    Raises:
        CallerInputError: there is no such output.
    """
    binary = asked.parameters.binary_data_output
    if not asked.outputs:
        return dict.fromkeys(OUTPUTS, binary)
    for output in asked.outputs:
        if output.name not in OUTPUTS:
            raise CallerInputError(
                f"no output is called {output.name[:64]!r}",
                reason="unknown_output",
                fix=f"ask for some of: {', '.join(OUTPUTS)}",
            )
    return {
        output.name: binary if output.parameters.binary_data is None else output.parameters.binary_data
        for output in asked.outputs
    }


def _spoken(handler: Handler) -> Handler:
    """The same, with errors as this protocol's clients read them: ``{"error": "a sentence"}``."""

    async def speak(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except OutriderError as error:
            return json_reply(ErrorText(error=str(error), reason=error.reason), status_of(error))

    return speak
