"""What every test may ask for: a broker of each kind. And what a run says at its end: what it could not test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from absent import lines_of
from mosquitto import AnyBroker, Mosquitto

from outrider.processes import any_port
from outrider_link.broker import EmbeddedBroker


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "both_brokers: runs on mosquitto in `make test` too; without it, only in `make test-all`"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that uses a broker of unnamed kind runs on both; on mosquitto it is slow, unless it is marked."""
    if "broker_kind" not in metafunc.fixturenames:
        return
    marks = [] if metafunc.definition.get_closest_marker("both_brokers") else [pytest.mark.slow]
    params = [pytest.param("embedded"), pytest.param("mosquitto", marks=marks)]
    metafunc.parametrize("broker_kind", params, scope="module", indirect=True)


@pytest.fixture(scope="module")
def broker_kind(request: pytest.FixtureRequest) -> str:
    """Which broker this run of the test is on: ``embedded`` or ``mosquitto``."""
    return str(request.param)


@pytest.fixture(scope="module")
def broker(broker_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyBroker]:
    """A real broker for the tests of one file; they keep out of each other's way by topic."""
    with make_broker(broker_kind, tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def own_broker(broker_kind: str, tmp_path: Path) -> Iterator[AnyBroker]:
    """One that the test alone uses, and may stop, kill and start."""
    with make_broker(broker_kind, tmp_path / "broker") as running:
        yield running


def make_broker(kind: str, folder: Path) -> AnyBroker:
    """One of that kind, not started yet."""
    return EmbeddedBroker(port=any_port()) if kind == "embedded" else Mosquitto(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in lines_of(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line, red=True, bold=True)


_SLOW_S = 900.0
"""So long any slow test may take, whatever it says itself: minutes alone, and many beside other work. A limit is for what hangs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        own = item.get_closest_marker("timeout")
        if item.get_closest_marker("slow") and (own is None or own.args[0] < _SLOW_S):
            item.add_marker(pytest.mark.timeout(_SLOW_S), append=False)
