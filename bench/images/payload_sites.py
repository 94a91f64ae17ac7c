"""Where the payload reads and writes model-specific registers, once a PC's firmware has loaded it.

A site is any place whose bytes are those of RDMSR or WRMSR; bytes that are data, or in the middle of an instruction, do
no harm: no processor ever stops there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.images.payload import WINDOW_NAME, PayloadImage
from bench.records import MsrSite

_LOADED_AT = 1 << 20
_LINKED_AT = 0xFFFFFFFF81000000
_SECTOR_BYTES = 512
_SETUP_SECTS = 0x1F1
_INSTRUCTIONS = {b"\x0f\x32": False, b"\x0f\x30": True}


def payload_sites(payload: PayloadImage) -> tuple[MsrSite, ...]:
    """The sites of supervisor and window; they are where they are for every loader that goes by the boot protocol."""
    whole = payload.kernel.read_bytes()
    supervisor = whole[(whole[_SETUP_SECTS] + 1) * _SECTOR_BYTES :]
    window = payload.kernel.with_name(WINDOW_NAME).read_bytes()
    return (*_sites(supervisor, _LOADED_AT), *_sites(window, _LINKED_AT))


def _sites(code: bytes, start: int) -> Iterator[MsrSite]:
    for match in re.finditer(rb"\x0f[\x30\x32]", code):
        yield MsrSite(start + match.start(), _INSTRUCTIONS[match[0]], match[0])
