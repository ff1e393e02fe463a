"""``edge.toml``: what it may say, and how a mistake is told."""

from pathlib import Path

import pytest

from outrider_edge.config import DEFAULT_PORT, load_edge_config, read_task
from outrider_wire.errors import OperatorConfigError

SMALL = '[[tasks]]\nfile = "task.toml"\nbundle = "bundle"\n'
TASK = """
name = "colours"
[[inputs]]
name = "image"
modality = "image"
[answer]
labels = ["red", "green"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "edge.toml"
    path.write_text(text)
    return path


def test_one_task_is_enough_and_paths_are_of_the_files_folder(tmp_path: Path) -> None:
    config = load_edge_config(write(tmp_path, SMALL))
    assert config.tasks[0].bundle == str(tmp_path / "bundle")
    assert config.folder == tmp_path / "outrider-edge"
    assert (config.api.port, config.broker.url) == (DEFAULT_PORT, "")
    assert config.device


def test_overrides_win_over_the_file_and_leave_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, 'device = "cam-7"\n[api]\nport = 9000\nsocket = "s"\n' + SMALL)
    config = load_edge_config(path, {"api": {"port": 0}, "device": "cam-8"})
    assert (config.device, config.api.port, config.api.socket) == ("cam-8", 0, str(tmp_path / "s"))


def test_no_file_is_needed_when_the_command_line_says_all(tmp_path: Path) -> None:
    config = load_edge_config(None, {"tasks": [{"file": str(tmp_path / "t"), "bundle": str(tmp_path)}]})
    assert config.tasks[0].file == str(tmp_path / "t")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[api]\nprot = 1\n" + SMALL, "did you mean 'port'"),
        ('[broker]\nurl = "http://x"\n' + SMALL, "mqtt://host:1883"),
        ('[api]\nhost = "0.0.0.0"\n' + SMALL, "api.host"),
        ('device = "Cam 7"\n' + SMALL, "cannot stand in a topic"),
        ("[outbox]\nmax_count = 0\n" + SMALL, "edge.toml:2"),
        ("tasks = []\n", "edge.toml"),
        ("[[tasks]\n", "not valid TOML"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_the_way_out(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        load_edge_config(write(tmp_path, text))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://cloud.example:8780",
        "https://user:secret@cloud.example",
        "https://c.example?token=secret",
        "ftp://c",
        "https://",
    ],
)
def test_a_clouds_address_is_protected_and_holds_no_secret(tmp_path: Path, url: str) -> None:
    with pytest.raises(OperatorConfigError, match=r"cloud\.url") as caught:
        load_edge_config(write(tmp_path, f'[cloud]\nurl = "{url}"\n' + SMALL))
    assert "secret" not in str(caught.value)


def test_the_clouds_certificate_files_are_the_brokers_unless_named(tmp_path: Path) -> None:
    text = (
        '[broker]\nca_file = "ca"\ncert_file = "cert"\nkey_file = "key"\n'
        '[cloud]\nurl = "https://cloud.example:8780"\nca_file = "other"\n'
    )
    config = load_edge_config(write(tmp_path, text + SMALL))
    files = config.cloud.tls(config.broker)
    assert (files.ca_file, files.cert_file, files.key_file) == tuple(
        tmp_path / name for name in ("other", "cert", "key")
    )
    assert load_edge_config(write(tmp_path, '[cloud]\nurl = "http://127.0.0.1:1"\n' + SMALL)).cloud.url


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError, match=r"edge\.toml cannot be read"):
        load_edge_config(tmp_path / "edge.toml")


def test_the_mode_of_the_configuration_wins_over_the_tasks(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(TASK)
    config = load_edge_config(write(tmp_path, SMALL + 'mode = "shadow"\n'))
    assert read_task(config.tasks[0]).policy.mode == "shadow"
    assert read_task(load_edge_config(write(tmp_path, SMALL)).tasks[0]).policy.mode == "live"
