"""A bundle that would exhaust, hang or crash the agent does so in a child, and each becomes a reason."""

import signal
import sys
import time
from pathlib import Path

import pytest

from factory import make_bundle
from outrider_engine.selftest import judge, run_selftest

BUNDLES = Path(__file__).parents[1] / "assets" / "bundles"
REFUSED = {
    "absolute-path": "path_outside_bundle",
    "asks-for-16-gib": "out_of_memory",
    "external-data": "external_data",
    "file-that-no-manifest-names": "unexpected_file",
    "flipped-byte": "file_digest",
    "folds-to-4-gib": "out_of_memory",
    "foreign-operator": "foreign_operator",
    "gives-nan": "bad_golden",
    "golden-that-is-no-messagepack": "golden_unparsable",
    "linked-file": "link_in_bundle",
    "longer-file": "file_size",
    "loops-for-ever": "timeout",
    "manifest-that-is-no-json": "manifest_unparsable",
    "missing-file": "file_missing",
    "missing-manifest": "file_missing",
    "more-labels-than-logits": "model_mismatch",
    "path-outside": "path_outside_bundle",
    "tensor-that-the-model-lacks": "model_mismatch",
    "truncated-file": "file_size",
    "wrong-golden": "bad_golden",
}
SOUND = {"sound", "certificate-of-another-rule"}


def test_every_bundle_on_file_has_its_expected_outcome() -> None:
    assert {path.name for path in BUNDLES.iterdir()} == REFUSED.keys() | SOUND


def test_a_sound_bundle_passes_and_its_figures_are_measured(tmp_path: Path) -> None:
    report = run_selftest(make_bundle(tmp_path / "b"))
    assert report.ok, report
    assert report.reason == ""
    assert 0 < report.ms < 10_000  # milliseconds, on however busy a machine
    assert 20 < report.rss_mb < 400


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_bundle_fails_for_its_defect_without_raising(name: str) -> None:
    report = run_selftest(BUNDLES / name, timeout_s=3 if name == "loops-for-ever" else 60)
    assert not report.ok
    assert report.reason == REFUSED[name]
    assert report.detail


def test_a_child_that_crashes_is_reported_as_a_crash(tmp_path: Path) -> None:
    crash = (sys.executable, "-c", "import os; os.kill(os.getpid(), 11)")
    report = run_selftest(tmp_path, command=crash)
    assert (report.ok, report.reason) == (False, "crashed")
    assert "SIGSEGV" in report.detail


def test_a_child_that_sleeps_is_killed_at_the_timeout(tmp_path: Path) -> None:
    began = time.monotonic()
    report = run_selftest(tmp_path, timeout_s=0.5, command=(sys.executable, "-c", "import time; time.sleep(60)"))
    assert (report.ok, report.reason) == (False, "timeout")
    assert time.monotonic() - began < 10


def test_a_child_that_cannot_be_started_is_a_report_too(tmp_path: Path) -> None:
    report = run_selftest(tmp_path, command=(str(tmp_path / "no-such-program"),))
    assert (report.ok, report.reason) == (False, "no_child")


@pytest.mark.parametrize(
    ("returncode", "stdout", "reason"),
    [
        (-signal.SIGSEGV, b"", "crashed"),
        (-signal.SIGABRT, b'{"ok":true}', "crashed"),
        (-signal.SIGKILL, b"", "out_of_memory"),
        (-signal.SIGXCPU, b"", "timeout"),
        (1, b"", "crashed"),
        (0, b"", "crashed"),
        (0, b"not json", "crashed"),
        (7, b'{"ok":true}', "crashed"),
        (0, b'noise\n{"ok":false,"reason":"bad_golden"}\n', "bad_golden"),
    ],
)
def test_an_ending_without_a_good_report_is_a_refusal(returncode: int, stdout: bytes, reason: str) -> None:
    report = judge(returncode, stdout)
    assert (report.ok, report.reason) == (False, reason)


def test_a_good_report_is_passed_on() -> None:
    report = judge(0, b'{"ok":true,"ms":1.5,"rss_mb":60.0}\n')
    assert (report.ok, report.ms, report.rss_mb) == (True, 1.5, 60.0)
