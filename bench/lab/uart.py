"""What only a local serial device has: it can be claimed, and its driver counts what it received badly."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Mapping
from contextlib import suppress

import serial

# include/uapi/asm-generic/ioctls.h and struct serial_icounter_struct of include/uapi/linux/serial.h: eleven counters,
# nine reserved.
TIOCGICOUNT = 0x545D
_COUNTERS = struct.Struct("=20i")
NAMES = ("cts", "dsr", "rng", "dcd", "rx", "tx", "frame", "overrun", "parity", "brk", "buf_overrun")
ERRORS = ("frame", "overrun", "parity", "brk", "buf_overrun")


def claim(device: serial.SerialBase) -> None:
    """Keep others (minicom, a getty) from opening `device` too; nothing where it is not a local one.

    pyserial's own lock is advisory. Root is let in all the same (ioctl_tty(2), TIOCEXCL).
    """
    if _is_local(device):
        fcntl.ioctl(device.fileno(), termios.TIOCEXCL)


def release(device: serial.SerialBase) -> None:
    """Take the claim back before `device` is closed: else it stays while somebody else, a getty say, has it open."""
    with suppress(OSError):
        if _is_local(device):
            fcntl.ioctl(device.fileno(), termios.TIOCNXCL)


def counters(device: serial.SerialBase) -> Mapping[str, int] | None:
    """The driver's counters by name; None where there are none: network ports, pseudo-terminals, some USB adapters."""
    if not _is_local(device):
        return None
    room = bytearray(_COUNTERS.size)
    try:
        fcntl.ioctl(device.fileno(), TIOCGICOUNT, room)
    except (OSError, ValueError):
        return None
    return dict(zip(NAMES, _COUNTERS.unpack(room), strict=False))


def _is_local(device: serial.SerialBase) -> bool:
    try:
        return isinstance(device, serial.Serial) and os.isatty(device.fileno())
    except (OSError, ValueError):
        return False
