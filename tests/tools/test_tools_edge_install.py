"""``outrider edge install`` and the units that it lays down: hardened, complete, and careful with what a person has changed."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from outrider import edge_installing as installing
from outrider.machine import Machine, best_fit, misfits, power_mode_in, this_machine
from outrider_edge.config import load_edge_config
from outrider_edge.profile import known, load_profile
from outrider_wire.errors import OperatorConfigError, OperatorSetupError

REPOSITORY = Path(__file__).parents[2]
PC = Machine(arch="x86_64", memory_mb=16_000)
ORIN = Machine(
    arch="aarch64", memory_mb=7_620, compatible=frozenset({"nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005"})
)
PI = Machine(arch="aarch64", memory_mb=8_062, compatible=frozenset({"raspberrypi,5-model-b", "brcm,bcm2712"}))
PROFILES = [load_profile(name, Path()) for name in known()]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "image"


# --- units


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
@pytest.mark.parametrize(
    ("unit", "drop_in"),
    [("outrider-edge", ""), ("outrider-edge", "outrider-edge-gpu.conf"), ("outrider-cloud", "")],
)
def test_a_unit_is_exposed_at_most_3(tmp_path: Path, unit: str, drop_in: str) -> None:
    shutil.copy(installing.UNITS / f"{unit}.service", tmp_path)
    if drop_in:
        (tmp_path / f"{unit}.service.d").mkdir()
        shutil.copy(installing.UNITS / drop_in, tmp_path / f"{unit}.service.d/gpu.conf")

    def judged(path: Path) -> "subprocess.CompletedProcess[str]":
        command = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = judged(tmp_path / f"{unit}.service")
    assert done.returncode == 0, done.stdout[-500:]
    assert ("✗ PrivateDevices" in done.stdout) == bool(drop_in), "the drop-in was read"
    (tmp_path / "bare.service").write_text("[Service]\nExecStart=/bin/true\n")
    assert judged(tmp_path / "bare.service").returncode != 0, "the judge is no yes-man"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
@pytest.mark.parametrize("unit", ["outrider-edge.service", "outrider-cloud.service"])
def test_systemd_knows_every_line_of_a_unit(tmp_path: Path, unit: str) -> None:
    text = (installing.UNITS / unit).read_text().replace(installing.COMMAND, "/bin/true")
    (tmp_path / unit).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)], capture_output=True, text=True, check=False
    )
    assert unit not in done.stderr, done.stderr


def test_the_package_carries_the_units_of_firmware_configs() -> None:
    shipped = {path.name: path.read_bytes() for path in (REPOSITORY / "firmware_configs/systemd").iterdir()}
    assert shipped == {path.name: path.read_bytes() for path in installing.UNITS.iterdir()}


_MDWE = 65
_UNDER_MDWE = f"""
import ctypes, mmap, sys
assert ctypes.CDLL(None).prctl({_MDWE}, 1, 0, 0, 0) == 0
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    sys.exit("not refused")
except PermissionError:
    pass
from outrider.cli import main
parts = ["question=what color is the shape?", "image=@{REPOSITORY}/docs/demo.png"]
sys.argv = ["outrider", "edge", "infer", "--demo", "--part", parts[0], "--part", parts[1]]
main()
"""


@pytest.mark.skipif(
    ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) < 0, reason="this kernel has no PR_SET_MDWE (Linux 6.3 or later)"
)
def test_a_model_runs_where_memory_is_never_both_writable_and_executable(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_MDWE], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"label":"' in done.stdout


# --- which profile


@pytest.mark.parametrize(
    ("machine", "name"), [(PC, "generic-x86-64"), (ORIN, "jetson-orin-nano"), (PI, "raspberry-pi-5")]
)
def test_the_profile_of_a_machine_is_found(machine: Machine, name: str) -> None:
    found = best_fit(PROFILES, machine)
    assert found is not None
    assert found.name == name
    assert misfits(found, machine) == []


def test_a_profile_of_another_board_does_not_fit_and_it_is_said_why() -> None:
    thor = load_profile("jetson-thor", Path())
    assert len(misfits(thor, PC)) == 3
    assert "it is for nvidia,p3834-0008, and this is nvidia,p3767-0005" in misfits(thor, ORIN)
    assert best_fit(PROFILES, Machine(arch="riscv64", memory_mb=0)) is None


def test_a_machine_is_read_from_linuxs_own_files(tmp_path: Path) -> None:
    (tmp_path / "compatible").write_bytes(b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    (tmp_path / "meminfo").write_text("MemTotal:        8255920 kB\nMemFree: 1 kB\n")
    found = this_machine(compatible=tmp_path / "compatible", memory=tmp_path / "meminfo")
    assert (found.memory_mb, found.compatible) == (8062, frozenset({"raspberrypi,5-model-b", "brcm,bcm2712"}))
    (tmp_path / "meminfo").write_text("MemTotal: lots\n")
    nothing = this_machine(compatible=tmp_path / "absent", memory=tmp_path / "meminfo")
    assert (nothing.memory_mb, nothing.compatible) == (0, frozenset())


def test_the_power_mode_is_read_by_its_name() -> None:
    assert power_mode_in("NV Fan Mode:quiet\nNV Power Mode: 15W\n0\n") == "15W"
    assert power_mode_in("command not found") == ""


# --- laying down


def test_a_dry_run_shows_all_and_writes_nothing(outrider, image: Path) -> None:
    ran = outrider("edge", "install", "--root", image, "--profile", "jetson-agx-orin", "--dry-run")
    assert ran.code == 0, ran.err
    assert "+DeviceAllow=char-nvidia* rw" in ran.out
    assert '+profile = "jetson-agx-orin"' in ran.out
    assert not image.exists()


def test_what_is_laid_down_is_whole_and_its_configuration_valid(outrider, image: Path) -> None:
    ran = outrider("edge", "install", "--root", image, "--profile", "raspberry-pi-5", "--yes", "--json")
    assert ran.code == 0, ran.err
    config = load_edge_config(image / "etc/outrider/edge.toml")
    assert (config.data_dir, config.runtime.profile) == ("/var/lib/outrider", "raspberry-pi-5")
    assert config.thermal.throttle_c == 80.0
    unit = (image / "etc/systemd/system/outrider-edge.service").read_text()
    assert "Type=notify" in unit
    assert "WatchdogSec=" in unit
    assert (image / "var/lib/outrider").stat().st_mode & 0o777 == 0o750
    assert not (image / "etc/systemd/system/outrider-edge.service.d").exists(), "no GPU, no rights for one"
    again = outrider("edge", "install", "--root", image, "--profile", "raspberry-pi-5", "--yes", "--json").json
    assert {each["state"] for each in again["files"]} == {"same"}


def test_without_a_yes_nothing_is_written(outrider, image: Path) -> None:
    ran = outrider("edge", "install", "--root", image, "--profile", "raspberry-pi-5")
    assert ran.code == 2
    assert "add --yes" in ran.err
    assert not image.exists()


def test_a_changed_file_is_kept_and_one_that_is_only_older_is_replaced(image: Path) -> None:
    wish = installing.wished("raspberry-pi-5", PI, root=image, command=installing.COMMAND)
    installing.install(wish, installing.plan(wish))
    mine = image / "etc/outrider/edge.toml"
    mine.write_text(mine.read_text() + 'device = "cam-7"\n')
    newer = wish._replace(command="/opt/other/bin/outrider", named="generic-aarch64")
    states = {piece.path.name: piece.state for piece in installing.plan(newer)}
    assert states == {"outrider.conf": "same", "outrider-edge.service": "outdated", "edge.toml": "changed"}
    installing.install(newer, installing.plan(newer))
    assert mine.read_text().endswith('device = "cam-7"\n')
    assert "/opt/other/bin" in (image / "etc/systemd/system/outrider-edge.service").read_text()
    states = {piece.path.name: piece.state for piece in installing.plan(newer)}
    assert states["edge.toml"] == "changed", "installing again does not make it ours"


def test_a_profile_of_ones_own_is_laid_down_beside_and_its_folders_may_be_written(tmp_path: Path, image: Path) -> None:
    own = tmp_path / "board.toml"
    own.write_text('name = "board"\n[hardware]\narch = "aarch64"\n[storage]\ndata_dir = "/data/outrider"\n')
    wish = installing.wished(str(own), PI, root=image, command=installing.COMMAND)
    installing.install(wish, installing.plan(wish))
    assert load_edge_config(image / "etc/outrider/edge.toml").data_dir == "/data/outrider"
    drop_in = image / "etc/systemd/system/outrider-edge.service.d/storage.conf"
    assert drop_in.read_text() == "[Service]\nReadWritePaths=/data/outrider\n"
    assert (image / "data/outrider").is_dir()


@pytest.mark.parametrize("command", ["/home/me/venv/bin/outrider", "/tmp/x/outrider", "outrider", "/opt/a b/outrider"])
def test_a_command_that_the_service_cannot_run_is_refused(image: Path, command: str) -> None:
    with pytest.raises((OperatorSetupError, OperatorConfigError)) as caught:
        installing.wished("raspberry-pi-5", PI, root=image, command=command)
    assert caught.value.fix


def test_an_unknown_profile_is_refused_with_the_known_ones(outrider, image: Path) -> None:
    ran = outrider("edge", "install", "--root", image, "--profile", "raspberry-pi-4", "--dry-run")
    assert ran.code == 2
    assert "did you mean 'raspberry-pi-5'?" in ran.err
