"""Releases for the cloud's tests: a bundle with any file in it, put, released and assigned over the API."""

import hashlib
from pathlib import Path

import msgspec
from cloud_device import Device
from cloud_service import eventually, get, request, the_task

from factory import file_entry, make_bundle, write_bundle
from outrider_cloud.service import CloudService
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest


async def offered(service: CloudService, device: Device, folder: Path, data: bytes) -> bytes:
    """Assigns a release that holds ``data`` as one of its files to the device; the data."""
    bundle = make_bundle(folder / f"bundle-{hashlib.sha256(data).hexdigest()[:8]}", the_task(folder))
    manifest = decode_manifest((bundle / MANIFEST_FILE).read_bytes())
    files = [*manifest.files, file_entry("extra.bin", data, "other")]
    write_bundle(bundle, msgspec.structs.replace(manifest, files=files), {"extra.bin": data})
    for file in bundle.iterdir():
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        assert (await request(service, "PUT", f"/v1/blobs/{digest}", data=content))[0] == 201
    await device.appear()

    async def is_known() -> bool:
        said = (await get(service, "/v1/devices"))[1]["devices"]
        return any(row["device"] == device.name and row["online"] for row in said)

    await eventually(is_known)
    digest = hashlib.sha256((bundle / MANIFEST_FILE).read_bytes()).hexdigest()
    assert (await request(service, "POST", "/v1/releases", body={"manifest": digest}))[0] == 201
    assert (await request(service, "POST", f"/v1/releases/{digest}/assign", body={"devices": [device.name]}))[0] == 200
    return data
