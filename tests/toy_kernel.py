"""A kernel's files made by hand, not by the bench's own readers: bzImage, kallsyms, Debian package."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

TEXT = 0xFFFFFFFF81000000
SETUP_SECTORS = 8


def elf(body: bytes = b"", *, bits: int = 64, machine: int = 62) -> bytes:
    """The begin of an ELF file (enough to tell what it is for), then `body`."""
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    return ident + struct.pack("<HHI", 2, machine, 1) + bytes(40) + body


def gzipped(kernel: bytes) -> bytes:
    """As Linux packs it: gzip's last field is the size."""
    return gzip.compress(kernel, mtime=0)


def bzimage(
    kernel: bytes, *, pack: Callable[[bytes], bytes] = gzipped, protocol: int = 0x20F, xloadflags: int = 0x7F,
    version: str = "6.1.0-9-amd64 (debian@example.org) #1 SMP Debian 6.1.99-1 (2026-01-01)",
    boot_params: int | None = 0x4790,
) -> bytes:  # fmt: skip
    """A bzImage by Documentation/arch/x86/boot.rst that holds `kernel`. Nothing in it can run."""
    setup = bytearray(512 * (SETUP_SECTORS + 1))
    payload_offset = 0x2CC
    packed = pack(kernel)
    setup[0x1F1] = SETUP_SECTORS
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x600 - 0x200)
    struct.pack_into("<I", setup, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<I", setup, 0x230, 0x200000)
    setup[0x234] = 1
    struct.pack_into("<H", setup, 0x236, xloadflags)
    struct.pack_into("<II", setup, 0x248, payload_offset, len(packed))
    struct.pack_into("<QI", setup, 0x258, 0x1000000, 0x2000000)
    setup[0x600 : 0x600 + len(version) + 1] = version.encode() + b"\0"
    if boot_params is not None:
        # mov eax, 0x20; mov edx, boot_params.hdr; mov esi, 0x1f1; mov ecx, 0x7b; mov edi, edx; rep movsb
        code = b"\x66\xb8\x20\x00\x00\x00\x66\xba" + struct.pack("<I", boot_params + 0x1F1)
        code += b"\x66\xbe\xf1\x01\x00\x00\x66\xb9\x7b\x00\x00\x00\x66\x89\xd7\xf3\xa4"
        setup[0x900 : 0x900 + len(code)] = code
    return bytes(setup) + bytes(payload_offset) + packed + bytes(64)


Symbols = Sequence[tuple[int, str, str]]
"""Address, nm's letter, name; by address."""


def kallsyms(symbols: Symbols, *, new_order: bool, sequences: bool = True, per_cpu: bool = True) -> bytes:
    """The tables of scripts/kallsyms.c, each aligned to 8, after 24 bytes of something else.

    Tokens 1 to 31 stand for pairs of letters, the others for themselves or nothing.
    """
    pairs = ["_i", "in", "er", "st", "co", "de", "re", "le", "__", "al"]
    tokens = [pairs[n - 1] if 1 <= n <= len(pairs) else chr(n) if 33 <= n < 127 else "" for n in range(256)]
    code = {token: number for number, token in enumerate(tokens) if token}
    names, markers = b"", []
    for number, (_, letter, name) in enumerate(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        text, packed = letter + name, b""
        while text:
            take = 2 if text[:2] in code else 1
            packed, text = packed + bytes([code[text[:take]]]), text[take:]
        size = len(packed)
        names += (bytes([size]) if size < 0x80 else bytes([0x80 | size & 0x7F, size >> 7])) + packed
    table = b"".join(token.encode() + b"\0" for token in tokens)
    index, at = b"", 0
    for token in tokens:
        index, at = index + struct.pack("<H", at), at + len(token) + 1
    count = len(symbols)
    base = min(address for address, _, _ in symbols if address >> 63)
    offsets = [
        address if not address >> 63 else base - 1 - address if per_cpu else address - base
        for address, _, _ in symbols
    ]  # fmt: skip
    addresses = [struct.pack(f"<{count}i", *offsets), struct.pack("<Q", base)]
    middle = [struct.pack("<I", count), names, struct.pack(f"<{len(markers)}I", *markers)]
    seqs = [bytes(range(1, 4)) * count] if sequences else []
    tail = [table, index]
    parts = [*middle, *tail, *addresses, *seqs] if new_order else [*addresses, *middle, *seqs, *tail]
    whole = b"\x11" * 24
    for part in parts:
        whole += part + bytes(-len(part) % 8)
    return whole + b"\x22" * 64


def many_symbols(count: int = 700) -> list[tuple[int, str, str]]:
    """What the model needs, some per-cpu offsets, and names enough for three markers."""
    needed = (
        "_text", "copy_bootdata", "do_early_exception", "level3_kernel_pgt", "level2_fixmap_pgt", "early_top_pgt",
        "early_dynamic_pgts", "idt_table", "__brk_base", "_end",
    )  # fmt: skip
    found = [(0, "D", "__per_cpu_start"), (0x1000, "D", "cpu_debug_store")]
    found += [(TEXT + n * 0x1000, "T", name) for n, name in enumerate(needed)]
    found += [(TEXT + (20 + n) * 0x1000, "t", f"function_{n:04}_{'x' * (n % 150)}") for n in range(count - len(found))]
    return found


def deb(
    path: Path,
    files: dict[str, bytes],
    *,
    architecture: str = "amd64",
    package: str = "linux-image-toy",
    version: str = "6.1.99-1",
) -> Path:
    """A Debian package (deb(5)) that has `files`."""

    def tar(content: dict[str, bytes]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:xz") as archive:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return out.getvalue()

    control = f"Package: {package}\nVersion: {version}\nArchitecture: {architecture}\n".encode()
    whole = b"!<arch>\n"
    for name, data in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", tar({"./control": control})),
        ("data.tar.xz", tar(files)),
    ):
        whole += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) & 1)
    path.write_bytes(whole)
    return path
