"""Where a key's passphrase comes from: a file, the environment, or whoever sits there. Keeps none."""

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from outrider_link.settings import read_secret
from outrider_trust.keys import PIN
from outrider_wire.errors import OperatorConfigError

VARIABLE = "OUTRIDER_KEY_PASSPHRASE"
PIN_VARIABLE = "OUTRIDER_KEY_PIN"
"""The PIN of a PKCS#11 token; without it, what is said of passphrases holds for PINs too."""


def passphrases(file: Path | None, *, again: bool = False) -> Callable[[str], bytes]:
    """Asks for the passphrase of the key of that name.

    Args:
        file: holds it; None: the environment variable `VARIABLE`, or else a person at the terminal.
        again: it is a new one, so that a person types it twice.
    """

    def ask(what: str) -> bytes:
        if what.endswith(PIN) and (said := os.environ.get(PIN_VARIABLE)):
            return said.encode()
        if file is not None:
            return read_secret(file, f"passphrase of {what}").encode()
        if said := os.environ.get(VARIABLE):
            return said.encode()
        if not sys.stdin.isatty():
            raise OperatorConfigError(
                f"the passphrase of {what} is needed",
                reason="no_passphrase",
                fix=f"set {VARIABLE}, give --passphrase-file, or run it at a terminal",
            )
        typed = getpass.getpass(f"passphrase of {what}: ")
        if again and getpass.getpass("again: ") != typed:
            raise OperatorConfigError("the two differ", reason="passphrase_mistyped", fix="try again")
        return typed.encode()

    return ask
