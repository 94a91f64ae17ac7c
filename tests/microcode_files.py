"""Well-formed microcode updates with made-up data, and ways to spoil them. No byte of them is Intel's."""

from __future__ import annotations

import random
from collections.abc import Sequence

from bench.x86.microcode_build import build_update

SIGNATURE = 0x000906EA


def update(
    *,
    signature: int = SIGNATURE,
    platform_flags: int = 0x22,
    revision: int = 0x10,
    date: int = 0x03062023,
    total_size: int = 2048,
    extended: Sequence[tuple[int, int]] = (),
    minimum_revision: int = 0,
    seed: int = 1,
) -> bytes:
    """An update of `total_size` bytes, its data of which only `seed` decides."""
    table = 20 + 12 * len(extended) if extended else 0
    return build_update(
        signature=signature,
        platform_flags=platform_flags,
        revision=revision,
        date=date,
        data=random.Random(seed).randbytes(total_size - 48 - table),
        extended=extended,
        minimum_revision=minimum_revision,
    )
