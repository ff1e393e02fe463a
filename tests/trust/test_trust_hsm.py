"""Keys in a PKCS#11 token sign root, targets, releases and orders, by SoftHSM; and what is said when a token or a library is wanting."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from absent import skip_without
from hsm_token import PIN, make_token
from securesystemslib.signer import Signature  # type: ignore[attr-defined]
from typer.testing import CliRunner

from factory import make_bundle, make_task
from outrider.cli import app
from outrider.ota.passphrases import PIN_VARIABLE, VARIABLE
from outrider_trust.envelope import ORDER_TYPE, seal, unseal
from outrider_trust.keys import URI_FIELD, PayloadSigner, key_named, open_signer, public_key
from outrider_wire.errors import OutriderError
from outrider_wire.rollout import Stop

TASK = make_task().name
HIDDEN = 6
"""Whose public key is private too."""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)
    make_token(tmp_path_factory.mktemp("hsm"), [2, 3, 4, 5, HIDDEN], private=[HIDDEN])
    yield
    os.environ.clear()
    os.environ.update(before)


class Came:
    def __init__(self, result: Any) -> None:
        self.error = result.exception if isinstance(result.exception, OutriderError) else None
        self.code = self.error.exit_code if self.error else result.exit_code
        self.out = result.stdout
        if result.exception is not None and not isinstance(result.exception, (OutriderError, SystemExit)):
            raise result.exception


Ota = Callable[..., Came]


@pytest.fixture
def ota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ota:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "correct horse battery staple")
    monkeypatch.setenv(PIN_VARIABLE, PIN)
    return lambda *args: Came(CliRunner().invoke(app, ["ota", *(str(each) for each in args)]))


@pytest.mark.usefixtures("token")
def test_root_targets_and_a_release_are_signed_in_a_token(ota: Ota, tmp_path: Path) -> None:
    roots = ("--root-key", "hsm:2", "--root-key", "hsm:3?label=site+keys")
    assert ota("init", "--task", TASK, "--signers", "2of2", *roots, "--targets-key", "hsm:4").code == 0
    assert ota("keys", "sign", "root", "--key", "hsm:2", "--key", "hsm:3").code == 0
    assert ota("keys", "sign", "targets", "--key", "hsm:4").code == 0
    listed = json.loads(ota("keys", "ls", "--json").out)
    assert listed["waiting"] == {}
    assert {key["where"] for key in listed["keys"] if key["role"] == "root"} == {
        "hsm:2?label=site+keys",
        "hsm:3?label=site+keys",
    }
    assert ota("keys", "rotate", TASK, "--key", "hsm:5", "--yes").code == 0
    assert ota("keys", "sign", "targets", "--key", "hsm:4").code == 0
    assert ota("keys", "sign", TASK, "--key", "hsm:5").code == 0
    bundle = make_bundle(tmp_path / "bundle", make_task(), version="1")
    assert ota("publish", bundle, "--key", "hsm:5", "--offline", "--yes").code == 0
    assert ota("rollout", "1", "--groups", "100%", "--key", "hsm:5", "--offline", "--yes").code == 0
    came = ota("verify", "--json")
    assert came.code == 0 and TASK in came.out
    foreign = ota("keys", "renew", "targets")
    assert foreign.code == 0
    refused = ota("keys", "sign", "targets", "--key", "hsm:2")
    assert refused.error is not None and refused.error.reason == "foreign_key"


@pytest.mark.usefixtures("token")
def test_a_file_that_was_carried_is_signed_in_a_token(ota: Ota, tmp_path: Path) -> None:
    roots = ("--root-key", "hsm:2", "--root-key", "hsm:3")
    ota("init", "--task", TASK, "--signers", "2of2", *roots)
    carried = shutil.copy(tmp_path / "outrider-releases/proposed/root.json", tmp_path / "root.json")
    assert json.loads(ota("keys", "sign", carried, "--key", "hsm:2", "--json").out)["signatures"] == 1
    assert json.loads(ota("keys", "sign", carried, "--key", "hsm:3", "--json").out)["signatures"] == 2


@pytest.mark.usefixtures("token")
def test_a_wrong_pin_leaves_everything_unsigned_and_says_so(ota: Ota, monkeypatch: pytest.MonkeyPatch) -> None:
    ota("init", "--task", TASK, "--targets-key", "hsm:4")
    monkeypatch.setenv(PIN_VARIABLE, "0000")
    came = ota("keys", "sign", "targets", "--key", "hsm:4")
    assert came.error is not None and (came.error.reason, came.code) == ("key_locked", 2)
    assert json.loads(ota("keys", "ls", "--json").out)["waiting"]["targets"] == 1


@pytest.mark.usefixtures("token")
def test_an_order_is_signed_in_a_token() -> None:
    public = public_key(f"hsm:{HIDDEN}", lambda _: PIN.encode())
    assert public.unrecognized_fields[URI_FIELD] == f"hsm:{HIDDEN}?label=site+keys"
    signer = open_signer(f"hsm:{HIDDEN}", lambda _: PIN.encode(), public=public)
    sealed = seal(ORDER_TYPE, Stop(number=7, issued_ms=1), [PayloadSigner(signer)])

    def verify(signature: bytes, message: bytes) -> bool:
        public.verify_signature(Signature(public.keyid, signature.hex()), message)
        return True

    assert unseal(sealed, ORDER_TYPE, Stop, keys={public.keyid: verify}, threshold=1).number == 7


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(
    ("uri", "library", "reason", "said"),
    [
        ("hsm:5", "", "key_library", "set PYKCS11LIB"),
        ("hsm:77", None, "key_service", "could not find ECDSA key"),
        ("hsm:5?label=other", None, "key_service", "No PKCS#11 token found"),
        ("hsm:x", None, "key_uri", "hsm:ID"),
    ],
)
def test_what_is_wanting_of_a_token_is_said(
    monkeypatch: pytest.MonkeyPatch, uri: str, library: str | None, reason: str, said: str
) -> None:
    if library is not None:
        monkeypatch.setenv("PYKCS11LIB", library)
    with pytest.raises(OutriderError) as found:
        public_key(uri, lambda _: PIN.encode())
    assert found.value.reason == reason and said in str(found.value)


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [
        ("awskms:abc", "boto3", "awskms"),
        ("gcpkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", "google.cloud.kms", "gcpkms"),
        ("azurekms://vault/keys/name", "azure.identity", "azurekms"),
        ("hv:name", "hvac", "vault"),
    ],
)
def test_a_key_service_whose_library_is_not_here_names_what_to_install(uri: str, module: str, extra: str) -> None:
    with suppress(ImportError):
        import_module(module)
        skip_without(f"a machine without {module}", f"pip uninstall {module}")
    with pytest.raises(OutriderError) as found:
        public_key(uri, lambda _: b"")
    assert (found.value.reason, found.value.exit_code) == ("key_library", 2)
    assert found.value.fix == f"pip install 'securesystemslib[{extra}]'"


def test_a_uri_may_leave_out_what_the_metadata_says_at_its_end() -> None:
    class Named:
        def __init__(self, uri: str) -> None:
            self.unrecognized_fields = {URI_FIELD: uri}

    keys: Any = [
        Named("hsm:22?label=a"),
        Named("hsm:2?label=a"),
        Named("azurekms://v/keys/n/7"),
        Named("file:root.pem"),
    ]
    assert key_named(keys, "hsm:2") is keys[1]
    assert key_named(keys, "azurekms://v/keys/n") is keys[2]
    assert key_named(keys, "file:root.pem") is keys[3]
    assert key_named(keys, "hsm:3") is None
