"""A manifest has one spelling, admits no path outside its bundle, and its certificate dies with whatever it was about."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from outrider_wire.errors import BundleDamagedError, BundleError, BundleUnsafeError
from outrider_wire.limits import MANIFEST_BYTES
from outrider_wire.manifest import (
    Acceptance,
    BundleFile,
    Calibration,
    Certificate,
    Manifest,
    ModelInput,
    Outputs,
    Step,
    Variant,
    decode_manifest,
    encode_manifest,
    manifest_digest,
)

DIGEST, OTHER = "a1" * 32, "0f" * 32
INT8 = Variant(name="int8", file="int8.onnx", precision="int8")
FP32 = Variant(name="fp32", file="fp32.onnx", precision="fp32")


def manifest() -> Manifest:
    """A certified manifest of two variants: int8 is the certified one."""
    bare = Manifest(
        task="easy-vqa",
        version="1",
        labels=["yes", "no"],
        inputs=[
            ModelInput(part="q", tensor="words", steps=[Step(op="hashed_words", args={"buckets": 96})], shape=[96])
        ],
        outputs=Outputs(support="support"),
        files=[
            BundleFile(path="int8.onnx", sha256=DIGEST, size=3, role="model"),
            BundleFile(path="fp32.onnx", sha256=OTHER, size=9, role="model"),
            BundleFile(path="golden.msgpack", sha256=OTHER, size=9, role="golden"),
        ],
        variants=[INT8, FP32],
        calibration=Calibration(temperature=1.5),
        acceptance=Acceptance(threshold=0.8, support_threshold=3.0),
        golden="golden.msgpack",
    )
    certificate = Certificate(
        method="fixed-sequence",
        risk=0.05,
        delta=0.05,
        n=700,
        groups=700,
        accepted=350,
        errors=8,
        coverage=0.5,
        risk_bound=0.041,
        label_source="ground_truth",
        data_digest=OTHER,
        provider="CPUExecutionProvider",
        precision="int8",
        claims=bare.claims(INT8),
    )
    return msgspec.structs.replace(bare, certificate=certificate)


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    fields = json.loads(encode_manifest(manifest()))
    change(fields)
    return json.dumps(fields).encode()


def test_a_certificate_has_one_name_before_and_after_it_is_written() -> None:
    own = manifest().certificate
    assert own is not None
    turned = msgspec.structs.replace(own, claims=dict(reversed(own.claims.items())))
    assert turned.id == own.id


def test_a_manifest_survives_its_bytes() -> None:
    assert decode_manifest(encode_manifest(manifest())) == manifest()


def test_the_same_manifest_has_the_same_digest_however_it_was_spelt() -> None:
    shuffled = altered(lambda fields: fields.update(task=fields.pop("task")))
    assert manifest_digest(encode_manifest(decode_manifest(shuffled))) == manifest_digest(encode_manifest(manifest()))


def test_the_certificate_may_be_claimed_for_its_own_variant_only() -> None:
    assert manifest().certificate_fault(INT8) == ""
    assert "certifies precision int8, and fp32 runs" in manifest().certificate_fault(FP32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["no", "yes"]}, "its labels"),
        (
            {"inputs": [ModelInput(part="q", tensor="words", steps=[Step(op="hashed_words")], shape=[96])]},
            "preprocessing",
        ),
        ({"calibration": Calibration(temperature=1.6)}, "its calibration"),
        ({"acceptance": Acceptance(threshold=0.7, support_threshold=3.0)}, "its acceptance rule"),
        ({"acceptance": Acceptance(threshold=0.8)}, "its acceptance rule"),
        ({"acceptance": Acceptance(score="margin", threshold=0.8, support_threshold=3.0)}, "its acceptance rule"),
        ({"outputs": Outputs()}, "its outputs"),
        ({"files": [BundleFile(path="int8.onnx", sha256=OTHER, size=3, role="model")]}, "the model"),
        ({"labels": ["a", "b"], "calibration": Calibration(temperature=2)}, "its labels and its calibration"),
    ],
    ids=["labels", "steps", "temperature", "threshold", "support", "score", "outputs", "model", "two"],
)
def test_any_change_of_what_was_certified_voids_the_certificate_and_is_named(change: dict[str, Any], said: str) -> None:
    fault = msgspec.structs.replace(manifest(), **change).certificate_fault(INT8)
    assert said in fault
    assert "changed since it was certified" in fault


def test_another_provider_voids_the_certificate() -> None:
    other = msgspec.structs.replace(INT8, provider="CUDAExecutionProvider")
    assert "CUDAExecutionProvider runs" in manifest().certificate_fault(other)


def test_a_new_version_name_alone_keeps_the_certificate() -> None:
    assert msgspec.structs.replace(manifest(), version="2").certificate_fault(INT8) == ""


def test_no_certificate_is_a_fault_of_its_own() -> None:
    assert msgspec.structs.replace(manifest(), certificate=None).certificate_fault(INT8) != ""


def test_a_certificate_has_a_short_id_of_its_content() -> None:
    certificate = manifest().certificate
    assert certificate is not None
    assert len(certificate.id) == 16
    assert msgspec.structs.replace(certificate, errors=9).id != certificate.id


OUTSIDE = ["../model.onnx", "/etc/passwd", "a/b.onnx", "..", ".hidden", "", "model.onnx\n", "C:\\model.onnx", "a\0b"]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("field", ["files", "variants", "golden"])
def test_a_path_outside_the_bundle_is_unsafe(field: str, path: str) -> None:
    def change(fields: dict[str, Any]) -> None:
        if field == "golden":
            fields["golden"] = path
        else:
            fields[field][0]["path" if field == "files" else "file"] = path

    with pytest.raises(BundleUnsafeError) as caught:
        decode_manifest(altered(change))
    assert caught.value.reason == "path_outside_bundle"


DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "manifest_unparsable"),
    "no JSON": (b"\x00\x01", "manifest_unparsable"),
    "half of it": (encode_manifest(manifest())[:200], "manifest_unparsable"),
    "nested without end": (b"[" * 100_000, "manifest_unparsable"),
    "deep inside a step": (altered(lambda f: f).replace(b"96}", b"[" * 100_000), "manifest_unparsable"),
    "too large": (b" " * (MANIFEST_BYTES + 1), "manifest_too_large"),
    "another schema": (altered(lambda f: f.update(schema=2)), "manifest_unparsable"),
    "one label": (altered(lambda f: f.update(labels=["yes"])), "manifest_unparsable"),
    "a temperature of zero": (altered(lambda f: f["calibration"].update(temperature=0)), "manifest_unparsable"),
    "a digest too short": (altered(lambda f: f["files"][0].update(sha256="a1")), "manifest_unparsable"),
    "a size below zero": (altered(lambda f: f["files"][0].update(size=-1)), "manifest_unparsable"),
    "a file twice": (altered(lambda f: f["files"].append(f["files"][0])), "manifest_inconsistent"),
    "itself as a file": (altered(lambda f: f["files"][2].update(path="manifest.json")), "manifest_inconsistent"),
    "a variant without a file": (altered(lambda f: f["variants"][0].update(file="x.onnx")), "manifest_inconsistent"),
    "a golden file not listed": (altered(lambda f: f.update(golden="x.msgpack")), "manifest_inconsistent"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_manifest_that_is_none_is_refused(name: str) -> None:
    data, reason = DAMAGED[name]
    with pytest.raises(BundleDamagedError) as caught:
        decode_manifest(data)
    assert caught.value.reason == reason


def test_every_single_byte_cut_off_is_noticed() -> None:
    whole = encode_manifest(manifest())
    for length in range(0, len(whole) - 2, 17):
        with pytest.raises(BundleError):
            decode_manifest(whole[:length])


@pytest.mark.parametrize(
    ("precisions", "provider", "runs"),
    [
        ([], "", "int8"),
        (["fp32", "int8"], "", "int8"),
        (["int8", "fp32"], "", "int8"),
        (["fp32"], "", "fp32"),
        (["fp16"], "", "int8"),
        (["fp16", "fp32"], "", "fp32"),
        (["fp32", "int8"], "CUDAExecutionProvider", "fp32"),
    ],
    ids=[
        "no wish",
        "the certified one, though it is liked less",
        "the certified one",
        "only an uncertified one is wanted",
        "none that is there is wanted",
        "the first that is there",
        "nothing is certified there: the first",
    ],
)
def test_the_first_wanted_variant_that_may_claim_the_certificate_runs(
    precisions: list[Any], provider: str, runs: str
) -> None:
    assert manifest().variant_for(precisions, provider).name == runs


def test_items_belong_to_the_manifest_that_names_them_and_renew_only_what_is_unchanged() -> None:
    items = BundleFile(path="rows.msgpack", sha256=OTHER, size=9, role="certification")
    whole = msgspec.structs.replace(manifest(), files=[*manifest().files, items], certification="rows.msgpack")
    assert decode_manifest(encode_manifest(whole)) == whole
    assert [entry.path for entry in whole.needed] == [entry.path for entry in manifest().files]
    assert whole.certificate_fault(FP32)
    assert not whole.replay_fault(FP32)
    assert manifest().replay_fault(FP32) == "the bundle carries no certification items"
    hotter = msgspec.structs.replace(whole, calibration=Calibration(temperature=3.0))
    assert hotter.replay_fault(FP32) == "its calibration changed since it was certified"
    for broken in (
        msgspec.structs.replace(whole, certification=None),
        msgspec.structs.replace(whole, certification="golden.msgpack"),
        msgspec.structs.replace(whole, files=manifest().files),
    ):
        with pytest.raises(BundleDamagedError, match="certification items"):
            decode_manifest(encode_manifest(broken))
