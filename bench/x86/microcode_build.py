"""Put together what `bench.x86.microcode` reads: updates with made-up data, for tests and for virtual processors.

No processor takes such an update, for its data is not signed.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.x86.microcode import (
    HEADER,
    HEADER_BYTES,
    HEADER_VERSION,
    LOADER_REVISION,
    OFFSET_OF,
    TABLE_HEAD,
    TABLE_ROW,
    dword_sum,
)


def build_update(
    *,
    signature: int,
    platform_flags: int,
    revision: int,
    date: int,
    data: bytes,
    extended: Sequence[tuple[int, int]] = (),
    minimum_revision: int = 0,
    metadata_size: int = 0,
) -> bytes:
    """An update with right checksums; `date` in BCD digits MMDDYYYY, `extended` as signatures and platform flags."""
    table_bytes = TABLE_HEAD.size + TABLE_ROW.size * len(extended) if extended else 0
    total = HEADER_BYTES + len(data) + table_bytes
    fields = [
        HEADER_VERSION, revision, date, signature, 0, LOADER_REVISION, platform_flags, len(data), total,
        metadata_size, minimum_revision, 0,
    ]  # fmt: skip
    fields[OFFSET_OF["checksum"] // 4] = (
        -dword_sum(HEADER.pack(*fields) + data, 0, HEADER_BYTES + len(data)) & 0xFFFFFFFF
    )
    checksum = fields[OFFSET_OF["checksum"] // 4]
    return HEADER.pack(*fields) + data + (_table(signature + platform_flags + checksum, extended) if extended else b"")


def _table(own_sum: int, extended: Sequence[tuple[int, int]]) -> bytes:
    rows = b"".join(TABLE_ROW.pack(s, f, (own_sum - s - f) & 0xFFFFFFFF) for s, f in extended)
    head = TABLE_HEAD.pack(len(extended), 0, 0, 0, 0)
    checksum = -dword_sum(head + rows, 0, len(head + rows)) & 0xFFFFFFFF
    return TABLE_HEAD.pack(len(extended), checksum, 0, 0, 0) + rows


def set_word(update: bytes, field: str, value: int, *, fix_checksum: bool = True) -> bytes:
    """`update` with another value in a header field; with `fix_checksum` its checksum is made right again, and the
    checksums of extended signatures are left."""
    changed = bytearray(update)
    changed[OFFSET_OF[field] : OFFSET_OF[field] + 4] = value.to_bytes(4, "little")
    if fix_checksum:
        size = min(int.from_bytes(changed[28:32], "little") or 2000, len(changed) - HEADER_BYTES) + HEADER_BYTES
        at = OFFSET_OF["checksum"]
        changed[at : at + 4] = bytes(4)
        changed[at : at + 4] = (-dword_sum(bytes(changed), 0, size) & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(changed)
