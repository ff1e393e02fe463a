"""What the AsyncAPI document says of a device, and what Outrider's own device does."""

import inspect
from pathlib import Path

from outrider_edge.outbox.outbox import Outbox
from outrider_edge.ports import TaskFigures
from outrider_edge.uplink.offers import MAX_TIMER_S, OfferBook
from outrider_edge.uplink.uplink import BrokerAccess, Uplink
from outrider_wire import asyncapi_rules
from outrider_wire.asyncapi import document


class NoFigures:
    def figures(self) -> list[TaskFigures]:
        return []


def test_the_device_subscribes_to_what_the_document_says(tmp_path: Path) -> None:
    uplink = Uplink(
        device="cam-1", access=BrokerAccess(url="mqtt://nowhere"), outbox=Outbox(folder=tmp_path), figures=NoFigures()
    )
    said = {
        each.replace("{device}", "cam-1")
        for name, operation in document()["operations"].items()
        if name.startswith("device-receives-")
        for each in operation["x-subscriptions"]
    }
    assert said == set(uplink.subscriptions)


def test_the_device_offers_again_when_the_document_says() -> None:
    defaults = {name: each.default for name, each in inspect.signature(OfferBook).parameters.items()}
    assert defaults["receipt_timer_s"] == asyncapi_rules.RECEIPT_TIMER_S
    assert defaults["ask_again_s"] == asyncapi_rules.ASK_AGAIN_S
    assert MAX_TIMER_S == asyncapi_rules.MAX_TIMER_S
