"""Decodes pictures, from inside the limited child: requests come on its standard input, a socket; pixels go to its standard
output, a file that the parent has mapped too.

Run as ``python -m outrider_engine.decoder_child MEMORY_MB CPU_S`` by `outrider_engine.decoder`. Once it says that it is ready it
can open no file and no socket, start no process and gain no privilege; it ends with its parent.
"""

import contextlib
import io
import mmap
import resource
import signal
import socket
import sys

import msgspec
from PIL import Image

from outrider_engine.confining import gain_nothing
from outrider_engine.decoder import MEMORY, MODES, READY, REPLY, REQUEST, Said
from outrider_wire.errors import CallerInputError
from outrider_wire.images import Mode, decode_picture

_ORIENTATION = 0x0112


def main(arguments: list[str]) -> int:
    """Serves until the parent closes its end."""
    memory_mb, cpu_s = map(int, arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent answers what is under way, and then closes the socket
        signal.signal(number, signal.SIG_IGN)
    warm()
    shared = mmap.mmap(sys.stdout.fileno(), 0)
    confine(memory_mb)
    with socket.socket(fileno=sys.stdin.fileno()) as parent:
        parent.sendall(READY)
        with contextlib.suppress(ConnectionError):
            while serve(parent, shared, cpu_s):
                pass
    return 0


def serve(parent: socket.socket, shared: mmap.mmap, cpu_s: int) -> bool:
    """Answers one request; False when there will be no more."""
    if not (head := _received(parent, REQUEST.size)):
        return False
    size, max_pixels, mode = REQUEST.unpack(head)
    grant(cpu_s)
    try:
        made = decode_picture(bytes(_received(parent, size)), part="", mode=MODES[mode], max_pixels=max_pixels)
        pixels = made.tobytes()
    except CallerInputError as error:
        return _refuse(parent, Said(what=error.what.removeprefix("part '' ")[:512], reason=error.reason, fix=error.fix))
    except MemoryError:
        return _refuse(parent, Said(what="takes too much memory", reason=MEMORY))
    shared[: len(pixels)] = pixels
    parent.sendall(REPLY.pack(0, made.width, made.height, len(pixels)))
    return True


def _refuse(parent: socket.socket, said: Said) -> bool:
    body = msgspec.json.encode(said)
    parent.sendall(REPLY.pack(1, 0, 0, len(body)) + body)
    return said.reason != MEMORY


def _received(parent: socket.socket, size: int) -> bytearray:
    """Exactly so many bytes; none when the parent has closed its end before."""
    buffer = bytearray(size)
    left = memoryview(buffer)
    while left:
        if not (got := parent.recv_into(left)):
            return bytearray()
        left = left[got:]
    return buffer


def warm() -> None:
    """Decodes one of each kind, so that whatever is imported as it is needed is here before no file can be opened."""
    tiny, exif = Image.new("RGB", (8, 8)), Image.Exif()
    exif[_ORIENTATION] = 6
    modes: tuple[Mode, ...] = ("RGB", "L")
    for kind in ("JPEG", "PNG"):
        for mode in modes:
            made = io.BytesIO()
            tiny.save(made, kind, exif=exif)
            decode_picture(made.getvalue(), part="", mode=mode, max_pixels=64).tobytes()
    with contextlib.suppress(CallerInputError):
        decode_picture(b"\xff\xd8\xff\xe2\x00\x08MPF\x00\xff", part="", mode="RGB", max_pixels=64)


def confine(memory_mb: int) -> None:
    """Bounds what this process can do, for good: hard limits too."""
    _limit(resource.RLIMIT_AS, memory_mb << 20)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 3)  # those that are open: no other can be
    _limit(resource.RLIMIT_NPROC, 0)
    gain_nothing()


def _limit(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (bound, bound))


def grant(cpu_s: int) -> None:
    """From now on this process may use that much processor time more; then the kernel ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + cpu_s, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
