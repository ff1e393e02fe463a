"""A repository with real keys, and the folder of a device that is to believe it."""

from pathlib import Path

import pytest
from trust_world import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "repository")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "device"
