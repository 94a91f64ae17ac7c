"""Debian's own kernels in the virtual lab: booted as they are, or with a few instructions of a function replaced."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bench.images.kernel import KernelImage, build_kernel
from bench.inventory import load_inventory
from bench.lab.boot import Limits, Load, boot
from bench.linux import Unpatched
from bench.parse.capture_file import read_captures
from bench.records import Capture, Machine
from bench.run_kernel import handler_of
from bench.unpatched import CONSOLE, describe_boot

__all__ = ["CONSOLE", "addresses", "boot_kernel", "image", "machine", "patched", "unpatched", "where"]

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
# A kernel without a root file system panics and, by panic=-1, resets the machine: that ends the boot.
LIMITS = Limits(first_byte_s=60, silence_s=20, total_s=90)

# Machine code in place of a function's first instructions.
HALT = b"\xfa\xf4\xeb\xfd"  # cli; again: hlt; jmp again
SPIN = b"\xfa\xeb\xfe"  # cli; jmp $
UD2 = b"\x0f\x0b"
NO_STACK = b"\x31\xe4\x0f\x0b"  # xor esp, esp; ud2: no exception can be delivered


def image(name: str) -> KernelImage:
    """The kernel from the cache, or fetched now."""
    return build_kernel(ROOT, name)


def machine(name: str = "skylake-server", *, memory_bytes: int = 512 * MIB, hypervisor: bool = False) -> Machine:
    """A machine of the inventory with less memory, and with or without the hypervisor bit."""
    found = load_inventory(ROOT)[name]
    assert found.virtual is not None
    properties = (*found.virtual.properties, *(() if hypervisor else ("hypervisor=off",)))
    return replace(found, memory_bytes=memory_bytes, virtual=replace(found.virtual, properties=properties))


def unpatched(kernel: KernelImage, on: Machine, command_line: str, initrd: bytes, *, entry: str = "") -> Unpatched:
    """What a boot of `kernel` on `on` is judged by."""
    return describe_boot(kernel, on, command_line, initrd, handler_of(kernel.release), entry=entry)


def boot_kernel(
    folder: Path, kernel: Path, on: Machine, command_line: str, *, initrd: bytes = b"", limits: Limits = LIMITS,
    more_meta: Mapping[str, object] = MappingProxyType({}),
) -> tuple[Capture, bytes]:  # fmt: skip
    """The capture of one boot, and QEMU's log of exceptions."""
    meta = {"nonce": "1", "image": kernel.name, "virtual": True, **more_meta}
    boot(on, Load(kernel, initrd, command_line), folder, meta=meta, limits=limits, witness=True)
    (capture,) = read_captures(folder)
    return capture, (folder / "exceptions.log").read_bytes()


def addresses(kernel: KernelImage) -> dict[str, int]:
    """Symbol → link-time address."""
    lines = (kernel.folder / "System.map").read_text(encoding="latin-1").splitlines()
    return {name: int(address, 16) for address, _, name in (line.split() for line in lines)}


def where(kernel: KernelImage) -> Callable[[int], str | None]:
    """A function from an address to the name of the function that it lies in."""
    known = sorted((address, name) for name, address in addresses(kernel).items() if address >> 31)

    def name(address: int) -> str | None:
        at = bisect.bisect(known, (address, "\x7f")) - 1
        return known[at][1] if at >= 0 else None

    return name


def patched(kernel: KernelImage, function: str, code: bytes, to: Path) -> Path:
    """Its vmlinux with `code` at the begin of `function`. QEMU's -kernel enters it by its PVH note."""
    elf = bytearray(kernel.vmlinux.read_bytes())
    at = addresses(kernel)[function]
    headers_at, size, count = *struct.unpack_from("<Q", elf, 0x20), *struct.unpack_from("<HH", elf, 0x36)
    for number in range(count):
        kind, _, offset, va, _, file_bytes = struct.unpack_from("<IIQQQQ", elf, headers_at + number * size)
        if kind == 1 and va <= at < va + file_bytes:
            elf[offset + at - va : offset + at - va + len(code)] = code
            to.write_bytes(elf)
            return to
    raise AssertionError(f"{function} is not in the file")
