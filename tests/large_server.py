"""A real HTTP server that speaks the chat API, well or badly: a list of manners, one a request, the last one for ever."""

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

from aiohttp import web

from outrider_wire.task import AnswerSpace, InputPart, Prompt, Task

TASK = Task(
    name="topics",
    inputs=[InputPart(name="text", modality="text")],
    answer=AnswerSpace(labels=["sport", "science", "politics"]),
    prompt=Prompt(text="What is this text about?"),
)
MODEL = "tiny/instruct"

Manner = Callable[["ChatServer", web.Request, Mapping[str, Any]], Any]


def tokens(**masses: float) -> list[dict[str, Any]]:
    """Alternatives with these probabilities."""
    return [{"token": token, "logprob": math.log(mass)} for token, mass in masses.items()]


def completion(alternatives: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """A completion as servers give it."""
    usual = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "finish_reason": "length",
                "message": {"role": "assistant", "content": "B"},
                "logprobs": {"content": [{"token": "B", "logprob": -0.1, "top_logprobs": alternatives}]},
            }
        ],
        "usage": {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41},
    }
    return usual | fields


def says(**masses: float) -> Manner:
    """Answers with these probabilities."""
    return lambda _server, _request, _body: web.json_response(completion(tokens(**masses)))


def prose(_server: "ChatServer", _request: web.Request, _body: Mapping[str, Any]) -> web.Response:
    """Begins a sentence: its likeliest tokens are words."""
    words = tokens(The=0.6, This=0.2, Sure=0.1, B=0.04, C=0.01)
    return web.json_response(completion(words))


def status(code: int, **headers: str) -> Manner:
    """Fails with that status."""
    return lambda _server, _request, _body: web.json_response({"error": "no"}, status=code, headers=headers)


def raw(body: bytes) -> Manner:
    """These very bytes, as JSON."""
    return lambda _server, _request, _body: web.Response(body=body, content_type="application/json")


async def half(_server: "ChatServer", request: web.Request, _body: Mapping[str, Any]) -> web.StreamResponse:
    """Promises a body and cuts the connection in the middle of it."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "4000"})
    await response.prepare(request)
    await response.write(json.dumps(completion(tokens(B=0.9))).encode()[:100])
    assert request.transport is not None
    request.transport.close()
    return response


async def silence(server: "ChatServer", _request: web.Request, _body: Mapping[str, Any]) -> web.Response:
    """Takes the request and says nothing."""
    await server.closing.wait()
    return web.Response(status=503)


async def flood(_server: "ChatServer", request: web.Request, _body: Mapping[str, Any]) -> web.StreamResponse:
    """A body without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while request.transport is not None and not request.transport.is_closing():
        await response.write(b" " * 65_536)
    return response


class ChatServer:
    """``async with ChatServer([manner, …]) as server``: listens on a free port."""

    def __init__(self, manners: list[Manner], *, key: str = "", models: Any = None) -> None:
        self.manners = manners
        self.key = key
        self.models = (
            {"object": "list", "data": [{"id": MODEL, "created": 1, "owned_by": "us"}]} if models is None else models
        )
        self.bodies: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.closing = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closing.set()
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response(self.models) if self._known(request) else web.Response(status=401)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if not self._known(request):
            return web.Response(status=401)
        self.bodies.append(await request.json())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        manner = self.manners.pop(0) if len(self.manners) > 1 else self.manners[0]
        try:
            response = manner(self, request, self.bodies[-1])
            answered: web.StreamResponse = await response if asyncio.iscoroutine(response) else response
            return answered
        finally:
            self.at_once -= 1

    def _known(self, request: web.Request) -> bool:
        return not self.key or request.headers.get("Authorization") == f"Bearer {self.key}"
