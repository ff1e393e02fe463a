"""The configuration files that ship are valid as they stand."""

from pathlib import Path

import pytest

from outrider_cloud.config import load_cloud_config
from outrider_edge.config import load_edge_config

FOLDER = Path(__file__).parents[2] / "firmware_configs"


@pytest.mark.parametrize(("name", "load"), [("edge.toml", load_edge_config), ("cloud.toml", load_cloud_config)])
def test_a_configuration_file_that_ships_is_valid(name: str, load: object) -> None:
    assert callable(load)
    assert load(FOLDER / name, {}).tasks
