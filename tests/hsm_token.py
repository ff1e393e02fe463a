"""A PKCS#11 token in files (SoftHSM), with keys on it: where it is not installed, its tests are skipped, and the run says so."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from absent import skip_without

PIN = "271828"
LABEL = "site keys"
_LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


def make_token(folder: Path, ids: Sequence[int], *, private: Sequence[int] = ()) -> None:
    """A token with a key pair on P-256 for each id, and the environment in which it is found.

    Args:
        private: those whose public key, too, is only shown to whoever has the PIN.
    """
    tool = shutil.which("softhsm2-util")
    library = next((path for path in _LIBRARIES if Path(path).exists()), None)
    if tool is None or library is None:
        skip_without("softhsm2", "apt-get install softhsm2")
    if find_spec("pkcs11") is None:
        skip_without("python-pkcs11", "pip install 'securesystemslib[hsm]'")
    tokens = folder / "tokens"
    tokens.mkdir(parents=True)
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    found = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf"), "PYKCS11LIB": library}
    command = [tool, "--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "314159"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **found})
    os.environ |= found  # the library reads it once, when it is loaded
    _fill(library, ids, private)


def _fill(library: str, ids: Sequence[int], private: Sequence[int]) -> None:
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    curve: Any = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    with pkcs11.lib(library).get_token(token_label=LABEL).open(rw=True, user_pin=PIN) as session:
        for number in ids:
            hidden: Any = {pkcs11.Attribute.PRIVATE: number in private}
            session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True).generate_keypair(
                store=True, id=bytes([number]), label=f"key {number}", public_template=hidden
            )
