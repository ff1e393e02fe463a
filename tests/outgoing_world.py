"""A device, a cloud and a spy around one real broker: what leaves the device is all that the spy has heard."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from cloud_service import ready
from PIL import Image

from factory import make_bundle
from outrider_cloud.config import load_cloud_config
from outrider_cloud.large.base import LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.service import CloudService
from outrider_edge.app import Serving, serving
from outrider_edge.config import load_edge_config
from outrider_link.session import Incoming, MqttSession
from outrider_wire.task import Task, parse_task
from outrider_wire.topics import DEFAULT_ROOT

TASK = """\
name = "colours"
[[inputs]]
name = "image"
modality = "image"
{image}
[[inputs]]
name = "question"
modality = "text"
[answer]
labels = ["red", "green", "blue"]
[policy]
answer_within_ms = 20000
audit_rate = {audits}
{task}
"""


def grainy(seed: int = 0, *, colour: Sequence[int] = (128, 128, 0), **saved: object) -> bytes:
    """A PNG between the first two labels (as `factory.unsure`) with grain, so that a JPEG of it is much smaller."""
    grain = np.random.default_rng(seed).normal(0, 10, (64, 64, 3))
    image = Image.fromarray((np.asarray(colour) + grain).clip(0, 255).astype(np.uint8))
    out = io.BytesIO()
    image.save(out, "PNG", **saved)
    return out.getvalue()


class Beholder:
    """Says blue, surely, unless ``unsure`` of the picture; remembers all it was shown."""

    name = "beholder@1"

    def __init__(self, unsure: Callable[[bytes], bool]) -> None:
        self.unsure = unsure
        self.shown: list[dict[str, bytes]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        """One reply a request."""
        self.shown += [dict(request.parts) for request in batch]
        await self.open.wait()
        return [
            LargeReply(probabilities=[0.4, 0.3, 0.3] if self.unsure(request.parts["image"]) else [0.01, 0.01, 0.98])
            for request in batch
        ]

    async def close(self) -> None:
        """Nothing to let go."""


class Spy:
    """Everything that anybody has said on the broker."""

    def __init__(self, url: str) -> None:
        self.heard: list[Incoming] = []
        self._session = MqttSession(
            url=url, client_id="spy", subscriptions=[f"{DEFAULT_ROOT}/#"], on_message=self._on_message
        )

    async def _on_message(self, message: Incoming) -> None:
        self.heard.append(message)

    def bytes_up(self, device: str = "cam-7") -> int:
        """Payload bytes that the device has published of inputs: escalations and blocks."""
        topics = (f"{DEFAULT_ROOT}/{device}/up/escalate/", f"{DEFAULT_ROOT}/{device}/up/blob/")
        return sum(len(message.payload) for message in self.heard if message.topic.startswith(topics))

    def said(self, kind: str, device: str = "cam-7") -> list[Incoming]:
        """What was said on one kind of topic, like ``up/escalate``."""
        return [message for message in self.heard if message.topic.startswith(f"{DEFAULT_ROOT}/{device}/{kind}")]

    def knows(self, mark: bytes) -> bool:
        """Whether those bytes stand in anything it heard, topics and properties included."""
        return any(mark in repr(message).encode() or mark in message.payload for message in self.heard)


class Around:
    """What a test needs at hand."""

    def __init__(self, *, served: Serving, service: CloudService, spy: Spy, model: Beholder, folder: Path) -> None:
        self.agent = served.agent
        self.address = served.addresses[0]
        self.service = service
        self.spy = spy
        self.model = model
        self.folder = folder

    @property
    def payload(self) -> list[Path]:
        """The files that the device still holds for the cloud."""
        return list((self.folder / "device" / "data" / "outbox" / "payload").iterdir())

    def stored(self, mark: bytes, where: str = "cloud") -> bool:
        """Whether those bytes stand in any file of the cloud's (or the device's) folder."""
        return any(mark in path.read_bytes() for path in (self.folder / where).rglob("*") if path.is_file())


def write(folder: Path, broker: str, *, image: str, task: str, audits: float, cloud: str, embedding: bool) -> Task:
    """Both sides' configurations and the device's bundle."""
    text = TASK.format(image=image, task=task, audits=audits)
    made = parse_task(text)
    for side in ("device", "cloud"):
        (folder / side).mkdir()
        (folder / side / "task.toml").write_text(text)
    make_bundle(folder / "device" / "bundle", made, embedding=embedding)
    (folder / "device" / "edge.toml").write_text(
        f'device = "cam-7"\ndata_dir = "data"\n[broker]\nurl = "{broker}"\n[api]\nport = 0\n'
        '[[tasks]]\nfile = "task.toml"\nbundle = "bundle"\n'
    )
    (folder / "cloud" / "cloud.toml").write_text(
        f'data_dir = "data"\nworker = "one"\n[broker]\nurl = "{broker}"\n[api]\nport = 0\n'
        f'[[tasks]]\nfile = "task.toml"\nlarge = "zero:echo"\nstrategy = "shunt"\n{cloud}'
    )
    return made


@asynccontextmanager
async def around(
    folder: Path,
    broker: str,
    *,
    image: str = "",
    task: str = "",
    audits: float = 0.0,
    cloud: str = "",
    embedding: bool = False,
    unsure: Callable[[bytes], bool] = lambda _: False,
) -> AsyncIterator[Around]:
    """A whole system. ``image`` and ``task`` go into the task file, under the part ``image`` and at the end."""
    write(folder, broker, image=image, task=task, audits=audits, cloud=cloud, embedding=embedding)
    model, spy = Beholder(unsure), Spy(broker)
    config = load_cloud_config(folder / "cloud" / "cloud.toml")
    async with spy._session, CloudService(config, load=lambda _settings, _task: model) as service:
        await spy._session.wait_connected(10)
        await ready(service)
        async with serving(load_edge_config(folder / "device" / "edge.toml")) as served:
            yield Around(served=served, service=service, spy=spy, model=model, folder=folder)
