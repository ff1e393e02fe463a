"""The auditor sees what it is there to see: four books that agree, and each way in which they may not."""

from collections.abc import Callable

import pytest

from outrider.sim.audit import Books, CloudBook, DeviceBook, Verdict, audit
from outrider.sim.records import Asked, Bill
from outrider_wire.report import Account

LABELS = ["red", "green", "blue"]


def books() -> Books:
    """Input 1 is answered, 2 has expired, 3 was answered on the device, 4 is in doubt and was answered all the same."""
    asked = [
        Asked(number=1, device="cam", id="one", told=[("pending", "red"), ("cloud", "green")]),
        Asked(number=2, device="cam", id="two", told=[("pending", "red"), ("expired", "red")]),
        Asked(number=3, device="cam", id="three", told=[("edge", "red")]),
        Asked(number=4, device="cam"),
    ]
    account = Account(received=4, cloud=2, expired=1, edge=1)
    device = DeviceBook(rows={"one": "cloud", "two": "expired", "four": "cloud"}, account=account, tally=account)
    cloud = CloudBook(
        rows={("cam", "one"): "answered", ("cam", "four"): "answered"}, account=Account(received=2, cloud=2)
    )
    bills = [Bill(1, 10.0), Bill(4, 11.0), Bill(4, 13.0)]
    return Books(asked=asked, devices={"cam": device}, cloud=cloud, bills=bills, outages=[(12.0, 12.5)])


def of_device(found: Books, **changes: object) -> Books:
    """The same with another book of the device."""
    fields = {name: getattr(found.devices["cam"], name) for name in ("rows", "account", "tally")} | changes
    return remade(found, devices={"cam": DeviceBook(**fields)})


def remade(found: Books, **changes: object) -> Books:
    fields = {name: getattr(found, name) for name in ("asked", "devices", "cloud", "bills", "outages")} | changes
    return Books(**fields)


def forgotten(found: Books) -> Books:
    rows = {id_: state for id_, state in found.devices["cam"].rows.items() if id_ != "one"}
    return of_device(found, rows=rows, tally=Account(received=3, cloud=1, expired=1))


def never_ended(found: Books) -> Books:
    found.asked[1].told.pop()
    return of_device(found, rows={**found.devices["cam"].rows, "two": "pending"})


def of_another(found: Books) -> Books:
    found.asked[0].told[-1] = ("cloud", "blue")
    return found


def ended_twice(found: Books) -> Books:
    found.asked[1].told.append(("cloud", "blue"))
    return found


def counted_twice(found: Books) -> Books:
    return of_device(found, tally=Account(received=5, cloud=3, expired=1))


def never_asked(found: Books) -> Books:
    return of_device(found, rows={**found.devices["cam"].rows, "five": "cloud", "six": "cloud"})


def account_broken(found: Books) -> Books:
    return of_device(found, account=Account(received=5, cloud=2, expired=1, edge=1))


def forgotten_by_the_cloud(found: Books) -> Books:
    return remade(found, cloud=CloudBook(rows={("cam", "four"): "answered"}, account=Account(received=1, cloud=1)))


def cloud_account_broken(found: Books) -> Books:
    return remade(found, cloud=CloudBook(rows=found.cloud.rows, account=Account(received=2, cloud=1)))


def paid_twice(found: Books) -> Books:
    return remade(found, outages=[])


LOST = [forgotten, never_ended, of_another, account_broken, forgotten_by_the_cloud, cloud_account_broken]
DUPLICATED = [ended_twice, counted_twice, never_asked, paid_twice]


def judged(found: Books) -> Verdict:
    return audit(found, LABELS)


def test_books_that_agree_have_nothing_lost_and_nothing_twice() -> None:
    found = judged(books())
    assert (found.lost, found.duplicated) == ([], [])
    assert (found.accepted, found.answered, found.expired, found.in_doubt) == (3, 2, 1, 1)


@pytest.mark.parametrize("spoil", LOST, ids=lambda spoil: spoil.__name__)
def test_what_is_lost_is_seen(spoil: Callable[[Books], Books]) -> None:
    assert judged(spoil(books())).lost


@pytest.mark.parametrize("spoil", DUPLICATED, ids=lambda spoil: spoil.__name__)
def test_what_comes_twice_is_seen(spoil: Callable[[Books], Books]) -> None:
    assert judged(spoil(books())).duplicated
