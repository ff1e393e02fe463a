"""Rebuilds a file from the one that is here and a delta. Memory stays below a bound whatever the files or the delta say.

Nothing of a delta is believed: every number is checked before it is used, no more is written than the caller expects, and the
rebuilt file gets its name only when its digest is the one that the caller brings (from a signed manifest).
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from outrider_engine.delta.codes import Unpacker, unpack_whole, unpacker
from outrider_engine.delta.form import (
    COPY,
    HEAD_BYTES,
    KINDS,
    LITERAL,
    OPEN_BZ2_STREAMS,
    OPEN_STREAMS,
    Control,
    Head,
    Instruction,
    Stream,
    damaged,
    decode_control,
    decode_head,
    name_of,
)
from outrider_engine.delta.planes import join
from outrider_link.files import move_durably, sha256_file
from outrider_wire.errors import BundleDamagedError

PIECE_BYTES = 512 * 1024
"""Of the target, made at a time."""


def apply_delta(base: Path, delta: Path, *, to: Path, sha256: str, size: int) -> Path:
    """Writes the file of that digest and size to ``to``, durably; ``to`` as it was where that fails.

    Memory: about 20 MiB beside the interpreter, at most 128 MiB of a hostile delta, whatever the files' sizes.

    Args:
        base: the file that the delta was made from. It must not change meanwhile.
        delta: the delta.
        to: where the rebuilt file goes; it may be ``base``.
        sha256: digest of the rebuilt file, from a manifest that is trusted.
        size: its bytes, from there too.

    Raises:
        BundleDamagedError: the delta is damaged or made for other files (``delta_damaged``, ``delta_foreign``), or ``base`` is not
            what it was made from (``delta_base``).
        OSError: a file cannot be read or written.
    """
    partial = to.with_name(f".{to.name}.rebuilt")
    try:
        with base.open("rb") as old, delta.open("rb") as file, partial.open("wb") as new:
            head = _head(file)
            if (head.target, head.target_size) != (name_of(sha256), size):
                raise BundleDamagedError(
                    "the delta makes another file than is wanted", reason="delta_foreign", fix="fetch the whole file"
                )
            if os.fstat(old.fileno()).st_size != head.base_size or name_of(sha256_file(base)) != head.base:
                raise BundleDamagedError(
                    "the delta is for another file than is here", reason="delta_base", fix="fetch the whole file"
                )
            digest = hashlib.sha256()
            for piece in _Rebuilding(old, file, head).pieces():
                digest.update(piece)
                new.write(piece)
        if digest.hexdigest() != sha256:
            raise damaged("what it makes has another digest")
        move_durably(partial, to)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return to


def base_of(delta: Path) -> bytes:
    """What a delta calls the file that it was made from, as `outrider_engine.delta.form.name_of`.

    Raises:
        BundleDamagedError: it is no delta.
        OSError: it cannot be read.
    """
    with delta.open("rb") as file:
        return _head(file).base


def _head(file: BinaryIO) -> Head:
    return decode_head(file.read(HEAD_BYTES))


class _Rebuilding:
    """One pass over the instructions."""

    def __init__(self, base: BinaryIO, delta: BinaryIO, head: Head) -> None:
        self._base = base
        self._delta = delta
        stored = os.pread(delta.fileno(), head.control_stored, head.length)
        self._control: Control = decode_control(unpack_whole(stored, head.control_raw), head)
        self._begins = _begins(self._control, head.length + head.control_stored)
        if self._begins[-1] != os.fstat(delta.fileno()).st_size:
            raise damaged("it has another size than its streams say")
        self._open: dict[int, Unpacker] = {}
        self._left = [stream.raw for stream in self._control.streams]

    def pieces(self) -> Iterator[bytes]:
        """The target, piece by piece."""
        at = 0
        for each in self._control.instructions:
            kind = KINDS[each.kind]
            at += each.skip
            most = PIECE_BYTES // max(kind.width, 1) * max(kind.width, 1)
            for begin in range(0, each.length, most):
                length = min(most, each.length - begin)
                base = self._read_base(at + begin, length) if kind.reads_base else b""
                yield self._made(each, base, length)
            at += each.length if kind.reads_base else 0

    def _made(self, each: Instruction, base: bytes, length: int) -> bytes:
        if each.kind == COPY:
            return base
        if each.kind == LITERAL:
            return self._read(each.stream, length)
        name, _, width = KINDS[each.kind]
        planes = [self._read(each.stream + plane, length // width) for plane in range(width)]
        return join(name, width, base, planes)

    def _read_base(self, begin: int, length: int) -> bytes:
        data = os.pread(self._base.fileno(), length, begin)
        if len(data) != length:
            raise damaged("the base has become shorter")
        return data

    def _read(self, number: int, length: int) -> bytes:
        if (stream := self._open.get(number)) is None:
            stream = self._open[number] = self._opened(number)
        data = stream.read(length)
        self._left[number] -= length
        if not self._left[number]:
            del self._open[number]
        return data

    def _opened(self, number: int) -> Unpacker:
        row = self._control.streams[number]
        now = [row, *(self._control.streams[other] for other in self._open)]
        if (
            len(now) > OPEN_STREAMS
            or sum(each.code == "bz2" for each in now) > OPEN_BZ2_STREAMS
            or sum(bool(each.dictionary) for each in now) > 1
        ):
            raise damaged("too many of its streams are read at once")
        dictionary = b"".join(self._read_base(begin, length) for begin, length in row.dictionary)
        return unpacker(row.code, row.flavour, self._stored(number, row), dictionary)

    def _stored(self, number: int, row: Stream) -> Callable[[int], bytes]:
        at, end = self._begins[number], self._begins[number] + row.stored

        def read(length: int) -> bytes:
            nonlocal at
            data = os.pread(self._delta.fileno(), min(length, end - at), at)
            at += len(data)
            return data

        return read


def _begins(control: Control, at: int) -> list[int]:
    """Where each stream begins in the file, and where the last one ends."""
    begins = [at]
    for stream in control.streams:
        begins.append(begins[-1] + stream.stored)
    return begins
