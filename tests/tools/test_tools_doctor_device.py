"""``outrider doctor`` over a device: profile, provider, slots, temperature, and queues in production."""

from pathlib import Path

import pytest

import factory
from outrider.doctor_device import profile, provider, queues, slots
from outrider.doctor_findings import Finding, Subject
from outrider.task_template import Kind, task_text
from outrider_edge.config import load_edge_config
from outrider_edge.updates.slots import SlotFolder
from outrider_wire.task import parse_task

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def subject(folder: Path, said: str = "", *, production: bool = False) -> Subject:
    """A device with a certified bundle; ``said`` stands in its ``edge.toml``."""
    text = task_text(name="colours", labels=factory.LABELS, kind=Kind.IMAGE_TEXT).replace("4000000", "1000000")
    (folder / "task.toml").write_text(text)
    if not (folder / "bundle").exists():
        factory.make_bundle(folder / "bundle")
    (folder / "edge.toml").write_text(
        f'device = "cam"\ndata_dir = "data"\n{said}\n[[tasks]]\nfile = "task.toml"\nbundle = "bundle"\n'
    )
    return Subject(edge=load_edge_config(folder / "edge.toml"), production=production)


def levels(found: list[Finding]) -> list[tuple[str, str]]:
    return [(each.check, each.level) for each in found]


def test_a_foreign_profile_is_said_with_the_one_that_fits(tmp_path: Path) -> None:
    [found, *_] = list(profile(subject(tmp_path, '[runtime]\nprofile = "jetson-thor"\n')))
    assert found.level == "warning"
    assert "it is for nvidia,p3834-0008" in found.what
    assert "generic-" in found.fix


def test_a_profile_of_this_machine_fits_and_its_temperature_is_told(tmp_path: Path) -> None:
    import platform

    home = tmp_path / "sys/thermal_zone0"
    home.mkdir(parents=True)
    (home / "type").write_text("cpu\n")
    (home / "temp").write_text("60000\n")
    (tmp_path / "own.toml").write_text(f'name = "own"\n[hardware]\narch = "{platform.machine()}"\n')
    terms = f'[runtime]\nprofile = "own.toml"\n[thermal]\nenabled = true\nthrottle_c = 90.0\npath = "{tmp_path}/sys"\n'
    assert levels(list(profile(subject(tmp_path, terms)))) == [("profile", "ok"), ("temperature", "ok")]
    (home / "temp").write_text("85000\n")
    assert levels(list(profile(subject(tmp_path, terms))))[1] == ("temperature", "warning")
    (home / "temp").unlink()
    assert "no zone tells" in list(profile(subject(tmp_path, terms)))[1].what


def test_the_provider_in_use_is_told_and_an_absent_one_with_its_fix(tmp_path: Path) -> None:
    assert levels(list(provider(subject(tmp_path)))) == [("provider", "ok")]
    absent, used = provider(subject(tmp_path, f'[runtime]\nproviders = ["{CUDA}", "{CPU}"]\n'))
    assert (absent.level, used.level) == ("warning", "ok")
    assert "onnxruntime-gpu" in absent.fix
    assert CPU in used.what
    needs = f'[runtime]\nproviders = ["{CUDA}", "{CPU}"]\nrequired = ["{CUDA}"]\n'
    assert levels(list(provider(subject(tmp_path, needs)))) == [("provider", "bad")]


def test_slots_are_empty_whole_or_damaged(tmp_path: Path) -> None:
    device = subject(tmp_path)
    assert "none yet" in next(slots(device)).what
    task = parse_task((tmp_path / "task.toml").read_text(), "task.toml")
    folder = SlotFolder(folder=tmp_path / "data/slots/colours", task=task)
    folder.install(tmp_path / "bundle", "a")
    folder.point("a")
    assert levels(list(slots(device))) == [("slots", "ok")]
    (folder.path("a") / "golden.msgpack").write_bytes(b"")
    assert levels(list(slots(device))) == [("slots", "bad")]


@pytest.mark.parametrize("said", ["max_bytes = 9000000000000000", "min_free_bytes = 0"])
def test_a_queue_without_a_real_bound_is_bad_in_production_only(tmp_path: Path, said: str) -> None:
    text = f"[outbox]\n{said}\n"
    assert levels(list(queues(subject(tmp_path, text, production=True)))) == [("production", "bad")]
    assert list(queues(subject(tmp_path, text))) == []
    assert list(queues(subject(tmp_path, production=True))) == []
