"""A secured broker for a whole file of tests, and the real cloud of its site."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cloud_service import HeldModel, make_service, ready, write_config
from secured import SecuredBroker, secure

from outrider_cloud.service import CloudService


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """mosquitto, empty of devices when a file's first test begins."""
    with SecuredBroker(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def cloud_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cloud of a file keeps its task and its store."""
    return tmp_path_factory.mktemp("cloud")


@pytest.fixture
async def cloud(broker: SecuredBroker, cloud_folder: Path) -> AsyncIterator[CloudService]:
    """The real cloud of the site, ready."""
    path = secure(write_config(cloud_folder, broker.url), broker)
    async with make_service(path, HeldModel()) as service:
        await ready(service)
        yield service
