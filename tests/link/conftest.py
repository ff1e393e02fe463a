from collections.abc import Iterator

import pytest

from outrider_link.broker import EmbeddedBroker


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    """A real broker for the tests of one file; they keep out of each other's way by topic."""
    with EmbeddedBroker() as running:
        yield running
