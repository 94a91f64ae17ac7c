"""Boots for the simulator's tests: an image of 1 MiB with its tables, at a place, on a processor."""

from __future__ import annotations

from bench.records import BootFacts
from bench.sim.early_pgtable import EarlyPageTables, Layout
from bench.sim.variants import ROWS, Variant

LINK = 16 << 20
IMAGE_BYTES = 1 << 20
TOP = 0x10000
DYNAMIC = 0x20000
KERNEL = 0x8000
FINAL = 0x90000


def layout(place: int = LINK, image_bytes: int = IMAGE_BYTES) -> Layout:
    return Layout(
        phys_text=place,
        phys_end=place + image_bytes,
        phys_top=place + TOP,
        phys_dynamic=place + DYNAMIC,
        phys_kernel=place + KERNEL,
        phys_base=(place - LINK) % 2**64,
    )


def tables(
    variant: Variant | str, pool: int = 64, *, place: int = LINK, image_bytes: int = IMAGE_BYTES, nx: bool = True
) -> EarlyPageTables:
    """Tables as zeroed memory has them, before the trampoline."""
    row = ROWS[variant] if isinstance(variant, str) else variant
    return EarlyPageTables(row, pool, layout(place, image_bytes), page_offset=row.page_offset, nx=nx)


def facts(
    variant: str,
    pool: int = 64,
    *,
    place: int = LINK,
    maxphyaddr: int = 46,
    nx: bool = True,
    mend: int = 0,
    cr2: int = 0,
    image_bytes: int = IMAGE_BYTES,
) -> BootFacts:
    """What `begin` says of a window of the row `variant`."""
    row = ROWS[variant]
    at = layout(place, image_bytes)
    return BootFacts(
        window=0,
        variant=row.wire_name,
        mend=mend,
        pool=pool,
        levels=row.levels,
        signature=0x906EA,
        nx=nx,
        la57=row.levels == 5,
        maxphyaddr=maxphyaddr,
        hypervisor=0,
        efer=0xD01 if nx else 0x501,
        cr2=cr2,
        cr3=at.phys_top,
        cr4=0x10A0 if row.levels == 5 else 0xA0,
        phys_base=at.phys_base,
        page_offset=row.page_offset,
        phys_text=at.phys_text,
        phys_end=at.phys_end,
        phys_top=at.phys_top,
        phys_dynamic=at.phys_dynamic,
        phys_kernel=at.phys_kernel,
    )
