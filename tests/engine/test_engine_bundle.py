"""A bundle is taken only if every byte of it is what its manifest says."""

import os
from pathlib import Path

import pytest

from factory import make_bundle
from outrider_engine.bundle import open_bundle
from outrider_wire.errors import BundleDamagedError, BundleError, BundleMismatchError, BundleUnsafeError
from outrider_wire.manifest import MANIFEST_FILE, manifest_digest

BUNDLES = Path(__file__).parents[1] / "assets" / "bundles"
REFUSED: dict[str, tuple[type[BundleError], str]] = {
    "absolute-path": (BundleUnsafeError, "path_outside_bundle"),
    "file-that-no-manifest-names": (BundleUnsafeError, "unexpected_file"),
    "flipped-byte": (BundleDamagedError, "file_digest"),
    "linked-file": (BundleUnsafeError, "link_in_bundle"),
    "longer-file": (BundleDamagedError, "file_size"),
    "manifest-that-is-no-json": (BundleDamagedError, "manifest_unparsable"),
    "missing-file": (BundleDamagedError, "file_missing"),
    "missing-manifest": (BundleDamagedError, "file_missing"),
    "path-outside": (BundleUnsafeError, "path_outside_bundle"),
    "truncated-file": (BundleDamagedError, "file_size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bundle_with_a_defect_of_its_files_is_refused_by_name(name: str) -> None:
    kind, reason = REFUSED[name]
    with pytest.raises(kind) as refusal:
        open_bundle(BUNDLES / name)
    assert refusal.value.reason == reason
    assert refusal.value.fix


def test_a_sound_bundle_opens_and_is_named_by_its_manifest() -> None:
    bundle = open_bundle(BUNDLES / "sound")
    assert bundle.digest == manifest_digest((BUNDLES / "sound" / MANIFEST_FILE).read_bytes())
    assert bundle.read("model.onnx") == (BUNDLES / "sound" / "model.onnx").read_bytes()


def test_a_directory_that_is_not_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleDamagedError, match="not a bundle directory"):
        open_bundle(tmp_path / "nothing")


def test_a_bundle_may_be_reached_through_a_link_to_its_directory(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "real")
    (tmp_path / "active").symlink_to(bundle)
    assert open_bundle(tmp_path / "active").root == bundle.resolve()


def test_a_file_changed_after_opening_is_not_handed_out(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    path = bundle.root / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleDamagedError) as refusal:
        bundle.read("model.onnx")
    assert refusal.value.reason == "file_digest"


def test_a_file_the_manifest_does_not_name_is_not_read(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    with pytest.raises(BundleDamagedError):
        bundle.read("../secret")


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")
    with pytest.raises(BundleUnsafeError) as refusal:
        open_bundle(bundle)
    assert refusal.value.reason == "not_a_plain_file"


def test_a_folder_in_a_bundle_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    (bundle / "more").mkdir()
    with pytest.raises(BundleUnsafeError):
        open_bundle(bundle)


def test_a_manifest_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    with (bundle / MANIFEST_FILE).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleDamagedError):
        open_bundle(bundle)


def test_an_unknown_variant_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    assert bundle.variant().name == "fp32"
    with pytest.raises(BundleMismatchError, match="choose one of fp32"):
        bundle.variant("int4")


def test_the_same_arguments_make_the_same_bundle(tmp_path: Path) -> None:
    digests = {open_bundle(make_bundle(tmp_path / name)).digest for name in ("a", "b")}
    assert len(digests) == 1
    assert open_bundle(make_bundle(tmp_path / "c", seed=1)).digest not in digests
