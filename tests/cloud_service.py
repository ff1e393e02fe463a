"""A cloud for the cloud's tests: a configuration in a folder, a large model that a test holds by the hand, an HTTP client."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from outrider_cloud.config import load_cloud_config, read_task
from outrider_cloud.large.base import LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.service import CloudService
from outrider_wire.task import Task

TASK_TOML = """\
name = "{name}"
[[inputs]]
name = "image"
modality = "image"
max_bytes = 2_000_000
[[inputs]]
name = "question"
modality = "text"
max_bytes = 2_000
[answer]
labels = ["red", "green", "blue"]
[policy]
durability = "{durability}"
[privacy]
keep_examples = {keep}
"""


class HeldModel:
    """Answers with one sure label; holds every batch while ``closed``; fails on inputs whose question says so."""

    name = "held@1"

    def __init__(self, label: int = 1) -> None:
        self.label = label
        self.batches: list[int] = []
        self.questions: list[str] = []
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        self.batches.append(len(batch))
        self.questions += [request.parts["question"].decode() for request in batch]
        await self.open.wait()
        if any(request.parts["question"] == b"explode" for request in batch):
            raise RuntimeError("this model explodes")
        return [self._reply(request) for request in batch]

    async def close(self) -> None:
        pass

    def _reply(self, request: LargeRequest) -> LargeReply | LargeRefusal:
        if request.parts["question"] == b"refuse":
            return LargeRefusal(reason="undecodable_image", detail="the image does not decode")
        return LargeReply(probabilities=[0.9 if k == self.label else 0.05 for k in range(len(request.labels))])


def write_config(
    folder: Path,
    broker: str,
    *,
    large: str = "zero:echo",
    strategy: str = "shunt",
    worker: str = "one",
    name: str = "colours",
    durability: str = "disk",
    keep: bool = True,
    more: str = "",
) -> Path:
    """Writes ``cloud.toml`` and ``task.toml``; the path of the first. Two workers of one folder share its store."""
    folder.mkdir(exist_ok=True)
    (folder / "task.toml").write_text(TASK_TOML.format(name=name, durability=durability, keep=str(keep).lower()))
    path = folder / f"cloud-{worker}.toml"
    path.write_text(
        f'data_dir = "data"\nworker = "{worker}"\n{more}\n[broker]\nurl = "{broker}"\n[api]\nport = 0\n'
        f'[[tasks]]\nfile = "task.toml"\nlarge = "{large}"\nstrategy = "{strategy}"\n'
    )
    return path


def the_task(folder: Path) -> Task:
    """The task that `write_config` wrote."""
    return read_task(str(folder / "task.toml"))


def make_service(path: Path, model: HeldModel | None = None, **batch: Any) -> CloudService:
    """A service of that configuration, with ``model`` as every task's large one."""
    config = load_cloud_config(path, {"batch": batch} if batch else None)
    return CloudService(config, load=lambda _settings, _task: model) if model else CloudService(config)


async def eventually(true: Callable[[], Awaitable[bool]], within_s: float = 15) -> None:
    """Waits until an asynchronous condition holds."""
    async with asyncio.timeout(within_s):
        while not await true():  # noqa: ASYNC110 (what is waited for is another service's state)
            await asyncio.sleep(0.02)


async def ready(service: CloudService) -> None:
    """Waits until it takes escalations."""

    async def takes_them() -> bool:
        return not service.waiting_for()

    await eventually(takes_them)


async def get(service: CloudService, path: str, token: str = "") -> tuple[int, Any]:
    """Status and JSON body of a GET."""
    return await request(service, "GET", path, token=token)


async def request(
    service: CloudService, method: str, path: str, *, body: Any = None, data: bytes | None = None, token: str = ""
) -> tuple[int, Any]:
    """Status and JSON body of a request."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.request(method, service.url + path, json=body, data=data) as response,
    ):
        return response.status, await response.json() if method != "HEAD" else None


async def account(service: object) -> dict[str, int]:
    """The cloud's account, which must add up."""
    status, said = await get(service, "/v1/account")
    assert status == 200 and said["adds_up"]
    offers = said["offers"]
    assert offers["received"] == sum(n for name, n in offers.items() if name != "received")
    return said
