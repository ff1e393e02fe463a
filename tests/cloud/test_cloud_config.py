"""``cloud.toml``: what it may not say, and the sentence that it gets."""

from pathlib import Path

import pytest
from cloud_service import write_config

from outrider_cloud.config import TaskSettings, load_cloud_config, read_tasks
from outrider_cloud.large.table import LOADERS, load_large
from outrider_cloud.roles_key import roles_key
from outrider_cloud.worker_name import default_name
from outrider_link.settings import is_loopback
from outrider_wire.errors import OperatorConfigError


def refused(path: Path) -> OperatorConfigError:
    with pytest.raises(OperatorConfigError) as caught:
        read_tasks(load_cloud_config(path))
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "reason", "says"),
    [
        ("strategy =", "stratgy =", "unknown_key", "strategy"),
        ('"shunt"', '"guess"', "invalid_value", "cloud-one.toml:"),
        ("port = 0", 'port = 0\nhost = "0.0.0.0"', "open_without_token", "token_file"),
        ("zero:echo", "gpt:9", "unknown_large_model", "onnx:DIR"),
        ("zero:echo", "onnx:", "unknown_large_model", "onnx:DIR"),
        ("zero:echo", "openai:http://h/v1", "unknown_large_model", "openai:URL#MODEL"),
        ("zero:echo", "openai:h/v1#m", "unknown_large_model", "openai:URL#MODEL"),
        ("zero:echo", "openai:https://user:s3cret@host/v1#m", "secret_in_address", "asking.api_key_env"),
        ("zero:echo", "openai:https://host/v1?key=s3cret#m", "secret_in_address", "asking.api_key_env"),
        ('"shunt"', '"hard-prune"', "keep_not_fitted", "check-model"),
        ('"shunt"', '"transfer"', "no_subtasks", "[[subtasks]]"),
        ('"shunt"', '"soft-prune"\nprune_in = "prompt"', "no_prompt", "leave prune_in out"),
        ('"shunt"', '"shunt"\nalpha = 1.0', "invalid_value", "alpha"),
        ('"shunt"', '"shunt"\nkeep = 0.0', "invalid_value", "keep"),
        ('"shunt"', '"shunt"\n[[tasks.grades]]\ntemprature = 2.0', "unknown_key", "temperature"),
        ('"shunt"', '"shunt"\n[[tasks.grades]]\ntemperature = 0.0', "invalid_value", "temperature"),
        ('"shunt"', '"shunt"\n[tasks.asking]\napi_key_env = "sk-1234"', "invalid_value", "api_key_env"),
        ('worker = "one"', 'worker = "One!"', "invalid_value", "a-z"),
        ('worker = "one"', 'worker = "releases"', "invalid_value", "releases"),
        ("[api]", '[store]\nurl = "postgresql://x"\n[api]', "unknown_store", "sqlite:///"),
        ("[api]", '[store]\nurl = "mysql://x/y"\n[api]', "unknown_store", "postgresql://"),
        ("[api]", '[store]\nurl = "postgresql://u:s3cret@x/y"\n[api]', "secret_in_address", "password_file"),
        ("[api]", '[store]\nurl = "postgresql://x/y?password=s3cret"\n[api]', "secret_in_address", "password_file"),
        ("task.toml", "nowhere.toml", "unreadable_file", "nowhere.toml"),
        ("[api]", "[api", "invalid_toml", "cloud-one.toml"),
        ("[api]", "[roles.shares]\ntrain = 0.9\n[api]", "invalid_value", "sum"),
    ],
)
def test_a_wrong_line_is_refused_with_the_way_out(tmp_path: Path, old: str, new: str, reason: str, says: str) -> None:
    path = write_config(tmp_path, "mqtt://127.0.0.1:1883")
    path.write_text(path.read_text().replace(old, new))
    error = refused(path)
    assert error.reason == reason and says in str(error) and error.fix
    assert "s3cret" not in str(error)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path, "mqtt://127.0.0.1:1883")
    path.write_text(path.read_text() + '[[tasks]]\nfile = "task.toml"\nlarge = "zero:echo"\n')
    assert refused(path).reason == "duplicate_task"


def test_paths_are_relative_to_the_file_and_overrides_win(tmp_path: Path) -> None:
    path = write_config(tmp_path, "mqtt://127.0.0.1:1883", large="onnx:expert")
    config = load_cloud_config(path, {"api": {"port": 7}, "data_dir": "/elsewhere"})
    assert config.tasks[0].large == f"onnx:{tmp_path / 'expert'}"
    assert config.tasks[0].file == str(tmp_path / "task.toml")
    assert (config.api.port, config.folder) == (7, Path("/elsewhere"))


def test_every_kind_of_large_model_that_passes_the_check_can_be_loaded(tmp_path: Path) -> None:
    assert set(LOADERS) == {"onnx", "transformers", "openai", "zero"}
    task = read_tasks(load_cloud_config(write_config(tmp_path, "mqtt://h")))["colours"][1]
    for says in ("uniform", "echo"):
        assert load_large(TaskSettings(file="", large=f"zero:{says}"), task).name == f"zero:{says}"


def test_the_key_of_the_roles_is_made_once(tmp_path: Path) -> None:
    config = load_cloud_config(write_config(tmp_path, "mqtt://h"))
    key = roles_key(config)
    assert len(key) == 64 and roles_key(config) == key
    assert (config.folder / "roles.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("host", "is_it"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("::", False), ("a.example", False)],
)
def test_only_loopback_is_taken_for_closed(host: str, is_it: bool) -> None:
    assert is_loopback(host) is is_it


def test_a_host_name_becomes_a_worker_name() -> None:
    assert default_name("Rack_7.Example.COM") == "rack-7-example-com"
    assert default_name("...") == "worker"
