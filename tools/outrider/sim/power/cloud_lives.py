"""What the cloud does while the power may go: it claims escalations, keeps their payload, settles them. The real store."""

import hashlib
from functools import partial
from pathlib import Path

from outrider.sim.power.promises import Broken, Say, told
from outrider_cloud.lease_clock import lease
from outrider_cloud.store import inputs
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.store import Store
from outrider_link.files import make_folder
from outrider_wire.errors import OutriderError

TASK, DEVICE, WORKER = "easy-vqa", "cam-1", "one"
_FAR_MS = 4_000_000_000_000


async def answer(folder: Path, say: Say) -> None:
    """Claims with payload, their answers, an answer in one commit with its claim, and one that comes too late."""
    store = _store(folder)
    store.open()
    make_folder(folder / "blobs")
    blobs = BlobStore(root=folder / "blobs")
    try:
        for number in (1, 2):
            payload = b"%d" % number * 70_000
            say("kept", blobs.put(payload), str(len(payload)))
            await store.write(partial(inputs.start, wanted=_claim(number)))
            say("received", str(number))
        for number in (1, 2):
            await store.write(partial(inputs.settle, end=_end(number, b"right")))
            say("answered", str(number))
        await store.write(partial(inputs.record, lives=[(_claim(3), _end(3, b"right"))]))
        say("received", "3")
        say("answered", "3")
        await store.write(partial(inputs.settle, end=_end(3, b"too late")))
        await store.write(partial(inputs.mark_sent, keys=[(DEVICE, "1")]))
    finally:
        store.close()


def check_store(folder: Path, said: list[str]) -> list[Broken]:
    """What had its receipt is claimed or answered, what was answered has that very answer, and the account adds up."""
    store = _store(folder)
    try:
        store.open()
    except OutriderError as error:
        return [Broken(f"the store does not open: {error}")] if said else []
    try:
        return _store_faults(store, BlobStore(root=folder / "blobs"), said)
    finally:
        store.close()


def _store_faults(store: Store, blobs: BlobStore, said: list[str]) -> list[Broken]:
    broken = []
    for sha256, size in told(said, "kept"):
        data = blobs.read(sha256)
        if data is None or len(data) != int(size) or hashlib.sha256(data).hexdigest() != sha256:
            broken.append(Broken(f"payload {sha256[:12]} is {'gone' if data is None else 'damaged'}"))
    answered = {number for (number,) in told(said, "answered")}
    for (number,) in told(said, "received"):
        found = store.run(partial(inputs.find, device=DEVICE, input_id=number))
        if found is None:
            broken.append(Broken(f"{number} had its receipt and is not there"))
        elif number in answered and found.reply != b"right":
            broken.append(Broken(f"{number} was answered, and its answer is {found.reply!r}"))
    account = inputs.total(store.run(inputs.accounts))
    if not account.adds_up or account.received > 3:
        broken.append(Broken(f"the account does not add up: {account}", lost=False))
    return broken


def _store(folder: Path) -> Store:
    return Store(url=f"sqlite:///{folder / 'cloud.db'}")


def _claim(number: int) -> inputs.Claim:
    return inputs.Claim(
        device=DEVICE,
        id=str(number),
        task=TASK,
        worker=WORKER,
        lease=lease(60.0),
        received_ms=1,
        answer_by_ms=_FAR_MS,
        keep_until_ms=_FAR_MS,
        content_type="application/msgpack",
        correlation=None,
        request=b"request",
    )


def _end(number: int, reply: bytes) -> inputs.Settlement:
    return inputs.Settlement(device=DEVICE, id=str(number), task=TASK, state="answered", reply=reply, settled_ms=2)
