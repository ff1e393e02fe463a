"""What a child process gives up for good before it touches hostile bytes, beside its resource limits. On Linux; elsewhere nothing.

`without_network` is a seccomp filter (Linux's Documentation/userspace-api/seccomp_filter.rst), which needs no privilege and no
namespace, so that it holds in a container and under a unit that forbids namespaces too.
"""

import ctypes
import errno
import os
import signal
import socket
import struct
import sys
from typing import NamedTuple

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SET_MODE_FILTER, _ON_ALL_THREADS = 1, 1
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in ``struct seccomp_data``; the argument's low half, on the little-endian machines below."""
_X32 = 0x4000_0000


class _Machine(NamedTuple):
    """Numbers of system calls."""

    arch: int
    """As the kernel's audit names it."""
    socket: int
    seccomp: int
    io_uring_setup: int = 425


_MACHINES = {"x86_64": _Machine(0xC000_003E, 41, 317), "aarch64": _Machine(0xC000_00B7, 198, 277)}


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


PARENT = "OUTRIDER_PARENT"
"""Environment variable with the process that starts a child: its id, as the child will see it."""


def end_with_parent() -> None:
    """This process is killed when the thread that started it ends, however that ends; now, where `PARENT` has ended before."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.environ.get(PARENT, "") not in ("", str(os.getppid())):
        os.kill(os.getpid(), signal.SIGKILL)


def gain_nothing() -> None:
    """No program that this process starts has more rights than it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def without_network() -> bool:
    """No thread of this process can open a socket any more, but for those of this machine (``AF_UNIX``, ``AF_NETLINK``).

    Returns:
        Whether it holds: on 64-bit Linux on x86-64 and aarch64, where the kernel has seccomp.
    """
    machine = _MACHINES.get(os.uname().machine) if sys.platform == "linux" and struct.calcsize("P") == 8 else None
    if machine is None:
        return False
    gain_nothing()
    rules = _rules(machine)
    program = _Program(len(rules) // struct.calcsize("HBBI"), rules)
    call = ctypes.CDLL(None, use_errno=True).syscall
    return bool(call(machine.seccomp, _SET_MODE_FILTER, _ON_ALL_THREADS, ctypes.byref(program)) == 0)


def _rules(machine: _Machine) -> bytes:
    """Berkeley packet filter code: (operation, steps over when true, when false, operand) each."""
    steps = (
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 0, 7, machine.arch),  # else refused: another machine's numbers
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 5, 0, _X32),  # refused: the same calls by other numbers
        (_EQUAL, 4, 0, machine.io_uring_setup),  # refused: it opens sockets too
        (_EQUAL, 0, 4, machine.socket),  # else allowed
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 2, 0, socket.AF_UNIX),
        (_EQUAL, 1, 0, 16),  # AF_NETLINK, which Python names on Linux alone
        (_RETURN, 0, 0, _ERRNO | errno.EACCES),
        (_RETURN, 0, 0, _ALLOW),
    )
    return b"".join(struct.pack("HBBI", *step) for step in steps)
