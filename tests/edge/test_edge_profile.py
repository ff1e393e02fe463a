"""``[runtime] profile``: found by name or file, below whatever ``edge.toml`` says itself; and what it promises is looked for."""

import logging
import platform
from pathlib import Path

import pytest

from outrider_edge.config import EdgeConfig, RuntimeSettings, load_edge_config
from outrider_edge.profile import FOLDER, known, load_profile
from outrider_edge.running import providers_of
from outrider_engine.providers import INSTALL, usable
from outrider_wire.errors import OperatorConfigError, OperatorSetupError

REPOSITORY = Path(__file__).parents[2]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TASKS = '[[tasks]]\nfile = "task.toml"\nbundle = "bundle"\n'
OWN = f'''
name = "own"
[hardware]
arch = "{platform.machine()}"
[runtime]
providers = ["{CUDA}", "{CPU}"]
threads = 3
precisions = ["fp16", "int8"]
[limits]
outbox_mb = 7
models_mb = 20
cache_mb = 9
[thermal]
enabled = true
throttle_c = 80.0
[storage]
data_dir = "/srv/outrider"
cache_dir = "/srv/cache"
'''


def load(folder: Path, text: str, profile: str = OWN, **overrides: object) -> EdgeConfig:
    (folder / "own.toml").write_text(profile)
    (folder / "edge.toml").write_text(text + TASKS)
    return load_edge_config(folder / "edge.toml", overrides)


def test_every_board_of_the_list_has_a_profile_that_is_named_as_its_file() -> None:
    boards = {"jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "raspberry-pi-5"}
    assert set(known()) == boards | {"generic-x86-64", "generic-aarch64"}
    for name in known():
        profile = load_profile(name, Path("/nowhere"))
        assert profile.name == name
        assert profile.runtime.providers[-1] == CPU, "whatever else is missing, it runs"
        assert profile.thermal.enabled


def test_the_package_carries_the_profiles_of_firmware_configs() -> None:
    shipped = {path.name: path.read_bytes() for path in (REPOSITORY / "firmware_configs/profiles").glob("*.toml")}
    assert shipped == {path.name: path.read_bytes() for path in FOLDER.glob("*.toml")}
    assert shipped


def test_a_profile_sets_what_the_file_leaves_open(tmp_path: Path) -> None:
    config = load(tmp_path, '[runtime]\nprofile = "./own.toml"\n')
    assert (config.runtime.threads, config.runtime.providers) == (3, [CUDA, CPU])
    assert (config.data_dir, config.outbox.max_bytes) == ("/srv/outrider", 7 * 1024 * 1024)
    assert config.runtime.precisions == ["fp16", "int8"]
    assert (config.runtime.models_mb, config.runtime.cache_mb) == (20, 9)
    assert config.cache_folder == Path("/srv/cache/models")
    assert (config.thermal.enabled, config.thermal.throttle_c) == (True, 80.0)


def test_what_the_file_and_the_flags_say_wins_over_the_profile_key_by_key(tmp_path: Path) -> None:
    text = 'data_dir = "mine"\n[runtime]\nprofile = "own.toml"\nthreads = 1\n[thermal]\nthrottle_c = 70.0\n'
    config = load(tmp_path, text, outbox={"max_bytes": 5})
    assert (config.runtime.threads, config.runtime.providers) == (1, [CUDA, CPU])
    assert (config.data_dir, config.outbox.max_bytes) == (str(tmp_path / "mine"), 5)
    assert (config.thermal.enabled, config.thermal.throttle_c) == (True, 70.0)
    assert config.cache_folder == tmp_path / "mine" / "cache", "what is kept elsewhere keeps its cache there"


def test_a_list_of_providers_in_the_file_is_not_held_to_what_the_profile_requires(tmp_path: Path) -> None:
    needs = OWN.replace("[limits]", f'required = ["{CUDA}"]\n[limits]')
    config = load(tmp_path, f'[runtime]\nprofile = "own.toml"\nproviders = ["{CPU}"]\n', needs)
    assert (config.runtime.providers, config.runtime.required) == ([CPU], [])
    assert load(tmp_path, '[runtime]\nprofile = "own.toml"\n', needs).runtime.required == [CUDA]


def test_without_a_profile_nothing_changes(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert (config.runtime, config.thermal.enabled) == (RuntimeSettings(), False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[runtime]\nprofile = "jetson-orin-nono"\n', "did you mean 'jetson-orin-nano'? known ones: generic-aarch64,"),
        ('[runtime]\nprofile = "toaster"\n', "known ones: generic-aarch64, generic-x86-64, jetson-agx-orin"),
        ('[runtime]\nprofile = "./absent.toml"\n', "absent.toml cannot be read"),
        ("[runtime]\nprofile = 3\n", "edge.toml:2"),
        ("runtime = 3\n", "edge.toml"),
        (f'[runtime]\nproviders = ["{CPU}"]\nrequired = ["{CUDA}"]\n', "runtime.required names"),
    ],
)
def test_a_profile_that_is_none_is_refused_with_the_known_ones(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        load(tmp_path, text)
    assert says in str(caught.value)


def test_a_mistake_in_a_profile_is_told_with_the_profiles_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError, match=r"own\.toml:7: .*") as caught:
        load(tmp_path, '[runtime]\nprofile = "own.toml"\n', OWN.replace("threads = 3", 'threads = "many"'))
    assert "edge.toml" not in str(caught.value)


def test_a_promised_provider_that_is_not_there_is_left_out_and_said_with_its_fix(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        found = providers_of(RuntimeSettings(providers=[CUDA, CPU], profile="jetson-orin-nano"))
    assert found == (CPU,)
    [said] = caplog.records
    assert said.getMessage() == "provider.absent"
    assert (said.provider, said.instead, said.fix) == (CUDA, CPU, INSTALL[CUDA])  # type: ignore[attr-defined]  # extras


@pytest.mark.parametrize("required", [[CUDA], []])
def test_the_agent_does_not_start_without_a_required_provider_or_with_none_at_all(required: list[str]) -> None:
    wanted = [CUDA, CPU] if required else [CUDA]
    with pytest.raises(OperatorSetupError, match="onnxruntime-gpu"):
        providers_of(RuntimeSettings(providers=wanted, required=required))


def test_the_order_of_the_wish_is_kept() -> None:
    found = usable(["A", "B", "C"], ["C", "A"])
    assert (found.providers, [each.provider for each in found.absent]) == (("A", "C"), ["B"])
