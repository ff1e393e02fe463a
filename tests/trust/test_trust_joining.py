"""A device that joins a cloud which signs releases is given the root, and its configuration names it; then nothing unsigned counts."""

import asyncio
from pathlib import Path

import pytest
from cloud_service import HeldModel, make_service, ready
from secured import SecuredBroker, as_operator, secure
from trust_cloud import cloud_config, engineer

from factory import make_bundle, make_task
from outrider_edge.config import load_edge_config
from outrider_edge.joining.join import join, write_settings
from outrider_trust.client import TrustedMetadata
from outrider_trust.sources import DirectorySource
from outrider_wire.joining import parse_join_line

pytestmark = pytest.mark.broker


async def test_joining_brings_the_root_of_trust(tmp_path: Path) -> None:
    place = await asyncio.to_thread(engineer, tmp_path / "cloud")
    with SecuredBroker(tmp_path / "site") as broker:
        config = secure(cloud_config(tmp_path / "cloud", broker.url, place), broker)
        async with make_service(config, HeldModel()) as service:
            await ready(service)
            _, said = await as_operator(service, "POST", "/v1/invitations", {})
            line, folder = parse_join_line(said["line"]), tmp_path / "device" / "outrider-edge" / "identity"
            joined = await asyncio.to_thread(join, line, device="cam-1", folder=folder, wait_s=0, tell=lambda _: None)
    edge = tmp_path / "device" / "edge.toml"
    make_bundle(tmp_path / "device" / "bundle", make_task())
    edge.write_text('[[tasks]]\nfile = "task.toml"\nbundle = "bundle"\n')
    write_settings(joined, line, edge)
    root = Path(load_edge_config(edge).updates.root)
    assert root == folder / "root.json"
    device = TrustedMetadata(tmp_path / "kept", shipped_root=root.read_bytes())  # noqa: ASYNC240 (a small file of a test)
    assert device.refresh(DirectorySource(tmp_path / "cloud" / "repository")).root == 1
