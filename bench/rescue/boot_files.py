"""What boot loaders' configurations name, and whether a kernel or an initrd is what it has to be. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench.errors import BenchError
from bench.images.bzimage import BootHeader, read_boot_header

_ENTRY = re.compile(r"""menuentry\s+(?:'([^']*)'|"([^"]*)"|(\S+))""")
_FILES = re.compile(r"(linux|linux16|linuxefi|initrd|initrd16|initrdefi)\s+(.+)")
_VALUE = re.compile(r"([A-Za-z_]+)=(.*)")
# How archives and compressed ones begin (Documentation/admin-guide/initrd.rst; lib/decompress.c of Linux 6.1).
_ARCHIVES = (
    "303730373031",
    "303730373032",
    "1f8b",
    "28b52ffd",
    "fd377a585a00",
    "02214c18",
    "5d0000",
    "425a68",
    "894c5a",
)
# How what is packed in a kernel begins → what tells whether it is whole, and the bytes behind it that are not its own
# (size_append in scripts/Makefile.lib of Linux 6.1). Busybox' shell prefers its own xz, hence the path. LZ4's old form
# has no sum: a flipped bit unpacks like any other.
UNPACKERS = {
    "1f8b": ("gzip -t", 0),
    "fd377a585a00": ("/usr/bin/xz -t", 4),
    "28b52ffd": ("zstd -tq", 4),
}


@dataclass(frozen=True)
class Entry:
    """An entry of a boot loader."""

    title: str
    kernel: str
    """Its path, from the root of its file system."""
    initrds: tuple[str, ...]


def grub_entries(config: str) -> tuple[Entry, ...]:
    """The entries of a grub.cfg that start a kernel of Linux."""
    found: list[Entry] = []
    title, kernel = "", ""
    for line in config.splitlines():
        if match := _ENTRY.match(line):
            title, kernel = next((text for text in match.groups() if text), ""), ""
        elif match := _FILES.match(line):
            words = [word for word in match[2].split() if word.startswith("/")]
            if match[1].startswith("linux") and words:
                kernel = words[0]
                found.append(Entry(title, kernel, ()))
            elif kernel and found:
                found[-1] = Entry(title, kernel, tuple(words))
    return tuple(found)


def loader_entry(text: str) -> Entry | None:
    """The entry of a file of systemd-boot's; None if it starts no kernel of Linux (Boot Loader Specification)."""
    pairs = [line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2]
    values = dict(pairs)
    initrds = tuple(value.strip() for key, value in pairs if key == "initrd")
    return Entry(values.get("title", ""), values["linux"].strip(), initrds) if "linux" in values else None


def environment(block: str) -> dict[str, str]:
    """The variables of a grubenv."""
    return {match[1]: match[2] for line in block.splitlines() if (match := _VALUE.fullmatch(line))}


def kernel_trouble(begin: bytes, size: int) -> tuple[str, BootHeader | None]:
    """What is wrong with a kernel, by its first 616 bytes and its size in bytes; empty and its header: nothing yet."""
    try:
        header = read_boot_header(begin, "")
    except BenchError as error:
        return str(error), None
    needed = header.setup_bytes + header.payload_offset + header.payload_bytes
    if size < needed:
        return f"cut: {size} bytes, and what is packed in it ends at {needed}", None
    return "", header


def initrd_trouble(begin: str, size: int) -> str:
    """What is wrong with an initrd, by its first bytes in hexadecimal digits; empty: nothing that they show."""
    if not size:
        return "empty"
    return "" if begin.startswith(_ARCHIVES) else f"neither an archive nor compressed: it begins with {begin[:16]}"


def sections(said: dict[str, str], kind: str) -> Iterator[tuple[str, str]]:
    """The rest of the name, and the text, of each part of an answer whose name begins with `kind`."""
    for name, text in said.items():
        if name.startswith(f"{kind} "):
            yield name.removeprefix(f"{kind} "), text
