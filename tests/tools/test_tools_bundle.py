"""``outrider bundle`` on sound bundles, and on every defect that a copy or a hand can bring about."""

import pytest

import factory


@pytest.fixture
def bundle(tmp_path):
    return factory.make_bundle(tmp_path / "bundle", version="7")


def test_inspect_tells_the_claim_and_the_rule(outrider, bundle):
    ran = outrider("bundle", "inspect", bundle)
    assert ran.code == 0, ran.err
    assert "colours 7" in ran.out
    assert "certified: at most 5.0% of what is kept is wrong, with confidence 95%" in ran.out
    assert "max probability ≥ 0.8000" in ran.out
    assert "decode_image → resize → scale → channels_first" in ran.out


def test_inspect_gives_the_manifest_as_json(outrider, bundle):
    found = outrider("bundle", "inspect", bundle, "--json").json
    assert found["manifest"]["labels"] == ["red", "green", "blue"]
    assert len(found["digest"]) == 64


def test_inspect_says_that_nothing_is_certified(outrider, tmp_path):
    plain = factory.make_bundle(tmp_path / "plain", certified=False)
    out = outrider("bundle", "inspect", plain).out
    assert "everything escalates" in out
    assert "not certified: the bundle carries no certificate" in out


def test_verify_of_a_sound_bundle_says_what_it_is(outrider, bundle):
    ran = outrider("bundle", "verify", bundle, "--run", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["certified"]
    assert ran.json["selftest_ms"] > 0
    assert ran.json["parameter_bytes"]["fp32"] > 1000


def test_verify_of_several_gives_one_entry_each(outrider, bundle, tmp_path):
    other = factory.make_bundle(tmp_path / "other", seed=1)
    assert len(outrider("bundle", "verify", bundle, other, "--json").json) == 2


def flip_a_byte(bundle):
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(data)


def truncate(bundle):
    data = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(data[:-1])


def point_outside(bundle):
    manifest = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(manifest.replace('"model.onnx"', '"../model.onnx"'))


def add_a_file(bundle):
    (bundle / "extra.sh").write_text("echo hello")


def lose_a_file(bundle):
    (bundle / "golden.msgpack").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (flip_a_byte, "file_digest"),
        (truncate, "file_size"),
        (point_outside, "path_outside_bundle"),
        (add_a_file, "unexpected_file"),
        (lose_a_file, "file_missing"),
    ],
)
def test_verify_refuses_a_spoilt_bundle(outrider, bundle, spoil, reason):
    spoil(bundle)
    ran = outrider("bundle", "verify", bundle, "--json")
    assert ran.code == 3
    assert ran.json["error"]["reason"] == reason
    assert ran.json["error"]["fix"]


def test_diff_counts_what_a_device_must_fetch(outrider, bundle, tmp_path):
    other = factory.make_bundle(tmp_path / "other", version="8", threshold=0.9)
    found = outrider("bundle", "diff", bundle, other, "--json").json
    assert {each["name"] for each in found["settings"]} == {"version", "acceptance", "certificate"}
    assert {each["change"] for each in found["files"]} == {"same"}
    assert found["fetch_bytes"] == (other / "manifest.json").stat().st_size


def test_diff_of_a_bundle_with_itself_is_nothing(outrider, bundle):
    found = outrider("bundle", "diff", bundle, bundle, "--json").json
    assert found["settings"] == []
    assert found["fetch_bytes"] == 0


def test_diff_counts_a_new_model(outrider, bundle, tmp_path):
    other = factory.make_bundle(tmp_path / "other", seed=1)
    found = outrider("bundle", "diff", bundle, other, "--json").json
    changed = {each["path"]: each for each in found["files"]}["model.onnx"]
    assert changed["change"] == "changed"
    assert found["fetch_bytes"] > changed["bytes"]
