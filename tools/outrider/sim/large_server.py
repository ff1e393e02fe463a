"""A large model as an OpenAI-compatible server that knows the right answers, keeps a book of every call, and fails when told to.

It outlives the processes that ask it, so that its book says what was really paid for.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any, Literal

from aiohttp import web

from outrider.sim.records import Bill
from outrider_cloud.large.prompts import CODES

MODEL = "simulated"
Manner = Literal["well", "slow", "garbage", "limited", "down"]
_INPUT = re.compile(r"sim input (\d+):")
_SLOW_S = 600.0


class LargeServer:
    """Starts on the event loop that calls `start`; ``url`` is its address.

    Args:
        labels: of the task.
    """

    def __init__(self, *, labels: Sequence[str]) -> None:
        self.url = ""
        self.manner: Manner = "well"
        self.bills: list[Bill] = []
        self._labels = labels
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens on a free port."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        """Lets the port go."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "owned_by": "simulation"}]})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.text()
        match self.manner:
            case "slow":
                await asyncio.sleep(_SLOW_S)
            case "garbage":
                return web.Response(body=b'{"choices": [{"mess\xff', content_type="application/json")
            case "limited":
                return web.json_response({"error": "rate limit"}, status=429, headers={"Retry-After": "1"})
            case "down":
                return web.json_response({"error": "overloaded"}, status=503)
            case "well":
                pass
        found = _INPUT.search(body)
        if found is None:
            return web.json_response({"error": "no input of this simulation"}, status=400)
        number = int(found[1])
        self.bills.append(Bill(number=number, at_s=time.monotonic()))
        return web.json_response(_completion(CODES[number % len(self._labels)]))


def _completion(code: str) -> dict[str, Any]:
    place = {"token": code, "logprob": -0.01, "top_logprobs": [{"token": code, "logprob": -0.01}]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "finish_reason": "length",
                "message": {"role": "assistant", "content": code},
                "logprobs": {"content": [place]},
            }
        ],
        "usage": {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41},
    }
