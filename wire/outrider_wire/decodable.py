"""Types whose fields msgspec has read, one at a time. Decodes nothing.

msgspec reads the fields of a type when it first decodes one, in Python code that other threads may interrupt. Who needs the same
type just then is given what is not filled yet, and the process dies of a segmentation fault (0.22: four threads, within some hundred
types). A decoder that is made while its module is imported is safe; every other decoding names its type by way of `decodable`.
"""

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_READ: set[Any] = set()
_ONE_AT_A_TIME = threading.Lock()


def decodable(kind: type[T]) -> type[T]:
    """``kind``, which any thread may decode from now on."""
    if kind not in _READ:
        with _ONE_AT_A_TIME:
            msgspec.msgpack.Decoder(kind)
            _READ.add(kind)
    return kind
