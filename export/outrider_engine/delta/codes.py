"""The codes of a stream: how bytes are packed, and unpacked piece by piece in bounded memory. Knows no deltas and no files.

Unpacking never holds more than a window: 1 MiB of zstd (16 MiB with a dictionary, which lies within it), 4 MiB of bzip2, 1 MiB of
LZMA. What the bytes themselves say of their sizes is not believed: a frame that asks for a larger window is refused.
"""

import bz2
import lzma
from collections.abc import Callable
from typing import IO, Protocol, cast

import zstandard

from outrider_engine.delta.form import Code, damaged
from outrider_wire.errors import OutriderError

_WINDOW_LOG, _DICTIONARY_WINDOW_LOG = 20, 24
_LZMA_BYTES = 1 << 20
BEST_LEVEL = 19
"""Of zstd; what it packs is unpacked as fast as what any other level does."""
FLAVOURS = 5
"""LZMA with 0 … 4 bits of the byte before as the context of the next."""
_FEED_BYTES = 32 * 1024

ReadStored = Callable[[int], bytes]
"""At most so many of the stored bytes that come next; b'' at their end."""


class Unpacker(Protocol):
    """Gives a stream's bytes in order."""

    def read(self, length: int) -> bytes:
        """Just so many.

        Raises:
            BundleDamagedError: there are fewer, or they are no stream of that code.
        """
        ...


def pack(code: Code, data: bytes, *, flavour: int = 0, dictionary: bytes = b"", level: int = BEST_LEVEL) -> bytes:
    """The stored bytes of a stream; ``dictionary`` and ``level`` are zstd's."""
    match code:
        case "stored":
            return data
        case "bz2":
            return bz2.compress(data)
        case "lzma":
            return lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(flavour))
        case "zstd":
            return _zstd(data, dictionary, level)


def unpacker(code: Code, flavour: int, read: ReadStored, dictionary: bytes = b"") -> Unpacker:
    """Reads a stream of that code.

    Raises:
        BundleDamagedError: there is no such flavour.
    """
    match code:
        case "stored":
            return _Stored(read)
        case "bz2":
            return _Fed(bz2.BZ2Decompressor(), read)
        case "lzma":
            if flavour >= FLAVOURS:
                raise damaged("a stream is of an unknown flavour")
            return _Fed(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(flavour)), read)
        case "zstd":
            return _Zstd(read, dictionary)


def unpack_whole(stored: bytes, raw: int) -> bytes:
    """All of a zstd stream of ``raw`` bytes without a dictionary."""
    rest = memoryview(stored)

    def read(length: int) -> bytes:
        nonlocal rest
        piece, rest = bytes(rest[:length]), rest[length:]
        return piece

    return _Zstd(read, b"").read(raw)


def _filters(flavour: int) -> list[dict[str, int]]:
    return [{"id": lzma.FILTER_LZMA1, "dict_size": _LZMA_BYTES, "lc": flavour, "lp": 0, "pb": 0, "preset": 9}]


def _zstd(data: bytes, dictionary: bytes, level: int) -> bytes:
    """A frame without the magic number, sizes and checksum: what is rebuilt is verified by its digest."""
    most = _DICTIONARY_WINDOW_LOG if dictionary else _WINDOW_LOG
    window = min(max(10, (len(data) + len(dictionary)).bit_length()), most)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(data) + len(dictionary),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        window_log=window,
        enable_ldm=bool(dictionary),
        write_content_size=0,
        write_checksum=0,
        write_dict_id=0,
    )
    shape = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=shape).compress(data)


class _Stored:
    def __init__(self, read: ReadStored) -> None:
        self._read = read

    def read(self, length: int) -> bytes:
        data = self._read(length)
        if len(data) != length:
            raise damaged("a stream ends early")
        return data


class _Zstd:
    def __init__(self, read: ReadStored, dictionary: bytes) -> None:
        shape = (
            zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
        )
        window_log = _DICTIONARY_WINDOW_LOG if dictionary else _WINDOW_LOG
        reader = zstandard.ZstdDecompressor(
            dict_data=shape, max_window_size=1 << window_log, format=zstandard.FORMAT_ZSTD1_MAGICLESS
        )
        self._reader = reader.stream_reader(cast("IO[bytes]", _Readable(read)), read_size=_FEED_BYTES)

    def read(self, length: int) -> bytes:
        try:
            data = self._reader.read(length)
        except (zstandard.ZstdError, MemoryError) as error:
            raise damaged(f"a stream does not unpack: {error}") from error
        if len(data) != length:
            raise damaged("a stream ends early")
        return data


class _Readable:
    """All that zstandard asks of a file."""

    def __init__(self, read: ReadStored) -> None:
        self.read = read


class _Fed:
    """Over the decompressors of the standard library, which are fed."""

    def __init__(self, inner: "bz2.BZ2Decompressor | lzma.LZMADecompressor", read: ReadStored) -> None:
        self._inner = inner
        self._read = read

    def read(self, length: int) -> bytes:
        pieces: list[bytes] = []
        while length:
            try:
                feed = self._read(_FEED_BYTES) if self._inner.needs_input else b""
                piece = self._inner.decompress(feed, length)
            except OutriderError:
                raise
            except (OSError, EOFError, ValueError, lzma.LZMAError, MemoryError) as error:
                raise damaged(f"a stream does not unpack: {error}") from error
            if not piece and (self._inner.eof or (not feed and self._inner.needs_input)):
                raise damaged("a stream ends early")
            length -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
