"""Whatever bytes a source sends, a device refuses or believes: nothing else happens, and what it had stays."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trust_world import TASK, Remembered, Site, a_plan

from outrider_trust.client import TrustedMetadata
from outrider_wire.errors import OutriderError, TrustError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
ROLES = ("timestamp", "snapshot", "targets", TASK)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Remembered, str]:
    site = Site(tmp_path_factory.mktemp("hostile") / "repository")
    release = site.release(1)
    site.plan(a_plan(release))
    return site, Remembered.of(site.repository), release.release


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    base, count = tmp_path_factory.mktemp("devices"), iter(range(1_000_000))
    yield lambda: base / str(next(count))


def look(device: TrustedMetadata, source: Remembered, digest: str) -> None:
    """All that a device asks for; only our errors come out."""
    try:
        device.refresh(source)
        device.release(TASK, digest, source)
        device.plan(TASK, "r1", source)
    except OutriderError as error:
        assert isinstance(error, TrustError), error
        assert error.reason and error.what


def name_of(site: Site, role: str) -> str:
    version = site.repository.version(role)
    return "metadata/timestamp.json" if role == "timestamp" else f"metadata/{version}.{role}.json"


@given(
    st.data(), st.sampled_from(("root", *ROLES)), st.binary(max_size=300) | JSON.map(lambda v: json.dumps(v).encode())
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_in_the_place_of_a_file(
    served: tuple[Site, Remembered, str], folders: Any, data: st.DataObject, role: str, said: bytes
) -> None:
    site, true, digest = served
    source = Remembered(true.files)
    source.files["metadata/2.root.json" if role == "root" else name_of(site, role)] = said
    look(site.device(folders()), source, digest)


@given(st.sampled_from(ROLES), st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_file_that_is_signed_by_the_right_key_and_says_nonsense(
    served: tuple[Site, Remembered, str], folders: Any, role: str, data: st.DataObject
) -> None:
    """The worst case: a stolen key signs whatever it likes. The signature holds, and the rest is hostile."""
    from securesystemslib.formats import encode_canonical

    site, true, digest = served
    source, name = Remembered(true.files), name_of(site, role)
    said = json.loads(true.files[name])
    signed = said["signed"]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(places(signed))
        where: Any = signed
        for step in place[:-1]:
            where = where[step]
        where[place[-1]] = data.draw(JSON)
    signer = site.tasks[TASK] if role == TASK else getattr(site, role)
    try:
        message = encode_canonical(signed).encode()
    except Exception:  # noqa: BLE001 - nobody could sign it
        return
    said["signatures"] = [{"keyid": signer.public_key.keyid, "sig": signer.sign(message).signature}]
    source.files[name] = json.dumps(said).encode()
    folder = folders()
    look(site.device(folder), source, digest)
    look(site.device(folder), true, digest)


@st.composite
def places(draw: Any, value: Any) -> list[Any]:
    """A path to some place in a JSON value."""
    path: list[Any] = []
    while isinstance(value, dict | list) and value:
        step = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        path.append(step)
        value = value[step]
        if draw(st.booleans()):
            break
    return path


@pytest.mark.parametrize("depth", [500, 100_000])
def test_what_is_nested_without_end_is_refused(served: tuple[Site, Remembered, str], folders: Any, depth: int) -> None:
    site, true, digest = served
    source = Remembered(true.files)
    source.files["metadata/timestamp.json"] = (b"[" * depth)[:16_000]
    with pytest.raises(TrustError):
        site.device(folders()).refresh(source)
    look(site.device(folders()), source, digest)


def test_a_device_keeps_nothing_of_what_it_refused(served: tuple[Site, Remembered, str], tmp_path: Path) -> None:
    site, true, digest = served
    source = Remembered(true.files)
    source.files[name_of(site, "snapshot")] = b"{}"
    device = site.device(tmp_path / "device")
    with pytest.raises(TrustError):
        device.refresh(source)
    assert not (tmp_path / "device" / "snapshot.json").exists()
    device.refresh(true)
    assert device.release(TASK, digest, true)
