"""An input's life as the store keeps it, for the tests of the store."""

from functools import partial
from typing import Any

from msgspec.structs import replace

from outrider_cloud.lease_clock import Lease
from outrider_cloud.store.examples import NewExample
from outrider_cloud.store.inputs import Claim, Life, Settlement
from outrider_cloud.store.store import Store

CLAIM = Claim(
    device="cam",
    id="1",
    task="t",
    worker="one",
    lease=Lease("boot", 1000, 2000),
    received_ms=1000,
    answer_by_ms=1500,
    keep_until_ms=9000,
    content_type="application/msgpack",
    correlation=b"c",
    request=b"request",
)
ANSWER = Settlement(device="cam", id="1", task="t", state="answered", reply=b"first", settled_ms=1200)


def do(store: Store, change: Any, **arguments: Any) -> Any:
    """What a change of that store comes to, once it is durable."""
    return store.submit(partial(change, **arguments)).result(10)


def life(id_: str, reply: bytes = b"reply", *, device: str = "cam") -> Life:
    """One that is claimed and answered at once, with an example of it."""
    example = NewExample(
        task="t",
        group=id_,
        role="train",
        source="escalation",
        device=device,
        input=id_,
        parts={"image": f"digest of {id_}"},
        payloads={f"digest of {id_}": b"pixels"},
        created_ms=1000,
    )
    end = replace(ANSWER, id=id_, device=device, reply=reply, example=example)
    return replace(CLAIM, id=id_, device=device), end
